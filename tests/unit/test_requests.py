"""Every way in becomes the same request, and no two requests share an output."""

import json
from typing import Any
from urllib.parse import quote_plus

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cytomask.errors import InvalidRequest, NoSuchPage
from cytomask.requests import (
    Arrival,
    Evaluation,
    Ignored,
    Parameters,
    Refused,
    S3Object,
    SegmentRequest,
    message_of,
    parse_body,
    parse_parameters,
    parse_request,
)
from cytomask.requests import parse_evaluation as parse_evaluation_of
from cytomask.work import Work, fits, ground_truth_keys, job_prefix, output_key, rejected_message_id

BUCKET = "cytomask-input"
MODEL, THRESHOLD = "f" * 64, 0.5
LONGEST_KEY = 1024

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


def work(key: str = "a.tif", etag: str = "e", bucket: str = BUCKET, **parameters: Any) -> Work:
    image = S3Object(bucket, key, etag=etag)
    return Work(SegmentRequest(image, Parameters(**parameters)), MODEL, THRESHOLD)


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


def test_a_request_is_read_whole() -> None:
    request = parse_request(
        {
            "image": "s3://bucket/a b.tif",
            "ground_truth": "s3://truths/a.png",
            "threshold": 1,
            "mode": "resize",
            "pages": "0-3",
            "channel": 2,
            "outputs": ["overlay", "mask"],
            "group": "plate 7",
        }
    )
    assert request == SegmentRequest(
        S3Object("bucket", "a b.tif"),
        Parameters(1.0, "resize", "0-3", 2, ("mask", "overlay")),
        S3Object("truths", "a.png"),
        "plate 7",
    )


@pytest.mark.parametrize(
    ("given_pages", "pages"),
    [("all", "all"), (0, "0"), ("7", "7"), ("007", "7"), ("0-3", "0-3"), ("2-2", "2"), ("01-03", "1-3")],
)
def test_pages_have_one_spelling(given_pages: Any, pages: str) -> None:
    assert parse_request({"image": "s3://bucket/a", "pages": given_pages}).parameters.pages == pages


@pytest.mark.parametrize("pages", ["", "-1", "3-1", "1-", "all-1", "1,2", "a", 1.5, True, [0], "1234567"])
def test_pages_that_are_none_are_refused_by_name(pages: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"`pages`: .*it takes"):
        parse_request({"image": "s3://bucket/a", "pages": pages})


@pytest.mark.parametrize("bucket", ["b", "Bucket", "-bucket", "bucket-", "a" * 64, "buck_et", "bück"])
def test_a_name_that_no_bucket_can_have_is_refused(bucket: str) -> None:
    with pytest.raises(InvalidRequest, match="`image`"):
        parse_request({"image": f"s3://{bucket}/key"})


@pytest.mark.parametrize(
    ("pages", "count", "selected"), [("all", 3, [0, 1, 2]), ("0", 1, [0]), ("2", 3, [2]), ("1-2", 3, [1, 2])]
)
def test_pages_select(pages: str, count: int, selected: list[int]) -> None:
    assert Parameters(pages=pages).selected(count, "a.tif") == selected


@pytest.mark.parametrize(("pages", "count"), [("1", 1), ("0-3", 3), ("5-6", 2)])
def test_a_page_past_the_end_is_refused_by_number(pages: str, count: int) -> None:
    last = pages.rpartition("-")[2]
    with pytest.raises(NoSuchPage, match=f"a.tif has no page {last}: it has {count}"):
        Parameters(pages=pages).selected(count, "a.tif")


@pytest.mark.parametrize(
    ("key", "label", "group"),
    [
        ("plate 1/A172_Phase_C7_1_00d00h00m_1.tif", None, "A172"),
        ("A172_Phase_/image.tif", None, ""),
        ("image.tif", None, ""),
        ("A172_Phase_C7_1.tif", "mine", "mine"),
        ("A172_Phase_C7_1.tif", "", ""),
    ],
)
def test_the_group_is_the_label_or_the_cell_line(key: str, label: str | None, group: str) -> None:
    assert SegmentRequest(S3Object(BUCKET, key), label=label).group == group


def test_the_same_work_has_the_same_id() -> None:
    assert work().job_id == work().job_id == work(threshold=THRESHOLD).job_id
    labelled = Work(
        SegmentRequest(S3Object(BUCKET, "a.tif", etag="e"), ground_truth=S3Object("t", "k"), label="x"),
        MODEL,
        THRESHOLD,
    )
    assert labelled.job_id == work().job_id


def test_whatever_decides_the_pixels_decides_the_id() -> None:
    image = S3Object(BUCKET, "a.tif", etag="e")
    works = [
        work(),
        work(key="b.tif"),
        work(bucket="another"),
        work(etag="f"),
        work(threshold=0.4),
        work(mode="resize"),
        work(pages="0"),
        work(channel=0),
        work(outputs=("mask", "overlay")),
        Work(SegmentRequest(image), "0" * 64, THRESHOLD),
        Work(SegmentRequest(S3Object(BUCKET, "a.tif", "v1", "e")), MODEL, THRESHOLD),
        Work(SegmentRequest(S3Object(BUCKET, "a.tif", None, "e", "2026-11-22")), MODEL, THRESHOLD),
    ]
    assert len({each.job_id for each in works}) == len(works)


def test_with_versions_the_time_of_the_upload_is_no_part_of_the_id() -> None:
    images = [S3Object(BUCKET, "a.tif", "v1", "e", time) for time in ("2026-11-22", None)]
    assert len({Work(SegmentRequest(image), MODEL, THRESHOLD).job_id for image in images}) == 1


