"""/jobs: queue jobs over HTTP, and show them."""

import base64
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from factories import (
    GROUND_TRUTH,
    INPUT,
    OUTPUT,
    REGION,
    SEGMENT_QUEUE_URL,
    TABLE,
    event_file,
    ground_truth,
    request,
    s3_event,
    stack_of,
    tiff,
)
from functions_on_moto import ApiFunction, EvaluateFunction, FailuresFunction, HttpDoor, SegmentStack
from test_http_seg_mask import assert_problem

from cytomask.cli.redrive import run_redrive
from cytomask.http import LARGEST_BODY

pytestmark = pytest.mark.long

KEY = "plate 1/A172_Phase_a.tif"
NOBODY = "0" * 32


@pytest.fixture
def many(http: HttpDoor) -> Any:
    """Write job rows: a job a second, of a group and a status."""

    def write(count: int, group: str = "plate 1", status: str = "SUCCEEDED", record: str = "JOB") -> Any:
        ids = [f"{number:032x}" for number in range(count)]
        with http.stack.table.batch_writer() as batch:
            for number, job_id in enumerate(ids):
                created = datetime.fromtimestamp(number, UTC).isoformat()
                row = {"job_id": job_id, "record": record, "group": group, "created_at": created}
                batch.put_item(Item=row | ({"status": status} if record == "JOB" else {}))
        return ids[::-1]

    return write


def versioned(stack: SegmentStack) -> None:
    stack.s3.put_bucket_versioning(Bucket=INPUT, VersioningConfiguration={"Status": "Enabled"})


def ids(answer: Any) -> Any:
    assert (answer.status, answer.kind) == (200, "application/json"), answer.body
    return [job["job_id"] for job in answer.json["jobs"]]


def test_a_job_is_queued_and_its_message_makes_the_mask(http: HttpDoor) -> None:
    http.stack.upload(KEY, tiff())
    answer = http.post("/jobs", request(KEY, threshold=0.4, group="HeLa"))
    job_id = answer.json["job_id"]
    assert answer.status == 202
    assert answer.json == {"job_id": job_id, "status": "QUEUED", "image": f"s3://{INPUT}/{KEY}"}
    assert answer.headers["Location"] == f"/jobs/{job_id}"
    assert http.get(f"/jobs/{job_id}").json["status"] == "QUEUED"
    assert http.deliver_queued() == []
    row = http.stack.row()
    assert (row["job_id"], row["status"], row["group"]) == (job_id, "SUCCEEDED", "HeLa")
    assert http.stack.result(f"jobs/{job_id}/{KEY}.result.json")["parameters"]["threshold"] == 0.4


def test_posting_an_image_gives_the_job_of_its_upload(http: HttpDoor) -> None:
    uploaded = http.stack.segment(KEY, tiff())
    answer = http.post("/jobs", {"image_path": f"s3://{INPUT}/{KEY}"})
    assert answer.json == {
        "job_id": uploaded["job_id"],
        "status": "SUCCEEDED",
        "image": f"s3://{INPUT}/{KEY}",
    }
    assert http.deliver_queued() == []
    assert http.stack.predictor.pages == 1


def test_a_repeat_that_brings_a_ground_truth_has_it_scored(http: HttpDoor) -> None:
    http.stack.segment(KEY, tiff())
    http.stack.upload("truth.png", ground_truth(), GROUND_TRUTH)
    http.post("/jobs", request(KEY, ground_truth=f"s3://{GROUND_TRUTH}/truth.png"))
    http.deliver_queued()
    (message,) = http.stack.evaluation_messages()
    assert message["ground_truth"]["key"] == "truth.png"


@pytest.mark.parametrize("mode", ["native", "resize"])
def test_a_queued_job_keeps_its_id_with_any_network(http: HttpDoor, mode: str) -> None:
    http.stack.upload(KEY, tiff())
    job_id = http.post("/jobs", request(KEY, mode=mode)).json["job_id"]
    assert http.deliver_queued() == []
    (row,) = http.stack.rows()
    assert (row["job_id"], row["status"]) == (job_id, "SUCCEEDED")


