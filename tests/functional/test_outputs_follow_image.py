"""Outputs follow their image: deleted with it, made again if they are gone, never from an older one."""

from typing import Any

import numpy as np
import pytest
from factories import INPUT, OUTPUT, page, request, s3_event, s3_record, stack_of, tiff
from functions_on_moto import FailuresFunction, HttpDoor, SegmentStack
from moto.s3.models import s3_backends

from cytomask import images
from cytomask.names import writers_of

pytestmark = pytest.mark.long


def removed(key: str, kind: str = "ObjectRemoved:Delete") -> dict[str, Any]:
    record = s3_record(key)
    record["eventName"] = kind
    return {"Records": [record]}


def delete_outputs(stack: SegmentStack, *keys: str) -> None:
    for key in keys:
        stack.s3.delete_object(Bucket=OUTPUT, Key=key)


def name_rows(stack: SegmentStack) -> list[dict[str, Any]]:
    return [row for row in stack.table.scan()["Items"] if row["job_id"].startswith("GROUND_TRUTH#image:")]


@pytest.mark.parametrize("kind", ["ObjectRemoved:Delete", "ObjectRemoved:DeleteMarkerCreated"])
def test_a_deleted_image_takes_its_masks_and_result_away(
    stack: SegmentStack, kind: str, log_lines: Any
) -> None:
    stack.segment("a.tif", stack_of(3))
    stack.segment("a.tif.png", tiff())
    stack.s3.delete_object(Bucket=INPUT, Key="a.tif")
    assert stack.deliver(removed("a.tif", kind)) == []
    assert stack.outputs() == {"a.tif.png.mask.png", "a.tif.png.result.json"}
    assert [row["status"] for row in stack.rows()] == ["SUCCEEDED", "SUCCEEDED"]
    (line,) = log_lines("mask_removed")
    assert line["image"] == f"s3://{INPUT}/a.tif"
    writers = {row["image"]: dict(writers_of(row)) for row in name_rows(stack)}
    assert "removed" in writers[f"s3://{INPUT}/a.tif"]
    assert len(writers[f"s3://{INPUT}/a.tif.png"]) == 1


def test_a_late_deletion_event_leaves_the_mask_of_the_newer_upload(stack: SegmentStack) -> None:
    stack.segment("a.tif", tiff())
    assert stack.deliver(removed("a.tif")) == []
    assert stack.outputs() == {"a.tif.mask.png", "a.tif.result.json"}
    assert stack.predictor.pages == 1


def test_deleting_the_newest_version_restores_the_mask_of_the_previous_one(stack: SegmentStack) -> None:
    stack.s3.put_bucket_versioning(Bucket=INPUT, VersioningConfiguration={"Status": "Enabled"})
    for seed in (0, 1):
        version = stack.upload("a.tif", tiff(page(seed)))
        stack.handle({"Records": [s3_record("a.tif", version=version)]})
    stack.s3.delete_object(Bucket=INPUT, Key="a.tif", VersionId=version)
    assert stack.deliver(removed("a.tif")) == []
    expected = stack.predictor.predict(page(0)).mask
    assert np.array_equal(stack.mask("a.tif.mask.png"), expected * np.uint8(255))


def test_deleting_a_ground_truth_or_an_output_triggers_nothing(stack: SegmentStack, evaluate: Any) -> None:
    stack.segment("a.tif", tiff())
    before = stack.outputs()
    assert evaluate.deliver(removed("a.png")) == []
    record = s3_record("a.tif", OUTPUT)
    record["eventName"] = "ObjectRemoved:Delete"
    assert stack.deliver({"Records": [record]}) == []
    assert stack.outputs() == before


@pytest.mark.parametrize("key", ["notes.csv", "plate 1/"])
def test_a_late_deletion_event_of_a_file_that_is_no_image_triggers_nothing(
    stack: SegmentStack, key: str
) -> None:
    stack.upload(key, b"well,dose")
    assert stack.deliver(removed(key)) == []
    assert (stack.rows(), stack.outputs()) == ([], set())


