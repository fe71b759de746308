"""One plane of samples in a TIFF: alone in a directory, in a volume, or in a run of bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cytomask.errors import EmptyImage, UnreadableImage
from cytomask.images.samples import Interpretation, interpret


@dataclass(frozen=True)
class Source:
    """One plane that can be read.

    Attributes:
        height, width: in pixels.
        dtype: NumPy's name of the stored type.
        meaning: how its samples become light.
        decoded_bytes: of all that can only be decoded together with it, and of itself.
        directories: decoded for it; none if its bytes lie unpacked in the file.
        together: whether those are decoded once for all planes that need them.
        packed_bytes: of a plane that lies unpacked in the file.
        read: returns (H, W, samples) as stored.
    """

    height: int
    width: int
    dtype: str
    meaning: Interpretation
    decoded_bytes: int
    directories: tuple[tifffile.TiffPage, ...]
    together: bool
    packed_bytes: int
    read: Callable[[], NDArray[Any]]


def of_directory(directory: tifffile.TiffPage, name: str) -> list[Source]:
    """List the planes of one directory: one, or as many as a volume is deep."""
    require_grey_values(directory, name)
    meaning = interpret(directory, directory.samplesperpixel, name)
    volume = _Volume(directory)

    def reader(depth: int) -> Callable[[], NDArray[Any]]:
        return lambda: volume.samples[depth]

    return [
        Source(
            height=directory.imagelength,
            width=directory.imagewidth,
            dtype=str(directory.dtype),
            meaning=meaning,
            decoded_bytes=decoded_bytes(directory),
            directories=(directory,),
            together=directory.imagedepth > 1,
            packed_bytes=0,
            read=reader(depth)
            if directory.imagedepth > 1
            else lambda: samples_last(directory.asarray(), directory.axes),
        )
        for depth in range(directory.imagedepth)
    ]


def require_grey_values(directory: tifffile.TiffPage, name: str) -> None:
    """Refuse a directory without pixels or with pixels that are not real numbers."""
    height, width = directory.imagelength, directory.imagewidth
    if not (height and width and directory.imagedepth and directory.samplesperpixel):
        raise EmptyImage(f"{name} has pages of {width} x {height} pixels; export it anew")
    if directory.dtype is None or directory.dtype.kind not in "buif":
        raise UnreadableImage(
            f"{name} has pixels of {directory.bitspersample} bits in TIFF's sample format "
            f"{directory.sampleformat}, which are not grey values; save it with 8 or 16 bits"
        )


def decoded_bytes(directory: tifffile.TiffPage) -> int:
    """Return the bytes of a directory's pixels, or of one of its tiles if that is larger."""
    tile = directory.tilewidth * directory.tilelength * directory.tiledepth
    area = max(directory.imagelength * directory.imagewidth * directory.imagedepth, tile)
    return int(directory.samplesperpixel * area * np.dtype(directory.dtype).itemsize)


def samples_last(plane: NDArray[Any], axes: str) -> NDArray[Any]:
    """Return a plane of axes YX, YXS or SYX as (H, W, samples)."""
    if axes == "SYX":
        return np.moveaxis(plane, 0, -1)
    return plane.reshape(*plane.shape[:2], -1)  # H, W, samples


@dataclass
class _Volume:
    """A directory several planes deep, decoded once for all of them."""

    directory: tifffile.TiffPage

    @cached_property
    def samples(self) -> NDArray[Any]:
        """All planes: (depth, H, W, samples)."""
        stored = self.directory.asarray(squeeze=False)  # separate samples, depth, H, W, interleaved samples
        if self.directory.planarconfig == tifffile.PLANARCONFIG.SEPARATE:
            return np.moveaxis(stored[..., 0], 0, -1)
        interleaved: NDArray[Any] = stored[0]
        return interleaved
