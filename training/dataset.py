"""Where labelled images come from, and the random crops that training takes from them."""

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import cv2
import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from pycocotools import mask as rle

from cytomask import images, metrics
from cytomask.errors import RejectedInput
from cytomask.model import preprocess

LIVECELL_NAME = re.compile(r"(?P<line>[^_]+)_Phase_")
SUFFIXES = {".tif", ".tiff", ".png", ".jpg", ".jpeg"}


@dataclass(frozen=True)
class Sample:
    """An image and the place of its ground truth.

    Attributes:
        name: the file's name without its suffix.
        image: the file.
        group: the cell line, where name or index tell it, else "".
        truth: reads the ground truth, (H, W) bool.
    """

    name: str
    image: Path
    group: str
    truth: Callable[[], metrics.Mask]

    def read(self) -> tuple[NDArray[np.generic], metrics.Mask]:
        """The page, (H, W) of any real dtype, and its cells, (H, W) bool.

        Raises:
            ValueError: image and ground truth differ in size, or one cannot be read.
        """
        try:
            page, cells = images.read_page(self.image).pixels, self.truth()
        except (OSError, RejectedInput) as error:
            raise ValueError(f"{self.image.name}: {error}") from error
        if page.shape != cells.shape:
            raise ValueError(f"{self.image.name} is {page.shape} but its ground truth is {cells.shape}")
        return page, cells


@dataclass(frozen=True)
class Labelled:
    """One image with its ground truth: (H, W) float32 normalised pixels and (H, W) bool cells."""

    name: str
    pixels: preprocess.Pixels
    cells: metrics.Mask

    def squashed(self, window: tuple[slice, slice]) -> tuple[preprocess.Pixels, preprocess.Pixels]:
        """A window as `resize` mode sees a page: two (224, 224) float32, pixels and coverage 0..1."""
        side = preprocess.TILE
        cells = preprocess.resize(self.cells[window].astype(np.float32), side, side)
        return preprocess.resize(self.pixels[window], side, side), cells


def read_source(folder: Path, source: str) -> list[Sample]:
    """The samples of one source.

    Args:
        folder: what the paths below are relative to.
        source: `SOURCE/SPLIT`, rows of the folder's index.csv; `coco:ANNOTATIONS.json:IMAGES`, a COCO file
            and the folder that holds its images at any depth, as LIVECell publishes them; or
            `pairs:IMAGES:MASKS`, two folders of files whose names differ in their suffix only.

    Raises:
        FileNotFoundError: naming every file that is listed and missing.
        ValueError: no images, or a COCO file that cannot be drawn.
    """
    match source.split(":"):
        case ["coco", annotations, images_below]:
            samples = _coco_samples(folder / annotations, folder / images_below)
        case ["pairs", images_below, masks_below]:
            samples = _paired_samples(folder / images_below, folder / masks_below)
        case [rows]:
            samples = _index_samples(folder, rows)
        case _:
            raise ValueError(
                f"{source} is no source; write SOURCE/SPLIT, coco:JSON:IMAGES or pairs:IMAGES:MASKS"
            )
    if not samples:
        raise ValueError(f"{source} in {folder} has no images")
    return samples


def read_unlabelled(folder: Path) -> list[Labelled]:
    """Reads and normalises the images below a folder; nothing of them is marked as cell.

    Raises:
        ValueError: no images, or naming every one that cannot be read.
    """
    files = _files_in(folder)
    if not files:
        raise ValueError(f"{folder} has no images")
    return load([Sample(path.stem, path, _cell_line(path.stem), _unmarked(path)) for path in files])


def load(samples: Sequence[Sample]) -> list[Labelled]:
    """Reads and normalises all of them: nothing is left that could fail in the middle of a run.

    Takes 5 bytes a pixel, 5.8 GB for the 3,188 training images of LIVECell.

    Raises:
        ValueError: naming every sample that cannot be read.
    """
    with ThreadPoolExecutor() as executor:
        outcomes = list(executor.map(_load, samples))
    faults = [str(outcome) for outcome in outcomes if isinstance(outcome, ValueError)]
    if faults:
        raise ValueError(f"{len(faults)} of {len(samples)} images cannot be used: {'; '.join(faults)}")
    return [outcome for outcome in outcomes if isinstance(outcome, Labelled)]


def _load(sample: Sample) -> Labelled | ValueError:
    try:
        page, cells = sample.read()
    except ValueError as error:
        return error
    return Labelled(sample.name, preprocess.normalise(page), cells)


