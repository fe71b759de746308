"""Read EXIF's orientation, and turn a picture upright by it."""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

AS_STORED = 1
TAG = 0x0112
NUMBERS = {1: "B", 3: "H", 4: "I"}  # BYTE, SHORT, LONG
MOST_ENTRIES = 1000


def orientation_of(exif: bytes) -> int:
    """Return the orientation, 1 to 8, that a block of EXIF states; 1 if it states none.

    Args:
        exif: as it stands in PNG's eXIf chunk, or in JPEG's APP1 segment after `Exif`, a small TIFF.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return AS_STORED
    try:
        (place,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, place)
        for number in range(min(count, MOST_ENTRIES)):
            entry = place + 2 + 12 * number
            tag, kind = struct.unpack_from(f"{order}HH", exif, entry)
            if tag == TAG and kind in NUMBERS:
                (value,) = struct.unpack_from(f"{order}{NUMBERS[kind]}", exif, entry + 8)
                return value if value in range(1, 9) else AS_STORED
    except struct.error:  # cut short
        pass
    return AS_STORED


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn (H, W, …) pixels as EXIF's orientation, 1 to 8, says; 5 to 8 swap height and width."""
    flips: dict[int, tuple[slice, slice]] = {
        2: (slice(None), slice(None, None, -1)),
        3: (slice(None, None, -1), slice(None, None, -1)),
        4: (slice(None, None, -1), slice(None)),
        5: (slice(None), slice(None)),
        6: (slice(None, None, -1), slice(None)),
        7: (slice(None, None, -1), slice(None, None, -1)),
        8: (slice(None), slice(None, None, -1)),
    }
    if orientation == AS_STORED:
        return pixels
    turned = pixels[flips[orientation]]
    return np.swapaxes(turned, 0, 1) if swaps_sides(orientation) else turned


def swaps_sides(orientation: int) -> bool:
    """Tell whether an orientation swaps width and height."""
    return orientation >= 5
