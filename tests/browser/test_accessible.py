"""axe-core's rules on every view, light and dark; every view fits its screen."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import Served
from playwright.sync_api import Page, expect
from test_circle import ready, send
from test_plates import plate

__all__ = ["plate"]
Picture = Callable[[Page, str], None]
SCREENS = [(1024, 768), (1440, 900)]
VIEWS = {
    "gallery": "/images",
    "send": "/send",
    "failures": "/failures",
    "spending": "/spending",
    "plates": "/plates",
    "plate": "/plates/plate%201%2F%232%20%3Cb%3E",
    "well": "/plates/plate%201%2F%232%20%3Cb%3E/A01",
}


def grave(page: Page) -> list[str]:
    """What axe finds that is serious or critical, with the element."""
    found: list[dict[str, Any]] = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]}"
        for each in found
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    page: Page,
    served: Served,
    plate: str,
    field_tiff: Callable[..., Path],
    tmp_path: Path,
    scheme: Any,
) -> None:
    page.emulate_media(color_scheme=scheme)
    bad = tmp_path / f"bad-{scheme}.tif"
    bad.write_bytes(b"no image")
    address = send(page, field_tiff(f"axe-{scheme}.tif", seed=11))
    page.set_input_files("#files", bad)
    expect(page.locator(".files li", has_text=bad.name)).to_contain_text("refused:", timeout=60_000)
    found = {"sent": grave(page)}
    for name, path in VIEWS.items():
        page.goto(served.origin + path)
        page.wait_for_load_state("networkidle")
        found[name] = grave(page)
    page.goto(served.origin + address)
    ready(page)
    found["page"] = grave(page)
    page.keyboard.press("c")
    found["correcting"] = grave(page)
    page.keyboard.press("?")
    found["keys"] = grave(page)
    assert {name: faults for name, faults in found.items() if faults} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_fits_its_screen(
    page: Page,
    served: Served,
    plate: str,
    field_tiff: Callable[..., Path],
    picture: Picture,
    scheme: Any,
) -> None:
    page.emulate_media(color_scheme=scheme)
    address = send(page, field_tiff(f"small-{scheme}.tif", seed=12))
    for width, height in SCREENS:
        page.set_viewport_size({"width": width, "height": height})
        for name, path in {**VIEWS, "page": address}.items():
            page.goto(served.origin + path)
            page.wait_for_load_state("networkidle")
            wider = page.evaluate("document.documentElement.scrollWidth > innerWidth")
            assert not wider, (name, width)
            picture(page, f"{name}-{width}-{scheme}")
        page.keyboard.press("c")
        box = page.locator(".viewer").bounding_box()
        assert box is not None and box["width"] > 600 and box["height"] > 400
        picture(page, f"correcting-{width}-{scheme}")
        page.keyboard.press("?")
        picture(page, f"keys-{width}-{scheme}")


def luminance(channels: Sequence[int]) -> float:
    """As WCAG defines it, of 8-bit channels."""
    shares = [each / 255 for each in channels]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_number_of_the_heat_map_can_be_read(page: Page) -> None:
    heats = page.evaluate(
        "import('/static/charts.js').then((all) => Array.from({ length: 99 }, (_, at) => all.heat(at / 98)))"
    )
    for colour, text in heats:
        lights = [luminance([int(each) for each in re.findall(r"\d+", colour)]), float(text == "#fff")]
        assert (max(lights) + 0.05) / (min(lights) + 0.05) >= 4.5, colour


def test_forced_colours_show_what_is_chosen(
    page: Page, served: Served, plate: str, field_tiff: Callable[..., Path]
) -> None:
    address = send(page, field_tiff("forced.tif", seed=13))
    page.emulate_media(forced_colors="active")
    page.goto(served.origin + address)
    ready(page)

    def colour(selector: str) -> str:
        return str(page.locator(selector).evaluate("each => getComputedStyle(each).backgroundColor"))

    assert colour("[data-overlay=outline]") != colour("[data-overlay=filled]")
    assert colour("nav a[href='/images']") != colour("nav a[href='/send']")
    page.goto(served.origin + VIEWS["plate"])
    expect(page.locator("a.well").first).to_be_visible()
    wells = page.locator("a.well").evaluate_all(
        "all => all.map((each) => getComputedStyle(each).backgroundColor)"
    )
    assert len(set(wells)) > 1
