"""Temporary faults: the message returns to its queue, the lease is released, other images are done."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from factories import INPUT, OUTPUT, event_file, page, request, s3_event, tiff
from functions_on_moto import SegmentStack

# operation, error code, HTTP status, and number of calls of a good job before it; an image that cannot be
# fetched at once is read once more
FAULTS = {
    "S3 is slow when the image is looked at again": ("HeadObject", "SlowDown", 503, 0),
    "S3 fails when the image is read": ("GetObject", "InternalError", 500, 0),
    "the bucket refuses to be read": ("GetObject", "AccessDenied", 403, 0),
    "S3 is slow when the mask is written": ("PutObject", "SlowDown", 503, 0),
    "the bucket refuses the mask": ("PutObject", "AccessDenied", 403, 0),
    "S3 fails when the result is written": ("PutObject", "InternalError", 500, 1),
    "the row is throttled when it is taken": ("UpdateItem", "ProvisionedThroughputExceededException", 400, 0),
    "the row of the name is throttled": ("UpdateItem", "ThrottlingException", 400, 1),
    "the look for ground truths is throttled": ("Query", "ThrottlingException", 400, 0),
    "the row is throttled when it is finished": ("UpdateItem", "InternalServerError", 500, 2),
}
# Every run has each fault in the first test, and some in the others.
SOME_FAULTS = [
    pytest.param(name, marks=[] if at % 3 == 0 else [pytest.mark.slow]) for at, name in enumerate(FAULTS)
]
AFTER_THE_RESULT = {
    "S3 is slow when the image is looked at again",
    "the look for ground truths is throttled",
    "the row is throttled when it is finished",
}


def break_down(stack: SegmentStack, name: str) -> None:
    operation, code, status, skip = FAULTS[name]
    stack.wire.fail(operation, code, status, times=2 if operation == "GetObject" else 1, skip=skip)


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_message_returns_alone_and_succeeds_on_retry(
    stack: SegmentStack, name: Any, log_lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    for key in ("a.tif", "b.tif"):
        stack.upload(key, tiff())
    break_down(stack, name)
    assert stack.deliver(s3_event("a.tif"), s3_event("b.tif"), "no JSON") == [0]
    statuses = {row.get("image"): row["status"] for row in stack.rows()}
    assert statuses.pop(f"s3://{INPUT}/a.tif", "RUNNING") == "RUNNING"
    assert statuses == {f"s3://{INPUT}/b.tif": "SUCCEEDED", None: "REJECTED"}
    (line,) = log_lines("attempt_failed")
    assert (line["image"], line["level"]) == (f"s3://{INPUT}/a.tif", "ERROR")
    assert "Traceback" in line["exception"]

    assert stack.deliver(s3_event("a.tif")) == []
    (row,) = (row for row in stack.rows() if row.get("image") == f"s3://{INPUT}/a.tif")
    assert row["status"] == "SUCCEEDED"
    assert not {"error", "owner", "lease_until"} & row.keys()
    assert stack.result("a.tif.result.json")["status"] == "SUCCEEDED"


@pytest.mark.parametrize("name", SOME_FAULTS)
def test_a_direct_invocation_raises_the_fault(stack: SegmentStack, name: Any) -> None:
    stack.upload("a.tif", tiff())
    break_down(stack, name)
    with pytest.raises(ClientError, match=FAULTS[name][1]):
        stack.handle(s3_event("a.tif"))


@pytest.mark.parametrize("name", SOME_FAULTS)
def test_a_page_with_a_written_result_is_not_segmented_twice(stack: SegmentStack, name: Any) -> None:
    stack.upload("a.tif", tiff())
    break_down(stack, name)
    stack.deliver(s3_event("a.tif"))
    before = stack.predictor.pages
    stack.deliver(s3_event("a.tif"))
    assert stack.predictor.pages - before == (0 if name in AFTER_THE_RESULT else 1)


@pytest.mark.parametrize(("code", "status"), [("SlowDown", 503), ("InternalError", 500)])
def test_a_fault_at_the_first_check_of_an_overwritten_image_is_retried(
    stack: SegmentStack, code: str, status: int
) -> None:
    stack.segment("a.tif", tiff(page(1)))
    stack.upload("a.tif", tiff(page(0)))
    stack.wire.fail("HeadObject", code, status)
    assert stack.deliver(s3_event("a.tif")) == [0]
    assert stack.predictor.pages == 1  # nothing was segmented before the check
    assert stack.deliver(s3_event("a.tif")) == []
    assert stack.predictor.pages == 2
    assert stack.result("a.tif.result.json")["status"] == "SUCCEEDED"


def test_a_fault_releases_the_row_with_its_reason(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.fail("PutObject", "SlowDown", 503)
    stack.deliver(s3_event("a.tif"))
    row = stack.row()
    assert (row["status"], row["lease_until"]) == ("RUNNING", 0)
    assert row["error"].startswith("ClientError: An error occurred (SlowDown)")


def test_all_messages_of_a_batch_may_fail(stack: SegmentStack) -> None:
    for key in ("a.tif", "b.tif"):
        stack.upload(key, tiff())
    stack.wire.fail("GetObject", "InternalError", 500, times=4)
    assert stack.deliver(s3_event("a.tif"), s3_event("b.tif")) == [0, 1]


def test_a_fault_does_not_affect_other_images_of_the_event(stack: SegmentStack) -> None:
    for key in ("plate 1/first.tif", "plate 1/second.tif"):
        stack.upload(key, tiff())
    stack.wire.fail("GetObject", "InternalError", 500, times=2, key="first.tif")
    with pytest.raises(ClientError, match="InternalError"):
        stack.handle(event_file("two_s3_records"))
    statuses = {row["image"]: row["status"] for row in stack.rows()}
    assert statuses == {
        f"s3://{INPUT}/plate 1/first.tif": "RUNNING",
        f"s3://{INPUT}/plate 1/second.tif": "SUCCEEDED",
    }


def test_a_missing_output_bucket_sends_the_message_back(stack: SegmentStack) -> None:
    stack.s3.delete_bucket(Bucket=OUTPUT)
    stack.upload("a.tif", tiff())
    assert stack.deliver(s3_event("a.tif"), request("a.tif", threshold=0.9), "no JSON") == [0, 1, 2]
    assert {row["status"] for row in stack.rows()} == {"RUNNING"}
    assert "NoSuchBucket" in stack.rows()[0]["error"]


def test_a_name_with_constant_other_writers_is_retried_later(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.fail("PutObject", "PreconditionFailed", 412, times=1000)
    assert stack.deliver(s3_event("a.tif")) == [0]


@pytest.mark.parametrize(
    ("code", "status"), [("PreconditionFailed", 412), ("ConditionalRequestConflict", 409)]
)
def test_a_write_that_lost_a_race_is_retried_at_once(stack: SegmentStack, code: str, status: int) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.fail("PutObject", code, status)
    assert stack.deliver(s3_event("a.tif")) == []
    assert stack.predictor.pages == 1


def test_a_missing_table_sends_the_message_back(stack: SegmentStack) -> None:
    stack.table.delete()
    stack.upload("a.tif", tiff())
    assert stack.deliver(s3_event("a.tif"), "no JSON") == [0, 1]


def test_a_truncated_download_is_a_fault_not_a_rejection(
    stack: SegmentStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, begin = tiff(), StreamingBody.__init__

    def cut_short(self: StreamingBody, raw_stream: Any, content_length: Any) -> None:
        whole = int(content_length) != len(body)
        begin(self, raw_stream if whole else io.BytesIO(raw_stream.read(len(body) // 2)), content_length)

    stack.upload("a.tif", body)
    with monkeypatch.context() as patch:
        patch.setattr(StreamingBody, "__init__", cut_short)
        assert stack.deliver(s3_event("a.tif")) == [0]
    assert stack.deliver(s3_event("a.tif")) == []
    assert stack.row()["status"] == "SUCCEEDED"
