"""Make a file from a number: any format and codec, with parts that share, overlap, nest or repeat."""

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.fuzz_streams import (
    JPEG,
    MOST_BYTES_MADE,
    PACKERS,
    WEBP,
    WHOLE_NUMBERS,
    make_jpeg,
    make_jpeg_tables,
    make_png,
    make_segment,
)
from benchmarks.fuzz_texts import (
    make_coco,
    make_description,
    make_json,
    make_micro_manager,
    make_plate_map,
    make_xml,
)

Tag = tuple[int, int, int, bytes]  # code, type, number of values, values as bytes
Maker = Callable[[random.Random], bytes]

SIDES = (1, 2, 7, 16, 100, 224, 512, 1000, 2048)
LARGE_SIDES = (4000, 8000, 64_000, 1_000_000, 2**31)
NUMBERS = (0, 1, 2, 7, 255, 256, 2**15, 2**16 - 1, 2**16, 2**24, 2**31 - 1, 2**32 - 1)
LONG, SHORT, TEXT = 4, 3, 2
TIFF, PNG_FILE, JPEG_FILE, COCO, OUTLINES, PLATE_MAP = "TIFF", "PNG", "JPEG", "COCO", "outlines", "plate map"


@dataclass(frozen=True)
class Made:
    """A file, and its kind: a COCO file is indexed, one of outlines is drawn."""

    kind: str
    data: bytes


def make_file(number: int) -> Made:
    """Make a file; the same number makes the same file."""
    chance = random.Random(number)
    kinds: dict[str, tuple[Maker, int]] = {
        TIFF: (_tiff, 14),
        PNG_FILE: (lambda chance: make_png(_side(chance), _side(chance), chance), 2),
        JPEG_FILE: (lambda chance: make_jpeg(min(_side(chance), 2048), min(_side(chance), 2048), chance), 2),
        COCO: (make_coco, 2),
        OUTLINES: (make_coco, 3),
        PLATE_MAP: (make_plate_map, 3),
    }
    [kind] = chance.choices(list(kinds), [weight for _, weight in kinds.values()])
    data = kinds[kind][0](chance)
    return Made(kind, _damaged(data, chance) if chance.random() < 0.15 else data)


def _side(chance: random.Random) -> int:
    return chance.choice(LARGE_SIDES if chance.random() < 0.1 else SIDES)


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


# TIFF


