"""Read from a packed picture's own header how large it becomes: its decoder trusts that header."""

import struct
from collections.abc import Iterator, Sequence
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
# OpenJPEG takes up to 550 bytes for each code block before it reads any; 64 megapixels of three samples have
# 50,000 blocks of 64 x 64.
MOST_BLOCKS = 400_000
MOST_MARKERS = 20_000
MOST_LEVELS = 32
PLANES_A_PASS = 5  # bit planes that take as long as budget.py gives a pass; an attacker's blocks take 2 bytes
STYLE, STYLE_OF_ONE, QUANTA, QUANTA_OF_ONE, SHIFT = 0x52, 0x53, 0x5C, 0x5D, 0x5E
TILE_PART, DATA, END = 0x90, 0x93, 0xD9
# OpenJPEG looks for a known mark inside the segments of others.
KNOWN = {0x50, 0x51, 0x52, 0x53, 0x55, 0x57, 0x58, *range(0x5C, 0x62), 0x63, 0x64, TILE_PART, DATA}

Span = tuple[int, int]  # of a tile: its first pixel, and the one behind its last


@dataclass(frozen=True)
class Codestream:
    """The header of a packed picture.

    Attributes:
        width, height: in pixels.
        samples: of a pixel.
        bits: of a sample.
        passes: number of times that its decoder goes over all pixels.
        steps: segments, chunks or code blocks, each of which takes time of its own.
    """

    width: int
    height: int
    samples: int
    bits: int
    passes: int = 1
    steps: int = 0


def of_jpeg(stream: IO[bytes], start: int, size: int, name: str) -> Codestream:
    """Describe a JPEG, with or without its tables."""
    found = jpeg.read_jpeg(stream, start, size, name)
    return Codestream(
        found.width, found.height, found.components, found.precision, max(found.scans, 1), found.segments
    )


