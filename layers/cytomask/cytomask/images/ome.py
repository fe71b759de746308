"""Read from an OME description which plane of the image each TIFF directory of this file holds.

We read it ourselves, in one pass that keeps the few elements that matter. tifffile allocates memory and
spends time on every plane that a description mentions, present or not, takes elements of other schemas for
OME's, and opens other files that are named.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from xml.parsers import expat

from cytomask.errors import ImageTooLarge, UnreadableImage
from cytomask.images.pages import Limits

LONGEST_DESCRIPTION = 8 * 2**20  # 10,000 planes, each with its own elements, take 3 to 5 MB
MOST_SAMPLES = 4  # SizeC counts the samples of a colour pixel one by one
AXES = "CTZ"
DEEPEST = 5  # OME, Image, Pixels, TiffData, UUID
SCHEMA = "openmicroscopy.org"
BLANK = "\ufeff \t\r\n"  # byte order mark and white space
# Possessive, so that a text without an end is passed once.
BEFORE_THE_ROOT = re.compile(rf"[{BLANK}]*+(?:(<\?|<!--)|<!DOCTYPE[^\[>]*+(?:\[[^\]]*+\][^>]*+)?+>)")
ENDINGS = {"<?": "?>", "<!--": "-->"}
ROOT = re.compile(rf"[{BLANK}]*<(?:[\w.-]{{1,40}}:)?OME(?=[\s/>])([^<>]{{0,9999}})")


@dataclass(frozen=True)
class Block:
    """A TiffData element: planes that follow each other from directory `first` on.

    Attributes:
        start: where its first plane lies along C, T and Z.
        first: directory, counted from 0.
        planes: how many; None for all.
        uuid, file: of the file that holds them, where it is named.
    """

    start: dict[str, int]
    first: int
    planes: int | None
    uuid: str | None = None
    file: str | None = None


@dataclass
class Picture:
    """A Pixels element: a stack of planes of one size."""

    height: int
    width: int
    lengths: dict[str, int]  # along C, T and Z
    order: str  # of C, T and Z; the first changes fastest
    samples: list[int] = field(default_factory=list)  # of each Channel
    blocks: list[Block] = field(default_factory=list)


@dataclass
class Description:
    """This file's planes, as its OME description lists them."""

    uuid: str | None = None
    elsewhere: bool = False  # its metadata lie in another file
    pictures: list[Picture] = field(default_factory=list)


# One page: the directory of each of its channels.
Page = tuple[int, ...]


def describe(text: str, name: str) -> Description | None:
    """Read an OME description; return None for another program's text, or if it cannot be followed.

    Raises:
        UnreadableImage: it is OME's, and its numbers are invalid, or it declares entities.
    """
    if not is_ome(text):
        return None
    reader = _Reader()
    try:
        reader.read(text)
    except (expat.ExpatError, _NotOme):
        return None
    except _Entities as error:
        raise UnreadableImage(
            f"{name} has an OME description that declares entities, which are not read; save the stack anew"
        ) from error
    except (KeyError, ValueError) as error:
        raise UnreadableImage(
            f"{name} has an OME description that lacks a number or has a wrong one ({error}); save the stack "
            "anew"
        ) from error
    return reader.found


def is_ome(text: str) -> bool:
    """Tell whether a text is XML whose first element is OME, of OME's schema if it names any."""
    place = 0
    while found := BEFORE_THE_ROOT.match(text, place):
        place = found.end()
        if found[1]:
            end = text.find(ENDINGS[found[1]], place)
            if end < 0:
                return False
            place = end + len(ENDINGS[found[1]])
    root = ROOT.match(text, place)
    return root is not None and ("xmlns" not in root[1] or SCHEMA in root[1])


