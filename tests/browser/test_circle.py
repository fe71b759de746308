"""The whole circle: send an image, see its mask, move the threshold, paint, save, see the score."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import HEIGHT, WIDTH, Served
from PIL import Image
from playwright.sync_api import Page, Route, expect

from cytomask.addresses import S3Object
from cytomask.arrivals import Evaluation
from cytomask.evaluations import Evaluations
from cytomask.table import Table

Picture = Callable[[Page, str], None]
Field = Callable[..., Path]
SMALLEST = 600  # pixels
CONFLUENCE = """async (request) => {
  const headers = { "Content-Type": "application/json" };
  const asked = await fetch("/api/jobs", { method: "POST", headers, body: JSON.stringify(request) });
  const { job_id } = await asked.json();
  for (;;) {
    const job = await (await fetch(`/api/jobs/${job_id}`)).json();
    if (job.status === "SUCCEEDED") return job.confluence;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}"""
MADE = 60_000  # milliseconds until a mask or a score is there, on a slow machine


def send(page: Page, path: Path) -> str:
    """Send a file and wait for its mask; returns the address of its page."""
    page.get_by_role("link", name="Send", exact=True).click()
    page.set_input_files("#files", path)
    line = page.locator(".files li", has_text=path.name)
    expect(line.locator("a")).to_be_visible(timeout=MADE)
    return str(line.locator("a").get_attribute("href"))


def open_page(page: Page, served: Served, address: str) -> None:
    page.goto(served.origin + address)
    ready(page)


def ready(page: Page) -> None:
    page.wait_for_selector(".viewer[data-ready=yes]")


def truth(served: Served, key: str) -> np.ndarray:
    bucket = served.stack.outputs["GroundTruthBucketName"]
    body = served.stack.client("s3").get_object(Bucket=bucket, Key=key)["Body"]
    with Image.open(body) as stored:
        return np.asarray(stored)


def stored_truths(served: Served) -> list[str]:
    bucket = served.stack.outputs["GroundTruthBucketName"]
    found = served.stack.client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])
    return [each["Key"] for each in found]


def drag(page: Page, *points: tuple[float, float], size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    """Draw through points of the image, given as shares of its width and height when it fits."""
    box = page.locator(".viewer").bounding_box()
    assert box is not None
    height, width = size
    scale = min(box["width"] / width, box["height"] / height)
    left = box["x"] + (box["width"] - width * scale) / 2
    top = box["y"] + (box["height"] - height * scale) / 2
    places = [(left + x * width * scale, top + y * height * scale) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=8)
    page.mouse.up()


def test_an_image_is_sent_looked_at_corrected_and_scored(
    page: Page, served: Served, field_tiff: Field, picture: Picture
) -> None:
    address = send(page, field_tiff("circle.tif"))
    picture(page, "send")
    open_page(page, served, address)
    picture(page, "page")

    shown = page.locator(".panel .big").first
    expect(shown).to_have_text(re.compile(r"^\d+\.\d %$"))
    slider = page.locator("#threshold")
    slider.focus()
    slider.press("ArrowRight")
    expect(page.locator(".panel .note", has_text="the confluence would be")).to_be_visible(timeout=MADE)
    before = page.locator(".panel .note", has_text="would be").inner_text()
    for _ in range(40):
        slider.press("ArrowRight")
    after = page.locator(".panel .note", has_text="would be").inner_text()
    percent = [float(re.findall(r"([\d.]+)\s%", text)[0]) for text in (before, after)]
    assert percent[1] < percent[0]
    picture(page, "threshold")
    page.get_by_role("button", name="Stored").click()

    page.get_by_role("button", name="Correct the mask").click()
    page.get_by_role("button", name="Lasso").click()
    drag(page, (0.1, 0.1), (0.4, 0.1), (0.4, 0.5), (0.1, 0.5))
    page.get_by_role("button", name="Eraser").click()
    drag(page, (0.6, 0.6), (0.9, 0.6))
    picture(page, "correcting")
    page.get_by_role("button", name="Save as ground truth").click()
    expect(page.locator("#iou")).to_have_text(re.compile(r"^IoU 0\.\d{3}$"), timeout=MADE)

    cells = truth(served, "circle.tif.png")
    assert cells.shape == (HEIGHT, WIDTH)
    assert set(np.unique(cells)) == {0, 255}
    assert (
        cells[int(0.15 * HEIGHT) : int(0.45 * HEIGHT), int(0.15 * WIDTH) : int(0.35 * WIDTH)] == 255
    ).all()
    assert (cells[int(0.6 * HEIGHT), int(0.65 * WIDTH) : int(0.85 * WIDTH)] == 0).all()
    page.get_by_role("button", name="Disagreement").click()
    ready(page)
    picture(page, "disagreement")

    page.get_by_role("button", name="Correct the ground truth").click()
    page.get_by_role("button", name="Save as ground truth").click()
    question = page.get_by_role("dialog")
    expect(question).to_contain_text("circle.tif.png exists")
    picture(page, "replace")
    question.get_by_role("button", name="Keep the old one").click()
    assert np.array_equal(truth(served, "circle.tif.png"), cells)


def test_painting_survives_a_reload_and_is_undone_and_redone(
    page: Page, served: Served, field_tiff: Field
) -> None:
    open_page(page, served, send(page, field_tiff("reload.tif", seed=2)))
    page.keyboard.press("c")
    page.get_by_role("button", name="Lasso").click()
    drag(page, (0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8))
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    page.keyboard.press("Control+z")
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    page.keyboard.press("Control+Shift+z")
    expect(page.get_by_role("button", name="Redo")).to_be_disabled()
    page.wait_for_timeout(300)  # until the browser has stored it
    page.reload()
    expect(page.locator(".paintbar")).to_contain_text("Restored what you painted")
    page.keyboard.press("Control+s")
    expect(page.locator(".paintbar")).to_contain_text("Saved as s3://")
    cells = truth(served, "reload.tif.png")
    assert (
        cells[int(0.25 * HEIGHT) : int(0.75 * HEIGHT), int(0.25 * WIDTH) : int(0.75 * WIDTH)] == 255
    ).all()
    page.reload()
    ready(page)
    expect(page.locator(".paintbar")).not_to_contain_text("Restored")


def test_what_is_painted_on_and_what_is_painted_are_shown(
    page: Page, served: Served, field_tiff: Field
) -> None:
    open_page(page, served, send(page, field_tiff("shown.tif", seed=51)))
    slider = page.locator("#threshold")
    slider.press("ArrowRight")
    note = page.locator(".panel .note", has_text="would be")
    expect(note).to_be_visible(timeout=MADE)
    page.get_by_role("button", name="Correct the mask").click()
    expect(note).to_be_hidden()  # the stored mask is corrected
    expect(slider).to_be_disabled()
    page.keyboard.press("i")
    drag(page, (0.2, 0.2), (0.4, 0.2))
    expect(page.locator("[data-overlay=outline]")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Discard").click()
    page.get_by_role("dialog").get_by_role("button", name="Discard").click()
    expect(slider).to_be_enabled()


def test_the_ground_truth_is_corrected_once_its_cells_are_here(
    page: Page, served: Served, field_tiff: Field
) -> None:
    address = send(page, field_tiff("slow.tif", seed=52))
    cells = np.zeros((HEIGHT, WIDTH), np.uint8)
    cells[: HEIGHT // 2] = 255
    file = io.BytesIO()
    Image.fromarray(cells).save(file, "PNG")
    bucket = served.stack.outputs["GroundTruthBucketName"]
    served.stack.client("s3").put_object(Bucket=bucket, Key="slow.tif.png", Body=file.getvalue())
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    layer = re.compile(r"/pages/0/truth\?")
    page.route(layer, hold)
    page.goto(served.origin + address)
    page.get_by_role("button", name="Correct the ground truth").click()
    expect(page.get_by_role("button", name="Lasso")).to_have_count(0)
    held[0].continue_()
    page.unroute(layer)
    page.get_by_role("button", name="Brush").click()
    drag(page, (0.4, 0.8), (0.6, 0.8))
    page.get_by_role("button", name="Save as ground truth").click()
    page.get_by_role("button", name="Replace it").click()
    expect(page.locator(".paintbar")).to_contain_text("Saved as s3://", timeout=MADE)
    saved = truth(served, "slow.tif.png") > 0
    assert saved[: HEIGHT // 2].all() and saved[int(0.8 * HEIGHT), WIDTH // 2]


def test_undo_while_painting_takes_back_that_stroke_alone(
    page: Page, served: Served, field_tiff: Field
) -> None:
    open_page(page, served, send(page, field_tiff("undo.tif", seed=49)))
    page.get_by_role("button", name="Start with an empty page").click()
    drag(page, (0.2, 0.2), (0.4, 0.2))
    undo = page.get_by_role("button", name="Undo")
    expect(undo).to_be_enabled()
    box = page.locator(".viewer").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.7, steps=4)
    page.keyboard.press("Control+z")
    page.mouse.up()
    page.get_by_role("button", name="Save as ground truth").click()
    expect(page.locator(".paintbar")).to_contain_text("Saved as s3://", timeout=MADE)
    cells = truth(served, "undo.tif.png") > 0
    assert cells[: HEIGHT // 3].any() and not cells[HEIGHT // 3 :].any()


def test_a_lost_connection_loses_no_paint(page: Page, served: Served, field_tiff: Field) -> None:
    open_page(page, served, send(page, field_tiff("lost.tif", seed=3)))
    page.keyboard.press("c")
    page.get_by_role("button", name="Lasso").click()
    drag(page, (0.2, 0.2), (0.6, 0.2), (0.6, 0.6), (0.2, 0.6))
    served.stop()
    try:
        page.get_by_role("button", name="Save as ground truth").click()
        expect(page.locator(".paintbar")).to_contain_text("connection is lost")
        assert "lost.tif.png" not in stored_truths(served)
    finally:
        served.start()
    expect(page.locator(".paintbar")).to_contain_text("Saved as s3://", timeout=MADE)
    assert (
        truth(served, "lost.tif.png")[int(0.4 * HEIGHT), int(0.3 * WIDTH) : int(0.5 * WIDTH)] == 255
    ).all()


def test_a_mask_is_painted_by_keys_alone(page: Page, served: Served, field_tiff: Field) -> None:
    open_page(page, served, send(page, field_tiff("keys.tif", seed=4)))
    page.get_by_role("button", name="Correct the mask").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Discard").press("Enter")
    expect(page.get_by_role("button", name="Correct the mask")).to_be_focused()
    page.get_by_role("button", name="Start with an empty page").focus()
    page.keyboard.press("Enter")
    for _ in range(4):
        page.keyboard.press("]")
    for key in ("Shift+ArrowRight", "Shift+ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    page.keyboard.press(" ")
    page.keyboard.press("Control+s")
    expect(page.locator(".paintbar")).to_contain_text("Saved as s3://", timeout=MADE)
    cells = truth(served, "keys.tif.png") > 0
    rows, columns = np.nonzero(cells)
    assert abs(rows.mean() - (HEIGHT / 2 + 10)) < 1
    assert abs(columns.mean() - (WIDTH / 2 + 9)) < 1
    assert np.pi * 5**2 < cells.sum() < np.pi * 9**2


def test_the_brush_and_the_fill_paint_where_the_pointer_is(
    page: Page, served: Served, field_tiff: Field
) -> None:
    open_page(page, served, send(page, field_tiff("fill.tif", seed=5)))
    page.get_by_role("button", name="Start with an empty page").click()
    drag(page, (0.3, 0.3), (0.6, 0.3), (0.6, 0.7), (0.3, 0.7), (0.3, 0.3))
    page.get_by_role("button", name="Fill", exact=True).click()
    drag(page, (0.45, 0.5))
    page.get_by_role("button", name="Save as ground truth").click()
    expect(page.locator(".paintbar")).to_contain_text("Saved as s3://", timeout=MADE)
    cells = truth(served, "fill.tif.png") > 0
    assert cells[int(0.3 * HEIGHT) : int(0.7 * HEIGHT), int(0.3 * WIDTH) : int(0.6 * WIDTH)].all()
    assert not cells[: int(0.25 * HEIGHT)].any() and not cells[:, int(0.7 * WIDTH) :].any()


def test_the_pages_of_a_stack_have_addresses_of_their_own(
    page: Page, served: Served, field_tiff: Field
) -> None:
    address = send(page, field_tiff("stack.tif", seed=6, pages=3))
    open_page(page, served, address)
    expect(page.get_by_text("page 0 (1 of 3)")).to_be_visible()
    page.keyboard.press("PageDown")
    expect(page.get_by_text("page 1 (2 of 3)")).to_be_visible()
    assert page.url.endswith(f"{address}/1")
    page.go_back()
    expect(page.get_by_text("page 0 (1 of 3)")).to_be_visible()
    page.goto(f"{served.origin}/images?find=stack.tif")
    expect(page.locator(".card", has_text="stack.tif").first).to_contain_text("3 pages")


def test_what_is_refused_is_said_with_its_reason(
    page: Page, served: Served, tmp_path: Path, picture: Picture
) -> None:
    (tmp_path / "notes.csv").write_text("a,b")
    (tmp_path / "platemap.csv").write_text("well,condition\nA1,drug\n")
    (tmp_path / "broken.tif").write_bytes(b"II*\0 no TIFF")
    page.get_by_role("link", name="Send", exact=True).click()
    page.set_input_files(
        "#files", [tmp_path / "notes.csv", tmp_path / "platemap.csv", tmp_path / "broken.tif"]
    )
    expect(page.locator(".files li", has_text="notes.csv")).to_contain_text("notes beside images")
    expect(page.locator(".files li", has_text="platemap.csv")).to_contain_text("plate map in the bucket")
    expect(page.locator(".files li", has_text="broken.tif")).to_contain_text("refused:", timeout=MADE)
    page.set_input_files("#files", tmp_path / "broken.tif")
    expect(page.locator(".files li").last).to_contain_text("in the bucket already")
    picture(page, "refused")
    page.get_by_role("link", name="Failures").click()
    expect(page.locator("table")).to_contain_text("broken.tif")
    picture(page, "failures")


def test_a_mask_that_a_newer_image_replaced_leads_to_it(
    page: Page, served: Served, field_tiff: Field, picture: Picture
) -> None:
    address = send(page, field_tiff("replaced.tif", seed=50))
    s3, bucket = served.stack.client("s3"), served.stack.outputs["OutputBucketName"]
    s3.delete_object(Bucket=bucket, Key="replaced.tif.result.json")
    page.goto(served.origin + address)
    expect(page.get_by_role("alert")).to_contain_text("the result is gone")
    expect(page.locator(".panel")).not_to_contain_text("Correct the mask")
    picture(page, "gone")
    page.get_by_role("link", name="Every image of this name").click()
    expect(page.locator(".card")).to_have_count(1)


def test_a_file_is_sent_on_while_another_view_is_shown(page: Page, served: Served, field_tiff: Field) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/api/uploads", hold)
    page.goto(served.origin + "/send")
    page.set_input_files("#files", field_tiff("sent-on.tif", seed=31))
    line = page.locator(".files li", has_text="sent-on.tif")
    expect(line).to_contain_text("sending")
    page.get_by_role("link", name="Images", exact=True).click()
    expect(page.get_by_role("heading", name="Images")).to_be_visible()
    held[0].continue_()
    page.get_by_role("link", name="Send", exact=True).click()
    expect(line.locator("a")).to_be_visible(timeout=MADE)


def test_settings_are_sent_as_a_message_has_them(page: Page, served: Served, field_tiff: Field) -> None:
    page.get_by_role("link", name="Send", exact=True).click()
    page.fill("#into", "plate 7")
    page.fill("#group", "HeLa")
    page.fill("#request-threshold", "0.8")
    page.select_option("#mode", "resize")
    page.set_input_files("#files", field_tiff("settings.tif", seed=7))
    line = page.locator(".files li", has_text="plate 7/settings.tif")
    expect(line.locator("a")).to_be_visible(timeout=MADE)
    line.locator("a").click()
    ready(page)
    page.get_by_text("How it was made").click()
    facts = page.locator("details.made")
    expect(facts).to_contain_text("resize")
    expect(facts).to_contain_text("0.800")
    expect(page.locator(".panel")).to_contain_text("HeLa")


def test_another_threshold_is_tried_with_the_cleaning_that_was_asked_for(
    page: Page, served: Served, field_tiff: Field, picture: Picture
) -> None:
    page.get_by_role("link", name="Send", exact=True).click()
    page.fill("#min-size", str(SMALLEST))
    page.check("#fill-holes")
    page.set_input_files("#files", field_tiff("cleaned.tif", seed=9))
    line = page.locator(".files li", has_text="cleaned.tif")
    expect(line.locator("a")).to_be_visible(timeout=MADE)
    line.locator("a").click()
    ready(page)
    page.locator("#threshold").fill("0.8")
    note = page.locator(".panel .note", has_text="would be")
    expect(note).to_contain_text(f"regions under {SMALLEST} pixels left out", timeout=MADE)
    picture(page, "threshold-cleaned")
    shown = float(re.findall(r"([\d.]+)\s%", note.inner_text())[0])

    image = f"s3://{served.stack.outputs['InputBucketName']}/cleaned.tif"
    plain = page.evaluate(CONFLUENCE, {"image": image, "threshold": 0.8})
    cleaned = page.evaluate(
        CONFLUENCE, {"image": image, "threshold": 0.8, "min_size_px": SMALLEST, "fill_holes": True}
    )
    assert shown == pytest.approx(100 * cleaned, abs=0.06)
    assert abs(plain - cleaned) > 0.005


def test_strokes_that_are_painted_while_a_save_is_on_its_way_are_kept(
    page: Page, served: Served, field_tiff: Field
) -> None:
    open_page(page, served, send(page, field_tiff("meanwhile.tif", seed=41)))
    page.get_by_role("button", name="Start with an empty page").click()
    page.get_by_role("button", name="Lasso").click()
    drag(page, (0.1, 0.1), (0.3, 0.1), (0.3, 0.4), (0.1, 0.4))
    held: list[Route] = []

    def hold(route: Route) -> None:
        if route.request.method == "POST":
            held.append(route)
        else:
            route.continue_()

    page.route("**/truth?*", hold)
    page.get_by_role("button", name="Save as ground truth").click()
    page.wait_for_timeout(500)
    drag(page, (0.6, 0.6), (0.9, 0.6), (0.9, 0.9), (0.6, 0.9))
    held[0].continue_()
    expect(page.locator(".paintbar")).to_contain_text("without what you painted meanwhile")
    page.unroute("**/truth?*")
    cells = truth(served, "meanwhile.tif.png")
    assert cells[int(0.2 * HEIGHT), int(0.2 * WIDTH)] == 255
    assert cells[int(0.7 * HEIGHT), int(0.7 * WIDTH)] == 0
    page.get_by_role("button", name="Save as ground truth").click()
    page.get_by_role("button", name="Replace it").click()
    expect(page.get_by_role("button", name="Correct the mask")).to_be_visible()
    cells = truth(served, "meanwhile.tif.png")
    assert cells[int(0.2 * HEIGHT), int(0.2 * WIDTH)] == 255
    assert cells[int(0.7 * HEIGHT), int(0.7 * WIDTH)] == 255


def test_the_gallery_shows_the_score_of_a_ground_truth_that_comes_later(
    page: Page, served: Served, field_tiff: Field
) -> None:
    send(page, field_tiff("later.tif", seed=42))
    outputs, s3 = served.stack.outputs, served.stack.client("s3")
    page.goto(served.origin + "/images?find=later.tif")
    card = page.locator(".card", has_text="later.tif")
    expect(card).to_contain_text("%")
    expect(card).not_to_contain_text("IoU")
    mask = s3.get_object(Bucket=outputs["OutputBucketName"], Key="later.tif.mask.png")["Body"].read()
    s3.put_object(Bucket=outputs["GroundTruthBucketName"], Key="later.png", Body=mask)
    expect(card).to_contain_text("IoU 1.00", timeout=MADE)  # without a reload
    empty = io.BytesIO()
    Image.fromarray(np.eye(HEIGHT, WIDTH, dtype=np.uint8) * 255).save(empty, "PNG")
    s3.put_object(Bucket=outputs["GroundTruthBucketName"], Key="later.png", Body=empty.getvalue())
    expect(card).to_contain_text("IoU 0.0", timeout=MADE)


def test_a_request_that_is_refused_stays_refused_on_the_page(
    page: Page, served: Served, field_tiff: Field
) -> None:
    page.get_by_role("link", name="Send", exact=True).click()
    page.fill("#request-threshold", "3")
    page.set_input_files("#files", field_tiff("not-sent.tif", seed=43))
    page.wait_for_timeout(500)
    expect(page.locator(".files li", has_text="not-sent.tif")).to_have_count(0)
    page.fill("#request-threshold", "0.5")
    page.fill("#pages", "7")  # the image has one page, which only the stack can know
    page.fill("#channel", "2")
    page.locator("#channel").evaluate("field => field.removeAttribute('max')")
    page.fill("#channel", "5000")
    page.set_input_files("#files", field_tiff("refused-request.tif", seed=44))
    line = page.locator(".files li", has_text="refused-request.tif")
    expect(line).to_contain_text("your settings do not work", timeout=MADE)
    page.wait_for_timeout(5000)  # the usual mask is made meanwhile
    expect(line).to_contain_text("your settings do not work")


def test_the_list_is_looked_at_at_once_after_something_was_sent(
    page: Page, served: Served, field_tiff: Field
) -> None:
    send(page, field_tiff("quiet.tif", seed=45))
    page.get_by_role("link", name="Failures").click()
    page.evaluate("import('/static/jobs.js').then((module) => { window.hurry = module.hurry; })")
    quiet = "/api/jobs?revision"
    page.clock.install()
    page.clock.run_for(70_000)  # the hurry after sending is over
    page.wait_for_timeout(3000)
    with page.expect_request(lambda request: quiet in request.url, timeout=5000):
        page.evaluate("window.hurry()")


def test_a_failed_score_is_listed_and_sent_again(page: Page, served: Served, field_tiff: Field) -> None:
    job = send(page, field_tiff("score.tif", seed=46)).rpartition("/")[2]
    outputs, s3, dynamodb = served.stack.outputs, served.stack.client("s3"), served.stack.client("dynamodb")
    mask = s3.get_object(Bucket=outputs["OutputBucketName"], Key="score.tif.mask.png")["Body"].read()
    put = s3.put_object(Bucket=outputs["GroundTruthBucketName"], Key="score.png", Body=mask)
    open_page(page, served, f"/images/{job}")
    expect(page.locator("#iou")).to_have_text("IoU 1.000", timeout=MADE)
    truth = S3Object(
        outputs["GroundTruthBucketName"], "score.png", put.get("VersionId"), put["ETag"].strip('"')
    )
    result = f"s3://{outputs['OutputBucketName']}/score.tif.result.json"
    evaluation = Evaluation(job, f"EVAL#{truth.version}", truth, result)
    dynamodb.update_item(
        TableName=outputs["JobsTableName"],
        Key={"job_id": {"S": job}, "record": {"S": evaluation.record}},
        UpdateExpression="SET evaluation_status = :queued",
        ExpressionAttributeValues={":queued": {"S": "QUEUED"}},
    )
    assert Evaluations(Table(dynamodb, outputs["JobsTableName"])).fail(evaluation, "five tries ended")
    page.get_by_role("link", name="Failures").click()
    row = page.locator("tr", has_text="score.tif")
    expect(row).to_contain_text("score failed")
    expect(row).to_contain_text("five tries ended")
    row.get_by_role("button", name="Send the score of score.tif again").click()
    expect(row).to_have_count(0, timeout=MADE)
    open_page(page, served, f"/images/{job}")
    expect(page.locator("#iou")).to_have_text("IoU 1.000")


def test_a_refused_ground_truth_is_listed_with_its_reason(
    page: Page, served: Served, field_tiff: Field, picture: Picture
) -> None:
    send(page, field_tiff("mismatch.tif", seed=49))
    small = io.BytesIO()
    Image.fromarray(np.eye(20, dtype=np.uint8) * 255).save(small, "PNG")
    bucket = served.stack.outputs["GroundTruthBucketName"]
    served.stack.client("s3").put_object(Bucket=bucket, Key="mismatch.png", Body=small.getvalue())
    row = page.locator("tr", has_text="mismatch.tif")
    for _ in range(30):
        page.goto(served.origin + "/failures")
        page.wait_for_timeout(2000)
        if row.count():
            break
    expect(row).to_contain_text("score refused")
    expect(row).to_contain_text("save a ground truth of the image's own size")
    picture(page, "failures-score")


def test_keys_lead_on_from_an_image_without_a_mask(
    page: Page, served: Served, field_tiff: Field, tmp_path: Path
) -> None:
    send(page, field_tiff("keys-b.tif", seed=47))
    (tmp_path / "keys-a.tif").write_bytes(b"II*\0 no TIFF")
    page.set_input_files("#files", tmp_path / "keys-a.tif")
    expect(page.locator(".files li", has_text="keys-a.tif")).to_contain_text("refused:", timeout=MADE)
    page.goto(f"{served.origin}/images?find=keys-&sort=name")
    page.locator(".card a", has_text="keys-a.tif").click()
    expect(page.locator(".note.bad").first).to_be_visible()
    page.keyboard.press("?")
    page.get_by_role("button", name="Close").click()
    expect(page.locator("dialog")).to_have_count(0)
    page.keyboard.press("n")
    expect(page.locator("h1")).to_have_text("keys-b.tif")
    ready(page)


def test_a_download_that_cannot_start_says_why(
    page: Page, served: Served, field_tiff: Field, picture: Picture
) -> None:
    send(page, field_tiff("download.tif", seed=48))
    page.goto(f"{served.origin}/images?find=no-such-image")
    expect(page.get_by_text(re.compile("^0 of"))).to_be_visible()
    page.get_by_role("button", name="Masks").click()
    expect(page.get_by_text("there is nothing to download")).to_be_visible()
    page.goto(f"{served.origin}/images?find=download.tif")
    expect(page.locator(".card", has_text="download.tif")).to_be_visible()
    with page.expect_download():
        page.get_by_role("button", name="Corrected pairs").click()
    expect(page.get_by_text("missing.txt in it names those")).to_be_visible()
    page.set_viewport_size({"width": 1024, "height": 768})
    picture(page, "gallery-download")
    page.context.clear_cookies()
    page.get_by_role("button", name="Masks").click()
    expect(page.get_by_text("Not downloaded: this browser has no session")).to_be_visible()


def test_a_failed_job_is_sent_again_and_its_log_read(page: Page, served: Served, field_tiff: Field) -> None:
    address = send(page, field_tiff("again.tif", seed=8))
    job = address.rpartition("/")[2]
    outputs, dynamodb = served.stack.outputs, served.stack.client("dynamodb")
    body = {"image": f"s3://{outputs['InputBucketName']}/again.tif"}
    dynamodb.update_item(
        TableName=outputs["JobsTableName"],
        Key={"job_id": {"S": job}, "record": {"S": "JOB"}},
        UpdateExpression="SET #s = :failed, #e = :error, error_code = :code, message = :body,"
        " updated_at = :now",
        ExpressionAttributeNames={"#s": "status", "#e": "error"},
        ExpressionAttributeValues={
            ":failed": {"S": "FAILED"},
            ":error": {"S": "five tries ended without an answer"},
            ":code": {"S": "TRIES_USED_UP"},
            ":body": {"S": json.dumps(body)},
            ":now": {"S": "2026-11-26T23:00:00.000Z"},
        },
    )
    open_address = served.origin + address
    page.goto(open_address)
    expect(page.locator(".note.bad").first).to_contain_text("five tries ended without an answer")
    page.get_by_role("button", name="Send again").click()
    page.wait_for_selector(".viewer[data-ready=yes]", timeout=MADE)
    page.locator("summary", has_text="Log").click()
    expect(page.locator(".log")).to_contain_text("mask_written")
    expect(page.locator(".panel")).to_contain_text("attempt 2")


def test_the_next_image_is_fetched_before_its_key_is_pressed(
    page: Page, served: Served, field_tiff: Field
) -> None:
    first, second = (send(page, field_tiff(f"ahead-{seed}.tif", seed=seed)) for seed in (22, 23))
    page.goto(f"{served.origin}/images?find=ahead-&sort=name")
    second_mask = f"/api/jobs{second.removeprefix('/images')}/pages/0/mask"
    with page.expect_response(lambda answer: second_mask in answer.url):
        page.locator(f".card a[href='{first}']").click()
    ready(page)
    page.wait_for_load_state("networkidle")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.keyboard.press("n")
    page.wait_for_url(served.origin + second)
    ready(page)
    assert [url for url in asked if second.removeprefix("/images") in url] == []
