"""Estimate the seconds of a job from headers alone, and refuse jobs that take longer than the budget.

A small file can unpack to hours of work, so limits on bytes and pixels do not bound its time. The
rates are about twice what a quiet machine with two cores takes; benchmarks/budget.py measures them again.
Decoding runs on one core, the network on both.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from cytomask.errors import ImageTooLarge
from cytomask.images import ImageFile, work_of
from cytomask.images.work import Work

NANO = 1e-9


@dataclass(frozen=True)
class Rate:
    """The time of a codec, in nanoseconds for each byte."""

    packed: float
    decoded: float


# If codec and content cannot make decoding slow, only reading and copying take time.
PLAIN = Rate(packed=1, decoded=2)
RATES = {
    "LZW": Rate(packed=10, decoded=5),
    "ADOBE_DEFLATE": Rate(packed=10, decoded=4),
    "DEFLATE": Rate(packed=10, decoded=4),
    "PIXTIFF": Rate(packed=10, decoded=4),
    "PNG": Rate(packed=20, decoded=10),
    "LZMA": Rate(packed=100, decoded=10),
    "ZSTD": Rate(packed=5, decoded=3),
    "CCITTRLE": Rate(packed=50, decoded=10),
    "CCITT_T4": Rate(packed=50, decoded=10),
    "CCITT_T6": Rate(packed=50, decoded=10),
    "JPEG": Rate(packed=20, decoded=10),
    "OJPEG": Rate(packed=20, decoded=10),
    "ALT_JPEG": Rate(packed=20, decoded=10),
    "JPEG_LOSSY": Rate(packed=20, decoded=10),
    "WEBP": Rate(packed=30, decoded=15),
    "WEBP_DEPRECATED": Rate(packed=30, decoded=15),
    "JPEG2000": Rate(packed=200, decoded=40),
    "JPEG_2000_LOSSY": Rate(packed=200, decoded=40),
    "APERIO_JP2000_RGB": Rate(packed=200, decoded=40),
    "APERIO_JP2000_YCBC": Rate(packed=200, decoded=40),
}
SEGMENT_SECONDS = 40e-6  # of a strip or tile, whatever it holds
PAGE_SECONDS = 0.5e-3  # of a page's headers
WRITE_SECONDS = 0.03  # of one output into a bucket
TILE_SECONDS = 0.016  # of the network
# Of each pixel: what every page takes, and each of its outputs.
PIXEL_SECONDS = {"page": 15 * NANO, "mask": 4 * NANO, "probability": 30 * NANO, "overlay": 80 * NANO}

OTHER_OUTPUT = 100 * NANO
CLEANING = 300 * NANO  # of each pixel: the mask, and the masks at the two other thresholds


@dataclass(frozen=True)
class Budget:
    """How long a job may take, and what to do if it takes longer."""

    seconds: float
    advice: str


# A function has 120 s on 1.7 cores; 20 s are for everything but the image.
QUEUE = Budget(100, "ask for fewer pages with `pages`, or crop them")
# HttpApi allows 30 s; a cold start and a slower processor take the rest.
WAITING = Budget(8, "upload it and name it to POST /jobs")


def require(
    image: ImageFile,
    wanted: Sequence[int],
    channel: int | None,
    *,
    tiles: int,
    outputs: Collection[str] = ("mask",),
    cleaned: bool = False,
    budget: Budget = QUEUE,
) -> float:
    """Refuse a job that would take longer than its budget, and say how long it will take.

    Args:
        image: an opened image whose pages were checked.
        wanted: pages counted from 0.
        channel: as in `images.read_pages`.
        tiles: of the network, over all those pages.
        outputs: written for each page.
        cleaned: whether holes are filled or small regions left out.
        budget: how long it may take.

    Returns:
        Seconds on two cores.

    Raises:
        ImageTooLarge: it takes longer.
        UnreadableImage: the time of its packed data cannot be estimated.
    """
    pixels = sum(image.pages[index].height * image.pages[index].width for index in wanted)
    seconds = (
        len(image.pages) * PAGE_SECONDS
        + decoding_seconds(work_of(image, wanted, channel))
        + tiles * TILE_SECONDS
        + len(wanted) * len(outputs) * WRITE_SECONDS
        + pixels * sum(PIXEL_SECONDS.get(each, OTHER_OUTPUT) for each in ("page", *outputs))
        + pixels * CLEANING * cleaned
    )
    if seconds > budget.seconds:
        raise ImageTooLarge(
            f"{image.name} would take about {seconds:.0f} s ({pixels / 1e6:.1f} megapixels, {tiles} tiles), "
            f"the limit is {budget.seconds:g} s; {budget.advice}"
        )
    return seconds


def decoding_seconds(work: Iterable[Work]) -> float:
    """Estimate the seconds that decoding takes on one core."""
    total = 0.0
    for one in work:
        rate = RATES.get(one.codec, PLAIN)
        total += NANO * (
            rate.packed * one.packed_bytes + rate.decoded * max(one.decoded_bytes, one.passed_bytes)
        )
        total += one.segments * SEGMENT_SECONDS
    return total