def pages(
    found: Description, sizes: Sequence[tuple[int, int, int]], file: str, limits: Limits, name: str
) -> list[Page]:
    """List the pages of this file, in the order of its description; each has a directory for every channel.

    If a picture's planes lie in several files, the planes in this file are its pages.

    Args:
        found: the description.
        sizes: height, width and samples of each directory of the file.
        file: the file's own name, without folders.
        limits: of its pages.
        name: what to call it in errors.

    Raises:
        ImageTooLarge: it mentions more planes than the limit.
        UnreadableImage: its planes are not there, are of another size, or do not fit together.
    """
    uses = sum(_planes_claimed(block, len(sizes)) for one in found.pictures for block in one.blocks)
    planes = sum(math.prod(one.lengths.values()) for one in found.pictures)
    if planes > limits.file_pages * MOST_SAMPLES or uses > limits.file_pages:
        raise ImageTooLarge(
            f"{name} is described as having more than {limits.file_pages} planes, the limit; split the stack"
        )
    own = _names_of_this_file(found, file)
    return [page for one in found.pictures for page in _pages_of(one, own, sizes, name)]


@dataclass(frozen=True)
class _Own:
    """The name by which the description calls its own file."""

    uuid: str | None
    file: str

    def has(self, block: Block) -> bool:
        if block.uuid is not None and self.uuid is not None:
            return block.uuid == self.uuid
        return block.file is None or block.file == self.file


def _names_of_this_file(found: Description, file: str) -> _Own:
    """Take a renamed file for the one file that its description names."""
    named = {block.file for one in found.pictures for block in one.blocks if block.file is not None}
    uuids = {block.uuid for one in found.pictures for block in one.blocks if block.uuid is not None}
    if len(named) <= 1 and len(uuids) <= 1:
        return _Own(next(iter(uuids), None), next(iter(named), file))
    return _Own(found.uuid if found.uuid in uuids else None, file)


def _pages_of(
    picture: Picture, own: _Own, sizes: Sequence[tuple[int, int, int]], name: str
) -> Iterator[Page]:
    channels = _channels(picture, sizes, own)
    lengths = picture.lengths | {"C": channels}
    blocks = picture.blocks or [Block(dict.fromkeys(AXES, 0), 0, None)]
    at: dict[tuple[int, int, int], int] = {}  # C, T, Z to a directory
    for block in blocks:
        if own.has(block):
            at |= dict(_places(block, picture.order, lengths, len(sizes), name))
    several_files = not all(own.has(block) for block in blocks)
    if not at and several_files:
        return
    if not several_files and len(at) < math.prod(lengths.values()):
        raise UnreadableImage(
            f"{name} is described as holding {math.prod(lengths.values())} planes, of which {len(at)} are "
            "there; copy it again, or save the whole stack as one file"
        )
    if any(sizes[number][:2] != (picture.height, picture.width) for number in at.values()):
        raise UnreadableImage(
            f"{name} has an OME description that does not fit its pages; save the stack anew as one file"
        )
    slow, fast = [axis for axis in reversed(picture.order) if axis != "C"]
    held = {(place[AXES.index(slow)], place[AXES.index(fast)]): [] for place in at}  # type: dict[tuple[int, int], list[int]]
    for channel, time, depth in sorted(at):
        place = {"T": time, "Z": depth}
        held[place[slow], place[fast]].append(channel)
    if len({tuple(found) for found in held.values()}) > 1:
        raise UnreadableImage(
            f"{name} holds different channels of different planes; save the whole stack as one file"
        )
    for outer, inner in sorted(held):
        place = {slow: outer, fast: inner}
        yield tuple(at[channel, place["T"], place["Z"]] for channel in held[outer, inner])


