"""The plate views on a generated plate whose doubling times are known."""

import io
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import tifffile
from conftest import Served
from playwright.sync_api import Browser, Page, Route, expect

from cytomask.cli.plate_page import render_plate
from cytomask.plate_pages import PlatePage
from cytomask.plate_places import place_of, time_of
from cytomask.plate_rows import Plates
from cytomask.platemap import parse_plate_map
from cytomask.plates import build_report
from cytomask.samples.fields import phase_contrast_field
from cytomask.samples.plates import DEMO_HOURS, DEMO_PLATE, DEMO_WELLS, write_plate

PLATE = "plate 1/#2 <b>"
WELLS = {"A01": 18.0, "A02": 24.0, "B01": 36.0, "B02": None}
HOURS = range(0, 84, 4)
MEASURED = {
    "wells": ["A01", "A02"], "measured": 1, "hours": [0, 4], "mean": [0.1, 0.2], "error": [None, None],
    "rate": 0.1, "doubling_time_h": 7.0, "relative_rate": None,
}  # fmt: skip
LACKING = "B02", 80  # a scan that was not taken
Picture = Callable[[Page, str], None]
QUEUED = """async (request) => {
  const headers = { "Content-Type": "application/json" };
  const asked = await fetch("/api/jobs", { method: "POST", headers, body: JSON.stringify(request) });
  const { job_id } = await asked.json();
  while ((await (await fetch(`/api/jobs/${job_id}`)).json()).status !== "SUCCEEDED") {
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}"""


def confluence(doubling: float | None, hour: int, site: int) -> float:
    grown = 0.06 * 2 ** (hour / doubling) if doubling else 0.05
    return grown / (1 + grown) * (1 + 0.02 * site)


@pytest.fixture(scope="module")
def plate(served: Served) -> Iterator[str]:
    """Rows as the segment function would have written them, and their removal."""
    table, dynamodb = served.stack.outputs["JobsTableName"], served.stack.client("dynamodb")
    plates, made = Plates(dynamodb, table), []
    for number, (well, doubling) in enumerate(WELLS.items()):
        for hour in HOURS:
            if (well, hour) == LACKING:
                continue
            for site in (1, 2):
                job = f"{number:08x}{hour:08x}{site:016x}"
                made.append(job)
                numbers = {"confluence": confluence(doubling, hour, site), "time": hour, "pixels": 10_000}
                texts = {
                    "job_id": job,
                    "record": "JOB",
                    "status": "SUCCEEDED",
                    "created_at": f"2026-11-20T00:00:00.{hour:03d}Z",
                    "updated_at": f"2026-11-20T00:00:01.{hour:03d}Z",
                    "image": f"s3://{served.stack.outputs['InputBucketName']}/p/{well}_{site}_{hour}.tif",
                    "mask": f"s3://{served.stack.outputs['OutputBucketName']}/p/{well}_{site}_{hour}.mask.png",
                    "plate": PLATE,
                    "well": well,
                    "site": str(site),
                    "place": place_of(well, str(site), float(hour), None),
                }
                item = {name: {"S": text} for name, text in texts.items()}
                item |= {name: {"N": str(value)} for name, value in numbers.items()}
                dynamodb.put_item(TableName=table, Item=item)
        plates.note(
            PLATE,
            well,
            places=[f"{hour}/{site}" for hour in HOURS for site in (1, 2)],
            times=[time_of(float(hour), None) for hour in HOURS],
            masked=True,
            cost_usd=0.001,
            now="2026-11-20T00:00:00.000Z",
        )
    yield PLATE
    for job in made:
        dynamodb.delete_item(TableName=table, Key={"job_id": {"S": job}, "record": {"S": "JOB"}})


