"""The public Python names: read a page, segment it, score a mask, measure growth. docs/python.md shows them.

`import cytomask` loads this module only when one of its names is used, so that Lambda never pays for it.
"""

import os
from functools import cache
from numbers import Integral
from pathlib import Path, PurePath
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cytomask.acquisition import Acquisition, parse_pattern
from cytomask.acquisition import read_acquisition as read_name
from cytomask.curves import Curve
from cytomask.errors import NoSuchPage, UnreadableImage
from cytomask.images import open_image, read_pages
from cytomask.metrics import Mask, Score
from cytomask.metrics import score as score_masks
from cytomask.microscopes import READERS, open_microscope
from cytomask.model.predictor import Mode, Prediction, Predictor
from cytomask.truths.masks import read_ground_truth
from cytomask.well_growth import Growth, measure_growth

File = str | os.PathLike[str]

__all__ = [
    "Acquisition",
    "Growth",
    "Prediction",
    "Predictor",
    "Score",
    "growth",
    "read_acquisition",
    "read_page",
    "score",
    "segment",
]


def read_page(file: File, *, page: int | None = None, channel: int | None = None) -> NDArray[Any]:
    """Read one page of a TIFF, PNG or JPEG as grey values; of CZI, ND2 and LIF with the extra `microscopes`.

    Args:
        file: path of the image.
        page: which page of a stack, counted from 0. May be None if the file has one page.
        channel: which channel, counted from 0. May be None if the page has one channel, or is RGB, which
            becomes luma.

    Returns:
        (height, width), of any real dtype but bool; brighter is larger.

    Raises:
        NoSuchPage: the file has several pages and `page` is None, or it has no such page.
        ValueError: `file` is no path, or `page` or `channel` no whole number.
        RejectedInput: the file is not an image, is damaged or too large, or its channel must be named.
        FileNotFoundError: there is no such file.
    """
    _require_number(page, "page")
    _require_number(channel, "channel")
    _require_path(file)
    path = Path(file)
    if path.is_dir():
        raise UnreadableImage(
            f"{path} is a folder; name one image in it. OME-Zarr is not read: export it as OME-TIFF"
        )
    microscope = path.suffix.lower() in READERS
    with open_microscope(path) if microscope else open_image(path) as image:
        if page is None and len(image.pages) > 1:
            raise NoSuchPage(
                f"{image.name} has {len(image.pages)} pages; choose one with page=0 to {len(image.pages) - 1}"
            )
        return next(read_pages(image, [page or 0], channel)).pixels


def segment(
    image: ArrayLike | File,
    *,
    mode: Mode = "native",
    threshold: float | None = None,
    page: int | None = None,
    channel: int | None = None,
    predictor: Predictor | None = None,
) -> Prediction:
    """Segment one page: find the pixels of living cells.

    Args:
        image: (height, width) grey values of any real dtype, or the path of an image.
        mode: `native` works at full resolution; `resize` squashes the page to 224x224 and is faster.
        threshold: probability from which a pixel counts as cell, 0 to 1. None takes the model's own.
        page: as in `read_page`; only for a path.
        channel: as in `read_page`; only for a path.
        predictor: the networks to use. None takes the shipped ones, loaded once per process.

    Returns:
        A prediction with `mask`, (height, width) bool, and `probability`, (height, width) float32.

    Raises:
        ValueError: an argument is not as described, or the predictor has no network for the mode.
        RejectedInput: the file cannot be read; see `read_page`.
    """
    if predictor is not None and not isinstance(predictor, Predictor):
        raise ValueError(
            f"predictor must be a Predictor, as in Predictor(weights='my_weights'), not {predictor!r}"
        )
    if isinstance(image, str | os.PathLike):
        pixels = read_page(image, page=page, channel=channel)
    elif page is not None or channel is not None:
        raise ValueError("page and channel choose from a file; index the array instead, as in image[0]")
    else:
        pixels = _plane(image, "image")
    return (predictor or _shipped()).predict(pixels, mode, threshold)


def score(mask: ArrayLike | File, ground_truth: ArrayLike | File) -> Score:
    """Compare a mask with its ground truth, by the rules of docs/scores.md.

    Args:
        mask: (height, width) bool or integers, where non-zero is cell, or the path of a mask image.
        ground_truth: the same, of the same size.

    Returns:
        A score with `iou`, `dice`, `precision` and `recall`, each 0 to 1.

    Raises:
        ValueError: an array is not as described, or the sizes differ.
        RejectedInput: a file cannot be read as a mask of one page.
    """
    ours = _mask(mask, "mask")
    theirs = _mask(ground_truth, "ground_truth")
    if ours.shape != theirs.shape:
        raise ValueError(f"mask is {_size(ours)} but ground_truth is {_size(theirs)}; they must match")
    return score_masks(ours, theirs)


def read_acquisition(file: PurePath | str, *, pattern: str | None = None) -> Acquisition:
    """Read plate, well, site, time and cell line from an image's name.

    Args:
        file: path or S3 key. The file need not exist: only its name is read.
        pattern: how names are built, as `--pattern` takes it; tried before the schemes of common microscopes.

    Returns:
        What the name tells. Fields that it does not tell are None.

    Raises:
        ValueError: `file` is no path, or `pattern` no text.
        InvalidRequest: the pattern has no meaning.
    """
    _require_path(file)
    if pattern is not None and not isinstance(pattern, str):
        raise ValueError(f"pattern must be a regular expression as text, not {pattern!r}")
    return read_name(str(file), parse_pattern(pattern) if pattern is not None else None)


