"""The page that all benchmarks use."""

from pathlib import Path

import numpy as np
import tifffile

from cytomask.samples.fields import phase_contrast_field

SIDES = (520, 704)  # LIVECell's height and width, in pixels


def write_page(path: Path, sides: tuple[int, int] = SIDES) -> Path:
    """Write a page like LIVECell's: 8 bit, LZW, 704x520 by default."""
    pixels = (phase_contrast_field(0, *sides).pixels >> 8).astype(np.uint8)
    tifffile.imwrite(path, pixels, compression="lzw")
    return path
