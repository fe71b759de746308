"""The page of `cytomask demo`: every image with its mask, its overlay and its numbers, in one HTML file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cytomask import __version__, images
from cytomask.cli.files import count_of, write_whole
from cytomask.cli.html import render
from cytomask.cli.pictures import fitted, grey_page, png_uri
from cytomask.cli.tables import flags_text, number
from cytomask.records import EvaluationRow, JobRow

LONGEST_SIDE = 352  # pixels: half of LIVECell's images
MOST_PAGES = 120  # pages shown with pictures; each takes about 150 kB


@dataclass(frozen=True)
class ShownPage:
    """One page of an image: its confluence, its quality flags, and the files of its mask and overlay."""

    source: Path
    number: int
    channel: int | None
    confluence: float
    flags: str
    mask: Path
    overlay: Path


@dataclass(frozen=True)
class Shown:
    """One job of the demo.

    Attributes:
        name: the image's key, or the message.
        asked: the parameters that differ from the defaults.
        score: the evaluation's row, if the image was scored.
        reason: why the mask is missing; empty if it exists.
        pages: the pages that have a mask.
    """

    row: JobRow
    name: str
    asked: str
    score: EvaluationRow | None
    reason: str
    pages: Sequence[ShownPage]

    @property
    def flags(self) -> str:
        """The quality flags of the image with their numbers, separated by spaces."""
        return flags_text(self.row.quality, self.row.quality_values)


def write_page(path: Path, shown: Sequence[Shown]) -> Path:
    """Write the page and return its path; raise OSError if that fails."""
    cards = [card for each in shown for card in _cards(each)]
    html = render(
        "demo.html",
        title="What cytomask found",
        version=__version__,
        count=count_of(len(shown), "job"),
        jobs=[_numbers(each) for each in shown],
        cards=[card | {"pictures": _pictures(card["page"])} for card in cards[:MOST_PAGES]],
        more=max(len(cards) - MOST_PAGES, 0),
    )
    write_whole(path, html)
    return path


def _numbers(shown: Shown) -> dict[str, str]:
    row, score = shown.row, shown.score
    return {
        "image": shown.name,
        "asked": shown.asked,
        "status": row.status,
        "confluence": number(row.confluence),
        "true": number(score.true_confluence if score else None),
        "iou": number(score.iou if score else None),
        "dice": number(score.dice if score else None),
        "ms": number(row.milliseconds, 0),
        "reason": shown.reason,
        "flags": shown.flags,
    }


def _cards(shown: Shown) -> Iterator[dict[str, Any]]:
    for page in shown.pages:
        title, numbers = shown.name, _numbers(shown)
        numbers |= {"confluence": number(page.confluence), "flags": page.flags}
        if len(shown.pages) > 1:
            title += f", page {page.number}"
            numbers["iou"] = "-"  # the job has one score for all its pages
        yield {"title": title, "page": page, "job": numbers}


def _pictures(page: ShownPage) -> dict[str, str]:
    """Return small pictures of the page, its mask and its overlay."""
    pixels = images.read_page(page.source, page.number, page.channel).pixels
    found = {"page": png_uri(grey_page(pixels, LONGEST_SIDE))}
    for name, path in (("mask", page.mask), ("overlay", page.overlay)):
        with Image.open(path) as image:
            height, width = fitted((image.height, image.width), LONGEST_SIDE)
            found[name] = png_uri(np.asarray(image.resize((width, height), Image.Resampling.BOX)))
    return found
