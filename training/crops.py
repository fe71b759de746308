"""The random crops that training takes from labelled images, and what they undergo."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import cv2
import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from cytomask import metrics
from cytomask.model import preprocess

Share = Annotated[float, Meta(ge=0, le=1)]
NotNegative = Annotated[float, Meta(ge=0)]
AboveZero = Annotated[float, Meta(gt=0)]
STREAKY = 0.25  # share of the noise that differs by column, or by row, as a camera's often does
GRAINY = 2.5  # deviations of the page: 15 grey levels are about 2 on a flat page of LIVECell's


@dataclass(frozen=True)
class Labelled:
    """One image with its ground truth.

    Attributes:
        name: the file's name without its suffix.
        pixels: (H, W) float32, normalised.
        cells: (H, W) bool.
        known: (H, W) bool, where the ground truth says anything; everywhere if None.
    """

    name: str
    pixels: preprocess.Pixels
    cells: metrics.Mask
    known: metrics.Mask | None = None

    def squashed(
        self, window: tuple[slice, slice], side: int
    ) -> tuple[preprocess.Pixels, preprocess.Pixels, preprocess.Pixels]:
        """Show a window of the page squashed to a tile of this side, in pixels, as `resize` mode does.

        Returns:
            Three (side, side) float32: pixels, coverage by cells 0..1, share that is known 0..1.
        """
        known = None if self.known is None else self.known[window]
        part = Labelled(self.name, self.pixels[window], self.cells[window], known)
        layers = (part.pixels, part.cells.astype(np.float32), part.weights())
        pixels, coverage, weights = (preprocess.resize(layer, side, side) for layer in layers)
        return pixels, coverage, weights

    def weights(self) -> preprocess.Pixels:
        """Return 1 where the ground truth is known and 0 elsewhere: (H, W) float32."""
        if self.known is None:
            return np.ones(self.cells.shape, np.float32)
        return self.known.astype(np.float32)


class Augmentation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a random crop may undergo; probabilities 0..1.

    Attributes:
        zoom: smallest and largest side of the source crop, as a multiple of the tile.
        unscaled: probability of a crop that is neither zoomed nor bent, so that its noise is as sharp as
            serving sees it: resampling smooths the noise of every other crop.
        squash: probability of a large window squashed to the tile, for `resize` mode.
        squash_window: smallest share of height and width that such a window covers; the largest is 1.
        flip: probability of the mirror image.
        turn: whether crops are turned by quarter turns, each equally likely; a squashed image takes half
            turns only, because its pixels are not square.
        affine: probability of a rotation by up to `rotation` degrees to either side, a shear of up to
            `shear` degrees and, for a squashed image, a shift by up to `shift` of its side.
        blur: probability of a Gaussian blur of up to `blur_deviation` pixels.
        gamma: largest change of the pixels' exponent, as a natural logarithm; half of the crops change.
        noise: largest standard deviation of added Gaussian noise, fine- or coarse-grained; mostly small.
        grainy: probability of noise of 1 to `GRAINY` deviations instead, as a short exposure has it. Such a
            crop is always normalised again, so its cells lose contrast as those of a noisy page do.
        repage: probability of normalising the crop as a page of its own. A crop without cells is then what
            an empty well looks like: nothing but noise, at full contrast.
        contrast, brightness: largest relative and absolute change of normalised pixels.
        light: probability of uneven light, whose largest deviation from even is `light_depth`.
        marks: probability of what a camera or a program leaves on a page: hot pixels, a scale bar, a dead
            border, a saturated border. A mark changes only the pixels, not which of them are cell.
    """

    zoom: tuple[AboveZero, AboveZero] = (0.75, 1.3)
    unscaled: Share = 0.0
    squash: Share = 0.15
    squash_window: Annotated[float, Meta(gt=0, le=1)] = 1.0
    flip: Share = 0.5
    turn: bool = True
    affine: Share = 0.0
    rotation: Annotated[float, Meta(ge=0, le=180)] = 45.0
    shear: Annotated[float, Meta(ge=0, lt=90)] = 10.0
    shift: Share = 0.1
    blur: Share = 0.0
    blur_deviation: Annotated[float, Meta(ge=0.1)] = 1.5
    gamma: NotNegative = 0.0
    noise: NotNegative = 0.4
    grainy: Share = 0.0
    repage: Share = 0.3
    contrast: Share = 0.2
    brightness: NotNegative = 0.2
    light: Share = 0.0
    light_depth: NotNegative = 1.5
    marks: Share = 0.0

    def __post_init__(self) -> None:
        """Refuse a zoom whose smallest side is above its largest."""
        if self.zoom[0] > self.zoom[1]:
            raise ValueError(f"zoom: the smallest side {self.zoom[0]} is above the largest, {self.zoom[1]}")


