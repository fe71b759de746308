"""Degrade pages the way optics, cameras and programs do, one function each, to measure the loss of quality.

A degradation keeps track of the page's pixels: `back` maps a mask of the degraded page to the plain page,
and `seen` marks where both show the same scene.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cytomask.samples.fields import blur

Page = NDArray[Any]
Mask = NDArray[np.bool_]

HOT_PIXELS, BORDER, FILL = 400, 16, -10_000.0
BAR = (8, 120)  # height and width of a scale bar, in pixels


@dataclass(frozen=True)
class Degraded:
    """A page after a degradation.

    Attributes:
        page: (H', W'), any real dtype.
        back: maps a mask of that page, (H', W') bool, to the plain page, (H, W) bool.
        seen: (H, W) bool, True where the degraded page still shows the scene.
    """

    page: Page
    back: Callable[[Mask], Mask]
    seen: Mask


Degradation = Callable[[Page, np.random.Generator], Degraded]


def _in_place(change: Callable[[Page, np.random.Generator], Page]) -> Degradation:
    """Make a degradation from a function that keeps each pixel in its place."""

    def degrade(page: Page, rng: np.random.Generator) -> Degraded:
        return Degraded(change(page, rng), lambda mask: mask, np.ones(page.shape, np.bool_))

    return degrade


def _covering(change: Callable[[Page, Mask, np.random.Generator], Page]) -> Degradation:
    """Make a degradation from a function that also notes which pixels it covers."""

    def degrade(page: Page, rng: np.random.Generator) -> Degraded:
        covered = np.zeros(page.shape, np.bool_)
        changed = change(page, covered, rng)
        return Degraded(changed, lambda mask: mask, ~covered)

    return degrade


def _rounded(values: NDArray[np.floating[Any]], like: Page) -> Page:
    """Clip to the range of a page's dtype and round."""
    if not np.issubdtype(like.dtype, np.integer):
        return values.astype(like.dtype)
    limits = np.iinfo(like.dtype)
    rounded: Page = np.clip(np.rint(values), limits.min, limits.max).astype(like.dtype)
    return rounded


def grey_level(page: Page) -> float:
    """Return the size of one of 256 grey levels in units of the page: 1 if it has 8 bits."""
    if page.dtype == np.uint8:
        return 1.0
    low, high = np.percentile(page, (0.1, 99.9))
    return max(float(high - low) / 128, 1e-9)  # a page of LIVECell spans about half of its 8 bits


def blurred(deviation: float) -> Degradation:
    """Blur with a Gaussian of this deviation, in pixels."""
    return _in_place(lambda page, _: _rounded(_smooth(page, deviation), page))


def _smooth(page: Page, deviation: float) -> NDArray[np.float32]:
    margin = int(4 * deviation) + 1
    padded = np.pad(page.astype(np.float32), margin, mode="reflect")
    return blur(padded, deviation)[margin:-margin, margin:-margin]


def noisy(levels: float) -> Degradation:
    """Add Gaussian noise of this deviation, in grey levels of 256."""

    def change(page: Page, rng: np.random.Generator) -> Page:
        return _rounded(page + levels * grey_level(page) * rng.standard_normal(page.shape), page)

    return _in_place(change)


def dimmed(share: float) -> Degradation:
    """Keep this share of the light and of the contrast."""
    return _in_place(lambda page, _: _rounded(page * share, page))


def _hot_pixels(page: Page, rng: np.random.Generator) -> Page:
    changed = page.copy()
    places = rng.choice(page.size, min(HOT_PIXELS, page.size), replace=False)
    changed.flat[places] = np.iinfo(page.dtype).max if page.dtype.kind == "u" else 10 * page.max()
    return changed


def _scale_bar(page: Page, covered: Mask, _: np.random.Generator) -> Page:
    changed = page.copy()
    bar = np.s_[-3 * BAR[0] : -2 * BAR[0], -BAR[1] - 20 : -20]
    changed[bar] = np.iinfo(page.dtype).max if page.dtype.kind == "u" else page.max()
    covered[bar] = True
    return changed


def _dead_border(page: Page, covered: Mask, _: np.random.Generator) -> Page:
    changed = page.copy()
    changed[:, -BORDER:] = 0
    covered[:, -BORDER:] = True
    return changed


