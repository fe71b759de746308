"""Failed messages return to the queue, with a longer delay after every attempt."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from factories import (
    GROUND_TRUTH,
    QUEUE_URL,
    SEGMENT_QUEUE_URL,
    LambdaContext,
    failed_messages,
    ground_truth,
    request,
    s3_event,
    s3_record,
    sqs_batch,
    tiff,
)
from functions_on_moto import EvaluateFunction, SegmentStack, lines_of
from moto.sqs.models import sqs_backends

LONG = 5000


def received(
    stack: SegmentStack,
    *bodies: Any,
    queue_url: Any = SEGMENT_QUEUE_URL,
    deliveries: int = 1,
    waiting: str = "",
) -> Any:
    """Make a batch like SQS: its messages are in the queue, invisible for `LONG` seconds."""
    batch = sqs_batch(*bodies, waiting=waiting)
    for record in batch["Records"]:
        stack.sqs.send_message(QueueUrl=queue_url, MessageBody=record["body"])
    answer = stack.sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10, VisibilityTimeout=LONG)
    for record, message in zip(batch["Records"], answer["Messages"], strict=True):
        record |= {"receiptHandle": message["ReceiptHandle"], "body": message["Body"]}
        record["attributes"] = record["attributes"] | {"ApproximateReceiveCount": str(deliveries)}
    return batch


def seconds_until_visible(name: str = "cytomask-segment") -> Any:
    """Return the seconds from now until each message of a queue is visible."""
    (backend,) = (backends["eu-central-1"] for backends in sqs_backends.values())
    return [message.visible_at / 1000 - time.time() for message in backend.queues[name]._messages]


@pytest.mark.parametrize(("deliveries", "seconds"), [(1, 30), (2, 120), (4, 1920), (5, 0)])
def test_a_temporary_fault_delays_each_retry_longer(
    stack: SegmentStack, log_lines: Callable[[str], list[dict[str, Any]]], deliveries: int, seconds: int
) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.fail("GetObject", "SlowDown", 503, times=2)
    batch = received(stack, request("a.tif"), deliveries=deliveries)
    assert failed_messages(stack.handle(batch)) == [0]
    assert seconds_until_visible() == [pytest.approx(seconds, abs=20)]
    (line,) = log_lines("message_returned")
    assert (line["message_id"], line["deliveries"], line["seconds"]) == ("m0", deliveries, seconds)


def test_finished_and_rejected_messages_are_left_to_lambda_to_delete(
    stack: SegmentStack, log_lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    stack.upload("a.tif", tiff())
    batch = received(stack, request("a.tif"), "no JSON")
    assert failed_messages(stack.handle(batch)) == []
    assert seconds_until_visible() == [pytest.approx(LONG, abs=60)] * 2
    assert log_lines("message_returned") == []


def test_an_evaluation_comes_again_later_too(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    stack.wire.fail("HeadObject", "SlowDown", 503)
    batch = received(stack, s3_event("a.png", bucket=GROUND_TRUTH), queue_url=QUEUE_URL, deliveries=3)
    assert failed_messages(evaluate.app.handler(batch, LambdaContext("evaluation"))) == [0]
    assert seconds_until_visible("cytomask-evaluation") == [pytest.approx(480, abs=20)]


def test_the_queues_own_delay_applies_if_none_can_be_set(
    stack: SegmentStack, log_lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.fail("GetObject", "SlowDown", 503, times=2)
    stack.wire.fail("ChangeMessageVisibility", "InternalError", 500)
    batch = received(stack, request("a.tif"))
    assert failed_messages(stack.handle(batch)) == [0]
    assert seconds_until_visible() == [pytest.approx(LONG, abs=60)]
    (line,) = log_lines("delay_not_set")
    assert (line["level"], line["message_id"]) == ("WARNING", "m0")


@pytest.fixture
def hurried(stack: SegmentStack, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a batch of three images; the first takes more than half of the invocation's time."""
    spent = iter([0, 0, 0, 0, 61, 61])  # the batch's start, then each look at the clock
    monkeypatch.setattr(
        LambdaContext, "get_remaining_time_in_millis", lambda self: (120 - next(spent, 61)) * 1000
    )
    for key in ("a.tif", "b.tif", "c.tif"):
        stack.upload(key, tiff())
    return received(stack, *(request(f"{key}.tif") for key in "abc"), deliveries=5, waiting="0" * 32)


