"""A COCO file becomes one evaluation for every image it names, in either order of arrival."""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from factories import GROUND_TRUTH, HEIGHT, INPUT, OUTPUT, WIDTH, request, s3_event, stack_of, tiff
from functions_on_moto import EvaluateFunction, SegmentStack
from pycocotools.coco import COCO
from real_images import LIVECELL, needs

from cytomask.metrics import BOUNDARY_TOLERANCE, score, score_boundary
from cytomask.samples.fields import phase_contrast_field
from cytomask.truths import limits

LIVECELL_COCO = LIVECELL / "livecell_coco_test.json"
KEY = "plate 1/A172_Phase_C7_1.tif"
NAME = "A172_Phase_C7_1.tif"
FILE = "annotations.json"
SQUARE = [[10, 10, 40, 10, 40, 50, 10, 50]]


def coco(*names: Any, outline: Any = SQUARE, width: Any = WIDTH, height: Any = HEIGHT) -> Any:
    """Make a COCO file in which each image has one cell."""
    images = [
        {"id": number, "file_name": name, "width": width, "height": height}
        for number, name in enumerate(names)
    ]
    cells = [{"id": 90 + each["id"], "image_id": each["id"], "segmentation": outline} for each in images]
    return json.dumps({"images": images, "annotations": cells}).encode()


def square() -> Any:
    """Return pycocotools' mask of SQUARE, (H, W) bool: pixels 10 to 39 by 10 to 49."""
    cells = np.zeros((HEIGHT, WIDTH), np.bool_)
    cells[10:50, 10:40] = True
    return cells


def upload(evaluate: EvaluateFunction, content: bytes, key: Any = FILE, images: Any = None) -> Any:
    """Upload a COCO file, deliver its notice and the messages it queues; return the messages to retry."""
    metadata = {} if images is None else {"images": quote(images)}
    evaluate.stack.s3.put_object(Bucket=GROUND_TRUTH, Key=key, Body=content, Metadata=metadata)
    failed = evaluate.deliver(s3_event(key, bucket=GROUND_TRUTH))
    return failed + evaluate.deliver_queued()


def indexings(stack: SegmentStack) -> Any:
    return stack.rows("INDEX#")


def only_indexing(stack: SegmentStack) -> Any:
    (row,) = indexings(stack)
    return row


