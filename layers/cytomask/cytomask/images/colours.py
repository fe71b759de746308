"""Join red, green and blue into one grey value, and refuse frames that were saved as colours."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomask.errors import AmbiguousChannels

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
SIDE = 4  # side of the blocks whose means are compared, to leave out the camera's noise
MOST_BLOCKS = 250_000
# Correlation between neighbouring pixels; noise has 0.
LEAST_STRUCTURE = 0.1
# Between the colours of one picture it was at least 0.84, with half its contrast added as noise to each.
# Between 72 pairs of frames of one field, 4 hours apart, it was at most 0.06.
LEAST_CORRELATION = 0.6


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
    seen = [means for sample in range(3) if (means := _structure(colours[..., sample])) is not None]
    pairs = [(one, other) for at, one in enumerate(seen) for other in seen[at + 1 :]]
    lowest = min((float(np.mean(one * other)) for one, other in pairs), default=1.0)
    if lowest < LEAST_CORRELATION:
        raise AmbiguousChannels(
            f"page {index} of {name} has red, green and blue that differ as different pictures do "
            f"(correlation {lowest:.2f}): frames or channels that were saved as colours; name one as "
            "`channel`, 0 to 2, or save them as pages"
        )


def _structure(channel: NDArray[Any]) -> NDArray[np.float64] | None:
    """Return the means of small blocks, standardised; None if the channel is flat or mere noise."""
    height, width = (length // SIDE * SIDE for length in channel.shape)
    if not height or not width:
        return None
    rows = (
        max(height // SIDE * (width // SIDE) // MOST_BLOCKS, 1) * SIDE
    )  # one row of blocks in this many is read
    bands = [channel[top : top + SIDE, :width].astype(np.float64) for top in range(0, height, rows)]
    values = np.stack(bands)  # bands, SIDE, width
    values -= values.mean()
    scale = float(np.abs(values).max())
    if not scale or not np.isfinite(scale):
        return None
    values /= scale
    variance = float(np.mean(values**2))
    if float(np.mean(values[..., 1:] * values[..., :-1])) < LEAST_STRUCTURE * variance:
        return None
    means = values.reshape(len(bands), SIDE, -1, SIDE).mean(axis=(1, 3))  # bands, blocks across
    means -= means.mean()
    deviation = float(means.std())
    return means / deviation if deviation else None