def test_messages_that_a_batch_has_no_time_for_are_sent_again_without_counting_an_attempt(
    stack: SegmentStack, hurried: Any, log_lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    assert failed_messages(stack.handle(hurried)) == []
    done = {row["image"].rpartition("/")[2] for row in stack.rows() if row["status"] == "SUCCEEDED"}
    assert len(stack.rows()) == len(done)  # what went back left no row that holds it
    fresh = stack.sqs.receive_message(
        QueueUrl=SEGMENT_QUEUE_URL, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
    )["Messages"]
    again = {json.loads(message["Body"])["image"].rpartition("/")[2] for message in fresh}
    assert again and done | again == {"a.tif", "b.tif", "c.tif"} and not done & again
    assert [message["MessageAttributes"]["job_id"]["StringValue"] for message in fresh] == ["0" * 32] * len(
        again
    )
    assert len(log_lines("message_sent_again")) == len(again)


def test_scores_that_a_batch_has_no_time_for_are_sent_again_without_counting_an_attempt(
    stack: SegmentStack, evaluate: EvaluateFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four slow files would outlast the timeout; the killed batch would come again as a whole."""
    keys = ["a.png", "b.png"]
    for key in keys:
        stack.segment(key.replace("png", "tif"), tiff())
        stack.upload(key, ground_truth(), bucket=GROUND_TRUTH)
    notices = [s3_event(key, bucket=GROUND_TRUTH) for key in keys]
    batch = received(stack, *notices, queue_url=QUEUE_URL, deliveries=5)
    spent = iter([0, 0])  # the batch's start, and the first message's
    monkeypatch.setattr(
        LambdaContext, "get_remaining_time_in_millis", lambda self: (180 - next(spent, 91)) * 1000
    )
    assert failed_messages(evaluate.app.handler(batch, LambdaContext("evaluation"))) == []
    (scored,) = (row for row in stack.rows("EVAL") if row["evaluation_status"] == "SCORED")
    (again,) = stack.evaluation_messages()
    done = scored["ground_truth"].rpartition("/")[2]
    assert {done, again["Records"][0]["s3"]["object"]["key"]} == set(keys)


def test_a_message_of_several_ground_truths_that_runs_out_of_time_is_sent_again(
    stack: SegmentStack, evaluate: EvaluateFunction, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a.png", "b.png"):
        stack.upload(key, ground_truth(), bucket=GROUND_TRUTH)
    left = iter([180, 180])  # the batch's start, and the message's
    body = {"Records": [s3_record(key, GROUND_TRUTH) for key in ("a.png", "b.png")]}
    with monkeypatch.context() as patch, lines_of(evaluate.app) as lines:
        patch.setattr(LambdaContext, "get_remaining_time_in_millis", lambda _: next(left, 89) * 1000)
        assert evaluate.deliver(body) == []
        looked_at = [line["ground_truth"] for line in lines() if line["message"] == "ground_truth_unmatched"]
    assert looked_at == [f"s3://{GROUND_TRUTH}/a.png"]
    assert stack.evaluation_messages() == [body]


def test_resent_messages_keep_their_group_so_that_uploads_stay_ahead_of_a_backfill(
    stack: SegmentStack, hurried: Any
) -> None:
    for record in hurried["Records"]:
        record["attributes"]["MessageGroupId"] = "backfill"
    stack.handle(hurried)
    fresh = stack.sqs.receive_message(
        QueueUrl=SEGMENT_QUEUE_URL, MaxNumberOfMessages=10, AttributeNames=["MessageGroupId"]
    )["Messages"]
    assert {message["Attributes"]["MessageGroupId"] for message in fresh} == {"backfill"}


def test_what_is_sent_again_keeps_its_binary_attributes(stack: SegmentStack, hurried: Any) -> None:
    encoded = base64.b64encode(b"\xff\x00").decode()
    for record in hurried["Records"]:
        record["messageAttributes"] = {"trace": {"dataType": "Binary", "binaryValue": encoded}}
    assert failed_messages(stack.handle(hurried)) == []
    fresh = stack.sqs.receive_message(QueueUrl=SEGMENT_QUEUE_URL, MessageAttributeNames=["All"])["Messages"]
    assert fresh[0]["MessageAttributes"]["trace"]["BinaryValue"] == b"\xff\x00"


def test_a_message_that_cannot_be_sent_again_is_returned(
    stack: SegmentStack, hurried: Any, log_lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    stack.wire.fail("SendMessage", "InternalError", 500)
    returned = failed_messages(stack.handle(hurried))
    (line,) = log_lines("not_sent_again")
    assert [f"m{place}" for place in returned] == [line["message_id"]]