Mix = Sequence[tuple[float, Sequence[Labelled]]]
# Pixels, cells and known: of one shape, float32, the latter two 0 or 1.
Crop = tuple[preprocess.Pixels, preprocess.Pixels, preprocess.Pixels]


def draw_crop(mix: Mix, side: int, augmentation: Augmentation, rng: np.random.Generator) -> Crop:
    """Draw a source by its weight, an image of it at random, and return a crop as `random_crop` does."""
    weights = np.array([weight for weight, _ in mix])
    pool = mix[int(rng.choice(len(mix), p=weights / weights.sum()))][1]
    return random_crop(pool[int(rng.integers(len(pool)))], side, augmentation, rng)


def random_crop(item: Labelled, side: int, augmentation: Augmentation, rng: np.random.Generator) -> Crop:
    """Take one augmented crop of this side, in pixels.

    Returns:
        Three (1, side, side) float32: pixels, 0/1 cells and 0/1 known.
    """
    pixels, cells, known = _place(item, side, augmentation, rng)
    return _degrade(pixels, augmentation, rng)[None], cells[None], known[None]


def _place(item: Labelled, side: int, augmentation: Augmentation, rng: np.random.Generator) -> Crop:
    """Take a tile from anywhere, at any scale and angle: three (side, side) float32.

    What lies beyond the page is mirrored, as serving pads it, but not known.
    """
    squashed = rng.random() < augmentation.squash
    if squashed:
        pixels, coverage, known = item.squashed(_window(item.pixels.shape, augmentation, rng), side)
        placement = _placement(pixels.shape, side, 1.0, augmentation.shift, augmentation, rng)
    else:
        if rng.random() < augmentation.unscaled:
            augmentation = msgspec.structs.replace(augmentation, zoom=(1.0, 1.0), affine=0.0)
        zoom = rng.uniform(*augmentation.zoom)
        placement = _placement(item.pixels.shape, side, zoom, None, augmentation, rng)
        item, placement = _near(item, side, placement)
        pixels, coverage, known = item.pixels, item.cells.astype(np.float32), item.weights()
    pixels = _warp(pixels, side, placement)
    cells = (_warp(coverage, side, placement) >= 0.5).astype(np.float32)
    known = (_warp(known, side, placement, cv2.BORDER_CONSTANT) >= 0.5).astype(np.float32)

    turns = int(rng.integers(4)) if augmentation.turn else 0
    if squashed:
        turns -= turns % 2
    flipped = rng.random() < augmentation.flip
    return _turn(pixels, turns, flipped), _turn(cells, turns, flipped), _turn(known, turns, flipped)


def _window(
    shape: tuple[int, ...], augmentation: Augmentation, rng: np.random.Generator
) -> tuple[slice, slice]:
    """Choose a part of the page, anywhere, with the page's proportions."""
    share = rng.uniform(augmentation.squash_window, 1)
    lengths = [max(round(length * share), 1) for length in shape]
    starts = [int(rng.integers(whole - length + 1)) for whole, length in zip(shape, lengths, strict=True)]
    rows, columns = (slice(at, at + length) for at, length in zip(starts, lengths, strict=True))
    return rows, columns


