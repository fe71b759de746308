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


BOUNDS = Bounds(np.zeros(10), np.eye(10))
