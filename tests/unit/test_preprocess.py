"""Normalisation, tiles and blending: properties that hold for any page."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cytomask.model import preprocess
from cytomask.model.preprocess import OVERLAP, TILE, Blend, Pixels, TilePlan, cut_tiles, normalise, plan_tiles

SIDES = st.integers(1, 3000)


def twelve_bit_page(height: int = 300, width: int = 200, seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 4096, (height, width), np.uint16)


def eight_bit_page(height: int = 300, width: int = 200, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)


def any_map(height: int, width: int) -> Pixels:
    return np.random.default_rng(0).normal(size=(height, width)).astype(np.float32)


def blend_unchanged(page: Pixels, plan: TilePlan) -> Pixels:
    """Cut the page into the plan's tiles and blend them unchanged, as an identity network would."""
    blend = Blend(plan)
    for places in plan.batches(7):
        blend.add_tiles(cut_tiles(page, plan, places), places)
    return blend.result()


def test_a_normalised_page_has_mean_0_and_deviation_1() -> None:
    normalised = normalise(twelve_bit_page())
    assert normalised.dtype == np.float32
    assert normalised.mean(dtype=np.float64) == pytest.approx(0, abs=1e-6)
    assert normalised.std(dtype=np.float64) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "copy",
    [
        lambda page: page.astype(np.uint16) * 16,
        lambda page: page.astype(np.uint16) * 257,
        lambda page: page.astype(np.uint16) + 40_000,
        lambda page: page.astype(np.int32) - 70_000,
        lambda page: page.astype(np.uint64) * 3 + 17,
        lambda page: page.astype(np.float16),
        lambda page: page.astype(np.float32),
        lambda page: page.astype(np.float64) * 2.0**-1000,
        lambda page: page.astype(np.float64) * 2.0**1000,
        lambda page: page.astype(">u2"),
        np.asfortranarray,
    ],
    ids=[
        "12 bit",
        "16 bit",
        "offset",
        "negative",
        "gain and offset",
        "half",
        "float",
        "faint double",
        "huge double",
        "big-endian",
        "by columns",
    ],
)
def test_copies_of_a_page_are_the_same_to_the_last_bit(copy: Any) -> None:
    page = eight_bit_page()
    assert np.array_equal(normalise(copy(page)), normalise(page))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_copies_of_a_page_with_a_dead_border_are_the_same_too(dtype: type[np.generic]) -> None:
    page = eight_bit_page()
    page[:, :24] = 0
    assert preprocess.find_fill(page) is not None
    assert np.array_equal(normalise(page.astype(dtype)), normalise(page))


def test_fractions_of_a_page_are_nearly_the_same() -> None:
    page = twelve_bit_page()
    fractions = (page / 4095).astype(np.float32)
    np.testing.assert_allclose(normalise(fractions), normalise(page), atol=1e-6)


def test_a_small_contrast_on_a_bright_background_is_kept() -> None:
    page = eight_bit_page()
    bright = page.astype(np.float32) + np.float32(2**22)
    assert np.array_equal(normalise(bright), normalise(page))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64, np.bool_])
def test_a_constant_page_is_all_zeros(dtype: type[np.generic]) -> None:
    normalised = normalise(np.ones((5, 7), dtype))
    assert normalised.dtype == np.float32
    assert np.array_equal(normalised, np.zeros((5, 7)))


def test_black_and_white_is_a_page() -> None:
    assert np.array_equal(normalise(np.array([[True, False]])), [[1, -1]])


def test_an_outliers_distance_grows_with_the_page() -> None:
    page = np.zeros((10, 10), np.uint8)
    page[3, 4] = 1
    assert normalise(page)[3, 4] == pytest.approx(99**0.5)


def test_a_bright_half_changes_the_other_half() -> None:
    page = twelve_bit_page(300, 600)
    brighter = page.copy()
    brighter[:, 300:] += 4000
    assert np.all(normalise(brighter)[:, :300] < normalise(page)[:, :300])


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1024), (63, 1024), (64, 1024), (65, 1024), (300, 1024), (3, 70_000)]
)
def test_a_page_in_bands_is_normalised_as_a_whole(height: int, width: int) -> None:
    page = twelve_bit_page(height, width).astype(np.float64)
    np.testing.assert_allclose(normalise(page), (page - page.mean()) / page.std(), atol=1e-6)


def test_the_page_itself_stays_as_it_was() -> None:
    page = twelve_bit_page()
    page.flags.writeable = False
    normalise(page)
    assert np.array_equal(page, twelve_bit_page())


