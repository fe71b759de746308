"""Find the images of a bucket that lack a mask by the current model, and make their messages.

A listing of any length is read page by page. A message sent twice costs almost nothing, because
the job row of a finished image answers it.
"""

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from cytomask.addresses import S3Object
from cytomask.errors import ImageLocked, InvalidRequest
from cytomask.output_names import image_of_output
from cytomask.requests import SegmentRequest, message_of
from cytomask.served_model import ServedModels, work_of
from cytomask.truths import names

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

MESSAGE_GROUP = "backfill"  # one tenant of SQS's fair queues, so that fresh uploads come first
SENT_AT_ONCE = 10  # messages that SQS takes in one call
READ_AT_ONCE = 100  # rows that DynamoDB returns in one call
FINISHED = {"SUCCEEDED", "REJECTED"}
ARCHIVED = {"GLACIER", "DEEP_ARCHIVE"}  # storage classes whose objects must be restored before they are read


class NotSent(Exception):
    """SQS took some messages of a batch and refused others."""


@dataclass(frozen=True)
class Listed:
    """An object as listed.

    Attributes:
        size: in bytes.
        archived: whether it must be restored before it is read. An inventory does not tell what was restored.
    """

    object: S3Object
    size: int
    archived: bool = False


@dataclass(frozen=True)
class Wanted:
    """Which listed objects to take.

    Attributes:
        match: a shell pattern for the whole key; None takes all.
        since: the earliest time of upload.
    """

    match: str | None = None
    since: datetime | None = None

    def takes(self, listed: Listed) -> bool:
        """Tell whether a listed object is wanted and, by its name and size, an image."""
        key = listed.object.key
        if not (listed.size and is_image(key)):
            return False
        if self.match is not None and not fnmatchcase(key, self.match):
            return False
        uploaded = listed.object.uploaded_at
        return self.since is None or uploaded is None or datetime.fromisoformat(uploaded) >= self.since


def is_image(key: str) -> bool:
    """Tell by its name whether an object is an image that neither cytomask nor macOS wrote beside another."""
    name = key.rpartition("/")[2]
    return (
        names.is_image(name, names.IMAGE_SUFFIXES)
        and not name.startswith(names.APPLE_DOUBLE)
        and image_of_output(name) is None
    )


def list_bucket(s3: "S3Client", bucket: str, prefix: str = "", after: str = "") -> Iterator[Listed]:
    """Yield the newest version of every object under a prefix, in the order of their keys.

    Args:
        s3: client of S3.
        bucket: bucket to list.
        prefix: prefix of the keys; empty lists all.
        after: list only keys after this one.

    Raises:
        ClientError: we may not list the bucket.
    """
    asked: dict[str, Any] = {
        "Bucket": bucket,
        "Prefix": prefix,
        "OptionalObjectAttributes": ["RestoreStatus"],
    }
    if not keeps_versions(s3, bucket):
        for page in s3.get_paginator("list_objects_v2").paginate(**asked, StartAfter=after):
            for each in page.get("Contents", []):
                yield _listed(bucket, each, None)
        return
    start: dict[str, Any] = {"KeyMarker": after} if after else {}
    for versions in s3.get_paginator("list_object_versions").paginate(**asked, **start):
        for version in versions.get("Versions", []):
            if version["IsLatest"] and version["Key"] > after:
                yield _listed(bucket, version, version["VersionId"])


def _listed(bucket: str, each: Any, version: str | None) -> Listed:
    found = S3Object(
        bucket,
        each["Key"],
        _real(version),
        each["ETag"].strip('"'),
        each["LastModified"].replace(microsecond=0).isoformat(),  # in the form that HEAD returns
    )
    archived = each.get("StorageClass") in ARCHIVED and not _is_restored(each.get("RestoreStatus", {}))
    return Listed(found, each["Size"], archived)


def _real(version: str | None) -> str | None:
    """Return a version's id; None for `null`, the version of an object uploaded while none were kept."""
    return None if version == "null" else version


def _is_restored(status: Mapping[str, Any]) -> bool:
    """Tell whether a copy can be read (docs.aws.amazon.com/AmazonS3/latest/API/API_RestoreStatus.html)."""
    return "RestoreExpiryDate" in status and not status.get("IsRestoreInProgress")


def keeps_versions(s3: "S3Client", bucket: str) -> bool:
    """Tell whether objects of a bucket may have version ids, also if it has stopped keeping versions."""
    return s3.get_bucket_versioning(Bucket=bucket).get("Status") is not None


