"""Bad input is rejected with a code and a sentence, recorded, never retried, and affects no other image."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from botocore.response import StreamingBody
from factories import (
    HEIGHT,
    INPUT,
    OUTPUT,
    WIDTH,
    header_only_tiff,
    page,
    request,
    s3_event,
    s3_record,
    stack_of,
    tiff,
)
from functions_on_moto import EvaluateFunction, SegmentStack

from cytomask.images import Limits


def with_pixel(value: float) -> bytes:
    pixels = page().astype(np.float32)
    pixels[3, 5] = value
    return tiff(pixels)


FIVE_CHANNELS = np.stack([page(seed) for seed in range(5)])  # 5, 64, 80
BAD_IMAGES = {
    "empty object": (b"", "EMPTY_IMAGE", "no bytes"),
    "text": (b"well,confluence\nA1,0.5\n", "UNREADABLE_IMAGE", "not a TIFF, PNG or JPEG"),
    "truncated": (tiff(compression="lzw")[:-700], "UNREADABLE_IMAGE", "copy it again"),
    "truncated header": (tiff()[:40], "UNREADABLE_IMAGE", "copy it again"),
    "huge header": (header_only_tiff(100_000, 100_000), "IMAGE_TOO_LARGE", "100000 x 100000"),
    "no rows": (header_only_tiff(0, 80), "EMPTY_IMAGE", "80 x 0 pixels"),
    "five channels": (
        tiff(FIVE_CHANNELS, metadata={"axes": "CYX"}, ome=True),
        "AMBIGUOUS_CHANNELS",
        "name the phase-contrast one as `channel`, 0 to 4",
    ),
    "a NaN": (with_pixel(float("nan")), "NON_FINITE_PIXELS", "NaN or infinite in 1 of "),
    "an infinity": (with_pixel(float("inf")), "NON_FINITE_PIXELS", "NaN or infinite in 1 of "),
}
BAD_REQUESTS = {
    "no JSON": ("{image: s3://b/k}", "not JSON"),
    "nothing": ("", "not JSON"),
    "endless nesting": ("[" * 100_000, "not JSON"),
    "a list": ("[]", "not a JSON object"),
    "text": ('"s3://bucket/key"', "not a JSON object"),
    "no image": ('{"key": "a.tif"}', "names no image"),
    "an unknown field": (request("a.tif", treshold=0.4), "unknown field `treshold`"),
    "two images": (request("a.tif", image_path="s3://bucket/b.tif"), "one of `image` and `image_path`"),
    "a path on a disk": ({"image_path": "C:\\cells\\a.tif"}, '`image_path`: "C:\\cells\\a.tif" is no'),
    "a web address": ({"image": "https://bucket.s3.amazonaws.com/a.tif"}, '`image`: "https:'),
    "a bucket alone": ({"image": "s3://bucket/"}, '`image`: "s3://bucket/" is not an S3 address'),
    "a number for an image": ({"image": 7}, "`image`: Expected `str"),
    "a threshold above 1": (request("a.tif", threshold=1.1), "`threshold`: Expected `float` <= 1"),
    "a threshold as text": (request("a.tif", threshold="0.5"), "`threshold`: Expected `float"),
    "an unknown mode": (request("a.tif", mode="fast"), "`mode`: Invalid enum value 'fast'"),
    "pages backwards": (request("a.tif", pages="3-1"), '`pages`: "3-1" is none of these'),
    "negative page": (request("a.tif", pages=-1), '`pages`: "-1" is none of these'),
    "an unknown output": (request("a.tif", outputs=["mask", "gif"]), "`outputs`: Invalid enum value 'gif'"),
    "no output": (request("a.tif", outputs=[]), "`outputs`: it is empty"),
    "a long group": (request("a.tif", group="g" * 257), "`group`: Expected `str` of length <= 256"),
    "a key too long": (request("k" * 1025), "longer than S3's 1024 bytes"),
    "a record of nobody": ({"Records": [{"dynamodb": {}}]}, "missing required field"),
    "a record that is a number": ({"Records": [7]}, "Expected `object`, got `int`"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_rejected_with_a_reason_without_affecting_others(
    stack: SegmentStack, log_lines: Callable[[str], list[dict[str, Any]]], name: Any
) -> None:
    body, code, sentence = BAD_IMAGES[name]
    stack.upload("good.tif", tiff())
    stack.upload("bad.tif", body)
    assert stack.deliver(s3_event("bad.tif"), s3_event("good.tif")) == []
    statuses = {row["image"]: row["status"] for row in stack.rows()}
    assert statuses == {f"s3://{INPUT}/bad.tif": "REJECTED", f"s3://{INPUT}/good.tif": "SUCCEEDED"}
    assert stack.outputs() == {"bad.tif.result.json", "good.tif.result.json", "good.tif.mask.png"}
    (row,) = (row for row in stack.rows() if row["status"] == "REJECTED")
    result = stack.result("bad.tif.result.json")
    assert (row["error_code"], row["error"]) == (code, result["error"]["message"])
    assert (result["status"], result["error"]["code"]) == ("REJECTED", code)
    assert sentence in result["error"]["message"]
    assert "bad.tif" in result["error"]["message"]
    assert stack.rows("EVAL#")[0]["job_id"] != row["job_id"]
    (line,) = log_lines("image_rejected")
    expected = {"job_id": row["job_id"], "image": row["image"], "error_code": code, "error": row["error"]}
    assert {field: line[field] for field in expected} == expected


def test_a_rejected_image_is_not_tried_again(stack: SegmentStack) -> None:
    stack.upload("bad.tif", b"text")
    (first,) = stack.handle(s3_event("bad.tif"))
    stack.wire.fail("PutObject", "Untouchable", 500)
    (second,) = stack.handle(s3_event("bad.tif"))
    assert first == second
    assert len(stack.rows()) == 1


def test_rejected_jobs_are_found_by_status(stack: SegmentStack) -> None:
    stack.segment("bad.tif", b"text")
    (row,) = stack.indexed("by_status", "status", "REJECTED")
    assert row["result"] == f"s3://{OUTPUT}/bad.tif.result.json"


def test_an_image_deleted_before_the_event_is_rejected(stack: SegmentStack) -> None:
    assert stack.deliver(s3_event("gone.tif")) == []
    assert stack.row()["error_code"] == "IMAGE_NOT_FOUND"
    assert "never uploaded" in stack.result("gone.tif.result.json")["error"]["message"]


def test_an_image_deleted_before_the_read_is_rejected(stack: SegmentStack) -> None:
    stack.upload("gone.tif", tiff())
    stack.wire.before(
        "GetObject", lambda: stack.s3.delete_object(Bucket=INPUT, Key="gone.tif"), key="gone.tif"
    )
    assert stack.deliver(s3_event("gone.tif")) == []
    assert stack.row()["error_code"] == "IMAGE_NOT_FOUND"


def test_an_image_uploaded_after_its_rejection_gets_a_new_job(stack: SegmentStack) -> None:
    stack.handle(request("late.tif"))
    stack.segment("late.tif", tiff())
    assert [row["status"] for row in stack.rows()] == ["REJECTED", "SUCCEEDED"]
    assert stack.result("late.tif.result.json")["status"] == "SUCCEEDED"


def test_an_unknown_version_is_rejected(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    event = {"Records": [s3_record("a.tif", version="3HL4kqtJlcpXroDTDmJrmSpXd3dIbrHY")]}
    assert stack.deliver(event) == []
    assert stack.row()["error_code"] == "IMAGE_NOT_FOUND"


def test_a_missing_bucket_is_rejected(stack: SegmentStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_BUCKETS", "no-such-bucket")
    monkeypatch.setattr(stack.app, "segmenter", stack.app.connect()[0])
    (result,) = stack.handle({"image": "s3://no-such-bucket/a.tif"})
    assert result["error"]["code"] == "IMAGE_NOT_FOUND"


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_an_unusable_message_is_rejected_without_affecting_others(stack: SegmentStack, name: Any) -> None:
    message, sentence = BAD_REQUESTS[name]
    stack.upload("good.tif", tiff())
    assert stack.deliver(message, request("good.tif")) == []
    bad, good = sorted(stack.rows(), key=lambda row: row["status"])
    assert good["status"] == "SUCCEEDED"
    assert (bad["status"], bad["error_code"]) == ("REJECTED", "INVALID_REQUEST")
    assert sentence in bad["error"]
    assert bad["result"] == f"s3://{OUTPUT}/jobs/{bad['job_id']}/message.result.json"
    result = stack.result(f"jobs/{bad['job_id']}/message.result.json")
    assert result["error"] == {"code": "INVALID_REQUEST", "message": bad["error"]}


def test_a_rejected_message_is_stored(stack: SegmentStack) -> None:
    stack.deliver(request("a.tif", colour="red"))
    assert json.loads(stack.row()["message"]) == request("a.tif", colour="red")


def test_a_long_rejected_message_is_shortened(stack: SegmentStack) -> None:
    stack.deliver("x" * 200_000)
    assert stack.row()["message"] == "x" * 4096


def test_the_error_of_a_field_lists_accepted_values(stack: SegmentStack) -> None:
    (result,) = stack.handle(request("a.tif", threshold=2))
    assert result["error"]["message"].endswith("it takes a probability from 0 to 1")
    (result,) = stack.handle(request("a.tif", tile=2))
    assert result["error"]["message"].endswith(
        "a request takes image, image_path, ground_truth, threshold, mode, pages, channel, outputs, "
        "min_size_px, min_size_um2, fill_holes, pixel_size_um, group, plate, well, site, time, cell_line, "
        "expected_pages"
    )


def test_a_bad_record_does_not_affect_the_rest_of_its_event(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    event = {"Records": [{"s3": {}}, s3_record("a.tif")]}
    assert stack.deliver(event) == []
    assert sorted(row["status"] for row in stack.rows()) == ["REJECTED", "SUCCEEDED"]


def test_a_bad_direct_request_is_answered_as_rejected(stack: SegmentStack) -> None:
    (result,) = stack.handle({"image": "s3://bucket/\ud800"})
    assert (result["status"], result["error"]["code"]) == ("REJECTED", "INVALID_REQUEST")


def test_a_page_past_the_end_is_rejected(stack: SegmentStack) -> None:
    stack.upload("stack.tif", stack_of(2))
    (result,) = stack.handle(request("stack.tif", pages="1-2"))
    assert result["error"]["code"] == "NO_SUCH_PAGE"
    assert "has no page 2: it has 2, counted from 0" in result["error"]["message"]
    assert stack.outputs() == {f"jobs/{result['job_id']}/stack.tif.result.json"}


def test_an_unknown_channel_is_rejected(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    (result,) = stack.handle(request("a.tif", channel=1))
    assert result["error"]["code"] == "AMBIGUOUS_CHANNELS"


def test_a_damaged_page_rejects_the_stack_but_keeps_earlier_pages(stack: SegmentStack) -> None:
    pages = np.stack([page(seed).astype(np.float32) for seed in range(3)])
    pages[1, 0, 0] = np.nan
    result = stack.segment("stack.tif", tiff(pages, photometric="minisblack"))
    assert (result["status"], result["error"]["code"]) == ("REJECTED", "NON_FINITE_PIXELS")
    assert "page 1 of" in result["error"]["message"]
    assert [done["mask"] for done in result["pages"]] == [f"s3://{OUTPUT}/stack.tif.p0000.mask.png"]
    assert stack.outputs() == {"stack.tif.p0000.mask.png", "stack.tif.result.json"}
    assert stack.rows("EVAL") == []


@pytest.mark.parametrize("key", ["k" * 1024, "ü" * 512, "k" * 1001 + ".tif", "d/" * 510 + "a.tif"])
def test_a_key_too_long_for_its_suffix_is_segmented_under_its_job(stack: SegmentStack, key: Any) -> None:
    result = stack.segment(key, tiff())
    prefix = f"jobs/{result['job_id']}/image"
    assert result["status"] == "SUCCEEDED"
    assert stack.outputs() == {f"{prefix}.mask.png", f"{prefix}.result.json"}
    assert stack.mask(f"{prefix}.mask.png").shape == (HEIGHT, WIDTH)
    assert stack.row()["image"] == f"s3://{INPUT}/{key}"


@pytest.mark.parametrize(
    "named", [{"image": "s3://private/a.tif"}, request("a.tif", ground_truth="s3://private/truth.png")]
)
def test_a_foreign_bucket_is_refused_without_being_accessed(stack: SegmentStack, named: Any) -> None:
    stack.upload("a.tif", tiff())
    for operation in ("HeadObject", "GetObject"):
        stack.wire.fail(operation, "asked", 500, times=10)
    assert stack.deliver(named) == []
    row = stack.row()
    assert (row["status"], row["error_code"]) == ("REJECTED", "FOREIGN_BUCKET")
    assert "s3://private/" in row["error"]
    assert json.loads(row["message"]) == named
    assert stack.result(row["result"].split("/", 3)[3])["error"]["code"] == "FOREIGN_BUCKET"


def test_outputs_of_an_allowed_bucket_are_written_under_its_name(
    stack: SegmentStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOWED_BUCKETS", "another, private")
    monkeypatch.setattr(stack.app, "segmenter", stack.app.connect()[0])
    stack.s3.create_bucket(Bucket="private", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    stack.upload("a.tif", tiff(), bucket="private")
    (result,) = stack.handle({"image": "s3://private/a.tif"})
    assert result["status"] == "SUCCEEDED"
    assert stack.outputs() == {"private/a.tif.mask.png", "private/a.tif.result.json"}
    (again,) = stack.handle({"image": "s3://private/a.tif"})
    assert again == result


def test_an_image_whose_key_begins_like_an_allowed_bucket_takes_no_name_from_it(
    stack: SegmentStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOWED_BUCKETS", "private")
    monkeypatch.setattr(stack.app, "segmenter", stack.app.connect()[0])
    stack.upload("private/a.tif", tiff())
    (result,) = stack.handle(request("private/a.tif"))
    assert result["mask"] == f"s3://{OUTPUT}/jobs/{result['job_id']}/private/a.tif.mask.png"


@pytest.mark.parametrize("event", [None, [], 7, "s3://bucket/key", {}, {"Records": None}])
def test_an_unknown_event_is_answered_as_rejected(stack: SegmentStack, event: Any) -> None:
    (result,) = stack.handle(event)
    assert (result["status"], result["error"]["code"]) == ("REJECTED", "INVALID_REQUEST")


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Return a function after which an object of this length cannot be read any more."""
    read = StreamingBody.read

    def forbid(body: bytes) -> None:
        def guarded(stream: Any, amt: int | None = None) -> bytes:
            if int(stream._content_length) == len(body):
                raise AssertionError("read")
            return read(stream, amt)

        monkeypatch.setattr(StreamingBody, "read", guarded)

    return forbid


