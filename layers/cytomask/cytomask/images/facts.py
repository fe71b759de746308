"""Read which channel and moment a page shows, for the OME-TIFF of its mask."""

import re
from collections.abc import Sequence
from datetime import datetime

import tifffile

from cytomask.acquisition import Acquisition
from cytomask.images.pages import PlaneFacts
from cytomask.stack_times import LONGEST_DESCRIPTION, page_times

DATE_TIME = 306  # TIFF's tag
LONGEST_DATE = 100  # bytes: TIFF's own form takes 20
PIXELS_END = re.compile(r"</(?:\w{1,20}:)?Pixels>")
CHANNEL = re.compile(r"<(?:\w{1,20}:)?Channel\b([^<>]{0,2000})>")
NAME = re.compile(r'\bName\s*=\s*"([^"<>]{1,200})"')
ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&#181;": "µ", "&amp;": "&"}


def facts_of_tiff(
    description: str, tiff_date: str | None, index: int, pages: int, channel: int | None
) -> PlaneFacts:
    """Read what a TIFF tells of a page.

    Args:
        description: of the file's first page: OME-XML, ImageJ's lines, or anything else.
        tiff_date: TIFF's `DateTime`, from `date_of`.
        index: of the page, counted from 0.
        pages: of the file.
        channel: which was segmented; None for the only one, or for luma.
    """
    times = page_times(description, tiff_date, pages)
    return PlaneFacts(_channel_name(description, channel or 0), *_moment(times, index))


def date_of(page: tifffile.TiffPage) -> str | None:
    """Read TIFF's `DateTime`; None for anything but a short text, which is not even read."""
    tag = page.tags.get(DATE_TIME)
    if tag is None or tag.dtype != tifffile.DATATYPE.ASCII or tag.count > LONGEST_DATE:
        return None
    try:
        return str(tag.value)
    except Exception:  # a damaged tag is no reason to refuse the file
        return None


def _moment(times: Sequence[Acquisition], index: int) -> tuple[str | None, float | None]:
    """Return the first page's date and a page's seconds since then."""
    first, own = (times[0].time, times[index].time) if times else (None, None)
    if isinstance(first, str) and isinstance(own, str):
        since = datetime.fromisoformat(own) - datetime.fromisoformat(first)
        return first, since.total_seconds() if len(times) > 1 else None
    return None, own * 3600 if isinstance(own, float) else None


def _channel_name(description: str, channel: int) -> str | None:
    """Return the name of a channel of OME's first `Pixels`."""
    text = description[:LONGEST_DESCRIPTION]
    if "openmicroscopy.org" not in text[:4000]:
        return None
    end = PIXELS_END.search(text)
    for number, found in enumerate(CHANNEL.finditer(text, 0, end.start() if end else len(text))):
        if number == channel:
            name = NAME.search(found[1])
            return _unescaped(name[1]) if name else None
    return None


def _unescaped(text: str) -> str:
    for entity, character in ENTITIES.items():
        text = text.replace(entity, character)
    return text
