"""Find labelled images: rows of an index, pairs of folders, COCO files.

Ground truths are read by `cytomask.truths`, as the functions read them: a file gives training and scoring the
same cells.
"""

import csv
import logging
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cytomask import images, metrics
from cytomask.errors import RejectedInput, UnreadableCoco
from cytomask.model import preprocess
from cytomask.samples.empty import empty_page, empty_page_kind
from cytomask.training.crops import Labelled
from cytomask.training.labels import RULES, UNKNOWN_GREY, Rule
from cytomask.truths import names
from cytomask.truths.coco import Coco, read_coco
from cytomask.truths.limits import Size, require_coco_size
from cytomask.truths.masks import read_ground_truth

logger = logging.getLogger(__name__)

LIVECELL_NAME = re.compile(r"(?P<line>[^_]+)_Phase_")
OF_ANOTHER_FILE = "._"  # how macOS begins the names of notes that it keeps beside files
EMPTY_SIZE = (520, 704)  # of generated pages, height and width in pixels


class TruthFault(ValueError):
    """A ground truth cannot be used; the message names its image. The source's other images can."""


@dataclass(frozen=True)
class Sample:
    """An image and the place of its ground truth.

    Attributes:
        name: the file's name without its suffix.
        image: the file.
        group: the cell line if the name or the index tells it, otherwise empty.
        truth: reads the ground truth of a page of this height and width, (H, W) bool.
        rule: tells which pixels of the ground truth are known; all if None.
        page: makes the page, (H, W) of any real dtype, if no file holds it.
    """

    name: str
    image: Path
    group: str
    truth: Callable[[Size], metrics.Mask]
    rule: Rule | None = None
    page: Callable[[], NDArray[np.generic]] | None = None

    def read(self) -> tuple[NDArray[np.generic], metrics.Mask]:
        """Read the page, (H, W) of any real dtype, and its cells, (H, W) bool.

        Raises:
            ValueError: the image has several pages, or cannot be read.
            TruthFault: image and ground truth differ in size, or the ground truth is refused.
        """
        try:
            page = self.page() if self.page else _read_only_page(self.image)
        except (OSError, RejectedInput) as error:
            raise ValueError(f"{self.image.name}: {error}") from error
        try:
            return page, self.truth((page.shape[0], page.shape[1]))
        except RejectedInput as error:
            raise TruthFault(f"{self.image.name}: {error}") from error
        except OSError as error:
            raise ValueError(f"{self.image.name}: {error}") from error


def _read_only_page(path: Path) -> NDArray[np.generic]:
    with images.open_image(path) as image:
        if len(image.pages) > 1:
            raise ValueError(f"{path.name} has {len(image.pages)} pages; save each as an image of its own")
        return next(images.read_pages(image)).pixels


