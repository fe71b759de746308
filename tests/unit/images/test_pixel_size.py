"""The size of a pixel, from files in OME's and ImageJ's formats."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile

from cytomask.images import open_image
from cytomask.images.pixel_size import size_of_imagej, size_of_ome
from cytomask.lengths import PixelSize


def pixel_size_of(**options: Any) -> PixelSize | None:
    """Write a page with these options and read the size of its pixels."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, np.zeros((16, 24), np.uint8), **options)
    with open_image(stream.getvalue(), "a.tif") as image:
        return image.pages[0].pixel_size


def test_ome_sizes_are_converted_from_their_unit() -> None:
    units = {"PhysicalSizeXUnit": "nm", "PhysicalSizeYUnit": "nm"}
    nanometres = {"PhysicalSizeX": 650, "PhysicalSizeY": 700, **units}
    assert pixel_size_of(ome=True, metadata=nanometres) == PixelSize(0.65, 0.7)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        *(("um", 1.0), ("micron", 1.0), (r"\u00B5m", 1.0), ("mm", 1000.0)),
        *(
            ("Microns", 1.0),
            ("micrometers", 1.0),
            ("micrometre", 1.0),
            ("millimeter", 1000.0),
            ("nanometers", 1e-3),
        ),
    ],
)
def test_imagej_resolution_becomes_a_pixel_size(unit: str, factor: float) -> None:
    found = pixel_size_of(imagej=True, resolution=(2 * factor, 4 * factor), metadata={"unit": unit})
    assert found is not None
    assert (found.width_um, found.height_um) == pytest.approx((0.5, 0.25))
    assert found.area_um2 == pytest.approx(0.125)


def test_dots_per_inch_give_no_pixel_size() -> None:
    assert pixel_size_of(resolution=(72, 72), resolutionunit="INCH") is None
    assert pixel_size_of(imagej=True, resolution=(300, 300)) is None
    assert pixel_size_of() is None


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e9", "x", ""])
def test_an_absurd_pixel_size_is_ignored(value: str) -> None:
    assert size_of_ome({"PhysicalSizeX": value, "PhysicalSizeY": "0.5"}) is None


def test_invalid_resolutions_are_ignored() -> None:
    assert size_of_imagej("um", (1, 0), (1, 1)) is None
    assert size_of_imagej("um", None, (1, 1)) is None
    assert size_of_imagej("furlong", (1, 1), (1, 1)) is None