@settings(deadline=None)
@given(SIDES, SIDES)
def test_tiles_cover_every_pixel_and_overlap_enough(height: int, width: int) -> None:
    plan = plan_tiles(height, width)
    for length, starts in ((height, plan.rows), (width, plan.columns)):
        assert starts[0] == 0
        assert starts[-1] == max(length - TILE, 0)
        assert all(TILE - (after - before) >= OVERLAP for before, after in pairwise(starts))
        assert all(after > before for before, after in pairwise(starts))


@settings(deadline=None)
@given(SIDES)
def test_plans_use_the_fewest_tiles(length: int) -> None:
    count = len(plan_tiles(length, 1).rows)
    assert count == 1 or (count - 1) * TILE - (count - 2) * OVERLAP < length


def test_a_livecell_page_takes_six_tiles() -> None:
    plan = plan_tiles(520, 704)
    assert plan.rows == (0, 232)
    assert plan.columns == (0, 208, 416)
    assert plan.count == 6


def test_tiles_are_the_pixels_of_their_places() -> None:
    page = any_map(300, 500)
    plan = plan_tiles(300, 500)
    [places] = plan.batches(plan.count)
    assert places == [(row, column) for row in plan.rows for column in plan.columns]
    tiles = cut_tiles(page, plan, places)
    assert tiles.shape == (plan.count, 1, TILE, TILE)
    for tile, (row, column) in zip(tiles, places, strict=True):
        assert np.array_equal(tile[0], page[row : row + TILE, column : column + TILE])


def test_a_small_page_is_reflected_past_its_edges() -> None:
    page = any_map(200, 150)
    tile = cut_tiles(page, plan_tiles(200, 150), [(0, 0)])[0, 0]
    assert np.array_equal(tile[:200, :150], page)
    assert np.array_equal(tile[200:, :150], page[-2 : -2 - 88 : -1])
    assert np.array_equal(tile[:200, 150:], page[:, -2 : -2 - 138 : -1])


def test_a_single_pixel_fills_its_tile() -> None:
    tile = cut_tiles(np.full((1, 1), 3, np.float32), plan_tiles(1, 1), [(0, 0)])
    assert np.array_equal(tile, np.full((1, 1, TILE, TILE), 3))


@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 500), (500, 1), (100, 90), (224, 224), (223, 225), (225, 223), (520, 704), (30, 1000)],
)
def test_tiles_cut_from_a_map_blend_into_that_map(height: int, width: int) -> None:
    page = any_map(height, width)
    blended = blend_unchanged(page, plan_tiles(height, width))
    assert blended.dtype == np.float32
    np.testing.assert_allclose(blended, page, rtol=1e-5, atol=0)


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(2, 16), st.data())
def test_any_plan_blends_tiles_into_their_map(height: int, width: int, tile: int, data: Any) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    page = any_map(height, width)
    blended = blend_unchanged(page, plan_tiles(height, width, tile, overlap))
    np.testing.assert_allclose(blended, page, rtol=1e-5, atol=0)


def test_the_blend_of_tiles_that_disagree_is_linear() -> None:
    plan = plan_tiles(TILE, 2 * TILE - OVERLAP)
    blend = Blend(plan)
    [places] = plan.batches(2)
    blend.add_tiles(np.stack([np.full((1, TILE, TILE), value, np.float32) for value in (0, 1)]), places)
    line = blend.result()[100]
    assert np.array_equal(line[: TILE - OVERLAP], np.zeros(TILE - OVERLAP))
    assert np.array_equal(line[TILE:], np.ones(TILE - OVERLAP))
    np.testing.assert_allclose(np.diff(line), np.diff(line).clip(0, 1.01 / OVERLAP), atol=1e-7)


def test_the_taper_is_symmetric_and_never_0() -> None:
    weight = preprocess.taper(TILE, OVERLAP)
    assert weight.shape == (TILE,)
    assert weight.dtype == np.float32
    assert weight.min() > 0
    assert weight.max() == 1
    assert np.array_equal(weight, weight[::-1])


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 500), (224, 224), (520, 704)])
def test_resizing_keeps_a_constant(height: int, width: int) -> None:
    resized = preprocess.resize(np.full((height, width), 0.3, np.float32), TILE, TILE)
    assert resized.shape == (TILE, TILE)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, 0.3, rtol=1e-6)


def test_resizing_takes_height_before_width() -> None:
    assert preprocess.resize(any_map(30, 40), 7, 9).shape == (7, 9)


def test_shrinking_averages_over_every_pixel() -> None:
    page = any_map(448, 448)
    assert preprocess.resize(page, TILE, TILE).mean() == pytest.approx(page.mean(), abs=1e-3)
    stripes = np.tile(np.array([0, 0, 0, 0, 8, 0, 0, 0], np.float32), (8, 28))
    assert preprocess.resize(stripes, 8, 28).max() < 3


