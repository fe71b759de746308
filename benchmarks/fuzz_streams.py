"""Make packed pictures, whole files or strips and tiles of a TIFF: codecs, odd headers, many small parts."""

import io
import math
import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

MOST_PIXELS_MADE = 2**21  # in one strip or tile, so that making a file takes a fraction of a second
MOST_BYTES_MADE = 96 * 2**20
TIMES = (1, 100, 5000, 19_900, 300_000, 2_000_000)  # of small parts: about the limits, and far above

Shape = tuple[int, int, int]  # height, width, samples
Packer = Callable[[NDArray[Any], random.Random], bytes]


def make_pixels(shape: Shape, item: str, chance: random.Random) -> NDArray[Any]:
    """Make (H, W, samples), or (H, W) of one sample: noise, flat or stepped values."""
    shown = shape if shape[2] > 1 else shape[:2]
    seed = np.random.default_rng(chance.getrandbits(32))
    match chance.choice(("flat", "noise", "steps")):
        case "flat":
            return np.zeros(shown, item)
        case "noise":
            return seed.integers(0, 200, shown).astype(item)
    return (np.arange(math.prod(shape)).reshape(shown) // 50 % 200).astype(item)


def make_segment(codec: int, shape: Shape, item: str, chance: random.Random) -> bytes:
    """Make a strip or tile of a TIFF that its codec's decoder may take; a large one has fewer rows."""
    if codec in JPEG_2000 and chance.random() < 0.6:
        return make_jpeg2000(shape, np.dtype(item).itemsize * 8, chance)
    rows = max(MOST_PIXELS_MADE // max(shape[1] * shape[2], 1), 1) if chance.random() < 0.9 else 8
    made = min(shape[0], rows), min(shape[1], MOST_PIXELS_MADE), shape[2]
    try:
        packed = PACKERS[codec](make_pixels(made, item, chance), chance)
    except (ValueError, RuntimeError, TypeError, KeyError, OSError, AttributeError):
        return bytes(64)  # the codec takes no such pixels
    if codec == JPEG and chance.random() < 0.3:
        return add_jpeg_segments(packed, chance)
    if codec == PNG and chance.random() < 0.3:
        return add_png_chunks(packed, chance)
    return packed


# Of one codec each


def _pack_jpeg(pixels: NDArray[Any], chance: random.Random) -> bytes:
    if pixels.dtype == np.uint16:
        return bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=16))
    return bytes(imagecodecs.jpeg8_encode(pixels, level=chance.choice((1, 50, 100))))


def _pack_jpeg2000(pixels: NDArray[Any], chance: random.Random) -> bytes:
    form = chance.choice(("j2k", "jp2"))
    tile = chance.choice((None, (16, 16), (64, 64)))
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=chance.choice((0, 40)), codecformat=form, tile=tile))


def _pack_png(pixels: NDArray[Any], chance: random.Random) -> bytes:
    room = 2 * (pixels.nbytes + pixels.shape[0]) + 4096  # imagecodecs makes too little for thin pages
    return bytes(imagecodecs.png_encode(pixels, level=1, out=room))


def _pack_webp(pixels: NDArray[Any], chance: random.Random) -> bytes:
    grey = pixels if pixels.ndim == 2 else pixels[..., 0]
    three = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
    return bytes(imagecodecs.webp_encode(three, lossless=chance.random() < 0.5, level=50))


def _pack_plain(name: str) -> Packer:
    encode = getattr(imagecodecs, f"{name}_encode")
    return lambda pixels, chance: bytes(encode(np.ascontiguousarray(pixels).tobytes()))


