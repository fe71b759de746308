"""Walk a TIFF's directories without reading what they point to, and refuse files that would cost too much.

tifffile reads every value of every directory first. A small file whose directories share long lists would
take it minutes and gigabytes, and a circular chain would never end.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from tifffile import TIFF

from cytomask.errors import ImageTooLarge, UnreadableImage
from cytomask.images.pages import MEBI, Limits

# Longest directory that tifffile reads.
MOST_ENTRIES = 4096
# Entries of all directories together; a page of an ordinary stack has 15 to 25.
MOST_ENTRIES_OF_A_FILE = 400_000
# Offsets and byte counts of strips and tiles, two for each. Each becomes a Python integer of 36 bytes.
MOST_NUMBERS = 4_000_000
MOST_TEXT = 64 * MEBI  # and palettes and tables of a codec
MOST_SUBDIRECTORIES = 64  # of a page
MOST_SUBDIRECTORIES_OF_A_FILE = 10_000
MOST_NUMBERS_OF_METAMORPH = 10_000
UIC_TAGS = (33628, 33629, 33630, 33631)  # MetaMorph's lists, one item a plane

SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
BYTES_AND_TEXT = (1, 2, 6, 7)
READ_AT_ONCE = TIFF.TAG_LOAD | TIFF.TAG_ATTRIBUTES.keys() | {255, 274, 320, *UIC_TAGS}

NEW_SUBFILE_TYPE, SUBFILE_TYPE, WIDTH, LENGTH, PHOTOMETRIC = 254, 255, 256, 257, 262
SAMPLES_PER_PIXEL, COLOR_MAP, SUB_IFDS = 277, 320, 330
REDUCED, MASK = 0b1, 0b100
TRANSPARENCY_MASK = 4  # a photometric interpretation
OLD_REDUCED = 2  # of the older SubfileType


@dataclass(frozen=True)
class Entry:
    """One tag of a directory: type and number of its values, and their place or the first of them."""

    kind: int
    count: int
    value: int  # of the value, if it is short; otherwise of its address


@dataclass(frozen=True)
class Directory:
    """One directory: its place, and the few tags that we need before its pixels."""

    offset: int
    facts: dict[int, Entry]

    def number(self, tag: int, default: int) -> int:
        """Return a tag's number, or the default if it is missing or has several."""
        entry = self.facts.get(tag)
        return entry.value if entry and entry.count == 1 else default

    @property
    def is_reduced(self) -> bool:
        """Whether its tags call it a smaller copy of another page."""
        return bool(self.number(NEW_SUBFILE_TYPE, 0) & REDUCED) or (
            not self.number(NEW_SUBFILE_TYPE, 0) and self.number(SUBFILE_TYPE, 0) == OLD_REDUCED
        )

    @property
    def is_mask(self) -> bool:
        """Whether its tags call it the transparency mask of another page."""
        is_kind = self.number(PHOTOMETRIC, 0) == TRANSPARENCY_MASK
        return is_kind or bool(self.number(NEW_SUBFILE_TYPE, 0) & MASK)

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return self.number(LENGTH, 0)

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return self.number(WIDTH, 0)

    @property
    def samples(self) -> int:
        """Numbers of a pixel."""
        return self.number(SAMPLES_PER_PIXEL, 1)

    @property
    def area(self) -> int:
        """Pixels."""
        return self.height * self.width


@dataclass(frozen=True)
class Format:
    """How a kind of TIFF writes its numbers."""

    order: str
    big: bool

    @classmethod
    def of(cls, magic: bytes) -> "Format":
        """Read it from the file's first four bytes."""
        return cls("<" if magic[:2] == b"II" else ">", 43 in magic[2:4])

    @property
    def first_pointer(self) -> int:
        """Byte that says where the first directory is."""
        return 8 if self.big else 4

    @property
    def pointer(self) -> struct.Struct:
        """A place in the file."""
        return struct.Struct(self.order + ("Q" if self.big else "I"))

    @property
    def count(self) -> struct.Struct:
        """Number of entries of a directory."""
        return struct.Struct(self.order + ("Q" if self.big else "H"))

    @property
    def entry(self) -> struct.Struct:
        """Tag, type, number of values, and the values or their place as bytes."""
        return struct.Struct(self.order + ("HHQ8s" if self.big else "HHI4s"))


def walk(stream: IO[bytes], size: int, name: str, limits: Limits) -> list[Directory]:
    """Follow the chain of directories; each one points to the next.

    Args:
        stream: the file; left at another place.
        size: its bytes.
        name: what to call it in errors.
        limits: of its pages.

    Raises:
        UnreadableImage: the chain leads nowhere or in a circle.
        ImageTooLarge: it has more pages, entries or values than the limits.
    """
    stream.seek(0)
    form = Format.of(stream.read(4))
    found: list[Directory] = []
    seen: set[int] = set()
    spent = _Spent(size, name)
    pointer = form.first_pointer
    while place := _read(stream, form.pointer, pointer, len(found), name):
        if place >= size or place in seen:
            raise UnreadableImage(
                f"{name} is damaged: page {len(found)} is said to be at byte {place} of {size}, where there "
                "is no new page; copy it again"
            )
        seen.add(place)
        if len(seen) > limits.file_pages:
            raise too_many_pages(name, limits)
        found.append(_directory(stream, form, place, len(found), spent))
        pointer = place + form.count.size + form.entry.size * spent.last_count
    return found