def test_a_file_that_comes_after_its_image_scores_it(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    result = stack.segment(KEY, tiff())
    assert upload(evaluate, coco(NAME, "other.tif")) == []
    row, mask = evaluate.row(), stack.mask(f"{KEY}.mask.png") > 0
    expected, outline = score(mask, square()), score_boundary(mask, square())
    assert 0 < expected.iou < 1
    assert [float(row[name]) for name in ("iou", "dice", "precision", "recall", "boundary_f1")] == [
        expected.iou,
        expected.dice,
        expected.precision,
        expected.recall,
        outline.f1,
    ]
    assert row["boundary_tolerance"] == BOUNDARY_TOLERANCE
    assert float(row["true_confluence"]) == 1200 / (HEIGHT * WIDTH)
    assert (row["evaluation_status"], row["job_id"], row["group"]) == ("SCORED", result["job_id"], "A172")
    assert row["ground_truth"] == f"s3://{GROUND_TRUTH}/{FILE}"
    drawn = stack.mask(row["ground_truth_mask"].removeprefix(f"s3://{OUTPUT}/"))
    np.testing.assert_array_equal(drawn > 0, square())
    indexed = only_indexing(stack)
    assert (indexed["index_status"], indexed["images"], indexed["annotations"]) == ("INDEXED", 2, 2)


def test_a_file_that_comes_before_its_image_scores_it_the_same(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.segment(KEY, tiff())
    upload(evaluate, coco(NAME, "second.tif"))
    after = evaluate.row()
    stack.segment("plate 2/second.tif", tiff())
    assert evaluate.deliver_queued() == []
    _, before = stack.rows("EVAL#")
    assert before["image"] == f"s3://{INPUT}/plate 2/second.tif"
    assert (before["evaluation_status"], before["iou"]) == ("SCORED", after["iou"])


def test_repeated_messages_are_indexed_and_scored_once(
    stack: SegmentStack, evaluate: EvaluateFunction, log_lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    stack.segment(KEY, tiff())
    stack.upload(FILE, coco(NAME), bucket=GROUND_TRUTH)
    notice = s3_event(FILE, bucket=GROUND_TRUTH)
    assert evaluate.deliver(notice, notice) == []
    (message,) = stack.evaluation_messages()
    assert evaluate.deliver(message, message) == []
    scored, indexed = evaluate.row(), only_indexing(stack)
    stack.wire.fail("GetObject", "SlowDown", 503, times=100)
    assert evaluate.deliver(notice, message, notice) == []
    stack.wire.mend()
    stack.handle(s3_event(KEY))
    assert evaluate.deliver_queued() == []
    assert (evaluate.row(), only_indexing(stack)) == (scored, indexed)
    assert len(log_lines("evaluation_scored")) == 1


def test_every_job_of_an_image_is_scored(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    stack.segment(KEY, tiff())
    stack.handle(request(KEY, threshold=0.9))
    stack.segment("elsewhere/A172_Phase_C7_1.tif", tiff())
    upload(evaluate, coco(NAME))
    assert [row["evaluation_status"] for row in stack.rows("EVAL")] == ["SCORED"] * 3


@pytest.mark.parametrize("image_first", [True, False])
def test_a_prefix_narrows_the_images_that_a_file_speaks_for(
    stack: SegmentStack, evaluate: EvaluateFunction, image_first: bool
) -> None:
    keys = ["plate 1/ü/a.tif", "plate 2/a.tif"]
    images = f"s3://{INPUT}/plate 1/ü"
    if image_first:
        for key in keys:
            stack.segment(key, tiff())
    upload(evaluate, coco("a.tif"), images=images)
    if not image_first:
        for key in keys:
            stack.segment(key, tiff())
        evaluate.deliver_queued()
    rows = {row["image"].partition("plate")[2]: row["evaluation_status"] for row in stack.rows("EVAL")}
    assert rows == {" 1/ü/a.tif": "SCORED", " 2/a.tif": "AWAITING_GROUND_TRUTH"}


def test_a_corrected_file_scores_again_and_the_history_is_kept(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.segment(KEY, tiff())
    upload(evaluate, coco(NAME))
    upload(evaluate, coco(NAME, outline=[[0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT]]))
    first, second = stack.rows("EVAL#")
    assert first["record"] != second["record"]
    assert [float(row["true_confluence"]) for row in (first, second)] == [1200 / (HEIGHT * WIDTH), 1]
    assert [row["index_status"] for row in indexings(stack)] == ["INDEXED"] * 2


def test_an_image_that_a_corrected_file_no_longer_names_is_not_scored_by_the_older(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    upload(evaluate, coco(NAME))
    upload(evaluate, coco("other.tif"))
    stack.segment(KEY, tiff())
    assert evaluate.row()["evaluation_status"] == "AWAITING_GROUND_TRUTH"


def test_a_deleted_file_scores_no_later_image(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    upload(evaluate, coco(NAME))
    stack.s3.delete_object(Bucket=GROUND_TRUTH, Key=FILE)
    stack.segment(KEY, tiff())
    assert evaluate.row()["evaluation_status"] == "AWAITING_GROUND_TRUTH"


def test_a_late_event_of_an_older_file_changes_nothing(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.s3.put_bucket_versioning(Bucket=GROUND_TRUTH, VersioningConfiguration={"Status": "Enabled"})
    stack.segment(KEY, tiff())
    stack.upload(FILE, coco("other.tif"), bucket=GROUND_TRUTH)
    newest = stack.upload(FILE, coco(NAME), bucket=GROUND_TRUTH)
    notice = s3_event(FILE, bucket=GROUND_TRUTH)
    assert evaluate.deliver(notice, notice) == []
    assert evaluate.deliver_queued() == []
    assert evaluate.row()["record"] == f"EVAL#{newest}"
    assert len(indexings(stack)) == 1


def test_an_image_that_arrives_while_its_file_is_indexed_is_scored(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.upload(FILE, coco(NAME), bucket=GROUND_TRUTH)
    stack.wire.before("PutObject", lambda: stack.segment(KEY, tiff()), key=f"{NAME}.json")
    assert evaluate.deliver(s3_event(FILE, bucket=GROUND_TRUTH)) == []
    assert evaluate.deliver_queued() == []
    assert evaluate.row()["evaluation_status"] == "SCORED"


@pytest.mark.parametrize(
    "operation",
    ["HeadObject", "GetObject", "PutObject", "GetItem", "PutItem", "UpdateItem", "Query", "SendMessage"],
)
def test_the_retry_completes_an_interrupted_indexing(
    stack: SegmentStack, evaluate: EvaluateFunction, operation: str
) -> None:
    stack.segment(KEY, tiff())
    stack.upload(FILE, coco(NAME), bucket=GROUND_TRUTH)
    notice = s3_event(FILE, bucket=GROUND_TRUTH)
    stack.wire.fail(operation, "ServiceUnavailable", 503)
    assert evaluate.deliver(notice) == [0]
    assert evaluate.deliver(notice) == []
    assert evaluate.deliver_queued() == []
    assert evaluate.row()["evaluation_status"] == "SCORED"


@pytest.mark.parametrize("bucket", [GROUND_TRUTH, INPUT])
def test_a_request_may_name_a_file_of_any_bucket(
    stack: SegmentStack, evaluate: EvaluateFunction, bucket: Any
) -> None:
    stack.upload(FILE, coco(NAME, "other.tif"), bucket=bucket)
    stack.upload(KEY, tiff())
    stack.handle(request(KEY, ground_truth=f"s3://{bucket}/{FILE}"))
    assert evaluate.deliver_queued() == []
    assert (evaluate.row()["evaluation_status"], evaluate.row()["ground_truth"]) == (
        "SCORED",
        f"s3://{bucket}/{FILE}",
    )


def test_a_coco_file_named_by_a_request_scores_only_that_image(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.upload(FILE, coco(NAME, "other.tif"), bucket=INPUT)
    stack.upload(KEY, tiff())
    stack.segment("other.tif", tiff())
    stack.handle(request(KEY, ground_truth=f"s3://{INPUT}/{FILE}"))
    evaluate.deliver_queued()
    statuses = {row["image"].rpartition("/")[2]: row["evaluation_status"] for row in stack.rows("EVAL")}
    assert statuses == {NAME: "SCORED", "other.tif": "AWAITING_GROUND_TRUTH"}


def test_a_named_file_that_comes_later_is_scored(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    stack.upload(KEY, tiff())
    stack.handle(request(KEY, ground_truth=f"s3://{GROUND_TRUTH}/{FILE}"))
    assert evaluate.row()["evaluation_status"] == "AWAITING_GROUND_TRUTH"
    upload(evaluate, coco(NAME))
    assert evaluate.row()["evaluation_status"] == "SCORED"


@pytest.mark.parametrize("named_first", [True, False])
def test_a_named_coco_file_without_the_image_is_rejected(
    stack: SegmentStack, evaluate: EvaluateFunction, named_first: bool
) -> None:
    stack.upload(KEY, tiff())
    if not named_first:
        upload(evaluate, coco("other.tif"))
    stack.handle(request(KEY, ground_truth=f"s3://{GROUND_TRUTH}/{FILE}"))
    if named_first:
        upload(evaluate, coco("other.tif"))
    evaluate.deliver_queued()
    row = evaluate.row()
    assert (row["evaluation_status"], row["error_code"]) == ("REJECTED", "IMAGE_NOT_NAMED")
    assert f"s3://{GROUND_TRUTH}/{FILE} does not name s3://{INPUT}/{KEY}; add it" in row["error"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no JSON", "is not a COCO file"),
        (b"", "is not a COCO file"),
        (b'{"plate": 7}', "missing"),
        (b'{"images": [], "annotations": []}', "lists no images"),
    ],
)
def test_a_file_that_is_not_coco_is_rejected_once_with_a_sentence(
    stack: SegmentStack, evaluate: EvaluateFunction, content: bytes, said: str
) -> None:
    stack.upload(KEY, tiff())
    stack.handle(request(KEY, ground_truth=f"s3://{GROUND_TRUTH}/{FILE}"))
    assert upload(evaluate, content) == []
    for row, status in ((only_indexing(stack), "index_status"), (evaluate.row(), "evaluation_status")):
        assert (row[status], row["error_code"]) == ("REJECTED", "UNREADABLE_COCO")
        assert f"s3://{GROUND_TRUTH}/{FILE}" in row["error"]
        assert said in row["error"]
    stack.wire.fail("GetObject", "SlowDown", 503, times=100)
    assert evaluate.deliver(s3_event(FILE, bucket=GROUND_TRUTH)) == []


def test_a_file_past_the_limit_is_rejected_before_it_is_fetched(
    stack: SegmentStack, evaluate: EvaluateFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_COCO_BYTES", 100)
    stack.segment(KEY, tiff())
    assert upload(evaluate, coco(NAME)) == []
    row = only_indexing(stack)
    assert (row["index_status"], row["error_code"]) == ("REJECTED", "UNREADABLE_COCO")
    assert "split it into files of fewer images" in row["error"]
    assert evaluate.row()["evaluation_status"] == "AWAITING_GROUND_TRUTH"


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (coco(NAME, outline=[[1, 1, 2]]), "UNREADABLE_COCO", f"annotation 90 of {NAME}"),
        (coco(NAME, outline={"size": [1, 1], "counts": "x"}), "UNREADABLE_COCO", "run lengths"),
        (coco(NAME, width=81), "GROUND_TRUTH_MISMATCH", "is 81 x 64 pixels, and the image is 80 x 64"),
        (coco(f"a/{NAME}", f"b/{NAME}"), "IMAGE_NOT_NAMED", f"names a/{NAME}, b/{NAME}, which does not tell"),
    ],
)
def test_a_fault_of_one_image_leaves_the_others(
    stack: SegmentStack, evaluate: EvaluateFunction, content: Any, code: str, said: str
) -> None:
    stack.segment(KEY, tiff())
    stack.segment("other.tif", tiff())
    whole, other = json.loads(content), json.loads(coco("other.tif"))
    whole["images"] += [image | {"id": 7} for image in other["images"]]
    whole["annotations"] += [cell | {"image_id": 7} for cell in other["annotations"]]
    assert upload(evaluate, json.dumps(whole).encode()) == []
    rows = {row["image"].rpartition("/")[2]: row for row in stack.rows("EVAL")}
    assert (rows[NAME]["evaluation_status"], rows[NAME]["error_code"]) == ("REJECTED", code)
    assert f"s3://{GROUND_TRUTH}/{FILE}" in rows[NAME]["error"]
    assert said in rows[NAME]["error"]
    assert rows["other.tif"]["evaluation_status"] == "SCORED"


def test_a_stack_is_rejected(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    stack.segment("stack.tif", stack_of(2))
    upload(evaluate, coco("stack.tif"))
    assert evaluate.row()["error_code"] == "GROUND_TRUTH_MISMATCH"
    assert "describes one page of stack.tif and the image has 2" in evaluate.row()["error"]


@pytest.mark.slow
@needs(LIVECELL_COCO)
def test_livecell_s_test_file_scores_images_of_its_names_in_either_order(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    """The images are generated, because LIVECell's test images are only for the final score."""
    reference, content = COCO(LIVECELL_COCO), LIVECELL_COCO.read_bytes()
    images = reference.loadImgs(reference.getImgIds())
    keys = [f"test images/{image['file_name']}" for image in images]
    for seed, key in enumerate(keys[:4]):
        stack.upload(key, tiff(phase_contrast_field(seed, 520, 704).pixels))
    stack.handle(s3_event(*keys[:4]))
    stack.upload("coco.json", content, bucket=GROUND_TRUTH)
    notice = s3_event("coco.json", bucket=GROUND_TRUTH)
    assert evaluate.deliver(notice, notice) == []
    for seed, key in enumerate(keys[4:], 4):
        stack.upload(key, tiff(phase_contrast_field(seed, 520, 704).pixels))
    stack.handle(s3_event(*keys[4:]))
    stack.handle(s3_event(*keys))
    messages = stack.evaluation_messages()
    assert evaluate.deliver(*messages, *messages) == []

    rows = {row["image"]: row for row in stack.rows("EVAL")}
    assert [row["evaluation_status"] for row in rows.values()] == ["SCORED"] * 8
    for image, key in zip(images, keys, strict=True):
        annotations = reference.loadAnns(reference.getAnnIds(image["id"]))
        cells = np.any([reference.annToMask(each) > 0 for each in annotations], axis=0)
        mask, row = stack.mask(f"{key}.mask.png") > 0, rows[f"s3://{INPUT}/{key}"]
        expected, outline = score(mask, cells), score_boundary(mask, cells)
        names = ("iou", "dice", "precision", "recall")
        values = [getattr(expected, name) for name in names]
        assert [float(row[name]) for name in names] == pytest.approx(values, abs=1e-6)
        assert float(row["boundary_f1"]) == pytest.approx(outline.f1, abs=1e-6)
