"""Mask images of every kind are read by their stored values, not their colours."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image

from cytomask.budget import Budget
from cytomask.errors import (
    AmbiguousChannels,
    GroundTruthMismatch,
    ImageTooLarge,
    NoBackground,
    NonFinitePixels,
    UnreadableImage,
)
from cytomask.images import LIMITS, Limits
from cytomask.metrics import Mask
from cytomask.truths import masks
from cytomask.truths.masks import read_ground_truth

CELLS = np.zeros((5, 7), np.bool_)
CELLS[1:3, 2:6] = True
WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (200, 0, 0)

Labels = NDArray[np.uint8]


def tiff(pixels: NDArray[Any], **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def picture(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def palette_png(labels: NDArray[np.integer[Any]], *colours: tuple[int, int, int]) -> bytes:
    image = Image.frombytes("P", labels.shape[::-1], labels.astype(np.uint8).tobytes())
    image.putpalette([part for colour in colours for part in colour])
    return picture(image)


def palette_tiff(labels: NDArray[np.integer[Any]], *colours: tuple[int, int, int]) -> bytes:
    entries = np.zeros((3, 256), np.uint16)
    entries[:, : len(colours)] = np.array(colours).T * 257
    return tiff(labels.astype(np.uint8), photometric="palette", colormap=entries)


def with_alpha(colours: NDArray[Any], alpha: NDArray[Any]) -> Image.Image:
    """Make RGBA from (H, W) grey values and (H, W) alpha, both 0..255."""
    return Image.fromarray(np.dstack([colours] * 3 + [alpha]).astype(np.uint8))


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
        palette_png(CELLS * 3, BLACK, RED, RED, (0, 0, 1)),
        palette_png(CELLS * 1, WHITE, BLACK),
        palette_png(CELLS * 1, WHITE, RED),
        palette_png(CELLS * 2, BLACK, RED, BLACK),
        palette_tiff(CELLS * 1, WHITE, BLACK),
        palette_tiff(CELLS * 2, BLACK, RED, BLACK),
        picture(with_alpha(CELLS * 0 + 255, CELLS * 255)),
        picture(with_alpha(CELLS * 0, CELLS * 128)),
        picture(with_alpha(CELLS * 255, CELLS * 255)),
        picture(with_alpha(CELLS * 255, CELLS * 254 + 1)),
        picture(Image.fromarray(np.dstack([CELLS * 0 + 9, CELLS * 255]).astype(np.uint8))),
        tiff(
            np.dstack([CELLS * 0 + 255] * 3 + [CELLS * 255]).astype(np.uint8),
            photometric="rgb",
            extrasamples=["unassalpha"],
        ),
        tiff(CELLS),  # in which tifffile calls 0 white
        tiff(CELLS, photometric="minisblack"),
        tiff(CELLS.astype(np.uint8) * 255, photometric="miniswhite"),
        tiff(np.where(CELLS, 0.001, 0).astype(np.float32)),
        tiff((np.arange(35).reshape(5, 7) * CELLS).astype(np.int32)),  # 5, 7
        tiff(np.dstack([CELLS * 1] * 3).astype(np.uint8), photometric="rgb"),
    ],
)
def test_every_value_but_zero_is_cell(content: bytes) -> None:
    (mask,) = read(content)
    assert mask.dtype == np.bool_
    np.testing.assert_array_equal(mask, CELLS)


def as_bits(labels: Labels) -> bytes:
    return picture(Image.fromarray(labels > 0))


WRITERS: dict[str, Callable[[Labels], bytes]] = {
    "PNG, 8 bits": lambda labels: picture(Image.fromarray(labels)),
    "PNG, 1 bit": as_bits,
    "PNG, 16 bits": lambda labels: picture(Image.fromarray(labels.astype(np.uint16) * 257)),
    "PNG, RGB": lambda labels: picture(Image.fromarray(np.dstack([labels * 0, labels, labels * 0]))),
    "PNG, alpha alone": lambda labels: picture(with_alpha(labels * 0 + 77, labels)),
    "PNG, opaque": lambda labels: picture(with_alpha(labels, labels * 0 + 255)),
    "PNG, palette": lambda labels: palette_png(labels % 4, WHITE, BLACK, RED, WHITE),
    "TIFF, palette": lambda labels: palette_tiff(labels % 4, WHITE, BLACK, RED, WHITE),
    "TIFF, bool": lambda labels: tiff(labels > 0),
    "TIFF, 0 is white": lambda labels: tiff(labels, photometric="miniswhite"),
    "TIFF, 0 is black": lambda labels: tiff(labels, photometric="minisblack", compression="deflate"),
    "TIFF, 32 bits": lambda labels: tiff(labels.astype(np.int32) * -1),
    "TIFF, soft": lambda labels: tiff(labels / np.float32(1000)),
    "TIFF, soft, 0 is white": lambda labels: tiff(labels / np.float32(1000), photometric="miniswhite"),
}


@pytest.mark.parametrize("writer", WRITERS)
@given(
    labels=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 255))
)
def test_labels_are_the_stored_values_in_every_format(writer: str, labels: Labels) -> None:
    stored = labels % 4 if "palette" in writer else labels
    content, size = WRITERS[writer](labels), [labels.shape]
    if stored.all():
        if "alpha" in writer or "opaque" in writer:
            return  # without any background the other of the two tells
        with pytest.raises(NoBackground, match="truth has no background"):
            list(read_ground_truth(content, "truth", size))
        return
    if "alpha" in writer and not stored.any():
        return  # transparent everywhere: the colours tell
    (cells,) = read_ground_truth(content, "truth", size)
    np.testing.assert_array_equal(cells, stored != 0)


@pytest.mark.parametrize(
    "labels", [CELLS + 1, CELLS * 0 + 255, CELLS * 0 + 1], ids=["1 and 2", "all 255", "all 1"]
)
def test_a_truth_without_background_is_refused(labels: Labels) -> None:
    for content in (tiff(labels.astype(np.uint8)), picture(Image.fromarray(labels.astype(np.uint8)))):
        with pytest.raises(
            NoBackground, match=r"no pixel is stored as 0.* all cell, outline it in a COCO file"
        ):
            read(content)


def test_a_page_of_a_stack_may_be_all_cell_if_another_is_not() -> None:
    stack = np.stack([CELLS, np.ones_like(CELLS)])
    assert [cells.mean() for cells in read(tiff(stack, photometric="minisblack"), pages=2)] == [
        CELLS.mean(),
        1,
    ]


def test_a_page_of_several_labels_and_no_background_is_refused_in_any_stack() -> None:
    stack = np.stack([CELLS, CELLS + 1]).astype(np.uint8)
    with pytest.raises(
        NoBackground, match=r"page 1 of truth has no background: .*several labels.*outline it in a COCO"
    ):
        read(tiff(stack, photometric="minisblack"), pages=2)


@pytest.mark.parametrize("spread", ["one pixel", "a frame"])
def test_a_background_labelled_1_is_found_despite_some_zeros(spread: str) -> None:
    page = np.full((500, 600), 1, np.uint8)
    page[100:300, 100:300] = 2
    if spread == "one pixel":
        page[0, 0] = 0
    else:
        page[[0, -1]] = page[:, [0, -1]] = 0
    with pytest.raises(
        NoBackground, match=r"are stored as 0, and 8\d% of it as 1, which looks like its back"
    ):
        list(read_ground_truth(tiff(page), "truth", [page.shape]))


@pytest.mark.parametrize("kind", ["one value", "cells of their own labels", "soft"])
def test_a_confluent_page_with_a_gap_is_read(kind: str) -> None:
    rows, columns = np.mgrid[:500, :600]
    labels = {
        "one value": np.full((500, 600), 255),
        "cells of their own labels": 1 + rows // 50 * 12 + columns // 50,
        "soft": np.clip(rows, 1, 255),
    }[kind].astype(np.uint16)
    labels[0:20, 0:20] = 0
    (cells,) = read_ground_truth(tiff(labels), "truth", [labels.shape])
    np.testing.assert_array_equal(cells, labels != 0)


def test_colours_that_transparency_hides_are_refused() -> None:
    other = np.roll(CELLS, 1, axis=1)
    with pytest.raises(AmbiguousChannels, match="page 0 of truth has colours that its transparency hides"):
        read(picture(with_alpha(CELLS * 255, other * 255)))


def test_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(NonFinitePixels, match="page 0 of truth has pixels that are NaN"):
        read(tiff(np.where(CELLS, np.nan, 0).astype(np.float32)))


def test_a_file_is_read_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "truth.png"
    path.write_bytes(palette_png(CELLS * 1, WHITE, BLACK))
    (cells,) = read_ground_truth(path, "truth", [(5, 7)])
    np.testing.assert_array_equal(cells, CELLS)
    path.write_bytes(picture(Image.fromarray(CELLS.astype(np.uint8)), "JPEG"))
    with pytest.raises(UnreadableImage, match="PNG or TIFF"):
        list(read_ground_truth(path, "truth", [(5, 7)]))


def test_a_jpeg_inside_a_tiff_is_refused() -> None:
    content = tiff(np.tile(CELLS, (16, 16)).astype(np.uint8) * 255, compression="jpeg")
    with pytest.raises(UnreadableImage, match="truth is compressed as JPEG"):
        list(read_ground_truth(content, "truth", [(80, 112)]))


def test_an_index_is_cell_even_if_its_palette_entry_is_transparent() -> None:
    stream = io.BytesIO(palette_png(CELLS * 2, BLACK, RED, RED))
    image = Image.open(stream)
    hidden = io.BytesIO()
    image.save(hidden, "PNG", transparency=bytes([255, 255, 0]))
    np.testing.assert_array_equal(read(hidden.getvalue())[0], CELLS)


def test_a_stack_has_a_mask_for_each_page() -> None:
    first, second = read(tiff(np.stack([CELLS, ~CELLS]), photometric="minisblack"), pages=2)
    np.testing.assert_array_equal(first, CELLS)
    np.testing.assert_array_equal(second, ~CELLS)


def test_another_size_is_refused_with_both() -> None:
    with pytest.raises(GroundTruthMismatch, match="truth is 5 x 7 pixels and the image 7 x 5;"):
        read(tiff(CELLS.T.copy()))


def test_another_number_of_pages_is_refused_with_both() -> None:
    with pytest.raises(GroundTruthMismatch, match="truth has 1 pages and the image 2;"):
        read(tiff(CELLS), pages=2)


def test_a_jpeg_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="PNG or TIFF"):
        read(picture(Image.fromarray(CELLS.astype(np.uint8) * 255), "JPEG"))


def test_several_channels_are_refused() -> None:
    with pytest.raises(AmbiguousChannels, match="2 channels"):
        read(tiff(np.stack([CELLS] * 2).astype(np.uint8), imagej=True, metadata={"axes": "CYX"}))


def test_a_mask_that_would_take_too_long_to_decode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "READING", Budget(0, "pack it otherwise"))
    with pytest.raises(ImageTooLarge, match=r"truth would take about 0 s .* pack it otherwise"):
        read(tiff(CELLS))


def test_a_page_past_the_limits_is_refused() -> None:
    with pytest.raises(ImageTooLarge):
        read(tiff(CELLS), limits=Limits(page_pixels=34))
