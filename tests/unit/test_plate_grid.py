"""Grids of conditions: each condition is in its own well, or the map is refused."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytomask.errors import InvalidPlateMap
from cytomask.platemap import parse_plate_map
from cytomask.wells import FORMATS, well_name, well_position

# Conditions that look like labels of the grid, and empty wells.
TEXTS = st.sampled_from(["", "", "DMSO", "KO", "NT", "A", "B", "C", "x", "y", "1", "2", "3", "10", "0,5"])


def conditions(text: str) -> dict[str, str]:
    found = parse_plate_map(text.encode(), "map.csv").wells
    return {well: mapped.condition for well, mapped in found.items()}


def rows_of(down: int, across: int, corner: str | None = "") -> list[list[str]]:
    """A grid with the well's own name in each cell; with labels unless `corner` is None."""
    rows = [[well_name(row, column) for column in range(across)] for row in range(down)]
    if corner is None:
        return rows
    letters = [well_name(row, 0)[:-2] for row in range(down)]
    return [
        [corner, *map(str, range(1, across + 1))],
        *([letter, *row] for letter, row in zip(letters, rows, strict=True)),
    ]


def written(rows: list[list[str]], delimiter: str = ",", before: str = "") -> str:
    return before + "\n".join(delimiter.join(row) for row in rows) + "\n"


def in_its_own_well(text: str) -> bool:
    found = conditions(text)
    return all(well == condition for well, condition in found.items())


@dataclass(frozen=True)
class Drawn:
    """A grid as somebody wrote it, and what it means."""

    text: str
    wells: dict[str, str]


@st.composite
def grids(draw: st.DrawFn) -> Drawn:
    """Draw a plate's conditions, the labels around them, and what spreadsheets add to or cut from a grid."""
    down, across = draw(st.sampled_from([FORMATS[6], FORMATS[12], FORMATS[24]]))
    cells = [[draw(TEXTS) for _ in range(across)] for _ in range(down)]
    if draw(st.booleans()):  # as on plates whose edge is empty
        cells[0], cells[-1] = [""] * across, [""] * across
    wells = {
        well_name(row, column): cell
        for row, line in enumerate(cells)
        for column, cell in enumerate(line)
        if cell
    }
    letters, numbers = draw(st.booleans()), draw(st.booleans())
    rows = [list(line) for line in cells]
    if letters:
        rows = [[well_name(row, 0)[:-2], *line] for row, line in enumerate(rows)]
    if numbers:
        corner = [draw(st.sampled_from(["", "<>", "plate 1", "x"]))] if letters else []
        rows = [[*corner, *map(str, range(1, across + 1))], *rows]
    if letters and numbers:  # labels may leave out the plate's edge
        top, left = draw(st.integers(0, down - 1)), draw(st.integers(0, across - 2))
        rows = [[row[0], *row[1 + left :]] for row in (rows[0], *rows[1 + top :])]
        wells = {well: cell for well, cell in wells.items() if _is_below(well, top, left)}
    if draw(st.booleans()):
        rows = _cut(rows)
    else:
        rows = [[*line, *[""] * draw(st.integers(0, 1))] for line in rows]
        rows += [[""] * len(rows[0])] * draw(st.integers(0, 1))
    title = draw(st.sampled_from([[], ["My plate"], ["", "My plate"], [""]]))
    if title:
        rows = [[*title, *[""] * (len(rows[0]) - len(title))], *rows]
    return Drawn(written(rows, draw(st.sampled_from(";\t"))), wells)


def _is_below(well: str, top: int, left: int) -> bool:
    row, column = well_position(well)
    return row >= top and column >= left


def _cut(rows: list[list[str]]) -> list[list[str]]:
    """Leave out the empty rows and columns at the end, as a spreadsheet does."""
    while len(rows) > 1 and not any(rows[-1]):
        rows = rows[:-1]
    width = max(1, *(max((at for at, cell in enumerate(row, 1) if cell), default=0) for row in rows))
    return [row[:width] for row in rows]


@given(grids())
def test_a_grid_is_read_as_it_was_meant_or_refused(drawn: Drawn) -> None:
    try:
        found = conditions(drawn.text)
    except InvalidPlateMap:
        return
    assert found == drawn.wells


