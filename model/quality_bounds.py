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
    centre=np.array([0.291, 0.040, 0.046, 0.037, -0.713, -2.148, 1.129, 1.559, -0.255, 2.545]),
    whitening=np.array(
        [
            [20.701, 0.000, 0.000, -0.000, -0.000, -0.000, 0.000, 0.000, -0.000, 0.000],
            [-18.413, 25.572, -0.000, -0.000, -0.000, 0.000, 0.000, -0.000, 0.000, -0.000],
            [2.451, -18.569, 67.905, -0.000, -0.000, 0.000, 0.000, 0.000, 0.000, 0.000],
            [13.983, -2.709, -60.689, 82.062, 0.000, -0.000, -0.000, -0.000, -0.000, -0.000],
            [-5.343, 6.430, 34.138, 43.383, 8.254, 0.000, 0.000, -0.000, 0.000, 0.000],
            [3.312, 4.956, 2.580, -17.710, -1.918, 2.255, -0.000, 0.000, -0.000, -0.000],
            [-8.704, -8.358, 0.311, 12.376, -5.642, 1.863, 2.163, 0.000, -0.000, 0.000],
            [5.929, 4.513, 0.678, -5.427, 4.141, 1.409, 1.493, 2.667, 0.000, -0.000],
            [-13.157, -10.558, 0.247, 1.859, -1.252, 0.038, -0.006, -0.063, 3.693, 0.000],
            [8.466, 2.759, -4.620, -27.176, 3.775, -0.457, 0.462, -0.464, 0.956, 5.926],
        ]
    ),
    empty=0.001,
    sharpness=0.2793,
    saturated=0.02,
    levels=1,
    unevenness=0.9557,
    unusualness=8.66,
    doubt=0.1102,
    squashed_doubt=0.3017,
    shrinkage=6,
)
