"""Arrange a TIFF's planes as ImageJ, tifffile or a microscope's program describes them, read by tifffile.

Axes other than rows, columns and channels count as pages.
"""

import json
import math
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cytomask.errors import AmbiguousAxes, EmptyImage, UnreadableImage
from cytomask.images import directories, planes, segments
from cytomask.images.directories import Directory
from cytomask.images.pages import Limits
from cytomask.images.planes import Source
from cytomask.images.samples import interpret

NARROWEST_UNNAMED = 16
# Their planes lie elsewhere than the directories say, so only tifffile can read them.
NEEDED = ("is_imagej", "is_stk", "is_lsm", "is_shaped")
# Their descriptions tell axes, or which pages belong together.
FOLLOWED = (
    *NEEDED,
    *("is_fluoview", "is_sis", "is_svs", "is_qpi", "is_bif", "is_avs"),
    *("is_philips", "is_scanimage", "is_nih", "is_mdgel"),
)
LONGEST_DESCRIPTION = 2**20
OLD_SHAPE = re.compile(r"shape=\(([0-9, ]{1,200})\)")  # as tifffile wrote it until 2017

Load = Callable[[int], tifffile.TiffPage]  # a directory of the chain, by its place


def follow(
    file: tifffile.TiffFile, chain: Sequence[Directory], load: Load, size: int, limits: Limits, name: str
) -> list[list[Source]] | None:
    """List the pages of a file with a description; None if it has none, and each directory is a page.

    Each page has a source for every outer channel.

    Raises:
        UnreadableImage: the description does not fit the file.
        AmbiguousAxes: rows and columns cannot be told.
        ImageTooLarge: it speaks of too many planes.
    """
    if file.is_shaped and not _is_tifffiles(file.pages.first, len(chain), size):
        setattr(file, "is_shaped", False)  # noqa: B010 - one of the marks that tifffile takes from outside
    if not any(getattr(file, mark, False) for mark in FOLLOWED):
        return None
    needed = any(getattr(file, mark) for mark in NEEDED)
    try:
        found = file.series
    except MemoryError:
        raise
    except Exception as error:
        if needed:
            raise misdescribed(name, len(chain)) from error
        return None
    if all(one.kind in ("generic", "uniform") for one in found):
        if file.is_imagej:
            raise misdescribed(name, len(chain))
        return None
    if not _are_all_described(found, chain):
        if needed:
            raise misdescribed(name, len(chain))
        return None
    return [page for one in _pictures(found) for page in _Series(one, load, size, limits, name).pages()]


def misdescribed(name: str, count: int) -> UnreadableImage:
    """Refuse a file whose description leaves pages out or cannot be followed: return the error."""
    return UnreadableImage(
        f"{name} holds {count} TIFF pages, which do not fit what its description says of them; "
        "copy it again, or save the whole stack anew as one file"
    )


def _is_tifffiles(page: tifffile.TiffPage, directories: int, size: int) -> bool:
    """Whether a description in JSON is tifffile's; another program's may speak of a shape too.

    Args:
        page: the file's first.
        directories: how many the file has.
        size: of the file, in bytes.
    """
    text = page.shaped_description or ""
    if old := OLD_SHAPE.fullmatch(text):
        facts: Any = {"shape": [int(length) for length in old[1].split(",") if length.strip()]}
    else:
        try:
            facts = json.loads(text)
        except (ValueError, RecursionError):
            return False
    facts = facts if isinstance(facts, dict) else {}
    shape, axes = facts.get("shape"), facts.get("axes")
    if not isinstance(shape, list) or not all(type(length) is int and length > 0 for length in shape):
        return False
    if axes is not None and not (isinstance(axes, str) and len(axes) == len(shape)):
        return False
    own = [length for length in page.shape if length > 1]
    told = [length for length in shape if length > 1]
    if told[len(told) - len(own) :] != own:
        return False
    if facts.get("truncated") or math.prod(shape) <= directories * math.prod(own):
        return True
    # tifffile writes a directory for each page, unless they are truncated or a volume in one run.
    first = page.dataoffsets[0] if page.dataoffsets else size
    return first + math.prod(shape) * np.dtype(page.dtype).itemsize <= size


def _are_all_described(found: Sequence[tifffile.TiffPageSeries], chain: Sequence[Directory]) -> bool:
    """Whether each directory belongs to a series, smaller copies and transparency masks apart."""
    levels = [level for one in found for level in one.levels if not level.keyframe.is_subifd]
    named = {frame.index for level in levels for frame in level if frame is not None}
    return all(at in named or one.is_reduced or one.is_mask for at, one in enumerate(chain))


def _pictures(found: Sequence[tifffile.TiffPageSeries]) -> list[tifffile.TiffPageSeries]:
    """List the series that are neither smaller copies nor masks; all of them if there are no others."""
    chosen = [one for one in found if not (one.keyframe.is_reduced or one.keyframe.is_mask)]
    return chosen or list(found)


