"""A job's evaluation is queued if its ground truth exists, and awaited otherwise."""

from typing import Any

import boto3
import pytest
from factories import GROUND_TRUTH, INPUT, OUTPUT, TABLE, ground_truth, request, s3_event, tiff
from functions_on_moto import SegmentStack, listening

from cytomask.coco_index import CocoIndex
from cytomask.evaluations import Evaluations
from cytomask.jobs import Jobs
from cytomask.mask_index import MaskIndex
from cytomask.table import Table

KEY = "plate 1/A172_Phase_C7_1.tif"
URI = f"s3://{GROUND_TRUTH}/somewhere/truth.png"


def etag(stack: SegmentStack, key: str, bucket: Any = GROUND_TRUTH) -> Any:
    return stack.s3.head_object(Bucket=bucket, Key=key)["ETag"].strip('"')


def test_a_mask_awaits_its_ground_truth(stack: SegmentStack) -> None:
    result = stack.segment(KEY, tiff())
    (row,) = stack.rows("EVAL")
    expected = {
        "job_id": result["job_id"],
        "record": "EVAL#awaiting",
        "evaluation_status": "AWAITING_GROUND_TRUTH",
        "image": f"s3://{INPUT}/{KEY}",
        "mask": f"s3://{OUTPUT}/{KEY}.mask.png",
        "group": "A172",
    }
    assert {name: row[name] for name in expected} == expected
    assert "ground_truth" not in row
    assert stack.evaluation_messages() == []


@pytest.mark.parametrize(
    "key", [KEY, f"{KEY}.png", "plate 1/A172_Phase_C7_1.png", "plate 1/A172_Phase_C7_1_mask.png"]
)
def test_a_ground_truth_under_the_images_key_is_found_and_queued(stack: SegmentStack, key: Any) -> None:
    stack.upload(key, ground_truth(), bucket=GROUND_TRUTH)
    result = stack.segment(KEY, tiff())
    (row,) = stack.rows("EVAL")
    version = etag(stack, key)
    assert (row["record"], row["evaluation_status"]) == (f"EVAL#{version}", "QUEUED")
    assert row["ground_truth"] == f"s3://{GROUND_TRUTH}/{key}"
    assert row["group"] == "A172"
    (message,) = stack.evaluation_messages()
    assert message["ground_truth"].pop("uploaded_at")
    assert message == {
        "job_id": result["job_id"],
        "record": f"EVAL#{version}",
        "result": f"s3://{OUTPUT}/{KEY}.result.json",
        "ground_truth": {"bucket": GROUND_TRUTH, "key": key, "version_id": None, "etag": version},
    }


def test_a_ground_truth_in_a_versioned_bucket_keeps_its_version(stack: SegmentStack) -> None:
    stack.s3.put_bucket_versioning(Bucket=GROUND_TRUTH, VersioningConfiguration={"Status": "Enabled"})
    version = stack.upload(KEY, ground_truth(), bucket=GROUND_TRUTH)
    stack.segment(KEY, tiff())
    assert [row["record"] for row in stack.rows("EVAL")] == [f"EVAL#{version}"]


def test_a_named_ground_truth_takes_precedence_over_one_under_the_images_key(stack: SegmentStack) -> None:
    stack.upload(KEY, ground_truth(), bucket=GROUND_TRUTH)
    stack.upload("somewhere/truth.png", b"another", bucket=GROUND_TRUTH)
    stack.upload(KEY, tiff())
    stack.handle(request(KEY, ground_truth=URI))
    (row,) = stack.rows("EVAL")
    assert (row["evaluation_status"], row["ground_truth"]) == ("QUEUED", URI)


def test_a_missing_named_ground_truth_is_awaited(stack: SegmentStack) -> None:
    stack.upload(KEY, tiff())
    stack.handle(request(KEY, ground_truth=URI))
    (row,) = stack.rows("EVAL")
    assert (row["evaluation_status"], row["ground_truth"]) == ("AWAITING_GROUND_TRUTH", URI)


def test_a_rejected_image_is_not_scored(stack: SegmentStack) -> None:
    stack.upload(KEY, ground_truth(), bucket=GROUND_TRUTH)
    stack.segment(KEY, b"text")
    assert stack.rows("EVAL") == []
    assert stack.evaluation_messages() == []


