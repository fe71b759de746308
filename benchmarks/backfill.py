"""Send a backfill of a million images: `python -m benchmarks.backfill [--images N]`.

No emulator stores a million objects in reasonable time. This process therefore answers the HTTP requests for
S3, DynamoDB and SQS itself: real clients write and read real requests, and only the network is missing. The
run stops early and resumes, as after Ctrl-C. It prints messages a second and the memory of the process.
"""

import argparse
import hashlib
import io
import json
import resource
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders

from cytomask.backfill import batched, list_bucket, send, unfinished
from cytomask.infra.session import CREDENTIALS, REGION
from cytomask.served_model import read_served_models

BUCKET, TABLE, QUEUE = "lab", "jobs", f"https://sqs.{REGION}.amazonaws.com/000000000000/segment"
PAGE = 1000  # keys that S3 lists in one answer
MEGABYTE = 1024


class Wire:
    """Answers a backfill's AWS calls: a bucket of `images` objects, one in sixteen with a finished job."""

    def __init__(self, images: int) -> None:
        self.images = images
        self.messages = 0

    def session(self) -> boto3.Session:
        """Make a session whose requests this object answers."""
        made = boto3.Session(
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region_name=REGION,
        )
        register: Any = made.events.register  # typed as if handlers returned nothing
        register("before-send.s3.GetBucketVersioning", self._versioning)
        register("before-send.s3.ListObjectsV2", self._list)
        register("before-send.dynamodb.BatchGetItem", self._read)
        register("before-send.sqs.SendMessageBatch", self._send)
        return made

    def _versioning(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        return _answer(request, b"<VersioningConfiguration/>")

    def _list(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        asked = parse_qs(urlsplit(request.url).query)
        token, after = asked.get("continuation-token"), asked.get("start-after", [""])[0]
        first = (
            int(token[0]) if token else (int(after.rpartition("/")[2].partition(".")[0]) + 1 if after else 0)
        )
        last = min(first + PAGE, self.images)
        going_on = f"<NextContinuationToken>{last}</NextContinuationToken>" if last < self.images else ""
        keys = "".join(
            f"<Contents><Key>scans/{number:08d}.tif</Key><LastModified>2026-11-25T10:00:00.000Z</LastModified>"
            f'<ETag>"{number:032x}"</ETag><Size>366080</Size><StorageClass>STANDARD</StorageClass></Contents>'
            for number in range(first, last)
        )
        truncated = "true" if going_on else "false"
        body = f"<ListBucketResult><IsTruncated>{truncated}</IsTruncated>{going_on}{keys}</ListBucketResult>"
        return _answer(request, body.encode())

    def _read(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        keys = _json(request)["RequestItems"][TABLE]["Keys"]
        rows = [key | {"status": {"S": "SUCCEEDED"}} for key in keys if key["job_id"]["S"][0] == "0"]
        return _answer(request, json.dumps({"Responses": {TABLE: rows}, "UnprocessedKeys": {}}).encode())

    def _send(self, request: AWSPreparedRequest, **_: object) -> AWSResponse:
        entries = _json(request)["Entries"]
        self.messages += len(entries)
        digests = [hashlib.md5(each["MessageBody"].encode(), usedforsecurity=False) for each in entries]
        sent = [
            {"Id": each["Id"], "MessageId": each["Id"], "MD5OfMessageBody": digest.hexdigest()}
            for each, digest in zip(entries, digests, strict=True)
        ]
        return _answer(request, json.dumps({"Successful": sent, "Failed": []}).encode())


class _Body(io.BytesIO):
    def stream(self, **_: object) -> Iterator[bytes]:
        yield self.read()


def _json(request: AWSPreparedRequest) -> Any:
    body: Any = request.body
    return json.loads(body)


def _answer(request: AWSPreparedRequest, body: bytes) -> AWSResponse:
    return AWSResponse(request.url, 200, HTTPHeaders(), _Body(body))


def run(wire: Wire, after: str, most: int | None) -> str:
    """Send images after a key that have no mask, up to a limit; return the last key sent."""
    session = wire.session()
    images = list_bucket(session.client("s3"), BUCKET, "scans/", after)
    models = read_served_models()
    found = unfinished(session.client("dynamodb"), TABLE, images, lambda _: models)
    sqs, last = session.client("sqs"), after
    for group in batched((image for image, lacks in islice(found, most) if lacks), 10):
        send(sqs, QUEUE, group)
        last = group[-1].object.key
    return last


def memory_mb() -> float:
    """Return this process's peak memory, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE


def main() -> None:
    """Run the backfill in two parts and print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    given = parser.parse_args()
    wire, began = Wire(given.images), time.perf_counter()
    stopped = run(wire, "", given.images // 100)
    early = memory_mb()
    run(wire, stopped, None)
    seconds = time.perf_counter() - began
    rate = wire.messages / seconds
    print(f"{given.images:,} keys, {wire.messages:,} messages in {seconds:.0f} s: {rate:,.0f} a second")
    print(f"memory: {early:.0f} MB after one key in a hundred, {memory_mb():.0f} MB at the end")


if __name__ == "__main__":
    main()
