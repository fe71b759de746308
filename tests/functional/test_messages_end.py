"""Every message on every queue ends as a mask, a final row or a logged refusal.

Made-up bodies and attributes go the whole way: the function, its five tries, the dead letters, the failures
function.
"""

import base64
import json
from typing import Any

import pytest
from examples import examples
from factories import (
    GROUND_TRUTH,
    INPUT,
    OUTPUT,
    LambdaContext,
    failed_messages,
    ground_truth,
    request,
    s3_record,
    sqs_batch,
    tiff,
)
from functions_on_moto import EvaluateFunction, FailuresFunction, HttpDoor, SegmentStack, lines_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.long
TRIES = 5
ENDS = {
    "mask_written",
    "image_rejected",
    "duplicate_ignored",
    "event_ignored",
    "message_refused",
    "message_rejected",
    "job_failed",
    "evaluation_failed",
    "evaluation_scored",
    "evaluation_rejected",
    "ground_truth_refused",
    "coco_indexed",
    "coco_rejected",
    "mask_removed",
    "name_not_settled",
    "dead_letter_dropped",
}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
buckets = st.sampled_from(
    [INPUT, GROUND_TRUTH, OUTPUT, "foreign", "", "Bad Bucket!", "arn:aws:s3:::x", "..", "a" * 70]
)
keys = st.one_of(
    st.sampled_from(
        [
            "",
            "a.tif",
            "a.tif.png",
            "/",
            "..",
            "a/../b.tif",
            "jobs/coco/x.json",
            "coco.json",
            "k" * 1024,
            "k" * 1025,
            "k" * 5000,
            "ü" * 600,
            "\u202e.tif",
            "a\x01.tif",
            "a\ufffe.tif",
            "\x00",
            "bad.tif",
            "a.tif.p0003",
        ]
    ),
    st.text(max_size=30),
)
versions = st.one_of(st.none(), st.just(""), st.just("null"), st.text(max_size=10), st.just("v" * 2000))
events = st.sampled_from(
    ["ObjectCreated:Put", "ObjectRemoved:Delete", "s3:ObjectCreated:Copy", "ObjectRestore:Completed", "x", ""]
)


@st.composite
def notices(draw: Any) -> Any:
    records = []
    for _ in range(draw(st.integers(1, 3))):
        record = s3_record(draw(keys), draw(buckets))
        record["eventName"] = draw(events)
        version = draw(versions)
        if version is not None:
            record["s3"]["object"]["versionId"] = version
        if draw(st.integers(0, 5)) == 0:
            record["s3"][draw(st.sampled_from(["bucket", "object"]))] = draw(anything)
        records.append(record)
    return {"Records": records}


@st.composite
def requests(draw: Any) -> Any:
    fields = {"image": f"s3://{draw(buckets)}/{draw(keys)}"}
    extra = st.dictionaries(
        st.sampled_from(["threshold", "mode", "pages", "channel", "outputs", "group", "ground_truth", "x"]),
        st.one_of(anything, st.just("a" * 250_000), st.just(0.3), st.just(f"s3://{GROUND_TRUTH}/a.png")),
        max_size=2,
    )
    return fields | draw(extra)


@st.composite
def evaluations(draw: Any) -> Any:
    return {
        "job_id": draw(st.one_of(st.just("0" * 32), st.just(""), st.text(max_size=40), st.just("j" * 3000))),
        "record": draw(
            st.one_of(st.just("EVAL#e"), st.just("JOB"), st.just(""), st.just("EVAL#" + "r" * 2000))
        ),
        "ground_truth": {
            "bucket": draw(buckets),
            "key": draw(keys),
            "version_id": draw(versions),
            "etag": draw(st.one_of(st.none(), st.just("e"), st.just("*"), st.text(max_size=5))),
        },
        "result": draw(st.one_of(st.just(f"s3://{OUTPUT}/a.tif.result.json"), st.text(max_size=20))),
    }


settled = st.builds(lambda bucket, key: {"settle": f"s3://{bucket}/{key}"}, buckets, keys)
structured = st.one_of(notices(), requests(), evaluations(), settled, anything)
bodies = st.one_of(
    structured.map(json.dumps),
    structured.map(lambda body: json.dumps({"Type": "Notification", "Message": json.dumps(body)})),
    structured.map(lambda body: json.dumps({"Records": [{"Sns": {"Message": json.dumps(body)}}]})),
    st.text(max_size=50),
    st.binary(max_size=50).map(lambda content: content.decode("latin-1")),
)
attributes = st.dictionaries(
    st.sampled_from(["job_id", "x", "AWSTraceHeader"]),
    st.one_of(
        st.fixed_dictionaries({"dataType": st.just("String"), "stringValue": st.text(max_size=40)}),
        st.just({"dataType": "String", "stringValue": "0" * 32}),
        st.just({"dataType": "Number", "stringValue": "7"}),
        st.just({"dataType": "Binary", "binaryValue": base64.b64encode(b"\xff\x00").decode()}),
        st.just({"dataType": "Binary"}),
    ),
    max_size=2,
)
QUEUES = ["cytomask-segment", "cytomask-evaluation", "cytomask-segment-dlq", "cytomask-evaluation-dlq"]


