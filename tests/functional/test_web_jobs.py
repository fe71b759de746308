"""The page's server on jobs: layers, thumbnails, ground truths, scores, downloads."""

import csv
import io
import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import numpy as np
import pytest
import tifffile
from factories import (
    GROUND_TRUTH,
    HEIGHT,
    INPUT,
    OUTPUT,
    TABLE,
    WIDTH,
    ground_truth,
    page,
    s3_event,
    stack_of,
    tiff,
)
from functions_on_moto import EvaluateFunction, SegmentStack, listening
from numpy.typing import NDArray
from PIL import Image
from web_server import Answer, Browser, account_of, served

from cytomask.addresses import S3Object
from cytomask.arrivals import Evaluation
from cytomask.cleaning import clean
from cytomask.evaluations import Evaluations
from cytomask.records import Scorable
from cytomask.table import Table
from cytomask.training.sources import read_source
from cytomask.truths.pairs import find_pairs, read_pages
from cytomask.web.account import LogLine
from cytomask.web.downloads import safe_name
from cytomask.web.raster import TILE

READING = {
    "GetItem", "Query", "GetObject", "HeadObject", "DescribeStacks", "FilterLogEvents", "HeadBucket",
}  # fmt: skip


@pytest.fixture
def redriven() -> list[str]:
    return []


@pytest.fixture
def browser(stack: SegmentStack, redriven: list[str]) -> Iterator[Browser]:
    with served(account_of(stack.s3, boto3.client("dynamodb"), redriven=redriven)) as running:
        yield running.open()


def values(answer: Answer, dtype: str) -> NDArray[Any]:
    shape = int(answer.headers["x-height"]), int(answer.headers["x-width"])
    return np.frombuffer(answer.body, dtype).reshape(shape)


def description(answer: Answer) -> Any:
    """Return a layer's description: its first line."""
    return json.loads(answer.body.partition(b"\n")[0])


def painted(*tiles: tuple[int, int, NDArray[np.bool_]]) -> bytes:
    body = b""
    for column, row, cells in tiles:
        whole = np.zeros((TILE, TILE), bool)
        whole[: cells.shape[0], : cells.shape[1]] = cells
        body += struct.pack("<HH", column, row) + np.packbits(whole).tobytes()
    return body


def save(browser: Browser, job: str, body: bytes, query: str = "base=mask&seen=", page: int = 0) -> Answer:
    kind: dict[str, str | None] = {"Content-Type": "application/octet-stream"}
    return browser.call("POST", f"/api/jobs/{job}/pages/{page}/truth?{query}", body, kind)


def truths(stack: SegmentStack) -> dict[str, bytes]:
    found = stack.s3.list_objects_v2(Bucket=GROUND_TRUTH).get("Contents", [])
    return {
        each["Key"]: stack.s3.get_object(Bucket=GROUND_TRUTH, Key=each["Key"])["Body"].read()
        for each in found
    }


def test_the_page_and_its_mask_come_as_tiles_of_their_own_values(
    stack: SegmentStack, browser: Browser
) -> None:
    job = stack.segment("plate 1/a.tif", tiff())["job_id"]
    answer = browser.get(f"/api/jobs/{job}/pages/0/image")
    described = description(answer)
    assert (described["height"], described["width"], described["bits"]) == (HEIGHT, WIDTH, 16)
    assert answer.body.partition(b"\n")[2] == page().astype("<u2").tobytes()
    shades = values(browser.get(f"/api/jobs/{job}/pages/0/image/0/0/0"), "<u2")
    assert np.array_equal(shades, page())
    mask = values(browser.get(f"/api/jobs/{job}/pages/0/mask/0/0/0"), "u1")
    assert np.array_equal(mask, stack.mask("plate 1/a.tif.mask.png"))


def test_a_large_page_comes_in_tiles_alone(stack: SegmentStack, browser: Browser) -> None:
    job = stack.segment("large.tif", tiff(np.tile(page(), (20, 20))))["job_id"]
    line, _, values_behind = browser.get(f"/api/jobs/{job}/pages/0/image").body.partition(b"\n")
    assert (json.loads(line)["height"], values_behind) == (20 * HEIGHT, b"")