def test_a_repeat_that_names_a_ground_truth_adds_an_evaluation_only(stack: SegmentStack) -> None:
    stack.segment(KEY, tiff())
    stack.upload("somewhere/truth.png", ground_truth(), bucket=GROUND_TRUTH)
    (repeated,) = stack.handle(request(KEY, ground_truth=URI))
    assert repeated["status"] == "SUCCEEDED"
    assert stack.predictor.pages == 1
    (row,) = stack.rows("EVAL")
    assert (row["evaluation_status"], row["ground_truth"]) == ("QUEUED", URI)
    assert (row["group"], row["mask"]) == ("A172", repeated["mask"])
    assert len(stack.evaluation_messages()) == 1


def test_a_repeat_that_names_a_missing_ground_truth_awaits_it(stack: SegmentStack) -> None:
    stack.segment(KEY, tiff())
    stack.handle(request(KEY, ground_truth=URI))
    (row,) = stack.rows("EVAL")
    assert (row["record"], row["ground_truth"]) == ("EVAL#awaiting", URI)


def test_a_repeat_with_another_ground_truth_keeps_both_evaluations(stack: SegmentStack) -> None:
    stack.upload(KEY, ground_truth(), bucket=GROUND_TRUTH)
    stack.segment(KEY, tiff())
    stack.upload("somewhere/truth.png", b"another", bucket=GROUND_TRUTH)
    stack.handle(request(KEY, ground_truth=URI))
    rows = stack.rows("EVAL")
    assert {row["ground_truth"] for row in rows} == {URI, f"s3://{GROUND_TRUTH}/{KEY}"}
    assert len(stack.evaluation_messages()) == 2


def test_an_evaluation_takes_a_later_label_of_its_job(stack: SegmentStack) -> None:
    stack.segment(KEY, tiff())
    stack.handle(request(KEY, group="plate 7"))
    stack.upload("somewhere/truth.png", ground_truth(), bucket=GROUND_TRUTH)
    stack.handle(request(KEY, ground_truth=URI))
    assert [row["group"] for row in stack.rows("EVAL")] == ["plate 7"]


def test_an_evaluation_that_was_scored_is_not_queued_again(stack: SegmentStack) -> None:
    stack.upload(KEY, ground_truth(), bucket=GROUND_TRUTH)
    stack.segment(KEY, tiff())
    stack.evaluation_messages()
    (row,) = stack.rows("EVAL")
    stack.table.put_item(Item=row | {"evaluation_status": "SCORED"})
    stack.handle(request(KEY, ground_truth=f"s3://{GROUND_TRUTH}/{KEY}"))
    assert [row["evaluation_status"] for row in stack.rows("EVAL")] == ["SCORED"]
    assert stack.evaluation_messages() == []


def test_a_message_that_could_not_be_sent_is_sent_by_the_retry(stack: SegmentStack) -> None:
    stack.upload(KEY, ground_truth(), bucket=GROUND_TRUTH)
    stack.upload(KEY, tiff())
    stack.wire.fail("SendMessage", "ServiceUnavailable", 503)
    assert stack.deliver(s3_event(KEY)) == [0]
    assert stack.deliver(s3_event(KEY)) == []
    assert len(stack.evaluation_messages()) == 1
    assert stack.predictor.pages == 1
    assert [row["evaluation_status"] for row in stack.rows("EVAL")] == ["QUEUED"]


def test_the_longest_key_has_a_ground_truth_under_itself(stack: SegmentStack) -> None:
    key = "k" * 1024
    stack.upload(key, ground_truth(), bucket=GROUND_TRUTH)
    stack.segment(key, tiff())
    (row,) = stack.rows("EVAL")
    assert row["ground_truth"] == f"s3://{GROUND_TRUTH}/{key}"


def test_image_and_ground_truth_read_each_others_rows_as_they_are_now(stack: SegmentStack) -> None:
    """A row of a moment ago may be missing from other reads, and nobody would look again."""
    stack.segment("a.tif", tiff())
    asked: list[bool] = []

    def note(params: dict[str, Any], **_: Any) -> None:
        (of_table,) = params["RequestItems"].values() if "RequestItems" in params else (params,)
        asked.append(of_table.get("ConsistentRead", False))

    client = boto3.client("dynamodb")
    table = Table(client, TABLE)
    with listening(client, "provide-client-params", note):
        (job,) = Evaluations(table).expecting_mask("a")
        assert list(Evaluations(table).expecting_coco("a.tif", "")) == [job]
        assert list(MaskIndex(table).naming("a.tif")) == []
        assert list(CocoIndex(table).naming("a.tif")) == []
        assert Jobs(table).read(job.job_id)
    assert len(asked) > 5
    assert all(asked)
