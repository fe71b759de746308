"""Make an image file from a number: any format, codec and size, with parts that share, overlap or repeat."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Tag = tuple[int, int, int, bytes]  # code, type, number of values, values as bytes

SIDES = (1, 2, 7, 16, 100, 224, 512, 1000, 2048)
LARGE_SIDES = (4000, 8000, 64_000, 1_000_000, 2**31)
NUMBERS = (0, 1, 2, 7, 255, 256, 2**15, 2**16 - 1, 2**16, 2**24, 2**31 - 1, 2**32 - 1)
LONG, SHORT, TEXT = 4, 3, 2
MOST_PIXELS_MADE = 2**21  # in one strip or tile, so that making a file takes a fraction of a second
MOST_BYTES_MADE = 96 * 2**20


def make_file(number: int) -> bytes:
    """Make a file; the same number makes the same file."""
    chance = random.Random(number)
    kinds: list[tuple[Callable[[random.Random], bytes], int]] = [(_tiff, 14), (_png, 3), (_jpeg, 3)]
    [make] = chance.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
    data = make(chance)
    return _damaged(data, chance) if chance.random() < 0.25 else data


def _side(chance: random.Random) -> int:
    return chance.choice(LARGE_SIDES if chance.random() < 0.15 else SIDES)


def _damaged(data: bytes, chance: random.Random) -> bytes:
    """Change some bytes near the file's beginning or end, or cut off its end."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        if len(changed) < 8:
            break
        near = min(len(changed), 4000) if chance.random() < 0.5 else len(changed)
        at = (
            chance.randrange(near - 4)
            if chance.random() < 0.5
            else len(changed) - 4 - chance.randrange(near - 4)
        )
        struct.pack_into("<I", changed, max(at, 0), chance.choice(NUMBERS))
    return bytes(changed[: chance.randrange(len(changed))] if chance.random() < 0.1 else changed)


def _pixels(height: int, width: int, samples: int, item: str, chance: random.Random) -> NDArray[Any]:
    """Make pixels of noise, flat or stepped values: (height, width, samples)."""
    shape = (height, width, samples) if samples > 1 else (height, width)
    seed = np.random.default_rng(chance.getrandbits(32))
    match chance.choice(("flat", "noise", "steps")):
        case "flat":
            return np.zeros(shape, item)
        case "noise":
            return seed.integers(0, 200, shape).astype(item)
    return (np.arange(np.prod(shape)).reshape(shape) // 50 % 200).astype(item)


# TIFF


def _pack_jpeg(pixels: NDArray[Any], chance: random.Random) -> bytes:
    if pixels.dtype == np.uint16:
        return bytes(imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=16))
    return bytes(imagecodecs.jpeg8_encode(pixels, level=chance.choice((1, 50, 100))))


def _pack_jpeg2000(pixels: NDArray[Any], chance: random.Random) -> bytes:
    form = chance.choice(("j2k", "jp2"))
    tile = chance.choice((None, (16, 16), (64, 64)))
    return bytes(imagecodecs.jpeg2k_encode(pixels, level=chance.choice((0, 40)), codecformat=form, tile=tile))


def _pack_plain(name: str) -> Callable[[NDArray[Any], random.Random], bytes]:
    encode = getattr(imagecodecs, f"{name}_encode")
    return lambda pixels, chance: bytes(encode(np.ascontiguousarray(pixels).tobytes()))


PACKERS: dict[int, Callable[[NDArray[Any], random.Random], bytes]] = {
    1: lambda pixels, chance: pixels.tobytes(),
    5: _pack_plain("lzw"),
    7: _pack_jpeg,
    8: _pack_plain("zlib"),
    32946: _pack_plain("zlib"),
    34712: _pack_jpeg2000,
    33005: _pack_jpeg2000,
    34925: _pack_plain("lzma"),
    34933: lambda pixels, chance: _pack_png(pixels),
    50000: _pack_plain("zstd"),
    50001: lambda pixels, chance: bytes(
        imagecodecs.webp_encode(_three(pixels), lossless=chance.random() < 0.5, level=50)
    ),
    34887: lambda pixels, chance: bytes(imagecodecs.lerc_encode(pixels)),
    50002: lambda pixels, chance: bytes(imagecodecs.jpegxl_encode(pixels)),
}


