"""Read the size of a pixel, if a TIFF gives it in a unit of length.

OME gives `PhysicalSizeX` and `PhysicalSizeY` of `Pixels` (www.openmicroscopy.org/Schemas/OME/2016-06), in
micrometres unless it names another unit. ImageJ writes pixels a unit into TIFF's resolution tags and the unit
into its description. Other programs write the resolution of a screen or printer there, which is ignored.
"""

import math
from collections.abc import Mapping

import tifffile

from cytomask.lengths import LARGEST_PIXEL_UM, SMALLEST_PIXEL_UM, PixelSize

PREFIXES = {"centi": "cm", "milli": "mm", "micro": "um", "nano": "nm"}
UNITS_UM = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "nm": 1e-3,
    "Å": 1e-4,
    "pm": 1e-6,
}
WORDS_UM = {  # without an s at their end, and in lower case: users type them into ImageJ
    "micron": 1.0,
    **{f"{prefix}met{end}": UNITS_UM[unit] for prefix, unit in PREFIXES.items() for end in ("er", "re")},
}
MICRO_ESCAPED = r"\u00B5"  # as ImageJ writes it into an ASCII description


def size_of_ome(facts: Mapping[str, str]) -> PixelSize | None:
    """Read the attributes of OME's `Pixels` element; None if they do not give it, or give an absurd one."""
    return _plausible(
        *(
            _length(facts.get(f"PhysicalSize{axis}", ""), facts.get(f"PhysicalSize{axis}Unit", "µm"))
            for axis in "XY"
        )
    )


def read_imagej_size(file: tifffile.TiffFile) -> PixelSize | None:
    """Read the size of ImageJ's pixels; None if the file is not ImageJ's, or gives none or an absurd one."""
    if not file.is_imagej:
        return None
    unit = str((file.imagej_metadata or {}).get("unit", "")).replace(MICRO_ESCAPED, "µ")
    x, y = (file.pages.first.tags.valueof(code) for code in (282, 283))  # resolutions: pixels a unit
    return size_of_imagej(unit, x, y)


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
    unit = unit.strip()
    factor = UNITS_UM.get(unit) or WORDS_UM.get(unit.lower().removesuffix("s"), math.nan)
    try:
        return float(f"{float(text) * factor:.12g}")  # 700 nm are 0.7 µm, not 0.7000000000000001
    except ValueError:
        return math.nan


def _plausible(width: float, height: float) -> PixelSize | None:
    good = all(SMALLEST_PIXEL_UM <= side <= LARGEST_PIXEL_UM for side in (width, height))
    return PixelSize(width, height) if good else None
