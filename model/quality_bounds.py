"""Bounds of the quality flags, written by `python -m cytomask.training.quality_bounds`."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Bounds(NamedTuple):
    """Where each flag begins; see `cytomask.model.quality.Measures` for the numbers."""

    centre: NDArray[np.float64]
    whitening: NDArray[np.float64]
    empty: float = 0.001
    sharpness: float = 0.3
    saturated: float = 0.02
    levels: float = 12
    unevenness: float = 0.6
    unusualness: float = 2.0
    doubt: float = 0.3
    shrinkage: float = 6.0


BOUNDS = Bounds(
    centre=np.array([0.293, 0.039, 0.044, 0.035, -0.703, -2.047, 1.057, 1.524, -0.339, 2.961]),
    whitening=np.array(
        [
            [23.357, -0.000, 0.000, -0.000, -0.000, -0.000, -0.000, -0.000, 0.000, 0.000],
            [-17.975, 28.087, -0.000, 0.000, 0.000, 0.000, -0.000, 0.000, 0.000, -0.000],
            [5.383, -22.668, 73.875, -0.000, -0.000, 0.000, 0.000, -0.000, -0.000, 0.000],
            [16.296, -4.287, -63.973, 89.597, 0.000, -0.000, 0.000, -0.000, -0.000, 0.000],
            [-8.374, 8.912, 34.100, 46.127, 8.405, 0.000, 0.000, -0.000, -0.000, 0.000],
            [1.943, 4.802, 12.993, -13.726, -1.182, 2.323, -0.000, 0.000, 0.000, 0.000],
            [-8.979, -8.381, 0.885, 12.489, -5.466, 1.967, 2.259, -0.000, -0.000, 0.000],
            [5.550, 4.331, -1.207, -5.947, 3.463, 1.558, 1.642, 2.752, 0.000, 0.000],
            [-20.412, -5.667, 8.529, 9.571, 0.745, -0.356, 0.103, -0.012, 1.659, -0.000],
            [8.816, 5.409, -0.848, -17.250, 3.718, -0.704, 0.412, -0.157, 0.263, 2.964],
        ]
    ),
    empty=0.001,
    sharpness=0.36,
    saturated=0.02,
    levels=6,
    unevenness=0.85,
    unusualness=3.3,
    doubt=0.35,
    shrinkage=6,
)
