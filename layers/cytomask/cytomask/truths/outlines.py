"""Draw COCO's polygons and run lengths as the union of their pixels.

The work is limited before it begins, by the length of all outlines instead of the bytes that describe them.
Drawing time grows with that length, with the number of runs, and with the number of the page's pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import msgspec
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as pycocotools

from cytomask.errors import UnreadableCoco
from cytomask.metrics import Mask
from cytomask.truths.coco_format import UNREADABLE, Number
from cytomask.truths.limits import Size

MEBI = 2**20
BATCH_BYTES = (
    MEBI  # of outlines that are drawn at a time, since each call of NumPy costs more than a small one
)
# Limits for one image.
MOST_OUTLINES = 200_000
MOST_BYTES = 64 * MEBI
LONGEST_OUTLINES = 50_000_000  # pixels, sum of an image's polygons
# Limits for one annotation.
MOST_OUTLINE_BYTES = 4 * MEBI
LONGEST_OUTLINE = 2_000_000  # pixels; pycocotools needs about 100 bytes for each

LONGEST_RUN = 2**40
MOST_LETTERS = 8  # letters of a compressed run length, 40 bits
# A polygon that lies between 0 and 1, or overshoots by rounding, as a share of the page's sides.
LEAST_SHARE, MOST_SHARE = -0.05, 1.05
# Drawing tools overshoot further. If all polygons of an image lie in here, none is in pixels: on a page whose
# longer side has SMALLEST_PAGE pixels or more, cells would fill its first two pixels and nothing else.
LEAST_SHARE_OF_ALL, MOST_SHARE_OF_ALL, SMALLEST_PAGE = -1.0, 2.0, 16
Polygons = list[list[float]]
Numbers = NDArray[np.int64]


class RunLengths(msgspec.Struct):
    """COCO's run lengths, column after column, background first; a text if they are compressed."""

    size: tuple[float, float]
    counts: list[float] | str


class Outline(msgspec.Struct, frozen=True, gc=False):
    """One annotation's segmentation.

    Attributes:
        text: the segmentation, undecoded.
        id: of the annotation.
        of: its image and file, in errors.
    """

    text: msgspec.Raw
    id: Number | None
    of: str

    @property
    def called(self) -> str:
        """Its name in errors, made when it is needed: a file may have a million."""
        return f"annotation {self.id} of {self.of}"

    def decode(self) -> Polygons | RunLengths:
        """Return the polygons or run lengths; raise UnreadableCoco if there are neither."""
        if self.size == len(b"null") and bytes(self.text) == b"null":
            raise UnreadableCoco(f"{self.called} has no segmentation; outline its cell or remove it")
        try:
            return msgspec.json.decode(self.text, type=Polygons | RunLengths)
        except UNREADABLE as error:
            raise UnreadableCoco(
                f"{self.called} has neither polygons nor run lengths ({error}); correct its segmentation"
            ) from error

    @property
    def size(self) -> int:
        """Number of bytes of its text."""
        return memoryview(self.text).nbytes


def require_affordable(outlines: Sequence[Outline], size: Size, called: str) -> None:
    """Raise UnreadableCoco if outlines are invalid, would crash pycocotools, or take too long to draw.

    Args:
        outlines: the outlines of one image.
        size: height and width of the image.
        called: the image's name in errors.

    Raises:
        UnreadableCoco: the message names the faulty annotation, or the image and the limit.
    """
    total = sum(outline.size for outline in outlines)
    if len(outlines) > MOST_OUTLINES or total > MOST_BYTES:
        raise UnreadableCoco(
            f"{called} has {len(outlines)} annotations of {total / MEBI:.0f} MiB; the limits are "
            f"{MOST_OUTLINES} and {MOST_BYTES // MEBI} MiB: draw fewer outlines, with fewer points"
        )
    for outline in outlines:
        if outline.size > MOST_OUTLINE_BYTES:
            raise UnreadableCoco(
                f"{outline.called} has {outline.size / MEBI:.0f} MiB of coordinates; the limit is "
                f"{MOST_OUTLINE_BYTES // MEBI} MiB: draw it with fewer points"
            )
    number, length = 0, 0.0
    lowest, highest = np.inf, -np.inf
    for batch in _batches(outlines):
        lengths, corners = _measured_polygons(batch, size)
        number += lengths.size
        length += float(lengths.sum())
        lowest, highest = corners.min(initial=lowest), corners.max(initial=highest)
        if number > MOST_OUTLINES or length > LONGEST_OUTLINES:
            raise UnreadableCoco(
                f"{called} has more than {MOST_OUTLINES} polygons or {LONGEST_OUTLINES} pixels of outline, "
                "the limits; draw fewer outlines, with fewer points"
            )
    normalised = number and lowest >= LEAST_SHARE_OF_ALL and highest <= MOST_SHARE_OF_ALL
    if normalised and max(size) >= SMALLEST_PAGE:
        raise UnreadableCoco(
            f"{called} has polygons of which all coordinates lie from {lowest:g} to {highest:g}, like shares "
            f"of the page's sides instead of its {size[1]} x {size[0]} pixels; give coordinates in pixels"
        )


