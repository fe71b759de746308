"""Reads TIFF, OME-TIFF and ImageJ stacks: their headers first, then one page at a time."""

import io
import logging
import math
import re
from collections.abc import Sequence
from functools import cached_property
from typing import IO, Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, TIFF

from cytomask.errors import AmbiguousAxes, EmptyImage, ImageTooLarge, UnreadableImage
from cytomask.images import ome
from cytomask.images.pages import RGB, RGBA, Limits, PageHeader

NARROWEST_UNNAMED = 16
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
YCBCR_TO_RGB = (COMPRESSION.JPEG, COMPRESSION.OJPEG, COMPRESSION.ALT_JPEG)  # done by the decoder
TRANSPARENCY = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)

# What tifffile complains of in free text is refused here by name, or does not matter.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


class TiffImage:
    """A TIFF, OME-TIFF or ImageJ stack. Axes other than rows, columns and channels count as pages."""

    def __init__(self, stream: IO[bytes], size: int, name: str, limits: Limits) -> None:
        self.name = name
        # Read as plain TIFFs: what a slide scanner's reader believes of them may not fit in memory.
        file = tifffile.TiffFile(stream, name=name.rpartition("/")[2], is_ndpi=False, is_scn=False)
        directories = _follow_chain(file, size, name, limits)
        ome.require_bounded(file, directories, limits.file_pages, name)
        found = file.series
        _require_all_described(file, found, directories, name)
        series = [_TiffSeries(level, size, name, limits) for one in found for level in _own_levels(one)]
        self._places = [(one, at) for one in series for at in range(one.page_count)]
        if all(one.kind == "generic" for one in found):
            self._places.sort(key=lambda place: place[0].directory_of(place[1]))
        self.pages: Sequence[PageHeader] = tuple(one.header for one, _ in self._places)
        if not self.pages:
            raise EmptyImage(f"{name} is a TIFF without pages; export it anew")

    def decode(self, index: int, channel: int | None) -> NDArray[Any]:
        """As `ImageFile.decode`."""
        series, at = self._places[index]
        return series.decode(at, channel)


def _follow_chain(file: tifffile.TiffFile, size: int, name: str, limits: Limits) -> int:
    """Number of directories in the file's chain, each of which says where the next one is.

    tifffile takes a place that is not there for the end, and may go round a circle for ever.
    """
    handle, tiff = file.filehandle, file.tiff
    seen: set[int] = set()

    def number_at(place: int, length: int) -> int:
        handle.seek(place)
        found = handle.read(length)
        if len(found) < length:
            raise UnreadableImage(f"{name} is cut short: page {len(seen)} is not there; copy it again")
        return int.from_bytes(found, "little" if tiff.byteorder == "<" else "big")

    pointer = tiff.offsetsize  # byte 4, or 8 in a BigTIFF, says where the first one is
    while place := number_at(pointer, tiff.offsetsize):
        if place >= size or place in seen:
            raise UnreadableImage(
                f"{name} is damaged: page {len(seen)} is said to be at byte {place} of {size}, where there "
                "is no new page; copy it again"
            )
        seen.add(place)
        if len(seen) > limits.file_pages:
            raise _too_many_pages(name, limits)
        pointer = place + tiff.tagnosize + tiff.tagsize * number_at(place, tiff.tagnosize)
    return len(seen)


def _too_many_pages(name: str, limits: Limits) -> ImageTooLarge:
    return ImageTooLarge(f"{name} has more than {limits.file_pages} pages, the limit; split the stack")


def _require_all_described(
    file: tifffile.TiffFile, found: Sequence[tifffile.TiffPageSeries], directories: int, name: str
) -> None:
    """Refuses a file whose description leaves pages out or was of no use to tifffile."""
    useless = all(series.kind == "generic" for series in found) and (
        file.is_imagej or (file.is_ome and directories > 1)
    )
    levels = [level for series in found for level in series.levels if not level.keyframe.is_subifd]
    described = sum(len(level) for level in levels)
    if described < directories:
        described += sum(file.pages.get(number).aspage().is_reduced for number in range(directories))
    if useless or described < directories:
        raise _misdescribed(name, directories)


