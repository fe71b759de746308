"""Clean masks as a request asks: fill holes, remove small regions.

Imported only for requests that ask for it, so that a cold start need not load contourpy.
"""

from collections.abc import Callable
from functools import partial

from cytomask.errors import PixelSizeUnknown
from cytomask.lengths import PixelSize
from cytomask.metrics import Mask
from cytomask.regions import find_regions
from cytomask.requests import Parameters

Cleaner = Callable[[Mask], Mask]


def cleaner_of(parameters: Parameters, pixel_size: PixelSize | None, name: str) -> Cleaner:
    """Return a function that cleans the mask of a page as its request asks.

    Args:
        parameters: the request's parameters.
        pixel_size: size of the page's pixels, if the request or the file gives it.
        name: name of the page, for the error.

    Raises:
        PixelSizeUnknown: the smallest area is in square micrometres, and the size of a pixel is unknown.
    """
    least: float = parameters.min_size_px or 0
    if parameters.min_size_um2:
        if pixel_size is None:
            raise PixelSizeUnknown(
                f"`min_size_um2`: {name} does not say how large its pixels are; give `pixel_size_um` too, or "
                "`min_size_px` instead"
            )
        least = parameters.min_size_um2 / pixel_size.area_um2
    return partial(clean, min_area=least, fill_holes=parameters.fill_holes)


def clean(mask: Mask, *, min_area: float, fill_holes: bool) -> Mask:
    """Fill the holes of a mask, (H, W) bool, if asked; then remove regions under `min_area` pixels."""
    return find_regions(mask).mask(min_area=min_area, fill_holes=fill_holes)
