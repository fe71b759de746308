"""How ground truths are read, whatever they are stored as."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from cytomask.errors import AmbiguousChannels, GroundTruthMismatch, ImageTooLarge, UnreadableImage
from cytomask.images import LIMITS, Limits
from cytomask.metrics import Mask
from cytomask.truths.masks import read_ground_truth

CELLS = np.zeros((5, 7), np.bool_)
CELLS[1:3, 2:6] = True


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def picture(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def of_palette() -> bytes:
    image = Image.fromarray(CELLS.astype(np.uint8) * 3).convert("P")
    image.putpalette([0, 0, 0, 9, 9, 9, 0, 200, 0, 0, 0, 1])
    return picture(image)


def read(content: bytes, pages: int = 1, limits: Limits = LIMITS) -> list[Mask]:
    return list(read_ground_truth(content, "truth", [(5, 7)] * pages, limits))


@pytest.mark.parametrize(
    "content",
    [
        picture(Image.fromarray(CELLS)),
        picture(Image.fromarray(CELLS.astype(np.uint8))),
        picture(Image.fromarray(CELLS.astype(np.uint8) * 255)),
        picture(Image.fromarray(CELLS.astype(np.uint16) * 65_535)),
        picture(Image.fromarray(np.dstack([CELLS * 0, CELLS * 0, CELLS * 1]).astype(np.uint8))),
        picture(Image.fromarray(np.dstack([CELLS * 255] * 3 + [CELLS * 0]).astype(np.uint8))),
        of_palette(),
        tiff(CELLS),  # in which tifffile calls 0 white
        tiff(CELLS, photometric="minisblack"),
        tiff(CELLS.astype(np.uint8) * 255, photometric="miniswhite"),
        tiff(np.where(CELLS, 0.001, 0).astype(np.float32)),
        tiff((np.arange(35).reshape(5, 7) * CELLS).astype(np.int32)),  # 5, 7
        tiff(np.dstack([CELLS * 1] * 3).astype(np.uint8), photometric="rgb"),
    ],
)
def test_what_is_not_zero_is_cell(content: bytes) -> None:
    (mask,) = read(content)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, CELLS)


def test_a_stack_has_a_mask_for_each_page() -> None:
    first, second = read(tiff(np.stack([CELLS, ~CELLS]), photometric="minisblack"), pages=2)
    np.testing.assert_array_equal(first, CELLS)
    np.testing.assert_array_equal(second, ~CELLS)


def test_another_size_is_refused_with_both() -> None:
    with pytest.raises(GroundTruthMismatch, match="truth is 5 x 7 pixels and the mask 7 x 5;"):
        read(tiff(CELLS.T.copy()))


def test_another_number_of_pages_is_refused_with_both() -> None:
    with pytest.raises(GroundTruthMismatch, match="truth has 1 pages and the mask 2;"):
        read(tiff(CELLS), pages=2)


def test_a_jpeg_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="PNG or TIFF"):
        read(picture(Image.fromarray(CELLS.astype(np.uint8) * 255), "JPEG"))


def test_several_channels_are_refused() -> None:
    with pytest.raises(AmbiguousChannels, match="2 channels"):
        read(tiff(np.stack([CELLS] * 2).astype(np.uint8), imagej=True, metadata={"axes": "CYX"}))


def test_a_page_past_the_limits_is_refused() -> None:
    with pytest.raises(ImageTooLarge):
        read(tiff(CELLS), limits=Limits(page_pixels=34))
