"""Reduced views and tiles of a page, so that the browser never holds a whole large page. Pure."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomask import images

TILE = 512  # pixels a side
SHADES = NDArray[np.uint8 | np.uint16]
SAMPLED = 1_000_000  # pixels that statistics are made of
BAND = 64  # rows; an even number
STEPS = 1000  # of the threshold: 0.001 each
FULL_16_BIT = 65_535
DARK, BRIGHT = 0.005, 0.995  # shares of the pixels that are black, or not white, to begin with


@dataclass
class Raster:
    """One page as unsigned integers, (H, W) uint8 or uint16, with its reduced views made when asked for.

    A stored value v was `low + v * step` in the file. Safe to share between threads.
    """

    shades: SHADES
    low: float = 0.0
    step: float = 1.0
    dtype: str = "uint8"
    _views: list[SHADES] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Level 0 is the page itself."""
        self._views.append(self.shades)

    @property
    def nbytes(self) -> int:
        """Of the page and all of its reduced views, a third more."""
        return self.shades.nbytes * 4 // 3

    @property
    def levels(self) -> int:
        """How many views there are: each has half the side of the one before, until one tile holds it."""
        return 1 + halvings(max(self.shades.shape), TILE)

    def view(self, level: int) -> SHADES:
        """Reduce the page 2**level times, by means: (ceil(H / 2**level), ceil(W / 2**level))."""
        with self._lock:
            while len(self._views) <= level:
                self._views.append(halved(self._views[-1]))
            return self._views[level]

    def tile(self, level: int, column: int, row: int) -> SHADES | None:
        """Cut a tile out of a view, (at most TILE, at most TILE); None outside it."""
        if not 0 <= level < self.levels or row < 0 or column < 0:
            return None
        view = self.view(level)
        found = view[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        return found if found.size else None

    def describe(self) -> dict[str, Any]:
        """Tell what the browser needs before it asks for tiles; `window` is the contrast to begin with."""
        height, width = self.shades.shape
        stride = int(np.ceil(np.sqrt(self.shades.size / SAMPLED)))
        counts = np.bincount(self.shades[::stride, ::stride].ravel())
        least, low, high = (_at_share(counts, share) for share in (0.0, DARK, BRIGHT))
        most = counts.size - 1
        return {
            "height": height,
            "width": width,
            "tile": TILE,
            "levels": self.levels,
            "bits": self.shades.dtype.itemsize * 8,
            "low": self.low,
            "step": self.step,
            "dtype": self.dtype,
            "window": [low, max(high, low + 1)],
            "range": [least, max(most, least + 1)],
        }


def _at_share(counts: NDArray[np.intp], share: float) -> int:
    """Find the least value that more than this share of the pixels do not exceed, from counts by value."""
    return int(np.searchsorted(counts.cumsum(), share * counts.sum(), side="right"))


def halvings(side: int, most: int) -> int:
    """Count how often a side has to be halved until it is at most `most`."""
    return max(0, (side - 1) // most).bit_length()


def raster_of(pixels: NDArray[Any], dtype: str) -> Raster:
    """Make a raster of (H, W) pixels of any real dtype; other than uint8 and uint16 spread over 16 bits.

    Extreme pixels are clipped, so that one of them does not leave a single shade to all others.
    """
    if pixels.dtype in (np.uint8, np.uint16):
        return Raster(np.ascontiguousarray(pixels), dtype=dtype)
    low, high = _range_of(pixels)
    span = high - low
    if not np.isfinite(span) or span <= 0:
        return Raster(np.zeros(pixels.shape, np.uint16), low, 1.0, dtype)
    shades = np.empty(pixels.shape, np.uint16)
    for top in range(0, pixels.shape[0], TILE):  # in bands, for float64 of a large page would not fit
        band = pixels[top : top + TILE].astype(np.float64)
        shades[top : top + TILE] = np.rint((band.clip(low, high) - low) * (FULL_16_BIT / span))
    return Raster(shades, low, span / FULL_16_BIT, dtype)


def _range_of(pixels: NDArray[Any]) -> tuple[float, float]:
    """Choose the values that become black and white: three times the usual contrast, within the page's."""
    least, most = float(pixels.min()), float(pixels.max())
    dark, bright = images.display_range(pixels)
    span = bright - dark
    if not span > 0:  # hardly any pixel differs from the background: show all that do
        return least, most
    return max(least, dark - span), min(most, bright + span)


def mask_raster(mask: NDArray[np.bool_]) -> Raster:
    """Make a raster of a mask, (H, W) bool: 0 or 255, and shares of cell between where it is reduced."""
    return Raster(mask.view(np.uint8) * np.uint8(255))


def halved(view: SHADES) -> SHADES:
    """Take means of 2x2 pixels; an odd edge is the mean of itself. (H, W) -> (ceil(H / 2), ceil(W / 2))."""
    height, width = view.shape
    small = np.empty((-(-height // 2), -(-width // 2)), view.dtype)
    for top in range(0, height, BAND):  # a band stays in the processor's cache
        band = view[top : top + BAND]
        if band.shape[0] % 2 or width % 2:
            band = np.pad(band, ((0, band.shape[0] % 2), (0, width % 2)), mode="edge")
        small[top // 2 : (top + BAND) // 2] = _mean_of_four(band)
    return small


def _mean_of_four(band: SHADES) -> NDArray[Any]:
    wide = np.uint16 if band.dtype == np.uint8 else np.uint32
    pairs: NDArray[Any] = np.add(band[0::2], band[1::2], dtype=wide)
    total: NDArray[Any] = pairs[:, 0::2] + pairs[:, 1::2]
    total += 2
    total >>= 2
    return total


def shares_above(probability: SHADES) -> list[float]:
    """Count the share of pixels at or above each threshold 0, 0.001 … 1, of probabilities x 65,535."""
    counts = np.zeros(FULL_16_BIT + 1, np.intp)
    for top in range(0, probability.shape[0], TILE):  # in bands, because bincount makes 8 bytes of each pixel
        counts += np.bincount(probability[top : top + TILE].ravel(), minlength=FULL_16_BIT + 1)
    above = np.concatenate([counts[::-1].cumsum()[::-1], [0]])
    levels = [least_shade(step / STEPS) for step in range(STEPS + 1)]
    return [float(share) for share in above[levels] / probability.size]


def least_shade(threshold: float) -> int:
    """Find the least of the probabilities x 65,535 that rounding leaves at or above a threshold."""
    return math.ceil(threshold * FULL_16_BIT - 0.5)


def painted(
    base: NDArray[np.bool_], tiles: Sequence[tuple[int, int, NDArray[np.bool_]]]
) -> NDArray[np.bool_]:
    """Copy (H, W) `base` and put each tile (column, row, (TILE, TILE) bool) into its place."""
    mask = base.copy()
    for column, row, cells in tiles:
        place = mask[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
        place[...] = cells[: place.shape[0], : place.shape[1]]
    return mask