def subdirectories(stream: IO[bytes], size: int, directory: Directory, name: str) -> list[Directory]:
    """Read the directories that another one points to; unreadable ones are left out."""
    entry = directory.facts.get(SUB_IFDS)
    if entry is None:
        return []
    stream.seek(0)
    form = Format.of(stream.read(4))
    pointer = struct.Struct(form.order + ("Q" if SIZES.get(entry.kind) == 8 else "I"))
    places = [entry.value]
    if entry.count > 1:
        stream.seek(entry.value)
        data = stream.read(pointer.size * entry.count)
        places = [place for (place,) in pointer.iter_unpack(data[: len(data) // pointer.size * pointer.size])]
    spent, found = _Spent(size, name), []
    for place in places:
        try:
            found.append(_directory(stream, form, place, 0, spent))
        except UnreadableImage:
            continue
    return found


def too_many_pages(name: str, limits: Limits) -> ImageTooLarge:
    """Refuse a file with more pages than the limit: return the error."""
    return ImageTooLarge(f"{name} has more than {limits.file_pages} pages, the limit; split the stack")


def pictures(directories: Sequence[Directory]) -> list[int]:
    """Tell which directories are pictures, by their place in the chain.

    Smaller copies and transparency masks of other pages are not pictures, unless the file has nothing else:
    some cameras call their only page a smaller copy.
    """
    chosen = [at for at, one in enumerate(directories) if not one.is_reduced and not one.is_mask]
    if chosen:
        return chosen
    copies = [at for at, one in enumerate(directories) if not one.is_mask] or list(range(len(directories)))
    largest = max((directories[at].area for at in copies), default=0)
    return [at for at in copies if directories[at].area == largest]


class _Spent:
    """Add up what the directories of a file hold, and refuse it as soon as it is too much."""

    def __init__(self, size: int, name: str) -> None:
        self.name = name
        self.last_count = 0
        self._size = size
        self._entries = self._numbers = self._bytes = self._below = 0

    def add_directory(self, entries: int) -> None:
        self.last_count = entries
        self._entries += entries
        if entries > MOST_ENTRIES:
            self._refuse(f"a page with {entries} tags", f"{MOST_ENTRIES} a page")
        if self._entries > MOST_ENTRIES_OF_A_FILE:
            self._refuse(f"pages with more than {MOST_ENTRIES_OF_A_FILE} tags together", "that many")

    def add_values(self, tag: int, kind: int, count: int, place: int) -> None:
        """Count the values that tifffile reads at once; it leaves out values past the file's end."""
        length = SIZES.get(kind, 0) * count
        if tag not in READ_AT_ONCE or place + length > self._size:
            return
        if kind in BYTES_AND_TEXT or tag == COLOR_MAP:
            self._bytes += length
        else:
            self._numbers += count
        if tag in UIC_TAGS and count > MOST_NUMBERS_OF_METAMORPH:
            self._refuse(f"a list of {count:,} planes of MetaMorph's", f"{MOST_NUMBERS_OF_METAMORPH:,}")
        if tag == SUB_IFDS:
            self._below += count
            if count > MOST_SUBDIRECTORIES or self._below > MOST_SUBDIRECTORIES_OF_A_FILE:
                self._refuse(
                    f"pages with {self._below:,} smaller copies below them",
                    f"{MOST_SUBDIRECTORIES} a page and {MOST_SUBDIRECTORIES_OF_A_FILE:,} a file",
                )
        if self._numbers > MOST_NUMBERS:
            self._refuse(
                f"pages whose tags hold more than {MOST_NUMBERS:,} numbers together, two for each strip",
                "that many",
            )
        if self._bytes > MOST_TEXT:
            self._refuse(f"pages with more than {MOST_TEXT // MEBI} MiB of text and tables", "that much")

    def _refuse(self, what: str, limit: str) -> None:
        raise ImageTooLarge(f"{self.name} has {what}, the limit is {limit}; export it anew")


def _directory(stream: IO[bytes], form: Format, place: int, number: int, spent: _Spent) -> Directory:
    count = _read(stream, form.count, place, number, spent.name)
    spent.add_directory(count)
    block = stream.read(form.entry.size * count)
    if len(block) < form.entry.size * count:
        raise _cut_short(number, spent.name)
    facts: dict[int, Entry] = {}
    for tag, kind, values, content in form.entry.iter_unpack(block):
        value = _value(form, kind, values, content)
        spent.add_values(tag, kind, values, value if SIZES.get(kind, 0) * values > len(content) else 0)
        facts.setdefault(tag, Entry(kind, values, value))
    return Directory(place, facts)


def _value(form: Format, kind: int, count: int, content: bytes) -> int:
    """Return the value if it is a single number, otherwise the address of the values."""
    size = SIZES.get(kind, 0)
    if count == 1 and 0 < size <= len(content):
        content = content[:size]
    return int.from_bytes(content, "little" if form.order == "<" else "big")


def _read(stream: IO[bytes], form: struct.Struct, place: int, number: int, name: str) -> int:
    stream.seek(place)
    found = stream.read(form.size)
    if len(found) < form.size:
        raise _cut_short(number, name)
    return int(form.unpack(found)[0])


def _cut_short(number: int, name: str) -> UnreadableImage:
    return UnreadableImage(f"{name} is cut short: page {number} is not there; copy it again")
