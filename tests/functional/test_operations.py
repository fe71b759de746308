"""`cytomask logs`, `failed` and `redrive`, on faked AWS resources."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import boto3
import pytest
from factories import GROUND_TRUTH, INPUT, LambdaContext, ground_truth, request, sqs_batch, tiff
from functions_on_moto import EvaluateFunction, FailuresFunction, SegmentStack

from cytomask.backfill import MESSAGE_GROUP
from cytomask.cli.main import main
from cytomask.cli.options import duration
from cytomask.cli.stack import Stack

KEY = "plate 1/a b ü.tif"
TRUTH = "plate 1/a b ü.png"
GROUP = "/aws/lambda/cytomask-{}"


@pytest.fixture
def queue(stack: Any) -> str:
    return str(stack.sqs.create_queue(QueueName="cytomask-segment")["QueueUrl"])


@pytest.fixture
def cytomask(connected: Stack, stack: Any, queue: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command line, on a stack of those resources."""
    evaluation_queue = stack.sqs.get_queue_url(QueueName="cytomask-evaluation")["QueueUrl"]
    found = replace(connected, segment_queue=queue, evaluation_queue=evaluation_queue)
    monkeypatch.setattr(Stack, "connect", classmethod(lambda *_: found))
    return lambda *arguments: main(arguments)


def fail(stack: SegmentStack, failures: FailuresFunction, *bodies: Any) -> Any:
    """Let the queue give up each message; return the rows."""
    assert failures.deliver(*bodies) == []
    return [row for row in stack.rows() if row["status"] == "FAILED"]


def sent(stack: SegmentStack, queue: Any) -> Any:
    answer = stack.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, MessageAttributeNames=["All"])
    return answer.get("Messages", [])