@pytest.mark.parametrize("gone", [("mask.png",), ("result.json",), ("mask.png", "result.json")])
@pytest.mark.parametrize("way", ["message", "event", "JSON", "PNG"])
def test_outputs_that_are_gone_are_made_again(http: HttpDoor, gone: tuple[str, ...], way: str) -> None:
    stack = http.stack
    stack.segment("a.tif", tiff())
    mask = stack.output("a.tif.mask.png")
    delete_outputs(stack, *(f"a.tif.{kind}" for kind in gone))
    if way in ("message", "event"):
        assert stack.deliver(request("a.tif") if way == "message" else s3_event("a.tif")) == []
    else:
        answer = http.post("/seg_mask", request("a.tif"), accept="image/png" if way == "PNG" else "")
        assert answer.status == 200
        assert way == "JSON" or answer.body == mask
    assert stack.output("a.tif.mask.png") == mask
    assert stack.row()["status"] == "SUCCEEDED"
    assert (stack.row()["attempt"], stack.predictor.pages) == (2, 2)


def test_a_mask_that_somebody_overwrote_is_made_again(stack: SegmentStack) -> None:
    stack.segment("a.tif", tiff())
    written = stack.output("a.tif.mask.png")
    stack.s3.put_object(Bucket=OUTPUT, Key="a.tif.mask.png", Body=b"another mask")
    assert stack.deliver(s3_event("a.tif")) == []
    assert stack.output("a.tif.mask.png") == written


def test_outputs_are_made_again_once_if_two_messages_find_them_gone(stack: SegmentStack) -> None:
    stack.segment("a.tif", tiff())
    delete_outputs(stack, "a.tif.mask.png")

    def come_first() -> None:
        assert stack.deliver(s3_event("a.tif")) == []

    stack.wire.before("UpdateItem", come_first, skip=1)  # the first attempt to take it finds it finished
    assert stack.deliver(s3_event("a.tif")) == [0]
    assert stack.deliver(s3_event("a.tif")) == []
    assert (stack.predictor.pages, stack.row()["attempt"]) == (2, 2)


def test_a_job_is_running_while_its_outputs_are_made_again(stack: SegmentStack) -> None:
    stack.segment("a.tif", tiff())
    delete_outputs(stack, "a.tif.mask.png")
    seen: list[str] = []
    stack.wire.before("PutObject", lambda: seen.append(stack.row()["status"]))
    assert stack.deliver(s3_event("a.tif")) == []
    assert seen == ["RUNNING"]


def test_a_page_that_is_gone_has_the_stack_made_again(stack: SegmentStack) -> None:
    stack.segment("stack.tif", stack_of(3))
    before = stack.outputs()
    delete_outputs(stack, "stack.tif.p0001.mask.png")
    assert stack.deliver(s3_event("stack.tif")) == []
    assert stack.outputs() == before