@pytest.mark.parametrize("place", ["1/0/0", "0/1/0", "0/0/1", "99/0/0"])
def test_no_tile_is_served_outside_the_page(stack: SegmentStack, browser: Browser, place: str) -> None:
    job = stack.segment("a.tif", tiff())["job_id"]
    assert browser.get(f"/api/jobs/{job}/pages/0/image/{place}").json["code"] == "NO_TILE"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("0/probability", "NO_LAYER"),
        ("0/truth", "NO_LAYER"),
        ("1/mask", "NO_SUCH_PAGE"),
        ("0/secret", "NO_LAYER"),
    ],
)
def test_missing_parts_of_a_job_are_reported(
    stack: SegmentStack, browser: Browser, path: str, code: str
) -> None:
    job = stack.segment("a.tif", tiff())["job_id"]
    answer = browser.get(f"/api/jobs/{job}/pages/{path}")
    assert (answer.status, answer.json["code"]) == (404, code)


def test_probabilities_come_with_the_confluence_at_every_threshold(
    stack: SegmentStack, browser: Browser
) -> None:
    stack.upload("a.tif", tiff())
    request = {"image": f"s3://{INPUT}/a.tif", "outputs": ["mask", "probability"]}
    ((result,),) = ([each] for each in stack.handle(request))
    described = description(browser.get(f"/api/jobs/{result['job_id']}/pages/0/probability"))
    shares = described["confluence"]
    assert (len(shares), shares[0]) == (1001, 1.0)
    assert sorted(shares, reverse=True) == shares
    threshold = round(result["parameters"]["threshold"] * 1000)
    assert shares[threshold] == pytest.approx(result["confluence"], abs=2 / (HEIGHT * WIDTH))


def test_cells_at_another_threshold_are_cleaned_as_the_request_asks(
    stack: SegmentStack, browser: Browser
) -> None:
    stack.upload("a.tif", tiff())
    asked = {"image": f"s3://{INPUT}/a.tif", "min_size_px": 40, "fill_holes": True}
    (result,) = stack.handle(asked | {"threshold": 0.4, "outputs": ["mask", "probability"]})
    path = f"/api/jobs/{result['job_id']}/pages/0/cleaned"

    def cells(threshold: float) -> NDArray[Any]:
        query = f"threshold={threshold}"
        described = description(browser.get(f"{path}?{query}"))
        tile = values(browser.get(f"{path}/0/0/0?{query}&opened={described['opened']}"), "u1")
        assert described["share"] == np.count_nonzero(tile) / tile.size
        return tile

    assert np.array_equal(cells(0.4), stack.mask(result["mask"].removeprefix(f"s3://{OUTPUT}/")))
    probability = values(browser.get(path.replace("cleaned", "probability") + "/0/0/0"), "<u2") / 65535
    expected = clean(probability >= 0.7, min_area=40, fill_holes=True)
    assert np.array_equal(cells(0.7) > 0, expected)
    assert not np.array_equal(expected, probability >= 0.7)


@pytest.mark.parametrize("threshold", ["", "x", "nan", "-0.1", "1.1"])
def test_a_threshold_is_a_number_from_0_to_1(stack: SegmentStack, browser: Browser, threshold: str) -> None:
    job = stack.segment("a.tif", tiff())["job_id"]
    answer = browser.get(f"/api/jobs/{job}/pages/0/cleaned?threshold={threshold}")
    assert (answer.status, answer.json["code"]) == (400, "INVALID_REQUEST")


def test_an_image_that_was_replaced_is_not_shown_beside_the_older_mask(
    stack: SegmentStack, browser: Browser
) -> None:
    job = stack.segment("a.tif", tiff())["job_id"]
    stack.upload("a.tif", tiff(page(7)))
    answer = browser.get(f"/api/jobs/{job}/pages/0/image")
    assert (answer.status, answer.json["code"]) == (409, "IMAGE_REPLACED")


