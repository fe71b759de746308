"""Bounds of the quality flags, written by `python -m cytomask.training.quality_bounds`."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Bounds(NamedTuple):
    """Where each flag begins; see `cytomask.model.quality.Measures` for the numbers.

    `squashed_doubt` takes the place of `doubt` in `resize` mode, whose network draws softer borders.
    """

    centre: NDArray[np.float64]
    whitening: NDArray[np.float64]
    empty: float = 0.001
    sharpness: float = 0.3
    saturated: float = 0.02
    levels: float = 12
    unevenness: float = 0.6
    unusualness: float = 2.0
    doubt: float = 0.3
    squashed_doubt: float = 0.3
    shrinkage: float = 6.0


BOUNDS = Bounds(
    centre=np.array([0.290, 0.041, 0.046, 0.037, -0.713, -2.195, 1.138, 1.589, -0.267, 2.541]),
    whitening=np.array(
        [
            [20.463, -0.000, 0.000, 0.000, 0.000, -0.000, 0.000, 0.000, -0.000, -0.000],
            [-17.880, 25.382, -0.000, -0.000, -0.000, -0.000, 0.000, -0.000, 0.000, 0.000],
            [1.283, -18.227, 67.232, -0.000, 0.000, 0.000, -0.000, 0.000, 0.000, -0.000],
            [11.660, -5.113, -40.081, 67.480, 0.000, 0.000, -0.000, 0.000, -0.000, 0.000],
            [-5.253, 4.883, 35.478, 38.635, 7.727, 0.000, -0.000, 0.000, -0.000, 0.000],
            [4.627, 6.297, -7.236, 0.776, -1.079, 2.303, -0.000, -0.000, -0.000, 0.000],
            [-10.076, -6.720, 1.880, 5.538, -5.730, 1.885, 2.159, -0.000, 0.000, 0.000],
            [6.376, 2.935, 0.587, -4.424, 3.774, 1.481, 1.568, 2.685, -0.000, -0.000],
            [-10.703, -6.789, -5.186, -8.427, -1.627, -0.176, -0.017, 0.063, 3.114, -0.000],
            [8.798, 3.570, -10.202, -21.699, 3.903, -0.616, 0.530, -0.432, 0.762, 5.853],
        ]
    ),
    empty=0.001,
    sharpness=0.2792,
    saturated=0.02,
    levels=1,
    unevenness=0.9564,
    unusualness=9.033,
    doubt=0.1102,
    squashed_doubt=0.3017,
    shrinkage=6,
)
