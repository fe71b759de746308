"""Opens an image file of any format that we read, and reads its pages one at a time."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cytomask.errors import ImageTooLarge, NonFinitePixels, RejectedInput, UnreadableImage
from cytomask.images.pages import LIMITS, ImageFile, Limits, Page, check, require_size
from cytomask.images.raster import JPEG_MAGIC, PNG_MAGIC, PillowImage
from cytomask.images.tiff import TIFF_MAGIC, TiffImage

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@contextmanager
def open_image(source: bytes | Path, name: str | None = None, limits: Limits = LIMITS) -> Iterator[ImageFile]:
    """Opens a TIFF, PNG or JPEG by its content, whatever its name ends in.

    Args:
        source: the file's bytes or its path.
        name: what to call it in errors; the path where None.
        limits: of its bytes, its pages and the size of what is packed in it.

    Raises:
        EmptyImage: no bytes, no pages or a page without pixels.
        UnreadableImage: another format, or a header that cannot be read.
        AmbiguousAxes: no telling which axes are rows and columns.
        ImageTooLarge: more bytes or pages than the limits.
    """
    called = name or str(source if isinstance(source, Path) else "image")
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    require_size(size, called, limits)
    with io.BytesIO(source) if isinstance(source, bytes) else io.BufferedReader(_LoneFile(source)) as stream:
        magic = stream.read(8)
        stream.seek(0)
        with _refusing(called):
            image: ImageFile
            if magic[:4] in TIFF_MAGIC:
                image = TiffImage(stream, size, called, limits)
            elif magic == PNG_MAGIC or magic.startswith(JPEG_MAGIC):
                image = PillowImage(stream, called)
            else:
                raise UnreadableImage(
                    f"{called} is not a TIFF, PNG or JPEG: it begins with {magic!r}; export it as TIFF"
                )
        yield image


def read_pages(
    image: ImageFile,
    wanted: Sequence[int] | None = None,
    channel: int | None = None,
    limits: Limits = LIMITS,
) -> Iterator[Page]:
    """Decodes pages one at a time, after all of them were checked by their headers.

    Args:
        image: an opened image.
        wanted: pages counted from 0; all of them where None.
        channel: counted from 0; may be None where a page has one channel or is RGB (luma).
        limits: of pages and of all of them together.

    Raises:
        NoSuchPage, ImageTooLarge, AmbiguousChannels: before any pixel is read.
        UnreadableImage, NonFinitePixels, ImageTooLarge: when a page's pixels are read.
    """
    indices = range(len(image.pages)) if wanted is None else wanted
    check(image, indices, channel, limits)
    return (_read(image, index, channel) for index in indices)


def read_page(path: Path, index: int = 0, channel: int | None = None) -> Page:
    """Reads one page of a file; raises as `open_image` and `read_pages` do."""
    with open_image(path) as image:
        return next(read_pages(image, [index], channel))


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
