"""Generate pages without a cell: an empty well, a dirty one, a camera in the dark.

Training uses them as pages without cells, and evaluation measures phantom confluence on them. They are
computed from a seed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomask.samples.fields import Plane, blur, noise

BIT_DEPTHS = (8, 10, 12, 14, 16)
LEAST_LEVELS = 12.0  # least range of grey levels on an 8-bit page


@dataclass(frozen=True)
class EmptyPage:
    """One page without cells.

    Attributes:
        kind: its content, one of `KINDS`.
        pixels: (H, W) uint8, or uint16 with 10, 12, 14 or 16 bits in use.
    """

    kind: str
    pixels: NDArray[np.uint8] | NDArray[np.uint16]


def empty_page(seed: int, height: int = 520, width: int = 704) -> EmptyPage:
    """Compute one page. Consecutive seeds cycle through the kinds; the seed also decides all randomness.

    Args:
        seed: at least 0; the same seed gives the same page.
        height: in pixels.
        width: in pixels.
    """
    rng = np.random.default_rng((1907, seed))
    kind = empty_page_kind(seed)
    light = KINDS[kind](rng, (height, width))
    return EmptyPage(kind, _exposed(rng, light))


def empty_page_kind(seed: int) -> str:
    """Return the kind of page for a seed."""
    return list(KINDS)[seed % len(KINDS)]


def _sensor(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Noise of single pixels, with the streaks of a camera's columns on some pages."""
    columns = rng.standard_normal((1, shape[1]), np.float32) * np.float32(rng.choice([0, 0, 0, 0, 0.3, 0.7]))
    page: Plane = rng.standard_normal(shape, np.float32) + columns
    return page