@overload
def growth(table: File, /) -> dict[str, Growth]: ...


@overload
def growth(hours: ArrayLike, confluence: ArrayLike, /) -> Growth: ...


def growth(table: ArrayLike | File, confluence: ArrayLike | None = None, /) -> Growth | dict[str, Growth]:
    """Measure how a well grew, or each well of a plate.

    Args:
        table: hours of the scans, (N,), in any order; or the path of a CSV that `cytomask segment --csv`,
            `--pages-csv` or `cytomask plate --csv` wrote.
        confluence: of each scan, (N,), 0 to 1; only with hours.

    Returns:
        For arrays the growth of that one well: `doubling_time_h` and its interval, lag, plateau, notes. For a
        table the growth of each well by its name, such as `B02`; its pages are pooled as docs/plates.md says.

    Raises:
        ValueError: the arrays are not as described, or the table holds no page of a well, or several plates.
        FileNotFoundError: there is no such table.
    """
    if isinstance(table, str | os.PathLike):
        if confluence is not None:
            raise ValueError("a table holds its own confluence; pass the table alone")
        from cytomask.cli.plate_files import read_table  # noqa: PLC0415  # the reports' modules behind it

        return read_table(Path(table))
    if confluence is None:
        raise ValueError("confluence is missing; pass the hours and the confluence of each scan")
    hours, shares = _numbers(table, "hours"), _numbers(confluence, "confluence")
    if hours.ndim != 1 or hours.shape != shares.shape or not hours.size:
        raise ValueError(
            f"hours and confluence must be two lists of one length, not {hours.shape} and {shares.shape}"
        )
    if not np.isfinite(hours).all() or not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError("hours must be finite, and confluence between 0 and 1 (a share, not a percentage)")
    order = np.argsort(hours, kind="stable")
    if (np.diff(hours[order]) <= 0).any():
        raise ValueError("each hour must be there once; average the sites of a scan first")
    return measure_growth(Curve(hours[order], shares[order]))


@cache
def _shipped() -> Predictor:
    return Predictor()


def _require_path(file: object) -> None:
    if not isinstance(file, str | os.PathLike):
        raise ValueError(f"file must be a path, not {type(file).__name__}")


def _require_number(given: int | None, name: str) -> None:
    if given is not None and not isinstance(given, Integral):
        raise ValueError(f"{name} must be a whole number, counted from 0, not {given!r}")


def _array(given: ArrayLike | None, name: str) -> NDArray[Any]:
    if np.ma.is_masked(given):
        raise ValueError(
            f"{name} has masked values; give each a value, as in {name}.filled(0), or leave them out"
        )
    try:
        return np.asarray(given)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of several lengths; a tensor with gradients
        raise ValueError(f"{name} cannot be turned into a NumPy array: {error}") from error


def _plane(given: ArrayLike, name: str) -> NDArray[Any]:
    array = _array(given, name)
    if array.ndim == 0:  # such as None, which cv2.imread returns for a missing file
        raise ValueError(
            f"{name} must be an array of shape (height, width), or a path, not {type(given).__name__}"
        )
    if array.size == 0:
        raise ValueError(f"{name} has no pixels: its shape is {array.shape}")
    return array


def _numbers(given: ArrayLike | None, name: str) -> NDArray[np.float64]:
    array = _array(given, name)
    if array.dtype.kind in "mM":
        raise ValueError(
            f"{name} must be numbers, not {array.dtype}; divide the times since the first scan by "
            "np.timedelta64(1, 'h')"
        )
    if array.dtype.kind not in "uif":
        raise ValueError(f"{name} must be integers or floats, not {array.dtype}")
    return array.astype(np.float64)


def _mask(given: ArrayLike | File, name: str) -> Mask:
    if isinstance(given, str | os.PathLike):
        return _read_mask(Path(given), name)
    array = _plane(given, name)
    if array.ndim != 2:
        raise ValueError(
            f"{name} must have shape (height, width), not {array.shape}; pass one page at a time"
        )
    if array.dtype.kind not in "bui":
        raise ValueError(
            f"{name} must hold bool or integers, not {array.dtype}; "
            "compare a probability with a threshold first, as in probability >= 0.5"
        )
    cells: Mask = array != 0
    return cells


def _read_mask(path: Path, name: str) -> Mask:
    if path.is_dir():
        raise ValueError(f"{name} is the folder {path}; name one mask in it")
    with open_image(path) as image:
        if len(image.pages) > 1:
            raise NoSuchPage(f"{path} has {len(image.pages)} pages; save the one to score in its own file")
        size = image.pages[0].height, image.pages[0].width
    pages = read_ground_truth(path, str(path), [size])
    if name == "mask":  # may be all cell, where a ground truth without background is refused
        return next(pages)
    (cells,) = pages
    return cells


def _size(mask: Mask) -> str:
    return f"{mask.shape[0]} x {mask.shape[1]}"
