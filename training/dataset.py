"""Labelled images and the random crops that training takes from them."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cytomask import images, metrics
from model import preprocess


@dataclass(frozen=True)
class Labelled:
    """One image with its ground truth: (H, W) float32 normalised pixels and (H, W) bool cells."""

    name: str
    pixels: preprocess.Pixels
    cells: metrics.Mask


@dataclass(frozen=True)
class Augmentation:
    """What a random crop may undergo; probabilities 0..1.

    Attributes:
        zoom: smallest and largest side of the source crop, as a multiple of the tile.
        squash: probability of taking the whole image squashed to the tile, for `resize` mode.
        noise: largest standard deviation of added Gaussian noise, fine- or coarse-grained; most is small.
        repage: probability of normalising the crop as a page of its own. A crop without cells is then what
            an empty well looks like: nothing but noise, at full contrast.
        contrast, brightness: largest relative and absolute change of normalised pixels.
    """

    zoom: tuple[float, float] = (0.75, 1.3)
    squash: float = 0.15
    noise: float = 0.4
    repage: float = 0.3
    contrast: float = 0.2
    brightness: float = 0.2


@dataclass(frozen=True)
class Pair:
    """The files of an image and of its ground truth."""

    image: Path
    mask: Path


def load_index(folder: Path, sources: Sequence[str]) -> list[Labelled]:
    """Reads the images of `read_index`, which raises what it says.

    Raises:
        ValueError: when an image and its mask differ in size.
    """
    return [_load_pair(pair) for pair in read_index(folder, sources)]


def read_index(folder: Path, sources: Sequence[str]) -> list[Pair]:
    """The pairs that `index.csv` lists for sources given as `source/split`.

    Raises:
        FileNotFoundError: naming every file that the index lists and the folder lacks.
        ValueError: when a source has no rows.
    """
    with (folder / "index.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if f"{row['source']}/{row['split']}" in sources]
    absent = set(sources) - {f"{row['source']}/{row['split']}" for row in rows}
    if absent:
        raise ValueError(f"{folder / 'index.csv'} has no rows for {', '.join(sorted(absent))}")
    missing = [row[key] for row in rows for key in ("image", "mask") if not (folder / row[key]).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {len(missing)} listed files: {', '.join(missing)}")
    return [Pair(folder / row["image"], folder / row["mask"]) for row in rows]


def _load_pair(pair: Pair) -> Labelled:
    pixels = preprocess.normalise(images.read_page(pair.image).pixels)
    cells = images.read_page(pair.mask).pixels > 0
    if pixels.shape != cells.shape:
        raise ValueError(
            f"{pair.image.name} is {pixels.shape} but its mask {pair.mask.name} is {cells.shape}"
        )
    return Labelled(pair.image.stem, pixels, cells)


def random_batch(
    pool: Sequence[Labelled], size: int, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[preprocess.Pixels, preprocess.Pixels]:
    """Random crops of random images: two (size, 1, 224, 224) float32 arrays, pixels and 0/1 cells."""
    crops = [random_crop(pool[int(rng.integers(len(pool)))], augmentation, rng) for _ in range(size)]
    return np.stack([pixels for pixels, _ in crops]), np.stack([cells for _, cells in crops])


def random_crop(
    item: Labelled, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[preprocess.Pixels, preprocess.Pixels]:
    """One augmented crop: two (1, 224, 224) float32 arrays, pixels and 0/1 cells."""
    height, width = item.pixels.shape
    if rng.random() < augmentation.squash:
        rows, columns = height, width
    else:
        side = round(preprocess.TILE * rng.uniform(*augmentation.zoom))
        rows, columns = min(side, height), min(side, width)
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    window = np.s_[top : top + rows, left : left + columns]

    pixels = preprocess.resize(item.pixels[window], preprocess.TILE, preprocess.TILE)
    coverage = preprocess.resize(item.cells[window].astype(np.float32), preprocess.TILE, preprocess.TILE)
    cells = (coverage >= 0.5).astype(np.float32)

    turns, flipped = int(rng.integers(4)), rng.random() < 0.5
    pixels, cells = (_turn(array, turns, flipped) for array in (pixels, cells))
    pixels = pixels + _noise(augmentation.noise * rng.random() ** 2, rng)
    if rng.random() < augmentation.repage:
        pixels = preprocess.normalise(pixels)
    pixels *= np.float32(1 + rng.uniform(-augmentation.contrast, augmentation.contrast))
    pixels += np.float32(rng.uniform(-augmentation.brightness, augmentation.brightness))
    return pixels[None], cells[None]


def _noise(deviation: float, rng: np.random.Generator) -> preprocess.Pixels:
    """Gaussian noise of one tile, in grains of one pixel or of two."""
    grain = int(rng.integers(1, 3))
    side = preprocess.TILE // grain
    coarse = rng.normal(0, deviation, (side, side)).astype(np.float32)
    return np.repeat(np.repeat(coarse, grain, axis=0), grain, axis=1)


def _turn(array: preprocess.Pixels, turns: int, flipped: bool) -> preprocess.Pixels:
    """One of the eight symmetries of the square."""
    turned = np.rot90(array, turns)
    return np.ascontiguousarray(turned[:, ::-1] if flipped else turned)
