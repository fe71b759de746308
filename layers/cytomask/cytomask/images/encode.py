"""Write masks, probabilities and overlays as PNG."""

import math
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
from imagecodecs import PNG
from numpy.typing import NDArray

from cytomask.images.pages import MEGA, RGB

FULL_16_BIT = np.float32(65_535)
# Okabe and Ito's orange and blue, which colour-blind people can tell apart, and from grey.
OUTLINE = np.array([230, 159, 0], np.uint8)
# Of two masks laid over each other: cell in both, only in the first, only in the second.
AGREED, FALSE_POSITIVE, FALSE_NEGATIVE = (200, 200, 200), (230, 159, 0), (0, 114, 178)
TINT = 0.15
SAMPLED_PIXELS = 4 * MEGA
ROWS_AT_ONCE = 256
PIXELS_AT_ONCE = 2**21


def encode_mask(mask: NDArray[np.bool_]) -> bytes:
    """Encode (H, W) bool as an 8-bit PNG of one channel, 0 or 255."""
    return _png(mask.astype(np.uint8) * np.uint8(255), PNG.STRATEGY.RLE, PNG.FILTER.NONE)


def encode_probability(probability: NDArray[np.float32]) -> bytes:
    """Encode (H, W) float32 in 0..1 as a 16-bit grey PNG, 0 to 65,535."""
    levels = np.empty(probability.shape, np.uint16)
    for rows in _bands(probability.shape):
        levels[rows] = np.rint(probability[rows] * FULL_16_BIT)
    return _png(levels, PNG.STRATEGY.RLE, PNG.FILTER.PAETH)


def encode_overlay(pixels: NDArray[Any], mask: NDArray[np.bool_]) -> bytes:
    """Encode a page as an RGB PNG, with the mask's outline drawn and its inside tinted.

    The page is stretched to 8 bits between its 0.5 and 99.5 percentiles.

    Args:
        pixels: (H, W), any real dtype, finite values.
        mask: (H, W) bool.
    """
    low, high = (end / 4 for end in display_range(pixels))
    gain = 255 / (high - low) if high > low else 0.0
    shades = np.arange(256)[:, None]  # 256, 1
    plain = np.repeat(shades, RGB, axis=1).astype(np.uint8)  # 256, RGB
    tinted = (shades + (OUTLINE - shades) * TINT).astype(np.uint8)  # 256, RGB
    drawing = np.empty((*pixels.shape, RGB), np.uint8)
    for rows in _bands(pixels.shape):
        inside = mask[rows]
        shade = np.clip((_quarter(pixels[rows]) - low) * gain + 0.5, 0, 255).astype(np.uint8)
        colours = plain[shade]  # rows, W, RGB
        colours[inside] = tinted[shade[inside]]
        colours[_outline(mask, rows)] = OUTLINE
        drawing[rows] = colours
    return _png(drawing, PNG.STRATEGY.DEFAULT, PNG.FILTER.NONE)


def display_range(pixels: NDArray[Any]) -> tuple[float, float]:
    """Return the 0.5 and 99.5 percentiles; of a large page, those of a grid of its pixels."""
    step = math.isqrt(pixels.size // SAMPLED_PIXELS) + 1
    low, high = np.percentile(_quarter(pixels[::step, ::step]), (0.5, 99.5))
    return float(low) * 4, float(high) * 4


def _quarter(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Return a quarter of the values, so that their range fits into float64."""
    quarter: NDArray[np.float64] = pixels.astype(np.float64) / 4
    return quarter


def _outline(mask: NDArray[np.bool_], rows: slice) -> NDArray[np.bool_]:
    """Mark the pixels of `rows` on either side of the mask's edge; the page's own edge does not count."""
    above, below = max(rows.start - 1, 0), min(rows.stop + 1, mask.shape[0])
    near = np.pad(
        mask[above:below],
        ((above - rows.start + 1, rows.stop + 1 - below), (1, 1)),
        mode="edge",
    )
    centre = near[1:-1, 1:-1]
    sides = (near[:-2, 1:-1], near[2:, 1:-1], near[1:-1, :-2], near[1:-1, 2:])
    differs = np.zeros(centre.shape, bool)
    for side in sides:
        differs |= side != centre
    return differs


def _bands(shape: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices of a few rows: 64-bit arithmetic over a whole large page would not fit in memory."""
    height, width = shape
    rows = max(min(ROWS_AT_ONCE, PIXELS_AT_ONCE // width), 1)
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _png(pixels: NDArray[np.uint8 | np.uint16], strategy: PNG.STRATEGY, filter_: PNG.FILTER) -> bytes:
    """Encode a PNG with libpng, which takes the filter and strategy; Pillow tries every filter on every row.

    704 x 520 pixels by the ways chosen here, and by Pillow at its fastest: mask 0.6 and 2.3 ms (9 and 16 kB),
    probability 7 and 21 ms (490 and 515 kB), overlay 10 and 23 ms (349 and 463 kB).
    """
    # imagecodecs allocates room for the pixels, but not for the byte that PNG puts before each row.
    room = int(1.02 * (pixels.nbytes + pixels.shape[0])) + 4096
    return bytes(imagecodecs.png_encode(pixels, level=1, strategy=strategy, filter=filter_, out=room))
