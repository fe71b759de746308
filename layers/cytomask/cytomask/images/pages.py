"""A page as its file's header describes it, and the limits for pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from cytomask.errors import AmbiguousChannels, EmptyImage, ImageTooLarge, NoSuchPage
from cytomask.images.work import Work
from cytomask.lengths import PixelSize

RGB, RGBA = 3, 4
MEGA = 1_000_000
MEBI = 2**20
LONGEST_SIDE = MEGA  # of the PNGs that libpng writes


@dataclass(frozen=True)
class Limits:
    """The largest images that fit into the function's memory and time; headers alone refuse larger ones."""

    page_pixels: int = 64 * MEGA
    page_bytes: int = 2048 * MEBI  # memory of one page
    job_pixels: int = 256 * MEGA
    file_bytes: int = 640 * MEBI
    file_pages: int = 10_000  # the headers of this many pages take a second

    more: str = ""  # what helps besides a smaller image

    @classmethod
    def within(cls, memory_mb: int) -> "Limits":
        """Return the limits of a function with this much memory; the file gets a quarter of what is free.

        Measured in the container over 8- to 64-bit pages of 1 to 64 megapixels, with every output: 175 MB,
        the file, the data decoded at a time, and 17 to 20 bytes a pixel.
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
BYTES_OF_WORK = 20  # for every pixel, beside the decoded ones
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
        palette: whether the channels are the colours of a palette.
        lossy: whether the pixels are packed as JPEG, which does not keep their values.
        orientation: 1 to 8, as EXIF or TIFF's tag 274 states it.
        turned: whether pixels are turned upright by it; those of a TIFF are read as they are stored.
        doubt: why three or four channels may be frames that were saved as colours; empty if they are not.
        pixel_size: of its pixels; None if the file does not tell it.
    """

    height: int
    width: int
    channels: int
    colour: bool
    dtype: str
    decoded_bytes: int
    palette: bool = False
    lossy: bool = False
    orientation: int = 1
    turned: bool = False
    doubt: str = ""
    pixel_size: PixelSize | None = None


@dataclass(frozen=True)
class Page:
    """One page of pixels.

    Attributes:
        index: counted from 0.
        pixels: (H, W) of any real dtype but bool, all finite.
        dtype: NumPy's name of the type that the file stores.
        orientation, turned: as in `PageHeader`.
        luma: whether red, green and blue were joined to grey.
    """

    index: int
    pixels: NDArray[Any]
    dtype: str
    orientation: int = 1
    turned: bool = False
    luma: bool = False


@dataclass(frozen=True)
class StoredPage:
    """One page as its file stores it: palettes are not applied, and 0 stays 0 even if it means white.

    Attributes:
        index: of the page, counted from 0.
        values: (H, W), or (H, W, channels) if there are several, of any real dtype but bool.
        alpha: (H, W) of any real dtype, 0 where the page is transparent; None if it has none.
    """

    index: int
    values: NDArray[Any]
    alpha: NDArray[Any] | None = None


@dataclass(frozen=True)
class PlaneFacts:
    """A file's facts on one channel of one page.

    Attributes:
        channel: its name.
        date: when its acquisition began, ISO 8601 to the second.
        elapsed_s: seconds from then to this page.
    """

    channel: str | None = None
    date: str | None = None
    elapsed_s: float | None = None


class ImageFile(Protocol):
    """An opened image: its headers are known, and no pixel is read yet."""

    name: str
    pages: Sequence[PageHeader]

    def decode(self, index: int, channel: int | None) -> NDArray[Any]:
        """Decode page `index`: (H, W) of the named or only channel, otherwise (H, W, 3) colours.

        Values are of any real dtype but bool and grow with brightness.
        """

    def facts(self, index: int, channel: int | None) -> PlaneFacts:
        """Say which channel and moment page `index` shows, as far as the file tells."""

    def work(self, wanted: Sequence[int], channel: int | None) -> list[Work]:
        """Say what decoding these pages takes, from their headers alone.

        Raises:
            UnreadableImage: damaged, or packed in a way that does not tell its size before it is unpacked.
            ImageTooLarge: packed data unpack to more than fits in their place, or overlap.
        """

    def stored(self, index: int) -> StoredPage:
        """Decode page `index` as stored, turned upright if `decode` turns it."""


def require_size(size: int, name: str, limits: Limits) -> None:
    """Refuse a file by its length in bytes; raise EmptyImage, ImageTooLarge."""
    if size == 0:
        raise EmptyImage(f"{name} has no bytes; upload it again")
    if size > limits.file_bytes:
        raise ImageTooLarge(
            f"{name} has {size / MEBI:.0f} MiB, the limit is {limits.file_bytes / MEBI:.0f} MiB; "
            f"split the stack or compress it{limits.more}"
        )


def check(image: ImageFile, wanted: Sequence[int], channel: int | None, limits: Limits) -> None:
    """Refuse pages by their headers; raise NoSuchPage, ImageTooLarge, AmbiguousChannels."""
    check_sizes(image, wanted, limits)
    for index in wanted:
        page = image.pages[index]
        if channel is None and page.channels > 1 and not page.colour:
            raise AmbiguousChannels(
                f"page {index} of {image.name} has {page.channels} channels; name the phase-contrast one "
                f"as `channel`, 0 to {page.channels - 1}{page.doubt and f'; {page.doubt}'}"
            )
        if channel is not None and not 0 <= channel < page.channels:
            raise AmbiguousChannels(
                f"page {index} of {image.name} has no channel {channel}: it has {page.channels}, counted "
                "from 0; correct `channel`"
            )


def check_sizes(image: ImageFile, wanted: Sequence[int], limits: Limits) -> None:
    """Refuse pages by their headers for their size alone; raise NoSuchPage, ImageTooLarge."""
    total = 0
    for index in wanted:
        if not 0 <= index < len(image.pages):
            raise NoSuchPage(f"{image.name} has no page {index}: it has {len(image.pages)}, counted from 0")
        page = image.pages[index]
        total += page.height * page.width
        _check_page(page, f"page {index} of {image.name}", limits)
    if total > limits.job_pixels:
        raise ImageTooLarge(
            f"{image.name}: the {len(wanted)} pages asked for have {total / MEGA:.0f} megapixels, the limit "
            f"is {limits.job_pixels // MEGA} a job; ask for fewer with `pages`"
        )


def _check_page(page: PageHeader, called: str, limits: Limits) -> None:
    pixels = page.height * page.width
    if max(page.height, page.width) > LONGEST_SIDE:
        raise ImageTooLarge(
            f"{called} is {page.width} x {page.height} pixels; a side may have {LONGEST_SIDE}: crop it"
        )
    if pixels > limits.page_pixels:
        raise ImageTooLarge(
            f"{called} is {page.width} x {page.height} pixels ({_megapixels(pixels)} megapixels); the limit "
            f"is {_megapixels(limits.page_pixels)} megapixels a page: crop or bin it{limits.more}"
        )
    # Some codecs hold two copies while they decode; the decoded plane stays while the page is processed.
    needed = page.decoded_bytes + max(page.decoded_bytes, BYTES_OF_WORK * pixels)
    if needed > limits.page_bytes:
        raise ImageTooLarge(
            f"{called} takes {needed / MEBI:.0f} MiB of memory, {page.decoded_bytes / MEBI:.0f} MiB to be "
            f"decoded alone; the limit is {limits.page_bytes / MEBI:.0f} MiB: save its pages and channels "
            f"one by one{limits.more}"
        )


def _megapixels(pixels: int) -> str:
    return f"{round(pixels / MEGA, 1):g}"
