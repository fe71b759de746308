"""Read times from a file's metadata (OME's, ImageJ's, TIFF's) for names without one.

Fields as the OME schema (2016-06: `AcquisitionDate`, `Plane` with `TheT`, `DeltaT` and `DeltaTUnit`),
ImageJ's TIFF description (`frames`, `finterval`) and TIFF's tag 306 (`DateTime`) have them. Pure: text in,
times out.
"""

import re
from collections.abc import Sequence

from cytomask.acquisition import Acquisition, from_metadata

LONGEST_DESCRIPTION = 8 * 2**20  # characters, as the reader of images allows
DATE = re.compile(r"AcquisitionDate>\s*([0-9T:.+Z-]{10,40})\s*<")
PLANE = re.compile(r"<(?:\w{1,20}:)?Plane\s([^<>]{0,1000})>")
ATTRIBUTE = re.compile(r'(TheT|DeltaT|DeltaTUnit)\s*=\s*"([^"]{0,30})"')
UNITS = {  # seconds, and the names of OME's `UnitsTime` and of ImageJ's users
    1e-6: ("us", "µs", "μs", "usec", "microsecond", "microseconds"),
    1e-3: ("ms", "msec", "millisecond", "milliseconds"),
    1.0: ("s", "sec", "secs", "second", "seconds"),
    60.0: ("min", "mins", "minute", "minutes"),
    3600.0: ("h", "hr", "hrs", "hour", "hours"),
    86400.0: ("d", "day", "days"),
}
SECONDS = {name: seconds for seconds, names in UNITS.items() for name in names}
IMAGEJ = re.compile(r"^(frames|finterval|tunit|slices|channels)=([^\n]{1,30})$", re.MULTILINE)


def page_times(description: str, tiff_date: str | None, pages: int) -> Sequence[Acquisition]:
    """Return the time of each page of a file, as far as its metadata tells.

    Args:
        description: of the file's first page: OME-XML, ImageJ's lines, or anything else.
        tiff_date: TIFF's `DateTime`.
        pages: of the file.

    Returns:
        An Acquisition for each page, with `time` and, in a stack over time, `frame`; empty if nothing tells
        them.
    """
    text = description[:LONGEST_DESCRIPTION]
    if "openmicroscopy.org" in text[:4000]:
        return _of_ome(text, pages)
    if text.startswith("ImageJ=") and (found := _of_imagej(text, pages)):
        return found
    return [from_metadata(tiff_date, None, "tiff")] * pages if pages == 1 else [Acquisition()] * pages


def _of_ome(text: str, pages: int) -> Sequence[Acquisition]:
    match = DATE.search(text)
    date = match[1] if match else None
    deltas: dict[int, float] = {}
    for plane in PLANE.finditer(text):
        told = dict(ATTRIBUTE.findall(plane[1]))
        unit = SECONDS.get(told.get("DeltaTUnit", "s"))
        try:
            frame, delta = int(told["TheT"]), float(told["DeltaT"])
        except (KeyError, ValueError):
            continue
        if unit is not None:
            deltas.setdefault(frame, delta * unit)
    if pages == 1:
        return [from_metadata(date, deltas.get(0), "ome")]
    if len(deltas) != pages:  # a stack of channels or planes without a time for each page
        return [Acquisition()] * pages
    return [_framed(from_metadata(date, deltas[frame], "ome"), frame) for frame in sorted(deltas)]


def _of_imagej(text: str, pages: int) -> Sequence[Acquisition]:
    told = dict(IMAGEJ.findall(text))
    try:
        frames, interval = int(told["frames"]), float(told["finterval"])
    except (KeyError, ValueError):
        return []
    unit = SECONDS.get(told.get("tunit", "sec").strip())
    if frames != pages or unit is None or not 0 < interval < 1e9:
        return []
    return [_framed(from_metadata(None, frame * interval * unit, "imagej"), frame) for frame in range(frames)]


def _framed(acquisition: Acquisition, frame: int) -> Acquisition:
    return acquisition.filled_from(Acquisition(frame=frame))
