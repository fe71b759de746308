"""Run the whole stack through a storm of faults: `python -m benchmarks.storm [--images N] [--backfilled S]`.

It uploads small images into the emulated stack. Meanwhile one AWS call in twenty fails, processes are killed,
and messages are repeated, delayed and reordered. A share of the images lies in a bucket of the lab:
`cytomask backfill` sends these meanwhile, twice. It redrives failed jobs until all have ended, then compares
with a run without faults. It exits with 1 if anything was lost, done twice or differs.
"""

import argparse
import contextlib
import io
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tifffile
from boto3.dynamodb.types import TypeDeserializer
from numpy.typing import NDArray

from benchmarks.environments import environments
from benchmarks.reconcile import MASK, discrepancies
from benchmarks.report import table
from benchmarks.storm_function import KINDS
from cytomask.cli.main import main as cytomask
from cytomask.cli.redrive import run_redrive
from cytomask.cli.stack import Stack
from cytomask.infra.emulator import HANDLERS, STACK_NAME, EmulatedStack, emulated_stack
from cytomask.infra.session import REGION
from cytomask.records import JOB
from cytomask.samples.fields import phase_contrast_field

SIDE = 64
PICTURES = 50  # number of different images; each upload is one of them
SCATTERED = 0.1  # share of the images that are requested more than once
LATEST_SECONDS = 60

LAB = "lab-images"  # the bucket that is filled from what is there already

# The lease of a killed process ends after 20 + 5 seconds; its message is delivered again after 30.
PARAMETERS = MappingProxyType(
    {"SegmentTimeout": "20", "VisibilityTimeout": "30", "RetryDelay": "1", "AllowedBuckets": LAB}
)
STORMY = MappingProxyType(
    dict(HANDLERS)
    | {
        "SegmentFunction": environments(2, "benchmarks.storm_function:segment"),
        "FailuresFunction": environments(1, "benchmarks.storm_function:failures"),
    }
)

POLL_SECONDS = 2
SAID_EVERY_SECONDS = 60
STALLED_SECONDS = 600
MOST_ROUNDS = 20

Uploads = dict[str, NDArray[np.uint16]]


def main() -> int:
    """Run the storm from the command line."""
    parser = argparse.ArgumentParser(description="A storm of faults over the emulated stack.")
    parser.add_argument("--images", type=int, default=10_000, metavar="N", help="default: 10000")
    parser.add_argument(
        "--backfilled", type=float, default=0, metavar="S", help="share of the images, 0 to 1; default: 0"
    )
    parsed = parser.parse_args()
    pictures = [phase_contrast_field(seed, SIDE, SIDE).pixels for seed in range(PICTURES)]
    names = [f"plate {number % 7}/{number:06d}.tif" for number in range(parsed.images)]
    backfilled = round(parsed.images * parsed.backfilled)
    names[:backfilled] = [f"{LAB}/{name}" for name in names[:backfilled]]
    uploads = {name: pictures[number % PICTURES] for number, name in enumerate(names)}
    with tempfile.TemporaryDirectory(prefix="cytomask-") as folder:
        quiet = quiet_masks(Path(folder) / "quiet", pictures)
        masks = {key: quiet[number % PICTURES] for number, key in enumerate(uploads)}
        with emulated_stack(Path(folder) / "storm", parameters=PARAMETERS, handlers=STORMY) as stack:
            numbers, wrong = rage(stack, uploads, masks)
    print(table(["what", "number"], [[name, str(number)] for name, number in numbers.items()]))
    for line in wrong:
        print(line)
    return 1 if wrong else 0


def quiet_masks(folder: Path, pictures: list[NDArray[np.uint16]]) -> list[bytes]:
    """Make each picture's mask on a stack without faults."""
    with emulated_stack(folder) as stack:
        keys = [f"{number}.tif" for number in range(len(pictures))]
        upload(stack, dict(zip(keys, pictures, strict=True)))
        drain(stack)
        written = outputs(stack)
    return [written[f"{key}.{MASK}"] for key in keys]


def rage(
    stack: EmulatedStack, uploads: Uploads, masks: Mapping[str, bytes]
) -> tuple[dict[str, int], list[str]]:
    """Send everything and redrive failures; return counts and discrepancies.

    Args:
        stack: the running stack.
        uploads: the images by name: the key, or `lab-images/<key>` for those to backfill.
        masks: the expected masks, by the same names.
    """
    started = time.monotonic()
    shuffled = {name: uploads[name] for name in random.sample(sorted(uploads), len(uploads))}
    in_the_lab = {name: shuffled.pop(name) for name in list(shuffled) if name.startswith(f"{LAB}/")}
    with ThreadPoolExecutor(1) as beside:
        uploading = beside.submit(upload, stack, shuffled, SCATTERED)
        backfill_twice(stack, in_the_lab)  # a command, which listens to signals, needs the main thread
        more = uploading.result()
    drain(stack)
    failed = Counter(row["status"] for row in job_rows(stack))["FAILED"]
    rounds, redriven = redrive_until_ended(stack)
    rows = list(job_rows(stack))
    wrong = discrepancies(rows, outputs(stack), masks, final=("SUCCEEDED",), attached=(LAB,))
    said = Counter(_events(stack.log))
    twice = [job for job, times in Counter(_jobs_done(stack.log)).items() if times > 1]
    wrong += [f"job {job} wrote its mask more than once" for job in twice]
    numbers = {
        "images uploaded": len(shuffled),
        "images backfilled": len(in_the_lab),
        "deliveries asked for beside": more,
        "jobs taken": said["job_taken"],
        "duplicates ignored": said["duplicate_ignored"],
        "duplicates that waited": said["job_held"],
        **{f"AWS calls {kind}": said[kind] for kind in KINDS},
        "processes killed": said["killed"],
        "attempts failed": said["attempt_failed"],
        "images failed for good, at first": failed,
        "sent again": redriven,
        "rounds of that": rounds,
        **{f"{status} in the end": count for status, count in Counter(_statuses(rows)).items()},
        "does not reconcile": len(wrong),
        "seconds": round(time.monotonic() - started),
    }
    return numbers, wrong


