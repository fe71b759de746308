"""Masks, probabilities and overlays are encoded in their formats."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from image_files import HEIGHT, WIDTH, decoded, mask_of_a_disc, noise, planes
from PIL import Image

from cytomask import images


def test_a_mask_of_the_longest_side_is_written() -> None:
    mask = np.zeros((1, 1_000_000), np.bool_)
    mask[0, ::3] = True
    with Image.open(io.BytesIO(images.encode_mask(mask))) as written:
        assert written.size == (1_000_000, 1)


def test_a_mask_is_written_as_0_and_255_in_one_channel() -> None:
    mask = mask_of_a_disc()
    image = Image.open(io.BytesIO(images.encode_mask(mask)))
    assert (image.format, image.mode) == ("PNG", "L")
    assert np.array_equal(np.asarray(image), np.where(mask, 255, 0))


def test_a_probability_is_written_in_16_bits_to_the_nearest_level() -> None:
    probability = np.linspace(0, 1, 300 * 40, dtype=np.float32).reshape(300, 40)  # H, W
    png = images.encode_probability(probability)
    image = Image.open(io.BytesIO(png))
    assert (image.format, image.mode) == ("PNG", "I;16")
    assert np.array_equal(np.asarray(image), np.round(probability * np.float32(65535)))
    assert decoded(images.encode_probability(np.array([[0, 0.5, 1]], np.float32))).tolist() == [
        [0, 32768, 65535]
    ]


def test_an_overlay_is_grey_outside_tinted_inside_and_outlined_between() -> None:
    page = np.full((40, 50), 100, np.uint8)
    page[0, :25], page[0, 25:] = 0, 255
    mask = mask_of_a_disc()
    drawn = decoded(images.encode_overlay(page, mask))
    assert drawn.shape == (40, 50, 3)
    assert drawn[0, 0].tolist() == [0, 0, 0]
    assert drawn[0, 49].tolist() == [255, 255, 255]
    assert drawn[5, 5].tolist() == [100, 100, 100]
    red, green, blue = drawn[20, 25].tolist()
    assert 60 < blue < 100 < green < red < 140
    outlined = (drawn == images.OUTLINE).all(axis=-1)
    assert outlined[20, [12, 13, 37, 38]].all()
    assert not outlined[20, [11, 14, 25, 36, 39]].any()


def test_the_edge_of_the_page_is_not_outlined() -> None:
    everything = decoded(images.encode_overlay(planes(), np.ones((HEIGHT, WIDTH), bool)))
    assert not (everything == images.OUTLINE).all(axis=-1).any()


def test_a_cell_of_one_pixel_is_outlined() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10, 20] = True
    drawn = decoded(images.encode_overlay(np.zeros((HEIGHT, WIDTH), np.uint8), mask))
    outlined = (drawn == images.OUTLINE).all(axis=-1)
    assert np.argwhere(outlined).tolist() == [[9, 20], [10, 19], [10, 20], [10, 21], [11, 20]]


def test_an_overlay_is_stretched_between_its_percentiles() -> None:
    page = np.arange(10_000, dtype=np.float64).reshape(100, 100) * 3 - 500  # H, W
    page[0, 0], page[99, 99] = -1e9, 1e9
    grey = decoded(images.encode_overlay(page, np.zeros((100, 100), bool)))[..., 0].ravel()
    assert grey[:50].max() == 0
    assert grey[9950:].min() == 255
    assert abs(int(grey[5000]) - 127) <= 1
    assert (np.diff(grey.astype(int)) >= 0).all()


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int16", "uint16", "int64", "float16", "float32", "float64"]
)
def test_an_overlay_takes_pages_of_any_real_type(dtype: str) -> None:
    page = (planes() > 127).astype(dtype)
    drawn = decoded(images.encode_overlay(page, np.zeros((HEIGHT, WIDTH), bool)))
    assert np.array_equal(drawn[..., 1], np.where(page, 255, 0))


def test_an_overlay_of_a_constant_page_is_dark() -> None:
    page = np.full((HEIGHT, WIDTH), 4000, np.uint16)
    assert decoded(images.encode_overlay(page, np.zeros((HEIGHT, WIDTH), bool))).max() == 0


def test_bands_of_rows_leave_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    page, mask = noise(100, 40), noise(100, 40, seed=1) > 200
    probability = (page / np.float32(255)).astype(np.float32)
    encoders: list[Callable[[], bytes]] = [
        lambda: images.encode_overlay(page, mask),
        lambda: images.encode_probability(probability),
    ]
    whole = [decoded(encode()) for encode in encoders]
    monkeypatch.setattr(images.encode, "ROWS_AT_ONCE", 7)
    for expected, encode in zip(whole, encoders, strict=True):
        assert np.array_equal(decoded(encode()), expected)


def test_the_percentiles_of_a_large_page_are_taken_from_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.encode, "SAMPLED_PIXELS", 1000)
    page = np.tile(np.arange(200, dtype=np.uint8), (200, 1))  # H, W
    grey = decoded(images.encode_overlay(page, np.zeros((200, 200), bool)))[0, :, 0]
    assert grey[0] == 0
    assert grey[199] == 255
    assert abs(int(grey[100]) - 128) <= 4


def test_an_overlay_of_an_overflowing_range_is_stretched_normally() -> None:
    page = planes().astype(np.float64)
    nothing = np.zeros((HEIGHT, WIDTH), bool)
    with np.errstate(all="raise"):
        drawn = decoded(images.encode_overlay((page - 128) * 1.4e306, nothing))
    np.testing.assert_allclose(drawn, decoded(images.encode_overlay(page, nothing)).astype(int), atol=1)


def test_a_wide_page_of_one_row_is_drawn_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.encode, "PIXELS_AT_ONCE", 100)
    page, nothing = noise(3, 90), np.zeros((3, 90), bool)
    assert decoded(images.encode_overlay(page, nothing)).shape == (3, 90, 3)


@pytest.mark.parametrize(("height", "width"), [(50_000, 1), (50_000, 2), (1, 50_000)])
def test_every_output_of_a_thin_page_of_noise_is_written(height: int, width: int) -> None:
    page = noise(height, width)
    probability = (page / 255).astype(np.float32)
    assert np.array_equal(decoded(images.encode_mask(page > 127)), (page > 127) * 255)
    assert decoded(images.encode_probability(probability)).shape == (height, width)
    assert decoded(images.encode_overlay(page, page > 127)).shape == (height, width, 3)