def test_a_thumbnail_is_a_small_picture(stack: SegmentStack, browser: Browser) -> None:
    job = stack.segment("a.tif", tiff(np.tile(page(), (12, 12))))["job_id"]
    with Image.open(io.BytesIO(browser.get(f"/api/jobs/{job}/thumbnail").body)) as picture:
        assert picture.size == (WIDTH * 12 // 2, HEIGHT * 12 // 2)


def test_the_list_tells_what_changed_since_it_was_read(stack: SegmentStack, browser: Browser) -> None:
    first = stack.segment("HeLa_Phase_B2_1.tif", tiff())
    answer = browser.get("/api/jobs?revision=0").json
    (entry,) = answer["jobs"]
    assert (entry["id"], entry["status"], entry["key"], entry["group"]) == (
        first["job_id"], "SUCCEEDED", "HeLa_Phase_B2_1.tif", "HeLa",
    )  # fmt: skip
    assert entry["confluence"] == pytest.approx(first["confluence"])
    second = stack.segment("notes.tif", b"no image")
    later = browser.get(f"/api/jobs?revision={answer['revision']}").json
    (entry,) = later["jobs"]
    assert (entry["id"], entry["status"], entry["doubt"]) == (second["job_id"], "REJECTED", 1.0)
    assert entry["error_code"] == "UNREADABLE_IMAGE"
    assert browser.get(f"/api/jobs?revision={later['revision']}").json["jobs"] == []


@pytest.mark.parametrize("revision", ["-1", "x", "1e9", "9" * 20, "٣"])
def test_a_revision_is_a_number(browser: Browser, revision: str) -> None:
    assert browser.get(f"/api/jobs?revision={quote(revision)}").json["code"] == "INVALID_REQUEST"


def test_a_painted_mask_becomes_the_ground_truth_that_scoring_finds(
    stack: SegmentStack, evaluate: EvaluateFunction, browser: Browser
) -> None:
    job = stack.segment("plate 1/a.tif", tiff())["job_id"]
    cells = np.zeros((HEIGHT, WIDTH), bool)
    cells[10:30, 20:50] = True
    saved = save(browser, job, painted((0, 0, cells)))
    assert saved.json["uri"] == f"s3://{GROUND_TRUTH}/plate 1/a.tif.png"
    with Image.open(io.BytesIO(truths(stack)["plate 1/a.tif.png"])) as picture:
        assert (picture.mode, picture.size) == ("L", (WIDTH, HEIGHT))
        assert np.array_equal(np.asarray(picture), cells * np.uint8(255))
    evaluate.deliver(s3_event("plate 1/a.tif.png", bucket=GROUND_TRUTH))
    row = evaluate.row()
    assert (row["evaluation_status"], row["record"]) == ("SCORED", f"EVAL#{saved.json['version']}")
    (entry,) = browser.post("/api/scores", {"ids": [job]}).json["jobs"]
    assert browser.get("/api/jobs").json["jobs"]
    assert entry["iou"] == pytest.approx(float(row["iou"]))
    assert entry["doubt"] == pytest.approx(1 - float(row["iou"]), abs=1e-4)


def test_a_mask_that_is_right_is_saved_unpainted(stack: SegmentStack, browser: Browser) -> None:
    job = stack.segment("a.tif", tiff())["job_id"]
    assert save(browser, job, b"").status == 200
    with Image.open(io.BytesIO(truths(stack)["a.tif.png"])) as picture:
        assert np.array_equal(np.asarray(picture), stack.mask("a.tif.mask.png"))


def test_tiles_that_were_not_painted_stay_as_they_were(stack: SegmentStack, browser: Browser) -> None:
    job = stack.segment("wide.tif", tiff(np.tile(page(), (9, 8))))["job_id"]
    before = stack.mask("wide.tif.mask.png")
    assert save(browser, job, painted((1, 1, np.ones((TILE, TILE), bool)))).status == 200
    with Image.open(io.BytesIO(truths(stack)["wide.tif.png"])) as picture:
        after = np.asarray(picture)
    assert after.shape == before.shape
    assert (after[TILE:, TILE:] == 255).all()
    assert np.array_equal(after[:TILE], before[:TILE])


def test_an_existing_ground_truth_is_replaced_only_in_the_version_that_was_shown(
    stack: SegmentStack, browser: Browser
) -> None:
    job = stack.segment("a.tif", tiff())["job_id"]
    stack.upload("a.png", ground_truth(), bucket=GROUND_TRUTH)
    assert (save(browser, job, b"").status, save(browser, job, b"").json["code"]) == (409, "TRUTH_EXISTS")
    assert truths(stack) == {"a.png": ground_truth()}
    seen = browser.get(f"/api/jobs/{job}/truth").json["truth"]
    assert save(browser, job, b"", f"base=mask&seen={seen['etag']}").json["uri"].endswith("/a.png")
    assert list(truths(stack)) == ["a.png"]
    assert save(browser, job, b"", f"base=truth&seen={seen['etag']}").json["code"] == "TRUTH_EXISTS"


def test_a_save_whose_answer_was_lost_is_saved_again_unasked(stack: SegmentStack, browser: Browser) -> None:
    job = stack.segment("a.tif", tiff())["job_id"]
    cells = np.zeros((HEIGHT, WIDTH), bool)
    cells[:8] = True
    once, again = save(browser, job, painted((0, 0, cells))), save(browser, job, painted((0, 0, cells)))
    assert again.status == 200
    assert again.json == once.json
    assert save(browser, job, painted((0, 0, ~cells))).json["code"] == "TRUTH_EXISTS"


def test_a_page_of_a_stack_is_saved_among_the_others(
    stack: SegmentStack, evaluate: EvaluateFunction, browser: Browser
) -> None:
    job = stack.segment("stack.tif", stack_of(3))["job_id"]
    cells = np.zeros((HEIGHT, WIDTH), bool)
    cells[:8] = True
    assert save(browser, job, painted((0, 0, cells)), page=1).json["uri"].endswith("/stack.tif")
    pages = tifffile.imread(io.BytesIO(truths(stack)["stack.tif"]))
    assert pages.shape == (3, HEIGHT, WIDTH)
    assert np.array_equal(pages[1] > 0, cells)
    assert np.array_equal(pages[2], stack.mask("stack.tif.p0002.mask.png"))
    evaluate.deliver(s3_event("stack.tif", bucket=GROUND_TRUTH))
    assert evaluate.row()["evaluation_status"] == "SCORED"


def part_of(stack: SegmentStack, pages: str) -> str:
    """Send a request for some pages of stack.tif; return its job."""
    (result,) = stack.handle({"image": f"s3://{INPUT}/stack.tif", "pages": pages})
    return str(result["job_id"])


def test_a_correction_of_part_of_a_stack_keeps_the_other_pages_truth(
    stack: SegmentStack, evaluate: EvaluateFunction, browser: Browser
) -> None:
    whole = stack.segment("stack.tif", stack_of(3))["job_id"]
    cells = np.zeros((HEIGHT, WIDTH), bool)
    cells[:8] = True
    seen = save(browser, whole, painted((0, 0, cells)), page=1).json["etag"]
    part = part_of(stack, "0")
    assert browser.get(f"/api/jobs/{part}/pages/0/truth").status == 200
    assert save(browser, part, painted((0, 0, ~cells)), f"base=mask&seen={seen}").status == 200
    pages = tifffile.imread(io.BytesIO(truths(stack)["stack.tif"])) > 0
    assert np.array_equal(pages[0], ~cells)
    assert np.array_equal(pages[1], cells)
    assert np.array_equal(pages[2], stack.mask("stack.tif.p0002.mask.png") > 0)
    evaluate.deliver(s3_event("stack.tif", bucket=GROUND_TRUTH))
    (entry,) = browser.post("/api/scores", {"ids": [whole]}).json["jobs"]
    assert entry["iou"] > 0 and "score_status" not in entry


def test_a_first_correction_of_part_of_a_stack_takes_the_other_pages_from_the_upload(
    stack: SegmentStack, browser: Browser
) -> None:
    stack.segment("stack.tif", stack_of(3))
    part = part_of(stack, "1-2")
    assert save(browser, part, painted((0, 0, np.ones((HEIGHT, WIDTH), bool))), page=2).status == 200
    pages = tifffile.imread(io.BytesIO(truths(stack)["stack.tif"]))
    assert np.array_equal(pages[0], stack.mask("stack.tif.p0000.mask.png"))
    assert (pages[2] == 255).all()


def test_a_correction_of_part_of_a_stack_is_refused_where_no_other_page_is_known(
    stack: SegmentStack, browser: Browser
) -> None:
    stack.upload("stack.tif", stack_of(3))
    answer = save(browser, part_of(stack, "0"), b"")
    assert (answer.status, answer.json["code"], truths(stack)) == (409, "PART_OF_IMAGE", {})


def test_scores_are_those_of_the_newest_ground_truth_whenever_it_came(
    stack: SegmentStack, evaluate: EvaluateFunction, browser: Browser
) -> None:
    job = stack.segment("a.tif", tiff())["job_id"]

    def iou() -> Any:
        browser.post("/api/scores", {"ids": [job]})
        return browser.get("/api/jobs").json["jobs"][0].get("iou")

    assert iou() is None
    stack.upload("a.png", ground_truth(), bucket=GROUND_TRUTH)
    evaluate.deliver(s3_event("a.png", bucket=GROUND_TRUTH))
    first = iou()
    assert 0 < first < 1
    with Image.open(
        io.BytesIO(stack.s3.get_object(Bucket=OUTPUT, Key="a.tif.mask.png")["Body"].read())
    ) as mask:
        same = io.BytesIO()
        mask.save(same, "PNG")
    stack.upload("a.png", same.getvalue(), bucket=GROUND_TRUTH)
    evaluate.deliver(s3_event("a.png", bucket=GROUND_TRUTH))
    (row,) = csv.DictReader(io.StringIO(download(browser, "table", job).body.decode()))
    assert float(row["iou"]) == iou() == 1


def test_a_ground_truth_that_was_refused_is_told_with_its_job(
    stack: SegmentStack, evaluate: EvaluateFunction, browser: Browser
) -> None:
    job = stack.segment("a.tif", tiff())["job_id"]
    stack.upload("a.png", small_truth(), bucket=GROUND_TRUTH)
    evaluate.deliver(s3_event("a.png", bucket=GROUND_TRUTH))
    (entry,) = browser.post("/api/scores", {"ids": [job]}).json["jobs"]
    assert (entry["score_status"], entry["score_code"]) == ("REJECTED", "GROUND_TRUTH_MISMATCH")
    assert "of the image's own size" in entry["score_error"]


def test_a_score_that_failed_is_listed_without_being_asked_for(
    stack: SegmentStack, evaluate: EvaluateFunction, browser: Browser
) -> None:
    job = stack.segment("a.tif", tiff())["job_id"]
    browser.get("/api/jobs")
    evaluations = Evaluations(Table(boto3.client("dynamodb"), TABLE))
    truth = S3Object(GROUND_TRUTH, "a.png", etag="1" * 32)
    row = evaluations._add(Scorable(job_id=job, image=f"s3://{INPUT}/a.tif", mask="", result=""), truth)
    evaluations.fail(Evaluation(job, row.record, truth, ""), "timed out")
    (entry,) = browser.get("/api/jobs").json["jobs"]
    assert (entry["status"], entry["score_status"], entry["score_error"]) == (
        "SUCCEEDED",
        "FAILED",
        "timed out",
    )


def small_truth() -> bytes:
    """A ground truth of the wrong size."""
    stream = io.BytesIO()
    Image.fromarray(np.eye(20, dtype=np.uint8) * 255).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    "body", [b"x", painted((0, 0, np.ones((1, 1), bool)))[:-1], painted((1, 0, np.ones((1, 1), bool)))]
)
def test_painted_tiles_that_are_cut_short_or_off_the_page_are_refused(
    stack: SegmentStack, browser: Browser, body: bytes
) -> None:
    job = stack.segment("a.tif", tiff())["job_id"]
    assert (save(browser, job, body).status, truths(stack)) == (400, {})
    assert save(browser, job, painted(*[(0, 0, np.ones((1, 1), bool))] * 2)).json["code"] == "BODY_TOO_LARGE"