def test_failed_says_which_images_failed_and_why(
    stack: SegmentStack,
    failures: FailuresFunction,
    cytomask: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stack.upload(KEY, tiff())
    stack.wire.fail("PutObject", "SlowDown", 503)
    stack.deliver(request(KEY))
    (row,) = fail(stack, failures, request(KEY))
    capsys.readouterr()
    assert cytomask("failed") == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{row['job_id']}  {row['updated_at']}  attempt 1  s3://{INPUT}/{KEY}"
    assert second.startswith("    TRIES_USED_UP: ClientError: An error occurred (SlowDown)")


def test_failed_says_so_where_nothing_has(
    stack: SegmentStack, cytomask: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    stack.segment("a.tif", tiff())
    stack.segment("b.tif", b"text")
    assert cytomask("failed") == 0
    assert "nothing failed" in capsys.readouterr().err


def test_redrive_sends_the_stored_message_and_the_next_attempt_is_counted(
    stack: SegmentStack, failures: FailuresFunction, cytomask: Callable[..., int], queue: str
) -> None:
    stack.upload(KEY, tiff())
    body = json.dumps(request(KEY, threshold=0.3), ensure_ascii=False)
    (failed,) = fail(stack, failures, body)
    assert cytomask("redrive") == 0
    row = stack.row()
    assert (row["status"], row["attempt"], row["message"]) == ("QUEUED", 2, body)
    assert not {"error", "error_code"} & row.keys()
    (message,) = sent(stack, queue)
    assert message["Body"] == body
    assert message["MessageAttributes"]["job_id"]["StringValue"] == failed["job_id"]
    assert stack.deliver(message["Body"], waiting=failed["job_id"]) == []
    assert (stack.row()["status"], stack.row()["attempt"]) == ("SUCCEEDED", 2)
    assert cytomask("failed") == 0


def test_a_redriven_message_of_a_backfill_keeps_its_group(
    stack: SegmentStack, failures: FailuresFunction, cytomask: Callable[..., int], queue: str
) -> None:
    batch = sqs_batch(request("a.tif"), request("b.tif"), queue="cytomask-segment-dlq")
    batch["Records"][0] |= {
        "attributes": batch["Records"][0]["attributes"] | {"MessageGroupId": MESSAGE_GROUP}
    }
    assert failures.app.handler(batch, LambdaContext("failures")) == {"batchItemFailures": []}
    assert cytomask("redrive") == 0
    answer = stack.sqs.receive_message(
        QueueUrl=queue, MaxNumberOfMessages=10, AttributeNames=["MessageGroupId"]
    )
    groups = {
        json.loads(each["Body"])["image"]: each.get("Attributes", {}).get("MessageGroupId")
        for each in answer["Messages"]
    }
    assert groups == {f"s3://{INPUT}/a.tif": MESSAGE_GROUP, f"s3://{INPUT}/b.tif": None}


@pytest.mark.parametrize(("length", "attributes"), [(262_100, 1), (262_101, 0), (262_144, 0)])
def test_a_redriven_message_and_its_attributes_fit_into_the_queue(
    stack: SegmentStack,
    failures: FailuresFunction,
    cytomask: Callable[..., int],
    queue: str,
    length: int,
    attributes: int,
) -> None:
    stack.upload(KEY, tiff())
    body = json.dumps(request(KEY)).ljust(length)
    fail(stack, failures, body)
    assert cytomask("redrive") == 0
    (message,) = sent(stack, queue)
    assert message["Body"] == body
    assert len(message.get("MessageAttributes", {})) == attributes


def test_redrive_of_an_id_leaves_the_others(
    stack: SegmentStack,
    failures: FailuresFunction,
    cytomask: Callable[..., int],
    queue: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = fail(stack, failures, request("a.tif"), request("b.tif"))
    assert cytomask("redrive", rows[0]["job_id"][:8], "f00") == 1
    assert "f00 names no failed job" in capsys.readouterr().err
    assert {row["job_id"]: row["status"] for row in stack.rows()} == {
        rows[0]["job_id"]: "QUEUED",
        rows[1]["job_id"]: "FAILED",
    }
    assert len(sent(stack, queue)) == 1


def test_a_message_that_cannot_be_sent_leaves_its_job_failed(
    stack: SegmentStack,
    failures: FailuresFunction,
    cytomask: Callable[..., int],
    queue: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (failed,) = fail(stack, failures, request("a.tif"))
    stack.sqs.delete_queue(QueueUrl=queue)
    assert cytomask("redrive") == 2
    assert "was refused" in capsys.readouterr().err
    assert stack.row() == failed


def test_a_failed_evaluation_is_listed_and_sent_again(
    stack: SegmentStack,
    evaluate: EvaluateFunction,
    failures: FailuresFunction,
    cytomask: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    stack.upload(TRUTH, ground_truth(), bucket=GROUND_TRUTH)
    stack.segment(KEY, tiff())
    (message,) = stack.evaluation_messages()
    failures.deliver_evaluations(message)
    capsys.readouterr()
    assert cytomask("failed") == 1
    assert f"scored against s3://{GROUND_TRUTH}/{TRUTH}" in capsys.readouterr().out
    assert cytomask("redrive") == 0
    row = evaluate.row()
    assert (row["evaluation_status"], row["attempt"], "status" in row) == ("QUEUED", 2, False)
    assert evaluate.deliver_queued() == []
    assert evaluate.row()["evaluation_status"] == "SCORED"
    assert "message" not in evaluate.row()


def write(function: str, *lines: Any) -> None:
    """Write log lines like CloudWatch, a second apart, the last one now."""
    logs = boto3.client("logs")
    place = {"logGroupName": GROUP.format(function), "logStreamName": "1"}
    logs.create_log_group(logGroupName=place["logGroupName"])
    logs.create_log_stream(**place)
    now = int(time.time() * 1000)
    events = [
        {"timestamp": now - 1000 * back, "message": text if isinstance(text, str) else json.dumps(text)}
        for back, text in zip(range(len(lines))[::-1], lines, strict=True)
    ]
    logs.put_log_events(**place, logEvents=events)


def line(message: str, request_id: str, level: str = "INFO", **fields: Any) -> dict[str, Any]:
    return {"level": level, "message": message, "function_request_id": request_id} | fields


def test_logs_of_a_job_include_lambdas_lines_about_its_invocations(
    cytomask: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        "segment",
        "START RequestId: r-1 Version: $LATEST",
        line("job_taken", "r-1", job_id="mine"),
        line("job_taken", "r-1", job_id="other"),
        "2026-11-23T10:00:00Z r-1 Task timed out after 120.00 seconds",
        line("job_taken", "r-2", job_id="other"),
    )
    write("evaluate", line("evaluation_scored", "r-3", job_id="mine", iou=0.5))
    assert cytomask("logs", "--job", "mine") == 0
    printed = capsys.readouterr().out.splitlines()
    assert [text.split()[1:4] for text in printed if "timed out" not in text] == [
        ["segment", "INFO", "job_taken"],
        ["evaluate", "INFO", "evaluation_scored"],
    ]
    assert any(text.endswith("Task timed out after 120.00 seconds") for text in printed)
    assert len(printed) == 3


def test_logs_of_errors_are_failures_rejections_and_ends(
    cytomask: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        "segment",
        line("mask_written", "r-1"),
        line("image_rejected", "r-1", "WARNING", error_code="EMPTY_IMAGE"),
        line("attempt_failed", "r-2", "ERROR", exception="Traceback\n  a line\nClientError: SlowDown"),
        "RequestId: r-3 Error: Runtime exited with error: signal: killed",
        "[ERROR] Runtime.ImportModuleError: Unable to import module 'functions.segment.app'",
        "[ERROR] KeyError: 'INPUT_BUCKET'\nTraceback (most recent call last):",
        "INIT_REPORT Init Duration: 10010.12 ms\tPhase: init\tStatus: timeout",
        "INIT_REPORT Init Duration: 310.12 ms\tPhase: init",
    )
    assert cytomask("logs", "--errors") == 0
    printed = capsys.readouterr().out
    assert "ImportModuleError" in printed and "KeyError: 'INPUT_BUCKET'" in printed
    assert "10010.12 ms" in printed and "310.12 ms" not in printed
    assert "mask_written" not in printed
    assert "error_code=EMPTY_IMAGE" in printed
    assert "\n    ClientError: SlowDown\n" in printed
    assert "signal: killed" in printed


def test_logs_leaves_metrics_out_and_looks_back_no_further_than_asked(
    cytomask: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write("segment", line("long ago", "r-0"), {"_aws": {}, "Masks": [1]}, line("now", "r-1"))
    assert cytomask("logs", "--since", "1s") == 0
    (printed,) = capsys.readouterr().out.splitlines()
    assert printed.split()[1:4] == ["segment", "INFO", "now"]


def test_an_empty_log_is_reported(cytomask: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert cytomask("logs") == 1
    assert "no such line" in capsys.readouterr().err


def test_a_time_is_read_with_its_unit() -> None:
    assert [duration(text) for text in ("90s", "30m", "2h", "7d")] == [
        timedelta(seconds=90),
        timedelta(minutes=30),
        timedelta(hours=2),
        timedelta(days=7),
    ]


@pytest.mark.parametrize("text", ["", "h", "1", "1.5h", "1w"])
def test_a_time_without_a_unit_or_a_number_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["logs", "--since", text])
    assert "such as 2h" in capsys.readouterr().err
