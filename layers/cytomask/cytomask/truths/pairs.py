"""Find pairs of an image and its ground truth on this computer.

They may be in one folder, in two folders, in a COCO file, in Cellpose's `_seg.npy`, or in the zip of
corrected pairs that the web page makes.
"""

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cytomask import images
from cytomask.acquisition import Acquisition, read_acquisition
from cytomask.errors import CytomaskError, GroundTruthMismatch
from cytomask.metrics import Mask
from cytomask.microscopes import READERS, open_microscope
from cytomask.output_names import image_of_output, is_output
from cytomask.truths import names
from cytomask.truths.cellpose import read_cellpose
from cytomask.truths.coco import Coco, read_coco
from cytomask.truths.limits import Size, require_coco_size
from cytomask.truths.masks import read_ground_truth

IMAGE_FOLDERS = ("images", "image", "img", "imgs")
TRUTH_FOLDERS = ("masks", "mask", "labels", "truths", "ground_truth", "ground_truths", "gt")
MASK = ".mask.png"  # ending of the one output of cytomask that may be a ground truth, once it is corrected

ReadTruth = Callable[[Sequence[Size]], list[Mask]]


class PairsError(ValueError):
    """Some images or ground truths cannot be used. The message names each of them and says why."""


@dataclass(frozen=True)
class Pair:
    """An image file and its ground truth.

    Attributes:
        name: path of the image relative to the given folder.
        image: the file.
        read_truth: reads the cells of every page, (H, W) bool, given the size of each page.
    """

    name: str
    image: Path
    read_truth: ReadTruth

    @property
    def acquisition(self) -> Acquisition:
        """Where and when the image was taken, as far as its name says."""
        return read_acquisition(self.name)


@dataclass(frozen=True)
class Page:
    """One page with its ground truth.

    Attributes:
        name: name of the image; for a page of a stack followed by its number, counted from 0.
        file: name of the image, the same for all pages of a stack.
        pixels: (H, W), any real dtype.
        cells: (H, W) bool.
        acquisition: where and when it was taken, as far as the name says.
    """

    name: str
    file: str
    pixels: NDArray[np.generic]
    cells: Mask
    acquisition: Acquisition


@dataclass
class Found:
    """Images and ground truths on this computer.

    Attributes:
        pairs: images with their ground truths.
        without_truth: the other images, by their names.
        without_image: names of ground truths that belong to no image.
        outputs: names of files that cytomask wrote, which are neither.
        zarrs: names of folders of OME-Zarr, which are not read.
    """

    pairs: list[Pair] = field(default_factory=list)
    without_truth: dict[str, Path] = field(default_factory=dict)
    without_image: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    zarrs: list[str] = field(default_factory=list)

    def add(self, other: "Found") -> None:
        """Add the pairs and names found in another place."""
        self.pairs += other.pairs
        self.without_truth |= other.without_truth
        self.without_image += other.without_image
        self.outputs += other.outputs
        self.zarrs += other.zarrs


def find_pairs(paths: Sequence[Path], unpacked: Path) -> Found:
    """Find at least one pair in the given paths, like `find_images_and_truths`.

    Raises:
        PairsError: there is no pair, or `find_images_and_truths` raised it.
    """
    found = find_images_and_truths(paths, unpacked)
    if not found.pairs:
        places = ", ".join(str(path) for path in paths)
        own = [name for name in found.outputs if name.endswith(MASK)]
        more = f"; {names.listed(own, 3)}: if you corrected it, rename it likewise" if own else ""
        if found.zarrs:
            more += f"; {names.listed(found.zarrs, 3)}: OME-Zarr is not read, export it as OME-TIFF"
        raise PairsError(
            f"{places}: no image has a ground truth of its name. Name the mask of a.tif a_mask.png, or put "
            f"the masks into a second folder under the images' names{more}"
        )
    return found