def test_an_upload_is_signed_for_one_key_and_replaces_only_on_request(
    stack: SegmentStack, browser: Browser
) -> None:
    url = browser.post("/api/uploads", {"key": "plate 1/ü+1.tif", "size": 10}).json["url"]
    assert urlsplit(url).path.endswith("/plate%201/%C3%BC%2B1.tif")
    stack.upload("a.tif", tiff())
    assert browser.post("/api/uploads", {"key": "a.tif", "size": 10}).json["code"] == "IMAGE_EXISTS"
    assert "url" in browser.post("/api/uploads", {"key": "a.tif", "size": 10, "replace": True}).json


@pytest.mark.parametrize(
    ("key", "size", "code"),
    [
        ("notes.csv", 10, "NO_IMAGE"),
        ("a.tif", 2**40, "IMAGE_TOO_LARGE"),
        ("a.tif", -1, "IMAGE_TOO_LARGE"),
        ("a.tif", "x", "INVALID_REQUEST"),
    ],
)
def test_files_that_would_be_ignored_or_rejected_are_not_sent(
    browser: Browser, key: str, size: Any, code: str
) -> None:
    assert browser.post("/api/uploads", {"key": key, "size": size}).json["code"] == code


@pytest.mark.parametrize("key", ["P7/platemap.csv", "P7/P7.csv", "P7.PlateMap"])
def test_plate_maps_are_sent_beside_images(browser: Browser, key: str) -> None:
    assert browser.post("/api/uploads", {"key": key, "size": 10}).json["plate_map"] is True
    assert browser.post("/api/uploads", {"key": "P7/a.tif", "size": 10}).json["plate_map"] is False


