"""Find the chunks of a PNG that make its pixels, and its orientation."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from cytomask.errors import ImageTooLarge, UnreadableImage
from cytomask.images.orientation import AS_STORED, orientation_of
from cytomask.images.spliced import Part

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
MOST_CHUNKS = 500_000  # each of 8 kB, as libpng writes them, they are 4 GB
LONGEST_EXIF = 2**16
# Before eXIf, programs wrote EXIF as text: a name, its length and hexadecimal digits in lines.
RAW_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")
LONGEST_RAW_PROFILE = 3 * LONGEST_EXIF
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
DEPTHS = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
PACKED_NOTES = (b"zTXt", b"iTXt", b"iCCP")
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
WINDOW = 2**20


@dataclass(frozen=True)
class Png:
    """A PNG's pixels, as its headers describe them.

    Attributes:
        width, height: as stored, in pixels.
        depth: bits of a sample.
        colours: PNG's number for the kind of pixel.
        chunks: how many the file has.
        notes: whether texts or a colour profile in it are packed.
        orientation: 1 to 8, as EXIF numbers it.
        parts: of the file: its magic number and the chunks that make its pixels.
    """

    width: int
    height: int
    depth: int
    colours: int
    chunks: int
    notes: bool
    orientation: int
    parts: list[Part]


def read_png(stream: IO[bytes], start: int, size: int, name: str) -> Png:
    """Look at the chunks of a PNG.

    Args:
        stream: a file that holds it.
        start: its first byte there.
        size: its length in bytes.
        name: what to call it in errors.

    Raises:
        UnreadableImage: it is damaged, or an animation.
        ImageTooLarge: it has too many chunks.
    """
    stream.seek(start + 8)
    header: tuple[int, ...] | None = None
    orientation: int | None = None
    older: int | None = None  # the orientation in the first raw profile
    frames, count, notes, whole = 1, 0, False, False
    parts: list[Part] = [(start, 8)]
    for kind, place, length in _chunks(stream, start, size, name):
        count += 1
        notes |= kind in PACKED_NOTES
        if kind == b"IHDR":
            header = struct.unpack(">IIBBBBB", stream.read(13)) if length == 13 else None
        elif kind == b"eXIf" and length <= LONGEST_EXIF:
            orientation = orientation_of(stream.read(length))
        elif kind in (b"tEXt", b"zTXt") and length <= LONGEST_RAW_PROFILE and older is None:
            older = _orientation_of_text(stream.read(length), packed=kind == b"zTXt")
        elif kind == b"acTL" and length == 8:
            (frames,) = struct.unpack(">I", stream.read(4))
        if kind in NEEDED:
            _append(parts, (place - 8, length + 12))
        if kind == b"IEND":
            whole = True
            break
    if header is None or header[3] not in DEPTHS or header[2] not in DEPTHS[header[3]]:
        raise UnreadableImage(f"{name} cannot be read: its header is damaged; copy it again")
    if not whole:
        raise UnreadableImage(f"{name} is cut short: it is a PNG without its end; copy it again")
    if frames > 1:
        raise UnreadableImage(f"{name} holds {frames} frames; save them as a TIFF stack")
    turn = orientation or older or AS_STORED
    return Png(header[0], header[1], header[2], header[3], count, notes, turn, parts)


def _orientation_of_text(text: bytes, *, packed: bool) -> int | None:
    """Return the orientation in a chunk of text; None if it holds no EXIF."""
    keyword, _, content = text.partition(b"\0")
    if keyword not in RAW_PROFILES:
        return None
    try:
        if packed:
            content = zlib.decompressobj().decompress(content[1:], LONGEST_RAW_PROFILE)
        exif = bytes.fromhex(b"".join(content.split(b"\n")[3:]).decode())
    except (zlib.error, ValueError):
        return AS_STORED
    return orientation_of(exif.removeprefix(b"Exif\0\0"))


def require_sums(stream: IO[bytes], parts: list[Part], name: str) -> None:
    """Refuse a PNG with a wrong checksum, which decoders ignore."""
    stream.seek(parts[0][0] + 8)
    last = parts[-1][0] + parts[-1][1]
    for start, length in [(parts[0][0] + 8, parts[0][1] - 8), *parts[1:]]:
        place = start
        while place < min(start + length, last):
            stream.seek(place)
            (content,) = struct.unpack(">I", stream.read(4))
            total, left = 0, content + 4
            while left:
                window = stream.read(min(left, WINDOW))
                if not window:
                    break
                total, left = zlib.crc32(window, total), left - len(window)
            if stream.read(4) != struct.pack(">I", total):
                raise UnreadableImage(f"{name} is damaged: a checksum in it is wrong; copy it again")
            place += content + 12


def _chunks(stream: IO[bytes], start: int, size: int, name: str) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, first byte and length of each chunk's content; the stream is at the content."""
    place, count = start + 8, 0
    while True:
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8:
            return
        length, kind = struct.unpack(">I4s", head)
        count += 1
        if count > MOST_CHUNKS:
            raise ImageTooLarge(f"{name} has more than {MOST_CHUNKS:,} chunks, the limit; export it anew")
        if place + length + 12 > start + size:
            return
        yield kind, place + 8, length
        place += length + 12


def _append(parts: list[Part], part: Part) -> None:
    """Add a part; join it with the one before if they touch."""
    start, length = parts[-1]
    if start + length == part[0]:
        parts[-1] = start, length + part[1]
    else:
        parts.append(part)