JPEG, PNG, WEBP = 7, 34933, 50001
JPEG_2000 = (34712, 33005)
WHOLE_NUMBERS = (JPEG, *JPEG_2000, PNG, 50002)
PACKERS: dict[int, Packer] = {
    1: lambda pixels, chance: pixels.tobytes(),
    5: _pack_plain("lzw"),
    JPEG: _pack_jpeg,
    8: _pack_plain("zlib"),
    32946: _pack_plain("zlib"),
    **dict.fromkeys(JPEG_2000, _pack_jpeg2000),
    34925: _pack_plain("lzma"),
    PNG: _pack_png,
    50000: _pack_plain("zstd"),
    WEBP: _pack_webp,
    34887: lambda pixels, chance: bytes(imagecodecs.lerc_encode(pixels)),
    50002: lambda pixels, chance: bytes(imagecodecs.jpegxl_encode(pixels, effort=1)),
}


# PNG


def make_png(height: int, width: int, chance: random.Random) -> bytes:
    """Make a PNG; one too large to make has only a header and some packed zeros."""
    if height * width <= MOST_PIXELS_MADE:
        shape = height, width, chance.choice((1, 3, 4))
        data = _pack_png(make_pixels(shape, chance.choice(("uint8", "uint16")), chance), chance)
    else:
        kind, depth = chance.choice((0, 2, 3, 6)), chance.choice((1, 8, 16))
        sides = width % 2**31, height % 2**31
        header = struct.pack(">IIBBBBB", *sides, depth, kind, 0, 0, chance.choice((0, 1)))
        packed = zlib.compress(bytes(chance.choice((100, 10**6, 10**8))), 9)
        data = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")
    return add_png_chunks(data, chance) if chance.random() < 0.5 else data


