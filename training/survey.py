"""Measure images and their ground truths, and find the images that occur twice."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cytomask import images, metrics
from cytomask.training.sources import Sample
from cytomask.truths import names
from cytomask.truths.coco import read_coco

Areas = NDArray[np.int64]
TINY = 64  # square pixels: 8 x 8, a quarter of the smallest LIVECell cells' extent


@dataclass(frozen=True)
class Seen:
    """The measurements of one image and its ground truth.

    Attributes:
        source: as given on the command line.
        sample: the image.
        shape: height and width in pixels.
        kind: type of the file's pixels, and `RGB` for colours.
        pixels_hash, cells_hash: equal for equal pixels and for equal masks.
        confluence: share of the pixels that are cell, 0..1.
        areas: of the mask's connected components, in pixels.
        dark, middle, bright: 1st, 50th and 99th percentile, as shares of the type's largest value,
            or for floats of the image's maximum.
        saturated: share of the pixels with the type's largest value.
    """

    source: str
    sample: Sample
    shape: tuple[int, int]
    kind: str
    pixels_hash: str
    cells_hash: str
    confluence: float
    areas: Areas
    dark: float
    middle: float
    bright: float
    saturated: float

    @property
    def line(self) -> str:
        """The cell line in words."""
        return self.sample.group or "not named"


def look(source: str, sample: Sample) -> Seen:
    """Read and measure one image; raise ValueError as `Sample.read` does."""
    read, cells = sample.read()
    page: NDArray[Any] = read
    with images.open_image(sample.image) as file:
        header = file.pages[0]
    whole = np.issubdtype(header.dtype, np.integer)
    ceiling = np.iinfo(header.dtype).max if whole else float(page.max()) or 1.0
    dark, middle, bright = np.percentile(page, (1, 50, 99)) / ceiling
    return Seen(
        source=source,
        sample=sample,
        shape=(header.height, header.width),
        kind=f"{header.dtype} RGB" if header.colour else header.dtype,
        pixels_hash=_hash(page),
        cells_hash=_hash(cells),
        confluence=metrics.confluence(cells),
        areas=component_areas(cells),
        dark=float(dark),
        middle=float(middle),
        bright=float(bright),
        saturated=float(np.mean(page > ceiling - 0.5)) if whole else 0.0,
    )


def _hash(array: NDArray[np.generic]) -> str:
    described = f"{array.shape} {array.dtype}".encode()
    return hashlib.sha256(described + np.ascontiguousarray(array).tobytes()).hexdigest()


def component_areas(cells: metrics.Mask) -> Areas:
    """Return areas in pixels of the connected components, diagonal neighbours included, of (H, W) bool."""
    _, _, statistics, _ = cv2.connectedComponentsWithStats(cells.astype(np.uint8), connectivity=8)
    return statistics[1:, cv2.CC_STAT_AREA].astype(np.int64)  # the first is the background


def annotated_areas(annotations: Path, lines: Mapping[str, str]) -> dict[str, Areas]:
    """Return the area in pixels of each of a COCO file's annotations, by cell line.

    Args:
        annotations: a file whose outlines were drawn before without an error.
        lines: the cell line of each image by its base name.
    """
    coco = read_coco(annotations.read_bytes(), annotations.name)
    areas: dict[str, list[int]] = defaultdict(list)
    for name in coco.entries:
        areas[lines[names.base(name)]] += coco.areas(name)
    return {line: np.array(found, np.int64) for line, found in areas.items()}


def cell_sizes(seen: Sequence[Seen], data: Path) -> dict[tuple[str, str], Areas]:
    """List areas by cell line and source: of a COCO file's annotations, or of the masks' components."""
    sizes: dict[tuple[str, str], Areas] = {}
    for source, looks in grouped(seen, lambda one: one.source).items():
        if source.startswith("coco:"):
            lines = {names.base(one.sample.image.name): one.line for one in looks}
            by_line = annotated_areas(data / source.split(":")[1], lines)
        else:
            by_line = {
                line: np.concatenate([one.areas for one in of_line])
                for line, of_line in grouped(looks, lambda one: one.line).items()
            }
        sizes |= {(line, source): areas for line, areas in by_line.items()}
    return sizes


def duplicates(seen: Sequence[Seen]) -> list[tuple[str, list[Seen]]]:
    """List images that occur twice, by pixels or by name, and in which way; leaks come first."""
    found = []
    for same in grouped(seen, lambda one: one.pixels_hash).values():
        if len(same) > 1:
            differ = len({one.cells_hash for one in same}) > 1
            found.append(("same pixels, different masks" if differ else "same pixels, same mask", same))
    for same in grouped(seen, lambda one: one.sample.name).values():
        if len({one.pixels_hash for one in same}) > 1:
            found.append(("same name, different pixels", same))
    return sorted(found, key=lambda group: len({one.source for one in group[1]}) == 1)


def grouped(seen: Iterable[Seen], key: Callable[[Seen], str]) -> dict[str, list[Seen]]:
    """Group images by key, keys in the order of their first image."""
    groups = defaultdict(list)
    for one in seen:
        groups[key(one)].append(one)
    return dict(groups)


def source_of(one: Seen) -> str:
    """Return the source that an image came from."""
    return one.source


def line_of(one: Seen) -> str:
    """Return an image's cell line."""
    return one.line