def test_a_plate_is_walked_from_the_list_to_a_page(page: Page, plate: str, picture: Picture) -> None:
    page.get_by_role("link", name="Plates").click()
    row = page.locator("tbody tr", has_text=plate)
    expect(row).to_contain_text("21")
    row.get_by_role("link").click()
    expect(page.locator("h1")).to_have_text(plate)
    cell = page.get_by_role("link", name="A01: ")
    last = round(100 * confluence(18.0, 80, 1))
    assert abs(int(cell.inner_text()) - last) <= 1
    expect(page.get_by_role("link", name="B02: no scan at this time")).to_have_text("–")
    picture(page, "plate")

    page.locator("#time").press("Home")
    assert abs(int(cell.inner_text()) - 6) <= 1
    assert "time=0" in page.url
    page.reload()
    assert abs(int(cell.inner_text()) - 6) <= 1
    page.select_option("#show", "growth")
    expect(page.locator("#time")).to_be_disabled()
    expect(cell).to_have_text("18")
    expect(page.get_by_role("link", name="B02: no growth")).to_have_text("–")
    expect(page.locator(".legend")).to_have_text(re.compile(r"^3\d\.\d h1[78]\.\d h"))  # slowest to fastest
    picture(page, "plate-growth")

    cell.click()
    expect(page.locator(".big")).to_contain_text("doubles in 1")
    hours = float(page.locator(".big").inner_text().split()[2])
    assert math.isclose(hours, 18.0, rel_tol=0.08)
    assert page.locator(".strip a").count() == len(HOURS)
    picture(page, "well")
    assert page.url.endswith("/plates/plate%201%2F%232%20%3Cb%3E/A01")
    page.reload()
    expect(page.locator("h1")).to_have_text("Well A01")
    page.select_option("#site", "2")
    expect(page.locator(".strip a").first).to_contain_text("0 h, 6 %")
    assert str(page.locator(".strip a").first.get_attribute("href")).startswith("/images/0000")


def test_a_film_strip_says_where_a_picture_is_missing(
    page: Page, served: Served, plate: str, picture: Picture
) -> None:
    page.goto(f"{served.origin}/plates/{quote(plate, safe='')}/A01")
    first = page.locator(".strip a").first
    expect(first.locator(".picture")).to_have_text("picture not available")
    expect(first.locator("img")).to_have_count(0)
    picture(page, "well-without-pictures")


def test_codes_become_words_and_names_in_capitals_stay(page: Page) -> None:
    said = page.evaluate(
        "import('/static/words.js').then(({ inWords }) => inWords('DMSO: OUT_OF_FOCUS (2)'))"
    )
    assert said == "DMSO: out of focus (2)"


def test_what_a_plate_lacks_is_said(page: Page, served: Served, plate: str) -> None:
    page.goto(f"{served.origin}/plates/nobody")
    expect(page.get_by_role("alert")).to_contain_text("there is no plate nobody")
    page.goto(f"{served.origin}/plates/50%")  # as a person types it
    expect(page.get_by_role("alert")).to_contain_text("there is no plate 50%")


def test_a_plate_that_the_function_segmented_is_walked(
    page: Page, served: Served, tmp_path: Path, picture: Picture
) -> None:
    growing, dead = "A01", "B02"
    s3, bucket = served.stack.client("s3"), served.stack.outputs["InputBucketName"]
    pages = [each for each in write_plate(tmp_path) if f"_{growing}_" in each.key or f"_{dead}_" in each.key]
    s3.upload_file(str(tmp_path / DEMO_PLATE / "platemap.csv"), bucket, f"{DEMO_PLATE}/platemap.csv")
    for each in pages:
        s3.upload_file(str(each.image), bucket, each.key)
    page.goto(f"{served.origin}/plates")
    row = page.locator("tbody tr", has_text=DEMO_PLATE)
    for _ in range(60):
        if row.count() and f"{len(pages)} of {len(DEMO_WELLS) * len(DEMO_HOURS)}" in row.inner_text():
            break
        page.wait_for_timeout(1000)
        page.reload()
        page.wait_for_selector("h1")
    row.get_by_role("link").click()
    expect(page.locator("main")).to_contain_text("not complete yet")
    well = page.get_by_role("link", name=f"{growing}, control: ")
    true = [each.confluence for each in pages if f"_{growing}_" in each.key]
    for key, share in (("End", true[-1]), ("Home", true[0])):
        page.locator("#time").press(key)
        assert abs(int(well.inner_text()) - 100 * share) < 8, key
    page.select_option("#show", "growth")
    assert abs(int(well.inner_text()) - 12) <= 2  # hours, as the sample was made
    expect(page.get_by_role("link", name=f"{dead}, dead: ")).to_have_text("–")
    picture(page, "plate-segmented")
    well.click()
    expect(page.locator(".strip a")).to_have_count(len(DEMO_HOURS))
    last = page.locator(".strip img").last
    expect(last).to_have_js_property("naturalWidth", 224)
    picture(page, "well-segmented")
    page.locator(".strip a").last.click()
    page.wait_for_selector(".viewer[data-ready=yes]")
    expect(page.locator(".panel")).to_contain_text(DEMO_PLATE)


def drawn(page: Page, series: list[dict[str, object]], asked: str) -> list[str]:
    """What the texts or paths of a chart say."""
    said: list[str] = page.evaluate(
        f"(series) => import('/static/charts.js').then(({{ curves }}) => {asked})", series
    )
    return said