class _Series:
    """Planes of one shape and type, as tifffile found them."""

    def __init__(
        self, series: tifffile.TiffPageSeries, load: Load, size: int, limits: Limits, name: str
    ) -> None:
        self._series = series
        self._keyframe = load(series.keyframe.index)
        self._axes = series.get_axes(squeeze=False)
        self._shape = series.get_shape(squeeze=False)
        self._size = size
        self._limits = limits
        self._name = name
        self._require_rows_and_columns()
        planes.require_grey_values(self._keyframe, name)
        self._numbers = self._number_planes()
        self._directories = [self._directory(frame, load) for frame in series]
        if self._in_one_run and self._start_of_plane(self._numbers.size) > size:
            raise segments.cut_short(name)

    def pages(self) -> list[list[Source]]:
        """List a source for each outer channel of each page."""
        return [[self._source(int(number)) for number in page] for page in self._numbers]

    def _source(self, number: int) -> Source:
        meaning = interpret(self._of_plane(number), self._length("S"), self._name)
        return Source(
            height=self._length("Y"),
            width=self._length("X"),
            dtype=str(self._keyframe.dtype),
            meaning=meaning,
            decoded_bytes=self._decoded_bytes,
            directories=self._decoded_for(number),
            together=not self._by_directory,
            packed_bytes=0 if self._by_directory or not self._in_one_run else self._plane_bytes,
            read=lambda: self._plane(number),
        )

    def _of_plane(self, number: int) -> tifffile.TiffPage:
        return self._directories[number * len(self._directories) // self._numbers.size]

    def _decoded_for(self, number: int) -> tuple[tifffile.TiffPage, ...]:
        if self._by_directory:
            return (self._directories[number],)
        return () if self._in_one_run else tuple(self._directories)

    def _directory(self, frame: Any, load: Load) -> tifffile.TiffPage:
        if frame is None:
            raise UnreadableImage(
                f"{self._name} is described as holding planes that are not there; if it is one of "
                "several files, save the whole stack as one"
            )
        directory = load(frame.index)
        if (directory.shaped, directory.dtype) != (self._keyframe.shaped, self._keyframe.dtype):
            raise UnreadableImage(
                f"{self._name} has pages of several shapes or types in one stack; save them as one"
            )
        return directory

    def _require_rows_and_columns(self) -> None:
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

    def _length(self, axis: str) -> int:
        return int(self._shape[self._axes.index(axis)]) if axis in self._axes else 1

    def _number_planes(self) -> NDArray[np.intp]:
        """Numbers of the planes in the order in which they are stored: (pages, outer channels)."""
        outer = [
            (axis, length) for axis, length in zip(self._axes, self._shape, strict=True) if axis not in "YXS"
        ]
        count = math.prod(length for _, length in outer)
        if count > self._limits.file_pages:
            raise directories.too_many_pages(self._name, self._limits)
        numbers = np.arange(count).reshape([length for _, length in outer])
        if "C" in self._axes:
            numbers = np.moveaxis(numbers, [axis for axis, _ in outer].index("C"), -1)
        return numbers.reshape(-1, self._length("C"))  # pages, outer channels

    @cached_property
    def _by_directory(self) -> bool:
        """Whether each directory holds one plane, so that it can be read alone."""
        directory = (self._keyframe.imagelength, self._keyframe.imagewidth, self._keyframe.imagedepth)
        return (
            len(self._directories) == self._numbers.size
            and directory == (self._length("Y"), self._length("X"), 1)
            and self._keyframe.samplesperpixel == self._length("S")
            and self._series.transform is None
        )

    @cached_property
    def _in_one_run(self) -> bool:
        """Whether the planes follow each other in the file under one directory, as ImageJ may write them."""
        return (
            not self._by_directory
            and self._series.dataoffset is not None
            and re.fullmatch("[^YXS]*(YXS?|SYX)", self._axes) is not None
            and self._series.transform is None
        )

    def _start_of_plane(self, number: int) -> int:
        """Return the byte at which plane `number` begins, if all lie in one run."""
        return (self._series.dataoffset or 0) + number * self._plane_bytes

    @cached_property
    def _plane_bytes(self) -> int:
        return int(math.prod(self._length(axis) for axis in "YXS") * self._series.dtype.itemsize)

    def _plane(self, number: int) -> NDArray[Any]:
        """Read one plane as stored: (H, W, samples)."""
        if self._by_directory:
            directory = self._directories[number]
            return planes.samples_last(directory.asarray(), directory.axes)
        if self._in_one_run:
            file = self._keyframe.parent
            axes = "".join(axis for axis in self._axes if axis in "YXS")
            shape = [self._length(axis) for axis in axes]
            stored = file.filehandle.read_array(
                file.byteorder + self._series.dtype.char, math.prod(shape), self._start_of_plane(number)
            )
            return planes.samples_last(stored.reshape(shape), axes)
        plane: NDArray[Any] = self._all_planes[number]
        return plane

    @cached_property
    def _all_planes(self) -> NDArray[Any]:
        """All planes, if nothing smaller can be read: (planes, H, W, samples)."""
        order = [index for index, axis in enumerate(self._axes) if axis not in "YXS"]
        order += [self._axes.index(axis) for axis in "YXS" if axis in self._axes]
        stored: NDArray[Any] = self._series.asarray(squeeze=False)
        if stored.shape != tuple(self._shape):
            raise misdescribed(self._name, len(self._directories))
        shape = (self._numbers.size, self._length("Y"), self._length("X"), self._length("S"))
        together: NDArray[Any] = stored.transpose(order).reshape(shape)  # planes, H, W, samples
        return together

    @cached_property
    def _decoded_bytes(self) -> int:
        """Bytes that are decoded at a time: one plane, or all planes if nothing smaller can be read."""
        together = 1 if self._by_directory or self._in_one_run else self._numbers.size
        tile = self._keyframe.tilewidth * self._keyframe.tilelength * self._keyframe.tiledepth
        area = max(self._length("Y") * self._length("X"), tile)
        return int(together * self._length("S") * area * np.dtype(self._keyframe.dtype).itemsize)
