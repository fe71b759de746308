"""Open an image file of any supported format, and read its pages one at a time."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cytomask.errors import ImageTooLarge, NonFinitePixels, RejectedInput, UnreadableImage
from cytomask.images.colours import luma, require_one_picture
from cytomask.images.jpeg import JPEG_MAGIC
from cytomask.images.pages import (
    LIMITS,
    ImageFile,
    Limits,
    Page,
    StoredPage,
    check,
    check_sizes,
    require_size,
)
from cytomask.images.png import PNG_MAGIC
from cytomask.images.raster import JpegImage, PngImage
from cytomask.images.tiff import TIFF_MAGIC, TiffImage
from cytomask.images.work import Work

# AppleDouble and AppleSingle: what macOS keeps beside a file, called ._NAME, on disks of other systems.
APPLE = (b"\0\x05\x16\x07", b"\0\x05\x16\0")
RAW = "is a camera's raw data"
PREVIEWS = {
    ".vsi": "lies in a folder beside it (_NAME_/…/frame_t.ets)",
    ".mrxs": "lies in a folder beside it",
    **dict.fromkeys((".arw", ".cr2", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw"), RAW),
}


@contextmanager
def open_image(source: bytes | Path, name: str | None = None, limits: Limits = LIMITS) -> Iterator[ImageFile]:
    """Open a TIFF, PNG or JPEG by its content; the name's ending does not matter.

    Args:
        source: the file's bytes or its path.
        name: what to call it in errors; None for the path.
        limits: of its bytes, its pages and its unpacked size.

    Raises:
        EmptyImage: no bytes, no pages or a page without pixels.
        UnreadableImage: another format, or a header that cannot be read.
        AmbiguousAxes: rows and columns cannot be told.
        ImageTooLarge: more bytes or pages than the limits.
    """
    called = name or str(source if isinstance(source, Path) else "image")
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    require_size(size, called, limits)
    _require_no_container(called)
    with io.BytesIO(source) if isinstance(source, bytes) else io.BufferedReader(_LoneFile(source)) as stream:
        magic = stream.read(8)
        stream.seek(0)
        with _refusing(called):
            image = _open(stream, size, magic, called, limits)
        yield image


def _open(stream: IO[bytes], size: int, magic: bytes, name: str, limits: Limits) -> ImageFile:
    if magic[:4] in TIFF_MAGIC:
        return TiffImage(stream, size, name, limits)
    if magic == PNG_MAGIC:
        return PngImage(stream, size, name)
    if magic.startswith(JPEG_MAGIC):
        return JpegImage(stream, size, name)
    if magic[:4] in APPLE:
        raise UnreadableImage(
            f"{name} is not an image: macOS keeps notes about another file in it; upload that file alone"
        )
    if microscope := _microscope_of(magic, name):
        raise UnreadableImage(
            f"{name} is a {microscope} file: `cytomask segment` reads it on your own computer, after "
            "pip install 'cytomask[microscopes]'; for a stack export it as OME-TIFF"
        )
    raise UnreadableImage(f"{name} is not a TIFF, PNG or JPEG: it begins with {magic!r}; export it as TIFF")


def _microscope_of(magic: bytes, name: str) -> str | None:
    """Name the microscope's format that a file begins as, if it is one."""
    if magic.startswith(b"ZISRAWFI"):
        return "Zeiss CZI"
    if magic.startswith(b"\xda\xce\xbe\x0a") or (magic[4:] == b"jP  " and name.lower().endswith(".nd2")):
        return "Nikon ND2"
    return "Leica LIF" if magic.startswith(b"\x70\0\0\0") and name.lower().endswith(".lif") else None


def _require_no_container(name: str) -> None:
    """Refuse files that hold a readable preview and keep their picture elsewhere."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in PREVIEWS:
        raise UnreadableImage(
            f"{name} holds only a preview; its picture {PREVIEWS[suffix]}: export it as TIFF from "
            "the program that made it"
        )


def read_pages(
    image: ImageFile,
    wanted: Sequence[int] | None = None,
    channel: int | None = None,
    limits: Limits = LIMITS,
) -> Iterator[Page]:
    """Decode pages one at a time, after their headers were checked.

    Args:
        image: an opened image.
        wanted: pages counted from 0; None for all.
        channel: counted from 0; may be None if every page has one channel or is RGB, which becomes luma.
        limits: of pages and of all of them together.

    Raises:
        NoSuchPage, ImageTooLarge, AmbiguousChannels: before any pixel is read.
        UnreadableImage, NonFinitePixels, ImageTooLarge: when a page's pixels are read.
    """
    indices = range(len(image.pages)) if wanted is None else wanted
    check(image, indices, channel, limits)
    work_of(image, indices, channel)
    return (_read(image, index, channel) for index in indices)


def work_of(image: ImageFile, wanted: Sequence[int], channel: int | None) -> list[Work]:
    """Return the work of decoding pages, from headers alone; raise as `ImageFile.work` does."""
    with _refusing(image.name):
        return image.work(wanted, channel)


def read_page(path: Path, index: int = 0, channel: int | None = None) -> Page:
    """Read one page of a file; raise as `open_image` and `read_pages` do."""
    with open_image(path) as image:
        return next(read_pages(image, [index], channel))


def read_stored(
    image: ImageFile, wanted: Sequence[int] | None = None, limits: Limits = LIMITS
) -> Iterator[StoredPage]:
    """Read pages as their file stores them, for labels: no palette is applied and nothing is inverted.

    Args:
        image: an opened image.
        wanted: pages counted from 0; None for all.
        limits: of pages and of all of them together.

    Raises:
        NoSuchPage, ImageTooLarge: before any pixel is read.
        UnreadableImage: when a page's pixels are read.
    """
    indices = range(len(image.pages)) if wanted is None else wanted
    check_sizes(image, indices, limits)
    work_of(image, indices, None)
    return (_read_stored(image, index) for index in indices)


def _read_stored(image: ImageFile, index: int) -> StoredPage:
    with _refusing(image.name):
        page = image.stored(index)
    _require_size_as_said(image, index, page.values)
    return page


def _require_size_as_said(image: ImageFile, index: int, stored: NDArray[Any]) -> None:
    header = image.pages[index]
    if stored.shape[:2] != (header.height, header.width):
        raise UnreadableImage(
            f"page {index} of {image.name} holds {stored.shape[1]} x {stored.shape[0]} pixels, not "
            f"{header.width} x {header.height} as it says; export it anew"
        )


def _read(image: ImageFile, index: int, channel: int | None) -> Page:
    header = image.pages[index]
    with _refusing(image.name):
        stored = image.decode(index, channel)
    _require_size_as_said(image, index, stored)
    pixels, joined = stored, header.colour and channel is None
    if joined:
        if not header.palette:
            require_one_picture(stored, index, image.name)
        pixels = luma(stored)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        bad = int(pixels.size - np.count_nonzero(np.isfinite(pixels)))
        raise NonFinitePixels(
            f"page {index} of {image.name} is NaN or infinite in {bad} of {pixels.size} pixels; "
            "replace them and upload it again"
        )
    return Page(index, pixels, header.dtype, header.orientation, header.turned, joined)


class _LoneFile(io.FileIO):
    """A file without a descriptor, so that tifffile cannot open other files that a description names."""

    def fileno(self) -> int:
        raise OSError("a lone file has no descriptor")


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turn any error of a decoder into one sentence, and silence its warnings.

    Decoders raise dozens of types (struct.error, zlib.error, imagecodecs' own, IndexError, …), so the catch
    is broad on purpose. Out of memory and a keyboard interrupt are not the file's fault, and pass.
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