def _placement(
    shape: tuple[int, ...],
    side: int,
    zoom: float,
    shift: float | None,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Return the (2, 3) matrix that maps a pixel of the tile, x and y, to its place in the source.

    Without `shift`, the tile lies anywhere inside the source, or in its middle if the source is smaller.
    With it, the tile's centre lies within that share of a side from the middle.
    """
    sheared = np.eye(2)
    bent = rng.random() < augmentation.affine
    if bent:
        angle, slant = np.deg2rad(rng.uniform(-1, 1, 2) * (augmentation.rotation, augmentation.shear))
        turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        sheared = turned @ np.array([[1, np.tan(slant)], [0, 1]])
    half = (side - 1) / 2  # of the tile; below, `reach` is the tile's side in the source
    reach = side * zoom
    middle = (np.array(shape[1::-1]) - 1) / 2  # x, y
    if shift is None:
        room = np.maximum(np.array(shape[1::-1]) - reach, 0) / 2
        # Whole pixels: without zoom and bend nothing is resampled.
        corner = np.round(middle + rng.uniform(-room, room) - (reach - 1) / 2)
        centre = np.where(room > 0, corner + (reach - 1) / 2, middle)
    else:
        centre = middle + (rng.uniform(-shift, shift, 2) * reach if bent else 0)
    linear = zoom * sheared
    return np.column_stack([linear, centre - linear @ np.array([half, half])])


def _near(item: Labelled, side: int, placement: NDArray[np.float64]) -> tuple[Labelled, NDArray[np.float64]]:
    """Cut the part of the page that the tile shows, so that no crop touches a whole page of megapixels.

    Where the tile reaches beyond the page, that direction keeps its full length: it is mirrored.
    """
    corners = placement @ np.array([[0, side, 0, side], [0, 0, side, side], [1, 1, 1, 1]])  # x, y
    starts, cut = [], []
    for near, length in zip(corners[::-1], item.pixels.shape, strict=True):  # rows, then columns
        first, last = math.floor(near.min()) - 1, math.ceil(near.max()) + 2
        inside = first >= 0 and last <= length
        starts.append(first if inside else 0)
        cut.append(slice(first, last) if inside else slice(None))
    rows, columns = cut
    known = None if item.known is None else item.known[rows, columns]
    part = Labelled(item.name, item.pixels[rows, columns], item.cells[rows, columns], known)
    return part, placement - np.array([[0, 0, starts[1]], [0, 0, starts[0]]])


def _warp(
    source: preprocess.Pixels,
    side: int,
    placement: NDArray[np.float64],
    beyond: int = cv2.BORDER_REFLECT_101,
) -> preprocess.Pixels:
    """Return the tile at that place, (side, side) float32, bilinear.

    Beyond the source it is mirrored, or 0 with cv2.BORDER_CONSTANT.
    """
    tile = cv2.warpAffine(
        source,
        placement,
        (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=beyond,
    )
    return tile.astype(np.float32, copy=False)


def _degrade(
    pixels: preprocess.Pixels, augmentation: Augmentation, rng: np.random.Generator
) -> preprocess.Pixels:
    """Degrade a tile, (side, side) float32, as optics and camera do."""
    if rng.random() < augmentation.blur:
        deviation = rng.uniform(0.1, augmentation.blur_deviation)
        pixels = cv2.GaussianBlur(pixels, (0, 0), deviation).astype(np.float32, copy=False)
    if augmentation.gamma and rng.random() < 0.5:
        pixels = _bend(pixels, float(np.exp(rng.uniform(-1, 1) * augmentation.gamma)))
    grainy = rng.random() < augmentation.grainy
    deviation = rng.uniform(1, GRAINY) if grainy else augmentation.noise * rng.random() ** 2
    pixels = pixels + _noise(pixels.shape[0], deviation, rng)
    if rng.random() < augmentation.light:
        pixels = pixels + _uneven_light(pixels.shape[0], augmentation.light_depth * rng.uniform(0, 1), rng)
    if rng.random() < augmentation.marks:
        pixels = _marked(pixels, rng)
    if grainy or rng.random() < augmentation.repage:
        pixels = preprocess.normalise(pixels)
    pixels = pixels * np.float32(1 + rng.uniform(-augmentation.contrast, augmentation.contrast))
    return pixels + np.float32(rng.uniform(-augmentation.brightness, augmentation.brightness))


def _bend(pixels: preprocess.Pixels, gamma: float) -> preprocess.Pixels:
    """Raise the pixels between their extremes to a power; mean and deviation stay."""
    low, high = pixels.min(), pixels.max()
    if low == high:
        return pixels
    bent: preprocess.Pixels = ((pixels - low) / (high - low)) ** np.float32(gamma)
    restored: preprocess.Pixels = (bent - bent.mean()) * (pixels.std() / bent.std()) + pixels.mean()
    return restored


def _noise(side: int, deviation: float, rng: np.random.Generator) -> preprocess.Pixels:
    """Draw Gaussian noise for one tile, in grains of one or two pixels; some has a camera's streaks."""
    grain = int(rng.integers(1, 3))
    grains = side // grain
    coarse = rng.standard_normal((grains, grains), np.float32)
    if rng.random() < STREAKY:
        along = (1, grains) if rng.random() < 0.8 else (grains, 1)
        coarse += rng.standard_normal(along, np.float32) * np.float32(rng.uniform(0.2, 0.8))
    return np.repeat(np.repeat(coarse * np.float32(deviation), grain, axis=0), grain, axis=1)


def _uneven_light(side: int, depth: float, rng: np.random.Generator) -> preprocess.Pixels:
    """Draw a slope and a vignette of up to `depth` either way: (side, side) float32."""
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    down, across = np.meshgrid(axis, axis, indexing="ij")
    weights = rng.uniform(-1, 1, 3)
    row, column = rng.uniform(-1, 1, 2)
    field = weights[0] * down + weights[1] * across
    field = field + weights[2] * ((down - row) ** 2 + (across - column) ** 2)
    field -= field.mean()
    light: preprocess.Pixels = (field * (depth / np.abs(field).max())).astype(np.float32)
    return light


def _marked(pixels: preprocess.Pixels, rng: np.random.Generator) -> preprocess.Pixels:
    """Put one kind of mark on a tile, (side, side) float32."""
    pixels = pixels.copy()
    side = pixels.shape[0]
    low, high = float(pixels.min()), float(pixels.max())
    match int(rng.integers(3)):
        case 0:  # hot pixels
            hot = rng.random(pixels.shape) < 10 ** rng.uniform(-4, -2)
            pixels[hot] = high + rng.uniform(0, 8)
        case 1:  # a scale bar, white or black, some with a few letters
            height, width = int(rng.integers(2, 12)), int(rng.integers(20, 160))
            row, column = int(rng.integers(side - height)), int(rng.integers(side - width))
            value = (high + rng.uniform(0, 6)) if rng.random() < 0.7 else (low - rng.uniform(0, 6))
            pixels[row : row + height, column : column + width] = value
            for _ in range(int(rng.integers(0, 8))):
                left, top = int(rng.integers(column, column + width)), max(row - 14, 0)
                pixels[top : top + int(rng.integers(2, 11)), left : left + int(rng.integers(1, 4))] = value
        case _:  # a border: at the mean if normalising found it, otherwise dark or bright
            width = int(rng.integers(1, 48))
            value = float(rng.choice([0, 0, low - rng.uniform(0, 6), high + rng.uniform(0, 6)]))
            turned = np.rot90(pixels, int(rng.integers(4)))  # a view: the border may be on any side
            turned[:width] = value
    return pixels


def _turn(array: preprocess.Pixels, turns: int, flipped: bool) -> preprocess.Pixels:
    """Apply one of the eight symmetries of the square."""
    turned = np.rot90(array, turns)
    return np.ascontiguousarray(turned[:, ::-1] if flipped else turned)
