"""Generate phase-contrast fields with a known ground truth, for `cytomask demo` and for tests.

The project ships no images of others: these are computed from a seed and resemble LIVECell's.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

Plane = NDArray[np.float32]

FULLEST = 0.9
MARGIN = 64  # extra pixels around the page: they hold cells that the page cuts, and blurs that wrap around
FAR, CLEAR = 9.0, 1.2  # relative distances from a cell: far from every cell, and far enough for debris
GREY, BRIGHTEST, STRETCH = 2048, 4095, 16  # a 12-bit camera; times 16 stretches its levels to 16 bits
CONTRAST = 6000.0  # grey levels per unit of optical path
GAIN, READ_NOISE = 0.12, 5.0  # variance per grey level; deviation in grey levels
LAMP, MEDIUM = 6.0, 7.0  # deviations of the slow and of the streaky background, in grey levels
HALO, LENS = 2.0, 0.4  # deviations of blurs, in pixels: of the diffracted halo and of the image


@dataclass(frozen=True)
class Field:
    """One page with its ground truth.

    Attributes:
        pixels: (H, W) uint16, 12-bit grey levels times 16.
        cells: (H, W) bool, True inside living cells, False on debris.
    """

    pixels: NDArray[np.uint16]
    cells: NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """One image of the demo: its S3 key, the file, and the ground truth's file (8 bit, 0 or 255)."""

    key: str
    image: Path
    ground_truth: Path


@dataclass(frozen=True)
class Culture:
    """How the cells of one line grow. Optical paths are relative to the middle of a rounded cell.

    Attributes:
        radius: smallest and largest mean radius of a spread cell, in pixels.
        rounded: share of cells that have rounded up, 0..1.
        gathered: share of cells that try to settle beside another, 0..1.
        corners: how far a spread cell's corners reach out, as a logarithm of its relative radius.
        thickness: optical path through a spread cell.
    """

    radius: tuple[float, float]
    rounded: float
    gathered: float
    corners: float
    thickness: float


CULTURES = (
    Culture((14, 24), 0.06, 0.95, 0.6, 0.16),  # islands, as BT474 and MCF7 grow
    Culture((13, 19), 0.8, 0.7, 0.5, 0.25),  # round clusters, as BV2 and MCF7
    Culture((16, 30), 0.04, 0.6, 0.9, 0.14),  # spread, as A172 and SKOV3
    Culture((12, 22), 0.4, 0.5, 0.5, 0.2),  # both, as SkBr3
)

# A plus, spaces and an umlaut, because code often breaks on them in object keys.
DEMO = {
    "plate 1/A+B well ü_Phase_C3_1_00d04h00m_1.tif": (2, 0.25),
    "plate 1/A+B well ü_Phase_C3_1_02d00h00m_1.tif": (6, 0.55),
    "plate 1/islands_Phase_D4_2_01d12h00m_3.tif": (0, 0.35),
    "plate 2/round_Phase_B7_1_00d20h00m_2.tif": (1, 0.12),
    "plate 2/mixed_Phase_E3_1_02d20h00m_4.tif": (3, 0.3),
}


def write_samples(folder: Path) -> list[Sample]:
    """Write the demo's images under `folder`/images, their ground truths under `folder`/ground_truth."""
    samples = []
    for key, (seed, confluence) in DEMO.items():
        field = phase_contrast_field(seed, confluence=confluence)
        sample = Sample(key, folder / "images" / key, (folder / "ground_truth" / key).with_suffix(".png"))
        for path in (sample.image, sample.ground_truth):
            path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(sample.image, field.pixels, compression="lzw")  # like LIVECell's own files
        Image.fromarray(field.cells.astype(np.uint8) * 255).save(sample.ground_truth)
        samples.append(sample)
    return samples


def phase_contrast_field(seed: int, height: int = 520, width: int = 704, confluence: float = 0.3) -> Field:
    """Compute one field. Consecutive seeds cycle through the cultures; the seed also decides all randomness.

    Args:
        seed: at least 0; the same seed gives the same field.
        height: in pixels.
        width: in pixels.
        confluence: share of the page that is cell, 0..0.9; the field exceeds it by less than one cell.

    Raises:
        ValueError: the confluence is out of range.
    """
    if not 0 <= confluence <= FULLEST:
        raise ValueError(f"confluence is {confluence}; give a share from 0 to {FULLEST}")
    rng = np.random.default_rng(seed)
    culture = CULTURES[seed % len(CULTURES)]
    page = np.s_[MARGIN : MARGIN + height, MARGIN : MARGIN + width]
    dish = Dish(height + 2 * MARGIN, width + 2 * MARGIN)
    while np.count_nonzero(dish.nearest[page] < 1) < confluence * height * width:
        settle(rng, culture, dish)
    return render(rng, dish, page)


