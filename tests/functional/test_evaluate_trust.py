"""The evaluation queue fetches nothing from elsewhere, and every failure has a line of level ERROR."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from factories import GROUND_TRUTH, INPUT, OUTPUT, REGION, ground_truth, s3_event, tiff
from functions_on_moto import EvaluateFunction, SegmentStack

LogLines = Callable[[str], list[dict[str, Any]]]
FOREIGN = "somebody-elses-bucket"
COCO = (
    b'{"images": [{"id": 1, "file_name": "a.tif", "width": 80, "height": 64}],'
    b'"annotations": [{"image_id": 1, "segmentation": [[1, 1, 40, 1, 40, 40]]}]}'
)


@pytest.fixture
def foreign(stack: SegmentStack) -> str:
    """Make a bucket that the functions could read but the stack does not serve."""
    place = {"LocationConstraint": REGION}
    stack.s3.create_bucket(Bucket=FOREIGN, CreateBucketConfiguration=place)
    stack.upload("a.png", ground_truth(), bucket=FOREIGN)
    stack.upload("coco.json", COCO, bucket=FOREIGN)
    return FOREIGN


@pytest.mark.parametrize("key", ["a.png", "coco.json"])
def test_a_notice_that_names_a_foreign_bucket_is_refused_unread(
    stack: SegmentStack, evaluate: EvaluateFunction, foreign: str, log_lines: LogLines, key: str
) -> None:
    stack.segment("a.tif", tiff())
    before = stack.table.scan()["Items"]
    fetched: Counter[str] = Counter()
    for operation in ("HeadObject", "GetObject"):
        stack.wire.before(operation, partial(fetched.update, [operation]), times=100)
    assert evaluate.deliver(s3_event(key, bucket=foreign)) == []
    assert not fetched
    assert stack.table.scan()["Items"] == before
    (line,) = log_lines("message_refused")
    assert (line["level"], line["error_code"]) == ("ERROR", "FOREIGN_BUCKET")
    assert f"s3://{foreign}/{key}" in line["error"]
    assert line["what_to_do"]


@pytest.mark.parametrize(
    "changed",
    [
        {"ground_truth": {"bucket": FOREIGN, "key": "a.png", "etag": "e"}},
        {"ground_truth": {"bucket": OUTPUT, "key": "jobs/coco/x/a.tif.json", "etag": "e"}},
        {"result": f"s3://{FOREIGN}/a.tif.result.json"},
    ],
    ids=["foreign truth", "part of a COCO file", "foreign result"],
)
def test_an_evaluation_that_names_what_it_may_not_is_refused_unread(
    stack: SegmentStack,
    evaluate: EvaluateFunction,
    foreign: str,
    log_lines: LogLines,
    changed: dict[str, Any],
) -> None:
    stack.upload("a.png", ground_truth(), bucket=GROUND_TRUTH)
    stack.segment("a.tif", tiff())
    (message,) = stack.evaluation_messages()
    assert evaluate.deliver(message | changed) == []
    assert evaluate.row()["evaluation_status"] == "QUEUED"
    (line,) = log_lines("message_refused")
    assert (line["level"], line["error_code"]) == ("ERROR", "FOREIGN_BUCKET")
    assert evaluate.deliver(message) == []
    assert evaluate.row()["evaluation_status"] == "SCORED"


@pytest.mark.parametrize("truth", ["a.png", pytest.param("coco.json", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "operation", ["HeadObject", "GetObject", "GetItem", "PutItem", "Query", "UpdateItem"]
)
def test_every_failure_before_a_score_is_an_error_line(
    stack: SegmentStack, evaluate: EvaluateFunction, log_lines: LogLines, operation: str, truth: str
) -> None:
    stack.segment("a.tif", tiff())
    content = COCO if truth.endswith("json") else ground_truth()
    stack.upload(truth, content, bucket=GROUND_TRUTH)
    waiting: list[Any] = [s3_event(truth, bucket=GROUND_TRUTH)]
    failed = 0
    for skipped in range(40):
        stack.wire.fail(operation, "ServiceUnavailable", 503, skip=skipped % 8)
        again = evaluate.deliver(*waiting)
        stack.wire.mend()
        failed += len(again)
        waiting = [waiting[at] for at in again] + stack.evaluation_messages()
        if not waiting:
            break
    lines = log_lines("attempt_failed")
    assert failed and len(lines) >= failed
    for line in lines:
        assert line["level"] == "ERROR"
        assert line["ground_truth"] == f"s3://{GROUND_TRUTH}/{truth}"
        assert line["what_to_do"]
        assert "exception" in line
    assert not waiting
    assert [row["evaluation_status"] for row in stack.rows("EVAL")] == ["SCORED"]


def test_a_rejected_score_says_job_and_row(
    stack: SegmentStack, evaluate: EvaluateFunction, log_lines: LogLines
) -> None:
    result = stack.segment("a.tif", tiff())
    evaluate.upload("a.png", b"text")
    (line,) = log_lines("evaluation_rejected")
    assert (line["job_id"], line["record"]) == (result["job_id"], evaluate.row()["record"])
    assert (line["level"], line["error_code"]) == ("WARNING", "UNREADABLE_IMAGE")
    assert evaluate.row()["image"] == f"s3://{INPUT}/a.tif"