def test_a_large_file_goes_in_parts(stack: SegmentStack, browser: Browser) -> None:
    asked = browser.post("/api/uploads", {"key": "large.tif", "size": 40 * 2**20}).json
    assert len(asked["urls"]) == 3
    parts = [b"a" * 5 * 2**20, b"b"]
    etags = [
        stack.s3.upload_part(
            Bucket=INPUT, Key="large.tif", UploadId=asked["upload_id"], PartNumber=number, Body=part
        )["ETag"]
        for number, part in enumerate(parts, 1)
    ]
    done = {"key": "large.tif", "upload_id": asked["upload_id"], "etags": etags}
    assert browser.post("/api/uploads/complete", done).status == 200
    assert stack.s3.get_object(Bucket=INPUT, Key="large.tif")["Body"].read() == b"".join(parts)


def test_the_server_takes_the_file_if_the_bucket_refuses_it(stack: SegmentStack, browser: Browser) -> None:
    kind: dict[str, str | None] = {"Content-Type": "application/octet-stream"}
    assert browser.call("POST", "/api/uploads/through?key=a%20b.tif", tiff(), kind).status == 200
    assert stack.s3.get_object(Bucket=INPUT, Key="a b.tif")["Body"].read() == tiff()
    refused = browser.call("POST", "/api/uploads/through?key=../a.tif", tiff(), kind)
    assert refused.json["code"] == "INVALID_KEY"


