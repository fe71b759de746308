"""Files on the user's disk: find images, and write files atomically."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cytomask.addresses import is_plate_map
from cytomask.cli.console import complain
from cytomask.output_names import OUTPUT_FILES, image_of_output, is_output
from cytomask.truths.names import (
    APPLE_DOUBLE,
    CELLPOSE,
    IMAGE_SUFFIXES,
    MICROSCOPE_SUFFIXES,
    is_zarr,
    listed,
    masks_beside,
)

if TYPE_CHECKING:
    from cytomask.truths.pairs import Found as PairsFound

SUFFIXES = frozenset(f".{suffix}" for suffix in IMAGE_SUFFIXES)
MICROSCOPES = frozenset(f".{suffix}" for suffix in MICROSCOPE_SUFFIXES)
PLATE_MAP = "plate map"  # kind of a file that was passed over
# Ending of the one output that may be a ground truth, because it may be corrected.
MASK = f".{OUTPUT_FILES['mask']['mask']}"


@dataclass
class Found:
    """Images on the disk.

    Attributes:
        images: each image with its path relative to the given folder, or its name if it was given itself.
        passed_over: number of files of each kind that were skipped.
    """

    images: list[tuple[Path, Path]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)


def find_images(paths: Iterable[Path], suffixes: Iterable[str] = SUFFIXES, *, truths: bool = False) -> Found:
    """Find the given files, and the images in the given folders.

    Outputs of cytomask, masks named like another image that is found, and macOS's ._ files are skipped even
    if they are given, because a shell's `*` may include them.

    Args:
        paths: files and folders.
        suffixes: file name suffixes of images, in lower case.
        truths: find ground truths: masks beside images count, and so do masks by cytomask, as they may be
            corrected.
    """
    found = Found()
    seen: list[str] = []  # also images of formats that were not asked for, because masks may lie beside them
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112  # Path.is_dir raises where a folder may not be entered
            kind = _never_sent(path, truths=truths)
            if kind:
                found.passed_over[kind] += 1
            else:
                seen.append(str(path))
                found.images.append((path, Path(path.name)))
            continue
        for file in _walk(path, found.passed_over):
            never = _never_sent(file, truths=truths)
            if not never:
                seen.append(str(file))
            kind = never or _no_image(file, suffixes)
            if kind:
                found.passed_over[kind] += 1
            else:
                found.images.append((file, file.relative_to(path)))
    masks = {} if truths else masks_beside(seen)
    images = [(path, below) for path, below in found.images if str(path) not in masks]
    if passed := len(found.images) - len(images):
        found.passed_over["named as the mask of another image"] = passed
    found.images = images
    return found


def describe_passed_over(passed_over: Counter[str]) -> str:
    """Say how many files of each kind were skipped; empty if none were."""
    if not passed_over:
        return ""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(passed_over.items()))
    return f"passed over {count_of(passed_over.total(), 'file')}: {kinds}"


def complain_left_out(names: Sequence[str], what: str, why: str) -> None:
    """Print how many files were left out and some of their names; print nothing if none were."""
    if names:
        complain(f"left out {count_of(len(names), what)} {why}: {listed(names, 10)}")


def complain_unused(found: "PairsFound") -> None:
    """Name the files beside images and ground truths that were not used."""
    complain_left_out(found.without_image, "ground truth", "without an image")
    complain_left_out(found.outputs, "file", "written by cytomask")
    complain_left_out(found.zarrs, "folder", "of OME-Zarr, which is not read; export it as OME-TIFF")


def count_of(count: int, what: str) -> str:
    """Write a number with its noun, such as 1 image and 2 images."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _walk(folder: Path, passed_over: Counter[str]) -> Iterator[Path]:
    """Yield the files in a folder in the order of their paths.

    Folders that cannot be read are counted. So are folders of OME-Zarr: they hold a file for each chunk.
    """

    def count_unreadable(_: OSError) -> None:
        passed_over["folder that cannot be read"] += 1

    files: list[Path] = []
    for root, below, names in os.walk(folder, onerror=count_unreadable):
        if is_zarr(root, names):
            passed_over["OME-Zarr (not read; export it as OME-TIFF)"] += 1
            below.clear()
            continue
        files += (Path(root, name) for name in names)
    return iter(sorted(files))


def _never_sent(file: Path, *, truths: bool) -> str:
    """Name the kind of a file that cannot be an image; empty if it may be one."""
    if file.name.startswith(APPLE_DOUBLE):
        return "._ of macOS"
    if file.name.endswith(CELLPOSE):
        return "saved by Cellpose"
    own = is_output(file.name) and not file.name.endswith(MASK) if truths else image_of_output(file.name)
    return "written by cytomask" if own else ""


def _no_image(file: Path, suffixes: Iterable[str]) -> str:
    """Name the kind of a file without an image's suffix; empty for an image."""
    if file.suffix.lower() not in suffixes:
        return PLATE_MAP if is_plate_map(file.name) else printable_kind(file)
    if not os.path.isfile(file):  # noqa: PTH113  # Path.is_file raises where a name is too long
        return "broken link" if file.is_symlink() else "not a plain file"
    return ""


def printable_kind(file: Path) -> str:
    """Return the kind of a file: its suffix, or the whole name of a dotfile."""
    return file.suffix.lower() or (file.name if file.name.startswith(".") else "without an ending")


def find_clashes(targets: Iterable[tuple[Path, Path]]) -> dict[Path, list[Path]]:
    """Return the targets that several sources would write, with these sources.

    Names that differ only in capitals or Unicode form count as equal: on macOS and Windows they are one file.
    """
    sources: defaultdict[str, list[tuple[Path, Path]]] = defaultdict(list)
    for source, target in targets:
        sources[unicodedata.normalize("NFC", str(target)).casefold()].append((source, target))
    return {
        clashing[0][1]: [source for source, _ in clashing]
        for clashing in sources.values()
        if len(clashing) > 1
    }


def is_same_file(one: Path, other: Path) -> bool:
    """Tell whether two paths lead to the same existing file."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically, so that an interruption leaves no half file; raise OSError if that fails.

    Special files, such as /dev/stdout, and targets of links are written in place instead of replaced.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