def test_a_job_whose_image_was_replaced_before_it_began_is_rejected(http: HttpDoor) -> None:
    http.stack.upload(KEY, tiff())
    job_id = http.post("/jobs", request(KEY)).json["job_id"]
    http.stack.upload(KEY, tiff(compression="lzw"))
    assert http.deliver_queued() == []
    (other,) = (row for row in http.stack.rows() if row["job_id"] != job_id)
    told = http.get(f"/jobs/{job_id}").json
    assert (told["status"], told["error_code"]) == ("REJECTED", "IMAGE_REPLACED")
    assert other["job_id"] in told["error"]
    assert other["status"] == "SUCCEEDED"


def test_a_job_whose_image_was_deleted_before_it_began_is_rejected(http: HttpDoor) -> None:
    http.stack.upload(KEY, tiff())
    job_id = http.post("/jobs", request(KEY)).json["job_id"]
    http.stack.s3.delete_object(Bucket=INPUT, Key=KEY)
    http.deliver_queued()
    assert http.get(f"/jobs/{job_id}").json["status"] == "REJECTED"


def test_a_withdrawn_job_runs_once_its_version_is_the_newest_again(http: HttpDoor) -> None:
    versioned(http.stack)
    http.stack.upload(KEY, tiff())
    job_id = http.post("/jobs", request(KEY)).json["job_id"]
    newer = http.stack.upload(KEY, tiff(compression="lzw"))
    http.deliver_queued()
    assert http.get(f"/jobs/{job_id}").json["status"] == "REJECTED"
    http.stack.s3.delete_object(Bucket=INPUT, Key=KEY, VersionId=newer)
    assert http.post("/jobs", request(KEY)).json["job_id"] == job_id
    assert http.deliver_queued() == []
    told = http.get(f"/jobs/{job_id}").json
    assert told["status"] == "SUCCEEDED"
    assert not {"error", "error_code"} & told.keys()


@pytest.fixture
def given_up(http: HttpDoor, failures: FailuresFunction) -> Any:
    """Return the id of a job requested over HTTP whose message became a dead letter."""
    http.stack.upload(KEY, tiff())
    job_id = http.post("/jobs", request(KEY, threshold=0.4)).json["job_id"]
    (message,) = http.stack.take_messages()
    assert failures.deliver(message["Body"], waiting=job_id) == []
    return job_id


def redrive(http: HttpDoor) -> None:
    """Redrive a job like `cytomask redrive`, without its output."""
    arguments: Any = SimpleNamespace(ids=[])
    stack: Any = SimpleNamespace(
        dynamodb=boto3.client("dynamodb"), table=TABLE, sqs=http.stack.sqs, segment_queue=SEGMENT_QUEUE_URL
    )
    assert run_redrive(stack, arguments) == 0


def test_a_failed_job_is_reported_without_its_message(http: HttpDoor, given_up: Any) -> None:
    told = http.get(f"/jobs/{given_up}").json
    assert (told["status"], told["error_code"], "message" in told) == ("FAILED", "TRIES_USED_UP", False)
    assert json.loads(http.stack.row()["message"])["threshold"] == 0.4
    assert ids(http.get("/jobs?status=FAILED")) == [given_up]


def test_a_job_that_failed_is_done_by_a_redrive(http: HttpDoor, given_up: Any) -> None:
    redrive(http)
    assert http.get(f"/jobs/{given_up}").json["status"] == "QUEUED"
    assert http.deliver_queued() == []
    told = http.get(f"/jobs/{given_up}").json
    assert (told["status"], told["attempt"]) == ("SUCCEEDED", 2)
    assert http.stack.result(f"jobs/{given_up}/{KEY}.result.json")["parameters"]["threshold"] == 0.4


def test_a_job_that_failed_and_whose_image_was_replaced_before_its_redrive_is_rejected(
    http: HttpDoor, given_up: Any
) -> None:
    http.stack.upload(KEY, tiff(compression="lzw"))
    redrive(http)
    assert http.deliver_queued() == []
    told = http.get(f"/jobs/{given_up}").json
    assert (told["status"], told["error_code"]) == ("REJECTED", "IMAGE_REPLACED")
    (other,) = (row for row in http.stack.rows() if row["job_id"] != given_up)
    assert (other["status"], other["job_id"] in told["error"]) == ("SUCCEEDED", True)


