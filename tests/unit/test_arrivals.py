"""Every way in becomes the same request."""

import json
from typing import Any
from urllib.parse import quote_plus

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cytomask.addresses import S3Object
from cytomask.arrivals import Arrival, Evaluation, Ignored, Refused, parse_body
from cytomask.arrivals import parse_evaluation as parse_evaluation_of
from cytomask.requests import SegmentRequest

BUCKET = "cytomask-input"
unicode = st.characters(codec="utf-8")
keys = st.text(unicode, min_size=1, max_size=60).map(lambda name: f"{name}.tif")


def parse_evaluation(body: str) -> list[Any]:
    return list(parse_evaluation_of(body, served={BUCKET, "truths", "out"}, outputs="out"))


def notification(key: str) -> dict[str, Any]:
    record = {
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": BUCKET}, "object": {"key": quote_plus(key, safe="/"), "eTag": "e"}},
    }
    return {"Records": [record]}


def bridged(key: str) -> dict[str, Any]:
    detail = {"bucket": {"name": BUCKET}, "object": {"key": key, "etag": "e"}}
    return {"detail-type": "Object Created", "detail": detail}


def only(event: Any) -> Arrival:
    (arrival,) = parse_body(json.dumps(event))
    return arrival


@given(keys)
@example("a+b c%2B%20.tif")
@example("+.tif")
def test_a_notified_key_is_decoded_exactly_once(key: str) -> None:
    assert only(notification(key)) == SegmentRequest(S3Object(BUCKET, key, etag="e"))


@given(keys)
@example("a+b c%2B%20.tif")
def test_a_key_of_eventbridge_is_never_decoded(key: str) -> None:
    assert only(bridged(key)) == SegmentRequest(S3Object(BUCKET, key, etag="e"))


@given(keys)
@example("a+b c%2B%20.tif")
@example("/../.tif")
def test_a_key_of_a_request_is_never_decoded(key: str) -> None:
    assert only({"image": f"s3://{BUCKET}/{key}"}) == SegmentRequest(S3Object(BUCKET, key))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_topics_may_be_nested(depth: int) -> None:
    event = notification("a b.tif")
    for _ in range(depth):
        event = {"Type": "Notification", "Message": json.dumps(event)}
    assert only(event) == SegmentRequest(S3Object(BUCKET, "a b.tif", etag="e"))


def test_versions_are_read_from_both_kinds_of_event() -> None:
    noted, over_bridge = notification("a.tif"), bridged("a.tif")
    noted["Records"][0]["s3"]["object"]["versionId"] = "v1"
    over_bridge["detail"]["object"]["version-id"] = "v1"
    expected = SegmentRequest(S3Object(BUCKET, "a.tif", "v1", "e"))
    assert only(noted) == only(over_bridge) == expected


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = ["image", "image_path", "ground_truth", "threshold", "mode", "pages", "channel", "outputs", "group"]
almost = st.dictionaries(
    st.sampled_from([*fields, "Records", "Type", "Message", "detail-type", "detail", "Event", "Sns", "s3"]),
    anything | st.just("s3://bucket/key"),
    max_size=5,
)


@given(st.text() | anything.map(json.dumps) | almost.map(json.dumps))
@example('{"image": "s3://bucket/key", "pages": ' + "9" * 400 + "}")
@example('{"image": "s3://bucket/key", "channel": ' + "9" * 5000 + "}")
@example('{"image": "s3://bucket/key", "threshold": 1e999}')
@example('{"image": "s3://bucket/\\ud800"}')
@example('{"a":' * 50_000)
@example('{"Records": [[], null, {"Sns": {"Message": "["}}, {"s3": {"bucket": {}}}]}')
def test_no_message_breaks_the_reader(body: str) -> None:
    for arrival in parse_body(body):
        assert isinstance(arrival, SegmentRequest | Ignored | Refused)
        if isinstance(arrival, Refused):
            assert len(str(arrival.error)) < 1000


def test_a_bad_record_is_refused_beside_good_ones() -> None:
    event = notification("a.tif")
    event["Records"].insert(0, {"s3": 1})
    event["Records"].append({"Sns": {"Message": "no JSON"}})
    kinds = [type(arrival) for arrival in parse_body(json.dumps(event))]
    assert kinds == [Refused, SegmentRequest, Refused]


def test_a_message_that_asks_for_a_score_is_read_back() -> None:
    truth = S3Object("truths", "a+b ü.png", "v1", "etag", "2026-11-23T00:00:00+00:00")
    asked = Evaluation("0" * 32, "EVAL#v1", truth, "s3://out/a.result.json")
    assert parse_evaluation(msgspec.json.encode(asked).decode()) == [asked]


def test_the_notice_of_a_ground_truth_names_its_object() -> None:
    record = {
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "truths"}, "object": {"key": "a%2Bb+%C3%BC.png", "eTag": "e"}},
    }
    assert parse_evaluation(json.dumps({"Records": [record]})) == [S3Object("truths", "a+b ü.png", None, "e")]


@pytest.mark.parametrize("key", ["coco.json", "plate 1/COCO.JSON"])
def test_a_json_file_is_a_ground_truth_and_no_image(key: str) -> None:
    body = json.dumps(notification(key))
    assert parse_evaluation(body) == [S3Object(BUCKET, key, None, "e")]
    assert parse_body(body) == [Ignored(key, "a sidecar file, not an image")]


def test_other_sidecars_of_a_ground_truth_are_ignored() -> None:
    body = json.dumps(notification("Results.csv"))
    assert parse_evaluation(body) == [Ignored("Results.csv", "a sidecar file, not an image")]


@pytest.mark.parametrize("body", ["no JSON", '{"job_id": "job"}', "[]", '{"job_id": 1, "record": "EVAL#"}'])
def test_invalid_messages_on_the_evaluation_queue_are_refused(body: str) -> None:
    (refused,) = parse_evaluation(body)
    assert isinstance(refused, Refused)
    assert refused.text == body
