"""How a mask is scored against a ground truth: counts first, then ratios."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Score:
    """Pixels of agreement and disagreement between a mask and its ground truth."""

    true_positive: int
    false_positive: int
    false_negative: int

    @property
    def iou(self) -> float:
        """Intersection over union, 0..1; two empty masks agree: 1."""
        union = self.true_positive + self.false_positive + self.false_negative
        return self.true_positive / union if union else 1.0


def score(mask: Mask, ground_truth: Mask) -> Score:
    """Compares two masks of the same shape, (H, W) bool.

    Raises:
        ValueError: when the shapes differ; a score of resized masks would not be of these images.
    """
    if mask.shape != ground_truth.shape:
        raise ValueError(f"the mask is {mask.shape} and the ground truth {ground_truth.shape}")
    agreed = int(np.count_nonzero(mask & ground_truth))
    return Score(agreed, int(np.count_nonzero(mask)) - agreed, int(np.count_nonzero(ground_truth)) - agreed)


def confluence(mask: Mask) -> float:
    """Share of the pixels that are cell, 0..1, of a mask of any shape."""
    return float(np.count_nonzero(mask)) / mask.size
