"""Images go all the way through the emulated stack, with the real handler and the real template."""

import io
import json
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import pytest
import tifffile
from boto3.dynamodb.types import TypeDeserializer
from PIL import Image

from cytomask.cli.main import main
from cytomask.infra.emulator import EmulatedStack, emulated_stack
from cytomask.infra.session import REGION
from cytomask.metrics import score
from cytomask.samples.fields import phase_contrast_field

pytestmark = pytest.mark.long
SECONDS = 60
FIELD = phase_contrast_field(3, 120, 150, 0.4)
Found = TypeVar("Found")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedStack]:
    parameters = {"SegmentTimeout": "60", "VisibilityTimeout": "2"}  # Lambda would refuse the pair
    parameters |= {"MaxReceiveCount": "2", "RetryDelay": "1"}
    with emulated_stack(tmp_path_factory.mktemp("stack"), parameters=parameters) as running:
        yield running


def test_an_upload_becomes_a_mask_a_result_and_a_job_row(stack: EmulatedStack) -> None:
    key = "plate 1/a+b ü.tif"
    upload(stack, key)

    row = until(lambda: next((row for row in rows(stack) if is_finished(row, key)), None))
    assert row["status"] == "SUCCEEDED"
    assert row["mask"] == f"s3://{stack.outputs['OutputBucketName']}/{key}.mask.png"
    mask = np.asarray(Image.open(io.BytesIO(output(stack, f"{key}.mask.png"))))
    assert (mask.shape, mask.dtype) == ((120, 150), np.dtype(np.uint8))
    assert sorted(np.unique(mask)) == [0, 255]
    result = json.loads(output(stack, f"{key}.result.json"))
    assert result["confluence"] == pytest.approx(np.count_nonzero(mask) / mask.size)
    assert result["job_id"] == row["job_id"]


def test_a_job_requested_over_http_is_queued_finished_and_reported(stack: EmulatedStack) -> None:
    upload(stack, "over http.tif")
    image = f"s3://{stack.outputs['InputBucketName']}/over http.tif"
    queued = call(stack, "/jobs", json.dumps({"image": image, "threshold": 0.4}).encode())
    told = until(lambda: succeeded(json.loads(call(stack, f"/jobs/{json.loads(queued)['job_id']}"))))
    assert told["image"] == image
    mask = np.asarray(Image.open(io.BytesIO(output(stack, told["mask"].split("/", 3)[3]))))
    assert told["confluence"] == pytest.approx(np.count_nonzero(mask) / mask.size)


def test_an_image_in_the_body_comes_back_as_its_mask(stack: EmulatedStack) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, FIELD.pixels)
    answer = call(stack, "/seg_mask", file.getvalue(), {"Content-Type": "image/tiff", "Accept": "image/png"})
    mask = np.asarray(Image.open(io.BytesIO(answer), formats=("PNG",)))
    assert (mask.shape, sorted(np.unique(mask))) == ((120, 150), [0, 255])


def test_a_broken_message_is_rejected_and_its_neighbour_is_done(stack: EmulatedStack) -> None:
    upload(stack, "neighbour.tif")
    send(stack, '{"image": "s3://no-such-thing')

    rejected = until(lambda: next((row for row in rows(stack) if row.get("status") == "REJECTED"), None))
    assert rejected["error_code"] == "INVALID_REQUEST"
    done = until(lambda: next((row for row in rows(stack) if is_finished(row, "neighbour.tif")), None))
    assert done["status"] == "SUCCEEDED"