def upload(stack: EmulatedStack, uploads: Uploads, scattered: float = 0) -> int:
    """Put images into the input bucket.

    For a share of them, `scattered`, send up to three more requests that arrive some time later. Return the
    number of these requests.
    """
    s3, sqs = stack.client("s3"), stack.client("sqs")
    bucket, queue = stack.outputs["InputBucketName"], stack.outputs["SegmentQueueUrl"]
    sent = 0
    for key, pixels in uploads.items():
        s3.put_object(Bucket=bucket, Key=key, Body=tiff(pixels))
        for _ in range(random.randint(1, 3) if random.random() < scattered else 0):
            body = json.dumps({"image": f"s3://{bucket}/{key}"})
            sqs.send_message(QueueUrl=queue, MessageBody=body, DelaySeconds=random.randint(0, LATEST_SECONDS))
            sent += 1
    return sent


def backfill_twice(stack: EmulatedStack, images: Uploads) -> None:
    """Put images into the bucket of the lab and send them, and once more while the first ones are at work."""
    if not images:
        return
    s3 = stack.client("s3")
    s3.create_bucket(Bucket=LAB, CreateBucketConfiguration={"LocationConstraint": REGION})
    for name, pixels in images.items():
        s3.put_object(Bucket=LAB, Key=name.removeprefix(f"{LAB}/"), Body=tiff(pixels))
    words = ["backfill", f"s3://{LAB}", "--yes", "--restart", "--endpoint-url", stack.endpoint]
    for _ in range(2):
        if cytomask(words) != 0:
            raise RuntimeError(f"cytomask {' '.join(words)} did not end well")


def tiff(pixels: NDArray[np.uint16]) -> bytes:
    """Return an image as a file."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels)
    return stream.getvalue()


def drain(stack: EmulatedStack) -> None:
    """Wait until neither the segment queue nor its dead-letter queue holds a message.

    Raises:
        RuntimeError: the number of messages has not changed for `STALLED_SECONDS`.
    """
    sqs = stack.client("sqs")
    dead_letters = sqs.get_queue_url(QueueName=f"{STACK_NAME}-segment-dlq")["QueueUrl"]
    queues = [stack.outputs["SegmentQueueUrl"], dead_letters]
    before, changed, said = -1, time.monotonic(), time.monotonic()
    while waiting := sum(_messages(sqs, queue) for queue in queues):
        now = time.monotonic()
        if waiting != before:
            before, changed = waiting, now
        if now - changed > STALLED_SECONDS:
            raise RuntimeError(f"{waiting} messages are left, unchanged for {STALLED_SECONDS} s")
        if now - said > SAID_EVERY_SECONDS:
            print(f"{waiting} messages waiting", file=sys.stderr)
            said = now
        time.sleep(POLL_SECONDS)


def redrive_until_ended(stack: EmulatedStack) -> tuple[int, int]:
    """Run `cytomask redrive` until nothing is FAILED; return the rounds and the jobs sent again."""
    connected = Stack.connect(STACK_NAME, stack.endpoint)
    everything = argparse.Namespace(ids=[])
    sent = 0
    for rounds in range(MOST_ROUNDS):
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            run_redrive(connected, everything)
        again = len(printed.getvalue().splitlines())
        if not again:
            return rounds, sent
        sent += again
        drain(stack)
    return MOST_ROUNDS, sent


def job_rows(stack: EmulatedStack) -> Iterator[dict[str, Any]]:
    """Read the rows of all jobs."""
    deserialise = TypeDeserializer().deserialize
    pages = stack.client("dynamodb").get_paginator("scan").paginate(TableName=stack.outputs["JobsTableName"])
    for item in (item for page in pages for item in page["Items"]):
        row = {name: deserialise(value) for name, value in item.items()}
        if row["record"] == JOB:
            yield row


def outputs(stack: EmulatedStack) -> dict[str, bytes]:
    """Read every object of the output bucket, by key."""
    s3, bucket = stack.client("s3"), stack.outputs["OutputBucketName"]
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return {key: s3.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def _messages(sqs: Any, queue: str) -> int:
    """Count a queue's messages: waiting, delayed and in flight."""
    answer = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])
    return sum(
        int(number)
        for name, number in answer["Attributes"].items()
        if name.startswith("ApproximateNumberOfMessages")
    )


def log_lines(log: Path) -> Iterator[dict[str, Any]]:
    """Read the handlers' log lines; a killed process may have left an incomplete one."""
    with log.open() as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def _events(log: Path) -> Iterator[str]:
    """Count log lines by event, and faults by kind."""
    for line in log_lines(log):
        yield line.get("kind", line.get("message", ""))


def _jobs_done(log: Path) -> Iterator[str]:
    return (line["job_id"] for line in log_lines(log) if line.get("message") == "mask_written")


def _statuses(rows: list[dict[str, Any]]) -> list[str]:
    return [row["status"] for row in rows]


if __name__ == "__main__":
    sys.exit(main())
