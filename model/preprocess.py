"""Prepare pixels for the network and join its output: normalise, tile, blend, resize.

Training and serving share this code, so the network sees the same pixels in both.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TILE = 288  # side of the tiles of `native` mode, in pixels; six cover a page of 704x520
OVERLAP = 28  # least overlap of neighbours; 56 gains 0.002 IoU, and takes 25 tiles of 1024x1024, not 16
SQUARE = 224  # side of the tile that `resize` mode squashes a page to
NORMALISATION = "page-robust"
LARGEST = float(np.finfo(np.float64).max)
PIXELS_AT_ONCE = 2**16  # as float64 they fit in a core's cache
SAMPLE = 2**16  # percentiles are taken from at least this many pixels
REACH = 3.0  # normalised pixels are clipped this many spreads beyond the percentiles
FILL_SIDE = 16  # pixels, a power of two; scale bars and most saturated cells are thinner
FILL_SHARE = 1 / 256  # of the page; wide saturated cells cover less than this
FLAT = 1 / 64  # exact in binary, so copies of a page agree

Pixels = NDArray[np.float32]
Place = tuple[int, int]  # first row and first column of a tile


def normalise(page: NDArray[np.generic]) -> Pixels:
    """Standardise a whole page by statistics that a few extreme pixels cannot decide.

    Fill is left out (see `find_fill`). The spread is the distance from the 1st to the 99th percentile of the
    other pixels. For mean and deviation, pixels are clipped one spread beyond these percentiles, so hot
    pixels and scale bars hardly matter. Bit depth, offset and gain cancel: 8-, 12- and 16-bit copies of one
    image look the same to the network. The statistics cover the page before any tile is cut, because
    values taken per tile would leave seams.

    Args:
        page: (H, W), any real dtype, finite values.

    Returns:
        (H, W) float32, clipped `REACH` spreads beyond the percentiles; without extreme pixels its mean is 0
        and its deviation 1. 0 in the fill, and everywhere if the page is constant.
    """
    page = _subtractable(page)
    fill = find_fill(page)
    low, high = _percentiles(page, fill)
    if low == high:
        return np.zeros(page.shape, np.float32)
    height, width = page.shape
    rows = max(PIXELS_AT_ONCE // width, 1)
    bands = [slice(top, min(top + rows, height)) for top in range(0, height, rows)]
    room = np.empty((rows, width), np.float64)  # reused for each band

    def stretched(values: NDArray[np.generic], reach: float, out: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map the percentiles to 0 and 1: copies that differ in gain and offset agree to the last bit."""
        np.subtract(values, low, out=out, dtype=np.float64)
        out /= high - low
        return np.clip(out, -reach, 1 + reach, out=out)

    total = squares = 0.0
    if page.dtype == np.uint8:  # Pillow counts pixels faster than NumPy adds them up
        counts = np.array(Image.fromarray(page).histogram(None if fill is None else Image.fromarray(~fill)))
        levels = np.flatnonzero(counts)
        values = stretched(levels, 1, np.empty(levels.size))
        total, squares = float(counts[levels] @ values), float(counts[levels] @ np.square(values))
    else:
        for band in bands:
            values = stretched(page[band], 1, room[: band.stop - band.start])
            if fill is not None:
                values[fill[band]] = 0
            total += float(values.sum())
            squares += float(np.square(values, out=values).sum())
    counted = page.size if fill is None else page.size - np.count_nonzero(fill)
    exact = total / counted
    # Rounded, so that sums in another order give the same to the last bit.
    mean, deviation = (float(np.float32(each)) for each in (exact, (squares / counted - exact**2) ** 0.5))

    def standardised(values: NDArray[np.generic], room: NDArray[np.float64], out: Pixels) -> None:
        stretched(values, REACH, room)
        room -= mean
        np.divide(room, deviation, out=out, casting="same_kind")

    normalised = np.empty(page.shape, np.float32)
    if _has_few_values(page) and (levels := np.arange(int(page.max()) + 1)).size <= page.size:
        table = np.empty(levels.size, np.float32)
        standardised(levels, np.empty(levels.size), table)
        places: NDArray[Any] = page
        np.take(table, places, out=normalised, mode="clip")  # no level is beyond the table
    else:
        for band in bands:
            standardised(page[band], room[: band.stop - band.start], normalised[band])
    if fill is not None:
        normalised[fill] = 0
    return normalised


