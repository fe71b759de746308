"""Read the masks of Cellpose's `_seg.npy` files without running any code in them.

The file is a pickle, which can call any Python function. This reader accepts arrays, numbers, texts and plain
containers, and refuses every other name before using it.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomask.errors import GroundTruthMismatch, ImageTooLarge, UnreadableImage
from cytomask.metrics import Mask
from cytomask.truths.limits import Size

LARGEST = 2**31  # bytes; the file of a 64 megapixel image has about 1.5 GB
ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")


def read_cellpose(path: Path, size: Size) -> Mask:
    """Read the cells of a `_seg.npy` file: (H, W) bool, True inside any cell.

    Args:
        path: path of the file.
        size: height and width of the image that it belongs to.

    Raises:
        UnreadableImage: the file is not from Cellpose, is damaged, or names anything but arrays.
        GroundTruthMismatch: its masks have another size, or more dimensions than a page.
        ImageTooLarge: the file is too large to read.
        OSError: the file cannot be read.
    """
    if path.stat().st_size > LARGEST:
        raise ImageTooLarge(f"{path.name} has {path.stat().st_size} bytes, the limit is {LARGEST}")
    content = _unpickle(path)
    masks = content.get("masks") if isinstance(content, dict) else None
    if not isinstance(masks, np.ndarray) or masks.dtype.kind not in "bui":
        raise UnreadableImage(f"{path.name} has no `masks` of Cellpose; save it again in Cellpose's window")
    if masks.shape != size:
        shape = " x ".join(str(length) for length in reversed(masks.shape))
        raise GroundTruthMismatch(
            f"the masks in {path.name} are {shape} pixels and the image is {size[1]} x {size[0]}; "
            "save masks of the image's own size"
        )
    cells: Mask = masks != 0
    return cells


def _unpickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = read_header(file)
            if shape != () or dtype != np.dtype(object):
                raise UnreadableImage(f"{path.name} holds an array instead of masks of Cellpose")
            outer = _Unpickler(file).load()
    except UnreadableImage:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        raise UnreadableImage(f"{path.name} is not a _seg.npy of Cellpose ({error})") from error
    # NumPy pickles the one dictionary within an array of no dimensions.
    return outer[()] if isinstance(outer, np.ndarray) and outer.shape == () else outer


class _Unpickler(pickle.Unpickler):
    """Accepts only what NumPy arrays and plain containers are pickled as."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ARRAYS and name in _ARRAY_MAKERS:
            return _ARRAY_MAKERS[name]
        found = _KNOWN.get((module, name))
        if found is None:
            raise UnreadableImage(
                f"the file names {module}.{name}, which masks of Cellpose do not need; it was not opened, "
                "because it could run any program"
            )
        return found


class _ArrayType:
    """Replaces `numpy.ndarray` where a pickle names it; calling the real type could fill the memory."""


def _empty_array(_kind: object, _shape: object, _code: object) -> NDArray[Any]:
    """Make the empty array that unpickling fills; NumPy checks that the bytes match the shape."""
    return np.ndarray((0,), np.int8)


def _scalar(dtype: np.dtype[Any], value: object = b"") -> Any:
    if not isinstance(value, bytes) or dtype.hasobject:
        raise UnreadableImage("the file holds a number that NumPy did not write")
    return np.frombuffer(value, dtype, 1)[0]


def _dtype(code: object, *_: object) -> np.dtype[Any]:
    if not isinstance(code, str) or len(code) > 16:
        raise UnreadableImage("the file holds a type of numbers that NumPy did not write")
    return np.dtype(code)


def _bytes_of(text: object, encoding: object) -> bytes:
    """Decode bytes as old pickle protocols write them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise UnreadableImage("the file holds bytes that Python did not write")
    return text.encode("latin1")


_ARRAY_MAKERS = {"_reconstruct": _empty_array, "scalar": _scalar}
_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _bytes_of,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "slice"): slice,
    ("builtins", "range"): range,
}