@pytest.mark.parametrize("refused", [0, 1], ids=["with the lookup", "after the lookup"])
def test_an_object_past_the_limit_is_rejected_before_its_bytes_are_read(
    stack: SegmentStack,
    unread: Callable[[bytes], None],
    monkeypatch: pytest.MonkeyPatch,
    refused: int,
) -> None:
    body = tiff()
    unread(body)
    monkeypatch.setattr(stack.app.segmenter._writer, "_limits", Limits(file_bytes=len(body) - 1))
    stack.upload("large.tif", body)
    stack.wire.fail("GetObject", "SlowDown", 503, times=refused)
    assert stack.deliver(s3_event("large.tif")) == []
    assert (stack.row()["status"], stack.row()["error_code"]) == ("REJECTED", "IMAGE_TOO_LARGE")


def test_a_ground_truth_past_the_limit_is_rejected_before_its_bytes_are_read(
    stack: SegmentStack,
    evaluate: EvaluateFunction,
    unread: Callable[[bytes], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stack.segment("a.tif", tiff())
    body = tiff(np.eye(HEIGHT, WIDTH, dtype=np.float64))
    unread(body)
    monkeypatch.setattr(evaluate.app.evaluator, "_limits", Limits(file_bytes=len(body) - 1))
    assert evaluate.upload("a_mask.tif", body) == []
    row = evaluate.row()
    assert (row["evaluation_status"], row["error_code"]) == ("REJECTED", "IMAGE_TOO_LARGE")
