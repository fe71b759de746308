"""How a mask is scored against a ground truth: counts first, then ratios."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

BOUNDARY_TOLERANCE = 2


@dataclass(frozen=True)
class Score:
    """Pixels of agreement and disagreement between masks and their ground truths.

    The rules of every score, for users in docs/scores.md:
        - Masks are compared at full resolution. A ground truth of another size, or of another number of
          pages, is rejected with both sizes named; nothing is resized or cropped.
        - A pixel is cell or it is not. A ground truth's pixel is cell where what is stored is not zero: in
          masks of 0 and 255 or 0 and 1, soft masks, RGB masks (any of the colours) and label images, whose
          classes are not told apart. A COCO file's pixel is cell inside any annotation of the image.
        - Pixels are counted first, over all pages of an image, and divided last.
        - Two empty masks agree: every ratio is 1. Where only one is empty, every ratio is 0, those whose
          own denominator is 0 included (the precision of an empty mask, the recall of an empty ground truth).
        - Outlines are compared by `score_boundary` with `BOUNDARY_TOLERANCE`, counted and divided likewise.
    """

    true_positive: int
    false_positive: int
    false_negative: int

    def __add__(self, other: "Score") -> "Score":
        """The counts of both, as of one larger image."""
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
    """Boundary pixels of a mask and of its ground truth, and how many of them lie near one of the other's."""

    mask: int
    mask_near: int
    ground_truth: int
    ground_truth_near: int

    def __add__(self, other: "BoundaryScore") -> "BoundaryScore":
        """The counts of both, as of one larger image."""
        return BoundaryScore(
            self.mask + other.mask,
            self.mask_near + other.mask_near,
            self.ground_truth + other.ground_truth,
            self.ground_truth_near + other.ground_truth_near,
        )

    @property
    def f1(self) -> float:
        """Harmonic mean of the near shares, 0..1: 1 where neither has a boundary, 0 where only one has."""
        if not (self.mask or self.ground_truth):
            return 1.0
        if not (self.mask and self.ground_truth):
            return 0.0
        precision = self.mask_near / self.mask
        recall = self.ground_truth_near / self.ground_truth
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def score(mask: Mask, ground_truth: Mask) -> Score:
    """Compares two masks of the same shape, (H, W) bool, by the rules of `Score`.

    Raises:
        ValueError: when the shapes differ.
    """
    if mask.shape != ground_truth.shape:
        raise ValueError(f"the mask is {mask.shape} and the ground truth {ground_truth.shape}")
    agreed = int(np.count_nonzero(mask & ground_truth))
    return Score(agreed, int(np.count_nonzero(mask)) - agreed, int(np.count_nonzero(ground_truth)) - agreed)


def score_boundary(mask: Mask, ground_truth: Mask, tolerance: int = BOUNDARY_TOLERANCE) -> BoundaryScore:
    """Compares the outlines of two masks of the same shape, (H, W) bool, as Csurka et al. 2013 (BMVC) do.

    The boundary of a mask is its cell pixels with a neighbour above, below, left or right that is not
    cell; what lies beyond the page is neither. A boundary pixel is near where the other mask has one within
    `tolerance` pixels (Euclidean).

    Raises:
        ValueError: when the shapes differ.
    """
    if mask.shape != ground_truth.shape:
        raise ValueError(f"the mask is {mask.shape} and the ground truth {ground_truth.shape}")
    ours, theirs = _boundary(mask), _boundary(ground_truth)
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
    """Every pixel within `radius` of one of the mask's."""
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
    """Share of the pixels that are cell, 0..1, of a mask of any shape."""
    return float(np.count_nonzero(mask)) / mask.size
