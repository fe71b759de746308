"""Several tabs, dialogs, small windows, and a server that goes away, comes back or forgets the session."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import HEIGHT, WIDTH, Served
from playwright.sync_api import Page, Route, expect
from test_circle import MADE, drag, open_page, ready, send, truth

Field = Callable[..., Path]
Picture = Callable[[Page, str], None]


def box(page: Page) -> None:
    """Paint the middle of the page."""
    page.get_by_role("button", name="Lasso").click()
    drag(page, (0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6))
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()


def test_one_tab_at_a_time_corrects_a_page(page: Page, served: Served, field_tiff: Field) -> None:
    address = send(page, field_tiff("tabs.tif", seed=61))
    open_page(page, served, address)
    page.get_by_role("button", name="Correct the mask").click()
    box(page)
    other = page.context.new_page()
    open_page(other, served, address)
    expect(other.locator(".paintbar")).to_contain_text("Another tab corrects this page")
    other.keyboard.press("c")
    expect(other.get_by_role("button", name="Lasso")).to_have_count(0)
    page.get_by_role("button", name="Save as ground truth").click()
    expect(page.locator(".paintbar")).to_contain_text("Saved as s3://", timeout=MADE)
    other.get_by_role("button", name="Correct the mask").click()
    box(other)
    other.wait_for_timeout(300)  # until the browser has stored it
    other.reload()
    expect(other.locator(".paintbar")).to_contain_text("Restored what you painted")


def test_a_ground_truth_that_another_person_saved_is_told(
    page: Page, served: Served, field_tiff: Field
) -> None:
    open_page(page, served, send(page, field_tiff("newer.tif", seed=62)))
    page.get_by_role("button", name="Correct the mask").click()
    box(page)
    s3, bucket = served.stack.client("s3"), served.stack.outputs["GroundTruthBucketName"]
    body = field_tiff("theirs.tif", seed=62).read_bytes()
    s3.put_object(Bucket=bucket, Key="newer.tif.png", Body=body)
    page.get_by_role("button", name="Save as ground truth").click()
    question = page.get_by_role("dialog")
    expect(question).to_contain_text("Somebody saved")
    question.get_by_role("button", name="Replace it").click()
    expect(page.locator(".paintbar")).to_contain_text("Saved as s3://", timeout=MADE)
    assert truth(served, "newer.tif.png").shape == (HEIGHT, WIDTH)
    page.get_by_role("button", name="Correct the ground truth").click()
    page.get_by_role("button", name="Save as ground truth").click()
    expect(question).to_contain_text("newer.tif.png exists")  # nobody saved another one
    question.get_by_role("button", name="Keep the old one").click()


def test_the_overlay_that_was_chosen_stays_for_the_next_image(
    page: Page, served: Served, field_tiff: Field
) -> None:
    for number in (1, 2):
        send(page, field_tiff(f"overlay-{number}.tif", seed=66 + number))
    page.goto(f"{served.origin}/images?find=overlay-&sort=name")
    page.locator(".card").first.click()
    ready(page)
    page.keyboard.press("f")
    page.keyboard.press("i")
    page.keyboard.press("n")
    expect(page.locator("h1")).to_have_text("overlay-2.tif")
    expect(page.locator("[data-overlay=filled]")).to_have_attribute("aria-pressed", "true")


def test_keys_stay_within_a_dialog_and_a_dialog_within_its_view(
    page: Page, served: Served, field_tiff: Field
) -> None:
    address = send(page, field_tiff("dialog.tif", seed=63, pages=2))
    open_page(page, served, address)
    expect(page).to_have_title("dialog.tif – cytomask")
    page.keyboard.press("?")
    page.locator("dialog h2").click()
    page.keyboard.press("PageDown")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_have_count(1)
    expect(page.get_by_text("page 0 (1 of 2)")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_tiles_come_when_the_server_answers_again(page: Page, served: Served, field_tiff: Field) -> None:
    open_page(page, served, send(page, field_tiff("tiles.tif", seed=64)))
    served.stop()
    try:
        page.evaluate("import('/static/api.js').then(({ get }) => get('session').catch(() => {}))")
        expect(page.locator("#connection")).to_contain_text("Connection lost")
        drawn = page.evaluate_handle(
            """import('/static/api.js').then(({ connection }) => {
              const seen = { found: false };
              connection.addEventListener('found', () => { seen.found = true; });
              return seen;
            })"""
        )
    finally:
        served.start()
    expect(page.locator("#connection")).to_be_empty()  # though the view asks for nothing
    assert drawn.evaluate("seen => seen.found")


def test_a_mask_that_is_waited_for_comes_after_the_connection_was_lost(page: Page, served: Served) -> None:
    table, dynamodb = served.stack.outputs["JobsTableName"], served.stack.client("dynamodb")
    row = {"job_id": f"{77:032x}", "record": "JOB", "image": "s3://b/waits.tif"}
    row |= {
        "status": "RUNNING",
        "created_at": "2026-11-20T00:00:00.000Z",
        "updated_at": "2026-11-20T00:00:00.000Z",
    }
    item = {name: {"S": text} for name, text in row.items()}
    dynamodb.put_item(TableName=table, Item=item)
    page.goto(f"{served.origin}/images/{row['job_id']}")
    expect(page.get_by_text("The mask is being made")).to_be_visible()
    page.route("**/api/jobs/**", lambda route: route.abort())
    expect(page.locator("#connection")).to_contain_text("Connection lost")
    page.unroute("**/api/jobs/**")
    ended = {"status": {"S": "REJECTED"}, "error_code": {"S": "EMPTY_IMAGE"}, "error": {"S": "it is empty"}}
    dynamodb.put_item(TableName=table, Item=item | ended)
    expect(page.locator(".panel")).to_contain_text("it is empty")
    dynamodb.delete_item(TableName=table, Key={name: item[name] for name in ("job_id", "record")})


def test_a_session_that_ended_is_told_and_goes_on_in_another_tab(page: Page, served: Served) -> None:
    page.goto(served.origin + "/images")
    expect(page.get_by_role("status").first).to_contain_text("images")
    page.context.clear_cookies()
    page.evaluate("import('/static/jobs.js').then(({ hurry }) => hurry())")
    expect(page.locator("#connection")).to_contain_text("The session ended")
    other = page.context.new_page()
    other.goto(served.address)
    expect(page.locator("#connection")).to_be_empty()


def test_a_file_that_vanished_is_told(page: Page, served: Served, tmp_path: Path) -> None:
    file = tmp_path / "vanished.tif"
    file.write_bytes(b"II*\0 and so on")
    page.goto(served.origin + "/send")

    def remove(route: Route) -> None:
        file.unlink()
        route.continue_()

    page.route("**/api/uploads", remove)
    page.set_input_files("#files", file)
    line = page.locator(".files li", has_text="vanished.tif")
    expect(line).to_contain_text("changed, moved or deleted since it was chosen")
    expect(line.get_by_role("button")).to_have_count(0)
    expect(page.locator("#connection")).to_be_empty()


def test_what_cannot_be_read_of_a_dropped_folder_is_told_and_the_rest_sent(
    page: Page, served: Served
) -> None:
    page.goto(served.origin + "/send")
    page.locator(".drop").evaluate(
        """(box) => {
          const file = (name, read) => ({ isFile: true, name, file: read });
          const inside = [
            file("gone.tif", (_, fail) => fail(new DOMException("gone", "NotFoundError"))),
            file("here.tif", (done) => done(new File(["II*"], "here.tif"))),
          ];
          const reader = { readEntries: (done) => done(inside.splice(0)) };
          const folder = { isFile: false, name: "plate", createReader: () => reader };
          const items = [{ webkitGetAsEntry: () => folder }];
          box.dispatchEvent(Object.assign(new Event("drop"), { dataTransfer: { items, files: [] } }));
        }"""
    )
    expect(page.get_by_role("alert")).to_contain_text("cannot read them: plate/gone.tif")
    expect(page.locator(".files li", has_text="plate/here.tif")).to_be_visible()


def test_a_file_is_sent_again_once_the_session_is_open(page: Page, served: Served, field_tiff: Field) -> None:
    page.goto(served.origin + "/send")
    page.context.clear_cookies()
    page.fill("#into", "/ a//b/")
    page.set_input_files("#files", field_tiff("session.tif", seed=66))
    line = page.locator(".files li", has_text="a/b/session.tif")
    expect(line).to_contain_text("no session")
    page.context.new_page().goto(served.address)
    expect(page.locator("#connection")).to_be_empty()
    line.get_by_role("button", name="Try again").click()
    expect(line.get_by_role("link", name="Open")).to_be_visible(timeout=MADE)


@pytest.mark.parametrize(("width", "height"), [(400, 800), (640, 400)])  # a phone; a laptop at 200 %
def test_a_small_window_shows_the_whole_image_view(
    page: Page, served: Served, field_tiff: Field, picture: Picture, width: int, height: int
) -> None:
    address = send(page, field_tiff(f"window-{width}.tif", seed=65))
    page.set_viewport_size({"width": width, "height": height})
    open_page(page, served, address)
    page.keyboard.press("c")
    for name in ("Save as ground truth", "Discard"):
        page.get_by_role("button", name=name).click(trial=True)  # nothing lies above it
    page.locator(".panel").scroll_into_view_if_needed()
    viewer, panel = page.locator(".viewer").bounding_box(), page.locator(".panel").bounding_box()
    assert viewer is not None and panel is not None
    assert viewer["width"] > 0.9 * width and panel["y"] >= viewer["y"] + viewer["height"]
    assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    picture(page, f"window-{width}")
    ready(page)
