"""Find the wells in a grid that has a plate's form, as a spreadsheet writes it. Pure: cells in, wells out.

Row letters and column numbers decide where they are given. A grid without both must have the whole form of a
plate. A grid that fits two readings is refused: a condition in the wrong well is worse than no map.
"""

import re
from collections.abc import Sequence
from itertools import pairwise, product
from typing import NoReturn

from cytomask.errors import InvalidPlateMap
from cytomask.wells import FORMATS, MOST_COLUMNS, MOST_ROWS, parse_well, smallest_format, well_name

Line = tuple[int, list[str]]  # its number in the file, and its cells
FEWEST_NUMBERS = 2  # a single number may be anything
MOST_SPACERS = 2  # empty rows or columns that may separate a grid from the sheet's edge
LABELLED = "write the column numbers above the grid, below an empty corner, and a row letter before each row"
FORMS = ", ".join(f"{down} x {across}" for down, across in FORMATS.values())


def read_grid(lines: Sequence[Line], name: str) -> tuple[dict[str, str], int | None]:
    """Read a grid of conditions, with row letters and column numbers around it or without.

    Args:
        lines: the table without blank lines; lines of empty cells count as rows.
        name: what to call the map in errors.

    Returns:
        The text of each well that has one, by the well's name; the number of the plate's wells, or None if
        the labels do not tell it.

    Raises:
        InvalidPlateMap: it has not the form of a plate, or fits several readings.
    """
    first = next((index for index, (_, cells) in enumerate(lines) if _count(cells) > 1), 0)
    head = lines[first][1]
    if is_numbers(head):
        if not head[0] and not any(cells[0] for _, cells in lines[first:]):
            return _without_letters([cells[1:] for _, cells in lines[first:]], name)
        if _column(head[0]):
            return _without_letters([cells for _, cells in lines[first:]], name)
        return _labelled(lines, first, name), None
    rows = [cells for _, cells in lines]
    return _without_numbers(rows, name) if _has_letters(rows) else _bare(rows, name)


def is_numbers(cells: Sequence[str]) -> bool:
    """Tell whether a line can hold the column numbers: 1, 2, 3, … with or without a corner.

    Below an empty corner the numbers may leave out columns. Otherwise they follow one another, and begin with
    1 if there is no corner, so that doses are not taken for columns.
    """
    corner, *others = _trimmed(cells) or [""]
    numbers = [_column(cell) for cell in ([corner, *others] if _column(corner) else others)]
    if len(numbers) < FEWEST_NUMBERS or None in numbers or (_column(corner) or 1) != 1:
        return False
    return not corner or all((after or 0) - (before or 0) == 1 for before, after in pairwise(numbers))


def _labelled(lines: Sequence[Line], first: int, name: str) -> dict[str, str]:
    """Read a grid with row letters and column numbers, which may leave out rows and columns."""
    number, head = lines[first]
    columns = [_column(cell) for cell in head[1:]]
    named = [column for column in columns if column]
    if named != sorted(set(named)):
        raise InvalidPlateMap(
            f"line {number} of {name} has the column numbers {', '.join(map(str, named))}, which do not "
            "ascend; correct them"
        )
    rows: dict[str, Line] = {}
    for number, cells in lines[first + 1 :]:
        if not any(cells):
            continue
        letter = cells[0].upper()
        if not _is_letter(cells[0]):
            raise InvalidPlateMap(
                f"line {number} of {name} begins with {cells[0][:40]!r} instead of a row letter; {LABELLED}, "
                "and nothing below the grid"
            )
        if letter in rows:
            raise InvalidPlateMap(f"{name} has two rows {letter}, the second in line {number}; leave one")
        rows[letter] = number, cells[1:]
    form = _form([cells for _, cells in lines[first:]])
    labels = [well for letter in rows for column in named if (well := parse_well(f"{letter}{column}"))]
    if form and (head[0] not in ("", "<>") or smallest_format(labels) > form):
        _refuse_two_readings(name)
    wells = {}
    for letter, (number, cells) in rows.items():
        for index, cell in enumerate(cells):
            column = columns[index] if index < len(columns) else None
            if cell and column is None:
                raise InvalidPlateMap(
                    f"line {number} of {name} has {cell[:40]!r} in a column without a number; {LABELLED}"
                )
            if cell:
                wells[f"{parse_well(f'{letter}{column}')}"] = cell
    return wells


def _without_letters(lines: Sequence[Sequence[str]], name: str) -> tuple[dict[str, str], int]:
    """Read a grid with column numbers only: its rows must be all those of the plate."""
    head, rows = _trimmed(lines[0]), lines[1:]
    size = next((size for size, (_, across) in FORMATS.items() if across == len(head)), None)
    if size is None or _column(head[0]) != 1 or not _fills(rows, size):
        raise InvalidPlateMap(
            f"{name} has column numbers but no row letters, and not the form of a plate ({FORMS}): it has "
            f"{len(rows)} rows of {len(head)}; {LABELLED}"
        )
    if _form(lines) or _has_letters(rows) or _may_be_shifted(rows, size):
        _refuse_two_readings(name)
    return _wells(rows), size