@pytest.mark.slow
def test_a_lasting_fault_ends_as_failed_and_a_redrive_finishes_the_job(
    stack: EmulatedStack, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "taken-away"
    upload(stack, f"{name}.tif")
    until(lambda: next((row for row in rows(stack) if is_finished(row, f"{name}.tif")), None))
    request = {
        "image": f"s3://{stack.outputs['InputBucketName']}/{name}.tif",
        "threshold": 0.1,
        "group": name,
    }
    with without_bucket(stack, stack.outputs["OutputBucketName"]):
        send(stack, json.dumps(request))
        row = until(lambda: job_of_group(stack, name, "FAILED"))

    assert json.loads(row["message"]) == request
    assert (row["error_code"], "NoSuchBucket" in row["error"]) == ("TRIES_USED_UP", True)
    assert cytomask(stack, "failed") == 1
    assert row["job_id"] in capsys.readouterr().out
    assert cytomask(stack, "redrive", row["job_id"]) == 0
    done = until(lambda: job_of_group(stack, name, "SUCCEEDED"))
    assert (done["job_id"], done["attempt"]) == (row["job_id"], 2)
    capsys.readouterr()
    assert cytomask(stack, "logs", "--job", row["job_id"]) == 0
    events = [line.split()[3] for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert [name for name in events if name in ("attempt_failed", "job_failed", "mask_written")] == [
        "attempt_failed",
        "attempt_failed",
        "job_failed",
        "mask_written",
    ]


def test_a_mask_is_scored_whichever_of_image_and_ground_truth_comes_first(stack: EmulatedStack) -> None:
    names = ("image first ü", "ground truth first ü")
    upload(stack, f"{names[0]}.tif")
    until(lambda: next((row for row in rows(stack) if is_finished(row, f"{names[0]}.tif")), None))
    for name in names:
        upload_ground_truth(stack, f"{name}.png")
    upload(stack, f"{names[1]}.tif")

    for name in names:
        row = until(lambda name=name: scored(stack, f"{name}.tif"))  # type: ignore[misc]
        mask = np.asarray(Image.open(io.BytesIO(output(stack, f"{name}.tif.mask.png"))))
        assert float(row["iou"]) == score(mask > 0, FIELD.cells).iou
        assert float(row["true_confluence"]) == np.count_nonzero(FIELD.cells) / FIELD.cells.size
        assert row["ground_truth"] == f"s3://{stack.outputs['GroundTruthBucketName']}/{name}.png"


@contextmanager
def without_bucket(stack: EmulatedStack, bucket: str) -> Iterator[None]:
    s3 = stack.client("s3")
    for found in s3.list_objects_v2(Bucket=bucket).get("Contents", []):
        s3.delete_object(Bucket=bucket, Key=found["Key"])
    s3.delete_bucket(Bucket=bucket)
    try:
        yield
    finally:
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})


def call(
    stack: EmulatedStack,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] = MappingProxyType({"Content-Type": "application/json"}),
) -> bytes:
    request = urllib.request.Request(stack.outputs["ApiUrl"] + path, body, dict(headers))
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        content: bytes = answer.read()
        return content


def succeeded(job: dict[str, Any]) -> dict[str, Any] | None:
    return job if job["status"] == "SUCCEEDED" else None


def upload(stack: EmulatedStack, key: str) -> None:
    stream = io.BytesIO()
    tifffile.imwrite(stream, FIELD.pixels, compression="lzw")
    stack.client("s3").put_object(Bucket=stack.outputs["InputBucketName"], Key=key, Body=stream.getvalue())


def upload_ground_truth(stack: EmulatedStack, key: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(FIELD.cells).save(stream, "PNG")
    bucket = stack.outputs["GroundTruthBucketName"]
    stack.client("s3").put_object(Bucket=bucket, Key=key, Body=stream.getvalue())


def cytomask(stack: EmulatedStack, *arguments: str) -> int:
    return main([*arguments, "--endpoint-url", stack.endpoint])


def send(stack: EmulatedStack, body: str) -> None:
    stack.client("sqs").send_message(QueueUrl=stack.outputs["SegmentQueueUrl"], MessageBody=body)


def job_of_group(stack: EmulatedStack, group: str, status: str) -> dict[str, Any] | None:
    """Wait until the job of this group has this status and return it."""
    found = [row for row in rows(stack) if row.get("group") == group and row["record"] == "JOB"]
    return next((row for row in found if row["status"] == status), None)


def output(stack: EmulatedStack, key: str) -> bytes:
    body: bytes = (
        stack.client("s3").get_object(Bucket=stack.outputs["OutputBucketName"], Key=key)["Body"].read()
    )
    return body


def rows(stack: EmulatedStack) -> list[dict[str, Any]]:
    plain = TypeDeserializer().deserialize
    items = stack.client("dynamodb").scan(TableName=stack.outputs["JobsTableName"])["Items"]
    return [{name: plain(value) for name, value in item.items()} for item in items]


def is_finished(row: dict[str, Any], key: str) -> bool:
    image: str = row.get("image", "")
    return row["record"] == "JOB" and row["status"] != "RUNNING" and image.endswith(f"/{key}")


def scored(stack: EmulatedStack, key: str) -> dict[str, Any] | None:
    """Wait until an image's only mask has its only evaluation and score; return the evaluation."""
    found = [row for row in rows(stack) if is_evaluation(row) and row["image"].endswith(f"/{key}")]
    ended = len(found) == 1 and found[0]["evaluation_status"] == "SCORED"
    return found[0] if ended else None


def is_evaluation(row: dict[str, Any]) -> bool:
    return bool(row["record"].startswith("EVAL#"))


def until(look: Callable[[], Found | None]) -> Found:
    deadline = time.monotonic() + SECONDS
    while (found := look()) is None:
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)
    return found
