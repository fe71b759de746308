"""Compute the place of a job's row on its plate, and the pages that the row stands for. Pure functions."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard

import msgspec

from cytomask.acquisition import Acquisition, Pattern, read_acquisition
from cytomask.output_names import image_of_output, output_key
from cytomask.plate_pages import PlatePage
from cytomask.records import Acquired

Row = Mapping[str, Any]
PLACE = ("plate", "well", "site", "time", "frame", "cell_line", "channel")


def place_of(well: str, site: str | None, time: float | str | None, frame: int | None) -> str:
    """Return the index's sort key: well, time, site. It sorts a well's rows by time."""
    return f"{well}#{time_of(time, frame, exact=True)}#{site or ''}"


def time_of(time: float | str | None, frame: int | None, *, exact: bool = False) -> str:
    """Write a scan's time as text that sorts: hours in eight digits, a date, or the scan's number.

    If `exact`, dates keep their seconds; otherwise they count by the hour, because a scan of a plate takes
    minutes.
    """
    if isinstance(time, str):
        return time if exact else time[:13]
    if time is not None:
        return f"{time:012.4f}"
    return "" if frame is None else f"n{frame:08d}"


def read_time(text: str) -> float | str:
    """Read a scan's time as `time_of` wrote it: hours become a number, dates and scans' numbers stay text."""
    return text if is_date(text) or text.startswith("n") else float(text)


def is_date(time: float | str | None) -> TypeGuard[str]:
    """Tell a scan's date from its hours, as a number or as `time_of` wrote them, and from a scan's number."""
    return isinstance(time, str) and time[4:5] == "-"


def place_row(image: str, pattern: Pattern | None = None) -> dict[str, Any] | None:
    """Derive a row's plate attributes from the image's address; None if the address names no well.

    Args:
        image: the image's address, s3://bucket/key.
        pattern: a user's own naming scheme.
    """
    key = image.split("/", 3)[-1]
    return columns_of(read_acquisition(key, pattern))


def acquired_at(recorded: Acquired) -> Acquisition:
    """Return where and when a result or a row says that its image was taken."""
    told = {name: getattr(recorded, name) for name in PLACE}
    return Acquisition(**told, sources=tuple(filter(None, (recorded.placed_by or "").split(", "))))


def columns_of(found: Acquisition) -> dict[str, Any] | None:
    """Return the row's attributes for an image of a plate; None for any other image."""
    if found.plate is None or found.well is None:
        return None
    told = {
        "plate": found.plate,
        "well": found.well,
        "site": found.site,
        "time": found.time,
        "frame": found.frame,
        "channel": found.channel,
        "cell_line": found.cell_line,
        "place": place_of(found.well, found.site, found.time, found.frame),
        "placed_by": ", ".join(found.sources),
    }
    return {name: value for name, value in told.items() if value is not None}


def places_of(placed: Mapping[str, Any], pages: Iterable[int]) -> list[str]:
    """List the text for each page of an image that the well's set of places holds.

    Pages of two channels at one site and time are two pages.
    """
    time = time_of(placed.get("time"), integer(placed.get("frame")), exact=True)
    channel = f"#{placed['channel']}" if placed.get("channel") else ""
    return [f"{placed.get('site') or ''}#{time}#{page}{channel}" for page in pages]


def times_of(placed: Mapping[str, Any]) -> list[str]:
    """List the scan that an image belongs to, for its plate's set of scans; nothing if it has no time."""
    time = time_of(placed.get("time"), integer(placed.get("frame")))
    return [time] if time else []


def pages_of_row(row: Row) -> list[PlatePage]:
    """List the pages that a job's row stands for: one, or those of a stack."""
    whole = PlatePage(
        plate=row["plate"],
        well=row["well"],
        site=row.get("site", ""),
        time=row.get("time"),
        frame=integer(row.get("frame")),
        channel=row.get("channel"),
        confluence=row.get("confluence"),
        confluence_low=row.get("confluence_low"),
        confluence_high=row.get("confluence_high"),
        cell_area_mm2=row.get("cell_area_mm2"),
        quality=tuple(row.get("quality", ())),
        pixels=integer(row.get("pixels")),
        iou=row.get("iou"),
        model=row.get("model") or row.get("model_sha256"),
        mode=row.get("mode"),
        threshold=row.get("threshold"),
        cost_usd=row.get("estimated_cost_usd"),
        image=row.get("image", ""),
        mask=row.get("mask"),
        status=row["status"],
        error=row.get("error"),
        uploaded_at=row.get("uploaded_at") or row.get("made_at") or row.get("created_at", ""),
        source=row.get("placed_by", ""),
        job_id=row["job_id"],
    )
    series = row.get("series")
    if not series:
        return [whole]
    return [msgspec.structs.replace(whole, **_of_stack(page, len(series), whole)) for page in series]


def _of_stack(page: Row, count: int, whole: PlatePage) -> dict[str, Any]:
    """Return the fields in which a page of a stack differs from its image."""
    return {
        "page": int(page["page"]),
        "time": page.get("time"),
        "frame": int(page["page"]) if whole.frame is None else whole.frame,
        "confluence": page.get("confluence"),
        "confluence_low": page.get("confluence_low"),
        "confluence_high": page.get("confluence_high"),
        "cell_area_mm2": page.get("cell_area_mm2"),
        "quality": tuple(page.get("quality", ())),
        # Builds before 0.2 was released wrote each page's mask into the row.
        "mask": page.get("mask") or _mask_of(int(page["page"]), whole.mask),
        # The row counts the pixels of all pages.
        "pixels": None if whole.pixels is None else whole.pixels // count,
        "cost_usd": None if whole.cost_usd is None else whole.cost_usd / count,
    }


def _mask_of(page: int, first: str | None) -> str | None:
    """Return the address of a page's mask from the address of the first page's mask."""
    prefix = image_of_output(first or "")
    return prefix and output_key(prefix, "mask.png", page)


def plain(item: Mapping[str, Any]) -> dict[str, Any]:
    """Convert DynamoDB's typed attributes to plain values, numbers to floats; ten times as fast as boto3."""
    return {name: _plain(value) for name, value in item.items()}


def _plain(typed: Mapping[str, Any]) -> Any:
    ((kind, value),) = typed.items()
    match kind:
        case "N":
            return float(value)
        case "L":
            return [_plain(each) for each in value]
        case "M":
            return plain(value)
        case "NULL":
            return None
    return value


def integer(value: float | None) -> int | None:
    """Convert a number from DynamoDB, a float here, to an int."""
    return None if value is None else int(value)