def download(browser: Browser, kind: str, *ids: str) -> Answer:
    return browser.get(browser.post("/api/downloads", {"kind": kind, "ids": list(ids)}).json["url"])


def test_masks_are_taken_away_under_their_keys(stack: SegmentStack, browser: Browser) -> None:
    one = stack.segment("plate 1/a.tif", tiff())["job_id"]
    two = stack.segment("stack.tif", stack_of(2))["job_id"]
    bad = stack.segment("b.tif", b"no image")["job_id"]
    answer = download(browser, "masks", one, two, bad)
    assert answer.headers["content-disposition"] == 'attachment; filename="cytomask-masks.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.namelist() == [
            "plate 1/a.tif.mask.png", "stack.tif.p0000.mask.png", "stack.tif.p0001.mask.png",
        ]  # fmt: skip
        assert archive.read("plate 1/a.tif.mask.png") == stack.output("plate 1/a.tif.mask.png")


def test_corrected_pairs_are_read_by_training(stack: SegmentStack, browser: Browser, tmp_path: Any) -> None:
    one = stack.segment("plate 1/a.tif", tiff())["job_id"]
    two = stack.segment("b.tif", tiff(page(3)))["job_id"]
    save(browser, one, b"")
    with zipfile.ZipFile(io.BytesIO(download(browser, "pairs", one, two).body)) as archive:
        assert archive.namelist() == ["images/plate 1/a.tif", "masks/plate 1/a.png"]
        archive.extractall(tmp_path)
    (sample,) = read_source(tmp_path, "pairs:images/plate 1:masks/plate 1")
    _, cells = sample.read()
    assert np.array_equal(cells, stack.mask("plate 1/a.tif.mask.png") > 0)


def test_a_download_takes_the_jobs_of_a_large_stack(browser: Browser) -> None:
    ids = [f"{number:032x}" for number in range(40_000)]
    assert browser.post("/api/downloads", {"kind": "table", "ids": ids}).status == 200


def test_an_archive_without_a_pair_says_so(stack: SegmentStack, browser: Browser) -> None:
    job = stack.segment("a.tif", tiff())["job_id"]
    with zipfile.ZipFile(io.BytesIO(download(browser, "pairs", job).body)) as archive:
        assert archive.namelist() == ["missing.txt"]
        assert b"none of these images has a ground truth yet" in archive.read("missing.txt")


def test_images_whose_names_differ_in_their_ending_stay_two_pairs(
    stack: SegmentStack, browser: Browser
) -> None:
    jobs: list[Any] = []
    for key in ("a.tif", "a.png"):
        jobs.append(stack.segment(key, tiff(page(len(jobs))))["job_id"])
        assert save(browser, jobs[-1], b"").status == 200
    with zipfile.ZipFile(io.BytesIO(download(browser, "pairs", *jobs).body)) as archive:
        assert archive.namelist() == ["images/a.tif", "masks/a.png", "images/a-2.png", "masks/a-2.png"]