def _pack_png(pixels: NDArray[Any]) -> bytes:
    room = 2 * (pixels.nbytes + pixels.shape[0]) + 4096  # imagecodecs makes too little for thin pages
    return bytes(imagecodecs.png_encode(pixels, level=1, out=room))


def _three(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    grey = pixels if pixels.ndim == 2 else pixels[..., 0]
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


class _Writer:
    """A TIFF that grows: blobs, then directories in a chain."""

    def __init__(self, chance: random.Random) -> None:
        self.big = chance.random() < 0.2
        self.order = chance.choice("<>")
        mark = b"II" if self.order == "<" else b"MM"
        version = struct.pack(self.order + "H", 43 if self.big else 42)
        rest = struct.pack(self.order + "HHQ", 8, 0, 0) if self.big else bytes(4)
        self.data = bytearray(mark + version + rest)
        self._pointer = 8 if self.big else 4

    def add(self, blob: bytes) -> int:
        """Write a blob and return its offset."""
        if len(self.data) % 2:
            self.data += b"\0"
        place = len(self.data)
        self.data += blob
        return place

    def longs(self, *values: int) -> bytes:
        """Pack values of type LONG."""
        return struct.pack(f"{self.order}{len(values)}I", *(value % 2**32 for value in values))

    def directory(self, tags: list[Tag]) -> None:
        """Append a directory to the chain; write values that several tags share once."""
        entries, room = b"", 8 if self.big else 4
        pointer = "Q" if self.big else "I"
        written: dict[bytes, int] = {}
        for code, kind, count, values in sorted(tags):
            held = values
            if len(values) > room:
                place = written.setdefault(values, 0) or self.add(values)
                written[values] = place
                held = struct.pack(self.order + pointer, place)
            entries += struct.pack(self.order + "HH" + pointer, code, kind, count) + held.ljust(room, b"\0")
        place = self.add(
            struct.pack(self.order + ("Q" if self.big else "H"), len(tags)) + entries + bytes(room)
        )
        struct.pack_into(self.order + pointer, self.data, self._pointer, place)
        self._pointer = len(self.data) - room

    def close_circle(self) -> None:
        """Make the last directory point to the first."""
        first = struct.unpack_from(self.order + ("Q" if self.big else "I"), self.data, 8 if self.big else 4)[
            0
        ]
        struct.pack_into(self.order + ("Q" if self.big else "I"), self.data, self._pointer, first)


def _tiff(chance: random.Random) -> bytes:
    writer = _Writer(chance)
    pages = chance.choices((1, 2, 3, 20, 300, 3000), (50, 15, 10, 10, 3, 1))[0]
    shared = _page_tags(writer, chance)
    text = _description(chance, pages)
    for number in range(pages):
        tags = shared if pages > 20 or chance.random() < 0.5 else _page_tags(writer, chance)
        extra = [(270, TEXT, len(text), text)] if text and (number == 0 or chance.random() < 0.02) else []
        writer.directory(tags + extra)
        if len(writer.data) > MOST_BYTES_MADE:
            break
    if chance.random() < 0.03:
        writer.close_circle()
    return bytes(writer.data)


def _page_tags(writer: _Writer, chance: random.Random) -> list[Tag]:
    height, width = _side(chance), _side(chance)
    codec = chance.choice(list(PACKERS))
    samples = chance.choice((1, 1, 1, 3, 4, 2))
    item = chance.choice(("uint8", "uint8", "uint16", "float32")) if codec not in (50001,) else "uint8"
    if codec in (7, 34712, 33005, 34933, 50002) and item == "float32":
        item = "uint16"
    tiled = chance.random() < 0.4
    rows, columns = (
        (chance.choice((16, 64, 256)), chance.choice((16, 64, 256))) if tiled else (_side(chance), width)
    )
    rows = rows if tiled else min(rows, height)
    count = -(-height // rows) * -(-width // columns)
    made_rows = (
        min(rows, max(MOST_PIXELS_MADE // max(columns * samples, 1), 1)) if chance.random() < 0.9 else 8
    )
    offsets, counts = _segments(
        writer, chance, codec, (made_rows, min(columns, MOST_PIXELS_MADE)), samples, item, count
    )
    bits = {"uint8": 8, "uint16": 16, "float32": 32}[item]
    order = writer.order

    def shorts(*values: int) -> bytes:
        return struct.pack(f"{order}{len(values)}H", *values)

    tags: list[Tag] = [
        (256, LONG, 1, writer.longs(width)),
        (257, LONG, 1, writer.longs(height)),
        (258, SHORT, samples, shorts(*[bits] * samples)),
        (259, SHORT, 1, shorts(codec)),
        (277, SHORT, 1, shorts(samples)),
        (339, SHORT, samples, shorts(*[3 if item == "float32" else 1] * samples)),
        (324 if tiled else 273, LONG, len(offsets), writer.longs(*offsets)),
        (325 if tiled else 279, LONG, len(counts), writer.longs(*counts)),
    ]
    if chance.random() < 0.95:
        usual = 2 if samples >= 3 else 1
        tags.append((262, SHORT, 1, shorts(chance.choice((usual, usual, usual, 1, 0, 6, 3, 4, 5)))))
    tags += (
        [(322, LONG, 1, writer.longs(columns)), (323, LONG, 1, writer.longs(rows))]
        if tiled
        else [(278, LONG, 1, writer.longs(rows))]
    )
    if chance.random() < 0.2:
        tags.append((284, SHORT, 1, shorts(2)))
    if chance.random() < 0.2 and codec in (5, 8, 50000):
        tags.append((317, SHORT, 1, shorts(chance.choice((2, 3)))))
    return tags + _odd_tags(writer, chance)


def _odd_tags(writer: _Writer, chance: random.Random) -> list[Tag]:
    """Make rare tags, and tags that change how other tags are read."""
    odd: list[Tag] = []
    if chance.random() < 0.1:
        odd.append((254, LONG, 1, writer.longs(chance.randrange(8))))
    if chance.random() < 0.05:
        count = chance.choice((1, 3, 60, 5000))
        odd.append((330, LONG, count, writer.longs(*[chance.choice((8, len(writer.data)))] * count)))
    if chance.random() < 0.1:
        code = chance.choice(
            (33628, 33629, 33630, 34412, 34361, 34362, 43314, 50838, 50839, 51123, 34665, 65000, 700)
        )
        odd.append(
            (code, chance.choice((1, 4, 5, 7)), chance.choice(NUMBERS), writer.longs(chance.choice((8, 99))))
        )
    if chance.random() < 0.05:
        odd.append((32997, LONG, 1, writer.longs(chance.choice((2, 16, 2**20)))))
    if chance.random() < 0.03:
        odd += [(40_000 + at, LONG, 1, bytes(4)) for at in range(chance.choice((100, 3000, 6000)))]
    return odd


def _segments(
    writer: _Writer,
    chance: random.Random,
    codec: int,
    shape: tuple[int, int],
    samples: int,
    item: str,
    count: int,
) -> tuple[list[int], list[int]]:
    """Write strips or tiles, separate, shared or overlapping; return their offsets and lengths."""
    count = min(count, chance.choice((count, count, 1, 20_000, 200_000)), 400_000)
    try:
        blob = PACKERS[codec](_pixels(*shape, samples, item, chance), chance)
    except (
        ValueError,
        RuntimeError,
        TypeError,
        KeyError,
        OSError,
        AttributeError,
    ):  # no such pixels for this codec
        blob = bytes(64)
    blob = blob if chance.random() < 0.9 else blob + bytes(chance.choice((10, 1000, 10**7)))
    how = chance.choice(("apart", "apart", "apart", "shared", "over each other"))
    if how == "apart":
        count = min(count, max((MOST_BYTES_MADE // 2) // len(blob), 1))
        places = [writer.add(blob) for _ in range(count)]
        return places, [len(blob)] * count
    place = writer.add(blob)
    if how == "shared":
        return [place] * count, [len(blob)] * count
    step = chance.choice((0, 1, 7))
    return [place + step * at for at in range(count)], [max(len(blob) - step * at, 1) for at in range(count)]


def _description(chance: random.Random, pages: int) -> bytes:
    """Make an ImageDescription, with its NUL, in a format that some reader knows; mostly an empty one."""
    many, side = chance.choice(NUMBERS), chance.choice(SIDES)
    size = f'SizeX="{side}" SizeY="{chance.choice(SIDES)}" SizeC="{chance.choice((1, 3, many))}"'
    times = chance.choice((pages, many))
    data = f'<TiffData IFD="{chance.choice((0, many))}"/>' * chance.choice((1, 3, 20_000))
    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    pixels = f'<Pixels DimensionOrder="XYZCT" {size} SizeZ="1" SizeT="{times}">{data}</Pixels>'
    texts = (
        "",
        f"ImageJ=1.53\nimages={many}\nframes={times}\nhyperstack=true\n",
        f'{{"shape": [{pages}, {side}, {chance.choice(SIDES)}], "axes": "TYX"}}',
        '{"shape": [1], "x": ' + "[" * 20_000 + "]" * 20_000 + "}",
        f'<OME xmlns="{schema}"><Image>{pixels}</Image></OME>',
        "<OME>" + "<a>" * 200_000 + "</a>" * 200_000 + "</OME>",
    )
    [text] = chance.choices(texts, (75, 6, 6, 3, 8, 2))
    return text.encode() + b"\0" if text else b""


# PNG and JPEG


def _png(chance: random.Random) -> bytes:
    height, width = _side(chance), _side(chance)
    real = height * width <= MOST_PIXELS_MADE
    samples = chance.choice((1, 3, 4))
    if real:
        pixels = _pixels(height, width, samples, chance.choice(("uint8", "uint16")), chance)
        data = _pack_png(pixels)
    else:
        kind, depth = chance.choice((0, 2, 3, 6)), chance.choice((1, 8, 16))
        sides = width % 2**31, height % 2**31
        header = struct.pack(">IIBBBBB", *sides, depth, kind, 0, 0, chance.choice((0, 1)))
        packed = zlib.compress(bytes(chance.choice((100, 10**6, 10**8))), 9)
        data = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", packed) + _chunk(b"IEND", b"")
    name = chance.choice((b"aaAa", b"tEXt", b"zTXt", b"iCCP", b"IDAT", b"acTL", b"eXIf", b"PLTE", b"tRNS"))
    content = chance.choice((b"", b"\0", b"key\0\0" + zlib.compress(bytes(10**6)), bytes(8)))
    times = chance.choices((0, 1, 100, 100_000, 1_000_000), (40, 20, 10, 3, 1))[0]
    place = chance.choice((33, len(data) - 12))
    return (
        data[:place]
        + _chunk(name, content) * min(times, MOST_BYTES_MADE // (len(content) + 12))
        + data[place:]
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _jpeg(chance: random.Random) -> bytes:
    height, width = (min(_side(chance), 2048) for _ in "hw")
    stream = io.BytesIO()
    pixels = _pixels(height, width, chance.choice((1, 3)), "uint8", chance)
    Image.fromarray(pixels).save(
        stream, "JPEG", quality=chance.choice((1, 75, 100)), progressive=chance.random() < 0.5
    )
    data = stream.getvalue()
    if chance.random() < 0.2:  # a header that claims more pixels than there are
        at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
        data = data[:at] + struct.pack(">HH", _side(chance) % 65_536, _side(chance) % 65_536) + data[at + 4 :]
    if chance.random() < 0.2:  # the same scans many times
        at = data.find(b"\xff\xda")
        data = (
            data[:-2] + data[at:-2] * chance.choice((1, 20, 2000 if len(data) < 40_000 else 100)) + data[-2:]
        )
    mark = chance.choice((0xFE, 0xE1, 0xE2, 0xED, 0xDB, 0xC4, 0xFF, 0xDD))
    length = chance.choice((2, 4, 60_000))
    segment = struct.pack(">BBH", 0xFF, mark, length) + bytes(length - 2)
    times = chance.choices((0, 1, 1000, 100_000), (60, 20, 8, 3))[0]
    place = chance.choice((2, max(len(data) - 2, 2)))
    return data[:place] + segment * min(times, MOST_BYTES_MADE // len(segment)) + data[place:]
