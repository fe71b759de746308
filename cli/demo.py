"""`cytomask demo`: the whole way of an image through the emulated stack, shown step by step."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from boto3.dynamodb.types import TypeDeserializer

from cytomask import images
from cytomask.infra.emulator import EmulatedStack, emulated_stack
from cytomask.requests import parse_uri
from cytomask.samples.fields import write_samples

Row = dict[str, Any]

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
    bucket, sqs = stack.outputs["InputBucketName"], stack.client("sqs")
    before, after = uploads[::2], uploads[1::2]
    upload_ground_truths(stack, before)
    for upload in uploads:
        upload_file(stack, upload.path, bucket, upload.key)
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

    jobs = len(uploads) + len(messages) + len(results)
    wait_for(lambda: len(ended_jobs(read_rows(stack))) >= jobs)
    upload_ground_truths(stack, after)
    scores = sum(upload.ground_truth is not None for upload in uploads)
    scores += 2 if uploads[0].ground_truth else 0  # the first image has three masks
    wait_for(lambda: len(scores_by_job(read_rows(stack))) >= scores)
    found = read_rows(stack)
    rows, scored = [row for row in found if row["record"] == "JOB"], scores_by_job(found)
    print_jobs(rows, scored)
    refused = [row for row in rows if row["status"] == "REJECTED"]
    for row in refused:
        print(f"\nwhy {row['job_id'][:8]} was rejected: {row['error_code']}: {row['error']}")
    print("\nmasks:")
    for path in store_masks(stack, rows, uploads, out):
        print(f"  {path}")
    print_log(stack)
    finished = [row for row in rows if row["status"] == "SUCCEEDED"]
    expected = (len(uploads) + 2, 1, scores)
    if (len(finished), len(refused), len(scored)) != expected:
        wanted = "{} masks, {} rejection and {} scores".format(*expected)
        print(f"expected {wanted}; the log is {stack.log}", file=sys.stderr)
        return 1
    return 0


def choose_uploads(paths: Sequence[Path], folder: Path) -> list[Upload]:
    """The user's images under their own names, or generated samples with their ground truths."""
    if paths:
        return [Upload(path, path.name, None) for path in paths]
    return [Upload(sample.image, sample.key, sample.ground_truth) for sample in write_samples(folder)]


def upload_ground_truths(stack: EmulatedStack, uploads: Iterable[Upload]) -> None:
    """Uploads the ground truths that are known, each under its image's key with another ending."""
    bucket = stack.outputs["GroundTruthBucketName"]
    for upload in uploads:
        if upload.ground_truth:
            key = str(PurePosixPath(upload.key).with_suffix(upload.ground_truth.suffix))
            upload_file(stack, upload.ground_truth, bucket, key)


def upload_file(stack: EmulatedStack, path: Path, bucket: str, key: str) -> None:
    """Uploads a file, and says so."""
    print(f"upload   s3://{bucket}/{key}", flush=True)
    stack.client("s3").upload_file(str(path), bucket, key)


def invoke(stack: EmulatedStack, event: dict[str, Any]) -> list[dict[str, Any]]:
    """Calls the segment function with a direct event, as `aws lambda invoke` does."""
    answer = stack.client("lambda").invoke(
        FunctionName=stack.outputs["SegmentFunctionName"], Payload=json.dumps(event).encode()
    )
    payload: list[dict[str, Any]] = json.loads(answer["Payload"].read())
    return payload


def wait_for(done: Callable[[], bool]) -> None:
    """Returns once it is done, or the time is up."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not done() and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def read_rows(stack: EmulatedStack) -> list[Row]:
    """All rows of the Jobs table, oldest first."""
    plain = TypeDeserializer().deserialize
    table = stack.client("dynamodb").scan(TableName=stack.outputs["JobsTableName"], ConsistentRead=True)
    rows = [{name: plain(value) for name, value in item.items()} for item in table["Items"]]
    return sorted(rows, key=lambda row: row["created_at"])


def ended_jobs(rows: Iterable[Row]) -> list[Row]:
    """The jobs that nothing more will happen to."""
    return [row for row in rows if row["record"] == "JOB" and row["status"] in ("SUCCEEDED", "REJECTED")]


def scores_by_job(rows: Iterable[Row]) -> dict[str, Row]:
    """The evaluations that have their scores, by the id of the job."""
    return {row["job_id"]: row for row in rows if row.get("evaluation_status") == "SCORED"}


def print_jobs(rows: Iterable[Row], scored: Mapping[str, Row]) -> None:
    """A table of jobs, with their scores against the ground truths."""
    print(f"\n{'job':8}  {'status':9}  {'confluence':>10}  {'IoU':>5}  {'Dice':>5}  {'ms':>6}  image")
    for row in rows:
        score = scored.get(row["job_id"])
        iou, dice = (f"{score['iou']:.3f}", f"{score['dice']:.3f}") if score else ("-", "-")
        confluence = f"{row['confluence']:.3f}" if "confluence" in row else "-"
        milliseconds = f"{row['milliseconds']:.0f}" if "milliseconds" in row else "-"
        what = row["image"].split("/", 3)[3] if "image" in row else row["message"]
        ratios = f"{confluence:>10}  {iou:>5}  {dice:>5}"
        print(f"{row['job_id'][:8]}  {row['status']:9}  {ratios}  {milliseconds:>6}  {what}")


def store_masks(
    stack: EmulatedStack, rows: Iterable[Row], uploads: Sequence[Upload], out: Path
) -> Iterator[Path]:
    """Downloads every page's mask, draws its overlay; yields the mask's path."""
    sources = {f"s3://{stack.outputs['InputBucketName']}/{upload.key}": upload for upload in uploads}
    s3 = stack.client("s3")
    for row in rows:
        if "mask" not in row:
            continue
        place = parse_uri(row["result"], "result")
        result = json.load(s3.get_object(Bucket=place.bucket, Key=place.key)["Body"])
        for written in result["pages"]:
            place = parse_uri(written["mask"], "mask")
            target = out / place.key
            target.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(place.bucket, place.key, str(target))
            mask = images.read_page(target).pixels > 0
            page = images.read_page(sources[row["image"]].path, written["page"])
            overlay = target.with_name(target.name.replace(".mask.png", ".overlay.png"))
            overlay.write_bytes(images.encode_overlay(page.pixels, mask))
            yield target


def print_log(stack: EmulatedStack) -> None:
    """The functions' structured log lines, as CloudWatch would keep them, without Lambda's own fields."""
    print("\nlog:")
    for line in stack.log.read_text().splitlines():
        if line.startswith("{"):
            fields = json.loads(line)
            if "_aws" in fields:
                continue  # metrics
            kept = {name: value for name, value in fields.items() if not name.startswith(LAMBDAS_OWN_FIELDS)}
            print(f"  {json.dumps(kept, ensure_ascii=False)}")
