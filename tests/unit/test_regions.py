"""Regions against their definition: drawn regions equal the mask, and every pixel counts once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from cytomask.regions import find_regions

Mask = NDArray[np.bool_]

MASKS = arrays.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))

RING = np.array(
    [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 0, 1, 0, 0],
        [0, 1, 1, 1, 0, 1],
    ],
    np.bool_,
)


def flood(mask: Mask) -> NDArray[np.int32]:
    """Label regions the slow and obvious way: (H, W) int32, numbered from 1."""
    labels = np.zeros(mask.shape, np.int32)
    for start in np.argwhere(mask):
        if labels[tuple(start)]:
            continue
        number, waiting = labels.max() + 1, [tuple(start)]
        while waiting:
            row, column = waiting.pop()
            inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1]
            if inside and mask[row, column] and not labels[row, column]:
                labels[row, column] = number
                waiting += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    return labels


@given(MASKS)
def test_the_regions_drawn_are_the_mask(mask: Mask) -> None:
    regions = find_regions(mask)
    np.testing.assert_array_equal(regions.mask(), mask)
    assert regions.areas.sum() == mask.sum()


@given(MASKS)
def test_labels_are_those_of_a_flood_fill(mask: Mask) -> None:
    labels, expected = find_regions(mask).labels(), flood(mask)
    pairs = set(zip(labels.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len(set(labels.ravel().tolist())) == len(set(expected.ravel().tolist()))


@given(MASKS)
def test_areas_and_boxes_are_those_of_the_labels(mask: Mask) -> None:
    regions = find_regions(mask)
    labels = regions.labels()
    for number in range(len(regions)):
        rows, columns = np.nonzero(labels == number + 1)
        assert regions.areas[number] == len(rows)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert regions.boxes[number].tolist() == box


@given(MASKS, st.integers(0, 30))
def test_small_regions_are_left_out_whole(mask: Mask, least: int) -> None:
    labels = flood(mask)
    large = [number for number in range(1, labels.max() + 1) if (labels == number).sum() >= least]
    np.testing.assert_array_equal(find_regions(mask).mask(min_area=least), np.isin(labels, large))


def test_a_ring_has_an_outline_and_a_hole() -> None:
    regions = find_regions(RING)
    outline, hole = next(iter(regions))
    assert {tuple(corner) for corner in outline.tolist()} == {(1, 1), (4, 1), (4, 4), (1, 4)}
    assert {tuple(corner) for corner in hole.tolist()} == {(2, 2), (3, 2), (3, 3), (2, 3)}
    assert regions.areas.tolist() == [8, 1]
    assert regions.filled_areas.tolist() == [9, 1]


def test_a_filled_hole_counts_towards_the_smallest_area() -> None:
    filled = find_regions(RING).mask(min_area=9, fill_holes=True)
    assert filled.sum() == 9
    assert filled[2, 2]


def test_a_region_at_the_border_is_marked() -> None:
    assert find_regions(RING).touching_border.tolist() == [True, True]
    assert find_regions(np.pad(RING, 1)).touching_border.tolist() == [False, False]


def test_pixels_that_meet_at_a_corner_are_two_regions() -> None:
    assert len(find_regions(np.eye(2, dtype=np.bool_))) == 2


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (40, 60)])
def test_a_page_without_cells_has_no_region(shape: tuple[int, int]) -> None:
    regions = find_regions(np.zeros(shape, np.bool_))
    assert len(regions) == 0
    assert list(regions) == []
    assert regions.boxes.shape == (0, 4)
    assert not regions.mask().any()
    assert not regions.labels().any()