def deliver(app: Any, body: str, with_attributes: Any, queue: str) -> bool:
    batch = sqs_batch(body, queue=queue)
    batch["Records"][0]["messageAttributes"] = with_attributes
    return failed_messages(app.handler(batch, LambdaContext("made up"))) == []


def end(stack: Any, evaluate: Any, failures: Any, body: str, with_attributes: Any, queue: str) -> None:
    """Deliver a message as often as its queue would; raise AssertionError if it never ends."""
    app = evaluate.app if "evaluation" in queue else stack.app
    if not queue.endswith("-dlq"):
        if any(deliver(app, body, with_attributes, queue) for _ in range(TRIES)):
            return
        queue += "-dlq"
    assert deliver(failures.app, body, with_attributes, queue), f"a dead letter that never ends: {body[:500]}"


def assert_ended(stack: Any, lines: list[dict[str, Any]], body: str) -> None:
    empty = json.dumps({"Records": []})
    assert body == empty or {line["message"] for line in lines} & ENDS or not lines, body[:500]
    statuses = {row["status"] for row in stack.rows() if "status" in row}
    assert statuses <= {"SUCCEEDED", "REJECTED", "FAILED"}
    for line in lines:
        if line["level"] == "ERROR":
            assert line.get("what_to_do"), line


@settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(body=bodies, with_attributes=attributes, queue=st.sampled_from(QUEUES))
def test_every_message_is_finished_or_becomes_a_dead_letter(
    stack: Any, evaluate: Any, failures: Any, body: str, with_attributes: Any, queue: str
) -> None:
    stack.upload("a.tif", tiff())
    stack.upload("bad.tif", b"no image")
    stack.upload("a.png", ground_truth(), bucket=GROUND_TRUTH)
    with lines_of(stack.app, evaluate.app, failures.app) as lines:
        end(stack, evaluate, failures, body, with_attributes, queue)
        stack.take_messages()
        stack.evaluation_messages()
        assert_ended(stack, lines(), body)