@pytest.mark.parametrize(
    "other",
    [
        work(threshold=0.4),
        work(mode="resize"),
        work(pages="0"),
        work(channel=0),
        work(outputs=("overlay",)),
        work(bucket="another"),
        work(key="jobs/a.tif"),
        work(key="a.tif.p0003"),
        work(key="k" * 1001),
    ],
)
def test_only_a_default_request_owns_its_images_name(other: Work) -> None:
    assert work().owns_name(BUCKET)
    assert work(threshold=THRESHOLD).owns_name(BUCKET)
    assert work(key="k" * 1000).owns_name(BUCKET)
    assert not other.owns_name(BUCKET)


def outputs_of(each: Work, pages: int) -> set[str]:
    """Every key that the work may write, whatever the image turns out to be."""
    own = [each.request.image.key] if each.owns_name(BUCKET) else []
    kinds = ["mask.png", "probability.png", "overlay.png", "result.json"]
    numbers = [None, *range(pages)]
    prefixes = [*own, job_prefix(each.job_id, each.request.image.key)]
    return {output_key(prefix, kind, page) for prefix in prefixes for kind in kinds for page in numbers}


confusing = st.lists(
    st.sampled_from(
        [
            "a",
            ".tif",
            ".p0003",
            ".p0000",
            ".p12345",
            ".mask.png",
            ".result.json",
            "jobs/",
            "/",
            "image",
            "k" * 990,
        ]
    ),
    min_size=1,
    max_size=6,
).map("".join)
works = st.builds(
    work,
    key=confusing,
    etag=st.sampled_from("ef"),
    bucket=st.sampled_from([BUCKET, "another"]),
    threshold=st.sampled_from([None, THRESHOLD, 0.4]),
    mode=st.sampled_from(["native", "resize"]),
    pages=st.sampled_from(["all", "0", "3"]),
    outputs=st.sampled_from([("mask",), ("mask", "overlay")]),
)


@given(works, works)
@example(work(key="a.tif"), work(key="a.tif.p0003"))
@example(work(key="a.tif"), work(key="a.tif.mask.png"))
def test_two_requests_never_share_an_output(one: Work, other: Work) -> None:
    same_upload_or_newer = one.request.image.key == other.request.image.key and (
        one.owns_name(BUCKET) and other.owns_name(BUCKET)
    )
    assume(one.job_id != other.job_id and not same_upload_or_newer)
    assert not outputs_of(one, 5) & outputs_of(other, 5)


@given(works)
def test_one_jobs_outputs_never_meet_anothers_folder(each: Work) -> None:
    message = output_key(job_prefix(rejected_message_id("body"), "message"), "result.json")
    assert message not in outputs_of(each, 5)
    work_named_like_an_output = work(key=job_prefix(each.job_id, each.request.image.key))
    assert not outputs_of(each, 5) & outputs_of(work_named_like_an_output, 5)


@given(st.text(unicode, min_size=1, max_size=1100))
@example("k" * LONGEST_KEY)
@example("ü" * (LONGEST_KEY // 2))
def test_no_key_of_ours_is_longer_than_s3_takes(key: str) -> None:
    assume(len(key.encode()) <= LONGEST_KEY)
    each = work(key=key)
    assert all(len(name.encode()) <= LONGEST_KEY for name in outputs_of(each, 1))
    assert all(len(name.encode()) <= LONGEST_KEY for name in ground_truth_keys(key))
    assert each.owns_name(BUCKET) <= fits(key)


def test_ground_truths_are_looked_for_by_the_likeliest_name_first() -> None:
    assert ground_truth_keys("plate 1/a.tif") == [
        "plate 1/a.tif",
        "plate 1/a.tif.png",
        "plate 1/a.png",
        "plate 1/a_mask.png",
    ]
    assert ground_truth_keys("no suffix") == ["no suffix", "no suffix.png", "no suffix_mask.png"]
    assert ground_truth_keys("a.png") == ["a.png", "a.png.png", "a_mask.png"]


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
def test_what_the_evaluation_queue_cannot_mean_is_refused(body: str) -> None:
    (refused,) = parse_evaluation(body)
    assert isinstance(refused, Refused)
    assert refused.text == body


requests = st.builds(
    SegmentRequest,
    st.builds(S3Object, st.just(BUCKET), keys),
    st.builds(
        Parameters,
        st.none() | st.floats(0, 1),
        st.sampled_from(["native", "resize"]),
        st.sampled_from(["all", "0", "3-7"]),
        st.none() | st.integers(0, 999),
        st.sets(st.sampled_from(["mask", "overlay", "probability"]), min_size=1).map(sorted).map(tuple),
    ),
    st.none() | st.builds(S3Object, st.just(BUCKET), keys),
    st.none() | st.text(unicode, max_size=30),
)


@given(requests)
def test_a_request_that_is_sent_on_arrives_as_it_is_and_in_ascii(request: SegmentRequest) -> None:
    message = message_of(request)
    assert message.isascii()
    assert parse_body(message) == [request]


def test_parameters_are_read_from_text_alone() -> None:
    fields = {"threshold": "0.25", "mode": "resize", "pages": "0-3", "channel": "2"}
    assert parse_parameters(fields) == Parameters(0.25, "resize", "0-3", 2)
    assert parse_parameters({}) == Parameters()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("threshold", "1.5"),
        ("threshold", "nan"),
        ("threshold", ""),
        ("channel", "-1"),
        ("channel", "null"),
        ("mode", "NATIVE"),
        ("pages", "3-1"),
        ("pages", "٣"),
    ],
)
def test_a_parameter_that_is_no_such_thing_is_refused_by_its_name(name: str, text: str) -> None:
    with pytest.raises(InvalidRequest, match=f"`{name}`"):
        parse_parameters({name: text})
