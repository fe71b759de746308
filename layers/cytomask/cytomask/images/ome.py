"""Tell which plane of an OME description each TIFF directory of this file holds."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cytomask.errors import ImageTooLarge, UnreadableImage
from cytomask.images.ome_xml import AXES, Block, Description, Picture, Place
from cytomask.images.pages import Limits

MOST_SAMPLES = 4  # SizeC counts the samples of a colour pixel one by one


@dataclass(frozen=True)
class Page:
    """The planes of one time and depth, one for each channel.

    Attributes:
        picture: the stack that it belongs to.
        places: where each plane lies along C, T and Z.
        directories: that hold the planes.
    """

    picture: Picture
    places: tuple[Place, ...]
    directories: tuple[int, ...]


def pages(
    found: Description, sizes: Sequence[tuple[int, int, int]], file: str, limits: Limits, name: str
) -> list[Page]:
    """List the pages of this file, in the order of its description.

    If a picture's planes lie in several files, the planes in this file are its pages. Pictures that do not
    say where their planes are follow each other.

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
    listed: list[Page] = []
    following = 0  # directory where the next picture begins that does not say it
    for one in found.pictures:
        held = list(_pages_of(one, following, own, sizes, name))
        if not one.blocks:
            following += sum(len(page.directories) for page in held)
        listed += held
    return listed


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
    picture: Picture, following: int, own: _Own, sizes: Sequence[tuple[int, int, int]], name: str
) -> Iterator[Page]:
    blocks = picture.blocks or [Block(dict.fromkeys(AXES, 0), following, None)]
    first = next((block.first for block in blocks if own.has(block)), 0)
    channels = _channels(picture, sizes[first][2] if first < len(sizes) else 1)
    lengths = picture.lengths | {"C": channels}
    at: dict[Place, int] = {}  # to a directory
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
        places = tuple((channel, place["T"], place["Z"]) for channel in held[outer, inner])
        yield Page(picture, places, tuple(at[each] for each in places))


def _channels(picture: Picture, stored: int) -> int:
    """Count the planes of a page: SizeC counts samples, and a colour pixel has several.

    Args:
        picture: the stack of the page.
        stored: samples of its first directory.
    """
    samples = max(picture.samples, default=1)
    if samples == 1 and stored > 1 and picture.lengths["C"] % stored == 0:
        samples = stored  # older writers say nothing
    return max(picture.lengths["C"] // samples, 1)


def _places(
    block: Block, order: str, lengths: dict[str, int], directories: int, name: str
) -> Iterator[tuple[Place, int]]:
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