def read_source(folder: Path, source: str) -> list[Sample]:
    """Find the samples of one source.

    Args:
        folder: what the paths below are relative to.
        source: `SOURCE/SPLIT`, rows of the folder's index.csv; `coco:ANNOTATIONS.json:IMAGES`, a COCO file
            and the folder that holds its images at any depth, as LIVECell publishes them; or
            `pairs:IMAGES:MASKS`, two folders of files that are matched by their names as `truths.names`
            says, such as `p/a.tif` and `p/a_mask.png`. Also
            `pseudo:IMAGES:LABELS`, whose labels `training.pseudo_label` drew, for some of the images;
            `somata:SOURCE/SPLIT` and `colonies:SOURCE/SPLIT`, rows whose ground truth leaves things out, as
            `labels` says; and `empty:FIRST-LAST`, pages without a cell that `samples.empty` generates.

    Raises:
        FileNotFoundError: naming every file that is listed and missing.
        ValueError: no images, a COCO file that cannot be read, or names that fit several files.
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
    """Read and normalise the images below a folder; no pixel is marked as cell.

    Raises:
        ValueError: no images, or naming every one that cannot be read.
    """
    files = _files_in(folder)
    if not files:
        raise ValueError(f"{folder} has no images")
    return load([Sample(path.stem, path, _cell_line(path.stem), _unmarked) for path in files])


def load(samples: Sequence[Sample]) -> list[Labelled]:
    """Read and normalise all of them, so that nothing can fail in the middle of a run.

    Images whose ground truth is at fault are left out, and named in the log. Takes 5 bytes a pixel, 5.8 GB
    for the 3,188 training images of LIVECell.

    Raises:
        ValueError: an image cannot be read, or no ground truth can be used; it names every one at fault.
    """
    with ThreadPoolExecutor() as executor:
        outcomes = list(executor.map(_load, samples))
    faults = [outcome for outcome in outcomes if isinstance(outcome, ValueError)]
    of_truths = [fault for fault in faults if isinstance(fault, TruthFault)]
    if len(of_truths) < len(faults):
        raise _unusable(faults, len(samples))
    leave_out(of_truths, len(samples))
    return [outcome for outcome in outcomes if isinstance(outcome, Labelled)]


def leave_out(faults: Sequence[TruthFault], images_in_all: int) -> None:
    """Name in the log the images that are left out; raise ValueError if no other is left."""
    if faults and len(faults) == images_in_all:
        raise _unusable(faults, images_in_all)
    if faults:
        logger.warning("%s; they are left out", _unusable(faults, images_in_all))


def _unusable(faults: Sequence[ValueError], images_in_all: int) -> ValueError:
    named = "; ".join(map(str, faults))
    return ValueError(f"{len(faults)} of {images_in_all} images cannot be used: {named}")


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
        by_source: dict[str, list[dict[str, str]]] = {}
        for row in table:
            by_source.setdefault(f"{row['source']}/{row['split']}", []).append(row)
    if source not in by_source:
        listed = ", ".join(by_source) or "nothing"
        raise ValueError(f"{source} in {folder} has no images; {index.name} lists {listed}")
    rows = by_source[source]
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
    mask_of = _matched(pictures, _files_in(pictures), masks, _files_in(masks), "image")
    return [
        Sample(path.stem, path, _cell_line(path.stem), _mask_file(mask)) for path, mask in mask_of.items()
    ]


def _pseudo_labelled_samples(pictures: Path, labels: Path) -> list[Sample]:
    """Return a sample for every label; an image without one is left out."""
    image_of = _matched(labels, _files_in(labels), pictures, _files_in(pictures), "label")
    return [
        Sample(
            path.stem, image, _cell_line(path.stem), truth=partial(_drawn, path), rule=partial(_settled, path)
        )
        for path, image in image_of.items()
    ]


def _drawn(label: Path, _size: Size) -> metrics.Mask:
    cells: metrics.Mask = images.read_page(label).pixels > UNKNOWN_GREY
    return cells


def _settled(label: Path, _pixels: preprocess.Pixels, _cells: metrics.Mask) -> metrics.Mask:
    known: metrics.Mask = images.read_page(label).pixels != UNKNOWN_GREY
    return known


def _matched(
    folder: Path, files: Sequence[Path], other: Path, others: Sequence[Path], kind: str
) -> dict[Path, Path]:
    """Match every file below a folder with one below another; `kind` names the files in errors.

    Raises:
        FileNotFoundError: naming every file without a counterpart.
        ValueError: naming the files whose name does not tell their counterpart.
    """
    marked = kind == "image"  # then the others are masks, whose names may say so
    sought = "mask" if marked else "image"
    found = names.assign(
        {path: _stems(path.relative_to(folder), mask=not marked) for path in files},
        {path: _stems(path.relative_to(other), mask=marked) for path in others},
    )
    _require_no_doubt(
        {
            _below(path, folder): [_below(each, other) for each in several]
            for path, several in found.doubtful.items()
        }
    )
    if found.lonely:
        lonely = ", ".join(_below(path, folder) for path in found.lonely)
        raise FileNotFoundError(f"{other} has no {sought} for {len(found.lonely)} {kind}s: {lonely}")
    if marked:
        _log_unused(
            found.unused, other, {stem for path in files for stem in names.image_stems(_below(path, folder))}
        )
    return dict(found.truths)


def _log_unused(masks: Sequence[Path], folder: Path, stems: Container[str]) -> None:
    """Name the masks that belong to no image, and those of images that have a likelier one."""
    spare = [path for path in masks if any(stem in stems for stem in names.truth_stems(_below(path, folder)))]
    lonely = [path for path in masks if path not in set(spare)]
    for unused, reason in (
        (lonely, "belong to no image"),
        (spare, "are not used, because their image has another mask that is named more like it"),
    ):
        if unused:
            listed = names.listed(_below(path, folder) for path in unused)
            logger.warning("%d files in %s %s: %s", len(unused), folder, reason, listed)


def _empty_samples(seeds: str) -> list[Sample]:
    first, _, last = seeds.partition("-")
    if not (first.isdecimal() and last.isdecimal()):
        raise ValueError(f"empty:{seeds} is not a source; write empty:FIRST-LAST, such as empty:0-89")
    return [
        Sample(
            name := f"empty-{seed:04}",
            Path(name),
            empty_page_kind(seed),
            truth=_unmarked,
            page=partial(_empty_pixels, seed),
        )
        for seed in range(int(first), int(last) + 1)
    ]


def _empty_pixels(seed: int) -> NDArray[np.generic]:
    return empty_page(seed, *EMPTY_SIZE).pixels


def _coco_samples(annotations: Path, pictures: Path) -> list[Sample]:
    """Return a sample for every image; ids that share one (LIVECell's test set has some) share the image."""
    try:
        require_coco_size(annotations.stat().st_size, annotations.name)
        coco = read_coco(annotations.read_bytes(), annotations.name)
    except UnreadableCoco as error:
        raise ValueError(str(error)) from error
    found = names.assign(
        {path: [names.clean(_below(path, pictures))] for path in _files_in(pictures)},
        {name: [name] for name in coco.entries},
    )
    _require_no_doubt({_below(path, pictures): several for path, several in found.doubtful.items()})
    if found.unused:
        raise FileNotFoundError(
            f"{pictures} lacks {len(found.unused)} images that {annotations.name} names: "
            f"{', '.join(sorted(found.unused))}"
        )
    path_of = {name: path for path, name in found.truths.items()}
    return [
        Sample(path_of[name].stem, path_of[name], _cell_line(path_of[name].stem), _outlined(coco, name))
        for name in coco.entries
    ]


def _require_no_doubt(doubtful: Mapping[str, Sequence[str]]) -> None:
    if doubtful:
        doubts = "; ".join(f"{name} ({', '.join(several)})" for name, several in sorted(doubtful.items()))
        raise ValueError(
            f"the names of {len(doubtful)} files do not tell which ground truth is theirs: {doubts}; "
            "name images and ground truths alike, with their folders"
        )


def _outlined(coco: Coco, name: str) -> Callable[[Size], metrics.Mask]:
    return lambda size: coco.draw(name, [size])


def _mask_file(path: Path) -> Callable[[Size], metrics.Mask]:
    def read(size: Size) -> metrics.Mask:
        (cells,) = read_ground_truth(path, path.name, [size])
        return cells

    return read


def _unmarked(size: Size) -> metrics.Mask:
    return np.zeros(size, np.bool_)


def _files_in(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower().removeprefix(".") in names.IMAGE_SUFFIXES
        and not path.name.startswith(OF_ANOTHER_FILE)
    )


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _stems(path: Path, mask: bool) -> list[str]:
    return names.truth_stems(path.as_posix()) if mask else names.image_stems(path.as_posix())


def _require_files(folder: Path, names: Iterable[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {len(missing)} listed files: {', '.join(missing)}")


def _cell_line(name: str, otherwise: str = "") -> str:
    found = LIVECELL_NAME.match(name)
    return found["line"] if found else otherwise
