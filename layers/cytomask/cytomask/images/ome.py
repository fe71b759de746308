"""What the OME description of a TIFF claims, looked at before tifffile acts on it.

tifffile makes room and spends time for every plane that a description speaks of, in the file or not; so a
thousand bytes could take all of an invocation's memory and time.
"""

import math
from collections.abc import Iterator
from itertools import permutations
from xml.etree import ElementTree as etree

import tifffile

from cytomask.errors import ImageTooLarge, UnreadableImage

LONGEST_DESCRIPTION = 8 * 2**20  # 10,000 planes, each with its own elements, take 3 to 5 MB
ORDERS = tuple(f"XY{''.join(rest)}" for rest in permutations("CTZ"))  # of OME's DimensionOrder
MOST_SAMPLES = 4  # SizeC counts the samples of a colour pixel one by one


def require_bounded(file: tifffile.TiffFile, directories: int, most: int, name: str) -> None:
    """Refuses a file by its OME description; one without is left alone.

    Args:
        file: whose series were not asked for yet.
        directories: pages in the file's chain.
        most: planes that a file may have.
        name: what to call it in errors.

    Raises:
        ImageTooLarge: it speaks of more planes than that.
        UnreadableImage: what it says is no OME, or is said of pages of another size.
    """
    if not file.is_ome:
        return
    description = file.pages.first.description
    if len(description) > LONGEST_DESCRIPTION:
        raise ImageTooLarge(f"{name} has an OME description of {len(description)} characters; export it anew")
    try:
        root = etree.fromstring(description)
    except etree.ParseError:
        return  # tifffile passes it over too
    planes = uses = 0
    for pixels in _ending(root, "Pixels"):
        planes += math.prod(int(pixels.attrib[f"Size{axis}"]) for axis in "CTZ")
        uses += sum(_pages_of(data, directories) for data in _ending(pixels, "TiffData"))
        _require_pages_of_its_size(file, pixels, directories, name)
    for along in root.iter():
        if "Start" in along.attrib:
            planes = max(planes, _labels(along))
    if planes > most * MOST_SAMPLES or uses > most:
        raise ImageTooLarge(
            f"{name} is described as having more than {most} planes, the limit; split the stack"
        )


def _ending(root: etree.Element, kind: str) -> Iterator[etree.Element]:
    """The elements of a kind, whatever their namespace."""
    return (element for element in root.iter() if str(element.tag).endswith(kind))


def _pages_of(data: etree.Element, directories: int) -> int:
    """How many pages a TiffData element lays claim to."""
    counts = [abs(int(data.attrib.get(count, 0))) for count in ("PlaneCount", "NumPlanes")]
    return max(*counts, 1 if "IFD" in data.attrib else directories)


def _require_pages_of_its_size(
    file: tifffile.TiffFile, pixels: etree.Element, directories: int, name: str
) -> None:
    """How many planes tifffile makes room for, it reckons from the size of one of these pages."""
    size = int(pixels.attrib["SizeY"]), int(pixels.attrib["SizeX"])
    first = {int(data.attrib.get("IFD", 0)) for data in _ending(pixels, "TiffData")}
    there = [number for number in first if number < directories]
    sizes = {
        (page.imagelength, page.imagewidth) for page in (file.pages[number].aspage() for number in there)
    }
    if pixels.attrib["DimensionOrder"] not in ORDERS or min(first, default=0) < 0 or sizes - {size}:
        raise UnreadableImage(
            f"{name} has an OME description that does not fit its pages; save the stack anew as one file"
        )


def _labels(along: etree.Element) -> int:
    """How many labels a modulo annotation spreads an axis over; 0 where tifffile refuses it."""
    start, end, step = (
        float(along.attrib.get(part, default)) for part, default in (("Start", 0), ("End", 0), ("Step", 1))
    )
    return math.ceil(abs((end - start) / step)) if step else 0
