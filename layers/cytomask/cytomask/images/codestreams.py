"""Read from a packed picture's own header how large it becomes: its decoder trusts that header."""

import struct
from dataclasses import dataclass
from typing import IO

from cytomask.errors import ImageTooLarge, UnreadableImage
from cytomask.images import jpeg, png

# OpenJPEG takes 6 kB for each tile of a JPEG 2000 before it reads the tile.
MOST_TILES = 1024
MOST_LAYERS = 64
MOST_BOXES = 100
JP2_MAGIC = b"\0\0\0\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"  # SOC, then SIZ
CODING_STYLE = b"\xff\x52"
MAIN_HEADER = 4096  # bytes in which the coding style must appear


@dataclass(frozen=True)
class Codestream:
    """The header of a packed picture.

    Attributes:
        width, height: in pixels.
        samples: of a pixel.
        bits: of a sample.
        passes: number of times that its decoder goes over all pixels.
    """

    width: int
    height: int
    samples: int
    bits: int
    passes: int = 1


def of_jpeg(stream: IO[bytes], start: int, size: int, name: str) -> Codestream:
    """Describe a JPEG, with or without its tables."""
    found = jpeg.read_jpeg(stream, start, size, name)
    return Codestream(found.width, found.height, found.components, found.precision, max(found.scans, 1))


def of_png(stream: IO[bytes], start: int, size: int, name: str) -> Codestream:
    """Describe a PNG."""
    found = png.read_png(stream, start, size, name)
    samples = 3 if found.colours == png.PALETTE else png.SAMPLES[found.colours]
    return Codestream(found.width, found.height, samples, max(found.depth, 8))


def of_webp(stream: IO[bytes], start: int, size: int, name: str) -> Codestream:
    """Describe a WebP. Its first chunk says how large it is; its decoder always makes four samples."""
    stream.seek(start)
    head = stream.read(min(size, 30))
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        raise _damaged(name, "WebP")
    match head[12:16]:
        case b"VP8X":
            width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
        case b"VP8L" if head[20] == 0x2F:
            bits = int.from_bytes(head[21:25], "little")
            width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 " if head[23:26] == b"\x9d\x01\x2a":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", head, 26))
        case _:
            raise _damaged(name, "WebP")
    return Codestream(width, height, 4, 8)


def of_jpeg2000(stream: IO[bytes], start: int, size: int, name: str) -> Codestream:
    """Describe a JPEG 2000, bare or in boxes.

    Raises:
        ImageTooLarge: it has more tiles or layers than the limit.
        UnreadableImage: it is damaged.
    """
    place = _codestream_in_boxes(stream, start, size, name)
    stream.seek(place)
    head = stream.read(min(MAIN_HEADER, start + size - place))
    try:
        if head[:4] != CODESTREAM:
            raise _damaged(name, "JPEG 2000")
        length, _, right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, samples = (
            struct.unpack_from(">HHIIIIIIIIH", head, 4)
        )
        bits = max((head[42 + 3 * sample] & 0x7F) + 1 for sample in range(samples))
        style = head.index(CODING_STYLE, 4 + length)
        (layers,) = struct.unpack_from(">H", head, style + 6)
        tiles = -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height)
    except (struct.error, IndexError, ValueError, ZeroDivisionError) as error:
        raise _damaged(name, "JPEG 2000") from error
    if tiles > MOST_TILES or layers > MOST_LAYERS:
        raise ImageTooLarge(
            f"{name} holds a JPEG 2000 of {tiles} tiles in {layers} layers, the limit is {MOST_TILES} in "
            f"{MOST_LAYERS}; export it anew"
        )
    if right <= left or bottom <= top:
        raise _damaged(name, "JPEG 2000")
    return Codestream(right - left, bottom - top, samples, bits)


def _codestream_in_boxes(stream: IO[bytes], start: int, size: int, name: str) -> int:
    """Return where the codestream begins."""
    stream.seek(start)
    if stream.read(len(JP2_MAGIC)) != JP2_MAGIC:
        return start
    place, end = start, start + size
    for _ in range(MOST_BOXES):
        stream.seek(place)
        head = stream.read(16)
        if len(head) < 8 or place >= end:
            break
        length, kind = struct.unpack_from(">I4s", head)
        header = 8
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack_from(">Q", head, 8)
            header = 16
        if kind == b"jp2c":
            return place + header
        if length < header:
            break
        place += length
    raise _damaged(name, "JPEG 2000")


def _damaged(name: str, kind: str) -> UnreadableImage:
    return UnreadableImage(f"{name} holds a {kind} whose header is damaged; copy it again or export it anew")