def _index_samples(folder: Path, source: str) -> list[Sample]:
    index = folder / "index.csv"
    with index.open(newline="") as file:
        table = csv.DictReader(file)
        if absent := {"source", "split", "image", "mask"}.difference(table.fieldnames or ()):
            raise ValueError(f"{index} lacks the columns {', '.join(sorted(absent))}")
        rows = [row for row in table if f"{row['source']}/{row['split']}" == source]
    _require_files(folder, (row[key] for row in rows for key in ("image", "mask")))
    return [
        Sample(
            Path(row["image"]).stem,
            folder / row["image"],
            _cell_line(Path(row["image"]).stem, row.get("cell", "")),
            _mask_file(folder / row["mask"]),
        )
        for row in rows
    ]


def _paired_samples(pictures: Path, masks: Path) -> list[Sample]:
    by_stem = {path.stem: path for path in _files_in(masks)}
    files = _files_in(pictures)
    lonely = [path.name for path in files if path.stem not in by_stem]
    if lonely:
        raise FileNotFoundError(f"{masks} has no mask for {len(lonely)} images: {', '.join(lonely)}")
    return [Sample(path.stem, path, _cell_line(path.stem), _mask_file(by_stem[path.stem])) for path in files]


def _coco_samples(annotations: Path, pictures: Path) -> list[Sample]:
    """A sample for every file name; ids that share one (LIVECell's test set has some) share the image."""
    try:
        by_name = _segmentations_by_name(read_coco(annotations))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{annotations} is not a COCO file: {error!r}") from error
    found = {path.name: path for path in _files_in(pictures)}
    missing = sorted(name for name in by_name if Path(name).name not in found)
    if missing:
        raise FileNotFoundError(
            f"{pictures} lacks {len(missing)} images that {annotations.name} names: {', '.join(missing)}"
        )
    return [
        Sample(
            Path(name).stem,
            found[Path(name).name],
            _cell_line(Path(name).stem),
            _outlined(segmentations, size, f"{annotations.name}, {name}"),
        )
        for name, (size, segmentations) in by_name.items()
    ]