def draw(outlines: Iterable[Outline], size: Size) -> Mask:
    """Draw outlines that `require_affordable` accepted.

    Returns:
        (H, W) bool: every pixel inside an outline. Polygons are drawn as pycocotools draws them.

    Raises:
        UnreadableCoco: run lengths do not fill the page.
    """
    height, width = size
    # Column after column: number of outlines that begin at a pixel, minus those that end there.
    changes = np.zeros(height * width + 1, np.int32)
    for batch in _batches(outlines):
        starts, ends = _spans(batch, size)
        np.add.at(changes, starts, 1)
        np.add.at(changes, ends, -1)
    covered = np.cumsum(changes, out=changes)[:-1].reshape(width, height)  # columns, rows
    return np.ascontiguousarray((covered > 0).T)


def measure(outline: Outline, size: Size) -> int:
    """Count the pixels of one annotation; raises like `draw`."""
    starts, ends = _spans([outline], size)
    order = np.argsort(starts, kind="stable")
    reached = np.maximum.accumulate(ends[order])
    before = np.concatenate([np.zeros(1, np.int64), reached])[:-1]
    return int(np.maximum(reached - np.maximum(starts[order], before), 0).sum())


def _batches(outlines: Iterable[Outline]) -> Iterator[list[Outline]]:
    batch: list[Outline] = []
    size = 0
    for outline in outlines:
        batch.append(outline)
        size += outline.size
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _measured_polygons(
    batch: Sequence[Outline], size: Size
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure polygons; raise if pycocotools would misread one or crash on it.

    Returns:
        Length in pixels, (polygons,), and lowest and highest x and y, (2, polygons, 2).
    """
    polygons: list[list[float]] = []
    owners: list[str] = []
    for outline in batch:
        decoded = outline.decode()
        if isinstance(decoded, RunLengths):
            continue
        if not decoded:
            raise UnreadableCoco(f"{outline.called} has no polygon; draw its outline or remove it")
        for polygon in decoded:
            if len(polygon) < 6 or len(polygon) % 2:
                raise UnreadableCoco(
                    f"{outline.called} has a polygon of {len(polygon)} numbers; it needs x and y of at least "
                    "three points"
                )
            polygons.append(polygon)
            owners.append(outline.called)
    if not polygons:
        return np.empty(0), np.empty((2, 0, 2))
    counts = np.array([len(polygon) // 2 for polygon in polygons])
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])  # index of each polygon's first point
    points = np.fromiter(chain.from_iterable(polygons), np.float64).reshape(-1, 2)  # points, x and y
    owner = np.repeat(np.arange(counts.size), counts)
    height, width = size
    where = f"the image's {width} x {height} pixels; give coordinates in pixels of the image"
    far = ~(np.abs(points - (width / 2, height / 2)) <= (1.5 * width, 1.5 * height)).all(axis=1)
    if far.any():
        at = int(np.argmax(far))
        x, y = points[at]
        raise UnreadableCoco(f"{owners[owner[at]]} goes through x = {x:g}, y = {y:g}, far off {where}")
    corners = np.stack([edge.reduceat(points, first, axis=0) for edge in (np.minimum, np.maximum)])
    tiny = ((corners >= LEAST_SHARE) & (corners <= MOST_SHARE)).all(axis=(0, 2))
    if tiny.any() and max(size) > 2:
        raise UnreadableCoco(
            f"{owners[int(np.argmax(tiny))]} has coordinates from 0 to 1, which draw nothing on {where}"
        )
    following = np.arange(1, len(points) + 1)
    following[first + counts - 1] = first
    lengths = np.add.reduceat(np.abs(points[following] - points).max(axis=1), first)
    if lengths.max() > LONGEST_OUTLINE:
        at = int(np.argmax(lengths))
        raise UnreadableCoco(
            f"{owners[at]} has an outline of {lengths[at]:.0f} pixels; the limit is {LONGEST_OUTLINE}: "
            "draw it with fewer points"
        )
    return lengths, corners


def _spans(batch: Sequence[Outline], size: Size) -> tuple[Numbers, Numbers]:
    """Return where the runs of cell pixels begin and end, counted down the columns."""
    polygons: Polygons = []
    spans: list[tuple[Numbers, Numbers]] = []
    for outline in batch:
        decoded = outline.decode()
        if isinstance(decoded, RunLengths):
            counts = _counts_of(decoded, size, outline.called)
            spans.append(_span(counts, np.array([counts.size])))
        else:
            polygons += decoded
    if polygons:
        texts = [encoded["counts"] for encoded in pycocotools.frPyObjects(polygons, *size)]
        counts, sizes = _decompress(texts, "a polygon")
        spans.append(_span(counts, sizes))
    starts, ends = zip(*spans, strict=True)
    return np.concatenate(starts), np.concatenate(ends)


def _span(counts: Numbers, sizes: Numbers) -> tuple[Numbers, Numbers]:
    """Return begin and end of every second run, because the first is background.

    Args:
        counts: run lengths of one outline after another.
        sizes: number of run lengths of each outline.
    """
    reached = _summed(counts, sizes)
    inside = np.arange(counts.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    cell = inside % 2 == 1
    return (reached - counts)[cell], reached[cell]


def _summed(numbers: Numbers, sizes: Numbers) -> Numbers:
    """Return cumulative sums within groups of these sizes."""
    sums = np.cumsum(numbers)
    first = np.cumsum(sizes) - sizes
    before = np.where(first > 0, sums[np.maximum(first - 1, 0)] if sums.size else 0, 0)
    running: Numbers = sums - np.repeat(before, sizes)
    return running


def _counts_of(runs: RunLengths, size: Size, called: str) -> Numbers:
    """Return the run lengths; raise UnreadableCoco unless they fill the page exactly."""
    packed = runs.counts
    if isinstance(packed, str):
        counts, _ = _decompress([packed.encode()], called)
    else:
        counts = _whole(packed, called)
    height, width = size
    filled = counts.sum(dtype=np.float64)  # integers would wrap around
    if runs.size != size or filled != height * width or (counts < 0).any():
        raise UnreadableCoco(
            f"{called} has run lengths for {runs.size[1]:g} x {runs.size[0]:g} pixels that add up to "
            f"{filled:.0f}, but the image has {width} x {height}, which is {height * width}; export it anew"
        )
    return counts


def _whole(numbers: list[float], called: str) -> Numbers:
    given = np.array(numbers, np.float64)
    if not (np.abs(given) < LONGEST_RUN).all() or (given % 1).any():
        raise UnreadableCoco(f"{called} has run lengths that are not whole numbers; export it anew")
    return given.astype(np.int64)


def _decompress(texts: Sequence[bytes], called: str) -> tuple[Numbers, Numbers]:
    """Decode COCO's compressed run lengths: five bits a letter, from the fourth run on as a difference.

    We decode them ourselves because pycocotools reads past the end of a truncated text.

    Args:
        texts: the text of each outline.
        called: their name in errors.

    Returns:
        The run lengths of one outline after another, and the number of them in each.
    """
    text = b"".join(texts)
    letters = np.frombuffer(text, np.uint8) - np.uint8(48)  # bytes below 48 wrap around and are refused
    damaged = np.flatnonzero(letters > 63)
    if damaged.size:
        letter = chr(text[int(damaged[0])])
        raise UnreadableCoco(f"{called} has run lengths that are damaged at {letter!r}; export it anew")
    last = np.flatnonzero(letters < 32)  # the last letter of each number
    ends = np.cumsum([len(each) for each in texts])
    if not np.isin(ends[ends > 0] - 1, last).all():
        raise UnreadableCoco(f"{called} has run lengths that were cut short; export it anew")
    first = np.concatenate([np.zeros(1, np.int64), last + 1])[:-1]
    lengths = last - first + 1
    if lengths.size and lengths.max() > MOST_LETTERS:
        raise UnreadableCoco(f"{called} has run lengths that are damaged: one is too long; export it anew")
    shifts = 5 * (np.arange(letters.size) - np.repeat(first, lengths))
    bits = (letters & 31).astype(np.int64) << shifts
    numbers = np.add.reduceat(bits, first) if first.size else np.zeros(0, np.int64)
    numbers -= (letters[last] & 16).astype(np.int64) >> 4 << 5 * lengths  # sign of negative numbers
    sizes = np.diff(np.searchsorted(last, ends), prepend=0)
    return _without_differences(numbers, sizes), sizes


def _without_differences(numbers: Numbers, sizes: Numbers) -> Numbers:
    """Undo the differences: from the fourth run of an outline on, add the run length two before."""
    place = np.arange(numbers.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    counts = numbers.copy()
    for chain_of in ((place % 2 == 1), (place % 2 == 0) & (place > 0)):
        own = np.repeat(np.arange(sizes.size), sizes)[chain_of]
        counts[chain_of] = _summed(numbers[chain_of], np.bincount(own, minlength=sizes.size))
    return counts