def render(rng: np.random.Generator, dish: "Dish", page: tuple[slice, slice]) -> Field:
    """Take a picture of part of the dish."""
    body = bodies(dish)
    light = transfer(body + organelles(rng, body, dish) + debris(rng, dish)) + background(rng, body.shape)
    return Field(expose(rng, light[page]), dish.nearest[page] < 1)


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        row, column, radius: centre and mean radius, in pixels.
        rounded: whether it has rounded up.
        thickness: optical path through it.
        outline: (360,) float64, logarithm of the radius over the mean radius, by degree.
    """

    row: float
    column: float
    radius: float
    rounded: bool
    thickness: float
    outline: NDArray[np.float64]


class Dish:
    """Cells on a canvas, which share a border where they meet.

    Attributes:
        nearest, second: (H, W) float32, distance from the centres of the closest and the second closest
            cell, each divided by that cell's radius in that direction; below 1 is inside.
        owner: (H, W) int32, index of the closest cell.
        cells: in the order of their arrival.
    """

    def __init__(self, height: int, width: int) -> None:
        """Start without cells on a canvas of that size in pixels."""
        self.nearest = np.full((height, width), FAR, np.float32)
        self.second = self.nearest.copy()
        self.owner = np.zeros((height, width), np.int32)
        self.cells: list[Cell] = []

    def add(self, cell: Cell) -> None:
        """Add a cell; each pixel belongs to the cell at the smallest relative distance."""
        reach = int(cell.radius * np.exp(cell.outline.max()) * 1.5) + 1
        top, left = max(int(cell.row) - reach, 0), max(int(cell.column) - reach, 0)
        patch = np.s_[top : int(cell.row) + reach, left : int(cell.column) + reach]
        rows, columns = np.indices(self.nearest[patch].shape)
        down, right = rows + (top - cell.row), columns + (left - cell.column)
        degrees = np.degrees(np.arctan2(down, right))
        edge = cell.radius * np.exp(np.interp(degrees, np.arange(360), cell.outline, period=360))
        distance = (np.hypot(down, right) / edge).astype(np.float32)

        closer = distance < self.nearest[patch]
        self.second[patch] = np.where(closer, self.nearest[patch], np.minimum(self.second[patch], distance))
        self.nearest[patch] = np.where(closer, distance, self.nearest[patch])
        self.owner[patch] = np.where(closer, len(self.cells), self.owner[patch])
        self.cells.append(cell)

    def depth(self) -> Plane:
        """(H, W) float32: distance to the outline or to the border with a neighbour, in pixels; 0 outside."""
        radius = np.array([cell.radius for cell in self.cells] or [0], np.float32)
        inwards = np.minimum(1 - self.nearest, (self.second - self.nearest) / 2)
        depth: Plane = np.maximum(inwards, 0) * radius[self.owner]
        return depth


def settle(rng: np.random.Generator, culture: Culture, dish: Dish) -> None:
    """Try to add one cell at a random place, or beside a random cell; opposite edges are neighbours."""
    rounded = bool(rng.random() < culture.rounded)
    radius = rng.uniform(*culture.radius) * (0.7 if rounded else 1.0)
    row, column = rng.uniform(0, dish.nearest.shape)
    if dish.cells and rng.random() < culture.gathered:
        beside = dish.cells[rng.integers(len(dish.cells))]
        angle, distance = rng.uniform(0, 2 * np.pi), 0.9 * (beside.radius + radius)
        row = (beside.row + distance * np.sin(angle)) % dish.nearest.shape[0]
        column = (beside.column + distance * np.cos(angle)) % dish.nearest.shape[1]
    if dish.nearest[int(row), int(column)] >= rng.uniform(1, 1.6):
        thickness = (0.8 if rounded else culture.thickness) * rng.uniform(0.6, 1.4)
        ruffle, corners = (0.04, 0.0) if rounded else (0.22, culture.corners)
        dish.add(Cell(row, column, radius, rounded, thickness, outline(rng, ruffle, corners)))


def outline(rng: np.random.Generator, ruffle: float, corners: float) -> NDArray[np.float64]:
    """Draw a random closed curve of smooth waves, with corners where a spread cell holds on to the glass.

    Returns:
        (360,) float64 with mean 0, logarithm of a relative radius by degree.
    """
    turn = np.radians(np.arange(360))
    order = np.arange(2, 9)
    waves = np.cos(np.outer(turn, order) + rng.uniform(0, 2 * np.pi, order.size))
    curve = waves @ rng.normal(0, ruffle * (2 / order) ** 2)
    for where in rng.uniform(0, 2 * np.pi, 4):
        away = np.abs((turn - where + np.pi) % (2 * np.pi) - np.pi)
        curve += rng.uniform(0, corners) * np.exp(-away / 0.3)
    centred: NDArray[np.float64] = curve - curve.mean()
    return centred


def bodies(dish: Dish) -> Plane:
    """Optical path through the cells, (H, W) float32: caps if rounded, plateaus if spread.

    A rounded body starts 2.5 pixels inside its outline, because annotators include the bright ring.
    """
    if not dish.cells:
        return np.zeros_like(dish.nearest)
    shapes = [
        (cell.thickness, *((2.5, 0.8 * cell.radius) if cell.rounded else (0.5, 4.0))) for cell in dish.cells
    ]
    thickness, rim, slope = np.array(shapes, np.float32).T[:, dish.owner]  # 3, H, W
    climb = np.clip((dish.depth() - rim) / slope, 0, 1)
    path: Plane = thickness * np.sqrt(climb * (2 - climb))
    return path


def organelles(rng: np.random.Generator, body: Plane, dish: Dish) -> Plane:
    """Optical path through the cells' contents, (H, W) float32: least in the nucleus, most around it."""
    grain = noise(rng, body.shape, 0.5) * np.exp(0.5 * noise(rng, body.shape, 4))
    granules = specks(rng, body.shape, 0.03, 0.65)
    nucleus = np.clip((0.42 - dish.nearest) * 10, 0, 1)
    share = (1 - 0.7 * nucleus) * np.clip(1.3 - dish.nearest, 0.35, 1)
    path: Plane = np.sqrt(body) * (share * (0.11 * grain + 1.3 * granules) + 0.1 * nucleus)
    return path


