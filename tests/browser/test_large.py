"""A page of 64 megapixels is painted, restored and saved in tiles; the browser never holds it whole."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import Served
from playwright.sync_api import Browser, Page, expect
from test_circle import drag, ready, send, truth

from cytomask import images
from cytomask.web.library import FRESH_SECONDS

RESULT = "large.tif.result.json"
SIDE = 8000
MOST_MB = 700  # of the tab's process; as bitmaps, the page and its mask alone would take 512
Picture = Callable[[Page, str], None]


@pytest.fixture
def large(page: Page, served: Served, field_tiff: Callable[..., Path]) -> str:
    """The address of a large page: a job's result is told that its image and mask were larger.

    The network would take minutes for such a page.
    """
    address = send(page, field_tiff("large.tif", seed=20))
    s3, bucket = served.stack.client("s3"), served.stack.outputs["OutputBucketName"]
    result = json.loads(s3.get_object(Bucket=bucket, Key=RESULT)["Body"].read())
    pattern = np.tile(np.arange(200, dtype=np.uint8), (SIDE, SIDE // 200))
    file = io.BytesIO()
    tifffile.imwrite(file, pattern, compression="zlib", tile=(512, 512))
    cells = np.zeros((SIDE, SIDE), bool)
    cells[1000:3000, 1000:3000] = True

    def put(key: str, body: bytes) -> Any:
        return s3.put_object(Bucket=bucket, Key=key, Body=body)["ETag"].strip('"')

    etag = put("large/scan.tif", file.getvalue())
    result["image"] |= {"bucket": bucket, "key": "large/scan.tif", "etag": etag, "version_id": None}
    (described,) = result["pages"]
    described |= {"height": SIDE, "width": SIDE, "mask": f"s3://{bucket}/large/scan.mask.png"}
    described["mask_etag"] = put("large/scan.mask.png", images.encode_mask(cells))
    put(RESULT, json.dumps(result).encode())
    page.wait_for_timeout(1000 * FRESH_SECONDS)  # until the server has forgotten the small one
    return address


def tab_mb(browser: Browser) -> float:
    """The most memory that a tab's process has taken so far."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    peaks = [
        int(line.split()[1]) / 1024
        for each in processes
        if each["type"] == "renderer"
        for line in Path(f"/proc/{each['id']}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return max(peaks)


def test_a_page_of_64_megapixels_is_painted_restored_and_saved(
    page: Page, served: Served, chromium: Browser, large: str, picture: Picture
) -> None:
    page.goto(served.origin + large)
    ready(page)
    picture(page, "large")
    page.get_by_role("button", name="Start with an empty page").click()
    page.locator("#brush").fill("200")
    corners = [(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8), (0.2, 0.2)]
    drag(page, *corners, size=(SIDE, SIDE))
    page.get_by_role("button", name="Fill", exact=True).click()
    drag(page, (0.5, 0.5), size=(SIDE, SIDE))
    page.get_by_role("button", name="Eraser").click()
    drag(page, (0.3, 0.4), (0.7, 0.4), size=(SIDE, SIDE))
    drag(page, (0.3, 0.6), (0.7, 0.6), size=(SIDE, SIDE))
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("button", name="Redo")).to_be_enabled()
    ready(page)
    picture(page, "large-painted")
    page.wait_for_timeout(500)  # until the browser has stored it
    page.reload()
    expect(page.locator(".paintbar")).to_contain_text("Restored what you painted")
    page.keyboard.press("Control+s")
    expect(page.locator(".paintbar")).to_contain_text("Saved as s3://", timeout=60_000)

    cells = truth(served, "large/scan.tif.png") > 0
    assert cells.shape == (SIDE, SIDE)
    assert cells[1800:3000, 1800:6200].all() and cells[3400:6200, 1800:6200].all()
    assert not cells[3200, 2500:5500].any()  # erased
    assert cells[4800, 2500:5500].all()  # erased, and undone
    assert not cells[:1400].any() and not cells[:, 6600:].any()
    assert tab_mb(chromium) < MOST_MB
