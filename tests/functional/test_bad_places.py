"""`cytomask attach` and `backfill` refuse buckets that they cannot use, with a reason."""

from dataclasses import replace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from factories import REGION, tiff
from functions_on_moto import SegmentStack

from cytomask.backfill import list_bucket
from cytomask.cli.main import main
from cytomask.cli.stack import Stack

LAB = "lab-images"
PLACE = f"s3://{LAB}/scans/"


@pytest.fixture
def lab(stack: SegmentStack, connected: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Stack:
    """The stack, which serves an empty bucket of the lab."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    stack.s3.create_bucket(Bucket=LAB, CreateBucketConfiguration={"LocationConstraint": REGION})
    return serving(connected, monkeypatch)


def serving(connected: Stack, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> Stack:
    found = replace(connected, parameters={"AllowedBuckets": LAB}, **changed)
    monkeypatch.setattr(Stack, "connect", classmethod(lambda *_: found))
    return found


@pytest.mark.usefixtures("lab")
def test_a_bucket_that_is_not_there_cannot_be_attached(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attach", "s3://no-such-bucket/"]) == 2
    assert "was refused: The specified bucket does not exist" in capsys.readouterr().err


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("operation", ["GetBucketVersioning", "ListObjectsV2"])
def test_a_foreign_bucket_that_may_not_be_listed_is_reported(
    stack: SegmentStack, capsys: pytest.CaptureFixture[str], operation: str
) -> None:
    stack.wire.fail(operation, "AccessDenied", 403)
    assert main(["backfill", PLACE]) == 2
    assert f"{operation} was refused: injected" in capsys.readouterr().err


@pytest.mark.usefixtures("lab")
def test_a_bucket_of_another_region_cannot_notify_the_queue(capsys: pytest.CaptureFixture[str]) -> None:
    far = boto3.client("s3", region_name="ap-southeast-1")
    far.create_bucket(Bucket="far-away", CreateBucketConfiguration={"LocationConstraint": "ap-southeast-1"})
    assert main(["attach", "s3://far-away/"]) == 2
    assert "s3://far-away is in ap-southeast-1, and a bucket can notify" in capsys.readouterr().err


@pytest.mark.usefixtures("lab")
def test_a_prefix_with_nothing_and_one_without_images_send_nothing(
    stack: SegmentStack, capsys: pytest.CaptureFixture[str]
) -> None:
    for key in ("scans/notes.txt", "scans/layout.csv", "scans/folder/"):
        stack.upload(key, b"x", bucket=LAB)
    for place in (PLACE, f"s3://{LAB}/nothing/"):
        assert main(["backfill", place, "--yes"]) == 0
        assert f"no images under {place}" in capsys.readouterr().out
    assert stack.take_messages() == []


@pytest.mark.usefixtures("lab")
def test_archived_images_are_counted_and_not_sent(
    stack: SegmentStack, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in ("GLACIER", "DEEP_ARCHIVE", "STANDARD"):
        stack.s3.put_object(Bucket=LAB, Key=f"scans/{kind}.tif", Body=tiff(), StorageClass=kind)
    assert main(["backfill", PLACE, "--yes"]) == 0
    captured = capsys.readouterr()
    assert "1 image sent" in captured.out
    assert "2 images are archived (Glacier) and were left out; restore them first" in captured.err
    (message,) = stack.take_messages()
    assert "STANDARD.tif" in message["Body"]


def test_only_the_newest_version_of_a_key_is_listed(
    stack: SegmentStack, lab: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack.s3.put_bucket_versioning(Bucket=LAB, VersioningConfiguration={"Status": "Enabled"})
    versions = [stack.upload("scans/a.tif", b"%d" % number, bucket=LAB) for number in range(35)]
    all_at_once: Any = lab.s3.list_object_versions
    monkeypatch.setattr(
        lab.s3, "list_object_versions", lambda **asked: all_at_once(**asked | {"MaxKeys": 10})
    )
    (listed,) = list_bucket(lab.s3, LAB, "scans/")
    assert listed.object.version_id == versions[-1]


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("amount", ["0", "-1", "nan", "much"])
def test_a_budget_of_0_is_refused(amount: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["backfill", PLACE, f"--max-usd={amount}"])
    assert f"'{amount}' is not above 0" in capsys.readouterr().err


def test_a_stack_that_is_being_updated_attaches_nothing(
    stack: SegmentStack,
    connected: Stack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Updating:
        def create_change_set(self, **_: Any) -> None:
            said = "Stack:cytomask is in UPDATE_IN_PROGRESS state and can not be updated."
            raise ClientError({"Error": {"Code": "ValidationError", "Message": said}}, "CreateChangeSet")

    stack.s3.create_bucket(Bucket="another", CreateBucketConfiguration={"LocationConstraint": REGION})
    serving(connected, monkeypatch, client=lambda _: Updating())
    assert main(["attach", "s3://another/"]) == 2
    assert "CreateChangeSet was refused: Stack:cytomask is in UPDATE_IN_PROGRESS" in capsys.readouterr().err
    found = stack.s3.get_bucket_notification_configuration(Bucket="another")
    assert "QueueConfigurations" not in found