def add_png_chunks(data: bytes, chance: random.Random) -> bytes:
    """Add the same chunk many times, before the pixels or after them."""
    name = chance.choice(
        (b"aaAa", b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"IDAT", b"acTL", b"eXIf", b"PLTE", b"tRNS")
    )
    content = chance.choice(
        (b"", b"\0", b"key\0\0" + zlib.compress(bytes(chance.choice((10**6, 7_900_000))), 9), bytes(8))
    )
    place = chance.choice((33, len(data) - 12))
    return data[:place] + _often(_chunk(name, content), chance) + data[place:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _often(part: bytes, chance: random.Random) -> bytes:
    [times] = chance.choices(TIMES, (30, 30, 20, 20, 5, 2))
    return part * min(times, MOST_BYTES_MADE // len(part))


# JPEG


def make_jpeg(height: int, width: int, chance: random.Random) -> bytes:
    """Make a JPEG, perhaps with a header that claims more pixels than there are, or with many scans."""
    stream = io.BytesIO()
    pixels = make_pixels((height, width, chance.choice((1, 3))), "uint8", chance)
    Image.fromarray(pixels).save(
        stream, "JPEG", quality=chance.choice((1, 75, 100)), progressive=chance.random() < 0.5
    )
    data = stream.getvalue()
    if chance.random() < 0.2:
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
        sides = (chance.choice((1, 512, 8000, 65_535)) for _ in "hw")
        data = data[:at] + struct.pack(">HH", *sides) + data[at + 4 :]
    if chance.random() < 0.2:
        scans = data[data.find(b"\xff\xda") : -2]
        data = data[:-2] + scans * chance.choice((1, 20, 2000 if len(data) < 40_000 else 100)) + data[-2:]
    return add_jpeg_segments(data, chance) if chance.random() < 0.4 else data


def add_jpeg_segments(data: bytes, chance: random.Random) -> bytes:
    """Add the same segment many times, before the picture or after it."""
    place = chance.choice((2, max(len(data) - 2, 2)))
    return data[:place] + _often(_jpeg_segment(chance), chance) + data[place:]


def make_jpeg_tables(chance: random.Random) -> bytes:
    """Make the tables that the JPEGs of a TIFF share, from none to more than the limit."""
    part = _jpeg_segment(chance)
    times = chance.choice((0, 1, 60_000 // len(part), 65_000 // len(part), 20_000_000 // len(part)))
    return b"\xff\xd8" + part * times + b"\xff\xd9"


def _jpeg_segment(chance: random.Random) -> bytes:
    mark = chance.choice((0xFE, 0xE1, 0xE2, 0xED, 0xDB, 0xC4, 0xFF, 0xDD))
    if mark == 0xDB and chance.random() < 0.7:  # valid tables, of which each is read
        tables = b"".join(bytes([number]) + bytes([1]) * 64 for number in range(4))
        return struct.pack(">BBH", 0xFF, mark, 2 + len(tables)) + tables
    length = chance.choice((2, 4, 60_000))
    return struct.pack(">BBH", 0xFF, mark, length) + bytes(length - 2)


# JPEG 2000, after ISO 15444-1, annex A


def make_jpeg2000(shape: Shape, bits: int, chance: random.Random) -> bytes:
    """Make a JPEG 2000 by hand: any tiles, layers, levels, blocks, precincts, bit planes and samples."""
    height, width, samples = shape
    samples = _mostly(samples, chance, (1, 16, 300, 16_384))
    tile = [_mostly(side, chance, (2**31, side // 16 + 1, side // 32 + 1, 16, 1)) for side in (width, height)]
    origin = _mostly(0, chance, (1, 2**20))
    far = [min(side + origin, 2**32 - 1) for side in (width, height)]
    first_tile = chance.choice((0, origin))
    depth, sampling = _mostly(bits, chance, (1, 38)) - 1, _mostly(1, chance, (2, 255))
    sizes = struct.pack(">HIIIIIIIIH", 0, *far, origin, origin, *tile, first_tile, first_tile, samples)
    head = _marked(0x51, sizes + bytes((depth, sampling, sampling)) * samples)
    style = _style(chance)
    head += _marked(0x52, style)
    levels, guard, exponent = style[5], chance.choice((0, 2, 7)), chance.choice((8, 16, 31))
    quanta = bytes((guard << 5, *[exponent << 3] * (3 * min(levels, 32) + 1)))
    head += _marked(0x5C, quanta)
    more = (
        b"",
        _marked(0x5E, bytes((0, 0, chance.choice((1, 37, 255))))),  # a region of interest
        _marked(0x53, bytes((0, 0)) + _style(chance)[5:]),  # the style of the first sample
        _marked(0x5D, bytes((0,)) + quanta),
        _marked(0x64, b"\0\1" + b"\xff\x52\0\x0c\0\0\0\1" + bytes(8)),  # a comment that looks like a style
        _marked(0x64, bytes(2)) * chance.choice((1, 1000, 19_000, 1_000_000)),
        _marked(0x5F, struct.pack(">BBHBBB", 0, 0, 65_535, 33, 255, 4) * chance.choice((1, 30, 9000))),
    )
    [part] = chance.choices(more, (60, 8, 8, 4, 6, 8, 6))
    body = _body(height, width, samples, 3 * (guard + exponent) - 5, chance)
    parts = _tile_parts(body, chance)
    return _boxed(b"\xff\x4f" + head + part + parts + b"\xff\xd9", (height, width), chance)


def _mostly(usual: int, chance: random.Random, others: Sequence[int]) -> int:
    return usual if chance.random() < 0.9 else chance.choice(others)


def _marked(mark: int, content: bytes) -> bytes:
    content = content[:65_533]
    return struct.pack(">BBH", 0xFF, mark, 2 + len(content)) + content


def _style(chance: random.Random) -> bytes:
    """Make a coding style: flags, progression, layers, mixing, levels, blocks' sides, modes, precincts."""
    levels = chance.choice((0, 0, 1, 5, 32))
    layers = _mostly(1, chance, (10, 60, 64, 65_535))
    precinct = chance.choice((None, None, None, 0x55, 0x66, 0x77, 0x33, 0x00, 0x0F))
    block = _mostly(4, chance, (0, 1, 2, 8))
    other = chance.choice((8 - block, min(block, 4)))
    mode, flags = _mostly(0, chance, (1, 4, 0x3F)), _mostly(0, chance, (2, 4, 6))
    flags |= precinct is not None
    fixed = struct.pack(
        ">BBHBBBBBB",
        flags,
        chance.randrange(5),
        layers,
        0,
        levels,
        block,
        other,
        mode,
        chance.choice((0, 1)),
    )
    return fixed if precinct is None else fixed + bytes([precinct]) * (levels + 1)


def _body(height: int, width: int, samples: int, passes: int, chance: random.Random) -> bytes:
    """Make packets: empty, noise, or one for each sample whose blocks of 64 x 64 have all their passes."""
    length = chance.choice((0, 1, 1000, 10**6, 10**7))
    match chance.choice(("empty", "full", "noise", "blocks", "blocks")):
        case "empty":
            return bytes(length)
        case "full":
            return b"\x80" * length
        case "noise":
            return chance.randbytes(min(length, 10**6))
    rows, columns = -(-height // 64), -(-width // 64)
    if rows * columns > 20_000:
        return bytes(length)
    return _packet(rows, columns, passes) * min(samples, 4)


def _packet(rows: int, columns: int, passes: int) -> bytes:
    """Make a packet in which each code block has two bytes and this many passes (annex B.10)."""
    levels = [(rows, columns)]
    while levels[-1] != (1, 1):
        levels.append((-(-levels[-1][0] // 2), -(-levels[-1][1] // 2)))
    bits = ["1"]
    seen: set[tuple[int, int, int]] = set()
    for row in range(rows):
        for column in range(columns):
            path = {(level, row >> level, column >> level) for level in range(len(levels))} - seen
            seen |= path
            number = f"111111111{max(passes - 37, 0) % 128:07b}"
            bits.append("1" * 2 * len(path) + number + "0" + f"{2:09b}")
    return _stuffed("".join(bits)) + b"\x12\x34" * (rows * columns)


def _stuffed(bits: str) -> bytes:
    """Pack bits into bytes; a byte of ones is followed by one of seven bits."""
    packed, at = bytearray(), 0
    while at < len(bits):
        room = 7 if packed and packed[-1] == 0xFF else 8
        packed.append(int(bits[at : at + room].ljust(room, "0"), 2))
        at += room
    return bytes(packed + b"\0" if packed[-1] == 0xFF else packed)


def _tile_parts(body: bytes, chance: random.Random) -> bytes:
    """Put the body into one tile-part, or several with empty ones."""
    last = _marked(0x90, struct.pack(">HIBB", 0, 0, 0, 1)) + b"\xff\x93" + body
    empty = b"".join(
        _marked(0x90, struct.pack(">HIBB", tile, 14, 0, chance.choice((0, 1)))) + b"\xff\x93"
        for tile in range(1, chance.choice((1, 1, 1, 10, 1000, 60_000)))
    )
    return empty + last if chance.random() < 0.5 else last + empty


def _boxed(codestream: bytes, sides: tuple[int, int], chance: random.Random) -> bytes:
    """Leave a codestream bare, or put it into JP2's boxes, perhaps with a palette of many channels."""
    if chance.random() < 0.7:
        return codestream
    inside = _box(b"ihdr", struct.pack(">IIHBBBB", *sides, 1, 7, 7, 0, 0))
    inside += _box(b"colr", bytes((1, 0, 0)) + struct.pack(">I", 17)) * chance.choice((1, 1, 10_000))
    if chance.random() < 0.5:
        channels = chance.choice((3, 255))
        inside += _box(b"pclr", struct.pack(">HB", 2, channels) + bytes([7]) * channels + bytes(2 * channels))
        inside += _box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, number) for number in range(channels)))
    first = _box(b"jP  ", b"\r\n\x87\n") + _box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    others = _box(b"free", b"") * chance.choice((0, 0, 90, 100_000))
    return first + others + _box(b"jp2h", inside) + _box(b"jp2c", codestream)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content