def read_inventory(
    read: Callable[[str], bytes], manifest: bytes, bucket: str, *, versions: bool = False
) -> Iterator[Listed]:
    """Yield the objects of an S3 Inventory in CSV, file after file.

    docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html

    Args:
        read: returns the bytes of a key of the inventory's own bucket.
        manifest: the bytes of its manifest.json.
        bucket: the bucket that the inventory must describe.
        versions: whether objects may have version ids. A job's id contains them, so the inventory must too.

    Raises:
        InvalidRequest: it is not a manifest, describes another bucket or format, or lacks a column; or one of
            its files is damaged.
    """
    try:
        told = json.loads(manifest)
        source, kind = told["sourceBucket"], told["fileFormat"]
        files = [file["key"] for file in told["files"]]
        columns = [name.strip() for name in told["fileSchema"].split(",")]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest(
            "this is not the manifest.json of an S3 Inventory; give the one beside its checksum"
        ) from error
    if source != bucket:
        raise InvalidRequest(f"the inventory lists s3://{source}, not s3://{bucket}; name that bucket")
    if kind != "CSV":
        raise InvalidRequest(f"the inventory is in {kind}; configure it to write CSV")
    if missing := {"Bucket", "Key", "ETag", "LastModifiedDate", "Size"} - set(columns):
        raise InvalidRequest(f"the inventory lacks {', '.join(sorted(missing))}; add these fields to it")
    if versions and "VersionId" not in columns:
        raise InvalidRequest(
            f"s3://{bucket} keeps versions, and the inventory names none, so it does not tell which images "
            "have a mask; configure it to include all versions, or run without it"
        )
    for file in files:
        content = read(file)
        try:
            yield from _read_inventory_file(content, columns, bucket)
        except (OSError, EOFError, zlib.error, csv.Error, ValueError) as error:
            raise InvalidRequest(
                f"{file} of the inventory is damaged: {error}; wait for the next inventory, or run without it"
            ) from error


def _read_inventory_file(content: bytes, columns: Sequence[str], bucket: str) -> Iterator[Listed]:
    """Yield the newest versions in a file; a damaged one raises an error of gzip, csv or of a value."""
    for values in csv.reader(
        io.TextIOWrapper(gzip.GzipFile(fileobj=io.BytesIO(content)), "utf-8", newline="")
    ):
        if len(values) != len(columns):
            raise ValueError(f"a row has {len(values)} fields instead of {len(columns)}: {values}"[:300])
        row = dict(zip(columns, values, strict=True))
        if row.get("IsLatest", "true") != "true" or row.get("IsDeleteMarker", "false") == "true":
            continue
        uploaded = datetime.fromisoformat(row["LastModifiedDate"]).replace(microsecond=0).isoformat()
        key, version = unquote_plus(row["Key"]), _real(row.get("VersionId") or None)
        found = S3Object(bucket, key, version, row["ETag"].strip('"'), uploaded)
        yield Listed(found, int(row["Size"]), row.get("StorageClass") in ARCHIVED)


def unfinished(
    dynamodb: "DynamoDBClient",
    table: str,
    images: Iterable[Listed],
    models_of: Callable[[SegmentRequest], ServedModels],
) -> Iterator[tuple[Listed, bool]]:
    """Yield each image, and whether it still lacks a mask by its model and the default parameters.

    Args:
        dynamodb: client of DynamoDB.
        table: name of the Jobs table.
        images: images to look up.
        models_of: returns the models that would segment an image: its plate's or the current ones.
    """
    for group in batched(images, READ_AT_ONCE):
        requests = [SegmentRequest(image.object) for image in group]
        job_ids = [work_of(request, models_of(request)).job_id for request in requests]
        done = _finished(dynamodb, table, set(job_ids))
        for image, job_id in zip(group, job_ids, strict=True):
            yield image, job_id not in done


def _finished(dynamodb: "DynamoDBClient", table: str, job_ids: Set[str]) -> set[str]:
    """Return the ids among these whose job has ended for good; a locked image may be readable by now."""
    asked: Any = {
        table: {
            "Keys": [{"job_id": {"S": job_id}, "record": {"S": "JOB"}} for job_id in sorted(job_ids)],
            "ProjectionExpression": "job_id, #status, error_code",
            "ExpressionAttributeNames": {"#status": "status"},
        }
    }
    found: set[str] = set()
    while asked:  # DynamoDB returns the keys that it had no capacity to read
        answer = dynamodb.batch_get_item(RequestItems=asked)
        rows = answer["Responses"].get(table, [])
        found |= {
            row["job_id"]["S"]
            for row in rows
            if row.get("status", {}).get("S") in FINISHED
            and row.get("error_code", {}).get("S") != ImageLocked.code
        }
        asked = answer.get("UnprocessedKeys")
    return found


def send(sqs: "SQSClient", queue_url: str, images: Sequence[Listed]) -> None:
    """Send one message for each of at most ten images, all of the backfill's group.

    Raises:
        ClientError: SQS refused the call.
        NotSent: SQS refused single messages; all the others were sent.
    """
    entries: Any = [
        {
            "Id": str(place),
            # Without a version: the image that is newest when the message is read gets its mask.
            "MessageBody": message_of(SegmentRequest(replace(image.object, version_id=None))),
            "MessageGroupId": MESSAGE_GROUP,
        }
        for place, image in enumerate(images)
    ]
    answer = sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)
    if failed := answer.get("Failed"):
        names = ", ".join(images[int(each["Id"])].object.uri for each in failed)
        raise NotSent(f"SQS did not take {names}: {failed[0].get('Message', failed[0]['Code'])}")


def batched(items: Iterable[Listed], size: int) -> Iterator[list[Listed]]:
    """Yield lists of at most `size` items."""
    left = iter(items)
    while group := list(itertools.islice(left, size)):
        yield group
