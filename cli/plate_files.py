"""Read plates from the tables of `cytomask segment` and `cytomask plate`, for notebooks."""

import csv
from collections.abc import Mapping
from pathlib import Path

from cytomask.acquisition import check_time, check_well
from cytomask.cli.ledger import COLUMNS
from cytomask.cli.local_plate import read_pages
from cytomask.errors import InvalidRequest
from cytomask.plate_pages import PlatePage
from cytomask.plates import build_report
from cytomask.well_growth import Growth

Line = Mapping[str, str]


def read_table(path: Path) -> dict[str, Growth]:
    """Read a CSV of pages, pool them by well and scan, and measure the growth of each well.

    Raises:
        ValueError: the file is not such a table, a cell of it cannot be read, or its pages belong to no plate
            or to several.
        FileNotFoundError: there is no such file.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a table of pages in it")
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        lines = list(csv.DictReader(file))
    columns = set(lines[0]) if lines else set()
    if {"plate", "well", "time", "confluence"} <= columns:
        pages = [_tidy(line, f"line {number} of {path}") for number, line in enumerate(lines, 2)]
    elif set(COLUMNS) <= columns:
        pages = list(read_pages(lines, None, None))
    else:
        raise ValueError(
            f"{path} is not a table of pages, such as `cytomask segment --csv` writes, with commas and "
            "decimal points"
        )
    plates = sorted({page.plate for page in pages})
    if len(plates) != 1:
        raise ValueError(
            f"{path} has pages of {len(plates)} plates"
            + (f" ({', '.join(plates)}); write a table for each" if plates else "; no name tells a well")
        )
    return {name: well.growth for name, well in build_report(plates[0], pages).wells.items()}


def _tidy(line: Line, where: str) -> PlatePage:
    """Return the page of a line of a tidy table; its time is in `hours`, if that is filled in."""
    time = line.get("hours") or line["time"]
    try:
        return PlatePage(
            plate=line["plate"],
            well=check_well(line["well"] or ""),
            site=line.get("site") or "",
            time=check_time(time) if time else None,
            confluence=_share(line["confluence"]) if line["confluence"] else None,
            quality=tuple((line.get("quality") or "").split()),
            pixels=int(line.get("pixels") or 0) or None,
            image=line.get("image") or "",
        )
    except (InvalidRequest, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"`confluence`: {text[:60]!r} is not a share from 0 to 1, such as 0.25 for 25 %")
    return share