def test_pairs_are_those_that_training_reads(stack: SegmentStack, browser: Browser, tmp_path: Path) -> None:
    good = stack.segment("good.tif", tiff())["job_id"]
    save(browser, good, b"")
    wrong = stack.segment("wrong.tif", tiff(page(1)))["job_id"]
    stack.upload("wrong.png", small_truth(), bucket=GROUND_TRUTH)
    two = np.stack([page(2), page(3)])
    stream = io.BytesIO()
    tifffile.imwrite(
        stream, two, photometric="minisblack", planarconfig="separate", metadata={"axes": "CYX"}, ome=True
    )
    ambiguous = stack.segment("two.tif", stream.getvalue())
    assert ambiguous["status"] == "REJECTED"
    ((result),) = stack.handle({"image": f"s3://{INPUT}/two.tif", "channel": 1})
    save(browser, result["job_id"], b"")
    archive = tmp_path / "pairs.zip"
    archive.write_bytes(download(browser, "pairs", good, wrong, ambiguous["job_id"], result["job_id"]).body)
    with zipfile.ZipFile(archive) as opened:
        (line,) = opened.read("missing.txt").decode().splitlines()
    assert line.startswith(wrong) and "save a ground truth of the image's own size" in line
    read = {each.name: each.pixels for each in read_pages(find_pairs([archive], tmp_path).pairs)}
    assert set(read) == {"good.tif", "two.tif"}
    assert np.array_equal(read["two.tif"], two[1])


def test_masks_of_one_name_get_numbers(stack: SegmentStack, browser: Browser) -> None:
    keys = ("a:b.tif", "a_b.tif", "\u00fc.tif", "u\u0308.tif")
    jobs = [stack.segment(key, tiff(page(n)))["job_id"] for n, key in enumerate(keys)]
    with zipfile.ZipFile(io.BytesIO(download(browser, "masks", *jobs).body)) as archive:
        assert archive.namelist() == [
            "a_b.tif.mask.png", "a_b.tif-2.mask.png", "\u00fc.tif.mask.png", "u\u0308.tif-2.mask.png",
        ]  # fmt: skip


def test_each_page_of_a_stack_has_a_thumbnail(stack: SegmentStack, browser: Browser) -> None:
    job = stack.segment("stack.tif", stack_of(3))["job_id"]
    pictures = [browser.get(f"/api/jobs/{job}/thumbnail?page={page}").body for page in range(3)]
    assert len(set(pictures)) == 3
    assert browser.get(f"/api/jobs/{job}/thumbnail").body == pictures[0]
    assert browser.get(f"/api/jobs/{job}/thumbnail?page=3").json["code"] == "NO_SUCH_PAGE"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("downloads", b'{"kind": "masks", "ids": null}'),
        ("scores", b'{"ids":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    ],
)
def test_a_body_of_the_wrong_form_is_refused(browser: Browser, path: str, body: bytes) -> None:
    answer = browser.call("POST", f"/api/{path}", body)
    assert (answer.status, answer.json["code"]) == (400, "INVALID_REQUEST")


def test_an_upload_through_the_server_keeps_to_the_rules_of_every_upload(
    stack: SegmentStack, browser: Browser
) -> None:
    stack.upload("a.tif", tiff())
    kind: dict[str, str | None] = {"Content-Type": "application/octet-stream"}
    path = "/api/uploads/through?key="
    assert browser.call("POST", f"{path}b.tif", b"x", {"Content-Type": "text/plain"}).status == 415
    assert browser.call("POST", f"{path}a.tif", b"x", kind).json["code"] == "IMAGE_EXISTS"
    assert browser.call("POST", f"{path}a.tif&replace=yes", b"x", kind).status == 200
    assert stack.s3.get_object(Bucket=INPUT, Key="a.tif")["Body"].read() == b"x"


def test_a_job_without_masks_does_not_end_the_archive(stack: SegmentStack, browser: Browser) -> None:
    stack.upload("a.tif", tiff())
    request = {"image": f"s3://{INPUT}/a.tif", "outputs": ["probability"]}
    (without,) = stack.handle(request)
    job = stack.segment("b.tif", tiff())["job_id"]
    with zipfile.ZipFile(io.BytesIO(download(browser, "masks", without["job_id"], job).body)) as archive:
        assert archive.namelist() == ["b.tif.mask.png"]


