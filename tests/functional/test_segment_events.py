"""Every kind of event is understood, and only encoded keys are decoded."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from factories import (
    GROUND_TRUTH,
    INPUT,
    OUTPUT,
    LambdaContext,
    event_file,
    ground_truth,
    request,
    s3_event,
    s3_record,
    sqs_batch,
    tiff,
)
from functions_on_moto import EvaluateFunction, FailuresFunction, SegmentStack

PLAIN = "A172_Phase_C7_1_01d00h00m_1.tif"
NASTY = "plate 1/A+B well ü 100%2B/ (1) 🔬.tif"
WAYS_IN = {
    "s3_put": [PLAIN],
    "s3_put_nasty_key": [NASTY],
    "two_s3_records": ["plate 1/first.tif", "plate 1/second.tif"],
    "s3_in_sqs": ["plate 2/queued image.tif"],
    "request_in_sqs": ["plate 2/asked+for.tif"],
    "eventbridge": ["plate 3/a+b ü.tif"],
    "sns_wrapped": ["plate 4/over a topic.tif"],
    "s3_removed": ["plate 5/came back.tif"],  # the notice is late: the image is there again
    "s3_test_event": [],
    "direct": ["plate 5/direct.tif"],
}
STRANGE_KEYS = [
    "a+b.tif",
    "a b.tif",
    "a%2Bb.tif",
    "a%252Bb.tif",
    "100%.tif",
    "ü ö ß 培養.tif",
    "🔬.tif",
    "../up.tif",
    "plate/../up.tif",
    "./here.tif",
    "plate//twice.tif",
    "/leading.tif",
    "line\nbreak.tif",
    "question?mark#hash&and=.tif",
    "'quoted\".tif",
    "no extension",
    "UPPER.TIF",
    " ",
]


@pytest.mark.parametrize("name", WAYS_IN)
def test_each_event_file_is_understood(stack: SegmentStack, name: Any) -> None:
    for key in WAYS_IN[name]:
        stack.upload(key, tiff())
    answer = stack.handle(event_file(name))
    rows = stack.rows()
    assert {row["image"] for row in rows} == {f"s3://{INPUT}/{key}" for key in WAYS_IN[name]}
    assert {row["status"] for row in rows} <= {"SUCCEEDED"}
    if name.endswith("in_sqs"):
        assert answer == {"batchItemFailures": []}
    else:
        assert [result["image"]["key"] for result in answer] == WAYS_IN[name]


def test_the_event_files_of_the_other_queues_are_understood(
    stack: SegmentStack, evaluate: EvaluateFunction, failures: FailuresFunction
) -> None:
    stack.segment(PLAIN, tiff())
    stack.upload(PLAIN.replace(".tif", ".png"), ground_truth(), bucket=GROUND_TRUTH)
    context = LambdaContext("another queue")
    assert evaluate.app.handler(event_file("ground_truth_in_sqs"), context) == {"batchItemFailures": []}
    assert evaluate.row()["evaluation_status"] == "SCORED"
    assert failures.app.handler(event_file("dead_letter"), context) == {"batchItemFailures": []}
    [failed] = [row for row in stack.rows() if row["status"] == "FAILED"]
    assert failed["image"] == f"s3://{INPUT}/plate 8/given up.tif"


@pytest.mark.parametrize("key", STRANGE_KEYS)
def test_a_strange_key_survives_a_notification(stack: SegmentStack, key: Any) -> None:
    stack.segment(key, tiff())
    assert stack.outputs() == {f"{key}.mask.png", f"{key}.result.json"}
    assert stack.result(f"{key}.result.json")["image"]["key"] == key


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(key, marks=[] if at % 3 == 0 else [pytest.mark.slow])
        for at, key in enumerate(STRANGE_KEYS)
    ],
)
def test_a_request_and_eventbridge_name_keys_as_they_are(stack: SegmentStack, key: Any) -> None:
    stack.upload(key, tiff())
    from_bridge = event_file("eventbridge")
    from_bridge["detail"]["object"]["key"] = key
    assert stack.deliver(request(key), from_bridge) == []
    assert stack.outputs() == {f"{key}.mask.png", f"{key}.result.json"}
    assert stack.predictor.pages == 1


def test_a_batch_may_mix_kinds_of_events(
    stack: SegmentStack, log_lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    keys = ["notified.tif", "asked.tif", "topic.tif", "bridge.tif"]
    for key in keys:
        stack.upload(key, tiff())
    over_sns = {"Type": "Notification", "Message": json.dumps(s3_event("topic.tif"))}
    over_bridge = event_file("eventbridge")
    over_bridge["detail"]["object"]["key"] = "bridge.tif"
    redelivered = stack.deliver(
        s3_event("notified.tif"), event_file("s3_test_event"), request("asked.tif"), over_sns, over_bridge
    )
    assert redelivered == []
    assert {row["image"]: row["status"] for row in stack.rows()} == {
        f"s3://{INPUT}/{key}": "SUCCEEDED" for key in keys
    }
    (ignored,) = log_lines("event_ignored")
    assert ignored["what"] == "s3:TestEvent"


def test_the_reference_servers_field_names_the_image(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    (result,) = stack.handle({"image_path": f"s3://{INPUT}/a.tif"})
    assert result["mask"].endswith("/a.tif.mask.png")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("folder/", "ObjectCreated:Put"),
        ("a.json", "ObjectCreated:Put"),
        ("a.CSV", "ObjectCreated:CompleteMultipartUpload"),
        ("a.tif", "ObjectRemoved:Delete"),
    ],
)
def test_other_objects_and_events_are_logged_and_ignored(
    stack: SegmentStack, log_lines: Callable[[str], list[dict[str, Any]]], key: str, name: str
) -> None:
    record = s3_record(key)
    record["eventName"] = name
    assert stack.deliver({"Records": [record]}) == []
    assert stack.rows() == []
    assert stack.outputs() == set()
    assert len(log_lines("event_ignored")) == 1


def test_event_names_work_with_and_without_the_s3_prefix(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    record = s3_record("a.tif")
    record["eventName"] = "s3:ObjectCreated:Put"
    (result,) = stack.handle({"Records": [record]})
    assert result["status"] == "SUCCEEDED"


def test_eventbridge_deletions_are_ignored(
    stack: SegmentStack, log_lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    event = event_file("eventbridge")
    event["detail-type"] = "Object Deleted"
    assert stack.handle(event) == []
    assert [line["what"] for line in log_lines("event_ignored")] == ["Object Deleted"]


def test_an_empty_batch_does_nothing(stack: SegmentStack) -> None:
    assert stack.handle(sqs_batch()) == []


def test_an_upload_to_the_ground_truth_bucket_is_not_segmented(stack: SegmentStack) -> None:
    stack.upload("a.png", tiff(), bucket=GROUND_TRUTH)
    (result,) = stack.handle(s3_event("a.png", bucket=GROUND_TRUTH))
    assert result["mask"].startswith(f"s3://{OUTPUT}/jobs/")