def debris(rng: np.random.Generator, dish: Dish) -> Plane:
    """Optical path through dirt between the cells, (H, W) float32: fine and coarse specks."""
    few, fewer = rng.uniform(0, (4e-4, 1e-4))
    shape = dish.nearest.shape
    dirt: Plane = 1.5 * specks(rng, shape, few, 0.7) + 6 * specks(rng, shape, fewer, 1.3)
    return dirt * (dish.nearest > CLEAR)


def transfer(path: Plane) -> Plane:
    """Grey levels that positive phase contrast adds for an optical path, both (H, W) float32.

    The phase ring advances the light that the specimen does not diffract, which turns optical path into
    darkness (Zernike 1942). It also catches the diffracted light of the lowest frequencies, so that
    structures wider than the halo cancel out and thick edges shine outwards. After Yin, Kanade & Chen 2012,
    "Understanding the phase contrast optics to restore artifact-free microscopy images for
    segmentation", Medical Image Analysis, with Gaussians for the ring's Airy pattern.
    """
    return CONTRAST * (blur(path, HALO) - blur(path, LENS))


def background(rng: np.random.Generator, shape: tuple[int, ...]) -> Plane:
    """Grey levels without cells, (H, W) float32: uneven light, and streaks of the medium."""
    return GREY + LAMP * noise(rng, shape, 60) + MEDIUM * noise(rng, shape, 5, 0.8)


def expose(rng: np.random.Generator, light: Plane) -> NDArray[np.uint16]:
    """Return (H, W) grey levels as a camera sees them: shot and read noise, 12 bits stretched into 16."""
    deviation = np.sqrt(GAIN * np.maximum(light, 0) + READ_NOISE**2)
    counted = np.rint(light + deviation * rng.standard_normal(light.shape))
    return np.clip(counted, 0, BRIGHTEST).astype(np.uint16) * np.uint16(STRETCH)


def specks(rng: np.random.Generator, shape: tuple[int, ...], share: float, size: float) -> Plane:
    """(H, W) float32 dots on a share of the pixels, `size` pixels in deviation; 4 of 5 dense, one thin."""
    dots = (rng.random(shape) < share) * rng.choice([1.0, 1.0, 1.0, 1.0, -0.5], shape)
    return blur(dots.astype(np.float32), size)


def noise(rng: np.random.Generator, shape: tuple[int, ...], *deviations: float) -> Plane:
    """(H, W) float32 normal noise of mean 0 and deviation 1, smoothed by `blur`."""
    smooth = blur(rng.standard_normal(shape, np.float32), *deviations)
    standard: Plane = (smooth - smooth.mean()) / smooth.std()
    return standard


def blur(plane: Plane, down: float, across: float | None = None) -> Plane:
    """Blur (H, W) float32 with a Gaussian, deviations in pixels; opposite edges are neighbours."""
    deviations = (down, down if across is None else across)
    frequencies = (np.fft.fftfreq(plane.shape[0]), np.fft.rfftfreq(plane.shape[1]))
    pass_down, pass_across = (
        np.exp(-2 * (np.pi * d * f) ** 2) for d, f in zip(deviations, frequencies, strict=True)
    )
    blurred = np.fft.irfft2(np.fft.rfft2(plane) * np.outer(pass_down, pass_across), plane.shape)
    return blurred.astype(np.float32)