class _Writer:
    """A TIFF that grows: blobs, then directories in a chain."""

    def __init__(self, chance: random.Random) -> None:
        """Begin a file, perhaps with Micro-Manager's lists behind the first bytes."""
        self.big = chance.random() < 0.2
        self.order = chance.choice("<>")
        mark = b"II" if self.order == "<" else b"MM"
        version = struct.pack(self.order + "H", 43 if self.big else 42)
        rest = struct.pack(self.order + "HHQ", 8, 0, 0) if self.big else bytes(4)
        self.data = bytearray(mark + version + rest)
        self._pointer = 8 if self.big else 4
        if chance.random() < 0.1:
            self.data += make_micro_manager(self.order, chance)

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
    text = make_description(chance, pages)
    for number in range(pages):
        tags = shared if pages > 20 or chance.random() < 0.5 else _page_tags(writer, chance)
        extra = [(270, TEXT, len(text), text)] if text and (number == 0 or chance.random() < 0.02) else []
        extra *= chance.choice((1, 1, 1, 2))  # tifffile reads a second description too
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
    item = "uint8" if codec == WEBP else chance.choice(("uint8", "uint8", "uint16", "float32"))
    if codec in WHOLE_NUMBERS and item == "float32":
        item = "uint16"
    tiled = chance.random() < 0.4
    rows, columns = (
        (chance.choice((16, 64, 256)), chance.choice((16, 64, 256))) if tiled else (_side(chance), width)
    )
    rows = rows if tiled else min(rows, height)
    count = -(-height // rows) * -(-width // columns)
    blob = make_segment(codec, (rows, columns, samples), item, chance)
    offsets, counts = _place(writer, blob, count, chance)
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
    if chance.random() < 0.97:
        usual = 1 if samples < 3 else 6 if codec == JPEG else 2
        odd = chance.choice((1, 0, 6, 3, 4, 5))
        tags.append((262, SHORT, 1, shorts(odd if chance.random() < 0.1 else usual)))
    tags += (
        [(322, LONG, 1, writer.longs(columns)), (323, LONG, 1, writer.longs(rows))]
        if tiled
        else [(278, LONG, 1, writer.longs(rows))]
    )
    if chance.random() < 0.2:
        tags.append((284, SHORT, 1, shorts(2)))
    if chance.random() < 0.2 and codec in (5, 8, 50000):
        tags.append((317, SHORT, 1, shorts(chance.choice((2, 3)))))
    if codec == JPEG and chance.random() < 0.3:
        tables = make_jpeg_tables(chance)
        tags.append((347, 7, len(tables), tables))
    return tags + _odd_tags(writer, chance)


def _odd_tags(writer: _Writer, chance: random.Random) -> list[Tag]:
    """Make rare tags, and tags that change how other tags are read."""
    odd: list[Tag] = []
    if chance.random() < 0.1:
        odd.append((254, LONG, 1, writer.longs(chance.randrange(8))))
    if chance.random() < 0.03:
        count = chance.choice((1, 3, 60, 5000))
        odd.append((330, LONG, count, writer.longs(*[chance.choice((8, len(writer.data)))] * count)))
    if chance.random() < 0.1:
        code = chance.choice(
            (33628, 33629, 33630, 34412, 34361, 34362, 43314, 50838, 50839, 51123, 34665, 65000, 700)
        )
        odd.append(
            (code, chance.choice((1, 4, 5, 7)), chance.choice(NUMBERS), writer.longs(chance.choice((8, 99))))
        )
    if chance.random() < 0.1:
        code = chance.choice((305, 306, 315, 700, 33432, 33560, 34118, 50288, 50839, 51123, 65000, 65420))
        text = chance.choice((make_json, make_xml))(chance).encode(errors="replace") + b"\0"
        kind, size = chance.choice(((1, 1), (2, 1), (7, 1), (4, 4), (5, 8)))
        odd.append((code, kind, len(text) // size, text))
        if chance.random() < 0.3:  # scanners that are known by their software
            odd.append((305, TEXT, 8, chance.choice((b"Ventana\0", b"NDP.scan", b"Argos\0\0\0"))))
    if chance.random() < 0.05:
        odd.append((32997, LONG, 1, writer.longs(chance.choice((2, 16, 2**20)))))
    if chance.random() < 0.03:
        odd += [(40_000 + at, LONG, 1, bytes(4)) for at in range(chance.choice((100, 3000, 6000)))]
    return odd


def _place(writer: _Writer, blob: bytes, count: int, chance: random.Random) -> tuple[list[int], list[int]]:
    """Write strips or tiles, separate, shared or overlapping; return their offsets and lengths."""
    count = min(count, chance.choices((count, 1, 20_000, 200_000), (90, 4, 3, 3))[0], 400_000)
    blob = blob if chance.random() < 0.9 else blob + bytes(chance.choice((10, 1000, 10**7)))
    how = chance.choice(("apart",) * 6 + ("shared", "over each other"))
    if how == "apart":
        count = min(count, max((MOST_BYTES_MADE // 2) // len(blob), 1))
        places = [writer.add(blob) for _ in range(count)]
        return places, [len(blob)] * count
    place = writer.add(blob)
    if how == "shared":
        return [place] * count, [len(blob)] * count
    step = chance.choice((0, 1, 7))
    return [place + step * at for at in range(count)], [max(len(blob) - step * at, 1) for at in range(count)]
