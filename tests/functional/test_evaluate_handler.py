"""An evaluation is scored once, in whichever order image and ground truth arrive."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from factories import (
    GROUND_TRUTH,
    INPUT,
    OUTPUT,
    WIDTH,
    event_file,
    page,
    png,
    request,
    s3_event,
    s3_record,
    stack_of,
    tiff,
)
from functions_on_moto import EvaluateFunction, SegmentStack
from PIL import Image

from cytomask.metrics import score, score_boundary

KEY = "plate 1/A172_Phase_C7_1.tif"
TRUTH = "plate 1/A172_Phase_C7_1.png"
RATIOS = ("iou", "dice", "precision", "recall")


def left_half(stack: SegmentStack, key: str = f"{KEY}.mask.png") -> Any:
    """Make a ground truth that equals a mask on the left and is empty on the right: (H, W) uint8."""
    truth = stack.mask(key).copy()
    truth[:, WIDTH // 2 :] = 0
    return truth


def expected_score(stack: SegmentStack, truth: Any, key: str = f"{KEY}.mask.png") -> Any:
    return score(stack.mask(key) > 0, truth > 0)


def ratios(row: Any) -> Any:
    return {name: float(row[name]) for name in RATIOS}


def test_a_ground_truth_that_comes_after_its_image_is_scored(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    result = stack.segment(KEY, tiff())
    truth = left_half(stack)
    assert evaluate.upload(TRUTH, png(truth)) == []
    row, expected = evaluate.row(), expected_score(stack, truth)
    assert 0 < expected.iou < 1
    assert ratios(row) == {name: getattr(expected, name) for name in RATIOS}
    outline = score_boundary(stack.mask(f"{KEY}.mask.png") > 0, truth > 0)
    assert 0 < outline.f1 < 1
    assert (float(row["boundary_f1"]), row["boundary_tolerance"]) == (outline.f1, 2)
    assert (row["job_id"], row["evaluation_status"], row["group"]) == (result["job_id"], "SCORED", "A172")
    assert (row["ground_truth"], row["mask"]) == (f"s3://{GROUND_TRUTH}/{TRUTH}", result["mask"])
    assert row["image"] == f"s3://{INPUT}/{KEY}"
    assert float(row["confluence"]) == result["confluence"]
    assert float(row["true_confluence"]) == np.count_nonzero(truth) / truth.size
    assert (row["false_positive"], row["false_negative"]) == (expected.false_positive, 0)


def test_a_ground_truth_that_comes_before_its_image_is_scored_the_same(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.segment(KEY, tiff())
    truth = png(left_half(stack))
    evaluate.upload(TRUTH, truth)
    after = evaluate.row()
    evaluate.upload("other.png", truth)
    assert len(stack.rows("EVAL")) == 1
    stack.segment("other.tif", tiff())
    assert evaluate.deliver_queued() == []
    _, before = stack.rows("EVAL")
    assert before["image"] == f"s3://{INPUT}/other.tif"
    assert (before["evaluation_status"], ratios(before)) == ("SCORED", ratios(after))


@pytest.mark.parametrize("truth", [KEY, f"{KEY}.png", TRUTH, "plate 1/A172_Phase_C7_1_mask.png"])
def test_every_name_of_a_ground_truth_leads_to_the_job_that_waits(
    stack: SegmentStack, evaluate: EvaluateFunction, truth: Any
) -> None:
    stack.segment(KEY, tiff())
    evaluate.upload(truth, png(left_half(stack)))
    assert (evaluate.row()["evaluation_status"], evaluate.row()["ground_truth"]) == (
        "SCORED",
        f"s3://{GROUND_TRUTH}/{truth}",
    )


def test_every_job_of_an_image_is_scored(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    first = stack.segment(KEY, tiff())
    (second,) = stack.handle(request(KEY, threshold=0.9))
    evaluate.upload(TRUTH, png(left_half(stack)))
    rows = {row["job_id"]: row for row in stack.rows("EVAL")}
    assert set(rows) == {first["job_id"], second["job_id"]}
    assert {row["evaluation_status"] for row in rows.values()} == {"SCORED"}
    assert rows[second["job_id"]]["confluence"] < rows[first["job_id"]]["confluence"]


def test_a_named_ground_truth_that_comes_later_is_scored(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.upload(KEY, tiff())
    stack.handle(request(KEY, ground_truth=f"s3://{GROUND_TRUTH}/elsewhere/truth.tif"))
    evaluate.upload("elsewhere/truth.tif", tiff(left_half(stack)))
    assert evaluate.row()["evaluation_status"] == "SCORED"


def test_a_job_keeps_waiting_for_its_named_ground_truth(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.segment(KEY, tiff())
    stack.handle(request(KEY, ground_truth=f"s3://{GROUND_TRUTH}/elsewhere.png"))
    evaluate.upload(TRUTH, png(left_half(stack)))
    assert {row["evaluation_status"] for row in stack.rows("EVAL")} == {"AWAITING_GROUND_TRUTH", "SCORED"}


def test_a_stack_is_scored_over_all_its_pages(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    stack.segment("stack.tif", stack_of(2))
    masks = [stack.mask(f"stack.tif.p000{number}.mask.png") for number in range(2)]
    truth = np.stack([masks[0], np.zeros_like(masks[1])])
    evaluate.upload("stack.tif", tiff(truth, photometric="minisblack"))
    cells = [np.count_nonzero(mask) for mask in masks]
    assert float(evaluate.row()["iou"]) == cells[0] / sum(cells)
    assert float(evaluate.row()["true_confluence"]) == cells[0] / truth.size
    outlines = [score_boundary(mask > 0, page > 0) for mask, page in zip(masks, truth, strict=True)]
    assert float(evaluate.row()["boundary_f1"]) == (outlines[0] + outlines[1]).f1


def test_messages_that_come_twice_are_scored_once(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    stack.segment(KEY, tiff())
    truth = png(left_half(stack))
    stack.upload(TRUTH, truth, bucket=GROUND_TRUTH)
    stack.handle(request(KEY, ground_truth=f"s3://{GROUND_TRUTH}/{TRUTH}"))
    (message,) = stack.evaluation_messages()
    notice = s3_event(TRUTH, bucket=GROUND_TRUTH)
    assert evaluate.deliver(message, message, notice, notice) == []
    scored = evaluate.row()
    assert scored["evaluation_status"] == "SCORED"
    stack.wire.fail("GetObject", "SlowDown", 503, times=100)
    assert evaluate.deliver(notice, message) == []
    assert evaluate.row() == scored


def test_a_corrected_ground_truth_is_scored_again_and_the_history_is_kept(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.segment(KEY, tiff())
    truth = left_half(stack)
    evaluate.upload(TRUTH, png(truth))
    evaluate.upload(TRUTH, png(stack.mask(f"{KEY}.mask.png")))
    first, second = stack.rows("EVAL")
    assert first["record"] != second["record"]
    assert (float(first["iou"]), second["iou"]) == (expected_score(stack, truth).iou, 1)


def test_a_late_event_of_an_older_ground_truth_changes_nothing(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.s3.put_bucket_versioning(Bucket=GROUND_TRUTH, VersioningConfiguration={"Status": "Enabled"})
    stack.segment(KEY, tiff())
    stack.upload(TRUTH, png(left_half(stack)), bucket=GROUND_TRUTH)
    newest = stack.upload(TRUTH, png(stack.mask(f"{KEY}.mask.png")), bucket=GROUND_TRUTH)
    notice = s3_event(TRUTH, bucket=GROUND_TRUTH)
    assert evaluate.deliver(notice, notice) == []
    assert (evaluate.row()["record"], evaluate.row()["iou"]) == (f"EVAL#{newest}", 1)


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("0 and 1", lambda cells: png(cells.astype(np.uint8))),
        ("soft", lambda cells: png(np.where(cells, 7, 0).astype(np.uint8))),
        ("soft, 16 bits", lambda cells: tiff(np.where(cells, 40_000, 0).astype(np.uint16))),
        ("three classes", lambda cells: png(np.where(cells, np.arange(80) % 2 + 1, 0).astype(np.uint8))),
        ("labels", lambda cells: tiff(np.cumsum(cells).reshape(cells.shape).astype(np.int32) * cells)),
        ("RGB", lambda cells: png(np.stack([cells, cells * 0, cells * 0], -1).astype(np.uint8))),
    ],
)
def test_masks_of_every_kind_give_the_same_cells(
    stack: SegmentStack, evaluate: EvaluateFunction, kind: str, written: Any
) -> None:
    stack.segment(KEY, tiff())
    evaluate.upload(TRUTH, written(stack.mask(f"{KEY}.mask.png") > 0))
    assert (evaluate.row()["evaluation_status"], evaluate.row()["iou"]) == ("SCORED", 1), kind


def jpeg() -> Any:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((64, 80), np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("truth", "code", "named"),
    [
        (png(np.zeros((80, 64), np.uint8)), "GROUND_TRUTH_MISMATCH", ["64 x 80", "80 x 64"]),
        (stack_of(2), "GROUND_TRUTH_MISMATCH", ["2 pages", "the image 1"]),
        (b"text", "UNREADABLE_IMAGE", [TRUTH]),
        (tiff()[:-100], "UNREADABLE_IMAGE", [TRUTH, "cut short"]),
        (jpeg(), "UNREADABLE_IMAGE", [TRUTH, "PNG or TIFF"]),
        (b"", "EMPTY_IMAGE", [TRUTH]),
        (tiff(np.full((64, 80), np.nan, np.float32)), "NON_FINITE_PIXELS", [TRUTH]),
    ],
)
def test_a_faulty_ground_truth_is_rejected_and_not_retried(
    stack: SegmentStack, evaluate: EvaluateFunction, truth: Any, code: str, named: list[Any]
) -> None:
    stack.segment(KEY, tiff())
    assert evaluate.upload(TRUTH, truth) == []
    row = evaluate.row()
    assert (row["evaluation_status"], row["error_code"]) == ("REJECTED", code)
    assert [text for text in named if text not in row["error"]] == []
    assert evaluate.upload(TRUTH, png(left_half(stack))) == []
    assert [row["evaluation_status"] for row in stack.rows("EVAL")] == ["REJECTED", "SCORED"]


def test_a_ground_truth_of_several_channels_is_rejected_by_name(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.segment(KEY, tiff())
    channels = np.zeros((2, 64, 80), np.uint8)
    evaluate.upload(TRUTH, tiff(channels, imagej=True, metadata={"axes": "CYX"}))
    assert (evaluate.row()["error_code"], "2 channels" in evaluate.row()["error"]) == (
        "AMBIGUOUS_CHANNELS",
        True,
    )


def test_two_empty_masks_agree(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    stack.upload(KEY, tiff(np.full((64, 80), 1000, np.uint16)))
    stack.handle(request(KEY, threshold=1))
    evaluate.upload(TRUTH, png(np.zeros((64, 80), np.uint8)))
    assert ratios(evaluate.row()) == dict.fromkeys(RATIOS, 1.0)
    assert (evaluate.row()["confluence"], evaluate.row()["true_confluence"]) == (0, 0)


@pytest.mark.parametrize("lost", [f"{KEY}.mask.png", f"{KEY}.result.json"])
def test_a_missing_mask_ends_its_evaluation(
    stack: SegmentStack, evaluate: EvaluateFunction, lost: str
) -> None:
    stack.segment(KEY, tiff())
    truth = png(left_half(stack))
    stack.s3.delete_object(Bucket=OUTPUT, Key=lost)
    assert evaluate.upload(TRUTH, truth) == []
    row = evaluate.row()
    assert (row["evaluation_status"], row["error_code"], "iou" in row) == ("REJECTED", "MASK_REPLACED", False)
    assert lost in row["error"]


def test_only_the_newer_mask_of_a_replaced_image_is_scored(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    first = stack.segment(KEY, tiff())
    second = stack.segment(KEY, tiff(page()[::-1]))
    evaluate.upload(TRUTH, png(left_half(stack)))
    rows = {row["job_id"]: row for row in stack.rows("EVAL")}
    assert rows[first["job_id"]]["error_code"] == "MASK_REPLACED"
    assert rows[second["job_id"]]["evaluation_status"] == "SCORED"


def test_a_mask_replaced_before_its_result_is_not_mistaken_for_the_older_jobs(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.segment(KEY, tiff())
    newer = png(np.full((64, 80), 255, np.uint8))
    stack.upload(f"{KEY}.mask.png", newer, bucket=OUTPUT)
    evaluate.upload(TRUTH, newer)
    assert (evaluate.row()["evaluation_status"], evaluate.row()["error_code"]) == (
        "REJECTED",
        "MASK_REPLACED",
    )


@pytest.mark.parametrize(
    ("code", "status", "recorded"),
    [
        ("PreconditionFailed", 412, "IMAGE_REPLACED"),
        ("NoSuchKey", 404, "IMAGE_NOT_FOUND"),
        ("InvalidObjectState", 403, "IMAGE_LOCKED"),
    ],
)
def test_a_ground_truth_that_comes_back_after_it_was_missed_is_scored(
    stack: SegmentStack, evaluate: EvaluateFunction, code: str, status: int, recorded: str
) -> None:
    stack.segment(KEY, tiff())
    truth = png(left_half(stack))
    stack.wire.fail("GetObject", code, status, key=TRUTH)
    assert evaluate.upload(TRUTH, truth) == []
    assert evaluate.row()["error_code"] == recorded
    assert evaluate.upload(TRUTH, truth) == []
    assert evaluate.row()["evaluation_status"] == "SCORED"
    assert "error_code" not in evaluate.row()


def test_a_ground_truth_corrected_before_it_is_read_is_scored_in_the_newer_version(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.upload(TRUTH, png(np.zeros((64, 80), np.uint8)), bucket=GROUND_TRUTH)
    stack.segment(KEY, tiff())
    stack.upload(TRUTH, png(left_half(stack)), bucket=GROUND_TRUTH)
    assert evaluate.deliver_queued() == []
    assert evaluate.row()["error_code"] == "IMAGE_REPLACED"
    assert evaluate.deliver(s3_event(TRUTH, bucket=GROUND_TRUTH)) == []
    assert [row["evaluation_status"] for row in stack.rows("EVAL")] == ["REJECTED", "SCORED"]


def test_late_notices_of_older_versions_of_a_ground_truth_score_the_newest_alone(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.s3.put_bucket_versioning(Bucket=GROUND_TRUTH, VersioningConfiguration={"Status": "Enabled"})
    stack.segment(KEY, tiff())
    older, newer = (
        stack.upload(TRUTH, png(mask), bucket=GROUND_TRUTH)
        for mask in (np.eye(64, 80, dtype=np.uint8), left_half(stack))
    )
    for version in (older, newer, older):
        assert evaluate.deliver({"Records": [s3_record(TRUTH, GROUND_TRUTH, version)]}) == []
    row = evaluate.row()
    assert (row["record"], row["evaluation_status"]) == (f"EVAL#{newer}", "SCORED")


def test_a_ground_truth_without_an_image_waits_and_is_logged(
    stack: SegmentStack, evaluate: EvaluateFunction, log_lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    assert evaluate.upload(TRUTH, png(np.zeros((64, 80), np.uint8))) == []
    assert stack.rows("EVAL") == []
    (line,) = log_lines("ground_truth_unmatched")
    assert line["ground_truth"] == f"s3://{GROUND_TRUTH}/{TRUTH}"
    assert line["images"] == [TRUTH.removesuffix(".png")]


def test_a_deleted_ground_truth_leaves_the_job_waiting(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.segment(KEY, tiff())
    assert evaluate.deliver(s3_event(TRUTH, bucket=GROUND_TRUTH)) == []
    assert evaluate.row()["evaluation_status"] == "AWAITING_GROUND_TRUTH"


@pytest.mark.parametrize(
    "body",
    [
        event_file("s3_test_event"),
        s3_event("plate 1/A172_Phase_C7_1.csv", bucket=GROUND_TRUTH),
        s3_event("plate 1/", bucket=GROUND_TRUTH),
        "no JSON",
        {"job_id": "a", "record": 7},
        {},
    ],
)
def test_messages_without_a_request_are_acknowledged(
    stack: SegmentStack, evaluate: EvaluateFunction, body: Any
) -> None:
    stack.segment(KEY, tiff())
    assert evaluate.deliver(body) == []
    assert evaluate.row()["evaluation_status"] == "AWAITING_GROUND_TRUTH"


@pytest.mark.parametrize(
    "operation", ["GetObject", "HeadObject", "GetItem", "UpdateItem", "PutItem", "Query"]
)
def test_a_temporary_fault_is_retried_and_its_neighbour_is_scored(
    stack: SegmentStack, evaluate: EvaluateFunction, operation: str
) -> None:
    keys = ("a", "b")
    for key in keys:
        stack.segment(f"{key}.tif", tiff())
        stack.upload(f"{key}.png", png(left_half(stack, f"{key}.tif.mask.png")), bucket=GROUND_TRUTH)
    notices = [s3_event(f"{key}.png", bucket=GROUND_TRUTH) for key in keys]
    stack.wire.fail(operation, "ServiceUnavailable", 503)
    assert evaluate.deliver(*notices) == [0]
    assert evaluate.deliver(notices[0]) == []
    assert [row["evaluation_status"] for row in stack.rows("EVAL#")] == ["SCORED", "SCORED"]


def test_only_the_failing_job_of_several_is_retried(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    stack.segment(KEY, tiff())
    stack.handle(request(KEY, threshold=0.9))
    truth = png(left_half(stack))
    stack.wire.fail("UpdateItem", "ServiceUnavailable", 503)
    assert evaluate.upload(TRUTH, truth) == [0]
    assert sorted(row["evaluation_status"] for row in stack.rows("EVAL")) == ["QUEUED", "SCORED"]
    assert evaluate.deliver(s3_event(TRUTH, bucket=GROUND_TRUTH)) == []
    assert [row["evaluation_status"] for row in stack.rows("EVAL")] == ["SCORED", "SCORED"]
