"""The operator's commands, against one emulated stack."""

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tifffile

from cytomask.cli.main import main
from cytomask.infra.emulator import EmulatedStack, emulated_stack
from cytomask.infra.session import REGION
from cytomask.samples.fields import phase_contrast_field

pytestmark = [pytest.mark.long, pytest.mark.slow]
LAB = "lab-images"
IMAGES = 12
Command = Callable[..., int]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedStack]:
    """Run a stack that may read a bucket of the lab, which already has images."""
    with emulated_stack(tmp_path_factory.mktemp("stack"), parameters={"AllowedBuckets": LAB}) as stack:
        s3 = stack.client("s3")
        s3.create_bucket(Bucket=LAB, CreateBucketConfiguration={"LocationConstraint": REGION})
        for number in range(IMAGES):
            image = io.BytesIO()
            tifffile.imwrite(image, phase_contrast_field(number, 64, 80).pixels)
            s3.put_object(Bucket=LAB, Key=f"scans/{number:02d}.tif", Body=image.getvalue())
        s3.put_object(Bucket=LAB, Key="scans/notes.txt", Body=b"no image")
        yield stack


@pytest.fixture
def command(running: EmulatedStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run a command on the stack, with a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return lambda *words: main([*words, "--endpoint-url", running.endpoint])


def test_a_check_prints_every_step_and_removes_its_traces(
    running: EmulatedStack, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("check") == 0
    lines = capsys.readouterr().out.splitlines()
    steps = ["function", "upload", "mask", "row", "score", "log lines", "alarms"]
    assert [line[:10].strip() for line in lines] == steps
    assert all(line[11:16] == "works" for line in lines)
    for output in ("InputBucketName", "OutputBucketName", "GroundTruthBucketName"):
        listed = running.client("s3").list_objects_v2(
            Bucket=running.outputs[output], Prefix="cytomask-check/"
        )
        assert listed["KeyCount"] == 0
    capsys.readouterr()
    assert command("jobs", "--json") == 0
    assert "cytomask-check" not in capsys.readouterr().out
    command("report")
    assert "cytomask-check" not in capsys.readouterr().out


def test_a_paused_stack_fails_its_check_and_a_resumed_one_takes_messages(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        assert command("pause") == 0
        assert capsys.readouterr().out.startswith("paused; ")
        assert command("check") == 1
        assert "run `cytomask resume`" in capsys.readouterr().out
    finally:
        assert command("resume") == 0
    assert capsys.readouterr().out.startswith("resumed; ")


def test_a_policy_names_this_stack(
    running: EmulatedStack, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("policy", "microscope") == 0
    [statement] = json.loads(capsys.readouterr().out)["Statement"]
    assert statement["Resource"] == f"arn:aws:s3:::{running.outputs['InputBucketName']}/*"


def test_a_backfill_states_its_cost_sends_images_without_a_mask_and_resumes(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"s3://{LAB}/scans/"
    assert command("backfill", place, "--dry-run") == 0
    assert capsys.readouterr().out.startswith(f"{IMAGES} images: about 1 min (")
    assert command("backfill", place, "--limit", "10") == 1
    captured = capsys.readouterr()
    assert "10 images sent" in captured.out
    assert "stopped by --limit" in captured.err
    assert command("backfill", place) == 0
    sent = capsys.readouterr().out
    assert "resuming after scans/09.tif" in sent
    assert "2 images sent" in sent
    deadline = time.monotonic() + 60
    while _left(command, place, capsys):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert command("backfill", place, "--match", "*/0*.tif", "--dry-run", "--restart") == 0
    assert capsys.readouterr().out.startswith("0 images")
    assert command("costs") == 0
    assert "US$" in capsys.readouterr().out


def _left(command: Command, place: str, capsys: pytest.CaptureFixture[str]) -> int:
    command("backfill", place, "--dry-run")
    return int(capsys.readouterr().out.split()[0])


def test_a_backfill_of_a_bucket_that_is_not_served_says_how_to_attach_it(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("backfill", "s3://another-bucket/a/") == 2
    assert "run `cytomask attach s3://another-bucket`" in capsys.readouterr().err
    assert command("backfill", "a.tif") == 2
    assert "is not s3://bucket" in capsys.readouterr().err


def test_attaching_keeps_the_buckets_other_notifications_and_detaching_leaves_them(
    running: EmulatedStack, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    s3, bucket = running.client("s3"), "lab-other"
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    queue = running.client("sqs").create_queue(QueueName="theirs")["QueueUrl"]
    arn = running.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    theirs = {
        "Id": "theirs",
        "QueueArn": arn["Attributes"]["QueueArn"],
        "Events": ["s3:ObjectCreated:Put"],
        "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "raw/"}]}},
    }
    s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [theirs]}
    )
    assert command("attach", f"s3://{bucket}/raw/today/") == 2
    assert ":theirs of changes there" in capsys.readouterr().err
    assert command("attach", f"s3://{bucket}/scans/", "--yes") == 0
    assert f"AllowedBuckets: {LAB} -> {LAB},{bucket}" in capsys.readouterr().out
    assert notified(s3, bucket) == {"theirs": "raw/", "cytomask cytomask scans/": "scans/"}
    assert command("detach", f"s3://{bucket}/scans/", "--yes") == 0
    assert notified(s3, bucket) == {"theirs": "raw/"}
    assert f"AllowedBuckets: {LAB},{bucket} -> {LAB}" in capsys.readouterr().out
    assert command("detach", f"s3://{bucket}/scans/") == 1
    assert command("attach", f"s3://{running.outputs['InputBucketName']}") == 2


def test_images_of_an_attached_bucket_have_their_masks_under_its_name_until_they_are_deleted(
    running: EmulatedStack, command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    s3, bucket, output = running.client("s3"), "lab-attached", running.outputs["OutputBucketName"]
    s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    colliding = {"Bucket": running.outputs["InputBucketName"], "Key": f"{bucket}/notes.txt"}
    s3.put_object(**colliding, Body=b"no image")
    assert command("attach", f"s3://{bucket}/", "--yes") == 2
    assert f"has images under {bucket}/" in capsys.readouterr().err
    s3.delete_object(**colliding)
    assert command("attach", f"s3://{bucket}/", "--yes") == 0
    s3.copy_object(Bucket=bucket, Key="a b.tif", CopySource={"Bucket": LAB, "Key": "scans/00.tif"})
    names = [f"{bucket}/a b.tif.mask.png", f"{bucket}/a b.tif.result.json"]
    wait_until(lambda: lying(s3, output, f"{bucket}/") == names)
    assert command("download", "--prefix", f"s3://{bucket}/a", "--out", str(tmp_path / "out")) == 0
    assert (tmp_path / "out" / bucket / "a b.tif.mask.png").is_file()
    s3.delete_object(Bucket=bucket, Key="a b.tif")
    wait_until(lambda: lying(s3, output, f"{bucket}/") == [])
    assert command("detach", f"s3://{bucket}/", "--yes") == 0


def lying(s3: Any, bucket: str, prefix: str) -> list[str]:
    found = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
    return [each["Key"] for each in found]


def wait_until(seen: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def notified(s3: object, bucket: str) -> dict[str, str]:
    """Return the prefix of each notification of a bucket, by id."""
    present = s3.get_bucket_notification_configuration(Bucket=bucket)  # type: ignore[attr-defined]
    return {
        each["Id"]: each["Filter"]["Key"]["FilterRules"][0]["Value"]
        for each in present["QueueConfigurations"]
    }
