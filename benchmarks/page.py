"""The page that everything is measured on."""

from pathlib import Path

import numpy as np
import tifffile

from cytomask.samples.fields import phase_contrast_field

SIDES = (520, 704)  # LIVECell's height and width, in pixels


def write_page(path: Path, sides: tuple[int, int] = SIDES) -> Path:
    """Writes a page as LIVECell's are: 704x520 if no other height and width are given, 8 bit, LZW."""
    pixels = (phase_contrast_field(0, *sides).pixels >> 8).astype(np.uint8)
    tifffile.imwrite(path, pixels, compression="lzw")
    return path
