"""Decode COCO files leniently: a fault in one image or annotation affects only that one."""

import codecs
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

import msgspec
import numpy as np

from cytomask.errors import UnreadableCoco
from cytomask.truths import names

# An entry of two bytes takes time and memory too. LIVECell's largest file has 1.02 million annotations;
# COCO 2017's has 123,000 images.
MOST_LISTED_IMAGES = 1_000_000
MOST_ANNOTATIONS = 2_000_000
LONGEST_NAME = 255  # bytes of a file name
NOT_A_NUMBER = re.compile(rb"([:,\[]\s*)-?(?:NaN|Infinity)(?=\s*[,\]}])")
WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))(?:\.0+)?")
LONGEST_SIDE = 2**31 - 1  # pixels
MOST_DIGITS = len(str(LONGEST_SIDE))  # Python refuses to read numbers of thousands of digits

# For counting entries: the bytes to leave out, and what each other one adds to the depth.
NO_MARKS = bytes(set(range(256)) - set(b'"[]{},'))
STEPS = np.zeros(256, np.int8)
STEPS[list(b"[{")], STEPS[list(b"]}")] = 1, -1
MARKS_AT_A_TIME = 2**20

UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)  # what msgspec raises

Number = int | float | str


class Listed(msgspec.Struct, gc=False):
    """A listed image as the file writes it."""

    file_name: str
    id: Number | None = None
    width: Number | None = None
    height: Number | None = None
    fault: str = ""  # only parts written by `Coco.part` have it


class Loose(msgspec.Struct):
    """A listed image of which any field but the name may be invalid."""

    file_name: str
    id: msgspec.Raw = msgspec.Raw(b"null")
    width: msgspec.Raw = msgspec.Raw(b"null")
    height: msgspec.Raw = msgspec.Raw(b"null")


class Annotation(msgspec.Struct, gc=False):
    """An annotation with its segmentation still undecoded."""

    image_id: Number | None = None
    segmentation: msgspec.Raw = msgspec.Raw(b"null")
    id: Number | None = None


class _Lists(msgspec.Struct):
    """A file of which nothing is decoded, because each entry takes memory."""

    images: msgspec.Raw
    annotations: msgspec.Raw


class File(msgspec.Struct):
    """A file with its images and annotations still undecoded."""

    images: list[msgspec.Raw] | dict[str, msgspec.Raw]
    annotations: list[msgspec.Raw] | dict[str, msgspec.Raw]
    # In the whole file; only parts written by `Coco.part` have it.
    annotations_without_image: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0
    prefix: str = ""  # of the images that the file is meant for; only parts have it


class Entry(msgspec.Struct, gc=False, omit_defaults=True):
    """An image that a file lists.

    Attributes:
        id: the id as text, whatever its type: 1, 1.0 and "1" are the same.
        file_name: the name as the file writes it.
        width, height: size in pixels.
        fault: why it cannot be drawn; empty if it can.
    """

    id: str
    file_name: str
    width: int = 0
    height: int = 0
    fault: str = ""

    @property
    def name(self) -> str:
        """Its whole name, in the form used to compare names."""
        return names.clean(self.file_name)


def decode(content: bytes, called: str) -> File:
    """Decode the file's outer form; images and annotations are read one by one later."""
    text = _utf8(content)
    try:
        try:
            lists = msgspec.json.decode(text, type=_Lists)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # Python writes NaN and Infinity, which are not JSON
            text = _repaired(text)
            lists = msgspec.json.decode(text, type=_Lists)
        _require_few(lists.images, MOST_LISTED_IMAGES, f"images in {called}")
        _require_few(lists.annotations, MOST_ANNOTATIONS, f"annotations in {called}")
        return msgspec.json.decode(text, type=File)
    except UNREADABLE as error:
        raise UnreadableCoco(f"{called} is not a COCO file ({error}); export it anew") from error


def _require_few(listed: msgspec.Raw, most: int, called: str) -> None:
    """Raise UnreadableCoco if a list or object of valid JSON has too many entries."""
    text = bytes(listed)
    if text.count(b",") < most:
        return
    number = count_entries(text)
    if number > most:
        raise UnreadableCoco(
            f"there are {number} {called}, the limit is {most}; split it into files of fewer images"
        )