@pytest.mark.parametrize(("down", "across"), FORMATS.values())
@pytest.mark.parametrize("letters", [True, False])
@pytest.mark.parametrize("numbers", [True, False])
def test_a_whole_grid_is_read_with_or_without_letters_and_numbers(
    down: int, across: int, letters: bool, numbers: bool
) -> None:
    rows = rows_of(down, across)[0 if numbers else 1 :]
    text = written([row[0 if letters else 1 :] for row in rows])
    assert in_its_own_well(text)
    assert len(conditions(text)) == down * across


@pytest.mark.parametrize("corner", ["<>", "plate 7", "Well"])
@pytest.mark.parametrize(
    "before", ["", "My plate\n", "My plate,,,,,,,,,,,,\n,,,,,,,,,,,,\n", "\n", "sep=,\n"]
)
def test_a_corner_and_a_title_are_no_conditions(corner: str, before: str) -> None:
    text = written(rows_of(8, 12, corner), before=before)
    assert in_its_own_well(text)
    assert len(conditions(text)) == 96


def test_column_numbers_count_as_they_are_written() -> None:
    inner = [[line[0], *line[2:12]] for line in rows_of(8, 12)]
    text = written([inner[0], *inner[2:8]])
    assert in_its_own_well(text)
    assert len(conditions(text)) == 60


def test_a_column_may_be_left_out() -> None:
    text = written([[*line[:3], *line[4:]] for line in rows_of(8, 12)])
    assert in_its_own_well(text)
    assert "A03" not in conditions(text)


def test_conditions_of_one_or_two_letters_are_no_row_letters() -> None:
    half = ["A"] * 6 + ["B"] * 6
    assert conditions(written([half] * 8))["H12"] == "B"
    assert conditions("x,y,z\nx,y,z\n") == dict(
        zip(["A01", "A02", "A03", "B01", "B02", "B03"], "xyzxyz", strict=True)
    )
    assert conditions("NT,NT,NT\nKO,KO,KO\n")["B03"] == "KO"


def test_empty_rows_and_columns_count() -> None:
    rows = rows_of(8, 12, None)
    for row in rows:
        row[0] = row[11] = ""
    rows[0] = rows[7] = [""] * 12
    text = written(rows)
    assert in_its_own_well(text)
    assert len(conditions(text)) == 60


@pytest.mark.parametrize("labels", [None, ""])
def test_a_comma_at_the_end_of_each_line_adds_no_column(labels: str | None) -> None:
    text = written([[*row, ""] for row in rows_of(8, 12, labels)])
    assert in_its_own_well(text)
    assert len(conditions(text)) == 96


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("A,x,y\nB,x,y\n", "it has 2 rows of 2"),
        ("1,2,3\nA,x,y\nB,x,y\n", "can be read in two ways"),
        ("1,2,3\n4,5,6\n", "column numbers but no row letters"),
        (",1,2,3\nA,x,y,z\nA,x,y,z\n", "has two rows A, the second in line 3"),
        (
            ",1,1,3\nA,x,y,z\nB,x,y,z\n",
            "line 1 of map.csv has the column numbers ., 1, 3, which do not ascend",
        ),
        (",1,2\nA,x,y,z\n", "line 2 of map.csv has 'z' in a column without a number"),
        (",1,2,3\nA,x,y,z\nrow B,x,y,z\n", "line 3 of map.csv begins with 'row B' instead of a row letter"),
        (",1,2,3\nA,x,y,z\n\nnotes: none\n", "line 4 of map.csv begins with 'notes: none'"),
        (
            ",2,1,3\nA,x,y,z\nC,x,y,z\n",
            "line 1 of map.csv has the column numbers ., 1, 3, which do not ascend",
        ),
        ("My plate,,\nx,y,z\n", "can be read in two ways"),
        (",x,y,\n,x,y,\n", "can be read in two ways"),
        (",10,30\nx,10,30\n", "can be read in two ways"),
        ("ctl,1,2\nA,1,2\n", "can be read in two ways"),
    ],
)
def test_a_doubtful_grid_is_refused_with_a_way_to_write_it(text: str, sentence: str) -> None:
    with pytest.raises(InvalidPlateMap, match=sentence):
        conditions(text)


def test_the_form_of_a_grid_tells_the_plates_size_and_labels_do_not() -> None:
    assert parse_plate_map(written(rows_of(8, 12, None)).encode(), "x").states_size
    assert not parse_plate_map(written(rows_of(8, 12)).encode(), "x").states_size
