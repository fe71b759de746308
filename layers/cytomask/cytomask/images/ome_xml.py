"""Read an OME description: its images, and what it says about their planes.

We read it ourselves, in one pass that keeps the few elements that matter. tifffile allocates memory and
spends time on every plane that a description mentions, present or not, takes elements of other schemas for
OME's, and opens other files that are named.
"""

import re
from dataclasses import dataclass, field
from xml.parsers import expat

from cytomask.errors import UnreadableImage
from cytomask.images.pixel_size import size_of_ome
from cytomask.lengths import PixelSize

LONGEST_DESCRIPTION = 8 * 2**20  # 10,000 planes, each with its own elements, take 3 to 5 MB
AXES = "CTZ"
DEEPEST = 5  # OME, Image, Pixels, TiffData, UUID
SCHEMA = "openmicroscopy.org"
BLANK = "\ufeff \t\r\n"  # byte order mark and white space
# Possessive, so that a text without an end is passed once.
BEFORE_THE_ROOT = re.compile(rf"[{BLANK}]*+(?:(<\?|<!--)|<!DOCTYPE[^\[>]*+(?:\[[^\]]*+\][^>]*+)?+>)")
ENDINGS = {"<?": "?>", "<!--": "-->"}
ROOT = re.compile(rf"[{BLANK}]*<(?:[\w.-]{{1,40}}:)?OME(?=[\s/>])([^<>]{{0,9999}})")
UNITS = {  # seconds, and the names of OME's `UnitsTime` and of ImageJ's users
    1e-6: ("us", "µs", "μs", "usec", "microsecond", "microseconds"),
    1e-3: ("ms", "msec", "millisecond", "milliseconds"),
    1.0: ("s", "sec", "secs", "second", "seconds"),
    60.0: ("min", "mins", "minute", "minutes"),
    3600.0: ("h", "hr", "hrs", "hour", "hours"),
    86400.0: ("d", "day", "days"),
}
SECONDS = {name: seconds for seconds, names in UNITS.items() for name in names}

Place = tuple[int, int, int]  # of a plane along C, T and Z


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
    """A Pixels element: a stack of planes of one size.

    Attributes:
        height, width: in pixels.
        lengths: along C, T and Z.
        order: of C, T and Z; the first changes fastest.
        pixel_size: of its pixels; None if it is not told, or absurd.
        increment: seconds between times; None if they are not told.
        date: when it was taken, as written.
        samples: of each Channel.
        names: of each Channel.
        blocks: where its planes are.
        deltas: seconds since the date, of the planes whose DeltaT is told.
    """

    height: int
    width: int
    lengths: dict[str, int]
    order: str
    pixel_size: PixelSize | None = None
    increment: float | None = None
    date: str | None = None
    samples: list[int] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    deltas: dict[Place, float] = field(default_factory=dict)


@dataclass
class Description:
    """This file's planes, as its OME description lists them."""

    uuid: str | None = None
    elsewhere: bool = False  # its metadata lie in another file
    pictures: list[Picture] = field(default_factory=list)


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
        self._first = 0  # picture of the Image around
        self._date: str | None = None  # of the Image around
        self._block: Block | None = None
        self._file: str | None = None  # that holds the block
        self._said: str | None = None  # text of the element around, if it matters

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
            case ["Image"]:
                self._first, self._date = len(self.found.pictures), None
            case ["Image", "AcquisitionDate"]:
                self._said = ""
            case ["Image", "Pixels"]:
                self.found.pictures.append(_picture(facts))
            case ["Image", "Pixels", "Channel"]:
                self.found.pictures[-1].samples.append(int(facts.get("SamplesPerPixel", 1)))
                self.found.pictures[-1].names.append(facts.get("Name") or None)
            case ["Image", "Pixels", "Plane"]:
                self.found.pictures[-1].deltas.update(_delta(facts))
            case ["Image", "Pixels", "TiffData"]:
                self._block = _block(facts)
            case ["Image", "Pixels", "TiffData", "UUID"]:
                self._said, self._file = "", facts.get("FileName")

    def _text(self, text: str) -> None:
        if self._said is not None:
            self._said += text

    def _end(self, _: str) -> None:
        self._depth -= 1
        if self._depth >= DEEPEST:
            return
        match self._path[1:]:
            case ["Image"]:
                for picture in self.found.pictures[self._first :]:
                    picture.date = self._date
            case ["Image", "AcquisitionDate"] if self._said is not None:
                self._date, self._said = self._said.strip(), None
            case ["Image", "Pixels", "TiffData", "UUID"] if self._said is not None and self._block:
                uuid, self._said = self._said, None
                self._block = Block(
                    self._block.start,
                    self._block.first,
                    self._block.planes,
                    uuid.strip() or None,
                    self._file.replace("\\", "/").rpartition("/")[2].lower() if self._file else None,
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
    return Picture(
        int(facts["SizeY"]),
        int(facts["SizeX"]),
        lengths,
        order[2:],
        size_of_ome(facts),
        interval(facts.get("TimeIncrement"), facts.get("TimeIncrementUnit", "s")),
    )


def interval(text: str | None, unit: str) -> float | None:
    """Return an interval in seconds; None if it is unknown, has an unknown unit or is not above 0."""
    try:
        seconds = float(text or "") * SECONDS[unit]
    except (KeyError, ValueError):
        return None
    return seconds if seconds > 0 else None


def _delta(facts: dict[str, str]) -> dict[Place, float]:
    """Return the place of a plane and its DeltaT in seconds; nothing if it does not tell them."""
    try:
        place = int(facts.get("TheC", 0)), int(facts["TheT"]), int(facts.get("TheZ", 0))
        return {place: float(facts["DeltaT"]) * SECONDS[facts.get("DeltaTUnit", "s")]}
    except (KeyError, ValueError):
        return {}


def _block(facts: dict[str, str]) -> Block:
    planes = facts.get("PlaneCount", facts.get("NumPlanes"))
    return Block(
        {axis: int(facts.get(f"First{axis}", 0)) for axis in AXES},
        int(facts.get("IFD", 0)),
        int(planes) if planes is not None else (1 if "IFD" in facts else None),
    )