def _grain(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Noise in grains of 1 to 8 pixels, over some noise of single pixels."""
    size = float(np.exp(rng.uniform(0, np.log(8))))
    stretched = size * float(rng.choice([1, 1, 1, 2]))
    return noise(rng, shape, size, stretched) + _sensor(rng, shape) * np.float32(rng.uniform(0, 0.5))


def _gradient(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Light that falls from one side to the other."""
    down, across = _place(shape)
    turn = rng.uniform(0, 2 * np.pi)
    slope: Plane = np.float32(np.cos(turn)) * across + np.float32(np.sin(turn)) * down
    return _steep(rng) * slope + _sensor(rng, shape)


def _vignette(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Light that falls towards the corners, or a meniscus that is brightest there."""
    down, across = _place(shape)
    down, across = down - rng.uniform(-0.4, 0.4), across - rng.uniform(-0.4, 0.4)
    sign = np.float32(rng.choice([-1, -1, 1]))
    return sign * _steep(rng) * (down**2 + across**2) + _sensor(rng, shape)


def _dust(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Specks and crumbs, dark or bright, each with a fringe."""
    page = _sensor(rng, shape)
    for _ in range(int(rng.integers(3, 60))):
        size = float(np.exp(rng.uniform(np.log(0.6), np.log(4))))
        height = rng.uniform(3, 25) * rng.choice([-1, -1, 1])
        _stamp(page, rng, partial(_fringed, size=size), height, 5 * size)
    return page


def _scratches(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Long thin lines, straight or slightly bent, and a fibre or two."""
    page = _sensor(rng, shape)
    down, across = np.indices(shape, np.float32)
    for _ in range(int(rng.integers(1, 8))):
        turn, bend = rng.uniform(0, np.pi), rng.uniform(-1e-3, 1e-3)
        row, column = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        along = (across - column) * np.cos(turn) + (down - row) * np.sin(turn)
        aside = (down - row) * np.cos(turn) - (across - column) * np.sin(turn) + bend * along**2
        size = rng.uniform(0.6, 2.5)
        inside = np.abs(along) < rng.uniform(40, 800)
        page += np.where(inside, rng.uniform(3, 15) * rng.choice([-1, 1]) * _fringed(aside, size), 0)
    return page


def _bubbles(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Rings of air with a bright and a dark rim."""
    page = _sensor(rng, shape)
    for _ in range(int(rng.integers(1, 6))):
        radius = float(np.exp(rng.uniform(np.log(10), np.log(120))))
        rim = rng.uniform(1, 4)
        inside = rng.uniform(-1.5, 1.5)

        ring = partial(_ring, radius=radius, rim=rim, inside=inside)
        _stamp(page, rng, ring, rng.uniform(5, 20) * rng.choice([-1, 1]), radius + 8 * rim)
    return page


def _defocus(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Dust and fibres far from the plane of focus: wide soft blots and rings of light."""
    blots = np.zeros(shape, np.float32)
    for _ in range(int(rng.integers(5, 50))):
        blots[int(rng.integers(shape[0])), int(rng.integers(shape[1]))] += rng.uniform(0.5, 2) * rng.choice(
            [-1, 1]
        )
    wide = blur(blots, float(rng.uniform(5, 25)))
    scale = float(np.abs(wide).max()) or 1.0
    return wide * np.float32(rng.uniform(2, 12) / scale) + _sensor(rng, shape)


def _medium(rng: np.random.Generator, shape: tuple[int, int]) -> Plane:
    """Protein and streaks of the medium: faint soft texture of several sizes at once."""
    streaks = noise(rng, shape, float(rng.uniform(3, 12)), float(rng.uniform(0.6, 3)))
    clouds = noise(rng, shape, float(rng.uniform(20, 60)))
    page: Plane = (
        streaks * np.float32(rng.uniform(0.2, 1))
        + clouds * np.float32(rng.uniform(0, 2))
        + _sensor(rng, shape) * np.float32(rng.uniform(0.2, 1))
    )
    return page


Maker = Callable[[np.random.Generator, tuple[int, int]], Plane]
KINDS: dict[str, Maker] = {
    "sensor": _sensor,
    "grain": _grain,
    "gradient": _gradient,
    "vignette": _vignette,
    "dust": _dust,
    "scratches": _scratches,
    "bubbles": _bubbles,
    "defocus": _defocus,
    "medium": _medium,
}


def _exposed(rng: np.random.Generator, light: Plane) -> NDArray[Any]:
    """Turn light into grey levels of a camera with 8 to 16 bits and some hot pixels."""
    bits = int(rng.choice(BIT_DEPTHS))
    levels = 2**bits - 1
    low, high = np.percentile(light, (0.1, 99.9))
    # The contrast goes from faint on a bright background to the camera's whole range.
    share = float(np.exp(rng.uniform(np.log(LEAST_LEVELS / 255), np.log(0.9))))
    ground = rng.uniform(0.02, 0.98 - share)
    scaled = ground + share * (light - low) / (high - low)
    rounded = np.clip(np.rint(scaled * levels), 0, levels)
    pixels: NDArray[Any] = rounded.astype(np.uint8 if bits == 8 else np.uint16)
    hot = rng.random(pixels.shape) < rng.choice([0, 0, 0, 1e-4, 1e-3])
    pixels[hot] = levels
    return pixels


def _place(shape: tuple[int, int]) -> tuple[Plane, Plane]:
    """Return each pixel's row and column, scaled to -1..1: two (H, W) float32."""
    axes = (np.linspace(-1, 1, length, dtype=np.float32) for length in shape)
    down, across = np.meshgrid(*axes, indexing="ij")
    return down, across


def _steep(rng: np.random.Generator) -> np.float32:
    """Draw how far light falls over half a page, in deviations of the noise."""
    return np.float32(np.exp(rng.uniform(np.log(0.5), np.log(60))))


def _fringed(far: Plane, size: float) -> Plane:
    """Draw a line or speck with its fringe of phase contrast, 1 in the middle."""
    core, fringe = np.exp(-((far / size) ** 2) / 2), np.exp(-((far / (2 * size)) ** 2) / 2)
    return (1.5 * core - 0.5 * fringe).astype(np.float32)


def _ring(far: Plane, radius: float, rim: float, inside: float) -> Plane:
    """Draw a fringed ring whose inside is a little brighter or darker than its surroundings."""
    return (_fringed(far - np.float32(radius), rim) + inside / 10 * (far < radius)).astype(np.float32)


def _stamp(
    page: Plane, rng: np.random.Generator, shape_of: Callable[[Plane], Plane], height: float, reach: float
) -> None:
    """Add a shape, a function of the distance from its middle, at a random place; changes the page."""
    row, column = rng.uniform(0, page.shape[0]), rng.uniform(0, page.shape[1])
    top, left = max(int(row - reach), 0), max(int(column - reach), 0)
    part = page[top : int(row + reach) + 1, left : int(column + reach) + 1]
    down, across = np.indices(part.shape, np.float32)
    ratio = rng.uniform(0.8, 1.25)
    far = np.hypot((down + top - row) * ratio, (across + left - column) / ratio).astype(np.float32)
    part += np.float32(height) * shape_of(far)
