"""Reduced views and tiles that the browser gets of a page."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cytomask.web.raster import TILE, halved, mask_raster, painted, raster_of, shares_above

SIDES = st.integers(1, 140)


def shades(dtype: Any) -> st.SearchStrategy[NDArray[Any]]:
    return st.tuples(SIDES, SIDES).flatmap(lambda shape: arrays(dtype, shape))


@given(shades(np.uint8) | shades(np.uint16))
def test_a_view_has_half_the_sides_and_the_mean_of_each_four(view: NDArray[Any]) -> None:
    height, width = view.shape
    whole = np.pad(view, ((0, height % 2), (0, width % 2)), mode="edge").astype(np.float64)
    means = whole.reshape(-(-height // 2), 2, -(-width // 2), 2).mean(axis=(1, 3))
    small = halved(view)
    assert small.dtype == view.dtype
    assert np.array_equal(small, np.floor(means + 0.5))


def test_views_shrink_until_one_tile_holds_the_page() -> None:
    raster = raster_of(np.zeros((3 * TILE + 1, 40), np.uint16), "uint16")
    assert raster.levels == 3
    assert raster.view(2).shape == (385, 10)
    assert raster.tile(2, 0, 0) is not None
    assert raster.tile(2, 0, 1) is None
    assert raster_of(np.zeros((TILE, TILE), np.uint8), "uint8").levels == 1


def test_threads_that_ask_for_views_at_once_get_the_same() -> None:
    raster = raster_of(np.zeros((4 * TILE, 4 * TILE), np.uint8), "uint8")
    with ThreadPoolExecutor(8) as pool:
        shapes = set(pool.map(lambda _: raster.view(2).shape, range(64)))
    assert shapes == {(TILE, TILE)}


@given(st.integers(1, 3 * TILE), st.integers(1, 2 * TILE))
def test_the_tiles_of_a_level_make_up_the_page(height: int, width: int) -> None:
    page = np.arange(height * width, dtype=np.uint16).reshape(height, width)
    raster = raster_of(page, "uint16")
    rows = []
    for row in range(-(-height // TILE)):
        tiles = [raster.tile(0, column, row) for column in range(-(-width // TILE))]
        rows.append(np.hstack([tile for tile in tiles if tile is not None]))
    assert np.array_equal(np.vstack(rows), page)


@given(arrays(np.float32, (9, 7), elements=st.floats(-1e6, 1e6, allow_nan=False, width=32)))
def test_other_types_are_spread_over_16_bits_and_their_values_told(pixels: NDArray[np.float32]) -> None:
    raster = raster_of(pixels, "float32")
    assert raster.shades.dtype == np.uint16
    back = raster.low + raster.shades * raster.step
    assert np.allclose(back, pixels, atol=float(np.ptp(pixels)) / 65_535 + 1e-3)


def test_a_constant_page_and_huge_floats_are_shown_without_a_fault() -> None:
    assert raster_of(np.full((4, 4), 7.5), "float64").describe()["window"] == [0.0, 1.0]
    assert not raster_of(np.array([[-1.7e308, 1.7e308]]), "float64").shades.any()


@given(arrays(np.uint16, (12, 11)))
def test_the_confluence_at_every_threshold_counts_pixels(probability: NDArray[np.uint16]) -> None:
    shares = shares_above(probability)
    for place in (0, 1, 250, 500, 999, 1000):
        limit = np.ceil(place / 1000 * 65_535 - 0.5)
        assert shares[place] == pytest.approx((probability >= limit).mean())


@given(st.integers(1, 2 * TILE), st.integers(1, 2 * TILE))
def test_painted_tiles_take_their_place_and_nothing_else_changes(height: int, width: int) -> None:
    base = np.zeros((height, width), bool)
    mask = painted(base, [(0, 0, np.ones((TILE, TILE), bool))])
    assert mask[:TILE, :TILE].all()
    assert not mask[TILE:].any() and not mask[:, TILE:].any()
    assert not base.any()


def test_a_mask_is_0_and_255() -> None:
    assert mask_raster(np.array([[True, False]])).shades.tolist() == [[255, 0]]


def test_one_extreme_pixel_leaves_the_others_their_shades() -> None:
    pixels = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100)
    pixels[50, 50] = 1e30
    raster = raster_of(pixels, "float32")
    assert raster.shades[50, 50] == 65_535
    others = np.delete(raster.shades.ravel(), 5050)
    assert np.unique(others).size > 9_000
    shown = raster.low + others.astype(np.float64) * raster.step
    assert np.allclose(shown, np.delete(pixels.ravel(), 5050), atol=1e-4)


def test_a_few_bright_pixels_on_a_black_page_keep_their_values() -> None:
    pixels = np.zeros((100, 100), np.float32)
    pixels[0, :3] = 1, 2, 3
    raster = raster_of(pixels, "float32")
    assert np.allclose(raster.low + raster.shades[0, :3] * raster.step, [1, 2, 3], atol=1e-3)