def _without_numbers(lines: Sequence[Sequence[str]], name: str) -> tuple[dict[str, str], int]:
    """Read a grid with row letters only: its rows and columns must be all those of the plate."""
    rows = [cells for cells in lines if _is_letter(cells[0])]
    width = max(len(_trimmed(cells)) for cells in rows) - 1
    size = next((size for size, form in FORMATS.items() if form == (len(rows), width)), None)
    if size is None or rows[0][0].upper() != "A":
        raise InvalidPlateMap(
            f"{name} seems to have row letters but no column numbers, and not the form of a plate ({FORMS}): "
            f"it has {len(rows)} rows of {width}; {LABELLED}"
        )
    return _wells([cells[1:] for cells in rows]), size


def _bare(rows: Sequence[Sequence[str]], name: str) -> tuple[dict[str, str], int]:
    """Read a grid without labels, which must have the whole form of a plate, empty rows included."""
    size = _form(rows)
    if size is None:
        raise InvalidPlateMap(
            f"{name} has neither a column `well` nor the form of a plate: it has {len(rows)} rows of "
            f"{max(map(len, rows))}, and plates have {FORMS}; write lines such as `A1,DMSO` below "
            f"`well,condition`, or {LABELLED}"
        )
    title = _count(next(filter(any, rows), [])) == 1
    if title or _may_be_shifted(rows, size):
        _refuse_two_readings(name)
    return _wells(rows), size


def _refuse_two_readings(name: str) -> NoReturn:
    raise InvalidPlateMap(
        f"{name} can be read in two ways, with labels or a title around the grid or without; {LABELLED}, or "
        "write lines such as `A1,DMSO` below `well,condition`"
    )


def _form(rows: Sequence[Sequence[str]]) -> int | None:
    """Return the wells of the plate that these cells have the form of; None if they have none."""
    fits = [size for size in FORMATS if _fills(rows, size)]
    return next((size for size in fits if _shape(rows) == FORMATS[size]), max(fits, default=None))


def _fills(rows: Sequence[Sequence[str]], size: int) -> bool:
    """Tell whether cells have a plate's form; empty rows and columns may follow it."""
    down, across = FORMATS[size]
    height, width = _shape(rows)
    last = max((index for index, cells in enumerate(rows, 1) if any(cells)), default=0)
    most = max((len(_trimmed(cells)) for cells in rows), default=0)
    return last <= down <= height and most <= across <= width


def _may_be_shifted(rows: Sequence[Sequence[str]], size: int) -> bool:
    """Tell whether empty rows or columns before the content may be no part of the plate.

    They are part of it if empty ones at the end are written too: a spreadsheet leaves those out, and then a
    grid that begins below the sheet's first row can have a plate's form by accident.
    """
    top = next((index for index, cells in enumerate(rows) if any(cells)), 0)
    left = min((index for cells in rows for index, cell in enumerate(cells) if cell), default=0)
    if not (top or left):
        return False
    cut = bool(top and any(rows[-1])) or bool(left and max(map(len, map(_trimmed, rows))) == _shape(rows)[1])
    others = product(range(min(top, MOST_SPACERS) + 1), range(min(left, MOST_SPACERS) + 1))
    return (
        cut
        or _shape(rows) != FORMATS[size]
        or any(
            _is_nearly_whole([cells[column:] for cells in rows[row:]])
            for row, column in others
            if row or column
        )
    )


def _is_nearly_whole(rows: Sequence[Sequence[str]]) -> bool:
    """Tell whether cells have a plate's form, with at most one empty row and column after it."""
    height, width = _shape(rows)
    return any(
        _fills(rows, size) and height - down < MOST_SPACERS and width - across < MOST_SPACERS
        for size, (down, across) in FORMATS.items()
    )


def _shape(rows: Sequence[Sequence[str]]) -> tuple[int, int]:
    return len(rows), max(map(len, rows), default=0)


def _wells(rows: Sequence[Sequence[str]]) -> dict[str, str]:
    return {
        well_name(row, column): cell
        for row, cells in enumerate(rows)
        for column, cell in enumerate(cells)
        if cell
    }


def _has_letters(rows: Sequence[Sequence[str]]) -> bool:
    """Tell whether rows seem to begin with row letters; a title may stand above them."""
    begin = next((index for index, cells in enumerate(rows) if _is_letter(cells[0])), None)
    if begin is None or any(_count(cells) > 1 for cells in rows[:begin]):
        return False
    told = [cells[0].upper() for cells in rows[begin:] if any(cells)]
    letters = [well_name(row, 0)[:-2] for row in range(MOST_ROWS)]
    start = letters.index(told[0])
    return len(told) > 1 and told == letters[start : start + len(told)]


def _is_letter(text: str) -> bool:
    return text.isalpha() and parse_well(f"{text}1") is not None


def _column(cell: str) -> int | None:
    """Read a column's number, as `2`, `02` or a spreadsheet's `2.0`; None for anything else."""
    match = re.fullmatch(r"0?([0-9]{1,2})(\.0)?", cell)
    return int(match[1]) if match and 1 <= int(match[1]) <= MOST_COLUMNS else None


def _count(cells: Sequence[str]) -> int:
    return sum(map(bool, cells))


def _trimmed(cells: Sequence[str]) -> list[str]:
    """Return the cells without the empty ones at the end."""
    return list(cells[: max((index for index, cell in enumerate(cells, 1) if cell), default=0)])
