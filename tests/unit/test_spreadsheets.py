"""No cell of a table that cytomask writes runs as a formula."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytomask.spreadsheets import FORMULA, NUMBER, csv_line, guard


@pytest.mark.parametrize(
    "text", ["=1+1.tif", "+1+1", "-rf.tif", "-", "\n=1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' !A0'.tif"]
)
def test_a_formula_is_text(text: str) -> None:
    assert guard(text) == f"'{text}"


@pytest.mark.parametrize("value", ["a=1", "", None, -1, -0.5, "0.5", "-0.123", "+1", "-5e-05"])
def test_numbers_and_plain_text_stay_as_they_are(value: object) -> None:
    assert guard(value) == value


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_no_cell_of_a_csv_begins_a_formula(texts: list[str]) -> None:
    (cells,) = csv.reader(io.StringIO(csv_line(texts), newline=""))
    assert not [cell for cell in cells if cell.startswith(FORMULA) and not NUMBER.fullmatch(cell)]
    assert [cell.removeprefix("'") for cell in cells] == [text.removeprefix("'") for text in texts]
