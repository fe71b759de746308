"""`cytomask backfill` on faked AWS resources: where it stops, where it resumes, and what it leaves out."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from factories import GROUND_TRUTH, INPUT, MODELS, OUTPUT, REGION, request, tiff
from functions_on_moto import SegmentStack, listening
from own_models import make_model

from cytomask.cli.main import main
from cytomask.cli.stack import Stack
from cytomask.model_store import ModelStore

LAB = "lab-images"
PLACE = f"s3://{LAB}/scans/"
INVENTORY = "lab-inventory"
MANIFEST = f"s3://{INVENTORY}/daily/manifest.json"
Change = Callable[..., None]


@pytest.fixture
def change(stack: SegmentStack, connected: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Change:
    """Let the stack serve a bucket of the lab with five images; return a function that changes the stack."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for bucket in (LAB, INVENTORY):
        stack.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    upload(stack, *"bdfhj")

    def serve(**changed: Any) -> None:
        parameters = {"AllowedBuckets": LAB} | changed.pop("parameters", {})
        found = replace(connected, parameters=parameters, **{"models_bucket": MODELS} | changed)
        monkeypatch.setattr(Stack, "connect", classmethod(lambda *_: found))

    serve()
    return serve


def upload(stack: SegmentStack, *names: str) -> None:
    for name in names:
        stack.upload(f"scans/{name}.tif", tiff(), bucket=LAB)


def sent(stack: SegmentStack) -> str:
    """Take the queue's messages; return the names of their images."""
    images = [json.loads(message["Body"])["image"] for message in stack.take_messages()]
    return "".join(sorted(image.rpartition("/")[2].removesuffix(".tif") for image in images))


@pytest.mark.usefixtures("change")
def test_a_limit_that_took_every_image_ends_the_backfill(stack: SegmentStack) -> None:
    assert main(["backfill", PLACE, "--limit", "5"]) == 0
    assert sent(stack) == "bdfhj"
    upload(stack, "a")
    assert main(["backfill", PLACE, "--match", "*/a.tif"]) == 0
    assert sent(stack) == "a"
    assert main(["backfill", PLACE]) == 0
    assert sent(stack) == "abdfhj"


