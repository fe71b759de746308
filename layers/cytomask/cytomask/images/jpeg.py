"""Find the segments of a JPEG that make its first picture, and its orientation."""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import IO

from cytomask.errors import ImageTooLarge, UnreadableImage
from cytomask.images.orientation import AS_STORED, orientation_of
from cytomask.images.spliced import Part

JPEG_MAGIC = b"\xff\xd8\xff"
MOST_SEGMENTS = 20_000
MOST_SCANS = 500  # progressive ones have about 10; libjpeg warns of more than this
WINDOW = 2**20
# In packed pixels, 00, a restart mark or a filling FF follows every FF.
MARK = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
SOI, EOI, SOS, DNL, COM = 0xD8, 0xD9, 0xDA, 0xDC, 0xFE
ALONE = {0x01, SOI, *range(0xD0, 0xD8)}  # marks without a length
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
EXIF, ADOBE, JFIF = 0xE1, 0xEE, 0xE0
APPLICATIONS = range(0xE0, 0xF0)
HUFFMAN_8_BITS = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
LOSSLESS = 0xC3
ARITHMETIC = (0xC9, 0xCA)
JPEG_LS = 0xF7


@dataclass(frozen=True)
class Jpeg:
    """A JPEG's first picture, as its headers describe it.

    Attributes:
        width, height: as stored, in pixels.
        precision: bits of a sample.
        components: samples of a pixel.
        process: how it is packed: the number of its SOF mark.
        scans: how often its decoder goes over the picture.
        segments: how many its file has up to the end of the picture.
        orientation: 1 to 8, as EXIF numbers it.
        parts: of the file: the segments and packed pixels of the first picture.
    """

    width: int
    height: int
    precision: int
    components: int
    process: int
    scans: int
    segments: int
    orientation: int
    parts: list[Part]


def read_jpeg(stream: IO[bytes], start: int, size: int, name: str) -> Jpeg:
    """Look at the segments of a JPEG, up to the end of its first picture.

    Data behind that end, such as the smaller picture that phones add, are ignored.

    Args:
        stream: a file that holds it.
        start: its first byte there.
        size: its length in bytes.
        name: what to call it in errors.

    Raises:
        UnreadableImage: it is damaged, cut short or a JPEG-LS.
        ImageTooLarge: it has too many segments or scans.
    """
    frame: tuple[int, int, int, int, int] | None = None
    orientation, scans, segments = AS_STORED, 0, 0
    parts: list[Part] = [(start, 2)]
    for mark, place, length in _segments(stream, start + 2, start + size, name):
        if mark in FRAMES and frame is None:
            frame = _frame(mark, _content(stream, place), name)
        elif mark == JPEG_LS:
            raise UnreadableImage(f"{name} is a JPEG-LS, which is not read; save it as TIFF or PNG")
        elif mark == EXIF and orientation == AS_STORED:
            kind, exif = (content := _content(stream, place))[:6], content[6:]
            orientation = orientation_of(exif) if kind == b"Exif\0\0" else AS_STORED
        segments += 1
        scans += mark == SOS
        if scans > MOST_SCANS:
            raise ImageTooLarge(f"{name} has more than {MOST_SCANS} scans, the limit; export it anew")
        if mark in (ADOBE, JFIF) or (mark not in APPLICATIONS and mark != COM):
            _append(parts, (place, length))
    if frame is None:
        raise UnreadableImage(f"{name} is a JPEG without a header; copy it again")
    process, precision, height, width, components = frame
    return Jpeg(width, height, precision, components, process, scans, segments, orientation, parts)


def _segments(stream: IO[bytes], place: int, end: int, name: str) -> Iterator[tuple[int, int, int]]:
    """Yield mark, first byte and length of each segment of the picture; a scan includes its packed pixels."""
    start = place - 2
    for number in count():
        place = _past_filling(stream, place, end)
        stream.seek(place)
        head = stream.read(4)
        if place + 2 > end or len(head) < 2:
            return
        if head[0] != 0xFF:
            raise UnreadableImage(
                f"{name} is damaged: byte {place - start} of a JPEG is no mark; copy it again"
            )
        if number == MOST_SEGMENTS:
            raise ImageTooLarge(f"{name} has more than {MOST_SEGMENTS:,} segments, the limit; export it anew")
        mark = head[1]
        following = place + 2
        if mark not in ALONE and mark != EOI:
            if len(head) < 4:
                return
            following += int.from_bytes(head[2:], "big")
            if mark == SOS:
                following = _next_mark(stream, following, end)
        yield mark, place, following - place
        if mark == EOI:
            return
        place = following


def _content(stream: IO[bytes], place: int) -> bytes:
    """Read a segment's content, at most 64 kB."""
    stream.seek(place + 2)
    length = int.from_bytes(stream.read(2), "big")
    return stream.read(max(length - 2, 0))


def _frame(mark: int, content: bytes, name: str) -> tuple[int, int, int, int, int]:
    if len(content) < 6:
        raise UnreadableImage(f"{name} is a JPEG whose header is damaged; copy it again")
    precision, height, width, components = struct.unpack_from(">BHHB", content)
    if not height:
        raise UnreadableImage(f"{name} is a JPEG that does not say its height; export it anew")
    return mark, precision, height, width, components


def _past_filling(stream: IO[bytes], place: int, end: int) -> int:
    """Find the mark at `place`, behind any filling FF."""
    stream.seek(place)
    if stream.read(2) != b"\xff\xff":
        return place
    stream.seek(place)
    while place < end and (window := stream.read(WINDOW)):
        filling = len(window) - len(window.lstrip(b"\xff"))
        place += filling
        if filling < len(window):
            break
    return place - 1


def _next_mark(stream: IO[bytes], place: int, end: int) -> int:
    """Find the end of the packed pixels that begin at `place`."""
    while place < end:
        stream.seek(place)
        window = stream.read(min(WINDOW, end - place))
        if found := MARK.search(window):
            return place + found.start()
        if len(window) < 2:
            break
        place += len(window) - 1  # an FF may be the last byte
    return end


def _append(parts: list[Part], part: Part) -> None:
    """Add a part; join it with the one before if they touch."""
    start, length = parts[-1]
    if start + length == part[0]:
        parts[-1] = start, length + part[1]
    else:
        parts.append(part)
