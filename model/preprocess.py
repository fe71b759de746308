"""What happens to pixels before and after the network: normalise, tile, blend, resize.

One code for training and serving, so that the network is served what it was trained on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TILE = 224
OVERLAP = 56
NORMALISATION = "page-zscore"
PIXELS_AT_ONCE = 2**16  # in 64 bits they stay in a core's cache

Pixels = NDArray[np.float32]


def normalise(page: NDArray[np.generic]) -> Pixels:
    """Standardises a whole page: subtracts its mean, divides by its standard deviation.

    The result does not depend on bit depth, offset or gain, so 8-, 12- and 16-bit copies of one
    image look the same to the network. It is taken over the page before any tile is cut: values
    taken per tile would leave seams.

    Args:
        page: (H, W), any real dtype, finite values.

    Returns:
        (H, W) float32 with mean 0 and deviation 1; all 0 where the page is constant.
    """
    low, high = float(page.min()), float(page.max())
    if low == high:
        return np.zeros(page.shape, np.float32)
    height, width = page.shape
    rows = max(PIXELS_AT_ONCE // width, 1)
    bands = [slice(top, min(top + rows, height)) for top in range(0, height, rows)]
    room = np.empty((rows, width), np.float64)  # for one band after the other

    def stretched(band: slice) -> NDArray[np.float64]:
        """To 0..1 first: copies that differ in gain and offset give the same numbers to the last bit."""
        values = room[: band.stop - band.start]
        np.subtract(page[band], low, out=values, dtype=np.float64)
        values /= high - low
        return values

    mean = sum(float(stretched(band).sum()) for band in bands) / page.size

    def centred(band: slice) -> NDArray[np.float64]:
        values = stretched(band)
        values -= mean
        return values

    squares = sum(float(np.square(values, out=values).sum()) for values in map(centred, bands))
    deviation = (squares / page.size) ** 0.5
    normalised = np.empty(page.shape, np.float32)
    for band in bands:
        np.divide(centred(band), deviation, out=normalised[band], casting="same_kind")
    return normalised


@dataclass(frozen=True)
class TilePlan:
    """Where the tiles of a page lie. Rows and columns are those of the page padded at its end.

    Attributes:
        height, width: the page, in pixels.
        rows, columns: first row and first column of the tiles, in pixels.
        tile, overlap: side of a tile and what neighbours share at least, in pixels.
    """

    height: int
    width: int
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    tile: int = TILE
    overlap: int = OVERLAP

    @property
    def count(self) -> int:
        """Number of tiles."""
        return len(self.rows) * len(self.columns)


def plan_tiles(height: int, width: int, tile: int = TILE, overlap: int = OVERLAP) -> TilePlan:
    """Covers a page with the fewest tiles that overlap by at least `overlap`, evenly spread.

    A page smaller than a tile gets one tile, which `cut_row` pads by reflection.
    """
    return TilePlan(
        height, width, _starts(height, tile, overlap), _starts(width, tile, overlap), tile, overlap
    )


def _starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    if length <= tile:
        return (0,)
    count = -(-(length - overlap) // (tile - overlap))
    return tuple(round(index * (length - tile) / (count - 1)) for index in range(count))


def cut_row(normalised: Pixels, plan: TilePlan, row: int) -> Pixels:
    """The tiles of one row of the plan: (columns, 1, tile, tile) float32, reflected past the edges."""
    band = normalised[row : row + plan.tile]
    below = plan.tile - band.shape[0]
    right = max(plan.tile - plan.width, 0)
    if below or right:
        band = np.pad(band, ((0, below), (0, right)), mode="reflect")
    return np.stack([band[None, :, column : column + plan.tile] for column in plan.columns])


class Blend:
    """Joins overlapping tiles of logits into one page, each weighted by a taper towards its edges.

    The tiles lie on a grid, so the sum of their weights is the product of one sum down and one across:
    memory is one float32 page, whatever the number of tiles.
    """

    def __init__(self, plan: TilePlan) -> None:
        self._plan = plan
        self._ramp = taper(plan.tile, plan.overlap)
        self._sum = np.zeros((plan.height, plan.width), np.float32)

    def add_row(self, logits: Pixels, row: int) -> None:
        """Adds the logits of one row of tiles, (columns, 1, tile, tile) float32."""
        weight = np.outer(self._ramp, self._ramp)
        for tile, column in zip(logits, self._plan.columns, strict=True):
            target = self._sum[row : row + self._plan.tile, column : column + self._plan.tile]
            height, width = target.shape
            target += tile[0, :height, :width] * weight[:height, :width]

    def result(self) -> Pixels:
        """The blended logits, (H, W) float32. Ends the blend: its sum is divided in place."""
        self._sum /= self._total(self._plan.rows, self._plan.height)[:, None]
        self._sum /= self._total(self._plan.columns, self._plan.width)
        return self._sum

    def _total(self, starts: tuple[int, ...], length: int) -> Pixels:
        """Sum of the tiles' ramps along one axis, (length,) float32."""
        total = np.zeros(max(length, self._plan.tile), np.float32)
        for start in starts:
            total[start : start + self._plan.tile] += self._ramp
        return total[:length]


def taper(tile: int, overlap: int) -> Pixels:
    """Weight of a tile's pixels along one axis: 1 inside, falling linearly over the overlap, never 0.

    Returns:
        (tile,) float32 in (0, 1].
    """
    distance = np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 0.5
    return np.minimum(distance / max(overlap, 1), 1).astype(np.float32)


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Bilinear interpolation of (H, W) float32, averaging over the source pixels when it shrinks."""
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)
