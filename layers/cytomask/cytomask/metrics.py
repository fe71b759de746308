"""Score masks against ground truths: count first, then divide."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

BOUNDARY_TOLERANCE = 2  # pixels


@dataclass(frozen=True)
class Score:
    """Pixels on which masks and their ground truths agree and disagree.

    docs/scores.md explains the rules to users. `cytomask.truths` reads ground truths by the same rules:
        - Masks are compared at full resolution. A ground truth of another size or number of pages is
          rejected, and the error names both sizes; nothing is resized or cropped.
        - A pixel of a ground truth is cell if its stored value is not 0, or if it lies inside any annotation
          of a COCO file. Classes are ignored.
        - Pixels are counted over all pages of an image first and divided last.
        - Two empty masks agree: every ratio is 1. If only one is empty, every ratio is 0, even where its
          own denominator is 0 (the precision of an empty mask, the recall of an empty ground truth).
        - `score_boundary` compares outlines, counted and divided the same way.
    """

    true_positive: int
    false_positive: int
    false_negative: int

    def __add__(self, other: "Score") -> "Score":
        """Add the counts, as if both were one larger image."""
        return Score(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
        )

    @property
    def iou(self) -> float:
        """Intersection over union, 0..1."""
        return self._ratio(self.true_positive, self.true_positive + self._wrong)

    @property
    def dice(self) -> float:
        """Twice the intersection over the sum of both areas, 0..1: the F1 of the pixels."""
        return self._ratio(2 * self.true_positive, 2 * self.true_positive + self._wrong)

    @property
    def precision(self) -> float:
        """Share of the mask's cell pixels that are cell in the ground truth, 0..1."""
        return self._ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        """Share of the ground truth's cell pixels that are cell in the mask, 0..1."""
        return self._ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def _wrong(self) -> int:
        return self.false_positive + self.false_negative

    def _ratio(self, part: int, whole: int) -> float:
        if self.true_positive + self._wrong == 0:
            return 1.0
        return part / whole if whole else 0.0


@dataclass(frozen=True)
class BoundaryScore:
    """Outline pixels of a mask and its ground truth, and how many lie near the other outline."""

    mask: int
    mask_near: int
    ground_truth: int
    ground_truth_near: int

    def __add__(self, other: "BoundaryScore") -> "BoundaryScore":
        """Add the counts, as if both were one larger image."""
        return BoundaryScore(
            self.mask + other.mask,
            self.mask_near + other.mask_near,
            self.ground_truth + other.ground_truth,
            self.ground_truth_near + other.ground_truth_near,
        )

    @property
    def f1(self) -> float:
        """Harmonic mean of the shares near the other outline, 0..1: 1 without outlines, 0 with only one."""
        if not (self.mask or self.ground_truth):
            return 1.0
        if not (self.mask and self.ground_truth):
            return 0.0
        precision = self.mask_near / self.mask
        recall = self.ground_truth_near / self.ground_truth
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def score(mask: Mask, ground_truth: Mask) -> Score:
    """Compare two masks of the same shape, (H, W) bool, by the rules of `Score`.

    Raises:
        ValueError: the shapes differ.
    """
    if mask.shape != ground_truth.shape:
        raise ValueError(f"the mask is {mask.shape} and the ground truth {ground_truth.shape}")
    agreed = int(np.count_nonzero(mask & ground_truth))
    return Score(agreed, int(np.count_nonzero(mask)) - agreed, int(np.count_nonzero(ground_truth)) - agreed)


def score_boundary(mask: Mask, ground_truth: Mask, tolerance: int = BOUNDARY_TOLERANCE) -> BoundaryScore:
    """Compare the outlines of two masks of the same shape, (H, W) bool, after Csurka et al. 2013 (BMVC).

    The outline of a mask is its cell pixels with a neighbour above, below, left or right that is not cell;
    pixels beyond the page do not count. If one mask is all cell and the other empty, neither has an outline,
    though they disagree everywhere; the page's border is then that of the full one. An outline pixel is near
    the other mask's outline if one of its pixels is within `tolerance` pixels (Euclidean).

    Raises:
        ValueError: the shapes differ.
    """
    if mask.shape != ground_truth.shape:
        raise ValueError(f"the mask is {mask.shape} and the ground truth {ground_truth.shape}")
    ours, theirs = _boundary(mask), _boundary(ground_truth)
    if not (ours.any() or theirs.any()) and mask.any() != ground_truth.any():
        ours, theirs = (_boundary(np.pad(each, 1))[1:-1, 1:-1] for each in (mask, ground_truth))
    return BoundaryScore(
        int(np.count_nonzero(ours)),
        int(np.count_nonzero(ours & _dilate(theirs, tolerance))),
        int(np.count_nonzero(theirs)),
        int(np.count_nonzero(theirs & _dilate(ours, tolerance))),
    )


def _boundary(mask: Mask) -> Mask:
    padded = np.pad(mask, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _dilate(mask: Mask, radius: int) -> Mask:
    """Mark every pixel within `radius` of a cell pixel."""
    height, width = mask.shape
    padded = np.pad(mask, radius)
    grown = np.zeros_like(mask)
    for down in range(-radius, radius + 1):
        for right in range(-radius, radius + 1):
            if down**2 + right**2 <= radius**2:
                top, left = radius + down, radius + right
                grown |= padded[top : top + height, left : left + width]
    return grown


def confluence(mask: Mask) -> float:
    """Return the share of cell pixels, 0..1, in a mask of any shape."""
    return float(np.count_nonzero(mask)) / mask.size
