"""How a mask is scored against a ground truth: counts first, then ratios."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Score:
    """Pixels of agreement and disagreement between masks and their ground truths.

    The rules of every score:
        - Masks are compared at full resolution; masks of different size are not compared, nor resized.
        - A pixel is cell or it is not: a ground truth's pixel is cell where it is not zero.
        - Pixels are counted first, over all pages of an image, and divided last.
        - Two empty masks agree: every ratio is 1. Where only one is empty, every ratio is 0, those whose
          own denominator is 0 included (the precision of an empty mask, the recall of an empty ground truth).
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


def score(mask: Mask, ground_truth: Mask) -> Score:
    """Compares two masks of the same shape, (H, W) bool, by the rules of `Score`.

    Raises:
        ValueError: when the shapes differ.
    """
    if mask.shape != ground_truth.shape:
        raise ValueError(f"the mask is {mask.shape} and the ground truth {ground_truth.shape}")
    agreed = int(np.count_nonzero(mask & ground_truth))
    return Score(agreed, int(np.count_nonzero(mask)) - agreed, int(np.count_nonzero(ground_truth)) - agreed)


def confluence(mask: Mask) -> float:
    """Share of the pixels that are cell, 0..1, of a mask of any shape."""
    return float(np.count_nonzero(mask)) / mask.size
