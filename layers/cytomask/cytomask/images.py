"""Reads TIFF, PNG and JPEG files into grey pages, after a look at the header alone; writes masks as PNG.

Nothing is guessed: what cannot be read as rows and columns of one channel is refused by name.
"""

import io
import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import imagecodecs
import numpy as np
import tifffile
from imagecodecs import PNG
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tifffile import COMPRESSION, EXTRASAMPLE, PHOTOMETRIC, TIFF

from cytomask import ome
from cytomask.errors import (
    AmbiguousAxes,
    AmbiguousChannels,
    EmptyImage,
    ImageTooLarge,
    NonFinitePixels,
    NoSuchPage,
    RejectedInput,
    UnreadableImage,
)

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
RGB, RGBA = 3, 4
NARROWEST_UNNAMED = 16
MEGA = 1_000_000
MEBI = 2**20

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
PNG_DEPTH_BYTE = 24
YCBCR_TO_RGB = (COMPRESSION.JPEG, COMPRESSION.OJPEG, COMPRESSION.ALT_JPEG)  # done by the decoder
TRANSPARENCY = (EXTRASAMPLE.ASSOCALPHA, EXTRASAMPLE.UNASSALPHA)

FULL_16_BIT = np.float32(65_535)
OUTLINE = np.array([230, 159, 0], np.uint8)  # the orange of Okabe and Ito, told from grey by all eyes
TINT = 0.15
SAMPLED_PIXELS = 4 * MEGA
ROWS_AT_ONCE = 256
LONGEST_SIDE = MEGA  # of the PNGs that libpng writes

