"""Read where and when an image was taken, from key or metadata: plate, well, site, channel and time.

Microscopes write all of this into file and folder names. The schemes of common instruments are in
`naming.py`; `Pattern` is a user's own scheme. Pure: nothing here opens a file.
"""

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import product
from typing import Any

import msgspec

from cytomask.errors import InvalidRequest
from cytomask.naming import PRESETS, last_folder
from cytomask.wells import parse_well

LONGEST_NAME = 128  # characters of a plate's name: it is a key in the table and a part of an address
LONGEST_SITE = 32  # characters: a site is a part of the index's key, which takes 1,024 bytes
MOST_HOURS = 1e6
MOST_SCANS = 10**10  # the longest number of Micro-Manager; DynamoDB holds numbers of 38 digits
LONGEST_PATTERN = 500  # characters
LONGEST_KEY = 1024  # bytes, S3's own limit
SECONDS_TO_CHECK, SECONDS_TO_MATCH = 0.2, 0.05  # of CPU time


class Acquisition(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where and when one image was taken, as far as it is known.

    Attributes:
        plate: name of the plate, at most 128 characters.
        well: row letters and two digits, `B02`.
        site: the field of view within the well. A crop or a plane of a stack follows after a dot: `1.3`.
        channel: the microscope's name for it: `Phase`, `Ph`, `1`.
        time: hours since the plate's first scan, or a date and time in ISO 8601 without a zone.
        frame: number of the scan, if names count scans instead of giving times.
        cell_line: cell line in a LIVECell-style name (`A172_Phase_C7_…`).
        sources: where the values come from: `request`, a preset's name, `pattern`, `ome`, `tiff`.
    """

    plate: str | None = None
    well: str | None = None
    site: str | None = None
    channel: str | None = None
    time: float | str | None = None
    frame: int | None = None
    cell_line: str | None = None
    sources: tuple[str, ...] = ()

    @property
    def placed(self) -> bool:
        """Whether plate and well are known, so that the image is part of a plate."""
        return self.plate is not None and self.well is not None

    def filled_from(self, other: "Acquisition") -> "Acquisition":
        """Return a copy with missing fields taken from `other`.

        `frame` and `time` may come from different places. Both are kept, because the frame still orders the
        scans.
        """
        changes = {
            name: value
            for name in ("plate", "well", "site", "channel", "time", "frame", "cell_line")
            if getattr(self, name) is None and (value := getattr(other, name)) is not None
        }
        if not changes:
            return self
        told = tuple(dict.fromkeys((*self.sources, *other.sources)))
        return msgspec.structs.replace(self, **changes, sources=told)


def read_acquisition(key: str, pattern: "Pattern | None" = None, path: str | None = None) -> Acquisition:
    """Read where and when an image was taken from its key or path.

    If the name has no plate, the folder is the plate.

    Args:
        key: S3 key or path; backslashes count as slashes.
        pattern: a user's own scheme, tried before the presets.
        path: the absolute path of a file whose key is relative: folders above may name plate and time.

    Returns:
        The values in the name; an empty Acquisition if it has none.
    """
    whole = (path or key).replace("\\", "/")[-LONGEST_KEY:]
    folder = last_folder(whole)
    if pattern is not None and (found := pattern.search(key.replace("\\", "/")[-LONGEST_KEY:])) is not None:
        told = _told("pattern", found, folder)
        if told is not None:
            return told
    stem = _without_suffix(whole)
    for name, expression, read in PRESETS:
        match = expression.search(stem)
        if match is not None and (told := _told(name, read(match), folder)) is not None:
            return told
    return Acquisition()


def check_plate(name: str) -> str:
    """Return a plate's name without surrounding space.

    Raises:
        InvalidRequest: it is empty, too long, `.` or `..`, or holds `/` or a control character.
    """
    name = name.strip()
    if not _names_plate(name):
        raise InvalidRequest(
            f"`plate`: {name[:60]!r} has {len(name)} characters; a plate's name takes 1 to {LONGEST_NAME} "
            "printable ones and no `/`, and is not `.` or `..`, because it is part of a web address"
        )
    return name


def _names_plate(name: str) -> bool:
    relative = name in (".", "..")  # browsers resolve them, however they are written
    return 0 < len(name) <= LONGEST_NAME and "/" not in name and not relative and name.isprintable()


def check_well(name: str) -> str:
    """Return a well's name as `B02`; raise InvalidRequest for anything else."""
    well = parse_well(name)
    if well is None:
        raise InvalidRequest(
            f"`well`: {name[:60]!r} is not a well of a plate; write A1 to AF48, such as B2 or B02"
        )
    return well


def check_time(time: float | str) -> float | str:
    """Return elapsed hours, or a date and time in ISO 8601; raises InvalidRequest."""
    if isinstance(time, str):
        if (hours := _elapsed(time)) is not None:
            return hours
        if (date := iso_date(time)) is not None:
            return date
    elif 0 <= time < MOST_HOURS:
        return float(time)
    raise InvalidRequest(
        f"`time`: {str(time)[:60]!r} is none of: hours since the first scan, 0 to 999,999; elapsed time as "
        "00d04h30m; a date and time as 2026-11-25T13:20"
    )


class Pattern:
    """A user's own naming scheme: a regular expression with named groups, searched for in the whole key.

    The `regex` package runs it, because unlike Python's `re` it can stop after a given CPU time: 0.05 s for a
    key. `(?P<well>…)` is required. Also read: `plate`, `site`, `channel`, `cell_line`, `frame`, `days`,
    `hours`, `minutes` (elapsed, added up) and `date` (ISO 8601, or IncuCyte's format).
    """

    GROUPS = frozenset(
        {"plate", "well", "site", "channel", "cell_line", "frame", "days", "hours", "minutes", "date"}
    )

    def __init__(self, text: str) -> None:
        """Compile and check a pattern.

        Raises:
            InvalidRequest: it is too long, is not a regular expression, lacks `well`, has an unknown group,
                or does not finish in time on names that are made to keep it busy.
        """
        # The import costs 12 ms and 4 MB, so only users with a pattern pay for it.
        import regex  # noqa: PLC0415

        if len(text) > LONGEST_PATTERN:
            raise InvalidRequest(f"the pattern has {len(text)} characters; it may have {LONGEST_PATTERN}")
        try:
            self._compiled: Any = regex.compile(text)
        except (regex.error, RecursionError, OverflowError) as error:
            raise InvalidRequest(f"the pattern is not a regular expression: {error}") from error
        groups = set(self._compiled.groupindex)
        if "well" not in groups:
            raise InvalidRequest(
                "the pattern has no group `well`, so it places no image; write the well's part as "
                "(?P<well>[A-H][0-9]+)"
            )
        if groups - self.GROUPS:
            raise InvalidRequest(
                f"the pattern has the unknown group {', '.join(sorted(groups - self.GROUPS))}; it may have "
                f"{', '.join(sorted(self.GROUPS))}"
            )
        self.text = text
        self._require_an_end()

    def search(self, key: str) -> dict[str, str] | None:
        """Return the text of each group found in a key; None if it does not match or takes too long."""
        try:
            match = self._compiled.search(key, timeout=SECONDS_TO_MATCH)
        except TimeoutError:
            return None
        return None if match is None else {name: text for name, text in match.groupdict().items() if text}

    def _require_an_end(self) -> None:
        """Try names that make badly backtracking patterns hang."""
        units, ends = ("a", "0", "_", "/", "A1_", "a/", "00d00h00m_"), ("!", ".tif!", "_B2.tif")
        for unit, end in product(units, ends):  # some engines give up early where a literal end is missing
            name = (unit * LONGEST_KEY)[: LONGEST_KEY - len(end)] + end
            try:
                self._compiled.search(name, timeout=SECONDS_TO_CHECK)
            except TimeoutError:
                raise InvalidRequest(
                    "the pattern takes too long on a long name: it repeats a repetition, such as (a+)+, or "
                    "has several `.*`; write what each part may hold, such as [^_/]+"
                ) from None


@lru_cache(maxsize=8)
def parse_pattern(text: str) -> Pattern:
    """Return the pattern of this text, checked; raises InvalidRequest."""
    return Pattern(text)


def iso_date(text: str) -> str | None:
    """Read a date and time as ISO 8601, TIFF or IncuCyte write it; None for anything else.

    Returns:
        `2026-11-25T13:20:00`, without a zone. A zone in the text is dropped: a plate's scans share one clock.
    """
    text = text.strip()
    match = INCUCYTE_DATE.fullmatch(text) or TIFF_DATE.fullmatch(text)
    if match is not None:
        text = "{}-{}-{}T{}:{}".format(*match.groups())
    try:
        return datetime.fromisoformat(text).replace(tzinfo=None, microsecond=0).isoformat()
    except ValueError:
        return None


def hours_between(first: float | str | None, later: float | str | None) -> float | None:
    """Return the hours from one time to another; None if one is unknown or they are of two kinds."""
    if isinstance(first, str) and isinstance(later, str):
        return (datetime.fromisoformat(later) - datetime.fromisoformat(first)).total_seconds() / 3600
    if isinstance(first, float) and isinstance(later, float):
        return later - first
    return None


def add_hours(time: float | str, hours: float) -> float | str | None:
    """Return the time so many hours later, in the same form; None after the year 9999."""
    if not isinstance(time, str):
        return time + hours
    try:
        return (datetime.fromisoformat(time) + timedelta(hours=hours)).isoformat(timespec="seconds")
    except OverflowError:
        return None


def from_metadata(date: str | None, delta_seconds: float | None, source: str) -> Acquisition:
    """Return the time that a file's own metadata tells.

    Args:
        date: OME's `AcquisitionDate` or TIFF's `DateTime`, as written.
        delta_seconds: OME's `DeltaT` of the plane: seconds since the date, or since the stack's beginning.
        source: `ome` or `tiff`.
    """
    when = iso_date(date) if date else None
    hours = None if delta_seconds is None else delta_seconds / 3600
    if hours is not None and not 0 <= hours < MOST_HOURS:
        return Acquisition()
    time = hours if when is None else add_hours(when, hours or 0.0)
    return Acquisition() if time is None else Acquisition(time=time, sources=(source,))


INCUCYTE_DATE = re.compile(r"(\d{4})y(\d{2})m(\d{2})d[_ T-]?(\d{2})h(\d{2})m")
TIFF_DATE = re.compile(r"(\d{4}):(\d{2}):(\d{2}) (\d{2}):(\d{2}(?::\d{2})?)")
COMPACT_DATE = re.compile(r"(\d{4})-?(\d{2})-?(\d{2})[T_ ]?(\d{2})[-:.]?(\d{2})(?:[-:.]?(\d{2}))?")
ELAPSED = re.compile(r"(?:(?P<days>\d{1,4})d)?(?P<hours>\d{1,4})h(?:(?P<minutes>\d{1,2})m)?")
HOURS = {"days": 24.0, "hours": 1.0, "minutes": 1 / 60}


def _told(source: str, found: Mapping[str, str | None], folder: str) -> Acquisition | None:
    """Return a scheme's findings in our own form; None if it found no well, time or scan.

    Args:
        source: name of the scheme.
        found: the text of each group. An empty `plate` means that the folder is not the plate either.
        folder: name of the folder.
    """
    raw_well = found.get("well")
    well = parse_well(raw_well) if raw_well else None
    if raw_well and well is None:
        return None  # such as row Z: another scheme may fit
    time, frame = _time(found), _frame(found)
    if well is None and time is None and frame is None:
        return None
    named = found.get("plate")
    plate = (folder if named is None else named).strip()
    channel = (found.get("channel") or "").strip() or None
    line = found.get("cell_line") or (
        plate if channel == "Phase" and source.startswith("incucyte_e") else None
    )
    return Acquisition(
        plate=plate if _names_plate(plate) else None,
        well=well,
        site=_site(found),
        channel=channel,
        time=time,
        frame=frame,
        cell_line=line or None,
        sources=(source,),
    )


def _time(found: Mapping[str, str | None]) -> float | str | None:
    """Return elapsed hours, or a date; None if the text is neither."""
    parts = {part: text for part in ("days", "hours", "minutes") if (text := found.get(part))}
    time: float | str | None = _added_up(parts) if parts else _elapsed(found.get("elapsed") or "")
    return iso_date(_spelt_out(found.get("date") or "")) if time is None else time


def _frame(found: Mapping[str, str | None]) -> int | None:
    frame = found.get("frame") or ""
    return int(frame) if frame.isdecimal() and int(frame) < MOST_SCANS else None


def _site(found: Mapping[str, str | None]) -> str | None:
    """Return the field's number without leading zeros, with its crop or plane if there are several."""
    site = found.get("site")
    if not site or len(site) > LONGEST_SITE:
        return None
    site = str(int(site)) if site.isdecimal() else site
    part = found.get("part")
    if part:
        return f"{site}.{int(part)}"
    plane = found.get("plane")
    return f"{site}.z{int(plane)}" if plane and int(plane) > 1 else site


def _elapsed(text: str) -> float | None:
    """Return hours of `01d04h30m`, or of a bare number; None for anything else."""
    match = ELAPSED.fullmatch(text)
    return _added_up(match.groupdict()) if match else _added_up({"hours": text})


def _added_up(parts: Mapping[str, str | None]) -> float | None:
    """Return hours from the text of `days`, `hours` and `minutes`; None if one of them is not a number."""
    try:
        hours = sum(
            float(text.replace(",", ".")) * HOURS[part] for part, text in parts.items() if text is not None
        )
    except ValueError:
        return None
    return hours if 0 <= hours < MOST_HOURS else None


def _spelt_out(date: str) -> str:
    """Write dates such as `20261125_1320` with all separators; return any other text as it is."""
    match = COMPACT_DATE.fullmatch(date)
    return "{}-{}-{}T{}:{}:{}".format(*match.groups("00")) if match else date


def _without_suffix(path: str) -> str:
    """Return the path without `.tif`, `.ome.tiff`, `.png` and the like."""
    return re.sub(r"(\.ome)?\.[a-z]{3,4}$", "", path, flags=re.IGNORECASE)
