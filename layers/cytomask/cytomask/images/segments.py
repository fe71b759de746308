"""Check the strips and tiles of a TIFF directory before they are decoded."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import IO, cast

import numpy as np
import tifffile
from tifffile import COMPRESSION

from cytomask.errors import ImageTooLarge, UnreadableImage
from cytomask.images import codestreams
from cytomask.images.codestreams import Codestream
from cytomask.images.pages import MEBI, Limits
from cytomask.images.work import Work

# Their decoders stop where the strip or tile is full.
PLAIN = {
    COMPRESSION.NONE,
    COMPRESSION.CCITTRLE,
    COMPRESSION.CCITT_T4,
    COMPRESSION.CCITT_T6,
    COMPRESSION.LZW,
    COMPRESSION.ADOBE_DEFLATE,
    COMPRESSION.DEFLATE,
    COMPRESSION.PIXTIFF,
    COMPRESSION.PACKBITS,
    COMPRESSION.LZMA,
    COMPRESSION.ZSTD,
    COMPRESSION.ZSTD_DEPRECATED,
}
# Their decoders go by the header of the strip or tile.
LOSSY = (
    COMPRESSION.OJPEG,
    COMPRESSION.JPEG,
    COMPRESSION.ALT_JPEG,
    COMPRESSION.JPEG_LOSSY,
    COMPRESSION.JPEG_2000_LOSSY,
)
READERS: dict[int, Callable[[IO[bytes], int, int, str], Codestream]] = {
    **dict.fromkeys(
        (COMPRESSION.OJPEG, COMPRESSION.JPEG, COMPRESSION.ALT_JPEG, COMPRESSION.JPEG_LOSSY),
        codestreams.of_jpeg,
    ),
    **dict.fromkeys(
        (
            COMPRESSION.JPEG2000,
            COMPRESSION.JPEG_2000_LOSSY,
            COMPRESSION.APERIO_JP2000_RGB,
            COMPRESSION.APERIO_JP2000_YCBC,
        ),
        codestreams.of_jpeg2000,
    ),
    COMPRESSION.WEBP: codestreams.of_webp,
    COMPRESSION.WEBP_DEPRECATED: codestreams.of_webp,
    COMPRESSION.PNG: codestreams.of_png,
}
# Marks, chunks and code blocks of all strips and tiles together: finding a million takes 2 s.
MOST_STEPS = 1_000_000
LONGEST_TABLES = (
    2**16
)  # bytes of a JPEG's tables outside its tiles, which are read anew for each; most have 600
# Side of JPEG's blocks in pixels; some writers count the last blocks as full.
BLOCK = 16


def require_whole(directory: tifffile.TiffPage, size: int, limits: Limits, name: str) -> None:
    """Refuse a directory whose strips or tiles are left out or end past a file's `size` bytes."""
    if directory.imagelength * directory.imagewidth > limits.page_pixels:
        return  # the refusal for its size says more
    if _lacks_pixels(directory, size):
        raise cut_short(name)


def cut_short(name: str) -> UnreadableImage:
    """Refuse a file that ends before its pixels do: return the error."""
    return UnreadableImage(f"{name} is cut short: pixels are missing; copy it again")


def require_apart(directories: Sequence[tifffile.TiffPage], size: int, name: str) -> None:
    """Refuse directories whose strips or tiles together have more bytes than a file of `size` bytes."""
    packed = sum(packed_bytes(directory) for directory in directories)
    if packed > size:
        raise ImageTooLarge(
            f"{name} has {size / MEBI:.1f} MiB and its pages are said to hold {packed / MEBI:.1f} MiB: their "
            "strips or tiles lie over each other; export it anew"
        )


def packed_bytes(directory: tifffile.TiffPage) -> int:
    """Return the bytes of a directory's strips or tiles in the file."""
    return int(directory.nbytes if directory.is_contiguous else sum(directory.databytecounts))


def work_of(directory: tifffile.TiffPage, name: str) -> Work:
    """Return the work of decoding a directory.

    Raises:
        UnreadableImage: packed in a way that does not tell its size before it is unpacked, or damaged.
        ImageTooLarge: a strip or tile that unpacks to more than its place has room for.
    """
    codec = COMPRESSION(directory.compression).name if directory.compression in _KNOWN else "?"
    if directory.compression not in PLAIN and directory.compression not in READERS:
        raise UnreadableImage(
            f"{name} is packed as {codec} ({directory.compression}), which does not tell its size before it "
            "is unpacked; save it with LZW or deflate"
        )
    count = len(directory.dataoffsets)
    across, down = _room(directory)
    item = np.dtype(directory.dtype).itemsize
    samples = directory.samplesperpixel if directory.planarconfig == 1 else 1
    segment_bytes = across * down * max(directory.tiledepth, 1) * samples * item
    passed = decoded = count * segment_bytes
    steps, tables = 0, len(directory.jpegtables or b"")
    if tables > LONGEST_TABLES:
        raise ImageTooLarge(
            f"{name} has {tables} bytes of JPEG tables, the limit is {LONGEST_TABLES}; export it anew"
        )
    if directory.compression in READERS:
        passed = 0
        for one in _codestreams(directory, name):
            _require_fits(one, across, down, samples, 8 * item, name)
            passed += one.width * one.height * one.samples * -(-one.bits // 8) * one.passes
            steps += one.steps
            require_few(steps, name)
    return Work(codec, packed_bytes(directory) + count * tables, decoded, passed, count + steps)


def require_few(steps: int, name: str) -> None:
    """Refuse strips or tiles that have too many parts together."""
    if steps > MOST_STEPS:
        raise ImageTooLarge(
            f"{name} has strips or tiles of more than {MOST_STEPS:,} marks, chunks or code blocks together, "
            "the limit; export it anew"
        )


_KNOWN = {int(one) for one in COMPRESSION}


def _codestreams(directory: tifffile.TiffPage, name: str) -> Iterator[Codestream]:
    reader = READERS[directory.compression]
    stream = cast("IO[bytes]", directory.parent.filehandle)
    for offset, count in zip(directory.dataoffsets, directory.databytecounts, strict=True):
        yield reader(stream, offset, count, name)


def _room(directory: tifffile.TiffPage) -> tuple[int, int]:
    """Return the columns and rows of a strip or tile."""
    if directory.is_tiled:
        return directory.tilewidth, directory.tilelength
    return directory.imagewidth, min(directory.rowsperstrip, directory.imagelength)


def _require_fits(found: Codestream, across: int, down: int, samples: int, bits: int, name: str) -> None:
    full = (_blocks(across), _blocks(down), max(samples, 4), max(bits, 8))
    if any(
        has > room
        for has, room in zip((found.width, found.height, found.samples, found.bits), full, strict=True)
    ):
        raise ImageTooLarge(
            f"{name} holds a strip or tile that unpacks to {found.width} x {found.height} pixels of "
            f"{found.samples} samples with {found.bits} bits, and its place has {across} x {down}; export it "
            "anew"
        )


def _blocks(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _lacks_pixels(directory: tifffile.TiffPage, size: int) -> bool:
    """Tell whether pixels lie past the file's end or are left out; tifffile would read those as 0."""
    if len(directory.dataoffsets) < math.prod(directory.chunked):
        return True
    if directory.is_contiguous:
        return bool(directory.dataoffsets[0] == 0 or directory.dataoffsets[0] + directory.nbytes > size)
    pairs = zip(directory.dataoffsets, directory.databytecounts, strict=True)
    return any(offset == 0 or count == 0 or offset + count > size for offset, count in pairs)