def _fill_value(page: Page, covered: Mask, _: np.random.Generator) -> Page:
    changed = page.astype(np.float32)
    band = slice(0, max(page.shape[0] // 10, 1))
    changed[band] = FILL
    covered[band] = True
    return changed


def vignetted(depth: float) -> Degradation:
    """Remove this share of the light in the corners, less towards the middle."""

    def change(page: Page, _: np.random.Generator) -> Page:
        down, across = (np.linspace(-1, 1, length) for length in page.shape)
        far = (down[:, None] ** 2 + across[None] ** 2) / 2
        return _rounded(page * (1 - depth * far), page)

    return _in_place(change)


def rescaled(factor: float) -> Degradation:
    """Scale the page to another size; masks are compared at the original size."""

    def degrade(page: Page, _: np.random.Generator) -> Degraded:
        height, width = (max(round(length * factor), 1) for length in page.shape)
        floats = Image.fromarray(page.astype(np.float32))
        changed = np.asarray(floats.resize((width, height), Image.Resampling.BILINEAR))

        def back(mask: Mask) -> Mask:
            shares = Image.fromarray(mask.astype(np.float32))
            plain = shares.resize(page.shape[::-1], Image.Resampling.BILINEAR)
            return np.asarray(plain) >= 0.5

        return Degraded(_rounded(changed, page), back, np.ones(page.shape, np.bool_))

    return degrade


def turned(quarters: int) -> Degradation:
    """Turn the page by quarters of a circle."""

    def degrade(page: Page, _: np.random.Generator) -> Degraded:
        return Degraded(
            np.ascontiguousarray(np.rot90(page, quarters)),
            lambda mask: np.rot90(mask, -quarters),
            np.ones(page.shape, np.bool_),
        )

    return degrade


def _sixteen_bits(page: Page, _: np.random.Generator) -> Page:
    if page.dtype == np.uint8:
        return page.astype(np.uint16) * np.uint16(257)
    low, high = float(page.min()), float(page.max())
    stretched: Page = np.rint((page - low) / max(high - low, 1e-9) * 65535).astype(np.uint16)
    return stretched


def _eight_bits(page: Page, _: np.random.Generator) -> Page:
    if page.dtype == np.uint8:
        return page
    low, high = np.percentile(page, (0.1, 99.9))
    stretched: Page = np.clip(np.rint((page - low) / max(high - low, 1e-9) * 255), 0, 255)
    return stretched.astype(np.uint8)


# First those that do not touch the cells: the mask should stay the same.
HARMLESS: dict[str, Degradation] = {
    "hot pixels": _in_place(_hot_pixels),
    "scale bar": _covering(_scale_bar),
    "dead border": _covering(_dead_border),
    "fill value": _covering(_fill_value),
    "vignette": vignetted(0.3),
    "dimmed to half": dimmed(0.5),
    "16 bit": _in_place(_sixteen_bits),
    "8 bit": _in_place(_eight_bits),
    "turned by 90°": turned(1),
    "turned by 180°": turned(2),
}
HARMFUL: dict[str, Degradation] = {
    "noise of 15 levels": noisy(15),
    "blur of 1 pixel": blurred(1),
    "blur of 2 pixels": blurred(2),
    "blur of 4 pixels": blurred(4),
    "half size": rescaled(0.5),
    "double size": rescaled(2),
}
DEGRADATIONS = HARMLESS | HARMFUL


def _inverted(page: Page, _: np.random.Generator) -> Page:
    inverted: Page = (page.max() - page + page.min()).astype(page.dtype)
    return inverted


def _fluorescent(page: Page, rng: np.random.Generator) -> Page:
    """Light up textured areas on a dark background, with shot noise."""
    fine = page - _smooth(page, 3)
    light = np.sqrt(_smooth(fine * fine, 4))
    light = 2000 * light / max(float(np.percentile(light, 99.5)), 1e-9)
    counted = rng.poisson(np.maximum(light, 0)) + 100 + rng.normal(0, 4, page.shape)
    return np.clip(counted, 0, 65535).astype(np.uint16)


def _relief(page: Page, _: np.random.Generator) -> Page:
    """Show slopes, as differential interference contrast does."""
    soft = _smooth(page, 2)
    slope = soft - np.roll(soft, (3, 3), axis=(0, 1))
    relief: Page = np.rint(slope * 100 / max(float(np.abs(slope).max()), 1e-9) + 128).astype(np.uint8)
    return relief


# Degradations too strong for any network, and other kinds of microscopy, to test the quality flags.
SEVERE: dict[str, Degradation] = {
    "blur of 3 pixels": blurred(3),
    "blur of 6 pixels": blurred(6),
    "noise of 30 levels": noisy(30),
    "noise of 60 levels": noisy(60),
    "dimmed to a tenth": dimmed(0.1),
    "dimmed to a fiftieth": dimmed(0.02),
    "vignette of 80 %": vignetted(0.8),
    "a third of the size": rescaled(1 / 3),
}
MODALITIES: dict[str, Degradation] = {
    "inverted": _in_place(_inverted),
    "fluorescence": _in_place(_fluorescent),
    "relief": _in_place(_relief),
}
