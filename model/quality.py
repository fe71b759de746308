"""Measure how far a page and its mask can be trusted, and flag each number that is out of bounds.

Flags warn and never refuse. `cytomask.training.quality_bounds` found the bounds on public pages and on
degraded copies of them; docs/quality.md has the table.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from cytomask.model import preprocess
from cytomask.model.preprocess import Pixels
from cytomask.model.quality_bounds import BOUNDS, Bounds

FlagName = Literal[
    "EMPTY",
    "OUT_OF_FOCUS",
    "SATURATED",
    "LOW_CONTRAST",
    "UNEVEN_LIGHT",
    "UNUSUAL",
    "UNCERTAIN",
    "SQUASHED",
]

BLOCK = 16  # pixels; texture and light are measured in squares of this side
LINES = 16  # changes of grey value are measured along every 16th row and column
ROWS = 4  # the texture of blocks and saturated pixels are measured in every fourth row
GRID = 8  # skew, tails and levels are measured in every eighth pixel of every eighth row
TAIL = 5  # deviations; skew and tails clip values here
LEAST_CHANGE = 1e-6  # smaller ones count as this, for the logarithm
SMOOTH = np.array([[0, 1, 1], [1, 1, 0], [1, 0, 0]], np.bool_)  # of constant, slope and bend; down, across
LAGS = (1, 2, 4, 8, 16)  # pixels between the two grey values that are compared


class Flag(msgspec.Struct, frozen=True):
    """A warning: its name, and the number that is out of bounds."""

    name: FlagName
    value: float


def share_above(logits: Pixels, probability: float) -> float:
    """Return the share of a page's pixels with at least this probability of cell, from (H, W) logits."""
    bound = math.log(probability / (1 - probability))
    return float(np.count_nonzero(logits >= bound) / logits.size)


class Appearance(msgspec.Struct, frozen=True):
    """The measurements of one page that need no mask.

    Attributes:
        sharpness: change of grey value over 1 pixel, as a share of the change over 4 pixels. Blur lowers it
            to 0.25, noise raises it to 1.
        saturated: share of the page at its darkest or brightest value.
        levels: grey levels between the 1st and the 99th percentile; infinite for floats.
        unevenness: deviation of the light, a smooth surface, as a share of the page's.
        unusualness: distance in texture and grey values from the training pages, or from the nearest
            fine-tuning page, in deviations.
    """

    sharpness: float
    saturated: float
    levels: float
    unevenness: float
    unusualness: float


class Measures(Appearance, frozen=True):
    """The measurements of one page and its mask.

    Attributes:
        confluence_low, confluence_high: share of the page whose probability is 0.7 or more, and 0.3 or more.
        doubt: area with a probability between 0.3 and 0.7, as a share of the cells' area.
        squashed: whether the network saw the page squashed to one tile, as in `resize` mode.
        shrinkage: factor by which `resize` mode shrinks the longer side; 1 in `native` mode.
    """

    confluence_low: float
    confluence_high: float
    doubt: float
    squashed: bool
    shrinkage: float


def describe(normalised: Pixels) -> NDArray[np.float64]:
    """Describe texture and grey values of a page by a few numbers.

    Args:
        normalised: (H, W) float32, as `preprocess.normalise` returns it; not all 0.

    Returns:
        (len(DESCRIPTION),) float64.
    """
    return _described(normalised, _changes(normalised), _blocks(normalised)[1])


