"""Read times from a file's metadata (OME's, ImageJ's, TIFF's) for names without one.

Fields as the OME schema (2016-06: `AcquisitionDate`, `Pixels` with `SizeT` and `TimeIncrement`, `Plane` with
`TheT` and `DeltaT`), ImageJ's TIFF description (`frames`, `finterval`) and TIFF's tag 306 (`DateTime`) have
them. Pure: text in, times out.
"""

import re
from collections.abc import Sequence

import msgspec

from cytomask.acquisition import Acquisition, add_hours, from_metadata, hours_between
from cytomask.errors import UnreadableImage
from cytomask.images.ome_xml import LONGEST_DESCRIPTION, describe, interval, is_ome

IMAGEJ = re.compile(r"^(frames|finterval|tunit|slices|channels)=([^\n]{1,30})$", re.MULTILINE)


def page_times(description: str, tiff_date: str | None, pages: int) -> Sequence[Acquisition]:
    """Return the time of each page of a file, as far as its metadata tells.

    Args:
        description: of the file's first page: OME-XML, ImageJ's lines, or anything else.
        tiff_date: TIFF's `DateTime`.
        pages: of the file.

    Returns:
        An Acquisition for each page, as far as it is known: `time` and, in a stack over time, `frame`.
    """
    text = description[:LONGEST_DESCRIPTION]
    if is_ome(text):
        return _of_ome(text, pages)
    if pages == 1:
        return [from_metadata(tiff_date, None, "tiff")]
    return _of_imagej(text, pages) if text.startswith("ImageJ=") else [Acquisition()] * pages


def place_pages(named: Acquisition, times: Sequence[Acquisition]) -> list[Acquisition]:
    """Return where and when each page of a file was taken.

    The name's time is that of the first page, and the metadata tells how much later the others are. Pages of
    a stack count as scans unless the name counts them, so that they have times as soon as their interval is
    given.

    Args:
        named: what the request or the file's name tells.
        times: what the metadata tells of each page, from `page_times`.
    """
    if len(times) == 1:
        return [named.filled_from(times[0])]
    return [_placed(named, times[0], own, page) for page, own in enumerate(times)]


def _placed(named: Acquisition, first: Acquisition, own: Acquisition, page: int) -> Acquisition:
    placed = named.filled_from(Acquisition(time=own.time, frame=page, sources=own.sources))
    if named.time is None or page == 0:
        return placed
    elapsed = hours_between(first.time, own.time)
    later = None if elapsed is None else add_hours(named.time, elapsed)
    sources = placed.sources if later is None else tuple(dict.fromkeys((*placed.sources, *own.sources)))
    return msgspec.structs.replace(placed, time=later, sources=sources)


def _of_ome(text: str, pages: int) -> Sequence[Acquisition]:
    try:
        found = describe(text, "the image")
    except UnreadableImage:  # its pages are judged elsewhere
        found = None
    if found is None or len(found.pictures) != 1:  # the text alone does not tell which page is of which image
        return [Acquisition()] * pages
    [picture] = found.pictures
    deltas: dict[int, float] = {}
    for (_, frame, _), delta in picture.deltas.items():
        deltas.setdefault(frame, delta)
    if pages == 1:
        return [from_metadata(picture.date, deltas.get(0), "ome")]
    if len(deltas) == pages:
        return [_framed(from_metadata(picture.date, deltas[frame], "ome"), frame) for frame in sorted(deltas)]
    if picture.lengths["T"] != pages:  # a stack of channels or planes
        return [Acquisition()] * pages
    return _series(picture.date, picture.increment, pages, "ome")


def _of_imagej(text: str, pages: int) -> Sequence[Acquisition]:
    told = {name: value.strip() for name, value in IMAGEJ.findall(text)}
    if told.get("frames") != str(pages):
        return [Acquisition()] * pages
    return _series(None, interval(told.get("finterval"), told.get("tunit", "sec")), pages, "imagej")


def _series(date: str | None, step: float | None, pages: int, source: str) -> Sequence[Acquisition]:
    """Return the frames of a stack over time; without a step, only the first has a time."""
    first = from_metadata(date, None if step is None else 0.0, source)
    later = [
        Acquisition() if step is None else from_metadata(date, frame * step, source)
        for frame in range(1, pages)
    ]
    return [_framed(each, frame) for frame, each in enumerate((first, *later))]


def _framed(acquisition: Acquisition, frame: int) -> Acquisition:
    return acquisition.filled_from(Acquisition(frame=frame))
