"""What a request may ask of a mask beyond the network's: filled holes, and no small regions."""

from collections.abc import Callable
from functools import partial

from cytomask.errors import PixelSizeUnknown
from cytomask.lengths import PixelSize
from cytomask.metrics import Mask
from cytomask.requests import Parameters

Cleaner = Callable[[Mask], Mask]


def pixel_size_of(parameters: Parameters, told: PixelSize | None) -> PixelSize | None:
    """Return the size of an image's pixels: the request's, or what the file told, or None."""
    return PixelSize(*parameters.pixel_size_um) if parameters.pixel_size_um else told


def cleaner_of(parameters: Parameters, pixel_size: PixelSize | None, name: str) -> Cleaner | None:
    """Return what cleans the masks of an image as its request asks; None if it asks for nothing.

    Args:
        parameters: of the request.
        pixel_size: of the image, as `pixel_size_of` returns it.
        name: of the image, for the error.

    Raises:
        PixelSizeUnknown: the smallest area is in square micrometres, and the size of a pixel is unknown.
    """
    if not parameters.cleans:
        return None
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
    """Fill the holes of a mask, (H, W) bool, if asked; then leave out regions under `min_area` pixels."""
    from cytomask.regions import find_regions  # noqa: PLC0415  # a cold start does without contourpy

    return find_regions(mask).mask(min_area=min_area, fill_holes=fill_holes)
