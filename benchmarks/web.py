"""Time how long the web page takes to show an image, on the emulated stack, in Chromium.

`python -m benchmarks.web` sends generated images, waits for their masks, and prints medians as JSON:
by key from image to image, opened from the gallery, and a page of 64 megapixels, first and again.
"""

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tifffile
from playwright.sync_api import Page, sync_playwright

from benchmarks.page import SIDES
from cytomask.cli.stack import Stack
from cytomask.cli.web import account_of
from cytomask.infra.emulator import EmulatedStack, emulated_stack
from cytomask.samples.fields import phase_contrast_field
from cytomask.web.security import Session
from cytomask.web.server import address_of, listen, make_server

IMAGES = 16
LARGE = 8000  # pixels a side: 64 megapixels
PATTERN = 1000  # pixels a side of what the large page repeats
MADE_SECONDS = 900
FOLDER = "benchmark"
SWITCHES = ["--no-sandbox", "--disable-background-networking", "--no-first-run"]
# Notes the milliseconds from a key or a click to the view that it leads to: the viewer says that no tile is
# missing, and the frame after that has been drawn.
WATCH = """() => {
  const root = document.documentElement;
  const begin = (event) => {
    if (event.type === "keydown" && event.key !== "n") return;
    delete root.dataset.spent;
    const old = document.querySelector(".viewer");
    const look = () => {
      const viewer = document.querySelector(".viewer[data-ready=yes]");
      if (!viewer || viewer === old) return requestAnimationFrame(look);
      const channel = new MessageChannel();
      channel.port1.onmessage = () => { root.dataset.spent = performance.now() - event.timeStamp; };
      channel.port2.postMessage(null);
    };
    requestAnimationFrame(look);
  };
  for (const name of ["keydown", "click"]) addEventListener(name, begin, { capture: true });
}"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 without Chromium."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help="of 704x520 pixels")
    parser.add_argument("--no-large", action="store_true", help="skip the page of 64 megapixels")
    parser.add_argument("--endpoint-url", metavar="URL", help="use what `cytomask up` runs")
    given = parser.parse_args(arguments)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        print("Chromium is not installed; `apt-get install chromium`, or name it in CHROMIUM")
        return 1
    with _stack(given.endpoint_url) as stack:
        keys = _send(stack, given.images, large=not given.no_large)
        with _served(stack) as (server, restart), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=SWITCHES)
            tab = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
            tab.set_default_timeout(120_000)
            tab.goto(server)
            tab.wait_for_selector("#stack:not(:empty)")
            figures = _small(tab, server)
            if not given.no_large:
                figures |= _large(tab, server, keys[-1], restart)
            browser.close()
    print(json.dumps(figures | {"load": round(os.getloadavg()[0], 1), "cores": os.cpu_count()}, indent=2))
    return 0


def _small(tab: Page, address: str) -> dict[str, Any]:
    """Walk through the images by key, waiting a second before each, then open them from the gallery."""
    gallery = f"{address.partition('/#')[0]}/images?folder={FOLDER}&sort=name"
    tab.goto(gallery)
    tab.evaluate(WATCH)
    by_click = [_spent(tab, tab.locator(".card a").first.click)]
    by_key = []
    while tab.locator(".heading a[rel=next]").count():
        tab.wait_for_timeout(1000)  # a glance at the image
        by_key.append(_spent(tab, lambda: tab.keyboard.press("n")))
    count = len(by_key) + 1
    for place in range(1, count):
        tab.goto(gallery)
        tab.locator(".card a").nth(place).wait_for()
        tab.evaluate(WATCH)
        by_click.append(_spent(tab, tab.locator(".card a").nth(place).click))
    return {"next_by_key_ms": _summary(by_key), "opened_from_gallery_ms": _summary(by_click)}


def _large(tab: Page, address: str, key: str, restart: Any) -> dict[str, Any]:
    """Open the large page in a server that has not decoded it, and again."""
    first: list[float] = []
    again: list[float] = []
    for _ in range(3):
        restart()
        for spent in (first, again):
            tab.goto(f"{address.partition('/#')[0]}/images?find={key}")
            tab.locator(".card a").first.wait_for()
            tab.evaluate(WATCH)
            spent.append(_spent(tab, tab.locator(".card a").first.click))
    return {"large_first_ms": _summary(first), "large_again_ms": _summary(again)}


def _spent(tab: Page, act: Any) -> float:
    """Act, and return the milliseconds until the image and its mask are on the screen."""
    act()
    tab.wait_for_selector("html[data-spent]")
    return float(tab.evaluate("document.documentElement.dataset.spent"))


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"median": round(median(values)), "worst": round(max(values)), "count": len(values)}


def _send(stack: EmulatedStack, images: int, *, large: bool) -> list[str]:
    """Upload the images that are not there yet, and wait for their masks; return their keys."""
    s3, bucket = stack.client("s3"), stack.outputs["InputBucketName"]
    wanted = {f"{FOLDER}/{number:03d}.tif": number for number in range(images)}
    keys = list(wanted) + ([f"{FOLDER} large/scan.tif"] if large else [])
    present = {each["Key"] for each in s3.list_objects_v2(Bucket=bucket, Prefix=FOLDER).get("Contents", [])}
    for key in keys:
        if key not in present:
            s3.put_object(Bucket=bucket, Key=key, Body=_image(wanted.get(key)))
    table = stack.client("dynamodb"), stack.outputs["JobsTableName"]
    deadline = time.monotonic() + MADE_SECONDS
    while missing := set(keys) - _masked(*table, bucket):
        if time.monotonic() > deadline:
            raise SystemExit(f"no mask of {sorted(missing)} in {MADE_SECONDS} s")
        time.sleep(2)
    return keys


def _masked(dynamodb: Any, table: str, bucket: str) -> set[str]:
    """Find the keys of images that have a mask."""
    pages = dynamodb.get_paginator("scan").paginate(
        TableName=table, ProjectionExpression="image, mask", ConsistentRead=True
    )
    rows = [row for page in pages for row in page["Items"] if "mask" in row and "image" in row]
    return {row["image"]["S"].removeprefix(f"s3://{bucket}/") for row in rows}


def _image(number: int | None) -> bytes:
    """Make an image like LIVECell's, or the large page, as TIFF."""
    file = io.BytesIO()
    if number is not None:
        pixels = (phase_contrast_field(number, *SIDES).pixels >> 8).astype(np.uint8)
        tifffile.imwrite(file, pixels, compression="lzw")
    else:
        pattern = (phase_contrast_field(0, PATTERN, PATTERN).pixels >> 8).astype(np.uint8)
        pixels = np.tile(pattern, (LARGE // PATTERN, LARGE // PATTERN))
        tifffile.imwrite(file, pixels, compression="lzw", tile=(512, 512))
    return file.getvalue()


@contextmanager
def _stack(endpoint: str | None) -> Iterator[EmulatedStack]:
    if endpoint is None:
        with tempfile.TemporaryDirectory() as folder, emulated_stack(Path(folder)) as running:
            yield running
        return
    stack = Stack.connect("cytomask", endpoint)
    outputs = {"InputBucketName": stack.input_bucket, "JobsTableName": stack.table}
    yield EmulatedStack(endpoint, outputs, Path(os.devnull))


@contextmanager
def _served(stack: EmulatedStack) -> Iterator[tuple[str, Any]]:
    """Serve the page; yield its address, and what starts the server anew with nothing in memory."""
    account = account_of(Stack.connect("cytomask", stack.endpoint), stack.endpoint)
    with listen(0) as listener:
        session = Session(listener.getsockname()[1])
        running: list[Any] = []

        def start() -> None:
            server = make_server(account, session)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener.dup()]}, daemon=True)
            thread.start()
            running.append((server, thread))

        def stop() -> None:
            server, thread = running.pop()
            server.should_exit = server.force_exit = True
            thread.join()

        def restart() -> None:
            stop()
            start()

        start()
        try:
            yield address_of(session), restart
        finally:
            stop()


if __name__ == "__main__":
    sys.exit(main())