def test_a_job_whose_image_was_replaced_and_whose_message_was_given_up_is_rejected(
    http: HttpDoor, failures: FailuresFunction
) -> None:
    http.stack.upload(KEY, tiff())
    job_id = http.post("/jobs", request(KEY)).json["job_id"]
    http.stack.upload(KEY, tiff(compression="lzw"))
    (message,) = http.stack.take_messages()
    assert failures.deliver(message["Body"], waiting=job_id) == []
    (other,) = (row for row in http.stack.rows() if row["job_id"] != job_id)
    assert (http.get(f"/jobs/{job_id}").json["status"], other["status"]) == ("REJECTED", "FAILED")


def test_requesting_a_failed_job_again_retries_it(http: HttpDoor, given_up: Any) -> None:
    assert http.post("/jobs", request(KEY, threshold=0.4)).json["job_id"] == given_up
    assert http.deliver_queued() == []
    assert http.get(f"/jobs/{given_up}").json["status"] == "SUCCEEDED"


def test_an_existing_job_is_reported_with_its_evaluations(http: HttpDoor, evaluate: EvaluateFunction) -> None:
    http.stack.upload("truth.png", ground_truth(), GROUND_TRUTH)
    http.stack.upload(KEY, tiff())
    (result,) = http.stack.handle(request(KEY, ground_truth=f"s3://{GROUND_TRUTH}/truth.png"))
    evaluate.deliver_queued()
    told = http.get(f"/jobs/{result['job_id']}").json
    row = http.stack.row()
    (scored,) = told.pop("evaluations")
    assert told.keys() == row.keys() - {"record", "made_at"} | {"created_at"}
    assert told["mask"] == f"s3://{OUTPUT}/{KEY}.mask.png"
    assert told["confluence"] == result["confluence"]
    assert told["attempt"] == 1
    assert (scored["evaluation_status"], scored["iou"]) == ("SCORED", float(evaluate.row()["iou"]))
    assert scored["record"].startswith("EVAL#")


def test_jobs_are_listed_by_status_and_by_group(http: HttpDoor) -> None:
    done = http.stack.segment(KEY, tiff())["job_id"]
    http.stack.upload("other.tif", b"no image")
    (refused,) = http.stack.handle(s3_event("other.tif"))
    assert ids(http.get("/jobs?status=SUCCEEDED")) == [done]
    assert ids(http.get("/jobs?status=REJECTED")) == [refused["job_id"]]
    assert ids(http.get("/jobs?group=A172")) == [done]
    assert ids(http.get("/jobs?group=A172&status=REJECTED")) == []
    assert ids(http.get("/jobs?status=QUEUED")) == []
    assert http.get("/jobs?group=nobody's").json == {"jobs": [], "cursor": None}


def test_a_cursor_leads_through_all_jobs_the_newest_first(http: HttpDoor, many: Any) -> None:
    expected = many(230)
    for search in ("status=SUCCEEDED", "group=plate+1", "group=plate%201&status=SUCCEEDED"):
        first = http.get(f"/jobs?{search}")
        second = http.get(f"/jobs?{search}&cursor={first.json['cursor']}")
        third = http.get(f"/jobs?{search}&cursor={second.json['cursor']}")
        assert [len(ids(each)) for each in (first, second, third)] == [100, 100, 30]
        assert ids(first) + ids(second) + ids(third) == expected
        assert third.json["cursor"] is None


def test_rows_that_are_no_jobs_do_not_fill_a_list(http: HttpDoor, many: Any) -> None:
    (expected, *_) = many(1)
    many(450, record="EVAL#version")
    assert ids(http.get("/jobs?group=plate+1")) == [expected]


def test_the_hundredth_of_a_hundred_jobs_ends_the_list(http: HttpDoor, many: Any) -> None:
    many(100)
    first = http.get("/jobs?status=SUCCEEDED").json
    assert len(first["jobs"]) == 100
    if first["cursor"]:
        assert http.get(f"/jobs?status=SUCCEEDED&cursor={first['cursor']}").json == {
            "jobs": [],
            "cursor": None,
        }


