"""Held-out pages are whole wells or files, from hard to easy; few pages have none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytomask.acquisition import read_acquisition
from cytomask.training.splits import FEWEST, choose_held_out
from cytomask.truths.pairs import Page


def page(name: str, *, file: str = "", cells: bool = True) -> Page:
    return Page(
        name, file or name, np.zeros((4, 4), np.uint8), np.full((4, 4), cells), read_acquisition(name)
    )


def test_few_pages_are_all_learned_from() -> None:
    assert (
        choose_held_out([page(f"{place}.tif") for place in range(FEWEST - 1)], [0.5] * 4, [False] * 4) == []
    )


def test_one_in_five_is_held_out_from_hard_to_easy() -> None:
    pages = [page(f"{place}.tif") for place in range(10)]
    scores = [place / 10 for place in range(10)]
    assert choose_held_out(pages, scores, [False] * len(pages)) == [2, 7]
    assert choose_held_out(pages, scores[::-1], [False] * 10) == [2, 7]


def test_pages_of_a_well_stay_together() -> None:
    pages = [
        page(f"plate1/{well}_s{site}.tif") for well in ("B02", "B03", "C04", "C05") for site in (1, 2, 3)
    ]
    held_out = choose_held_out(pages, [0.0] * 12, [False] * 12)
    wells = {pages[place].acquisition.well for place in held_out}
    assert len(held_out) == 3
    assert len(wells) == 1
    assert {place for place, each in enumerate(pages) if each.acquisition.well in wells} == set(held_out)


def test_pages_of_a_stack_stay_together() -> None:
    pages = [page(f"{name} page {number}", file=name) for name in ("a", "b", "c", "d") for number in range(4)]
    held_out = choose_held_out(pages, [0.0] * 16, [False] * 16)
    assert len({pages[place].file for place in held_out}) == 1
    assert len(held_out) == 4


def test_the_only_page_with_cells_is_never_held_out() -> None:
    pages = [page(f"{place}.tif", cells=place == 2) for place in range(5)]
    assert choose_held_out(pages, [0.0, 0.1, 0.2, 0.3, 0.4], [False] * 5) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 40))
def test_some_pages_are_always_left_to_learn_from(scores: list[float], files: int) -> None:
    pages = [page(f"{place}", file=str(place % files)) for place in range(len(scores))]
    held_out = choose_held_out(pages, scores, [False] * len(pages))
    assert len(set(held_out)) == len(held_out) < len(pages)
    assert bool(held_out) == (len(pages) >= FEWEST)


def test_a_page_that_the_start_weights_learned_from_is_not_held_out() -> None:
    pages = [page(f"{place}.tif") for place in range(10)]
    learned = [place < 6 for place in range(10)]
    held_out = choose_held_out(pages, [0.5] * 10, learned)
    assert len(held_out) == 2
    assert not any(learned[place] for place in held_out)


def test_a_well_with_a_page_that_was_learned_from_is_not_held_out() -> None:
    pages = [page(f"plate1/{well}_s{site}.tif") for well in ("B02", "B03", "C04") for site in (1, 2)]
    held_out = choose_held_out(pages, [0.0] * 6, [True, False, False, False, False, False])
    assert {pages[place].acquisition.well for place in held_out} in ({"B03"}, {"C04"})


def test_new_wells_are_held_out_if_every_plate_has_a_page_that_was_learned_from() -> None:
    pages = [page(f"{plate}/{well}_s1.tif") for plate in ("p1", "p2", "p3") for well in ("B02", "B03", "C04")]
    learned = [each.acquisition.well == "B02" for each in pages]
    held_out = choose_held_out(pages, [0.0] * 9, learned)
    assert held_out
    assert not any(learned[place] for place in held_out)


@pytest.mark.parametrize("new", [0, 1])
def test_new_pages_are_learned_from_before_any_is_held_out(new: int) -> None:
    pages = [page(f"{place}.tif") for place in range(8)]
    assert choose_held_out(pages, [0.5] * 8, [place >= new for place in range(8)]) == []
