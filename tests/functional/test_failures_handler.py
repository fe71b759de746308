"""A dead letter becomes a FAILED row with the message and the last error."""

import json
from typing import Any

import pytest
from factories import GROUND_TRUTH, INPUT, LambdaContext, ground_truth, request, s3_event, tiff
from functions_on_moto import EvaluateFunction, FailuresFunction, SegmentStack

KEY = "plate 1/A172_Phase_C7_1.tif"
TRUTH = "plate 1/A172_Phase_C7_1.png"


def give_up(stack: SegmentStack, body: Any, tries: int = 5) -> None:
    """Deliver a message as often as its queue would; every attempt fails when it writes the mask."""
    for _ in range(tries):
        stack.wire.fail("PutObject", "SlowDown", 503)
        assert stack.deliver(body) == [0]
        stack.wire.mend()


def counted(capsys: pytest.CaptureFixture[str]) -> Any:
    """Sum up the printed metrics: name -> sum."""
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    names = {metric["Name"] for line in lines for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]}
    return {name: sum(sum(line.get(name, [])) for line in lines) for name in names}


def test_an_image_in_the_dead_letter_queue_is_failed_with_its_message_and_last_error(
    stack: SegmentStack, failures: FailuresFunction, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.upload(KEY, tiff())
    body = json.dumps(s3_event(KEY))
    give_up(stack, body)
    assert failures.deliver(body) == []
    row = stack.row()
    assert (row["status"], row["message"], row["attempt"]) == ("FAILED", body, 1)
    assert row["error_code"] == "TRIES_USED_UP"
    assert row["error"].startswith("ClientError: An error occurred (SlowDown)")
    assert not {"owner", "lease_until"} & row.keys()
    assert [found["job_id"] for found in stack.indexed("by_status", "status", "FAILED")] == [row["job_id"]]
    assert counted(capsys)["Failed"] == 1


def test_an_image_that_no_attempt_reached_gets_a_row(stack: SegmentStack, failures: FailuresFunction) -> None:
    stack.upload(KEY, tiff())
    body = json.dumps(request(KEY, threshold=0.3, group="plate 7"))
    assert failures.deliver(body) == []
    row = stack.row()
    assert (row["status"], row["group"], row["image"]) == ("FAILED", "plate 7", f"s3://{INPUT}/{KEY}")
    assert "no attempt reported an error" in row["error"]
    assert stack.deliver(body) == []
    assert (stack.row()["status"], stack.row()["job_id"]) == ("SUCCEEDED", row["job_id"])
    assert not {"message", "error", "error_code"} & stack.row().keys()


def test_an_earlier_attempts_error_is_not_reported_for_a_killed_attempt(
    stack: SegmentStack, failures: FailuresFunction
) -> None:
    stack.upload(KEY, tiff())
    give_up(stack, s3_event(KEY), tries=1)
    stack.wire.cut("PutObject")
    stack.deliver(s3_event(KEY))
    stack.wire.mend()
    stack.expire_lease()
    assert failures.deliver(s3_event(KEY)) == []
    assert "no attempt reported an error" in stack.row()["error"]


@pytest.mark.parametrize("body", [tiff(), b"text"], ids=["SUCCEEDED", "REJECTED"])
def test_a_finished_job_is_never_overwritten(
    stack: SegmentStack, failures: FailuresFunction, body: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.segment(KEY, body)
    finished = stack.row()
    capsys.readouterr()
    assert failures.deliver(s3_event(KEY), s3_event(KEY)) == []
    assert stack.row() == finished
    assert "Failed" not in counted(capsys)


def test_a_running_job_is_waited_for(stack: SegmentStack, failures: FailuresFunction) -> None:
    stack.upload(KEY, tiff())
    stack.wire.cut("PutObject")
    stack.deliver(s3_event(KEY))
    stack.wire.mend()
    assert failures.deliver(s3_event(KEY)) == [0]
    assert stack.row()["status"] == "RUNNING"
    stack.expire_lease()
    assert failures.deliver(s3_event(KEY)) == []
    assert stack.row()["status"] == "FAILED"


def test_a_deleted_image_gets_its_row(stack: SegmentStack, failures: FailuresFunction) -> None:
    assert failures.deliver(request("gone.tif")) == []
    assert (stack.row()["status"], stack.row()["image"]) == ("FAILED", f"s3://{INPUT}/gone.tif")


def test_an_image_that_no_function_may_read_fails_with_what_s3_says(
    stack: SegmentStack, failures: FailuresFunction
) -> None:
    """S3 refuses HEAD without a reason; the answer to GET names the right or the key."""
    stack.upload(KEY, tiff())
    stack.wire.fail("HeadObject", "403", 403, times=1000)
    stack.wire.fail("GetObject", "AccessDenied", 403, times=1000)
    assert stack.deliver(s3_event(KEY)) == [0]
    assert failures.deliver(s3_event(KEY)) == []
    row = stack.row()
    assert row["error"].startswith(
        f"S3 refuses to read s3://{INPUT}/{KEY} (injected); let the functions read"
    )
    assert (row["status"], json.loads(row["message"])) == ("FAILED", s3_event(KEY))


def test_every_image_of_one_message_gets_its_own_row_with_all_of_the_message(
    stack: SegmentStack, failures: FailuresFunction
) -> None:
    stack.segment("a.tif", tiff())
    body = json.dumps(s3_event("a.tif", "b.tif", "c.tif"))
    assert failures.deliver(body) == []
    rows = {row["image"].rpartition("/")[2]: row for row in stack.rows()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "a.tif": "SUCCEEDED",
        "b.tif": "FAILED",
        "c.tif": "FAILED",
    }
    assert (rows["b.tif"]["message"], rows["c.tif"]["message"]) == (body, body)


@pytest.mark.parametrize("queue", ["cytomask-segment-dlq", "cytomask-evaluation-dlq"])
def test_an_unreadable_message_gets_a_row_with_its_whole_text(
    stack: SegmentStack, failures: FailuresFunction, queue: str
) -> None:
    text = "no JSON ü " + "x" * 100_000
    assert failures.deliver(text, queue=queue) == []
    row = stack.row()
    assert (row["status"], row["error_code"], row["message"]) == ("REJECTED", "INVALID_REQUEST", text)


def test_the_largest_message_that_the_queue_takes_fits_into_a_row(
    stack: SegmentStack, failures: FailuresFunction
) -> None:
    body = json.dumps(request(KEY, group="g")).ljust(262_144)
    assert failures.deliver(body) == []
    assert stack.row()["message"] == body


def test_a_dead_letter_that_names_a_foreign_bucket_is_rejected_whole(
    stack: SegmentStack, failures: FailuresFunction
) -> None:
    body = '{"image": "s3://private/a.tif"}'
    assert failures.deliver(body) == []
    row = stack.row()
    assert (row["status"], row["error_code"], row["message"]) == ("REJECTED", "FOREIGN_BUCKET", body)


def test_dead_letters_without_a_request_are_acknowledged(
    stack: SegmentStack, failures: FailuresFunction
) -> None:
    assert failures.deliver({"Event": "s3:TestEvent"}, s3_event("notes.txt")) == []
    assert stack.rows() == []


@pytest.mark.parametrize("operation", ["HeadObject", "UpdateItem"])
def test_a_dead_letter_that_cannot_be_recorded_stays_alone_in_its_queue(
    stack: SegmentStack, failures: FailuresFunction, operation: str
) -> None:
    stack.wire.fail(operation, "ServiceUnavailable", 503)
    assert failures.deliver(request("a.tif"), request("b.tif")) == [0]
    assert failures.deliver(request("a.tif")) == []
    assert [row["status"] for row in stack.rows()] == ["FAILED", "FAILED"]


def test_the_recordable_part_of_a_message_is_recorded(
    stack: SegmentStack, failures: FailuresFunction
) -> None:
    stack.wire.fail("UpdateItem", "ThrottlingException", 400)
    assert failures.deliver(s3_event("a.tif", "b.tif")) == [0]
    assert [row["image"] for row in stack.rows()] == [f"s3://{INPUT}/b.tif"]


def test_a_dead_letter_that_runs_out_of_time_stays_and_is_recorded_by_the_next_delivery(
    stack: SegmentStack, failures: FailuresFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([120, 120, 120])  # the message's start, the look before its first image, and its name
    body = s3_event("a.tif", "b.tif", "c.tif")
    with monkeypatch.context() as patch:
        patch.setattr(LambdaContext, "get_remaining_time_in_millis", lambda _: next(left, 29) * 1000)
        assert failures.deliver(body) == [0]
    assert [row["status"] for row in stack.rows()] == ["FAILED"]
    assert failures.deliver(body) == []
    assert [row["status"] for row in stack.rows()] == ["FAILED"] * 3


def test_a_missing_table_keeps_the_dead_letters(stack: SegmentStack, failures: FailuresFunction) -> None:
    stack.table.delete()
    assert failures.deliver(request("a.tif"), "no JSON") == [0, 1]


@pytest.fixture
def redriven(stack: SegmentStack, failures: FailuresFunction) -> Any:
    """Return the id of a failed job that was queued again after its image had been replaced."""
    stack.upload(KEY, tiff())
    failures.deliver(s3_event(KEY))
    stack.set_status("QUEUED", attempt=2)
    stack.upload(KEY, tiff(compression="lzw"))
    return stack.row()["job_id"]


def assert_withdrawn(stack: SegmentStack, job_id: str, new_status: Any) -> None:
    row = stack.job(job_id)
    (other,) = (row for row in stack.rows() if row["job_id"] != job_id)
    assert (row["status"], row["error_code"], row["attempt"]) == ("REJECTED", "IMAGE_REPLACED", 2)
    assert other["job_id"] in row["error"]
    assert "message" not in row
    assert other["status"] == new_status


def test_a_redrive_whose_message_became_another_job_is_rejected(stack: SegmentStack, redriven: Any) -> None:
    assert stack.deliver(s3_event(KEY), waiting=redriven) == []
    assert_withdrawn(stack, redriven, "SUCCEEDED")


def test_a_redrive_whose_message_failed_as_another_job_is_rejected(
    stack: SegmentStack, failures: FailuresFunction, redriven: Any
) -> None:
    assert failures.deliver(s3_event(KEY), waiting=redriven) == []
    assert_withdrawn(stack, redriven, "FAILED")


def test_a_job_whose_message_failed_again_is_failed_and_not_rejected(
    stack: SegmentStack, failures: FailuresFunction
) -> None:
    stack.upload(KEY, tiff())
    failures.deliver(s3_event(KEY))
    stack.set_status("QUEUED", attempt=2)
    assert failures.deliver(s3_event(KEY), waiting=stack.row()["job_id"]) == []
    assert (stack.row()["status"], stack.row()["attempt"]) == ("FAILED", 2)


def queued_evaluation(stack: SegmentStack) -> Any:
    stack.upload(TRUTH, ground_truth(), bucket=GROUND_TRUTH)
    stack.segment(KEY, tiff())
    (message,) = stack.evaluation_messages()
    return message


def test_an_evaluation_in_the_dead_letter_queue_is_failed_and_listed_with_the_jobs(
    stack: SegmentStack,
    evaluate: EvaluateFunction,
    failures: FailuresFunction,
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = queued_evaluation(stack)
    assert failures.deliver_evaluations(message) == []
    row = evaluate.row()
    assert (row["evaluation_status"], row["error_code"]) == ("FAILED", "TRIES_USED_UP")
    assert json.loads(row["message"]) == message
    assert stack.indexed("by_status", "status", "FAILED") == [row]
    assert stack.row()["status"] == "SUCCEEDED"
    assert counted(capsys)["Failed"] == 1


def test_a_score_is_never_overwritten(
    stack: SegmentStack, evaluate: EvaluateFunction, failures: FailuresFunction
) -> None:
    message = queued_evaluation(stack)
    evaluate.deliver(message)
    scored = evaluate.row()
    assert failures.deliver_evaluations(message, s3_event(TRUTH, bucket=GROUND_TRUTH)) == []
    assert evaluate.row() == scored


def test_a_failed_notification_of_a_ground_truth_fails_its_evaluations(
    stack: SegmentStack, evaluate: EvaluateFunction, failures: FailuresFunction
) -> None:
    result = stack.segment(KEY, tiff())
    stack.upload(TRUTH, ground_truth(), bucket=GROUND_TRUTH)
    assert failures.deliver_evaluations(s3_event(TRUTH, bucket=GROUND_TRUTH)) == []
    row = evaluate.row()
    assert (row["job_id"], row["evaluation_status"]) == (result["job_id"], "FAILED")
    assert json.loads(row["message"])["record"] == row["record"]


def test_a_failed_notification_of_a_ground_truth_without_jobs_loses_nothing(
    stack: SegmentStack, evaluate: EvaluateFunction, failures: FailuresFunction
) -> None:
    stack.upload(TRUTH, ground_truth(), bucket=GROUND_TRUTH)
    assert failures.deliver_evaluations(s3_event(TRUTH, bucket=GROUND_TRUTH)) == []
    stack.segment(KEY, tiff())
    evaluate.deliver_queued()
    assert evaluate.row()["evaluation_status"] == "SCORED"


def test_a_failed_coco_notification_gets_its_own_row(stack: SegmentStack, failures: FailuresFunction) -> None:
    notice = s3_event("plate 1/cells.json", bucket=GROUND_TRUTH)
    assert failures.deliver_evaluations(notice) == []
    row = stack.row()
    assert (row["status"], row["ground_truth"]) == ("FAILED", f"s3://{GROUND_TRUTH}/plate 1/cells.json")
    assert json.loads(row["message"])["Records"] == notice["Records"]