def test_jobs_are_shown_without_the_pages_of_their_stacks(http: HttpDoor) -> None:
    """A hundred stacks of some hundred pages would make an answer that Lambda refuses."""
    row = http.stack.segment("VID1523_B2_1_00d04h00m.tif", stack_of(2))
    assert http.stack.row()["series"]
    assert "series" not in http.get(f"/jobs/{row['job_id']}").json
    [listed] = http.get("/jobs?status=SUCCEEDED").json["jobs"]
    assert (listed["pages"], "series" in listed) == (2, False)


@pytest.mark.parametrize("name", ["http-post-job", "http-get-job", "http-get-jobs", "http-get-plates"])
def test_the_event_files_are_answered(http: HttpDoor, api: ApiFunction, name: str) -> None:
    event = event_file(name)
    if name == "http-post-job":
        http.stack.upload(json.loads(event["body"])["image"].removeprefix(f"s3://{INPUT}/"), tiff())
    elif name == "http-get-job":
        job_id = event["pathParameters"]["id"]
        http.stack.table.put_item(
            Item={"job_id": job_id, "record": "JOB", "status": "RUNNING", "created_at": "2"}
        )
    assert api(event)["statusCode"] == {"http-post-job": 202}.get(name, 200)


# Refusals


@pytest.mark.parametrize(
    "job_id", [NOBODY, "nonsense", "A" * 32, "..", "%2e%2e", "GROUND_TRUTH%23s3:%2F%2Fb%2Fk"]
)
def test_a_job_that_does_not_exist_is_not_found(http: HttpDoor, api: ApiFunction, job_id: Any) -> None:
    event = event_file("http-get-job") | {"rawPath": f"/jobs/{job_id}"}
    answer = api(event)
    told = json.loads(answer["body"])
    assert (answer["statusCode"], told["status"]) == (404, 404)
    assert told["code"] in ("NO_SUCH_JOB", "NO_SUCH_ROUTE")
    assert_problem(http.get(f"/jobs/{NOBODY}"), 404, "NO_SUCH_JOB")


def test_a_cursor_that_was_tampered_with_is_refused(http: HttpDoor, many: Any) -> None:
    many(120)
    cursor = http.get("/jobs?status=SUCCEEDED").json["cursor"]
    signed = base64.urlsafe_b64decode(cursor)
    place = json.loads(signed[16:])
    elsewhere = signed[:16] + json.dumps(place | {"status": "FAILED"}).encode()
    wrong = [
        cursor[:at] + ("A" if cursor[at] != "A" else "B") + cursor[at + 1 :] for at in range(len(cursor))
    ]
    wrong += [
        "",
        "x",
        "ü",
        cursor[:-1],
        cursor + "A",
        cursor[:4],
        base64.urlsafe_b64encode(elsewhere).decode(),
    ]
    for each in dict.fromkeys(wrong):
        answer = http.get(f"/jobs?status=SUCCEEDED&cursor={each}")
        assert "`cursor`" in assert_problem(answer, 400, "INVALID_REQUEST")


def test_a_cursor_of_another_search_is_refused(http: HttpDoor, many: Any) -> None:
    many(120)
    cursor = http.get("/jobs?status=SUCCEEDED").json["cursor"]
    for search in ("status=REJECTED", "group=plate+1", "status=SUCCEEDED&group=plate+1"):
        assert_problem(http.get(f"/jobs?{search}&cursor={cursor}"), 400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "found nothing"),
        ("?cursor=abc", "found cursor"),
        ("?status=DONE", "QUEUED, RUNNING, SUCCEEDED, REJECTED, FAILED"),
        ("?status=", "QUEUED, RUNNING"),
        ("?group=", "`group`"),
        (f"?group={'g' * 257}", "`group`"),
        ("?status=FAILED&sttaus=QUEUED", "sttaus"),
        ("?status=FAILED&status=QUEUED", "twice"),
    ],
)
def test_an_invalid_search_is_refused(http: HttpDoor, query: str, said: str) -> None:
    assert said in assert_problem(http.get(f"/jobs{query}"), 400, "INVALID_REQUEST")


def test_a_request_for_a_missing_image_is_refused_and_not_recorded(http: HttpDoor) -> None:
    detail = assert_problem(http.post("/jobs", request("missing.tif")), 422, "IMAGE_NOT_FOUND")
    assert f"s3://{INPUT}/missing.tif is not there" in detail
    assert (http.stack.rows(""), http.stack.take_messages()) == ([], [])


