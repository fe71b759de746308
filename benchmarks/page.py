"""The page that everything is measured on."""

from pathlib import Path

import numpy as np
import tifffile

from infra.samples import phase_contrast_field


def write_page(path: Path) -> Path:
    """Writes a page as LIVECell's are: 704x520, 8 bit, LZW."""
    pixels = (phase_contrast_field(0).pixels >> 8).astype(np.uint8)
    tifffile.imwrite(path, pixels, compression="lzw")
    return path