def _segmentations_by_name(
    content: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, tuple[tuple[int, int], list[Any]]]:
    """Height, width and segmentations of every file that a COCO file names."""
    outlines: dict[Any, list[Any]] = {picture["id"]: [] for picture in content["images"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] in outlines:
            outlines[annotation["image_id"]].append(annotation["segmentation"])
    by_name: dict[str, tuple[tuple[int, int], list[Any]]] = {}
    for picture in {picture["id"]: picture for picture in content["images"]}.values():
        size = (picture["height"], picture["width"])
        by_name.setdefault(picture["file_name"], (size, []))[1].extend(outlines[picture["id"]])
    return by_name


def read_coco(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The images and annotations of a COCO file, whether LIVECell wrote annotations as a list or by id.

    Raises:
        ValueError: no JSON, or not COCO's object detection format (cocodataset.org/#format-data).
    """
    try:
        content = msgspec.json.decode(path.read_bytes())
        annotations = content["annotations"]
        listed = list(annotations.values()) if isinstance(annotations, Mapping) else list(annotations)
        return {"images": list(content["images"]), "annotations": listed}
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a COCO file: {error!r}") from error


def union(segmentations: Iterable[Any], size: tuple[int, int], name: str) -> metrics.Mask:
    """Everything that any of COCO's segmentations covers: (H, W) bool.

    Args:
        segmentations: lists of polygons, or run lengths, compressed or not.
        size: height and width.
        name: what to call the image in errors.

    Raises:
        ValueError: a polygon of fewer than three points, run lengths of another image, or what pycocotools
            cannot draw.
    """
    try:
        runs = [run for segmentation in segmentations for run in run_lengths(segmentation, size)]
        if not runs:
            return np.zeros(size, np.bool_)
        cells: metrics.Mask = rle.decode(rle.merge(runs)) > 0
    except (TypeError, KeyError, ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"{name}: a segmentation cannot be drawn: {error}") from error
    return cells


def run_lengths(segmentation: Any, size: tuple[int, int]) -> list[Any]:
    """One of COCO's segmentations as pycocotools' compressed run lengths, one for each polygon.

    Args:
        segmentation: a list of polygons, or run lengths, compressed or not.
        size: height and width.

    Raises:
        TypeError, KeyError, ValueError, IndexError, OverflowError: what `union` refuses.
    """
    if isinstance(segmentation, list):
        if not segmentation or any(len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
            raise ValueError("a polygon needs three points or more, x and y each")
        polygons: list[Any] = rle.frPyObjects(segmentation, *size)
        return polygons
    if segmentation["size"] != [*size]:
        raise ValueError(f"its run lengths are of size {segmentation['size']}, the image is {[*size]}")
    if not isinstance(segmentation["counts"], list):
        return [rle.encode(rle.decode(segmentation))]  # merging what cannot be decoded would never end
    if sum(segmentation["counts"]) != size[0] * size[1]:
        raise ValueError("its run lengths do not add up to the image")
    return [rle.frPyObjects(segmentation, *size)]


def _outlined(segmentations: Sequence[Any], size: tuple[int, int], name: str) -> Callable[[], metrics.Mask]:
    return lambda: union(segmentations, size, name)


def _mask_file(path: Path) -> Callable[[], metrics.Mask]:
    return lambda: images.read_page(path).pixels > 0


def _unmarked(path: Path) -> Callable[[], metrics.Mask]:
    return lambda: np.zeros(images.read_page(path).pixels.shape, np.bool_)


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _require_files(folder: Path, names: Iterable[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {len(missing)} listed files: {', '.join(missing)}")


def _cell_line(name: str, otherwise: str = "") -> str:
    found = LIVECELL_NAME.match(name)
    return found["line"] if found else otherwise


Share = Annotated[float, Meta(ge=0, le=1)]
NotNegative = Annotated[float, Meta(ge=0)]
AboveZero = Annotated[float, Meta(gt=0)]


class Augmentation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a random crop may undergo; probabilities 0..1.

    Attributes:
        zoom: smallest and largest side of the source crop, as a multiple of the tile.
        squash: probability of a large window squashed to the tile, for `resize` mode.
        squash_window: smallest share of height and width that such a window has; the largest is all.
        flip: probability of the mirror image.
        turn: whether quarter turns are taken, each as likely; of a squashed image half turns only, for its
            pixels are of another height than width.
        affine: probability of a rotation by up to `rotation` degrees to either side, a shear of up to
            `shear` degrees and, of a squashed image, a shift by up to `shift` of its side.
        blur: probability of a Gaussian blur of up to `blur_deviation` pixels.
        gamma: largest change of the pixels' exponent, as a natural logarithm; half of the crops.
        noise: largest standard deviation of added Gaussian noise, fine- or coarse-grained; most is small.
        repage: probability of normalising the crop as a page of its own. A crop without cells is then what
            an empty well looks like: nothing but noise, at full contrast.
        contrast, brightness: largest relative and absolute change of normalised pixels.
    """

    zoom: tuple[AboveZero, AboveZero] = (0.75, 1.3)
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
    repage: Share = 0.3
    contrast: Share = 0.2
    brightness: NotNegative = 0.2

    def __post_init__(self) -> None:
        """Refuses a zoom whose smallest side is not the smaller."""
        if self.zoom[0] > self.zoom[1]:
            raise ValueError(f"zoom {self.zoom[0]} is more than {self.zoom[1]}")


Mix = Sequence[tuple[float, Sequence[Labelled]]]
Crop = tuple[preprocess.Pixels, preprocess.Pixels]


def draw_crop(mix: Mix, augmentation: Augmentation, rng: np.random.Generator) -> Crop:
    """A random crop of a random image of a source drawn by its weight; as `random_crop`."""
    weights = np.array([weight for weight, _ in mix])
    pool = mix[int(rng.choice(len(mix), p=weights / weights.sum()))][1]
    return random_crop(pool[int(rng.integers(len(pool)))], augmentation, rng)


def random_crop(item: Labelled, augmentation: Augmentation, rng: np.random.Generator) -> Crop:
    """One augmented crop: two (1, 224, 224) float32 arrays, pixels and 0/1 cells."""
    pixels, cells = _place(item, augmentation, rng)
    return _degrade(pixels, augmentation, rng)[None], cells[None]


def _place(item: Labelled, augmentation: Augmentation, rng: np.random.Generator) -> Crop:
    """A tile from anywhere, at any scale and angle: two (224, 224) float32, pixels and 0/1 cells."""
    squashed = rng.random() < augmentation.squash
    if squashed:
        pixels, coverage = item.squashed(_window(item.pixels.shape, augmentation, rng))
        placement = _placement(pixels.shape, 1.0, augmentation.shift, augmentation, rng)
    else:
        pixels, coverage = item.pixels, item.cells.astype(np.float32)
        placement = _placement(pixels.shape, rng.uniform(*augmentation.zoom), None, augmentation, rng)
    pixels = _warp(pixels, placement)
    cells = (_warp(coverage, placement) >= 0.5).astype(np.float32)

    turns = int(rng.integers(4)) if augmentation.turn else 0
    if squashed:
        turns -= turns % 2
    flipped = rng.random() < augmentation.flip
    return _turn(pixels, turns, flipped), _turn(cells, turns, flipped)


def _window(
    shape: tuple[int, ...], augmentation: Augmentation, rng: np.random.Generator
) -> tuple[slice, slice]:
    """A part of the page with its proportions, anywhere."""
    share = rng.uniform(augmentation.squash_window, 1)
    lengths = [max(round(length * share), 1) for length in shape]
    starts = [int(rng.integers(whole - length + 1)) for whole, length in zip(shape, lengths, strict=True)]
    rows, columns = (slice(at, at + length) for at, length in zip(starts, lengths, strict=True))
    return rows, columns


def _placement(
    shape: tuple[int, ...],
    zoom: float,
    shift: float | None,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """The (2, 3) matrix that takes a pixel of the tile, x and y, to where it lies in the source.

    Without `shift` the tile lies anywhere inside the source, or in its middle where that is smaller; with
    it, within that share of the middle.
    """
    sheared = np.eye(2)
    bent = rng.random() < augmentation.affine
    if bent:
        angle, slant = np.deg2rad(rng.uniform(-1, 1, 2) * (augmentation.rotation, augmentation.shear))
        turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        sheared = turned @ np.array([[1, np.tan(slant)], [0, 1]])
    side = preprocess.TILE * zoom
    middle = (np.array(shape[1::-1]) - 1) / 2  # x, y
    if shift is None:
        room = np.maximum(np.array(shape[1::-1]) - side, 0) / 2
        # Whole pixels, where zoom does not resample anyway.
        corner = np.round(middle + rng.uniform(-room, room) - (side - 1) / 2)
        centre = np.where(room > 0, corner + (side - 1) / 2, middle)
    else:
        centre = middle + (rng.uniform(-shift, shift, 2) * side if bent else 0)
    linear = zoom * sheared
    half = (preprocess.TILE - 1) / 2
    return np.column_stack([linear, centre - linear @ np.array([half, half])])


def _warp(source: preprocess.Pixels, placement: NDArray[np.float64]) -> preprocess.Pixels:
    """The tile that lies there, (224, 224) float32, bilinear; mirrored beyond the edge, as serving pads."""
    tile = cv2.warpAffine(
        source,
        placement,
        (preprocess.TILE, preprocess.TILE),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return tile.astype(np.float32, copy=False)


def _degrade(
    pixels: preprocess.Pixels, augmentation: Augmentation, rng: np.random.Generator
) -> preprocess.Pixels:
    """What optics and camera do to a tile, (224, 224) float32."""
    if rng.random() < augmentation.blur:
        deviation = rng.uniform(0.1, augmentation.blur_deviation)
        pixels = cv2.GaussianBlur(pixels, (0, 0), deviation).astype(np.float32, copy=False)
    if augmentation.gamma and rng.random() < 0.5:
        pixels = _bend(pixels, float(np.exp(rng.uniform(-1, 1) * augmentation.gamma)))
    pixels = pixels + _noise(augmentation.noise * rng.random() ** 2, rng)
    if rng.random() < augmentation.repage:
        pixels = preprocess.normalise(pixels)
    pixels = pixels * np.float32(1 + rng.uniform(-augmentation.contrast, augmentation.contrast))
    return pixels + np.float32(rng.uniform(-augmentation.brightness, augmentation.brightness))


def _bend(pixels: preprocess.Pixels, gamma: float) -> preprocess.Pixels:
    """Raises the pixels between their extremes to a power; mean and deviation stay."""
    low, high = pixels.min(), pixels.max()
    if low == high:
        return pixels
    bent: preprocess.Pixels = ((pixels - low) / (high - low)) ** np.float32(gamma)
    restored: preprocess.Pixels = (bent - bent.mean()) * (pixels.std() / bent.std()) + pixels.mean()
    return restored


def _noise(deviation: float, rng: np.random.Generator) -> preprocess.Pixels:
    """Gaussian noise of one tile, in grains of one pixel or of two."""
    grain = int(rng.integers(1, 3))
    side = preprocess.TILE // grain
    coarse = rng.standard_normal((side, side), np.float32) * np.float32(deviation)
    return np.repeat(np.repeat(coarse, grain, axis=0), grain, axis=1)


def _turn(array: preprocess.Pixels, turns: int, flipped: bool) -> preprocess.Pixels:
    """One of the eight symmetries of the square."""
    turned = np.rot90(array, turns)
    return np.ascontiguousarray(turned[:, ::-1] if flipped else turned)