@settings(
    max_examples=examples(40),
    deadline=None,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(body=bodies, fault=st.sampled_from([("HeadObject", 403), ("GetObject", 403), ("PutObject", 500)]))
def test_a_message_whose_attempts_all_fail_becomes_a_dead_letter(
    stack: Any, evaluate: Any, failures: Any, body: str, fault: tuple[str, int]
) -> None:
    stack.upload("a.tif", tiff())
    for queue in QUEUES[:2]:
        stack.wire.fail(fault[0], "AccessDenied", fault[1], times=10_000)
        end(stack, evaluate, failures, body, {}, queue)
        stack.wire.mend()
    assert {row["status"] for row in stack.rows() if "status" in row} <= {"SUCCEEDED", "REJECTED", "FAILED"}


@pytest.mark.parametrize("queue", QUEUES)
@pytest.mark.parametrize("count", [101, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_message_of_too_many_images_is_refused_by_name_as_one(
    stack: SegmentStack, evaluate: EvaluateFunction, failures: FailuresFunction, queue: Any, count: int
) -> None:
    body = json.dumps({"Records": list(range(count))})
    with lines_of(stack.app, evaluate.app, failures.app) as lines:
        end(stack, evaluate, failures, body, {}, queue)
        said = json.dumps(lines())
    assert f"names {count} images and the most is 100; send it in parts" in said
    assert len(stack.rows()) == (0 if queue == "cytomask-evaluation" else 1)


def test_a_hundred_images_are_segmented(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    assert stack.deliver({"Records": [s3_record("a.tif")] * 100}) == []
    assert stack.predictor.pages == 1


def test_a_message_that_runs_out_of_time_resumes_with_its_next_image(
    stack: SegmentStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a.tif", "b.tif", "c.tif"):
        stack.upload(key, tiff())
    left = iter([120, 120, 120])
    monkeypatch.setattr(LambdaContext, "get_remaining_time_in_millis", lambda self: next(left, 30) * 1000)
    body = {"Records": [s3_record(key) for key in ("a.tif", "b.tif", "c.tif")]}
    assert stack.deliver(body) == []  # sent again as a new message, which counts as no try
    (again,) = stack.take_messages()
    assert json.loads(again["Body"]) == body
    assert [row["status"] for row in stack.rows()] == ["SUCCEEDED"]


LOCKED = {
    "archived": ("InvalidObjectState", 403, "restore it"),
    "a disabled key": ("KMS.DisabledException", 400, "enable the key"),
    "a deleted key": ("KMS.NotFoundException", 400, "enable the key"),
    "a key of the uploader": ("InvalidRequest", 400, "SSE-C"),
    "an impossible key": ("KeyTooLongError", 400, "KeyTooLongError"),
}

LOCKED_STATUS = {code: status for code, status, _ in LOCKED.values()}


@pytest.mark.parametrize("name", LOCKED)
def test_an_object_locked_for_good_is_rejected_at_once(stack: SegmentStack, name: Any) -> None:
    code, status, sentence = LOCKED[name]
    stack.upload("a.tif", tiff())
    stack.wire.fail("GetObject", code, status, times=10, key="a.tif")
    assert stack.deliver(request("a.tif")) == []
    assert (stack.row()["status"], stack.row()["error_code"]) == ("REJECTED", "IMAGE_LOCKED")
    assert sentence in stack.row()["error"]


def test_an_object_that_s3_will_not_describe_is_rejected_at_once(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.fail("HeadObject", "400", 400, times=1000, key="/a.tif")
    stack.wire.fail("HeadObject", "400", 400, times=1000, key="a.tif")
    stack.wire.fail("GetObject", "InvalidRequest", 400, times=1000, key="/a.tif")
    stack.wire.fail("GetObject", "InvalidRequest", 400, times=1000, key="a.tif")
    assert stack.deliver(request("a.tif")) == []
    assert (stack.row()["status"], stack.row()["error_code"]) == ("REJECTED", "IMAGE_LOCKED")


def test_a_version_that_s3_will_not_describe_is_locked_and_not_missing(stack: SegmentStack) -> None:
    stack.s3.put_bucket_versioning(Bucket=INPUT, VersioningConfiguration={"Status": "Enabled"})
    version = stack.upload("a.tif", tiff())
    stack.wire.fail("HeadObject", "400", 400, times=1000, key="a.tif")
    stack.wire.fail("GetObject", "InvalidRequest", 400, times=1000, key="a.tif")
    assert stack.deliver({"Records": [s3_record("a.tif", version=version)]}) == []
    assert (stack.row()["status"], stack.row()["error_code"]) == ("REJECTED", "IMAGE_LOCKED")
    assert stack.result("a.tif.result.json")["error"]["code"] == "IMAGE_LOCKED"


def test_a_version_that_s3_never_issues_is_missing(stack: SegmentStack) -> None:
    stack.wire.fail("HeadObject", "400", 400, times=1000, key="a.tif")
    stack.wire.fail("GetObject", "InvalidArgument", 400, times=1000, key="a.tif")
    assert stack.deliver({"Records": [s3_record("a.tif", version="none")]}) == []
    assert {row["error_code"] for row in stack.rows()} == {"IMAGE_NOT_FOUND"}


@pytest.mark.parametrize("code", ["InvalidObjectState", "KMS.DisabledException"])
def test_an_image_that_was_locked_is_segmented_once_it_can_be_read(
    stack: SegmentStack, log_lines: Any, code: str
) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.fail("GetObject", code, LOCKED_STATUS[code], times=100, key="a.tif")
    assert [stack.deliver(request("a.tif")), stack.deliver(request("a.tif"))] == [[], []]
    assert (stack.row()["error_code"], stack.row()["attempt"]) == ("IMAGE_LOCKED", 1)
    stack.wire.mend()
    assert stack.deliver(request("a.tif")) == []
    assert (stack.row()["status"], stack.row()["attempt"]) == ("SUCCEEDED", 2)
    assert "error_code" not in stack.row()
    assert stack.outputs() == {"a.tif.mask.png", "a.tif.result.json"}
    assert len(log_lines("image_unlocked")) == 1
    assert stack.deliver(request("a.tif")) == []
    assert stack.predictor.pages == 1


def test_a_caller_who_asks_again_for_an_unlocked_image_gets_its_mask(
    stack: SegmentStack, http: HttpDoor
) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.fail("GetObject", "InvalidObjectState", 403, times=100, key="a.tif")
    assert http.post("/seg_mask", request("a.tif")).json["code"] == "IMAGE_LOCKED"
    stack.wire.mend()
    assert http.post("/seg_mask", request("a.tif")).json["status"] == "SUCCEEDED"


def test_a_lookup_throttled_with_a_400_is_retried(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    for operation in ("GetObject", "HeadObject"):
        stack.wire.fail(operation, "ThrottlingException", 400)
    assert stack.deliver(request("a.tif")) == [0]
    assert stack.rows() == []
    assert stack.deliver(request("a.tif")) == []
    assert stack.row()["status"] == "SUCCEEDED"


def test_an_object_that_s3_describes_only_to_get_is_segmented(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.fail("HeadObject", "400", 400)
    assert stack.deliver(request("a.tif")) == []
    assert [row["status"] for row in stack.rows()] == ["SUCCEEDED"]
    assert stack.outputs() == {"a.tif.mask.png", "a.tif.result.json"}


@pytest.mark.parametrize("code", ["ExpiredToken", "RequestTimeout", "KMS.ThrottlingException"])
def test_a_temporary_400_is_retried(stack: SegmentStack, code: str) -> None:
    stack.upload("a.tif", tiff())
    stack.wire.fail("GetObject", code, 400, times=2, key="a.tif")
    assert stack.deliver(request("a.tif")) == [0]
    assert stack.deliver(request("a.tif")) == []
    assert stack.row()["status"] == "SUCCEEDED"


@pytest.mark.parametrize("key", ["a.tif.mask.png", "jobs/coco/0/a.tif.json"])
def test_the_stacks_own_outputs_are_no_images(stack: SegmentStack, key: str) -> None:
    stack.upload(key, tiff(), bucket=OUTPUT)
    (result,) = stack.handle({"image": f"s3://{OUTPUT}/{key}"})
    assert (result["status"], result["error"]["code"]) == ("REJECTED", "FOREIGN_BUCKET")
    assert "one of this stack's own outputs" in result["error"]["message"]
    assert stack.predictor.pages == 0


def test_a_part_of_a_coco_file_is_no_ground_truth(stack: SegmentStack) -> None:
    stack.upload("a.tif", tiff())
    part = f"s3://{OUTPUT}/jobs/coco/0/a.tif.json"
    (result,) = stack.handle(request("a.tif", ground_truth=part))
    assert result["error"]["code"] == "FOREIGN_BUCKET"


def test_a_notice_on_the_evaluation_queue_cannot_name_a_foreign_bucket(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    stack.s3.create_bucket(Bucket="foreign", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    stack.upload("c.json", b'{"images": [], "annotations": []}', bucket="foreign")
    stack.wire.fail("HeadObject", "asked", 500, times=10)
    with lines_of(evaluate.app) as lines:
        assert evaluate.deliver({"Records": [s3_record("c.json", "foreign")]}) == []
        (line,) = [line for line in lines() if line["message"] == "message_refused"]
    assert (line["level"], line["error_code"]) == ("ERROR", "FOREIGN_BUCKET")


@pytest.mark.parametrize("operation", ["HeadObject", "Query"])
def test_a_fault_while_evaluations_are_looked_up_is_an_error_line(
    stack: SegmentStack, evaluate: EvaluateFunction, operation: str
) -> None:
    stack.segment("a.tif", tiff())
    stack.upload("a.png", ground_truth(), bucket=GROUND_TRUTH)
    stack.wire.fail(operation, "InternalError", 500)
    with lines_of(evaluate.app) as lines:
        assert evaluate.deliver({"Records": [s3_record("a.png", GROUND_TRUTH)]}) == [0]
        (line,) = [line for line in lines() if line["level"] == "ERROR"]
    assert line["message"] == "attempt_failed"
    assert line["ground_truth"] == f"s3://{GROUND_TRUTH}/a.png"
    assert "cytomask redrive" in line["what_to_do"]


def test_a_coco_file_of_the_longest_key_and_names_is_indexed(
    stack: SegmentStack, evaluate: EvaluateFunction
) -> None:
    key = "k" * 1019 + ".json"
    entry = {"width": 80, "height": 64}
    images = [{"id": 1, "file_name": "n" * 5000} | entry, {"id": 2, "file_name": "ü" * 120 + ".tif"} | entry]
    box = [[10, 10, 30, 10, 30, 30, 10, 30]]
    annotations = [{"id": n, "image_id": n, "segmentation": box, "bbox": [10, 10, 20, 20]} for n in (1, 2)]
    image = str(images[1]["file_name"])
    stack.segment(image, tiff())
    stack.upload(
        key, json.dumps({"images": images, "annotations": annotations}).encode(), bucket=GROUND_TRUTH
    )
    assert evaluate.deliver({"Records": [s3_record(key, GROUND_TRUTH)]}) == []
    assert evaluate.deliver_queued() == []
    assert [row["evaluation_status"] for row in stack.rows("EVAL#")] == ["SCORED"]


def test_a_mask_of_the_longest_key_is_a_ground_truth(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    key = "k" * 1000 + ".png"
    stack.segment("k" * 1000 + ".tif", tiff())
    stack.upload(key, ground_truth(), bucket=GROUND_TRUTH)
    assert evaluate.deliver({"Records": [s3_record(key, GROUND_TRUTH)]}) == []
    assert evaluate.deliver_queued() == []
    assert [row["evaluation_status"] for row in stack.rows("EVAL#")] == ["SCORED"]