def count_entries(text: bytes) -> int:
    """Count the entries of a list or object without decoding them; it must be valid JSON, and not empty."""
    unescaped = text.replace(rb"\\", b"").replace(rb"\"", b"")
    marks = np.frombuffer(unescaped.translate(None, NO_MARKS), np.uint8)
    number, quotes, depth = 1, 0, 0
    for start in range(0, marks.size, MARKS_AT_A_TIME):
        part = marks[start : start + MARKS_AT_A_TIME]
        passed = np.cumsum(part == ord('"')) + quotes
        outside = passed % 2 == 0  # of texts
        depths = np.cumsum(STEPS[part] * outside) + depth
        number += int(np.count_nonzero(outside & (part == ord(",")) & (depths == 1)))
        quotes, depth = int(passed[-1]), int(depths[-1])
    return number


def _repaired(text: bytes) -> bytes:
    """Replace each NaN and Infinity in place with an empty text; a list of millions would fill the memory."""
    repaired = bytearray(text)
    for found in NOT_A_NUMBER.finditer(text):
        start, end = found.end(1), found.end()
        repaired[start:end] = b'""'.ljust(end - start)
    return bytes(repaired)


def _utf8(content: bytes) -> bytes:
    """Return the text as UTF-8 without a byte order mark; Windows programs write the mark, or UTF-16."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace").encode()
    return content.removeprefix(codecs.BOM_UTF8)


def values(
    listed: list[msgspec.Raw] | dict[str, msgspec.Raw],
) -> Iterator[tuple[str | None, msgspec.Raw]]:
    """Yield the entries of a list, or of an object with their ids, as some of LIVECell's files have it."""
    yield from listed.items() if isinstance(listed, dict) else ((None, raw) for raw in listed)


_read_listed = msgspec.json.Decoder(Listed)
_read_loose = msgspec.json.Decoder(Loose)
_read_number = msgspec.json.Decoder(Number | None)
_read_annotation = msgspec.json.Decoder(Annotation)


def read_entry(raw: msgspec.Raw, key: str | None = None) -> Entry | None:
    """Read a listed image; return None if it has no usable file name.

    Args:
        raw: the image as the file writes it.
        key: its id if the file keys the images by id; an `id` of its own wins.
    """
    listed: Listed | None
    try:
        listed = _read_listed.decode(raw)
    except UNREADABLE:
        listed = _loosely(raw)
    if listed is None or not 1 <= len(names.base(listed.file_name).encode()) <= LONGEST_NAME:
        return None
    image_id = id_text(key if listed.id is None else listed.id)
    width, height = _length(listed.width), _length(listed.height)
    fault = listed.fault
    if not image_id:
        fault = fault or f"{listed.file_name} has no usable `id`; export it anew"
    elif not width or not height:
        lacking = "height" if width else "width"
        fault = fault or f"{listed.file_name} has no usable `{lacking}`; give width and height in pixels"
    return Entry(image_id or "", listed.file_name, width, height, fault)


def _loosely(raw: msgspec.Raw) -> Listed | None:
    """Return an image with invalid fields or letters; None stands for each invalid field."""
    text, is_utf8 = _text_of(raw)
    try:
        loose = _read_loose.decode(text)
    except UNREADABLE:
        return None
    name = loose.file_name
    fault = "" if is_utf8 else f"{name} is listed in letters that are not UTF-8; save the file as UTF-8"
    return Listed(name, _number(loose.id), _number(loose.width), _number(loose.height), fault)


def _number(raw: msgspec.Raw) -> Number | None:
    number: Number | None = None
    with suppress(*UNREADABLE):
        number = _read_number.decode(raw)
    return number


def read_annotation(raw: msgspec.Raw) -> Annotation | None:
    """Read an annotation except its outline; return None if it is not an annotation."""
    with suppress(*UNREADABLE):
        return _read_annotation.decode(raw)
    with suppress(*UNREADABLE):
        return _read_annotation.decode(_text_of(raw)[0])
    return None


def _text_of(raw: msgspec.Raw) -> tuple[str, bool]:
    """Decode an entry as UTF-8, or as Latin-1, which keeps different ids different; tell which."""
    try:
        return bytes(raw).decode(), True
    except UnicodeDecodeError:
        return bytes(raw).decode("latin-1"), False


def id_text(value: Number | None) -> str | None:
    """Return an id as text: 1, 1.0, "1" and "1.0" are the same."""
    if value is None:
        return None
    text = value.strip() if isinstance(value, str) else repr(value)
    whole = WHOLE.fullmatch(text)
    return whole[1] if whole else text


def _length(value: Number | None) -> int:
    """Return a side in pixels; 0 for anything else."""
    whole = WHOLE.fullmatch(id_text(value) or "")
    length = int(whole[1]) if whole and len(whole[1]) <= MOST_DIGITS else 0
    return length if 0 < length <= LONGEST_SIDE else 0
