"""Print tables on the terminal, and write CSV files that a spreadsheet cannot execute."""

import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cytomask.cli.console import printable, say
from cytomask.cli.files import write_whole
from cytomask.spreadsheets import csv_line

GAP = "  "
NARROWEST_LAST = 20  # least width of the last column, however narrow the terminal is


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[str] = ()) -> None:
    """Print rows under their heads; on a terminal the last column is cut to fit.

    Args:
        heads: heads of the columns.
        rows: rows with one text for each column.
        right: heads of the columns to align right.
    """
    cells = [[printable(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    to_the_right = {place for place, head in enumerate(heads) if head in set(right)}
    room = _room_for_last(widths)
    for row in cells:
        cut = [*row[:-1], _cut(row[-1], room)]
        padded = [
            _pad(cell, width, place in to_the_right)
            for place, (cell, width) in enumerate(zip(cut, widths, strict=True))
        ]
        say(GAP.join(padded).rstrip())


def flag_text(name: str, value: float) -> str:
    """Write a quality flag with its number, such as `UNCERTAIN=0.42`."""
    return f"{name}={value:.3g}"


def flags_text(names: Iterable[str], values: Mapping[str, float]) -> str:
    """Write quality flags with the numbers that are known, separated by spaces."""
    return " ".join(flag_text(name, values[name]) if name in values else name for name in names)


def number(value: Any, digits: int = 3) -> str:
    """Format a number with this many decimals; None becomes -."""
    return "-" if value is None else f"{value:.{digits}f}"


def csv_bytes(text: str) -> bytes:
    """Encode a CSV; file names that are not UTF-8 keep their bytes."""
    return text.encode("utf-8", "surrogateescape")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file atomically; raise OSError if that fails."""
    lines = [csv_line(columns), *(csv_line(row.get(name) for name in columns) for row in rows)]
    write_whole(path, csv_bytes("".join(lines)))


def _room_for_last(widths: Sequence[int]) -> int | None:
    if not sys.stdout.isatty():
        return None
    used = sum(widths[:-1]) + len(GAP) * (len(widths) - 1)
    return max(shutil.get_terminal_size().columns - used, NARROWEST_LAST)


def _cut(text: str, room: int | None) -> str:
    if room is None or _width(text) <= room:
        return text
    kept = text[:room]
    while _width(kept) >= room:
        kept = kept[:-1]
    return f"{kept}…"


def _pad(text: str, width: int, right: bool) -> str:
    spaces = " " * (width - _width(text))
    return spaces + text if right else text + spaces


def _width(text: str) -> int:
    """Return how many columns a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
