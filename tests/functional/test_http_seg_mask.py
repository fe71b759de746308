"""POST /seg_mask: an image named or in the body, segmented while the caller waits."""

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from factories import (
    GROUND_TRUTH,
    HEIGHT,
    INPUT,
    OUTPUT,
    WIDTH,
    event_file,
    ground_truth,
    page,
    png,
    request,
    stack_of,
    tiff,
)
from functions_on_moto import HttpDoor
from PIL import Image

from cytomask.http import LARGEST_BODY
from cytomask.model.predictor import Predictor

pytestmark = pytest.mark.long

KEY = "plate 1/a.tif"
PNG = "image/png"


def assert_problem(answer: Any, status: int, code: Any) -> Any:
    assert (answer.status, answer.kind) == (status, "application/problem+json")
    assert answer.json["status"] == status
    assert (answer.json["type"], answer.json["code"]) == ("about:blank", code)
    assert answer.json["title"]
    return answer.json["detail"]


def pixels(content: bytes) -> Any:
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        assert image.mode == "L"
        return np.asarray(image)


def large() -> Any:
    """Make a TIFF of 16 megapixels and few bytes."""
    return tiff(np.zeros((4000, 4000), np.uint8), compression="zlib")


@pytest.fixture
def expected(predictor: Predictor) -> Any:
    return predictor.predict(page()).mask * np.uint8(255)


def test_an_image_of_the_bucket_is_answered_with_the_place_of_its_mask(http: HttpDoor, expected: Any) -> None:
    http.stack.upload(KEY, tiff())
    answer = http.post("/seg_mask", request(KEY))
    assert (answer.status, answer.kind) == (200, "application/json")
    assert answer.json == http.stack.result(f"{KEY}.result.json")
    assert answer.json["mask"] == f"s3://{OUTPUT}/{KEY}.mask.png"
    assert np.array_equal(http.stack.mask(f"{KEY}.mask.png"), expected)
    assert http.stack.row()["status"] == "SUCCEEDED"


def test_the_reference_server_s_field_means_the_same(http: HttpDoor) -> None:
    http.stack.upload(KEY, tiff())
    answer = http.post("/seg_mask", {"image_path": f"s3://{INPUT}/{KEY}"})
    assert (answer.status, answer.json["mask"]) == (200, f"s3://{OUTPUT}/{KEY}.mask.png")