# What tifffile complains of in free text is refused here by name, or does not matter.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Limits:
    """What fits into the function's memory and time; larger images are refused by their header."""

    page_pixels: int = 64 * MEGA
    page_bytes: int = 2048 * MEBI  # what one page may take of the memory
    job_pixels: int = 256 * MEGA
    file_bytes: int = 640 * MEBI
    file_pages: int = 10_000  # whose headers alone take a second

    more: str = ""  # what else than a smaller image helps

    @classmethod
    def within(cls, memory_mb: int) -> "Limits":
        """The limits of a function with so many MB; of what it does not need itself, the file gets a quarter.

        Measured in the container over 8- to 64-bit pages of 1 to 64 megapixels, with every output: 175 MB,
        the file, what is decoded at a time, and 17 to 20 bytes a pixel.
        """
        spare = max(memory_mb - RESIDENT_MB, 0) * MEBI
        page_bytes = spare * 3 // 4
        page_pixels = page_bytes // (BYTES_OF_WORK + LARGEST_ITEM)
        if page_pixels >= cls.page_pixels:
            return cls(page_bytes=min(cls.page_bytes, page_bytes))
        return cls(
            page_pixels=page_pixels,
            page_bytes=page_bytes,
            file_bytes=min(cls.file_bytes, spare // 4),
            more=f", or give the function more memory than its {memory_mb} MB",
        )


RESIDENT_MB = 256
BYTES_OF_WORK = 20  # for every pixel, beside those that are decoded
LARGEST_ITEM = 8  # of a page with one channel
LIMITS = Limits()


@dataclass(frozen=True)
class PageHeader:
    """One page as the file's header describes it.

    Attributes:
        height, width: in pixels.
        channels: how many a caller can choose from; RGB counts as 3.
        colour: whether those channels are red, green and blue, which luma joins to one.
        dtype: NumPy's name of the stored type.
        decoded_bytes: of all channels and pages that can only be decoded together with it, and of itself.
        zero: what a stored 0 decodes to; not 0 where the file calls 0 white.
    """

    height: int
    width: int
    channels: int
    colour: bool
    dtype: str
    decoded_bytes: int
    zero: int = 0


@dataclass(frozen=True)
class Page:
    """One page of pixels: (H, W) of any real dtype but bool, all finite. `dtype` is that of the file."""

    index: int
    pixels: NDArray[Any]
    dtype: str


class ImageFile(Protocol):
    """An opened image: its headers are known, its pixels are not read yet."""

    name: str
    pages: Sequence[PageHeader]

    def decode(self, index: int, channel: int | None) -> NDArray[Any]:
        """Page `index`: (H, W) of the channel named or the only one, else (H, W, 3) colours.

        Values are of any real dtype but bool and grow with brightness.
        """


@contextmanager
def open_image(source: bytes | Path, name: str | None = None) -> Iterator[ImageFile]:
    """Opens a TIFF, PNG or JPEG by its content, whatever its name ends in.

    Args:
        source: the file's bytes or its path.
        name: what to call it in errors; the path where None.

    Raises:
        EmptyImage: no bytes, no pages or a page without pixels.
        UnreadableImage: another format, or a header that cannot be read.
        AmbiguousAxes: no telling which axes are rows and columns.
        ImageTooLarge: more bytes than `LIMITS.file_bytes` or pages than `LIMITS.file_pages`.
    """
    called = name or str(source if isinstance(source, Path) else "image")
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    require_size(size, called, LIMITS)
    with io.BytesIO(source) if isinstance(source, bytes) else io.BufferedReader(_LoneFile(source)) as stream:
        magic = stream.read(8)
        stream.seek(0)
        with _refusing(called):
            image: ImageFile
            if magic[:4] in TIFF_MAGIC:
                image = TiffImage(stream, size, called)
            elif magic == PNG_MAGIC or magic.startswith(JPEG_MAGIC):
                image = PillowImage(stream, called)
            else:
                raise UnreadableImage(
                    f"{called} is not a TIFF, PNG or JPEG: it begins with {magic!r}; export it as TIFF"
                )
        yield image


def require_size(size: int, name: str, limits: Limits) -> None:
    """Refuses a file by its length in bytes; raises EmptyImage, ImageTooLarge."""
    if size == 0:
        raise EmptyImage(f"{name} has no bytes; upload it again")
    if size > limits.file_bytes:
        raise ImageTooLarge(
            f"{name} has {size / MEBI:.0f} MiB, the limit is {limits.file_bytes / MEBI:.0f} MiB; "
            f"split the stack or compress it{limits.more}"
        )


def read_pages(
    image: ImageFile,
    wanted: Sequence[int] | None = None,
    channel: int | None = None,
    limits: Limits | None = None,
) -> Iterator[Page]:
    """Decodes pages one at a time, after all of them were checked by their headers.

    Args:
        image: an opened image.
        wanted: pages counted from 0; all of them where None.
        channel: counted from 0; may be None where a page has one channel or is RGB (luma).
        limits: of pages and of all of them together; `LIMITS` where None.

    Raises:
        NoSuchPage, ImageTooLarge, AmbiguousChannels: before any pixel is read.
        UnreadableImage, NonFinitePixels, ImageTooLarge: when a page's pixels are read.
    """
    indices = range(len(image.pages)) if wanted is None else wanted
    check(image, indices, channel, limits or LIMITS)
    return (_read(image, index, channel) for index in indices)


def read_page(path: Path, index: int = 0, channel: int | None = None) -> Page:
    """Reads one page of a file; raises as `open_image` and `read_pages` do."""
    with open_image(path) as image:
        return next(read_pages(image, [index], channel))


def encode_mask(mask: NDArray[np.bool_]) -> bytes:
    """An 8-bit PNG of one channel, 0 or 255, from (H, W) bool."""
    return _png(mask.astype(np.uint8) * np.uint8(255), PNG.STRATEGY.RLE, PNG.FILTER.NONE)


def encode_probability(probability: NDArray[np.float32]) -> bytes:
    """A 16-bit grey PNG, 0 to 65,535, from (H, W) float32 in 0..1."""
    levels = np.empty(probability.shape, np.uint16)
    for rows in _bands(probability.shape[0]):
        levels[rows] = np.rint(probability[rows] * FULL_16_BIT)
    return _png(levels, PNG.STRATEGY.RLE, PNG.FILTER.PAETH)


def encode_overlay(pixels: NDArray[Any], mask: NDArray[np.bool_]) -> bytes:
    """An RGB PNG of the page with the mask's outline drawn and its inside tinted.

    The page is stretched to 8 bits between its 0.5 and 99.5 percentiles.

    Args:
        pixels: (H, W), any real dtype, finite values.
        mask: (H, W) bool.
    """
    low, high = _percentiles(pixels)
    gain = 255 / (high - low) if high > low else 0.0
    shades = np.arange(256)[:, None]  # 256, 1
    plain = np.repeat(shades, RGB, axis=1).astype(np.uint8)  # 256, RGB
    tinted = (shades + (OUTLINE - shades) * TINT).astype(np.uint8)  # 256, RGB
    drawing = np.empty((*pixels.shape, RGB), np.uint8)
    for rows in _bands(pixels.shape[0]):
        inside = mask[rows]
        shade = np.clip((pixels[rows].astype(np.float64) - low) * gain + 0.5, 0, 255).astype(np.uint8)
        colours = plain[shade]  # rows, W, RGB
        colours[inside] = tinted[shade[inside]]
        colours[_outline(mask, rows)] = OUTLINE
        drawing[rows] = colours
    return _png(drawing, PNG.STRATEGY.DEFAULT, PNG.FILTER.NONE)


def _percentiles(pixels: NDArray[Any]) -> tuple[float, float]:
    """The 0.5 and 99.5 percentiles; of a large page those of a grid of its pixels, which look the same."""
    step = math.isqrt(pixels.size // SAMPLED_PIXELS) + 1
    low, high = np.percentile(pixels[::step, ::step].astype(np.float64), (0.5, 99.5))
    return float(low), float(high)


def _outline(mask: NDArray[np.bool_], rows: slice) -> NDArray[np.bool_]:
    """The pixels of `rows` on either side of the mask's edge; the edge of the page is none."""
    above, below = max(rows.start - 1, 0), min(rows.stop + 1, mask.shape[0])
    near = np.pad(
        mask[above:below],
        ((above - rows.start + 1, rows.stop + 1 - below), (1, 1)),
        mode="edge",
    )
    centre = near[1:-1, 1:-1]
    sides = (near[:-2, 1:-1], near[2:, 1:-1], near[1:-1, :-2], near[1:-1, 2:])
    differs = np.zeros(centre.shape, bool)
    for side in sides:
        differs |= side != centre
    return differs


def _bands(height: int) -> Iterator[slice]:
    """Slices of a few rows each: 64-bit arithmetic over a whole large page would not fit in memory."""
    return (slice(top, min(top + ROWS_AT_ONCE, height)) for top in range(0, height, ROWS_AT_ONCE))


def _png(pixels: NDArray[np.uint8 | np.uint16], strategy: PNG.STRATEGY, filter_: PNG.FILTER) -> bytes:
    """A PNG by libpng, which can be told how to filter and pack where Pillow tries every filter on every row.

    704 x 520 pixels by the ways chosen here, and by Pillow at its fastest: mask 0.6 and 2.3 ms (9 and 16 kB),
    probability 7 and 21 ms (490 and 515 kB), overlay 10 and 23 ms (349 and 463 kB).
    """
    return bytes(imagecodecs.png_encode(pixels, level=1, strategy=strategy, filter=filter_))


def check(image: ImageFile, wanted: Sequence[int], channel: int | None, limits: Limits) -> None:
    """Refuses pages by their headers; raises NoSuchPage, ImageTooLarge, AmbiguousChannels."""
    total = 0
    for index in wanted:
        if not 0 <= index < len(image.pages):
            raise NoSuchPage(f"{image.name} has no page {index}: it has {len(image.pages)}, counted from 0")
        page = image.pages[index]
        pixels = page.height * page.width
        if max(page.height, page.width) > LONGEST_SIDE:
            raise ImageTooLarge(
                f"page {index} of {image.name} is {page.width} x {page.height} pixels; a side may have "
                f"{LONGEST_SIDE}: crop it"
            )
        if pixels > limits.page_pixels:
            raise ImageTooLarge(
                f"page {index} of {image.name} is {page.width} x {page.height} pixels "
                f"({_megapixels(pixels)} megapixels); the limit is {_megapixels(limits.page_pixels)} "
                f"megapixels a page: crop or bin it{limits.more}"
            )
        # Some codecs hold two copies while they decode; what is decoded stays while the page is worked on.
        needed = page.decoded_bytes + max(page.decoded_bytes, BYTES_OF_WORK * pixels)
        if needed > limits.page_bytes:
            raise ImageTooLarge(
                f"page {index} of {image.name} takes {needed / MEBI:.0f} MiB of memory, "
                f"{page.decoded_bytes / MEBI:.0f} MiB to be decoded alone; the limit is "
                f"{limits.page_bytes / MEBI:.0f} MiB: save its pages and channels one by one{limits.more}"
            )
        total += pixels
        if channel is None and page.channels > 1 and not page.colour:
            raise AmbiguousChannels(
                f"page {index} of {image.name} has {page.channels} channels; name the phase-contrast one "
                f"as `channel`, 0 to {page.channels - 1}"
            )
        if channel is not None and not 0 <= channel < page.channels:
            raise AmbiguousChannels(
                f"page {index} of {image.name} has no channel {channel}: it has {page.channels}, "
                "counted from 0"
            )
    if total > limits.job_pixels:
        raise ImageTooLarge(
            f"{image.name}: the {len(wanted)} pages asked for have {total / MEGA:.0f} megapixels, the limit "
            f"is {limits.job_pixels // MEGA} a job; ask for fewer with `pages`"
        )


def _megapixels(pixels: int) -> str:
    return f"{round(pixels / MEGA, 1):g}"


def _read(image: ImageFile, index: int, channel: int | None) -> Page:
    header = image.pages[index]
    with _refusing(image.name):
        stored = image.decode(index, channel)
    if stored.shape[:2] != (header.height, header.width):
        raise UnreadableImage(
            f"page {index} of {image.name} holds {stored.shape[1]} x {stored.shape[0]} pixels, not "
            f"{header.width} x {header.height} as it says; export it anew"
        )
    pixels = _luma(stored) if header.colour and channel is None else stored
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        bad = int(pixels.size - np.count_nonzero(np.isfinite(pixels)))
        raise NonFinitePixels(
            f"page {index} of {image.name} has {bad} pixels that are NaN or infinite; "
            "replace them and upload it again"
        )
    return Page(index, pixels, header.dtype)


def _luma(colours: NDArray[Any]) -> NDArray[np.float32]:
    """(H, W, 3) of any real dtype to (H, W) float32, one colour at a time to spare memory."""
    grey = np.zeros(colours.shape[:2], np.float32)
    for sample, weight in enumerate(LUMA):
        grey += np.multiply(colours[..., sample], weight, dtype=np.float32, casting="same_kind")
    return grey


class _LoneFile(io.FileIO):
    """A file that hides its descriptor: tifffile would else open other files that a description names."""

    def fileno(self) -> int:
        raise OSError("a lone file has no descriptor")


class TiffImage:
    """A TIFF, OME-TIFF or ImageJ stack. Axes other than rows, columns and channels count as pages."""

    def __init__(self, stream: IO[bytes], size: int, name: str) -> None:
        self.name = name
        # Read as plain TIFFs: what a slide scanner's reader believes of them may not fit in memory.
        file = tifffile.TiffFile(stream, name=name.rpartition("/")[2], is_ndpi=False, is_scn=False)
        directories = _follow_chain(file, size, name)
        ome.require_bounded(file, directories, LIMITS.file_pages, name)
        found = file.series
        _require_all_described(file, found, directories, name)
        series = [_TiffSeries(level, size, name) for one in found for level in _own_levels(one)]
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


def _follow_chain(file: tifffile.TiffFile, size: int, name: str) -> int:
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
        if len(seen) > LIMITS.file_pages:
            raise _too_many_pages(name)
        pointer = place + tiff.tagnosize + tiff.tagsize * number_at(place, tiff.tagnosize)
    return len(seen)


def _too_many_pages(name: str) -> ImageTooLarge:
    return ImageTooLarge(f"{name} has more than {LIMITS.file_pages} pages, the limit; split the stack")


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

    def __init__(self, series: tifffile.TiffPageSeries, size: int, name: str) -> None:
        self._series = series
        self._keyframe = series.keyframe
        self._axes = series.get_axes(squeeze=False)
        self._shape = series.get_shape(squeeze=False)
        self._name = name
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
        if count > LIMITS.file_pages:
            raise _too_many_pages(self._name)
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
        if cut and self.header.height * self.header.width <= LIMITS.page_pixels:
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
            _require_small_segments(directory, self._name)
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
            _require_small_segments(directory, self._name)
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


def _require_small_segments(directory: tifffile.TiffPage, name: str) -> None:
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
            if segment.width * segment.height > LIMITS.page_pixels:
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


class PillowImage:
    """A PNG or a JPEG."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self.name = name
        self._stream = stream
        with self._open() as image:
            frames = getattr(image, "n_frames", 1)
            width, height = image.size
            self._mode, self._format = image.mode, image.format
        if frames > 1:
            raise UnreadableImage(f"{name} holds {frames} frames; save them as a TIFF stack")
        grey = self._mode in ("1", "L", "LA", "I;16")
        if self._format == "PNG" and not grey:
            stream.seek(PNG_DEPTH_BYTE)
            if stream.read(1) == b"\x10":
                raise UnreadableImage(
                    f"{name} is a PNG of 16-bit colours; save it in 16-bit grey, or as TIFF"
                )
        dtype = "uint16" if self._mode == "I;16" else "uint8"
        # Pillow keeps a colour's three bytes in four.
        decoded = height * width * (np.dtype(dtype).itemsize if grey else RGBA)
        self.pages: Sequence[PageHeader] = (
            PageHeader(height, width, 1 if grey else RGB, not grey, dtype, decoded),
        )

    def decode(self, index: int, channel: int | None) -> NDArray[Any]:
        """As `ImageFile.decode`; transparency is left out."""
        del index
        if self._format == "PNG":
            self._open().verify()  # the checksums, which decoding alone passes over
        with self._open() as image:
            if self._mode == "I;16":
                return np.asarray(image)
            if not self.pages[0].colour:
                return np.asarray(image.convert("L"))
            colours = np.asarray(image.convert("RGB"))
        return colours if channel is None else colours[..., channel]

    def _open(self) -> Image.Image:
        self._stream.seek(0)
        return Image.open(self._stream, formats=("PNG", "JPEG"))


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turns whatever a decoder throws at broken bytes into one sentence, and keeps its warnings quiet.

    Decoders raise dozens of types (struct.error, zlib.error, imagecodecs' own, IndexError, ...), so
    the catch is broad on purpose; want of memory and a keyboard's break are not the file's and pass.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (RejectedInput, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise ImageTooLarge(f"{name} is too large: {error}; crop or bin it") from error
    except UnidentifiedImageError as error:
        raise UnreadableImage(f"{name} cannot be read: its header is damaged; copy it again") from error
    except Exception as error:
        if "out of memory" in str(error):  # as Pillow says it
            raise MemoryError(str(error)) from error
        raise UnreadableImage(
            f"{name} cannot be read ({type(error).__name__}: {error}); copy it again or export it anew"
        ) from error