def test_a_chart_writes_round_hours(page: Page) -> None:
    marks_of = "curves(series, { label: '' }).querySelectorAll('[text-anchor=middle]')"
    texts = f"[...{marks_of}].map((mark) => mark.textContent)"
    for last, marks in ((10, "0 2 4 6 8 10"), (2.5, "0 0.5 1 1.5 2 2.5"), (56, "0 12 24 36 48"), (0, "0")):
        assert " ".join(drawn(page, [{"name": "", "x": [0, last], "y": [0.1, 0.2]}], texts)) == marks


def test_a_band_is_drawn_only_where_its_error_is_known(page: Page) -> None:
    error = [0.1, 0.1, None, 0.1, None, None, 0.1, 0.1]
    series: list[dict[str, object]] = [{"name": "", "x": [*range(8)], "y": [0.5] * 8, "error": error}]
    paths = (
        "[...curves(series, { label: '' }).querySelectorAll('.band')].map((path) => path.getAttribute('d'))"
    )
    assert [path.count("L") for path in drawn(page, series, paths)] == [3, 1, 3]


def test_a_well_is_measured_as_its_plate_is(page: Page, served: Served, plate: str, picture: Picture) -> None:
    page.goto(f"{served.origin}/plates/{quote(plate, safe='')}")
    page.get_by_label("leave out pages with a warning").check()
    expect(page.get_by_label("leave out pages with a warning")).to_be_checked()
    expect(page.get_by_label("leave out pages with a warning")).to_be_focused()
    page.get_by_role("link", name="A01: ").click()
    expect(page.locator("h1")).to_have_text("Well A01")
    assert "leave_out=all" in page.url
    expect(page).to_have_title(f"A01, {plate} – cytomask")
    expect(page.locator(".facts")).to_contain_text("Growth beganat the first scan")
    expect(page.locator(".facts")).to_contain_text("Fitted to the scansfrom 0 h to 80 h")
    page.get_by_role("link", name=plate).click()
    expect(page.get_by_label("leave out pages with a warning")).to_be_checked()


def test_wells_are_walked_by_arrow_keys_and_passed_by_tab(page: Page, served: Served, plate: str) -> None:
    page.goto(f"{served.origin}/plates/{quote(plate, safe='')}")
    page.get_by_role("link", name="A01: ").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("link", name="A02: ")).to_be_focused()
    page.keyboard.press("ArrowRight")  # nothing is there
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("link", name="B02: ")).to_be_focused()
    page.keyboard.press("Tab")
    assert not page.evaluate("document.activeElement.matches('a.well')")


def test_a_plate_that_cannot_be_measured_anew_says_so(page: Page, served: Served, plate: str) -> None:
    page.goto(f"{served.origin}/plates/{quote(plate, safe='')}")
    expect(page.get_by_label("leave out pages with a warning")).to_be_visible()
    page.route("**/api/plates/**", lambda route: route.abort())
    page.get_by_label("leave out pages with a warning").click()
    expect(page.get_by_role("alert")).to_contain_text("does not answer")