def test_a_coco_ground_truth_is_shown_and_its_correction_is_stored_beside_it(
    stack: SegmentStack, evaluate: EvaluateFunction, browser: Browser
) -> None:
    job = stack.segment("a.tif", tiff())["job_id"]
    square = [[10, 10, 40, 10, 40, 50, 10, 50]]
    coco = {
        "images": [{"id": 1, "file_name": "a.tif", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"id": 1, "image_id": 1, "segmentation": square}],
    }
    stack.upload("coco.json", json.dumps(coco).encode(), bucket=GROUND_TRUTH)
    evaluate.deliver(s3_event("coco.json", bucket=GROUND_TRUTH))
    evaluate.deliver_queued()
    truth = browser.get(f"/api/jobs/{job}/truth").json["truth"]
    assert (truth["drawn"], truth["etag"]) == (True, "")
    cells = values(browser.get(f"/api/jobs/{job}/pages/0/truth/0/0/0"), "u1") > 0
    assert (int(cells.sum()), bool(cells[10:50, 10:40].all())) == (30 * 40, True)
    assert save(browser, job, b"", "base=truth&seen=").json["uri"] == f"s3://{GROUND_TRUTH}/a.tif.png"
    assert set(truths(stack)) == {"a.tif.png", "coco.json"}
    with Image.open(io.BytesIO(truths(stack)["a.tif.png"])) as picture:
        assert np.array_equal(np.asarray(picture) > 0, cells)


def test_no_name_in_an_archive_leads_out_of_its_folder() -> None:
    assert safe_name("../../etc/passwd") == "etc/passwd"
    assert safe_name("/a//b/./c.tif") == "a/b/c.tif"
    assert safe_name("..\\..\\a.tif") == ".._.._a.tif"
    assert safe_name("C:/a.tif") == "C_/a.tif"
    assert safe_name("..") == "image"


def test_the_table_holds_no_formula(stack: SegmentStack, browser: Browser) -> None:
    job = stack.segment("=1+1.tif", tiff())["job_id"]
    (row,) = csv.DictReader(io.StringIO(download(browser, "table", job).body.decode()))
    assert (row["image"], row["status"], row["job_id"]) == ("'=1+1.tif", "SUCCEEDED", job)


def test_a_failed_job_is_sent_again(stack: SegmentStack, browser: Browser, redriven: list[str]) -> None:
    job = stack.segment("a.tif", tiff())["job_id"]
    assert browser.post(f"/api/jobs/{job}/redrive", {}).json == {"redriven": True}
    assert redriven == [job]


def test_spending_is_added_up_by_day_and_group(stack: SegmentStack, browser: Browser) -> None:
    costs = [stack.segment(f"HeLa_Phase_{n}.tif", tiff(page(n)))["estimated_cost_usd"] for n in (1, 2)]
    stack.segment("other.tif", b"no image")
    days = browser.get("/api/spending").json["days"]
    by_group = {day["group"]: day for day in days}
    assert by_group["HeLa"]["jobs"] == 2
    assert by_group["HeLa"]["cost"] == pytest.approx(sum(costs))
    assert by_group[""]["rejected"] == 1


def test_reading_everything_changes_nothing(stack: SegmentStack, browser: Browser) -> None:
    job = stack.segment("a.tif", tiff())["job_id"]
    save(browser, job, b"")
    made: list[str] = []

    def note(model: Any, **_: Any) -> None:
        made.append(model.name)

    with listening(stack.s3, "before-call.s3", note):
        for path in (
            "jobs", "spending", f"jobs/{job}/result", f"jobs/{job}/thumbnail", f"jobs/{job}/pages/0/image",
            f"jobs/{job}/pages/0/mask", f"jobs/{job}/pages/0/truth", f"jobs/{job}/pages/0/truth/0/0/0",
            f"jobs/{job}/log",
        ):  # fmt: skip
            assert browser.get(f"/api/{path}").status == 200, path
    assert made and set(made) <= READING


def test_a_key_that_is_markup_is_a_text(stack: SegmentStack, browser: Browser) -> None:
    key = "<img src=x onerror=alert(1)>.tif"
    job = stack.segment(key, tiff())["job_id"]
    answer = browser.get("/api/jobs")
    assert answer.headers["content-type"] == "application/json"
    assert [each["key"] for each in answer.json["jobs"]] == [key]
    assert save(browser, job, b"").json["uri"] == f"s3://{GROUND_TRUTH}/{key}.png"


def test_log_lines_are_handed_over_as_text() -> None:
    line = LogLine(1, "segment", "ERROR", "attempt_failed  error=<b>")
    assert vars(line)["text"] == "attempt_failed  error=<b>"


def test_the_page_itself_says_that_an_address_leads_nowhere(browser: Browser) -> None:
    answer = browser.get("/nothing")
    assert (answer.status, answer.body) == (404, browser.get("/images").body)
    for path in ("/api/nothing", "/static/nothing.js"):
        assert browser.get(path).json["code"] == "NO_ROUTE"
