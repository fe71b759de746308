"""Names of wells, and the plate formats that hold them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytomask.wells import FORMATS, parse_well, smallest_format, well_name, well_position


@pytest.mark.parametrize("text", ["B2", "B02", "b2", "b02", "B002", " B2 "])
def test_a_well_has_one_name(text: str) -> None:
    assert parse_well(text) == "B02"


@given(st.integers(0, 31), st.integers(0, 47))
def test_position_and_name_are_each_others_inverse(row: int, column: int) -> None:
    name = well_name(row, column)
    assert well_position(name) == (row, column)
    assert parse_well(name) == name


def test_well_rows_continue_with_aa_after_z() -> None:
    assert well_name(26, 0) == "AA01"
    assert well_name(31, 47) == "AF48"
    assert parse_well("AG1") is None


@pytest.mark.parametrize("size", FORMATS)
def test_the_last_well_of_a_format_needs_that_format(size: int) -> None:
    rows, columns = FORMATS[size]
    assert smallest_format([well_name(rows - 1, columns - 1)]) == size


def test_a_plate_without_wells_has_the_smallest_format() -> None:
    assert smallest_format([]) == 6
