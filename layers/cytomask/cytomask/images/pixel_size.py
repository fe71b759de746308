"""Read the size of a pixel, if a TIFF gives it in a unit of length.

OME gives `PhysicalSizeX` and `PhysicalSizeY` of `Pixels` (www.openmicroscopy.org/Schemas/OME/2016-06), in
micrometres unless it names another unit. ImageJ writes pixels a unit into TIFF's resolution tags and the unit
into its description. Other programs write the resolution of a screen or printer there, which is ignored.
"""

import math
import re

import tifffile

from cytomask.lengths import LARGEST_PIXEL_UM, SMALLEST_PIXEL_UM, PixelSize

UNITS_UM = {
    **dict.fromkeys(("µm", "μm", "um", "micron", "microns", "micrometer"), 1.0),
    **{"nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4, "pm": 1e-6},
}
MICRO_ESCAPED = r"\u00B5"  # as ImageJ writes it into an ASCII description
LONGEST_HEAD = 65_536  # the first Pixels element begins within this many characters of a description
PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^>]{0,4000}>")


def read_pixel_size(file: tifffile.TiffFile) -> PixelSize | None:
    """Read the size of a pixel; None if the file does not give it, or gives an absurd one."""
    page = file.pages.first
    described = page.description
    if "Pixels" in described[:LONGEST_HEAD] and (found := PIXELS.search(described[:LONGEST_HEAD])):
        return size_of_ome(found[0])
    if file.is_imagej:
        unit = str((file.imagej_metadata or {}).get("unit", "")).replace(MICRO_ESCAPED, "µ")
        x, y = (page.tags.valueof(code) for code in (282, 283))  # XResolution, YResolution: pixels a unit
        return size_of_imagej(unit, x, y)
    return None


def size_of_ome(element: str) -> PixelSize | None:
    """Read the attributes of OME's `Pixels` element."""
    sizes = []
    for axis in "XY":
        value = re.search(rf'\bPhysicalSize{axis}\s*=\s*"([^"]{{1,40}})"', element)
        unit = re.search(rf'\bPhysicalSize{axis}Unit\s*=\s*"([^"]{{1,20}})"', element)
        sizes.append(_length(value[1] if value else "", unit[1].replace("&#181;", "µ") if unit else "µm"))
    return _plausible(*sizes)


def size_of_imagej(unit: str, x: object, y: object) -> PixelSize | None:
    """Read ImageJ's unit and the resolutions: pairs of numerator and denominator, in pixels a unit."""
    sizes = []
    for resolution in (x, y):
        match resolution:
            case (int(pixels), int(units)) if pixels > 0 and units > 0:
                sizes.append(_length(repr(units / pixels), unit))
            case _:
                return None
    return _plausible(*sizes)


def _length(text: str, unit: str) -> float:
    """Convert a length to micrometres; NaN if it is not a length."""
    try:
        return float(text) * UNITS_UM.get(unit.strip(), math.nan)
    except ValueError:
        return math.nan


def _plausible(width: float, height: float) -> PixelSize | None:
    good = all(SMALLEST_PIXEL_UM <= side <= LARGEST_PIXEL_UM for side in (width, height))
    return PixelSize(width, height) if good else None