def test_a_png_is_the_mask_itself(http: HttpDoor, expected: Any) -> None:
    http.stack.upload(KEY, tiff())
    first = http.post("/seg_mask", request(KEY), accept=PNG)
    again = http.post("/seg_mask", request(KEY), accept=PNG)
    assert (first.status, first.kind) == (200, PNG)
    assert first.body == again.body == http.stack.output(f"{KEY}.mask.png")
    assert np.array_equal(pixels(first.body), expected)
    assert http.stack.predictor.pages == 1


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/png, */*;q=0.1", PNG),
        ("image/*", PNG),
        ("application/json, image/png;q=0.5", "application/json"),
        ("image/png;q=wrong", "application/json"),
        ("text/html", "application/json"),
    ],
)
def test_the_form_of_the_answer_is_what_the_caller_ranks_highest(
    http: HttpDoor, accept: str, kind: Any
) -> None:
    http.stack.upload(KEY, tiff())
    assert http.post("/seg_mask", request(KEY), accept=accept).kind == kind


@pytest.mark.parametrize("kind", ["image/tiff", "application/octet-stream", "image/tiff; name=a.tif"])
def test_an_image_in_the_body_is_segmented_and_stored_nowhere(
    http: HttpDoor, expected: Any, kind: str
) -> None:
    answer = http.call("POST", "/seg_mask", tiff(), kind, accept=PNG)
    assert (answer.status, answer.kind) == (200, PNG)
    assert np.array_equal(pixels(answer.body), expected)
    assert http.stack.outputs() == set()
    assert http.stack.rows("") == []


def test_the_result_of_a_body_holds_its_masks(http: HttpDoor, predictor: Predictor) -> None:
    answer = http.call("POST", "/seg_mask", stack_of(2), "image/tiff").json
    assert (answer["status"], [each["page"] for each in answer["pages"]]) == ("SUCCEEDED", [0, 1])
    assert answer["mask"] == answer["pages"][0]["mask"]
    for number, described in enumerate(answer["pages"]):
        form, _, content = described["mask"].partition(",")
        assert form == "data:image/png;base64"
        found = predictor.predict(page(number)).mask
        assert np.array_equal(pixels(base64.b64decode(content)) == 255, found)
        assert described["confluence"] == pytest.approx(found.mean())
    assert answer["model"]["sha256"] == predictor.manifests["native"].sha256
    assert answer["timings_ms"].keys() == {"decode", "infer", "encode", "total"}
    assert "job_id" not in answer


def test_the_query_says_how_to_segment_a_body(http: HttpDoor, predictor: Predictor) -> None:
    path = "/seg_mask?threshold=0.9&mode=resize&pages=1"
    answer = http.call("POST", path, stack_of(2), "image/tiff", accept=PNG)
    assert np.array_equal(pixels(answer.body) == 255, predictor.predict(page(1), "resize", 0.9).mask)


def test_a_field_of_the_body_overrides_the_query(http: HttpDoor) -> None:
    http.stack.upload(KEY, tiff())
    answer = http.post("/seg_mask?threshold=0.9&mode=resize", request(KEY, threshold=0.2))
    assert {name: answer.json["parameters"][name] for name in ("threshold", "mode")} == {
        "threshold": 0.2,
        "mode": "resize",
    }


def test_a_ground_truth_is_scored_as_for_any_request(http: HttpDoor) -> None:
    http.stack.upload(KEY, tiff())
    http.stack.upload("truth.png", ground_truth(), GROUND_TRUTH)
    http.post("/seg_mask", request(KEY, ground_truth=f"s3://{GROUND_TRUTH}/truth.png"))
    (message,) = http.stack.evaluation_messages()
    assert message["ground_truth"]["key"] == "truth.png"


@pytest.mark.parametrize("name", ["http-seg-mask", "http-seg-mask-png", "http-seg-mask-body"])
def test_the_event_files_are_answered(http: HttpDoor, name: str) -> None:
    event = event_file(name)
    if not event["isBase64Encoded"]:
        key = json.loads(event["body"]).popitem()[1].removeprefix(f"s3://{INPUT}/")
        http.stack.upload(key, tiff())
    answer = http.stack.handle(event)
    assert answer["statusCode"] == 200
    assert answer["isBase64Encoded"] == ("png" in event["headers"].get("accept", ""))


# Refusals


def test_a_body_that_is_not_json_is_refused(http: HttpDoor) -> None:
    for body in (b"image=s3://b/k", b'{"image": ', b"\xff\xfe\xfd", b"[]", b"null"):
        detail = assert_problem(http.call("POST", "/seg_mask", body), 400, "INVALID_REQUEST")
        assert "JSON" in detail
    assert_problem(http.call("POST", "/seg_mask", b"", ""), 415, "UNSUPPORTED_MEDIA_TYPE")
    assert http.stack.rows("") == []


@pytest.mark.parametrize("path", ["/test_image/A172.tif", "C:\\plates\\a.tif", "https://host/a.tif"])
def test_a_path_on_somebody_s_disk_is_refused_with_a_sentence(http: HttpDoor, path: str) -> None:
    detail = assert_problem(http.post("/seg_mask", {"image_path": path}), 400, "INVALID_REQUEST")
    assert (
        "`image_path`" in detail
        and "your own disk are out of reach" in detail
        and "s3://bucket/key" in detail
    )


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "`image`"),
        ({"image": f"s3://{INPUT}/a.tif", "treshold": 0.5}, "`treshold`"),
        ({"image": f"s3://{INPUT}/a.tif", "threshold": 2}, "`threshold`"),
        ({"image": f"s3://{INPUT}/a.tif", "image_path": f"s3://{INPUT}/a.tif"}, "`image_path`"),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(http: HttpDoor, fields: dict[str, Any], named: str) -> None:
    assert named in assert_problem(http.post("/seg_mask", fields), 400, "INVALID_REQUEST")
    assert http.stack.rows("") == []


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("treshold=0.5", "`treshold`"),
        ("threshold=null", "`threshold`"),
        ("mode=fast", "`mode`"),
        ("image=s3://b/k", "`image`"),
        ("mode=native&mode=resize", "twice"),
    ],
)
def test_a_wrong_field_of_the_query_is_refused_by_its_name(http: HttpDoor, query: str, named: str) -> None:
    answer = http.call("POST", f"/seg_mask?{query}", tiff(), "image/tiff")
    assert named in assert_problem(answer, 400, "INVALID_REQUEST")


def test_a_body_at_the_limit_is_accepted_and_one_byte_more_is_not(http: HttpDoor) -> None:
    image = tiff()
    filled = image + bytes(LARGEST_BODY - len(image))
    assert http.call("POST", "/seg_mask", filled, "image/tiff").status == 200
    detail = assert_problem(
        http.call("POST", "/seg_mask", filled + b"\0", "image/tiff"), 413, "BODY_TOO_LARGE"
    )
    assert f"{LARGEST_BODY + 1} bytes" in detail and f"{LARGEST_BODY}" in detail


def test_a_request_of_too_many_bytes_is_refused_too(http: HttpDoor) -> None:
    body = json.dumps(request(KEY)).encode().ljust(LARGEST_BODY + 1)
    assert_problem(http.call("POST", "/seg_mask", body), 413, "BODY_TOO_LARGE")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "image/gif"])
def test_a_body_of_another_kind_is_refused(http: HttpDoor, kind: str) -> None:
    detail = assert_problem(http.call("POST", "/seg_mask", b"x", kind), 415, "UNSUPPORTED_MEDIA_TYPE")
    assert kind in detail and "application/json" in detail


@pytest.mark.parametrize(
    "named", [{"image_path": "s3://private/a.tif"}, request(KEY, ground_truth="s3://private/a.png")]
)
def test_a_bucket_that_the_stack_does_not_serve_is_refused_without_any_call_to_it(
    http: HttpDoor, named: Any
) -> None:
    http.stack.upload(KEY, tiff())
    for operation in ("HeadObject", "GetObject"):
        http.stack.wire.fail(operation, "asked", 500, times=10)
    detail = assert_problem(http.post("/seg_mask", named), 403, "FOREIGN_BUCKET")
    assert "s3://private/" in detail and "AllowedBuckets" in detail
    assert (http.stack.rows(""), http.stack.outputs()) == ([], set())


def test_an_image_too_large_to_wait_for_is_refused_before_anything_is_recorded(http: HttpDoor) -> None:
    http.stack.upload(KEY, large())
    detail = assert_problem(http.post("/seg_mask", request(KEY)), 422, "IMAGE_TOO_LARGE")
    assert "16.0 megapixels" in detail and "POST /jobs" in detail
    assert (http.stack.rows(""), http.stack.outputs()) == ([], set())


def test_pages_that_are_too_large_together_are_refused_and_one_of_them_is_not(http: HttpDoor) -> None:
    pages = np.zeros((3, 2000, 2000), np.uint8)
    http.stack.upload(KEY, tiff(pages, photometric="minisblack"))
    assert_problem(http.post("/seg_mask", request(KEY)), 422, "IMAGE_TOO_LARGE")
    assert http.post("/seg_mask", request(KEY, pages=1)).status == 200


def test_a_body_too_large_to_wait_for_is_refused(http: HttpDoor) -> None:
    answer = http.call("POST", "/seg_mask", large(), "image/tiff")
    assert "POST /jobs" in assert_problem(answer, 422, "IMAGE_TOO_LARGE")


def test_a_missing_image_is_a_rejected_job(http: HttpDoor) -> None:
    answer = http.post("/seg_mask", request("missing.tif"))
    assert "missing.tif is not there" in assert_problem(answer, 422, "IMAGE_NOT_FOUND")
    assert http.stack.row()["job_id"] == answer.json["job_id"]
    assert http.stack.result(answer.json["result"].removeprefix(f"s3://{OUTPUT}/"))["status"] == "REJECTED"


def test_an_unreadable_image_is_a_rejected_job_however_often_it_is_asked_for(http: HttpDoor) -> None:
    http.stack.upload(KEY, b"no image")
    first, again = http.post("/seg_mask", request(KEY)), http.post("/seg_mask", request(KEY), accept=PNG)
    assert_problem(first, 422, "UNREADABLE_IMAGE")
    assert again.json == first.json
    assert http.stack.row()["status"] == "REJECTED"


def test_the_mask_of_a_body_is_cleaned_as_the_query_asks(http: HttpDoor) -> None:
    event = event_file("http-seg-mask-body") | {"body": base64.b64encode(tiff()).decode()}
    event["headers"] = event["headers"] | {"accept": "application/json"}
    query = "min_size_um2=1e6&pixel_size_um=0.5&fill_holes=true"
    answer = json.loads(http.stack.handle(event | {"rawQueryString": query})["body"])
    assert answer["confluence"] == answer["confluence_high"] == 0
    assert answer["pages"][0]["pixel_size_um"] == [0.5, 0.5]
    assert answer["parameters"]["fill_holes"] is True


@pytest.mark.parametrize(
    ("body", "query", "code"),
    [
        (b"", "", "EMPTY_IMAGE"),
        (b"no image", "", "UNREADABLE_IMAGE"),
        (tiff()[:2000], "", "UNREADABLE_IMAGE"),
        (tiff(), "?pages=3", "NO_SUCH_PAGE"),
        (tiff(), "?min_size_um2=9", "PIXEL_SIZE_UNKNOWN"),
        (
            tiff(np.zeros((5, HEIGHT, WIDTH), np.uint8), metadata={"axes": "CYX"}, ome=True),
            "",
            "AMBIGUOUS_CHANNELS",
        ),
    ],
)
def test_a_body_that_cannot_be_segmented_is_refused_with_its_code(
    http: HttpDoor, body: Any, query: str, code: str
) -> None:
    answer = http.stack.handle(
        event_file("http-seg-mask-body")
        | {"body": base64.b64encode(body).decode(), "rawQueryString": query[1:]}
    )
    assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (422, code)
    assert http.stack.rows("") == []


def test_a_png_of_several_pages_is_refused_unless_one_is_named(http: HttpDoor) -> None:
    http.stack.upload(KEY, stack_of(2))
    for answer in (
        http.post("/seg_mask", request(KEY), accept=PNG),
        http.call("POST", "/seg_mask", stack_of(2), "image/tiff", accept=PNG),
    ):
        assert "2 pages" in assert_problem(answer, 406, "NOT_ACCEPTABLE")
    assert http.stack.rows("") == []
    assert http.post("/seg_mask", request(KEY, pages=1), accept=PNG).kind == PNG


def test_a_png_without_a_mask_is_refused(http: HttpDoor) -> None:
    http.stack.upload(KEY, tiff())
    answer = http.post("/seg_mask", request(KEY, outputs=["overlay"]), accept=PNG)
    assert "`outputs`" in assert_problem(answer, 406, "NOT_ACCEPTABLE")


def test_a_job_of_another_invocation_answers_409_with_retry_after(http: HttpDoor) -> None:
    http.stack.segment(KEY, tiff())
    http.stack.set_status("RUNNING", lease_until=2**40)
    answer = http.post("/seg_mask", request(KEY))
    assert_problem(answer, 409, "JOB_HELD")
    assert answer.headers["Retry-After"] == "5"


def test_a_temporary_fault_is_answered_with_503_and_the_job_can_be_requested_again(
    http: HttpDoor, log_lines: Callable[[str], list[dict[str, Any]]]
) -> None:
    http.stack.upload(KEY, tiff())
    http.stack.wire.fail("PutObject", "SlowDown", 503)
    answer = http.post("/seg_mask", request(KEY))
    assert "SlowDown" in assert_problem(answer, 503, "SERVICE_FAULT")
    assert answer.headers["Retry-After"] == "5"
    assert len(log_lines("attempt_failed")) == 1
    assert http.post("/seg_mask", request(KEY)).status == 200


def test_the_function_itself_answers_404_to_an_unknown_path(http: HttpDoor) -> None:
    answer = http.stack.handle(event_file("http-seg-mask") | {"rawPath": "/seg_masks"})
    assert answer["statusCode"] == 404
    assert json.loads(answer["body"])["code"] == "NO_SUCH_ROUTE"


def test_a_png_of_eight_bits_comes_back_as_a_mask_of_its_size(http: HttpDoor) -> None:
    grey = (page() >> 8).astype(np.uint8)
    answer = http.call("POST", "/seg_mask", png(grey), PNG, accept=PNG)
    assert pixels(answer.body).shape == (HEIGHT, WIDTH)