def _described(
    normalised: Pixels, changes: NDArray[np.float64], deviations: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Describe a page from its grey value changes and the deviations of its blocks."""
    ordered = np.sort(deviations, axis=None)
    calm, middle, busy = (float(ordered[tenth * ordered.size // 10]) for tenth in (1, 5, 9))
    # Clip, or hot pixels and scale bars would decide skew and tails.
    sample = np.clip(normalised[::GRID, ::GRID].ravel().astype(np.float64), -TAIL, TAIL)
    sample -= sample.mean()
    squares = sample * sample
    variance = max(float(squares.mean()), 1e-12)
    steps = [math.log(change) for change in changes.tolist()]
    return np.array(
        [
            *(far - near for near, far in pairwise(steps)),
            steps[0],
            math.log(calm),
            math.log(middle / calm),
            math.log(busy / middle),
            float(squares @ sample) / sample.size / variance**1.5,
            math.log(max(float(squares @ squares) / sample.size / variance**2, 1e-12)),
        ]
    )


DESCRIPTION = (
    *(f"change over {far} / {near}" for near, far in pairwise(LAGS)),
    "change over 1",
    "calm block",
    "middle / calm block",
    "busy / middle block",
    "skew",
    "tails",
)


def _changes(normalised: Pixels) -> NDArray[np.float64]:
    """Return the mean change of grey value over each of `LAGS`, (5,) float64, along rows and columns."""
    means = []
    both = normalised[::LINES], np.ascontiguousarray(normalised[:, ::LINES].T)
    for lag in LAGS:
        sums = count = 0.0
        for lines in both:
            if lines.shape[1] > lag:
                differences = lines[:, lag:] - lines[:, :-lag]
                sums += float(np.abs(differences, out=differences).sum())
                count += differences.size
        means.append(sums / count if count else 0.0)
    changes: NDArray[np.float64] = np.maximum(np.array(means), LEAST_CHANGE)
    return changes


def _blocks(normalised: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and deviation of each block: two (H // BLOCK, W // BLOCK) float64, at least one block."""
    down, across = (max(length // BLOCK, 1) for length in normalised.shape)
    height, width = (min(length, BLOCK) for length in normalised.shape)
    cut = normalised[: down * height, : across * width]
    if height == BLOCK:
        cut, height = cut[::ROWS], height // ROWS

    def averaged(values: Pixels) -> NDArray[np.float64]:
        rows = values.reshape(down, height, across * width).sum(axis=1)  # rows first: neighbours in memory
        sums: NDArray[np.float64] = rows.astype(np.float64).reshape(down, across, width) @ np.ones(width)
        sums /= height * width
        return sums

    means = averaged(cut)
    return means, np.sqrt(np.maximum(averaged(np.square(cut)) - means**2, 1e-12))


def look_at(
    page: NDArray[np.generic], normalised: Pixels, known_pages: Sequence[Sequence[float]] = ()
) -> Appearance:
    """Measure what needs no mask, so that the network can run meanwhile.

    Args:
        page: (H, W), any real dtype, finite values.
        normalised: (H, W) float32, the same page normalised.
        known_pages: `describe` of each page that the weights were fine-tuned on; they count as usual too.
    """
    changes = _changes(normalised)
    if changes.max() <= LEAST_CHANGE and not normalised.any():  # a constant page
        return Appearance(1.0, 1.0, 0.0, 0.0, 0.0)
    means, deviations = _blocks(normalised)
    usual = np.array([BOUNDS.centre, *known_pages])
    away = (_described(normalised, changes, deviations) - usual) @ BOUNDS.whitening.T  # usual pages, measures
    return Appearance(
        sharpness=float(changes[0] / changes[2]),
        saturated=_saturated(page, normalised),
        levels=_levels(page),
        unevenness=_unevenness(means),
        unusualness=float(np.sqrt(np.square(away).mean(axis=1).min())),
    )


def measure(appearance: Appearance, logits: Pixels, *, squashed: bool) -> Measures:
    """Measure a page and the network's logits for it.

    Args:
        appearance: what `look_at` measured.
        logits: (H, W) float32.
        squashed: as in `Measures`.
    """
    low, high = share_above(logits, 0.7), share_above(logits, 0.3)
    return Measures(
        confluence_low=low,
        confluence_high=high,
        doubt=(high - low) / max(high, 0.02),
        squashed=squashed,
        shrinkage=max(logits.shape) / preprocess.SQUARE if squashed else 1.0,
        **msgspec.structs.asdict(appearance),
    )


def check(appearance: Appearance, logits: Pixels, *, squashed: bool) -> tuple[Flag, ...]:
    """Return the flags of a page; the arguments are those of `measure`."""
    return tuple(flags_of(measure(appearance, logits, squashed=squashed)))


def flags_of(measures: Measures, bounds: Bounds = BOUNDS) -> list[Flag]:
    """Return a flag for every number out of bounds, in the order of `FlagName`."""
    doubt = bounds.squashed_doubt if measures.squashed else bounds.doubt
    found: list[tuple[FlagName, float, bool]] = [
        ("EMPTY", measures.confluence_high, measures.confluence_high < bounds.empty),
        ("OUT_OF_FOCUS", measures.sharpness, measures.sharpness < bounds.sharpness),
        ("SATURATED", measures.saturated, measures.saturated > bounds.saturated),
        ("LOW_CONTRAST", measures.levels, measures.levels < bounds.levels),
        ("UNEVEN_LIGHT", measures.unevenness, measures.unevenness > bounds.unevenness),
        ("UNUSUAL", measures.unusualness, measures.unusualness > bounds.unusualness),
        ("UNCERTAIN", measures.doubt, measures.doubt > doubt),
        ("SQUASHED", measures.shrinkage, measures.shrinkage > bounds.shrinkage),
    ]
    return [Flag(name, round(value, 4)) for name, value, out in found if out]


def _saturated(page: NDArray[np.generic], normalised: Pixels) -> float:
    """Return the share of the page at its lowest or highest value, excluding fill (normalised to 0)."""
    rows, light = page[::ROWS], normalised[::ROWS]
    dark = np.count_nonzero((rows == page.min()) & (light != 0))
    return float(dark + np.count_nonzero(rows == page.max())) / rows.size


def _levels(page: NDArray[np.generic]) -> float:
    """Count the grey levels that the page can have between its 1st and 99th percentile."""
    if page.dtype.kind == "f":
        return math.inf
    low, high = preprocess.low_and_high(page[::GRID, ::GRID].ravel())
    return high - low


def _unevenness(means: NDArray[np.float64]) -> float:
    """Fit a smooth surface to the block means, (rows, columns) float64, and return its deviation."""
    down, across = (_bends(length) for length in means.shape)
    # On a full grid the products of the terms are orthogonal, so each can be fitted alone.
    fitted = np.square(down @ means @ across.T)
    return math.sqrt(float(fitted[SMOOTH].sum()) / means.size)


@lru_cache(8)
def _bends(length: int) -> NDArray[np.float64]:
    """Return a constant, a slope and a bend along an axis: (3, length) float64, orthonormal or 0."""
    place = np.linspace(-1, 1, length) if length > 1 else np.zeros(1)
    squares = place * place
    terms = np.stack([np.ones(length), place, squares - squares.mean()])
    lengths = np.sqrt(np.square(terms).sum(axis=1, keepdims=True))
    terms /= np.where(lengths > 1e-9, lengths, np.inf)
    return terms