def _channels(picture: Picture, sizes: Sequence[tuple[int, int, int]], own: _Own) -> int:
    """Count the planes of a page: SizeC counts samples, and a colour pixel has several."""
    samples = max(picture.samples, default=1)
    first = next((block.first for block in picture.blocks if own.has(block)), 0)
    stored = sizes[first][2] if first < len(sizes) else 1
    if samples == 1 and stored > 1 and picture.lengths["C"] % stored == 0:
        samples = stored  # older writers say nothing
    return max(picture.lengths["C"] // samples, 1)


def _places(
    block: Block, order: str, lengths: dict[str, int], directories: int, name: str
) -> Iterator[tuple[tuple[int, int, int], int]]:
    """Yield each plane of a block with the directory that holds it."""
    plane, step = 0, 1
    for axis in order:
        plane += block.start[axis] * step
        step *= lengths[axis]
    left = min(step - plane, directories - block.first) if block.planes is None else block.planes
    if plane < 0 or block.first < 0 or left < 0 or plane + left > step:
        raise UnreadableImage(
            f"{name} has an OME description that counts past its planes; save the stack anew"
        )
    for number in range(left):
        if block.first + number >= directories:
            raise UnreadableImage(
                f"{name} is described as holding directory {block.first + number} and has {directories}; "
                "copy it again"
            )
        rest, place = plane + number, {}
        for axis in order:
            rest, place[axis] = divmod(rest, lengths[axis])
        yield (place["C"], place["T"], place["Z"]), block.first + number


def _planes_claimed(block: Block, directories: int) -> int:
    return directories if block.planes is None else abs(block.planes)


class _NotOme(Exception):
    """The text is other XML."""


class _Entities(Exception):
    """The text declares entities, which may grow without end."""


class _Reader:
    """Keep the elements that matter while the parser passes an OME description."""

    def __init__(self) -> None:
        self.found = Description()
        self._path: list[str] = []  # of the elements around, as deep as any that matters
        self._depth = 0
        # The text is decoded already, so its declaration, such as .NET's encoding="UTF-16", does not count.
        self._parser = expat.ParserCreate("utf-8", namespace_separator=" ")
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.EntityDeclHandler = self._refuse_entity
        self._parser.buffer_text = True
        self._block: Block | None = None
        self._uuid: tuple[str, str | None] | None = None  # text, file

    def read(self, text: str) -> None:
        """Parse the whole text."""
        self._parser.Parse(text.lstrip(BLANK).encode(errors="replace"), True)

    def _refuse_entity(self, *_: object) -> None:
        raise _Entities

    def _start(self, tag: str, facts: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            return
        schema, _, kind = tag.rpartition(" ")
        if not self._path:
            if kind != "OME" or (schema and SCHEMA not in schema):
                raise _NotOme(tag)
            self.found.uuid = facts.get("UUID")
        self._path.append(kind if not schema or SCHEMA in schema else "")
        match self._path[1:]:
            case ["BinaryOnly"]:
                self.found.elsewhere = True
            case ["Image", "Pixels"]:
                self.found.pictures.append(_picture(facts))
            case ["Image", "Pixels", "Channel"]:
                self.found.pictures[-1].samples.append(int(facts.get("SamplesPerPixel", 1)))
            case ["Image", "Pixels", "TiffData"]:
                self._block = _block(facts)
            case ["Image", "Pixels", "TiffData", "UUID"]:
                self._uuid = "", facts.get("FileName")

    def _text(self, text: str) -> None:
        if self._uuid is not None:
            self._uuid = self._uuid[0] + text, self._uuid[1]

    def _end(self, _: str) -> None:
        self._depth -= 1
        if self._depth >= DEEPEST:
            return
        match self._path[1:]:
            case ["Image", "Pixels", "TiffData", "UUID"] if self._uuid and self._block:
                (uuid, file), self._uuid = self._uuid, None
                self._block = Block(
                    self._block.start,
                    self._block.first,
                    self._block.planes,
                    uuid.strip() or None,
                    file.replace("\\", "/").rpartition("/")[2].lower() if file else None,
                )
            case ["Image", "Pixels", "TiffData"] if self._block:
                self.found.pictures[-1].blocks.append(self._block)
                self._block = None
        self._path.pop()


def _picture(facts: dict[str, str]) -> Picture:
    order = facts["DimensionOrder"]
    if sorted(order) != sorted("XY" + AXES) or not order.startswith("XY"):
        raise ValueError(f"DimensionOrder {order}")
    lengths = {axis: int(facts[f"Size{axis}"]) for axis in AXES}
    if min(lengths.values()) < 1:
        raise ValueError(f"sizes {lengths}")
    return Picture(int(facts["SizeY"]), int(facts["SizeX"]), lengths, order[2:])


def _block(facts: dict[str, str]) -> Block:
    planes = facts.get("PlaneCount", facts.get("NumPlanes"))
    return Block(
        {axis: int(facts.get(f"First{axis}", 0)) for axis in AXES},
        int(facts.get("IFD", 0)),
        int(planes) if planes is not None else (1 if "IFD" in facts else None),
    )
