"""Fingers: one paints, two zoom and move the page and never paint."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import HEIGHT, WIDTH, Served
from playwright.sync_api import CDPSession, Page, expect
from test_circle import MADE, open_page, send, truth

Point = tuple[float, float]
Touch = Callable[..., None]


@pytest.fixture
def touch(page: Page) -> Touch:
    """Move fingers, each through its points, and lift them together."""
    session: CDPSession = page.context.new_cdp_session(page)
    session.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 5})

    def touch(*fingers: Sequence[Point]) -> None:
        down: list[dict[str, float]] = []
        for number, finger in enumerate(fingers):  # one after another, as fingers come
            down.append({"x": finger[0][0], "y": finger[0][1], "id": number})
            session.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": down})
        for step in range(1, len(fingers[0])):
            points = [{"x": f[step][0], "y": f[step][1], "id": number} for number, f in enumerate(fingers)]
            session.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": points})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    return touch


def test_two_fingers_zoom_and_move_and_one_paints(
    page: Page, served: Served, field_tiff: Callable[..., Path], touch: Touch
) -> None:
    open_page(page, served, send(page, field_tiff("touch.tif", seed=21)))
    page.get_by_role("button", name="Start with an empty page").click()
    box = page.locator(".viewer").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    zoomed = page.get_by_role("group", name="Zoom").locator("output")
    before = int(zoomed.inner_text().rstrip(" %"))

    apart = [60 + 10 * step for step in range(7)]
    touch([(x - far, y) for far in apart], [(x + far, y) for far in apart])
    expect(zoomed).to_have_text(f"{2 * before} %")
    moved = [(8 * step, 4 * step) for step in range(6)]
    touch([(x - 50 + dx, y + dy) for dx, dy in moved], [(x + 50 + dx, y + dy) for dx, dy in moved])
    expect(zoomed).to_have_text(f"{2 * before} %")
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()

    touch([(x, y)])
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    page.get_by_role("button", name="Save as ground truth").click()
    expect(page.locator(".paintbar")).to_contain_text("Saved as s3://", timeout=MADE)
    rows, columns = np.nonzero(truth(served, "touch.tif.png"))
    scale = 2 * min(box["width"] / WIDTH, box["height"] / HEIGHT)
    assert abs(rows.mean() - (HEIGHT / 2 - 20 / scale)) < 1.5
    assert abs(columns.mean() - (WIDTH / 2 - 40 / scale)) < 1.5
    assert rows.size < 9**2  # the brush's dot alone
