"""Wells and plates: one name for each well (`B02`), and the formats that are sold, from 6 to 1,536 wells."""

import re
from collections.abc import Iterable

# Rows and columns of the plates that are sold.
FORMATS = {6: (2, 3), 12: (3, 4), 24: (4, 6), 48: (6, 8), 96: (8, 12), 384: (16, 24), 1536: (32, 48)}
MOST_ROWS, MOST_COLUMNS = FORMATS[1536]


def parse_well(text: str) -> str | None:
    """Return a well's name as `B02`; None if the text does not name a well of up to 1,536.

    `B2`, `B02`, `b2` and `B002` are one well.
    """
    match = WELL_NAME.fullmatch(text.strip())
    if match is None:
        return None
    row, column = _row_number(match[1]), int(match[2])
    return well_name(row, column - 1) if row < MOST_ROWS and 1 <= column <= MOST_COLUMNS else None


def well_name(row: int, column: int) -> str:
    """Return the name of the well in this row and column, both counted from 0."""
    letters = chr(65 + row) if row < 26 else f"A{chr(65 + row - 26)}"
    return f"{letters}{column + 1:02d}"


def well_position(well: str) -> tuple[int, int]:
    """Return row and column, counted from 0, of a well named as `parse_well` does."""
    letters = well.rstrip("0123456789")
    return _row_number(letters), int(well[len(letters) :]) - 1


def smallest_format(wells: Iterable[str]) -> int:
    """Return the smallest plate (6, 12, 24, 48, 96, 384 or 1,536 wells) that holds all these wells."""
    positions = [well_position(well) for well in wells]
    rows = max((row for row, _ in positions), default=0) + 1
    columns = max((column for _, column in positions), default=0) + 1
    return next(size for size, (down, across) in FORMATS.items() if rows <= down and columns <= across)


WELL_NAME = re.compile(r"([A-Za-z]{1,2})0{0,2}([0-9]{1,2})")


def _row_number(letters: str) -> int:
    """Return the row, counted from 0: A is 0, Z is 25, AA is 26."""
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - 64
    return number - 1
