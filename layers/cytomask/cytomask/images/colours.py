"""Join red, green and blue into one grey value, and refuse frames that were saved as colours."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomask.errors import AmbiguousChannels

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
SIDE = 4  # side of the blocks whose means are compared, to leave out the camera's noise
MOST_BLOCKS = 250_000
# Correlation between neighbouring pixels; noise has 0.
LEAST_STRUCTURE = 0.1
# How much of the variance of the blocks' means may be taken for noise.
MOST_NOISE_OF_BLOCKS = 0.9
# Correlation between colours, corrected for noise. Between red and blue of two photographs it was 0.53 and
# 0.59. Between frames of one LIVECell field, 4 hours apart, it was at most 0.06.
LEAST_CORRELATION = 0.3
# The same for channels of one mean and contrast, which are grey frames or a nearly grey picture. Frames of
# growing cells that stay in place had 0.35 to 0.90, and grey pictures with strong noise in each colour 0.97.
LEAST_CORRELATION_OF_GREYS = 0.92
# Greys differ less in their means, in standard deviations, and in their standard deviations, as a ratio.
# Frames of growing cells had up to 0.07 and 1.4; the photographs 0.2 and 1.2.
MOST_SHIFT, MOST_STRETCH = 0.1, 1.5


def luma(colours: NDArray[Any]) -> NDArray[np.float32] | NDArray[np.float64]:
    """Weigh (H, W, 3) of any real dtype to (H, W), one colour at a time to spare memory.

    Returns:
        float32, or float64 if the stored numbers need it.
    """
    dtype = np.float64 if colours.dtype.itemsize == 8 else np.float32
    grey = np.zeros(colours.shape[:2], dtype)
    for sample, weight in enumerate(LUMA):
        grey += np.multiply(colours[..., sample], weight, dtype=dtype, casting="same_kind")
    return grey


def require_one_picture(colours: NDArray[Any], index: int, name: str) -> None:
    """Refuse three channels that differ like frames rather than colours; raise AmbiguousChannels.

    Args:
        colours: (H, W, 3) of any real dtype.
        index: of the page, for the error.
        name: of the file, for the error.
    """
    seen = [found for sample in range(3) if (found := _measure(colours[..., sample])) is not None]
    pairs = list(combinations(seen, 2))
    lowest = min((one.correlation(other) for one, other in pairs), default=1.0)
    alike = all(one.is_as_bright_as(other) for one, other in pairs)
    if lowest < (LEAST_CORRELATION_OF_GREYS if alike else LEAST_CORRELATION):
        raise AmbiguousChannels(
            f"page {index} of {name} has red, green and blue that differ as different pictures do "
            f"(correlation {lowest:.2f}{', at one brightness' if alike else ''}): frames or channels that "
            "were saved as colours; name one as `channel`, 0 to 2, or save them as pages"
        )


@dataclass(frozen=True)
class _Channel:
    """What one channel shows.

    Attributes:
        mean, deviation: of its pixels.
        blocks: (bands, blocks across), standardised means of small blocks.
        signal: share of the blocks' variance that is not noise.
    """

    mean: float
    deviation: float
    blocks: NDArray[np.float64]
    signal: float

    def correlation(self, other: "_Channel") -> float:
        """Return the correlation of both signals; noise may lift it above 1."""
        return float(np.mean(self.blocks * other.blocks)) / math.sqrt(self.signal * other.signal)

    def is_as_bright_as(self, other: "_Channel") -> bool:
        """Tell whether mean and contrast are those of the other, as in frames of one series."""
        low, high = sorted((self.deviation, other.deviation))
        return abs(self.mean - other.mean) <= MOST_SHIFT * low and high <= MOST_STRETCH * low


def _measure(channel: NDArray[Any]) -> _Channel | None:
    """Measure a channel; return None if it is flat or mere noise."""
    height, width = (length // SIDE * SIDE for length in channel.shape)
    if not height or not width:
        return None
    rows = (
        max(height // SIDE * (width // SIDE) // MOST_BLOCKS, 1) * SIDE
    )  # one row of blocks in this many is read
    bands = [channel[top : top + SIDE, :width].astype(np.float64) for top in range(0, height, rows)]
    values = np.stack(bands)  # bands, SIDE, width
    mean = float(values.mean())
    values -= mean
    scale = float(np.abs(values).max())
    if not scale or not np.isfinite(scale):
        return None
    values /= scale
    variance = float(np.mean(values**2))
    if float(np.mean(values[..., 1:] * values[..., :-1])) < LEAST_STRUCTURE * variance:
        return None
    blocks = values.reshape(len(bands), SIDE, -1, SIDE).mean(axis=(1, 3))  # bands, blocks across
    blocks -= blocks.mean()
    spread = float(np.mean(blocks**2))
    if not spread:
        return None
    # Second differences along both sides cancel whatever is smooth, and multiply the noise's variance by 36.
    rough = np.diff(np.diff(values, 2, axis=1), 2, axis=2)
    noise = float(np.mean(rough**2)) / 36 / SIDE**2
    signal = max(spread - noise, (1 - MOST_NOISE_OF_BLOCKS) * spread)
    return _Channel(mean, variance**0.5 * scale, blocks / spread**0.5, signal / spread)