def find_images_and_truths(paths: Sequence[Path], unpacked: Path) -> Found:
    """Find the images in the given paths, and the ground truths that exist.

    Args:
        paths: files and folders. A folder contains images and their ground truths, or the folders `images`
            and `masks`; if it has no ground truths, the next path is the folder that has them. After a COCO
            file may follow the folder of its images; otherwise they are beside it. A zip file may contain any
            of these.
        unpacked: folder into which zip files are unpacked.

    Raises:
        PairsError: a path does not exist, or a name fits several files.
    """
    found, files = Found(), []
    left = list(paths)
    while left:
        path = left.pop(0)
        if not path.exists():
            raise PairsError(f"{path} does not exist")
        if image_of_output(path.name) and path.is_file():  # a shell's `*` may name ROI sets and results
            files.append(path)
            continue
        if path.suffix.lower() == ".zip" and path.is_file():
            path = _unpack(path, unpacked / path.stem)
        if path.suffix.lower() == ".json":
            below = left.pop(0) if left and left[0].is_dir() else path.parent
            found.add(_of_coco(path, below))
        elif path.is_dir():
            here = _of_folder(path)
            if not here.pairs and left and left[0].is_dir() and (two := _of_two(path, left[0])).pairs:
                here = two
                left.pop(0)
            found.add(here)
        else:
            files.append(path)
    if files:
        found.add(_of_files(files, files[0].parent))
    return found


def read_pages(pairs: Sequence[Pair], channel: int | None = None) -> Iterator[Page]:
    """Read the pages of each pair in turn; `channel` is as in `images.read_pages`.

    Raises:
        PairsError: after the last pair, if images or ground truths cannot be read or their sizes differ.
    """
    faults = []
    for pair in pairs:
        try:
            with _open(pair.image) as image:
                sizes = [(page.height, page.width) for page in image.pages]
                truths = pair.read_truth(sizes)
                for page, cells in zip(images.read_pages(image, channel=channel), truths, strict=True):
                    if cells.shape != page.pixels.shape:  # an orientation tag turned the image
                        raise GroundTruthMismatch(
                            f"it is {page.pixels.shape[1]} x {page.pixels.shape[0]} pixels upright and its "
                            f"ground truth {cells.shape[1]} x {cells.shape[0]}"
                        )
                    name = pair.name if len(sizes) == 1 else f"{pair.name} page {page.index}"
                    yield Page(name, pair.name, page.pixels, cells, pair.acquisition)
        except (CytomaskError, OSError) as error:
            faults.append(f"{pair.name}: {error}")
    if faults:
        raise PairsError("; ".join(faults))


