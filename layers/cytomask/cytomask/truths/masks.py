"""Read mask images as ground truths: a pixel is cell if its stored value is not zero.

The stored value counts, not its colour: labels may be indices into a palette, and tifffile and ImageJ write
masks that show 0 as white.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomask import budget
from cytomask.errors import (
    AmbiguousChannels,
    GroundTruthMismatch,
    NoBackground,
    NonFinitePixels,
    UnreadableImage,
)
from cytomask.images import (
    JPEG_MAGIC,
    LIMITS,
    ImageFile,
    Limits,
    StoredPage,
    open_image,
    read_stored,
)
from cytomask.metrics import Mask
from cytomask.truths.limits import Size

# If a page has less background than this, and one label takes LABELLED_BACKGROUND, that is its background.
LEAST_BACKGROUND = 0.01
LABELLED_BACKGROUND = 0.1
ALL_CELL = (
    "If the page is all cell, outline it in a COCO file, or leave it out; only in a stack where another page "
    "has background may it be saved with one value"
)
READING = budget.Budget(60, "save it uncompressed, or with LZW or deflate")


def read_ground_truth(
    source: bytes | Path, name: str, sizes: Sequence[Size], limits: Limits = LIMITS
) -> Iterator[Mask]:
    """Read each page as (H, W) bool: masks of 0 and 255 or 0 and 1, soft and RGB masks, label images.

    Args:
        source: the file's bytes or its path.
        name: the file's name in errors.
        sizes: height and width of every page of the image that the mask belongs to.
        limits: size limits of its pages.

    Yields:
        The pages in order. NoBackground for the whole file is raised only after the last page.

    Raises:
        GroundTruthMismatch: the headers give other sizes.
        UnreadableImage: the file is not an image, is damaged, or is a JPEG.
        AmbiguousChannels: it has several channels, or colours that transparency hides.
        NoBackground: no pixel of any page is background, or `find_cells` finds the background of a page under
            another label.
        NonFinitePixels: it has NaN or infinite values.
        ImageTooLarge: it exceeds the limits, or would take too long to decode.
        RejectedInput: `open_image` or `read_stored` refuses it for another reason.
    """
    _require_lossless(source, name)
    with open_image(source, name, limits) as image:
        _require_sizes(image, sizes)
        _require_one_channel(image)
        if any(page.lossy for page in image.pages):
            raise _lossy(name)
        budget.require(image, range(len(image.pages)), None, tiles=0, outputs=(), budget=READING)
        background = False
        for page in read_stored(image, limits=limits):
            cells = find_cells(page, name, palette=image.pages[page.index].palette)
            background = background or not cells.all()
            yield cells
    if not background:
        raise NoBackground(
            f"{name} has no background: no pixel is stored as 0. Save the background as 0; if the "
            f"background has a label of its own, such as 1, subtract it. {ALL_CELL}"
        )


def find_cells(page: StoredPage, name: str, *, palette: bool = False) -> Mask:
    """Tell cells from background on one page, by the stored values or, if they are uniform, by transparency.

    Args:
        page: the page as stored.
        name: the file's name in errors.
        palette: whether the page stores indices, which mark cells even if they are transparent.

    Returns:
        (H, W) bool.

    Raises:
        AmbiguousChannels: transparency hides some of the pixels that are not 0.
        NoBackground: the page has several labels and hardly a pixel that is 0.
        NonFinitePixels: the page has NaN or infinite values.
    """
    stored: NDArray[Any] = page.values
    if stored.dtype.kind == "f" and not np.isfinite(stored).all():
        raise NonFinitePixels(
            f"page {page.index} of {name} has pixels that are NaN or infinite; save them as 0 or as cell"
        )
    cells: Mask = (stored if stored.ndim == 2 else stored.any(axis=-1)) != 0
    opaque: Mask | None = None if page.alpha is None else page.alpha != 0
    if opaque is not None and opaque.any() and not opaque.all():
        if cells.all() or not cells.any():
            return opaque
        if np.any(cells & ~opaque) and not palette:
            raise AmbiguousChannels(
                f"page {page.index} of {name} has colours that its transparency hides, so it holds two "
                "different masks; save the right one without transparency"
            )
    _require_background(stored, cells, f"page {page.index} of {name}")
    return cells


def _require_background(stored: NDArray[Any], cells: Mask, called: str) -> None:
    """Refuse a page whose background seems to have a label of its own; raise NoBackground.

    A page of one value may be all cell, as in a confluent culture: `read_ground_truth` looks at the others.
    """
    empty = cells.size - int(np.count_nonzero(cells))
    if not empty and (stored != stored[0, 0]).any():
        raise NoBackground(
            f"{called} has no background: no pixel is stored as 0, and there are several labels. Save the "
            f"background as 0. {ALL_CELL}"
        )
    if stored.ndim == 2 and 0 < empty < LEAST_BACKGROUND * cells.size:
        lowest = stored[cells].min()
        share = float(np.mean(stored == lowest))
        if share >= LABELLED_BACKGROUND and np.any(cells & (stored != lowest)):
            raise NoBackground(
                f"{called} has {empty} pixels that are stored as 0, and {share:.0%} of it as {lowest}, which "
                f"looks like its background. Save the background as 0. {ALL_CELL}"
            )


def _require_lossless(source: bytes | Path, name: str) -> None:
    if isinstance(source, Path):
        with source.open("rb") as file:
            magic = file.read(len(JPEG_MAGIC))
    else:
        magic = source[: len(JPEG_MAGIC)]
    if magic == JPEG_MAGIC:
        raise _lossy(name)


def _lossy(name: str) -> UnreadableImage:
    return UnreadableImage(
        f"{name} is compressed as JPEG, where hardly any pixel stays zero; "
        "save the mask as PNG or TIFF with LZW or deflate"
    )


def _require_sizes(image: ImageFile, sizes: Sequence[Size]) -> None:
    if len(image.pages) != len(sizes):
        raise GroundTruthMismatch(
            f"{image.name} has {len(image.pages)} pages and the image {len(sizes)}; "
            "save a ground truth with a page for each"
        )
    for page, (height, width) in zip(image.pages, sizes, strict=True):
        if (page.height, page.width) != (height, width):
            raise GroundTruthMismatch(
                f"{image.name} is {page.width} x {page.height} pixels and the image {width} x {height}; "
                "save a ground truth of the image's own size"
            )


def _require_one_channel(image: ImageFile) -> None:
    for page in image.pages:
        if page.channels > 1 and not page.colour:
            raise AmbiguousChannels(
                f"{image.name} has {page.channels} channels; save the one that holds the mask"
            )