def test_outputs_of_a_request_of_its_own_are_made_again_too(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    wanted = request("a.tif", outputs=["probability", "overlay"])
    stack.handle(wanted)
    before = stack.outputs()
    delete_outputs(stack, *sorted(before)[:1])
    stack.handle(wanted)
    assert stack.outputs() == before
    assert stack.predictor.pages == 2


def test_a_rejection_whose_result_was_deleted_is_written_again(http: HttpDoor) -> None:
    stack = http.stack
    stack.segment("a.tif", b"no image")
    delete_outputs(stack, "a.tif.result.json")
    answer = http.post("/seg_mask", request("a.tif"))
    assert (answer.status, answer.json["code"]) == (422, "UNREADABLE_IMAGE")
    assert stack.outputs() == {"a.tif.result.json"}


def test_a_stack_overwritten_by_one_page_in_mid_run_leaves_none_of_its_masks(stack: SegmentStack) -> None:
    stack.upload("a.tif", stack_of(3))
    stack.wire.before("PutObject", lambda: stack.upload("a.tif", tiff()), skip=1)
    assert stack.deliver(s3_event("a.tif"), s3_event("a.tif")) == []
    names = {name for name in stack.outputs() if not name.startswith("jobs/")}
    assert names == {"a.tif.mask.png", "a.tif.result.json"}


def test_a_stack_killed_in_mid_run_and_then_overwritten_leaves_none_of_its_masks(stack: SegmentStack) -> None:
    stack.upload("a.tif", stack_of(3))
    stack.wire.cut("PutObject", skip=2)
    assert stack.deliver(s3_event("a.tif")) == [0]
    stack.wire.mend()
    assert "a.tif.p0001.mask.png" in stack.outputs()
    stack.segment("a.tif", tiff())
    assert stack.outputs() == {"a.tif.mask.png", "a.tif.result.json"}


def test_an_image_whose_attempts_all_fail_leaves_no_older_mask(
    stack: SegmentStack, failures: FailuresFunction
) -> None:
    stack.segment("a.tif", tiff(page(0)))
    stack.upload("a.tif", tiff(page(1)))
    stack.wire.fail("HeadObject", "SlowDown", 503, times=5)
    for _ in range(5):
        assert stack.deliver(s3_event("a.tif")) == [0]
    assert stack.outputs() == {"a.tif.mask.png", "a.tif.result.json"}
    assert failures.deliver(s3_event("a.tif")) == []
    assert stack.outputs() == set()
    assert {row["status"] for row in stack.rows()} == {"SUCCEEDED", "FAILED"}
    assert stack.deliver(s3_event("a.tif")) == []
    expected = stack.predictor.predict(page(1)).mask
    assert np.array_equal(stack.mask("a.tif.mask.png"), expected * np.uint8(255))


@pytest.mark.parametrize("then", ["overwritten", "deleted"])
@pytest.mark.parametrize("ended_by", ["the next delivery", "the look afterwards"])
def test_a_job_whose_image_is_replaced_after_a_failed_attempt_is_ended(
    stack: SegmentStack, then: str, ended_by: str
) -> None:
    stack.upload("a.tif", tiff(page(0)))
    stack.wire.fail("PutObject", "SlowDown", 503, times=5)
    assert stack.deliver(s3_event("a.tif")) == [0]
    stack.wire.mend()
    if then == "overwritten":
        stack.upload("a.tif", tiff(page(1)))
    else:
        stack.s3.delete_object(Bucket=INPUT, Key="a.tif")
    (first,) = stack.rows()
    if ended_by == "the next delivery":
        end_writers(stack, "a.tif")
        assert stack.deliver(s3_event("a.tif")) == []
    else:
        assert stack.deliver(s3_event("a.tif")) == []
        assert {row["status"] for row in stack.rows()} > {"RUNNING"}
        end_writers(stack, "a.tif")
        assert stack.deliver({"settle": f"s3://{INPUT}/a.tif"}) == []
    rows = {row["job_id"]: row for row in stack.rows()}
    ended = rows.pop(first["job_id"])
    assert (ended["status"], ended["error_code"]) == ("REJECTED", "IMAGE_REPLACED")
    assert "SlowDown" in ended["error"]
    assert [row["status"] for row in rows.values()] == ["SUCCEEDED" if then == "overwritten" else "REJECTED"]


def test_a_job_that_was_ended_for_a_newer_image_starts_again_if_its_own_comes_back(
    stack: SegmentStack,
) -> None:
    stack.upload("a.tif", tiff(page(0)))
    uploaded = stored("a.tif").last_modified
    stack.wire.fail("PutObject", "SlowDown", 503, times=5)
    assert stack.deliver(s3_event("a.tif")) == [0]
    stack.wire.mend()
    end_writers(stack, "a.tif")
    stack.segment("a.tif", tiff(page(1)))
    end_writers(stack, "a.tif")
    stack.upload("a.tif", tiff(page(0)))
    stored("a.tif").last_modified = uploaded  # within one second, S3 cannot tell the two uploads apart
    assert stack.deliver(s3_event("a.tif")) == []
    expected = stack.predictor.predict(page(0)).mask
    assert np.array_equal(stack.mask("a.tif.mask.png"), expected * np.uint8(255))
    assert {row["status"] for row in stack.rows()} == {"SUCCEEDED"}


def stored(key: str) -> Any:
    """Return moto's own object for an image."""
    (backend,) = (backends["aws"] for backends in s3_backends.values())
    return backend.buckets[INPUT].keys[key]


def end_writers(stack: SegmentStack, key: str) -> None:
    """Let the time of all that write under an image's name be up."""
    (row,) = (row for row in name_rows(stack) if row["image"] == f"s3://{INPUT}/{key}")
    ended = {writer: entry | {"until": 1} for writer, entry in writers_of(row)}
    stack.table.put_item(Item=row | ended)


def test_a_writer_that_finds_another_has_the_name_checked_again(stack: SegmentStack) -> None:
    stack.segment("a.tif", tiff())
    (row,) = name_rows(stack)
    stack.table.put_item(Item=row | {"another": {"until": 2_000_000_000}})
    stack.deliver(s3_event("a.tif"))
    stack.upload("b.tif", tiff())
    stack.deliver(s3_event("b.tif"))
    attributes = stack.sqs.get_queue_attributes(
        QueueUrl=stack.sqs.get_queue_url(QueueName="cytomask-segment")["QueueUrl"],
        AttributeNames=["ApproximateNumberOfMessagesDelayed"],
    )
    assert attributes["Attributes"]["ApproximateNumberOfMessagesDelayed"] == "1"


def test_checking_a_name_again_repairs_it(stack: SegmentStack) -> None:
    stack.segment("a.tif", tiff())
    mask = stack.output("a.tif.mask.png")
    stack.s3.put_object(Bucket=OUTPUT, Key="a.tif.mask.png", Body=b"another's")
    stack.s3.put_object(Bucket=OUTPUT, Key="a.tif.p0007.mask.png", Body=b"another's")
    assert stack.deliver({"settle": f"s3://{INPUT}/a.tif"}) == []
    assert stack.outputs() == {"a.tif.mask.png", "a.tif.result.json"}
    assert stack.output("a.tif.mask.png") == mask


def test_many_keys_that_begin_alike_hide_no_output(
    stack: SegmentStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = stack.s3.list_objects_v2

    def by_twos(**asked: Any) -> Any:
        return listed(**asked | {"MaxKeys": 2})

    for key in ("a", "a.0", "a.1", "a.p", "a.p1x"):
        stack.segment(key, stack_of(2) if key == "a" else tiff())
    monkeypatch.setattr(stack.app.segmenter._storage._s3, "list_objects_v2", by_twos)
    stack.segment("a", tiff())
    own = {name for name in stack.outputs() if name.startswith(("a.mask", "a.p0", "a.result"))}
    assert own == {"a.mask.png", "a.result.json"}
    assert {"a.0.mask.png", "a.1.mask.png", "a.p.mask.png", "a.p1x.mask.png"} <= stack.outputs()


@pytest.mark.parametrize("accept", ["", "image/png"])
def test_a_call_opens_its_image_once(http: HttpDoor, monkeypatch: pytest.MonkeyPatch, accept: str) -> None:
    opened: list[int] = []
    open_image = images.open_image

    def counting(*given: Any, **more: Any) -> Any:
        opened.append(1)
        return open_image(*given, **more)

    monkeypatch.setattr(images, "open_image", counting)
    http.stack.upload("a.tif", tiff())
    assert http.post("/seg_mask", request("a.tif"), accept=accept).status == 200
    assert len(opened) == 1
    assert http.call("POST", "/seg_mask", tiff(), "image/tiff").status == 200
    assert len(opened) == 2
