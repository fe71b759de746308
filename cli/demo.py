"""`cytomask demo`: the whole way of an image through the emulated stack, shown step by step."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from boto3.dynamodb.types import TypeDeserializer

from cytomask import images, metrics
from infra.emulator import EmulatedStack, emulated_stack
from infra.samples import write_samples

TIMEOUT_SECONDS = 120
POLL_SECONDS = 0.3
LAMBDAS_OWN_FIELDS = ("function_", "location", "service", "cold_start")


@dataclass(frozen=True)
class Upload:
    """An image on disk, the key it gets, and its ground truth where one is known."""

    path: Path
    key: str
    ground_truth: Path | None


def run_demo(arguments: argparse.Namespace) -> int:
    """Uploads, sends and invokes, then shows what became of each; 1 if any did not end as it should."""
    out: Path = arguments.out
    missing = [str(path) for path in arguments.images if not path.is_file()]
    if missing:
        print(f"no such file: {', '.join(missing)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="cytomask-") as folder:
        uploads = choose_uploads(arguments.images, Path(folder) / "samples")
        print("starting the emulated stack from template.yaml ...", flush=True)
        with emulated_stack(Path(folder)) as stack:
            print(f"stack `cytomask` at {stack.endpoint}")
            return show(stack, uploads, out)


def show(stack: EmulatedStack, uploads: Sequence[Upload], out: Path) -> int:
    """Sends everything in, waits for all of it, prints and stores what came out."""
    bucket = stack.outputs["InputBucketName"]
    s3, sqs = stack.client("s3"), stack.client("sqs")
    for upload in uploads:
        print(f"upload   s3://{bucket}/{upload.key}")
        s3.upload_file(str(upload.path), bucket, upload.key)
    first = f"s3://{bucket}/{uploads[0].key}"
    messages = [
        {"image": first, "threshold": 0.35, "outputs": ["mask", "overlay"], "group": "low threshold"},
        {"image": first, "treshold": 0.35},
    ]
    for message in messages:
        body = json.dumps(message, ensure_ascii=False)
        print(f"message  {body}")
        sqs.send_message(QueueUrl=stack.outputs["SegmentQueueUrl"], MessageBody=body)
    direct = {"image": first, "mode": "resize"}
    print(f"invoke   {json.dumps(direct, ensure_ascii=False)}", flush=True)
    results = invoke(stack, direct)

    rows = wait_for_jobs(stack, len(uploads) + len(messages) + len(results))
    print_jobs(rows)
    refused = [row for row in rows if row["status"] == "REJECTED"]
    for row in refused:
        print(f"\nwhy {row['job_id'][:8]} was rejected: {row['error_code']}: {row['error']}")
    print("\nmasks:")
    for line in store_masks(stack, rows, uploads, out):
        print(f"  {line}")
    print_log(stack)
    finished = [row for row in rows if row["status"] == "SUCCEEDED"]
    expected = len(uploads) + 2
    if (len(finished), len(refused)) != (expected, 1):
        print(f"expected {expected} masks and 1 rejection; the log is {stack.log}", file=sys.stderr)
        return 1
    return 0


def choose_uploads(paths: Sequence[Path], folder: Path) -> list[Upload]:
    """The user's images under their own names, or generated samples with their ground truths."""
    if paths:
        return [Upload(path, path.name, None) for path in paths]
    return [Upload(sample.image, sample.key, sample.ground_truth) for sample in write_samples(folder)]


def invoke(stack: EmulatedStack, event: dict[str, Any]) -> list[dict[str, Any]]:
    """Calls the segment function with a direct event, as `aws lambda invoke` does."""
    answer = stack.client("lambda").invoke(
        FunctionName=stack.outputs["SegmentFunctionName"], Payload=json.dumps(event).encode()
    )
    payload: list[dict[str, Any]] = json.loads(answer["Payload"].read())
    return payload


def wait_for_jobs(stack: EmulatedStack, count: int) -> list[dict[str, Any]]:
    """The job rows, oldest first, once `count` of them have ended or the time is up."""
    dynamodb, plain = stack.client("dynamodb"), TypeDeserializer().deserialize
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        items = dynamodb.scan(TableName=stack.outputs["JobsTableName"], ConsistentRead=True)["Items"]
        rows = [{name: plain(value) for name, value in item.items()} for item in items]
        jobs = sorted((row for row in rows if row["record"] == "JOB"), key=lambda row: row["created_at"])
        ended = [job for job in jobs if job["status"] in ("SUCCEEDED", "REJECTED")]
        if len(ended) >= count or time.monotonic() > deadline:
            return jobs
        time.sleep(POLL_SECONDS)


def print_jobs(rows: Iterable[dict[str, Any]]) -> None:
    """A table of jobs."""
    print(f"\n{'job':8}  {'status':9}  {'confluence':>10}  {'ms':>6}  image")
    for row in rows:
        confluence = f"{row['confluence']:.3f}" if "confluence" in row else "-"
        milliseconds = f"{row['milliseconds']:.0f}" if "milliseconds" in row else "-"
        what = row["image"].split("/", 3)[3] if "image" in row else row["message"]
        print(f"{row['job_id'][:8]}  {row['status']:9}  {confluence:>10}  {milliseconds:>6}  {what}")


def store_masks(
    stack: EmulatedStack, rows: Iterable[dict[str, Any]], uploads: Sequence[Upload], out: Path
) -> Iterator[str]:
    """Downloads every mask, draws its overlay; yields a line for each, with the IoU where it is known."""
    sources = {f"s3://{stack.outputs['InputBucketName']}/{upload.key}": upload for upload in uploads}
    s3 = stack.client("s3")
    for row in rows:
        if "mask" not in row:
            continue
        bucket, _, key = row["mask"].removeprefix("s3://").partition("/")
        target = out / key
        target.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, key, str(target))
        upload = sources[row["image"]]
        mask = images.read_page(target).pixels > 0
        page = images.read_page(upload.path)
        overlay = target.with_name(target.name.replace(".mask.png", ".overlay.png"))
        overlay.write_bytes(images.encode_overlay(page.pixels, mask))
        yield f"{target}{_score(mask, upload.ground_truth)}"


def _score(mask: metrics.Mask, ground_truth: Path | None) -> str:
    if ground_truth is None:
        return ""
    cells = images.read_page(ground_truth).pixels > 0
    return f"  IoU {metrics.score(mask, cells).iou:.3f} with the sample's ground truth"


def print_log(stack: EmulatedStack) -> None:
    """The function's structured log lines, as CloudWatch would keep them, without Lambda's own fields."""
    print("\nlog:")
    for line in stack.log.read_text().splitlines():
        if line.startswith("{"):
            fields = json.loads(line)
            kept = {name: value for name, value in fields.items() if not name.startswith(LAMBDAS_OWN_FIELDS)}
            print(f"  {json.dumps(kept, ensure_ascii=False)}")