def test_a_ramp_stays_a_ramp_when_it_grows() -> None:
    ramp = np.arange(10, dtype=np.float32)[None].repeat(10, axis=0)
    grown = preprocess.resize(ramp, 10, 20)[0]
    np.testing.assert_allclose(np.diff(grown)[1:-1], 0.5, atol=1e-6)


def textured(height: int = 300, width: int = 400, seed: int = 0) -> NDArray[np.uint8]:
    """Make a page with a microscope's distribution of grey values: around a middle, far from both ends."""
    noise = np.random.default_rng(seed).normal(128, 12, (height, width))
    return np.clip(np.rint(noise), 60, 200).astype(np.uint8)


def test_hot_and_dead_pixels_hardly_move_the_others() -> None:
    page = textured()
    changed = page.astype(np.uint16)
    rng = np.random.default_rng(1)
    hot, dead = (rng.choice(page.size, 150, replace=False) for _ in range(2))
    changed.flat[hot], changed.flat[dead] = 65535, 0
    same = changed == page
    assert np.abs(normalise(changed) - normalise(page))[same].max() < 0.35
    assert np.abs(normalise(changed)).max() < 30


def test_a_scale_bar_hardly_moves_the_others() -> None:
    page = textured()
    changed = page.copy()
    changed[280:286, 250:330] = 255
    same = changed == page
    assert np.abs(normalise(changed) - normalise(page))[same].max() < 0.5


@pytest.mark.parametrize("value", [-10_000.0, -3.4e38, 0.0, 3.4e38])
@pytest.mark.parametrize("band", [np.s_[:30], np.s_[:, -4:], np.s_[100:140], np.s_[:140]])
def test_fill_does_not_change_the_other_pixels(value: float, band: Any) -> None:
    page = textured().astype(np.float32)
    filled = page.copy()
    filled[band] = value
    normalised = normalise(filled)
    assert np.all(normalised[band] == 0)
    kept = np.ones(page.shape, np.bool_)
    kept[band] = False
    assert np.abs(normalised - normalise(page))[kept].max() < 0.1


@pytest.mark.parametrize("edge", [np.s_[:, :16], np.s_[:3], np.s_[-20:], np.s_[:, -40:]])
@pytest.mark.parametrize("value", [0, 255])
def test_a_dead_or_saturated_border_is_left_out(edge: Any, value: int) -> None:
    page = textured()
    bordered = page.copy()
    bordered[edge] = value
    kept = np.ones(page.shape, np.bool_)
    kept[edge] = False
    assert np.abs(normalise(bordered) - normalise(page))[kept].max() < 0.1


def test_a_border_of_camera_noise_is_left_out() -> None:
    page = textured().astype(np.uint16) * 16
    page[:, :20] = np.random.default_rng(2).integers(100, 110, (300, 20))
    assert np.all(normalise(page)[:, :20] == 0)


def test_a_background_of_one_value_is_not_fill() -> None:
    page = np.zeros((200, 200), np.uint8)
    page[40:80, 40:90] = 200
    assert preprocess.find_fill(page) is None
    assert normalise(page)[0, 0] < 0 < normalise(page)[50, 50]


def test_dark_and_saturated_cells_are_not_fill() -> None:
    page = textured()
    for row, column in ((50, 60), (150, 200), (220, 320)):
        page[row : row + 12, column : column + 12] = 255
    assert preprocess.find_fill(page) is None


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32), st.integers(1, 4))
def test_any_page_of_any_values_is_normalised(height: int, width: int, seed: int, values: int) -> None:
    rng = np.random.default_rng(seed)
    page = rng.choice(rng.integers(0, 65536, values), (height, width)).astype(np.uint16)
    normalised = normalise(page)
    assert normalised.shape == page.shape
    assert np.isfinite(normalised).all()
    assert normalised.any() == (page.min() != page.max())


@pytest.mark.parametrize(
    "stretch",
    [
        lambda page: page * 0.8e306,
        lambda page: (page - 100) * 1.7e306,  # its range is more than a float64 can hold
        lambda page: page * 5e-324,
        lambda page: (page * 1.7e36).astype(np.float32),
        lambda page: (page * 2**55).astype(np.int64),
        lambda page: ((page - 100) * 2**56).astype(np.int64),
        lambda page: page.astype(np.int64) + 2**62,
        lambda page: page.astype(np.uint64) + np.uint64(2**63),
    ],
    ids=["huge", "overflowing", "subnormal", "float32", "int64", "all of int64", "offset", "offset uint64"],
)
def test_extreme_numbers_are_normalised_as_plain_ones(
    stretch: Callable[[NDArray[Any]], NDArray[Any]],
) -> None:
    page = np.random.default_rng(0).integers(0, 200, (64, 64)).astype(np.float64)
    with np.errstate(all="raise", under="ignore"):
        normalised = normalise(stretch(page))
    np.testing.assert_allclose(normalised, normalise(page), atol=1e-6)
