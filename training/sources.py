"""Where labelled images come from: rows of an index, pairs of folders, COCO files."""

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle

from cytomask import images, metrics
from cytomask.errors import RejectedInput
from cytomask.model import preprocess
from cytomask.samples.empty import empty_page, empty_page_kind
from cytomask.training.crops import Labelled
from cytomask.training.labels import RULES, UNKNOWN_GREY, Rule

LIVECELL_NAME = re.compile(r"(?P<line>[^_]+)_Phase_")
SUFFIXES = {".tif", ".tiff", ".png", ".jpg", ".jpeg"}
EMPTY_SIZE = (520, 704)  # of generated pages, height and width in pixels


@dataclass(frozen=True)
class Sample:
    """An image and the place of its ground truth.

    Attributes:
        name: the file's name without its suffix.
        image: the file.
        group: the cell line, where name or index tell it, else "".
        truth: reads the ground truth, (H, W) bool.
        rule: tells what of it is known; all of it if None.
        page: makes the page, (H, W) of any real dtype, if no file holds it.
    """

    name: str
    image: Path
    group: str
    truth: Callable[[], metrics.Mask]
    rule: Rule | None = None
    page: Callable[[], NDArray[np.generic]] | None = None

    def read(self) -> tuple[NDArray[np.generic], metrics.Mask]:
        """The page, (H, W) of any real dtype, and its cells, (H, W) bool.

        Raises:
            ValueError: image and ground truth differ in size, or one cannot be read.
        """
        try:
            page = self.page() if self.page else images.read_page(self.image).pixels
            cells = self.truth()
        except (OSError, RejectedInput) as error:
            raise ValueError(f"{self.image.name}: {error}") from error
        if page.shape != cells.shape:
            raise ValueError(f"{self.image.name} is {page.shape} but its ground truth is {cells.shape}")
        return page, cells


def read_source(folder: Path, source: str) -> list[Sample]:
    """The samples of one source.

    Args:
        folder: what the paths below are relative to.
        source: `SOURCE/SPLIT`, rows of the folder's index.csv; `coco:ANNOTATIONS.json:IMAGES`, a COCO file
            and the folder that holds its images at any depth, as LIVECell publishes them; or
            `pairs:IMAGES:MASKS`, two folders of files whose names differ in their suffix only. Also
            `pseudo:IMAGES:LABELS`, whose labels `training.pseudo_label` drew, for some of the images;
            `somata:SOURCE/SPLIT` and `colonies:SOURCE/SPLIT`, rows whose ground truth leaves things out, as
            `labels` says; and `empty:FIRST-LAST`, pages without a cell that `samples.empty` generates.

    Raises:
        FileNotFoundError: naming every file that is listed and missing.
        ValueError: no images, or a COCO file that cannot be drawn.
    """
    match source.split(":"):
        case ["coco", annotations, images_below]:
            samples = _coco_samples(folder / annotations, folder / images_below)
        case ["pairs", images_below, masks_below]:
            samples = _paired_samples(folder / images_below, folder / masks_below)
        case ["pseudo", images_below, labels_below]:
            samples = _pseudo_labelled_samples(folder / images_below, folder / labels_below)
        case ["empty", seeds]:
            samples = _empty_samples(seeds)
        case [rule, rows] if rule in RULES:
            samples = [replace(sample, rule=RULES[rule]) for sample in _index_samples(folder, rows)]
        case [rows]:
            samples = _index_samples(folder, rows)
        case _:
            raise ValueError(
                f"{source} is not a source; write SOURCE/SPLIT, somata:SOURCE/SPLIT, colonies:SOURCE/SPLIT, "
                "coco:JSON:IMAGES, pairs:IMAGES:MASKS, pseudo:IMAGES:LABELS or empty:FIRST-LAST"
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
    pixels = preprocess.normalise(page)
    return Labelled(sample.name, pixels, cells, sample.rule(pixels, cells) if sample.rule else None)


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


def _pseudo_labelled_samples(pictures: Path, labels: Path) -> list[Sample]:
    """Return a sample for every label; an image without one is left out."""
    by_stem = {path.stem: path for path in _files_in(pictures)}
    files = _files_in(labels)
    lonely = [path.name for path in files if path.stem not in by_stem]
    if lonely:
        raise FileNotFoundError(f"{pictures} has no image for {len(lonely)} labels: {', '.join(lonely)}")

    def stored(path: Path) -> NDArray[np.generic]:
        return images.read_page(path).pixels

    return [
        Sample(
            path.stem,
            by_stem[path.stem],
            _cell_line(path.stem),
            truth=lambda path=path: stored(path) > UNKNOWN_GREY,
            rule=lambda _pixels, _cells, path=path: stored(path) != UNKNOWN_GREY,
        )
        for path in files
    ]


def _empty_samples(seeds: str) -> list[Sample]:
    first, _, last = seeds.partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        raise ValueError(f"empty:{seeds} is not a source; write empty:FIRST-LAST, such as empty:0-89")
    return [
        Sample(
            name := f"empty-{seed:04}",
            Path(name),
            empty_page_kind(seed),
            truth=lambda: np.zeros(EMPTY_SIZE, np.bool_),
            page=lambda seed=seed: empty_page(seed, *EMPTY_SIZE).pixels,
        )
        for seed in range(int(first), int(last) + 1)
    ]


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