@pytest.mark.parametrize(
    "named", [{"image": "s3://private/a.tif"}, request(KEY, ground_truth="s3://private/a.png")]
)
def test_a_bucket_that_the_stack_does_not_serve_is_refused_without_any_call_to_it(
    http: HttpDoor, named: Any
) -> None:
    http.stack.upload(KEY, tiff())
    http.stack.wire.fail("HeadObject", "asked", 500, times=10)
    detail = assert_problem(http.post("/jobs", named), 403, "FOREIGN_BUCKET")
    assert "s3://private/" in detail and "AllowedBuckets" in detail
    assert (http.stack.rows(""), http.stack.take_messages()) == ([], [])


def test_an_image_of_another_bucket_that_is_allowed_is_queued(
    http: HttpDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    http.stack.s3.create_bucket(Bucket="archive", CreateBucketConfiguration={"LocationConstraint": REGION})
    http.stack.upload("a.tif", tiff(), bucket="archive")
    monkeypatch.setenv("ALLOWED_BUCKETS", "archive")
    monkeypatch.setattr(http.api.app, "desk", http.api.app.connect()[0])
    assert http.post("/jobs", {"image": "s3://archive/a.tif"}).status == 202


def test_an_invalid_request_is_refused_and_not_recorded(http: HttpDoor) -> None:
    for body in (
        b"not json",
        b"[]",
        b'{"image": "/mnt/a.tif"}',
        b'{"image": "s3://bucket/k", "nuclei": 1}',
        b"",
    ):
        assert_problem(http.call("POST", "/jobs", body or b" "), 400, "INVALID_REQUEST")
    assert_problem(http.call("POST", "/jobs", b"x", "text/plain"), 415, "UNSUPPORTED_MEDIA_TYPE")
    assert_problem(http.call("POST", "/jobs", b" " * (LARGEST_BODY + 1)), 413, "BODY_TOO_LARGE")
    assert (http.stack.rows(""), http.stack.take_messages()) == ([], [])


def test_a_query_is_refused_by_routes_that_take_none(http: HttpDoor) -> None:
    http.stack.upload(KEY, tiff())
    assert_problem(http.post("/jobs?threshold=0.5", request(KEY)), 400, "INVALID_REQUEST")
    assert_problem(http.get(f"/jobs/{NOBODY}?verbose=1"), 400, "INVALID_REQUEST")


def test_a_queue_that_refuses_leaves_a_job_that_can_be_asked_for_again(http: HttpDoor) -> None:
    http.stack.upload(KEY, tiff())
    http.stack.wire.fail("SendMessage", "ServiceUnavailable", 503)
    assert_problem(http.post("/jobs", request(KEY)), 503, "SERVICE_FAULT")
    assert http.post("/jobs", request(KEY)).status == 202
    assert http.deliver_queued() == []
    assert http.stack.row()["status"] == "SUCCEEDED"


def test_a_message_about_another_image_cannot_end_a_job_that_waits(http: HttpDoor) -> None:
    http.stack.upload("victim.tif", tiff())
    http.stack.upload("other.tif", tiff())
    waiting = http.post("/jobs", request("victim.tif")).json["job_id"]
    http.stack.take_messages()
    assert http.stack.deliver(request("other.tif"), waiting=waiting) == []
    assert http.stack.job(waiting)["status"] == "QUEUED"


@pytest.mark.parametrize(
    "place",
    [
        {"job_id": 5},
        {"job_id": "", "record": "JOB", "status": "FAILED", "created_at": "9"},
        {"job_id": "a", "record": "JOB", "status": "RUNNING", "created_at": "9"},
        {"job_id": "a", "record": "JOB", "created_at": "9"},
        [],
    ],
)
def test_a_cursor_forged_with_the_tables_name_is_refused(http: HttpDoor, place: Any) -> None:
    forged = http.api.app.desk._cursors.write(place, {"status": "FAILED"})
    assert_problem(http.get(f"/jobs?status=FAILED&cursor={forged}"), 400, "INVALID_REQUEST")
