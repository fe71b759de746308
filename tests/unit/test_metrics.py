"""How masks are scored."""

import numpy as np
import pytest

from cytomask.metrics import BoundaryScore, Mask, Score, confluence, score, score_boundary

EMPTY = np.zeros((4, 6), np.bool_)
FULL = np.ones((4, 6), np.bool_)


def with_columns(*columns: int) -> Mask:
    """A mask of 4 x 6 pixels in which whole columns of 4 pixels are cell."""
    mask = EMPTY.copy()
    mask[:, columns] = True
    return mask


def test_pixels_are_counted_before_anything_is_divided() -> None:
    counted = score(with_columns(0, 1, 2), with_columns(1, 2, 3, 4))
    assert counted == Score(true_positive=8, false_positive=4, false_negative=8)
    assert counted.iou == 8 / 20


@pytest.mark.parametrize(
    ("mask", "ground_truth", "iou"),
    [
        (EMPTY, EMPTY, 1.0),
        (FULL, FULL, 1.0),
        (EMPTY, FULL, 0.0),
        (FULL, EMPTY, 0.0),
        (with_columns(0, 1), with_columns(2, 3), 0.0),
        (with_columns(0, 1, 2), FULL, 0.5),
        (FULL, with_columns(5), 1 / 6),
    ],
)
def test_the_iou_of_known_masks_is_exact(mask: Mask, ground_truth: Mask, iou: float) -> None:
    assert score(mask, ground_truth).iou == iou
    assert score(ground_truth, mask).iou == iou


def test_masks_of_other_shapes_are_not_scored() -> None:
    with pytest.raises(ValueError, match=r"\(4, 6\).*\(6, 4\)"):
        score(EMPTY, EMPTY.T)


def test_shapes_that_would_broadcast_are_not_scored() -> None:
    with pytest.raises(ValueError, match=r"\(4, 6\).*\(1, 6\)"):
        score(FULL, FULL[:1])


@pytest.mark.parametrize(("mask", "share"), [(EMPTY, 0.0), (FULL, 1.0), (with_columns(0, 4, 5), 0.5)])
def test_confluence_is_the_share_of_cell_pixels(mask: Mask, share: float) -> None:
    assert confluence(mask) == share


def test_every_ratio_comes_from_the_same_counts() -> None:
    counted = Score(true_positive=6, false_positive=2, false_negative=4)
    assert (counted.iou, counted.dice) == (6 / 12, 12 / 18)
    assert (counted.precision, counted.recall) == (6 / 8, 6 / 10)


@pytest.mark.parametrize(
    ("mask", "ground_truth", "ratio"),
    [(EMPTY, EMPTY, 1.0), (EMPTY, FULL, 0.0), (FULL, EMPTY, 0.0), (FULL, FULL, 1.0)],
)
def test_an_empty_mask_agrees_only_with_an_empty_one(mask: Mask, ground_truth: Mask, ratio: float) -> None:
    counted = score(mask, ground_truth)
    assert [counted.iou, counted.dice, counted.precision, counted.recall] == [ratio] * 4


def test_pages_are_pooled_by_their_counts() -> None:
    pooled = score(FULL, with_columns(0)) + score(EMPTY, EMPTY)
    assert pooled == score(np.vstack([FULL, EMPTY]), np.vstack([with_columns(0), EMPTY]))
    assert pooled.iou == 1 / 6


def square(top: int, side: int = 10) -> Mask:
    """A page of 40 x 40 with one square of cells, well inside."""
    mask = np.zeros((40, 40), np.bool_)
    mask[top : top + side, 15 : 15 + side] = True
    return mask


@pytest.mark.parametrize(("shift", "f1"), [(0, 1.0), (2, 1.0), (20, 0.0)])
def test_a_boundary_within_the_tolerance_agrees(shift: int, f1: float) -> None:
    assert score_boundary(square(5), square(5 + shift), tolerance=2).f1 == f1


def test_a_boundary_is_the_cell_pixels_next_to_background() -> None:
    counted = score_boundary(square(5), square(5), tolerance=0)
    assert counted == BoundaryScore(mask=36, mask_near=36, ground_truth=36, ground_truth_near=36)


def test_boundary_pixels_are_counted_over_pages_before_anything_is_divided() -> None:
    total = score_boundary(square(5), square(5)) + score_boundary(square(5), square(25))
    assert total == BoundaryScore(72, 36, 72, 36)
    assert total.f1 == 0.5


def test_the_edge_of_the_page_is_no_boundary() -> None:
    assert score_boundary(FULL, FULL) == BoundaryScore(0, 0, 0, 0)
    assert score_boundary(with_columns(0, 1, 2), FULL).ground_truth == 0


@pytest.mark.parametrize(
    ("mask", "ground_truth", "f1"),
    [
        (EMPTY, EMPTY, 1.0),
        (FULL, FULL, 1.0),
        (EMPTY, with_columns(2), 0.0),
        (with_columns(2), EMPTY, 0.0),
        (EMPTY, FULL, 0.0),
        (FULL, EMPTY, 0.0),
    ],
)
def test_missing_boundaries_score_1_or_0(mask: Mask, ground_truth: Mask, f1: float) -> None:
    assert score_boundary(mask, ground_truth).f1 == f1


def test_boundaries_of_other_shapes_are_not_scored() -> None:
    with pytest.raises(ValueError, match=r"\(4, 6\).*\(1, 6\)"):
        score_boundary(FULL, FULL[:1])