def test_every_condition_is_told_though_not_every_curve_is_drawn(
    page: Page, served: Served, plate: str
) -> None:
    def many(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        told["conditions"] = [{**MEASURED, "name": f"dose {number}"} for number in range(30)]
        told |= {"left_out": [{"image": "s3://b/a.tif", "well": "A01", "reason": "r"}], "left_out_count": 2}
        route.fulfill(response=answer, json=told)

    page.route("**/api/plates/*", many)
    page.goto(f"{served.origin}/plates/{quote(plate, safe='')}")
    expect(page.get_by_text("The curves of the first 24 of 30 conditions are drawn.")).to_be_visible()
    expect(page.locator(".key li")).to_have_count(30)
    expect(page.get_by_text("dose 7: doubles in 7.0 h, 2 wells, 1 of them with a rate")).to_be_visible()
    page.get_by_text("Left out: 2 pages").click()
    expect(page.get_by_text("The first 1 are listed.")).to_be_visible()


def test_the_list_tells_dates_and_numbers_of_scans(page: Page, served: Served) -> None:
    times = {
        "hours": (0.333333, 4),
        "dates": ("2026-11-20T09", "2026-11-21T17"),
        "scans": ("n00000001", "n00000012"),
    }
    plates = [{"plate": name, "first": a, "last": b, "complete": None} for name, (a, b) in times.items()]
    page.route("**/api/plates", lambda route: route.fulfill(json={"plates": plates}))
    page.goto(f"{served.origin}/plates")
    for name, first, last in (
        ("hours", "0.33 h", "4 h"),
        ("dates", "2026-11-20 09:00", "2026-11-21 17:00"),
        ("scans", "scan 1", "scan 12"),
    ):
        cells = page.locator("tbody tr", has_text=name).locator("td")
        expect(cells.nth(2)).to_have_text(first)
        expect(cells.nth(3)).to_have_text(last)


def test_hours_are_told_in_two_digits(page: Page) -> None:
    said = page.evaluate("import('/static/dom.js').then(({ hoursOf }) => [0, 0.333333, 4, 1.5].map(hoursOf))")
    assert said == ["0 h", "0.33 h", "4 h", "1.5 h"]


def test_the_film_strip_of_a_time_stack_shows_each_of_its_pages(page: Page, served: Served) -> None:
    frames = np.stack([phase_contrast_field(seed, 224, 224).pixels for seed in (51, 52, 53)])
    file = io.BytesIO()
    tifffile.imwrite(file, frames, imagej=True, metadata={"axes": "TYX", "finterval": 14_400.0})
    bucket = served.stack.outputs["InputBucketName"]
    served.stack.client("s3").put_object(Bucket=bucket, Key="frames.tif", Body=file.getvalue())
    asked = {"image": f"s3://{bucket}/frames.tif", "plate": "frames", "well": "B3", "threshold": 0.45}
    page.evaluate(QUEUED, asked)
    page.goto(f"{served.origin}/plates/frames/B03")
    pictures = page.locator(".strip img")
    expect(pictures).to_have_count(3)
    expect(pictures.last).to_have_js_property("naturalWidth", 224)
    drawn = {
        page.request.get(f"{served.origin}{each.get_attribute('src')}").body() for each in pictures.all()
    }
    assert len(drawn) == 3


def test_the_file_tells_scans_within_an_hour_apart_and_rounds_as_its_table(
    chromium: Browser, tmp_path: Path
) -> None:
    hours = [each / 2 for each in range(200, 230)]
    noise = np.random.default_rng(0).standard_normal(len(hours))
    pages = [
        PlatePage(
            plate="p", well="A01", time=hour, confluence=0.1 * 2 ** ((hour - 100) / 8) * (1 + 0.01 * off)
        )
        for hour, off in zip(hours, noise, strict=True)
    ]
    report = build_report("p", pages)
    tab, file = chromium.new_page(), tmp_path / "plate.html"
    file.write_bytes(render_plate(report))
    tab.goto(file.as_uri())
    tab.locator("#time").press("Home")
    tab.locator("#time").press("ArrowRight")
    expect(tab.locator("#hour")).to_have_text("100.5 h")
    r2 = report.wells["A01"].growth.r2
    assert r2 is not None
    assert f"{r2:.3f}" == "1.000"
    expect(tab.locator("#well dl")).to_contain_text(f"{r2:.4f}")
    expect(tab.locator("#well dl")).to_contain_text("100 h to 114.5 h")
    tab.close()


def test_the_file_draws_one_scan_as_dots_and_no_error_of_one_well(chromium: Browser, tmp_path: Path) -> None:
    wells = parse_plate_map(b"well,condition\nA1:A2,drug\n", "map.csv")
    shares = {("A01", 0): 0.1, ("A02", 0): 0.3, ("A01", 4): 0.5, ("A01", 8): 0.4, ("A02", 8): 0.6}
    pages = [
        PlatePage(plate="p", well=well, site="1", time=float(hour), confluence=share, image=f"{well}{hour}")
        for (well, hour), share in shares.items()
    ]
    tab, file = chromium.new_page(), tmp_path / "plate.html"
    file.write_bytes(render_plate(build_report("p", pages, wells)))
    tab.goto(file.as_uri())
    bands = tab.locator("#conditions .band").evaluate_all(
        "paths => paths.map((path) => path.getAttribute('d'))"
    )
    assert [band.count("L") for band in bands] == [1, 1]  # at 4 h only one well was scanned
    expect(tab.locator("#well")).to_contain_text("growth began")
    file.write_bytes(render_plate(build_report("p", [each for each in pages if each.time == 0], wells)))
    tab.goto(file.as_uri())
    expect(tab.locator("ul.facts")).to_contain_text("1 scan 0 h time")
    minis = tab.locator("#minis path").evaluate_all("paths => paths.map((path) => path.getAttribute('d'))")
    assert all(line.endswith("h0") for line in minis)
    tab.close()