def read_plain_pages(
    name: str, path: Path, channel: int | None = None
) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Yield name and pixels, (H, W) of any real dtype, of each page; raise PairsError if unreadable."""
    try:
        with _open(path) as image:
            for page in images.read_pages(image, channel=channel):
                yield name if len(image.pages) == 1 else f"{name} page {page.index}", page.pixels
    except (CytomaskError, OSError) as error:
        raise PairsError(f"{name}: {error}") from error


def _open(path: Path) -> AbstractContextManager[images.ImageFile]:
    return open_microscope(path) if path.suffix.lower() in READERS else images.open_image(path)


def _unpack(archive: Path, folder: Path) -> Path:
    """Unpack the images and masks of an archive; no name can escape the folder."""
    try:
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder)
    # zipfile raises RuntimeError for a password, NotImplementedError for a compression that it does not know.
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError) as error:
        raise PairsError(f"{archive} cannot be unpacked: {error}") from error
    return folder


def _of_folder(folder: Path) -> Found:
    """Find the pairs in one folder."""
    below = {each.name.lower(): each for each in folder.iterdir() if each.is_dir()}
    pictures = next((below[name] for name in IMAGE_FOLDERS if name in below), None)
    truths = next((below[name] for name in TRUTH_FOLDERS if name in below), None)
    if pictures and truths:
        return _of_two(pictures, truths)
    files, zarrs = _walk(folder)
    return replace(_of_files(files, folder), zarrs=zarrs)


def _of_two(pictures: Path, truths: Path) -> Found:
    """Match the images in one folder with the ground truths in another."""
    (picture_files, zarrs), (truth_files, more_zarrs) = _walk(pictures), _walk(truths)
    all_pictures, all_truths = list(_usable(picture_files)), list(_usable(truth_files))
    image_names = {
        path: names.image_stems(_below(path, pictures)) for path in all_pictures if _may_be_image(path)
    }
    truth_names = {
        path: _truth_stems(_below(path, truths))
        for path in all_truths
        if path.name.endswith(MASK) or not is_output(path.name)
    }
    outputs = [
        path
        for path in (*all_pictures, *all_truths)
        if path not in truth_names and image_of_output(path.name)
    ]
    return replace(_matched(image_names, truth_names, outputs, pictures), zarrs=[*zarrs, *more_zarrs])


def _truth_stems(name: str) -> list[str]:
    stems = names.truth_stems(name)
    return [stem.removesuffix(names.CELLPOSE) for stem in stems]


def _of_files(files: Sequence[Path], folder: Path) -> Found:
    """Pick the ground truths from some files by the marks in their names, and match them with the others."""
    usable = {_below(path, folder): path for path in _usable(files)}
    marked = names.masks_beside(name for name, path in usable.items() if not is_output(path.name))
    truths = {usable[name]: stems for name, stems in marked.items()}
    pictures = {
        path: names.image_stems(name)
        for name, path in usable.items()
        if path not in truths and _may_be_image(path)
    }
    drawn = {stem for path, stems in truths.items() if path.name.endswith(names.CELLPOSE) for stem in stems}
    # Cellpose writes a_seg.npy and, on request, a_cp_masks.png; the former has the latest corrections.
    kept = {
        path: stems
        for path, stems in truths.items()
        if path.name.endswith(names.CELLPOSE) or not drawn.intersection(stems)
    }
    outputs = [path for path in usable.values() if path not in truths and image_of_output(path.name)]
    return _matched(pictures, kept, outputs, folder)


def _matched(
    pictures: dict[Path, list[str]], truths: dict[Path, list[str]], outputs: Sequence[Path], folder: Path
) -> Found:
    found = names.assign(pictures, truths)
    if found.doubtful:
        doubts = "; ".join(
            f"{_below(path, folder)} ({', '.join(each.name for each in several)})"
            for path, several in sorted(found.doubtful.items())
        )
        raise PairsError(f"the names do not tell which ground truth belongs to which image: {doubts}")
    pairs = [Pair(_below(path, folder), path, _reader(truth)) for path, truth in sorted(found.truths.items())]
    return Found(
        pairs,
        {_below(path, folder): path for path in sorted(found.lonely)},
        sorted(path.name for path in found.unused),
        sorted(path.name for path in outputs),
    )


def _of_coco(annotations: Path, pictures: Path) -> Found:
    """Match the images in a folder with the entries of a COCO file."""
    try:
        require_coco_size(annotations.stat().st_size, annotations.name)
        coco = read_coco(annotations.read_bytes(), annotations.name)
    except (CytomaskError, OSError) as error:
        raise PairsError(str(error)) from error
    files, zarrs = _walk(pictures)
    usable = filter(_may_be_image, _usable(files))
    found = names.assign(
        {path: [names.clean(_below(path, pictures))] for path in usable},
        {name: [name] for name in coco.entries},
    )
    if found.doubtful:
        doubts = ", ".join(sorted(_below(path, pictures) for path in found.doubtful))
        raise PairsError(f"{annotations.name} does not tell by its names which entry is meant: {doubts}")
    pairs = [
        Pair(_below(path, pictures), path, partial(_draw, coco, name))
        for path, name in sorted(found.truths.items())
    ]
    lonely = {_below(path, pictures): path for path in sorted(found.lonely)}
    return Found(pairs, lonely, sorted(found.unused), zarrs=zarrs)


def _draw(coco: Coco, name: str, sizes: Sequence[Size]) -> list[Mask]:
    return [coco.draw(name, sizes)]


def _reader(truth: Path) -> ReadTruth:
    return partial(_read_cellpose if truth.name.endswith(names.CELLPOSE) else _read_image, truth)


def _read_image(truth: Path, sizes: Sequence[Size]) -> list[Mask]:
    return list(read_ground_truth(truth, truth.name, sizes))


def _read_cellpose(truth: Path, sizes: Sequence[Size]) -> list[Mask]:
    if len(sizes) > 1:
        raise GroundTruthMismatch(f"{truth.name} has the masks of one page and the image has {len(sizes)}")
    return [read_cellpose(truth, sizes[0])]


def _walk(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the files in a folder, and the names of its folders of OME-Zarr, which are not entered."""
    files: list[Path] = []
    zarrs = []
    for root, below, inside in os.walk(folder):
        if names.is_zarr(root, inside):
            zarrs.append(Path(root).name)
            below.clear()
        else:
            files += (Path(root, name) for name in inside)
    return files, sorted(zarrs)


def _usable(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files that are images, ground truths or outputs of cytomask, by their names."""
    for path in sorted(paths):
        known = names.is_image(path.name) or path.name.endswith(names.CELLPOSE) or image_of_output(path.name)
        if known and path.is_file() and not path.name.startswith(names.APPLE_DOUBLE):
            yield path


def _may_be_image(path: Path) -> bool:
    return names.is_image(path.name) and not image_of_output(path.name)


def _below(path: Path, folder: Path) -> str:
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:  # the files are in several folders, for example from a shell's `*`
        return path.as_posix()