def of_png(stream: IO[bytes], start: int, size: int, name: str) -> Codestream:
    """Describe a PNG."""
    found = png.read_png(stream, start, size, name)
    if found.notes:
        raise UnreadableImage(
            f"{name} holds a PNG with packed text or a colour profile, which its decoder would unpack at "
            "any size; save it with LZW or deflate"
        )
    samples = 3 if found.colours == png.PALETTE else png.SAMPLES[found.colours]
    return Codestream(found.width, found.height, samples, max(found.depth, 8), steps=found.chunks)


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
    """Describe a JPEG 2000 (ISO 15444-1, annex A), bare or in boxes.

    Raises:
        ImageTooLarge: it has more tiles, layers or code blocks than the limit.
        UnreadableImage: it is damaged.
    """
    place = _codestream_in_boxes(stream, start, size, name)
    stream.seek(place)
    if stream.read(4) != CODESTREAM:
        raise _damaged(name, "JPEG 2000")
    styles: list[tuple[int, bytes]] = []  # number of layers, and the style as `_blocks` takes it
    planes, shift, marks = 1, 0, 1
    markers = _markers(stream, place + 2, start + size, name)
    try:
        _, content = next(markers, (0, b""))
        _, right, bottom, left, top, *tile, samples = struct.unpack_from(">HIIIIIIIIH", content)
        bits = max((content[36 + 3 * sample] & 0x7F) + 1 for sample in range(samples))
        of_one = 1 if samples < 257 else 2  # bytes of a sample's number
        for mark, content in markers:
            marks += 1
            if mark == STYLE:
                styles.append((struct.unpack_from(">H", content, 2)[0], content[:1] + content[5:]))
            elif mark == STYLE_OF_ONE:
                styles.append((1, content[of_one:]))
            elif mark in (QUANTA, QUANTA_OF_ONE):
                planes = max(planes, _planes(content[of_one * (mark == QUANTA_OF_ONE) :]))
            elif mark == SHIFT:
                shift = max(shift, content[-1])
        columns, rows = range(tile[2], right, tile[0]), range(tile[3], bottom, tile[1])
        tiles, layers = len(columns) * len(rows), max(count for count, _ in styles)
        blocks = 0
        if 0 < tiles <= MOST_TILES:
            across = [(max(at, left), min(at + tile[0], right)) for at in columns]
            down = [(max(at, top), min(at + tile[1], bottom)) for at in rows]
            blocks = samples * max(_blocks(across, down, style) for _, style in styles)
    except (struct.error, IndexError, ValueError) as error:
        raise _damaged(name, "JPEG 2000") from error
    if tiles > MOST_TILES or layers > MOST_LAYERS:
        raise ImageTooLarge(
            f"{name} holds a JPEG 2000 of {tiles} tiles in {layers} layers, the limit is {MOST_TILES} in "
            f"{MOST_LAYERS}; export it anew"
        )
    if blocks > MOST_BLOCKS:
        raise ImageTooLarge(
            f"{name} holds a JPEG 2000 of {blocks:,} code blocks, the limit is {MOST_BLOCKS:,}; export it "
            "anew with larger blocks and precincts"
        )
    if right <= left or bottom <= top or not tiles:
        raise _damaged(name, "JPEG 2000")
    passes = -(-(planes + shift) // PLANES_A_PASS)
    return Codestream(right - left, bottom - top, samples, bits, passes, blocks + marks)


def _markers(stream: IO[bytes], place: int, end: int, name: str) -> Iterator[tuple[int, bytes]]:
    """Yield mark and content of each segment in the main header and in those of the tile-parts."""
    part, part_bytes = 0, 0
    for _ in range(MOST_MARKERS):
        stream.seek(place)
        head = stream.read(4)
        if place + 4 > end or len(head) < 4 or head[:2] == bytes((0xFF, END)):
            return
        mark, length = head[1], int.from_bytes(head[2:], "big")
        if head[0] != 0xFF or mark not in KNOWN:
            raise _damaged(name, "JPEG 2000")
        if mark == DATA:
            if not part_bytes:  # the last part, up to the end
                return
            place = part + part_bytes
            continue
        content = stream.read(length - 2) if length > 1 else b""
        if mark == TILE_PART:
            part, (part_bytes,) = place, struct.unpack_from(">I", content, 2)
            if part_bytes and part_bytes < 14:
                raise _damaged(name, "JPEG 2000")
        yield mark, content
        place += 2 + length
    raise ImageTooLarge(f"{name} holds a JPEG 2000 of more than {MOST_MARKERS:,} segments; export it anew")


def _planes(content: bytes) -> int:
    """Return the most bit planes of a sample that a quantization allows."""
    guard, step = content[0] >> 5, 2 if content[0] & 0x1F else 1
    return guard + max(exponent >> 3 for exponent in content[1::step])


def _blocks(columns: Sequence[Span], rows: Sequence[Span], style: bytes) -> int:
    """Count the code blocks of a sample, or its precincts where those are more.

    Args:
        columns: of tiles, from left to right.
        rows: of tiles, from top to bottom.
        style: its flags, levels, exponents of a block's sides, mode, transform, and sizes of precincts.
    """
    levels, found = style[1], 0
    if levels > MOST_LEVELS:
        raise ValueError(f"{levels} levels")
    for level in range(levels + 1):  # from the smallest resolution
        precinct = style[6 + level] if style[0] & 1 else 0xFF
        here = 3 if level else 1  # bands
        for tiles, exponent, side in ((columns, precinct & 15, style[2]), (rows, precinct >> 4, style[3])):
            here *= sum(
                _along(tile, levels - level, min(level, 1), exponent, (side & 15) + 2) for tile in tiles
            )
        found += here
    return found


def _along(tile: Span, reduced: int, halved: int, precinct: int, side: int) -> int:
    """Count the blocks or precincts of one row of a tile; everything but the tile is an exponent of 2."""
    first, last = -(-tile[0] >> reduced), -(-tile[1] >> reduced)
    block = max(min(side, precinct - halved), 0)
    blocks = -(-((last + halved) >> halved) >> block) - (first >> halved >> block)
    return max(-(-last >> precinct) - (first >> precinct), blocks, 0)


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
