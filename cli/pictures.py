"""Draw pages, masks and overlays as small PNGs for an HTML file."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cytomask import images
from cytomask.images import AGREED, FALSE_NEGATIVE, FALSE_POSITIVE
from cytomask.metrics import Mask
from cytomask.model.preprocess import resize

Plane = NDArray[np.float32]


def fitted(shape: tuple[int, int], longest: int) -> tuple[int, int]:
    """Shrink a height and width in proportion to at most `longest`; never enlarge them."""
    height, width = shape
    shrink = min(longest / max(height, width), 1)
    return max(round(height * shrink), 1), max(round(width * shrink), 1)


def grey_page(pixels: NDArray[np.generic], longest: int) -> Plane:
    """Scale a page (H, W) of any real dtype to grey values in 0..255, at most `longest` on a side."""
    low, high = images.display_range(pixels)
    gain = 255 / (high - low) if high > low else 0.0
    # Scale before converting: a page may have values that float32 cannot hold.
    grey = np.clip((pixels.astype(np.float64) - low) * gain, 0, 255).astype(np.float32)
    return resize(grey, *fitted(grey.shape, longest))


def share_of(mask: Mask, longest: int) -> Plane:
    """Scale a mask (H, W) to each pixel's share of cell, 0..1, so that thin lines fade but do not break."""
    return resize(mask.astype(np.float32), *fitted(mask.shape, longest))


def compared_uri(mask: Mask, cells: Mask, longest: int) -> str:
    """Draw where two masks of a page, (H, W) bool, agree and differ, as the data address of a PNG.

    Grey is cell in both, orange only in the first, blue only in the second.
    """
    kinds = (  # each is scaled on its own
        (mask & cells, AGREED),
        (mask & ~cells, FALSE_POSITIVE),
        (~mask & cells, FALSE_NEGATIVE),
    )
    shares = [share_of(each, longest)[..., None] * colour for each, colour in kinds]
    return png_uri(np.sum(shares, axis=0))  # H, W, 3


def png_uri(values: NDArray[Any]) -> str:
    """Return (H, W) or (H, W, 3) values in 0..255 as the data address of an 8-bit PNG."""
    stream = io.BytesIO()
    Image.fromarray(np.rint(values).astype(np.uint8)).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
