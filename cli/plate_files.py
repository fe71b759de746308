"""Read plates from the tables of `cytomask segment` and `cytomask plate`, for notebooks."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from cytomask.cli.ledger import COLUMNS
from cytomask.cli.local_plate import read_pages
from cytomask.plate_pages import PlatePage
from cytomask.plates import build_report
from cytomask.well_growth import Growth

Line = Mapping[str, str]


def read_table(path: Path) -> dict[str, Growth]:
    """Read a CSV of pages, pool them by well and scan, and measure the growth of each well.

    Raises:
        ValueError: the file is not such a table, or its pages belong to no plate or to several.
        FileNotFoundError: there is no such file.
    """
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        lines = list(csv.DictReader(file))
    columns = set(lines[0]) if lines else set()
    if {"plate", "well", "time", "confluence"} <= columns:
        pages = list(_tidy(lines))
    elif set(COLUMNS) <= columns:
        pages = list(read_pages(lines, None, None))
    else:
        raise ValueError(f"{path} is not a table of pages, such as `cytomask segment --csv` writes")
    plates = sorted({page.plate for page in pages})
    if len(plates) != 1:
        raise ValueError(
            f"{path} has pages of {len(plates)} plates"
            + (f" ({', '.join(plates)}); write a table for each" if plates else "; no name tells a well")
        )
    return {name: well.growth for name, well in build_report(plates[0], pages).wells.items()}


def _tidy(lines: list[dict[str, str]]) -> Iterator[PlatePage]:
    """Yield the pages of a tidy table; their time is in `hours`, if that is filled in."""
    for line in lines:
        hours = line.get("hours") or line["time"]
        try:
            time: float | str | None = float(hours)
        except ValueError:
            time = hours or None
        yield PlatePage(
            plate=line["plate"],
            well=line["well"],
            site=line.get("site") or "",
            time=time,
            confluence=float(line["confluence"]) if line["confluence"] else None,
            quality=tuple((line.get("quality") or "").split()),
            image=line.get("image") or "",
        )
