"""The plate of `cytomask demo`: send a small generated plate over time, and show the growth of its wells."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cytomask import images
from cytomask.addresses import parse_uri
from cytomask.cli.console import complain, say
from cytomask.cli.files import write_whole
from cytomask.cli.plate_film import make_films
from cytomask.cli.plate_page import hours, interval, render_plate
from cytomask.cli.tables import print_table
from cytomask.plate_pages import PlatePage
from cytomask.plate_rows import Plates, PlateSummary
from cytomask.plates import PlateReport, build_report
from cytomask.samples.plates import DEMO_PLATE, DEMO_WELLS, SamplePage, write_plate
from cytomask.storage import Storage

if TYPE_CHECKING:
    from cytomask.cli.plate_film import Look
    from cytomask.cli.stack import Stack

STALL_SECONDS, POLL_SECONDS = 120, 0.3
HEADS = ("well", "condition", "doubling time", "95 % interval", "true", "notes")


@dataclass(frozen=True)
class PlateSample:
    """The generated plate: its pages, and its plate map."""

    pages: Sequence[SamplePage]
    plate_map: Path


def make_plate(folder: Path) -> PlateSample:
    """Compute the plate; this takes a few seconds, while the stack starts."""
    pages = write_plate(folder)
    return PlateSample(pages, folder / DEMO_PLATE / "platemap.csv")


def show_plate(stack: "Stack", sample: PlateSample, out: Path) -> bool:
    """Send the plate, print its wells beside the truth and write its page; return whether all went well."""
    say()
    say(f"sending a plate: {len(DEMO_WELLS)} wells, {len(sample.pages)} pages, and its plate map ...")
    bucket = stack.input_bucket
    stack.s3.upload_file(str(sample.plate_map), bucket, f"{DEMO_PLATE}/{sample.plate_map.name}")
    for page in sample.pages:
        stack.s3.upload_file(str(page.image), bucket, page.key)
    plates = Plates(stack.dynamodb, stack.table)
    summary = wait_for_plate(plates, len(sample.pages))
    stored = plates.map_of(DEMO_PLATE)
    report = build_report(DEMO_PLATE, plates.pages(DEMO_PLATE), stored.plate_map if stored else None)
    _print(report)
    page_file = out / "plate.html"
    write_whole(page_file, render_plate(report, make_films(report, _look(stack, sample))))
    say()
    say(f"plate     {page_file.resolve().as_uri()}   <- its heat map, curves and film strips")
    complete = summary is not None and summary.completed_at is not None and summary.failed == 0
    if not complete:
        ended = 0 if summary is None else summary.pages
        complain(f"expected {len(sample.pages)} masks of the plate and found {ended}")
    return complete


def wait_for_plate(plates: Plates, pages: int) -> PlateSummary | None:
    """Wait until the plate is complete and all its pages can be read, or until it makes no more progress.

    A page is counted, and the plate is complete, a moment before the page's row is finished.
    """
    ended, last = 0, time.monotonic()
    while True:
        summary = plates.summary(DEMO_PLATE)
        masked = sum(page.confluence is not None for page in plates.pages(DEMO_PLATE))
        now = masked + (summary.failed if summary else 0)
        if now > ended:
            ended, last = now, time.monotonic()
        complete = summary is not None and summary.completed_at is not None
        if (ended >= pages and complete) or time.monotonic() - last > STALL_SECONDS:
            return summary
        time.sleep(POLL_SECONDS)


def _print(report: PlateReport) -> None:
    rows = []
    for name, sample in DEMO_WELLS.items():
        well = report.wells.get(name)
        if well is None:
            continue
        true = "dead" if sample.truth is None else f"{sample.truth.doubling_time_h:g} h"
        rows.append(
            (
                name,
                well.condition or "-",
                hours(well.growth.doubling_time_h),
                interval(well.growth),
                f"{true}, out of focus" if sample.out_of_focus else true,
                "; ".join(well.growth.notes),
            )
        )
    say()
    print_table(HEADS, rows, ("doubling time", "95 % interval"))
    for note in report.notes:
        say(note)


def _look(stack: "Stack", sample: PlateSample) -> "Look":
    """Make a function that reads pages from the disk and masks from the stack."""
    files = {f"s3://{stack.input_bucket}/{page.key}": page.image for page in sample.pages}
    storage = Storage(stack.s3)

    def look(page: PlatePage) -> object:
        place = parse_uri(page.mask or "", "mask")
        mask = storage.read_output(place.bucket, place.key)
        if mask is None:
            return None
        with images.open_image(mask, page.mask) as opened:
            cells = next(iter(images.read_pages(opened, [0], None, images.Limits()))).pixels > 0
        return images.read_page(files[page.image]).pixels, cells

    return look  # type: ignore[return-value]  # pixels of any dtype