def _subtractable(page: NDArray[np.generic]) -> NDArray[np.generic]:
    """Shift or scale a page whose values float64 cannot tell apart or subtract; leave others unchanged."""
    if page.dtype.kind in "iu" and page.dtype.itemsize == 8:
        shifted: NDArray[np.generic] = np.subtract(page, page.min()).astype(np.uint64)
        return shifted  # an int64 that wrapped around is correct again as uint64
    if page.dtype == np.float64 and float(page.max()) / 2 - float(page.min()) / 2 > LARGEST / 2:
        return page.astype(np.float64) / 4
    return page


def find_fill(page: NDArray[np.generic]) -> NDArray[np.bool_] | None:
    """Find the pixels that hold no measured light: dead borders, fill values of stitching, saturated areas.

    Fill is as dark or as bright as the page gets, within `FLAT` of the distance to its median, and covers
    squares of `FILL_SIDE` pixels. A square may reach beyond the page, so a dead border can be thinner. An
    area below `FILL_SHARE` of the page counts as a saturated cell, one above half of it as background.

    Args:
        page: (H, W), any real dtype, finite values.

    Returns:
        (H, W) bool; None if no pixel is fill.
    """
    darkest, brightest = float(page.min()), float(page.max())
    if darkest == brightest or min(page.shape) < 2 * FILL_SIDE:
        return None
    sample = _sample(page)
    (middle,) = _ranked(sample, [sample.size // 2])
    values: NDArray[Any] = page
    lowest, highest = darkest + FLAT * (middle - darkest), brightest + FLAT * (middle - brightest)
    if _has_few_values(page):  # whole numbers: compared as floats, each pixel would be converted
        lowest, highest = math.floor(lowest), math.ceil(highest)
    dark, bright = values <= lowest, values >= highest
    least = FILL_SHARE * page.size
    ends = [_squares(end) for end in (dark, bright) if np.count_nonzero(end) >= least]
    fill = [end for end in ends if np.count_nonzero(end) >= least]
    if not fill:
        return None
    either: NDArray[np.bool_] = np.logical_or.reduce(fill)
    return either if np.count_nonzero(either) <= page.size // 2 else None


def _squares(area: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Keep the area that squares of `FILL_SIDE` pixels fit into; beyond the page all counts as area."""
    margin = FILL_SIDE - 1
    corners = np.pad(area, margin, constant_values=True)
    for axis in (0, 1):
        corners = _run(corners, axis, np.logical_and)
    if not corners.any():
        return np.zeros_like(area)
    covered = np.pad(corners, margin)
    for axis in (0, 1):
        covered = _run(covered, axis, np.logical_or)
    return covered[margin:-margin, margin:-margin] & area


def _run(area: NDArray[np.bool_], axis: int, join: np.ufunc) -> NDArray[np.bool_]:
    """Join each pixel with the next `FILL_SIDE` - 1 along an axis; the axis gets that much shorter."""
    span = 1
    while span < FILL_SIDE:
        length = area.shape[axis] - span
        area = join(area.take(range(length), axis), area.take(range(span, span + length), axis))
        span *= 2
    return area


def _percentiles(page: NDArray[np.generic], fill: NDArray[np.bool_] | None) -> tuple[float, float]:
    """Return the 1st and 99th percentile of the pixels outside the fill; if equal, their extremes."""
    sample = _sample(page, fill)
    if sample.size:
        low, high = low_and_high(sample)
        if low != high:
            return low, high
    seen = page if fill is None else page[~fill]
    return float(seen.min()), float(seen.max())


def low_and_high(sample: NDArray[np.generic]) -> list[float]:
    """Return the 1st and the 99th percentile of a sample: (N,) of any real dtype, N > 0."""
    return _ranked(sample, [sample.size // 100, sample.size - 1 - sample.size // 100])


def _ranked(sample: NDArray[np.generic], ranks: Sequence[int]) -> list[float]:
    """Return the values at some ranks, counted from 0, of a sample: (N,) of any real dtype, N > 0."""
    if _has_few_values(sample):
        return [float(value) for value in np.searchsorted(np.bincount(sample).cumsum(), ranks, side="right")]
    return [float(value) for value in np.partition(sample, ranks)[[*ranks]]]


def _has_few_values(page: NDArray[np.generic]) -> bool:
    """Tell whether pixels are unsigned integers of 8 or 16 bits, so that each level can be treated once."""
    return page.dtype.kind == "u" and page.dtype.itemsize <= 2


def _sample(page: NDArray[np.generic], fill: NDArray[np.bool_] | None = None) -> NDArray[np.generic]:
    """Sample about `SAMPLE` pixels of a page on a grid, leaving out the fill: (N,) of its dtype."""
    step = max(math.isqrt(page.size // SAMPLE), 1)
    grid = (slice(None, None, step), slice(None, None, step))
    sample = page[grid] if fill is None else page[grid][~fill[grid]]
    return sample.ravel().astype(page.dtype.newbyteorder("="), copy=False)


@dataclass(frozen=True)
class TilePlan:
    """Where the tiles of a page lie, in rows and columns of the page, which is padded at its end.

    Attributes:
        height, width: the page, in pixels.
        rows, columns: first row and first column of the tiles, in pixels.
        tile, overlap: side of a tile and least overlap of neighbours, in pixels.
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

    def batches(self, size: int) -> Iterator[list[Place]]:
        """Yield places of tiles row by row, `size` at a time, because a wide row may not fit in memory."""
        places = ((row, column) for row in self.rows for column in self.columns)
        while batch := list(islice(places, size)):
            yield batch


def plan_tiles(height: int, width: int, tile: int = TILE, overlap: int = OVERLAP) -> TilePlan:
    """Cover a page with the fewest tiles that overlap by at least `overlap`, evenly spread.

    A page smaller than a tile gets one tile, which `cut_tiles` pads by reflection.
    """
    return TilePlan(
        height, width, _starts(height, tile, overlap), _starts(width, tile, overlap), tile, overlap
    )


def _starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    if length <= tile:
        return (0,)
    count = -(-(length - overlap) // (tile - overlap))
    return tuple(round(index * (length - tile) / (count - 1)) for index in range(count))


def cut_tiles(normalised: Pixels, plan: TilePlan, places: Sequence[Place]) -> Pixels:
    """Cut the tiles at some places of a plan: (places, 1, tile, tile) float32, reflected past the edges."""
    tiles = np.empty((len(places), 1, plan.tile, plan.tile), np.float32)
    for tile, (row, column) in zip(tiles, places, strict=True):
        piece = normalised[row : row + plan.tile, column : column + plan.tile]
        below, right = plan.tile - piece.shape[0], plan.tile - piece.shape[1]
        if below or right:
            piece = np.pad(piece, ((0, below), (0, right)), mode="reflect")
        tile[0] = piece
    return tiles


class Blend:
    """Joins overlapping tiles of logits into one page, each weighted by a taper towards its edges.

    The tiles lie on a grid, so the sum of their weights is the product of one sum down and one across.
    Blending therefore needs memory for one float32 page, whatever the number of tiles.
    """

    def __init__(self, plan: TilePlan) -> None:
        self._plan = plan
        self._ramp = taper(plan.tile, plan.overlap)
        self._sum = np.zeros((plan.height, plan.width), np.float32)

    def add_tiles(self, logits: Pixels, places: Sequence[Place]) -> None:
        """Add the logits of the tiles at some places, (places, 1, tile, tile) float32."""
        weight = np.outer(self._ramp, self._ramp)
        for tile, (row, column) in zip(logits, places, strict=True):
            target = self._sum[row : row + self._plan.tile, column : column + self._plan.tile]
            height, width = target.shape
            target += tile[0, :height, :width] * weight[:height, :width]

    def result(self) -> Pixels:
        """Return the blended logits, (H, W) float32. Call it once: the sum is divided in place."""
        self._sum /= self._total(self._plan.rows, self._plan.height)[:, None]
        self._sum /= self._total(self._plan.columns, self._plan.width)
        return self._sum

    def _total(self, starts: tuple[int, ...], length: int) -> Pixels:
        """Sum the tiles' ramps along one axis: (length,) float32."""
        total = np.zeros(max(length, self._plan.tile), np.float32)
        for start in starts:
            total[start : start + self._plan.tile] += self._ramp
        return total[:length]


def taper(tile: int, overlap: int) -> Pixels:
    """Compute a tile's weights along one axis: 1 inside, falling linearly over the overlap, never 0.

    Returns:
        (tile,) float32 in (0, 1].
    """
    distance = np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 0.5
    return np.minimum(distance / max(overlap, 1), 1).astype(np.float32)


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Interpolate (H, W) float32 bilinearly, averaging over the source pixels when it shrinks."""
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)