@pytest.mark.usefixtures("change")
def test_a_resumed_backfill_says_what_it_did_not_look_at_and_the_next_does(
    stack: SegmentStack, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["backfill", PLACE, "--limit", "4"]) == 1
    assert sent(stack) == "bdfh"
    upload(stack, "a")
    capsys.readouterr()
    assert main(["backfill", PLACE, "--dry-run", "--restart"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("6 images: ") and "stopped after scans/h.tif" in said
    assert main(["backfill", PLACE]) == 0
    assert sent(stack) == "j"
    assert "images up to scans/h.tif were not looked at again" in capsys.readouterr().out
    assert main(["backfill", PLACE]) == 0
    assert sent(stack) == "abdfhj"


@pytest.mark.usefixtures("change")
def test_a_resumed_backfill_that_finds_nothing_forgets_where_it_stopped(
    stack: SegmentStack, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["backfill", PLACE, "--limit", "4"]) == 1
    stack.s3.delete_object(Bucket=LAB, Key="scans/j.tif")
    assert main(["backfill", PLACE]) == 0
    said = capsys.readouterr().out
    assert "no more images" in said and "run the same command once more" in said
    assert sent(stack) == "bdfh"
    assert main(["backfill", PLACE]) == 0
    assert sent(stack) == "bdfh"


def test_only_the_same_backfill_of_the_same_stack_and_model_resumes(
    stack: SegmentStack, change: Change, tmp_path: Path
) -> None:
    change(arn="one")
    for words in ([], ["--since", "1h"]):
        assert main(["backfill", PLACE, *words, "--limit", "4"]) == 1
        assert sent(stack) == "bdfh"
    assert main(["backfill", PLACE, "--since", "3h"]) == 0
    assert sent(stack) == "bdfhj"
    promoted = {"Model": make_model(tmp_path / "mine", "mine")}
    ModelStore(stack.s3, MODELS).add(tmp_path / "mine")
    for changed in ({"arn": "another"}, {"arn": "one", "parameters": promoted}):
        change(**changed)
        assert main(["backfill", PLACE]) == 0
        assert sent(stack) == "bdfhj"
    change(arn="one")
    for words in ([], ["--since", "1h"]):
        assert main(["backfill", PLACE, *words]) == 0
        assert sent(stack) == "j"


def take_inventory(stack: SegmentStack, names: str) -> None:
    """Write an inventory of current versions, as S3's console proposes it."""
    rows = "".join(f'"{LAB}","scans%2F{name}.tif","9","2026-11-25T10:00:00.000Z","e"\n' for name in names)
    told = {
        "sourceBucket": LAB,
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, Size, LastModifiedDate, ETag",
        "files": [{"key": "daily/1.csv.gz"}],
    }
    stack.upload("daily/1.csv.gz", gzip.compress(rows.encode()), bucket=INVENTORY)
    stack.upload("daily/manifest.json", json.dumps(told).encode(), bucket=INVENTORY)


@pytest.mark.usefixtures("change")
@pytest.mark.parametrize("status", ["Enabled", "Suspended"])
def test_an_inventory_without_versions_of_a_bucket_that_keeps_them_is_refused(
    stack: SegmentStack, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.s3.put_bucket_versioning(Bucket=LAB, VersioningConfiguration={"Status": status})
    take_inventory(stack, "bd")
    assert main(["backfill", f"s3://{LAB}", "--inventory", MANIFEST]) == 2
    assert "configure it to include all versions, or run without it" in capsys.readouterr().err
    assert sent(stack) == ""


@pytest.mark.usefixtures("change")
def test_a_limited_backfill_by_inventory_advances_while_earlier_images_wait(stack: SegmentStack) -> None:
    take_inventory(stack, "jbhdf")
    command = ["backfill", f"s3://{LAB}", "--inventory", MANIFEST, "--limit", "2"]
    assert [main(command), sent(stack)] == [1, "bj"]
    assert [main(command), sent(stack)] == [1, "dh"]
    assert [main(command), sent(stack)] == [0, "f"]


@pytest.mark.usefixtures("change")
def test_archived_images_that_were_restored_are_sent(
    stack: SegmentStack, connected: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    expires = datetime(2026, 12, 1, tzinfo=UTC)
    statuses: dict[str, Any] = {
        "scans/restored.tif": {"IsRestoreInProgress": False, "RestoreExpiryDate": expires},
        "scans/under-way.tif": {"IsRestoreInProgress": True},
        "scans/cold.tif": {},
    }
    for key in statuses:
        stack.s3.put_object(Bucket=LAB, Key=key, Body=tiff(), StorageClass="GLACIER")
    asked = []

    def restore(parsed: dict[str, Any], **_: Any) -> None:  # moto does not answer RestoreStatus
        for each in parsed.get("Contents", []):
            each["RestoreStatus"] = statuses.get(each["Key"], {})

    def note(params: dict[str, Any], **_: Any) -> None:
        asked.append(params["headers"].get("x-amz-optional-object-attributes"))

    with (
        listening(connected.s3, "after-call.s3.ListObjectsV2", restore),
        listening(connected.s3, "before-call.s3.ListObjectsV2", note),
    ):
        assert main(["backfill", PLACE]) == 0
    assert sent(stack) == "bdfhjrestored"
    assert set(asked) == {"RestoreStatus"}
    assert "2 images are archived" in capsys.readouterr().err


@pytest.mark.usefixtures("change")
def test_a_backfill_of_finished_images_says_that_it_sends_nothing(
    stack: SegmentStack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.segment("a.tif", tiff())
    assert main(["backfill", f"s3://{INPUT}"]) == 0
    said = capsys.readouterr().out
    assert "at most 1 image; " in said
    assert "each of them has a finished job; nothing was sent" in said
    assert sent(stack) == ""


@pytest.mark.usefixtures("change")
def test_images_that_were_rejected_as_locked_are_sent_again(stack: SegmentStack) -> None:
    for key in ("locked.tif", "damaged.tif"):
        stack.upload(key, b"no image" if key == "damaged.tif" else tiff())
    stack.wire.fail("GetObject", "KMS.DisabledException", 400, times=100, key="locked.tif")
    assert stack.deliver(*(request(key) for key in ("locked.tif", "damaged.tif"))) == []
    assert {row["status"] for row in stack.rows()} == {"REJECTED"}
    assert main(["backfill", f"s3://{INPUT}"]) == 0
    assert sent(stack) == "locked"


@pytest.mark.usefixtures("change")
@pytest.mark.parametrize("bucket", [OUTPUT, GROUND_TRUTH, MODELS])
def test_the_stacks_other_buckets_are_refused(
    stack: SegmentStack, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.upload("a.tif.mask.png", tiff(), bucket=bucket)
    assert main(["backfill", f"s3://{bucket}"]) == 2
    assert f"belongs to the stack and holds no images; name s3://{INPUT}" in capsys.readouterr().err
    assert sent(stack) == ""


@pytest.mark.usefixtures("change")
def test_a_budget_below_one_images_price_is_refused(
    stack: SegmentStack, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["backfill", PLACE, "--max-usd", "0.00001"]) == 2
    assert "--max-usd 1e-05 pays for no image: one costs about US$ 0.0000" in capsys.readouterr().err
    assert main(["backfill", PLACE, "--limit", "30000000"]) == 0
    assert sent(stack) == "bdfhj"


@pytest.mark.usefixtures("change")
def test_a_message_that_sqs_refuses_is_sent_by_the_next_run(
    stack: SegmentStack, connected: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(parsed: dict[str, Any], **_: Any) -> None:
        parsed["Failed"] = [{"Id": "1", "Code": "InternalError", "Message": "busy"}]

    with listening(connected.sqs, "after-call.sqs.SendMessageBatch", refuse):
        assert main(["backfill", PLACE]) == 2
    assert f"SQS did not take {PLACE}d.tif: busy; run the same command again" in capsys.readouterr().err
    stack.take_messages()
    assert main(["backfill", PLACE]) == 0
    assert sent(stack) == "bdfhj"


@pytest.mark.usefixtures("change")
def test_an_inventory_without_an_address_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["backfill", PLACE, "--inventory", "foo"]) == 2
    assert "--inventory foo is not s3://bucket/…/manifest.json" in capsys.readouterr().err
