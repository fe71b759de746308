"""Draw film strips of a plate's wells: small pictures of pages with the outlines of their masks."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cytomask.cli.pictures import fitted, grey_page, share_of
from cytomask.cli.plate_page import Frame
from cytomask.images import OUTLINE
from cytomask.metrics import Mask
from cytomask.plate_pages import PlatePage
from cytomask.plates import PlateReport

MOST_BYTES = 5_000_000  # all pictures together, as text; the page has at most 8 MB
MOST_FRAMES = 8  # pictures of one well
LARGEST, SMALLEST = 220, 96  # pixels on the longer side
QUALITY = 60  # WebP quality: 2 to 6 kB a picture

Look = Callable[[PlatePage], tuple[NDArray[np.generic], Mask] | None]


def make_films(report: PlateReport, look: Look, most_bytes: int = MOST_BYTES) -> dict[str, list[Frame]]:
    """Draw the film strip of each well from its first site, evenly over time.

    Args:
        report: the plate's report.
        look: returns pixels (H, W) and mask (H, W) bool of a page; None if they are gone.
        most_bytes: limit for all pictures together. Wells with the most pages come first; when the limit is
            reached, the other wells get none.
    """
    chosen = choose(report)
    side = int(np.clip(LARGEST * (24 / max(len(chosen), 24)) ** 0.5, SMALLEST, LARGEST))
    films: dict[str, list[Frame]] = {}
    spent = 0
    for well, pages in chosen.items():
        frames = []
        for page in pages:
            seen = look(page)
            if seen is None:
                continue
            source, width, height = _picture(*seen, side)
            spent += len(source)
            frames.append(Frame(page.hours or 0.0, page.confluence or 0.0, width, height, source))
        if spent > most_bytes:
            break
        films[well] = frames
    return films


def choose(report: PlateReport) -> Mapping[str, Sequence[PlatePage]]:
    """Choose the pages of each well's first site to show."""
    by_well: dict[str, list[PlatePage]] = {}
    for page in report.pages:  # ordered by well, site and time
        own = by_well.setdefault(page.well, [])
        if not own or own[0].site == page.site:
            own.append(page)
    frames = max(min(MOST_FRAMES, 1200 // max(len(by_well), 1)), 2)
    return {
        well: [
            pages[index] for index in np.unique(np.linspace(0, len(pages) - 1, frames).round().astype(int))
        ]
        for well, pages in by_well.items()
    }


def _picture(pixels: NDArray[np.generic], mask: Mask, side: int) -> tuple[str, int, int]:
    """Draw the page with its mask's outline; return a data address, width and height, at most `side`."""
    grey = grey_page(pixels, side)
    inside = share_of(mask, side) >= 0.5
    edge = np.zeros(inside.shape, bool)
    edge[:, 1:] |= inside[:, 1:] != inside[:, :-1]
    edge[1:] |= inside[1:] != inside[:-1]
    colours = np.repeat(grey[:, :, None], 3, axis=2)
    colours[edge] = OUTLINE
    height, width = fitted(pixels.shape, side)
    stream = io.BytesIO()
    Image.fromarray(np.rint(colours).astype(np.uint8)).save(stream, "WEBP", quality=QUALITY, method=4)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}", width, height