def _misdescribed(name: str, directories: int) -> UnreadableImage:
    return UnreadableImage(
        f"{name} holds {directories} TIFF pages, which do not fit its OME or ImageJ description; "
        "copy it again, or save the whole stack anew as one file"
    )


def _own_levels(series: tifffile.TiffPageSeries) -> list[tifffile.TiffPageSeries]:
    """The series and those of its smaller levels that are not said to be reduced copies of it.

    Where nothing is said, tifffile takes any page of half the size for a copy.
    """
    smaller = series.levels[1:] if series.kind == "generic" else []
    levels = [series, *(level for level in smaller if not level.keyframe.is_subifd)]
    return [level for level in levels if not level.keyframe.is_reduced]


class _TiffSeries:
    """Pages of one shape and type. Each has one plane, (H, W, samples), for every outer channel."""

    def __init__(self, series: tifffile.TiffPageSeries, size: int, name: str, limits: Limits) -> None:
        self._series = series
        self._keyframe = series.keyframe
        self._axes = series.get_axes(squeeze=False)
        self._shape = series.get_shape(squeeze=False)
        self._name = name
        self._limits = limits
        self._require_rows_of_grey_values()
        self._samples = _visible_samples(self._keyframe, self._length("S"))
        self._planes = self._number_planes()
        self.page_count, outer = self._planes.shape
        self.header = PageHeader(
            height=self._length("Y"),
            width=self._length("X"),
            channels=outer * self._samples,
            colour=outer == 1 and self._samples == RGB and _is_coloured(self._keyframe),
            dtype=str(self._keyframe.dtype),
            decoded_bytes=self._count_decoded_bytes(),
            zero=int(self._upright(np.zeros(1, self._keyframe.dtype))[0]),
        )
        self._directories = self._load_directories(size)

    def decode(self, at: int, channel: int | None) -> NDArray[Any]:
        """Page `at`, as `ImageFile.decode`."""
        outer, sample = divmod(channel or 0, self._samples)
        plane = self._upright(self._plane(int(self._planes[at, outer])))  # H, W, samples
        if self._keyframe.photometric == PHOTOMETRIC.PALETTE:
            plane = np.moveaxis(np.asarray(self._keyframe.colormap)[:, plane[..., 0]], 0, -1)  # H, W, RGB
        return plane[..., :RGB] if self.header.colour and channel is None else plane[..., sample]

    def _upright(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Stored values of any shape as such that grow with brightness, of any dtype but bool."""
        values = stored.view(np.uint8) if stored.dtype.kind == "b" else stored
        if self._keyframe.photometric == PHOTOMETRIC.MINISWHITE:
            return _inverted(values, self._keyframe.bitspersample)
        return values

    def directory_of(self, at: int) -> tuple[int, ...]:
        """Place of page `at` in the tree of TIFF directories."""
        number = int(self._planes[at, 0])
        return self._directories[number * len(self._directories) // self._planes.size].treeindex

    def _require_rows_of_grey_values(self) -> None:
        for axis in "YX":
            if self._axes.count(axis) != 1:
                raise AmbiguousAxes(
                    f"{self._name} has the axes {self._axes} of lengths {self._shape}: no telling rows from "
                    "columns; save it with its axes named, as OME-TIFF or from ImageJ"
                )
        height, width = self._length("Y"), self._length("X")
        if "Q" in self._axes and width < NARROWEST_UNNAMED < height:
            raise AmbiguousAxes(
                f"{self._name} has the unnamed axes {self._axes} of lengths {self._shape}, which look like "
                "channels written last; save it with its axes named, as OME-TIFF or from ImageJ"
            )
        if 0 in self._shape:
            raise EmptyImage(f"{self._name} has pages of {width} x {height} pixels; export it anew")
        if self._keyframe.dtype is None or self._keyframe.dtype.kind not in "buif":
            raise UnreadableImage(
                f"{self._name} has pixels of {self._keyframe.bitspersample} bits in TIFF's sample format "
                f"{self._keyframe.sampleformat}, which are no grey values; save it with 8 or 16 bits"
            )

    def _length(self, axis: str) -> int:
        return self._shape[self._axes.index(axis)] if axis in self._axes else 1

    def _number_planes(self) -> NDArray[np.intp]:
        """Numbers of the planes in the order in which they are stored: (pages, outer channels)."""
        outer = [
            (axis, length) for axis, length in zip(self._axes, self._shape, strict=True) if axis not in "YXS"
        ]
        count = math.prod(length for _, length in outer)
        if count > self._limits.file_pages:
            raise _too_many_pages(self._name, self._limits)
        numbers = np.arange(count).reshape([length for _, length in outer])
        if "C" in self._axes:
            numbers = np.moveaxis(numbers, [axis for axis, _ in outer].index("C"), -1)
        return numbers.reshape(-1, self._length("C"))  # pages, outer channels

    def _load_directories(self, size: int) -> list[tifffile.TiffPage]:
        """The series' directories; refuses it where one is lost or lacks pixels."""
        directories = []
        for frame in self._series:
            if frame is None:
                raise UnreadableImage(
                    f"{self._name} is described as holding planes that are not there; if it is one of "
                    "several files, save the whole stack as one"
                )
            directory = frame.aspage()
            if (directory.shaped, directory.dtype) != (self._keyframe.shaped, self._keyframe.dtype):
                raise UnreadableImage(
                    f"{self._name} has pages of several shapes or types in one stack; save them as one"
                )
            directories.append(directory)
        run = self._start_of_plane(self._planes.size) if self._in_one_run else 0
        cut = run > size or any(_lacks_pixels(directory, size) for directory in directories)
        if cut and self.header.height * self.header.width <= self._limits.page_pixels:
            raise UnreadableImage(f"{self._name} is cut short: pixels are missing; copy it again")
        return directories

    @property
    def _by_directory(self) -> bool:
        """Whether each directory holds one plane, so that it can be read alone."""
        directory = (self._keyframe.imagelength, self._keyframe.imagewidth, self._keyframe.imagedepth)
        return (
            len(self._series) == self._planes.size
            and directory == (self._length("Y"), self._length("X"), 1)
            and self._series.transform is None
        )

    @property
    def _in_one_run(self) -> bool:
        """Whether the planes follow each other in the file under one directory, as ImageJ may write them."""
        return (
            not self._by_directory
            and self._series.dataoffset is not None
            and re.fullmatch("[^YXS]*(YXS?|SYX)", self._axes) is not None
            and self._series.transform is None
        )

    def _start_of_plane(self, number: int) -> int:
        """Byte at which plane `number` begins where all lie in one run."""
        plane = math.prod(self._length(axis) for axis in "YXS") * self._series.dtype.itemsize
        return (self._series.dataoffset or 0) + number * plane

    def _plane(self, number: int) -> NDArray[Any]:
        """One plane as stored: (H, W, samples)."""
        if self._by_directory:
            directory = self._directories[number]
            _require_small_segments(directory, self._name, self._limits)
            return _samples_last(directory.asarray(), directory.axes)
        if self._in_one_run:
            file = self._keyframe.parent
            axes = "".join(axis for axis in self._axes if axis in "YXS")
            shape = [self._length(axis) for axis in axes]
            stored = file.filehandle.read_array(
                file.byteorder + self._series.dtype.char, math.prod(shape), self._start_of_plane(number)
            )
            return _samples_last(stored.reshape(shape), axes)
        plane: NDArray[Any] = self._all_planes[number]
        return plane

    @cached_property
    def _all_planes(self) -> NDArray[Any]:
        """Where nothing smaller can be read: (planes, H, W, samples)."""
        for directory in self._directories:
            _require_small_segments(directory, self._name, self._limits)
        order = [index for index, axis in enumerate(self._axes) if axis not in "YXS"]
        order += [self._axes.index(axis) for axis in "YXS" if axis in self._axes]
        stored: NDArray[Any] = self._series.asarray(squeeze=False)
        if stored.shape != tuple(self._shape):
            raise _misdescribed(self._name, len(self._directories))
        shape = (self._planes.size, self.header.height, self.header.width, self._length("S"))
        planes: NDArray[Any] = stored.transpose(order).reshape(shape)
        return planes

    def _count_decoded_bytes(self) -> int:
        """Bytes that are decoded at a time: those of a plane, or of all where nothing smaller can be read."""
        planes = 1 if self._by_directory or self._in_one_run else self._planes.size
        tile = self._keyframe.tilewidth * self._keyframe.tilelength * self._keyframe.tiledepth
        area = max(self._length("Y") * self._length("X"), tile)
        return int(planes * self._length("S") * area * np.dtype(self._keyframe.dtype).itemsize)


def _is_coloured(page: tifffile.TiffPage) -> bool:
    if page.photometric == PHOTOMETRIC.YCBCR:
        return bool(page.compression in YCBCR_TO_RGB)
    return page.photometric in (PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE)


def _visible_samples(page: tifffile.TiffPage, samples: int) -> int:
    """How many of a pixel's samples are light rather than transparency."""
    if page.photometric == PHOTOMETRIC.PALETTE or (page.photometric == PHOTOMETRIC.RGB and samples == RGBA):
        return RGB
    return samples - sum(1 for kind in page.extrasamples if kind in TRANSPARENCY)


def _lacks_pixels(directory: tifffile.TiffPage, size: int) -> bool:
    """Whether pixels lie past the file's end, or strips or tiles are left out; tifffile reads those as 0."""
    if len(directory.dataoffsets) < math.prod(directory.chunked):
        return True
    if directory.is_contiguous:
        return directory.dataoffsets[0] == 0 or directory.dataoffsets[0] + directory.nbytes > size
    segments = zip(directory.dataoffsets, directory.databytecounts, strict=True)
    return any(offset == 0 or count == 0 or offset + count > size for offset, count in segments)


def _require_small_segments(directory: tifffile.TiffPage, name: str, limits: Limits) -> None:
    """Refuses a JPEG or the like inside a TIFF that is far larger than the page, or does not say how large.

    Decoders of such segments go by the segments' own headers, those of LZW, deflate and the like by the page.
    """
    if directory.compression not in (*TIFF.IMAGE_COMPRESSIONS, COMPRESSION.LERC):
        return
    handle = directory.parent.filehandle
    for offset, count in zip(directory.dataoffsets, directory.databytecounts, strict=True):
        handle.seek(offset)
        content = io.BytesIO(handle.read(count))
        try:
            segment = Image.open(content, formats=("JPEG", "JPEG2000", "PNG", "WEBP"))
        except UnidentifiedImageError as error:
            raise UnreadableImage(
                f"{name} is packed as {COMPRESSION(directory.compression).name}, which does not tell its "
                "size before it is unpacked; save it with LZW or deflate"
            ) from error
        with segment:
            if segment.width * segment.height > limits.page_pixels:
                raise ImageTooLarge(
                    f"{name} holds a {segment.format} of {segment.width} x {segment.height} pixels; "
                    "export it anew"
                )


def _samples_last(plane: NDArray[Any], axes: str) -> NDArray[Any]:
    """A plane of axes YX, YXS or SYX as (H, W, samples)."""
    if axes == "SYX":
        return np.moveaxis(plane, 0, -1)
    return plane.reshape(*plane.shape[:2], -1)  # H, W, samples


def _inverted(grey: NDArray[Any], bits: int) -> NDArray[Any]:
    """Values of a TIFF in which 0 is white, turned so that they grow with brightness."""
    if grey.dtype.kind == "f":
        return -grey
    inverted: NDArray[Any] = grey ^ grey.dtype.type(2**bits - 1 if grey.dtype.kind == "u" else -1)
    return inverted
