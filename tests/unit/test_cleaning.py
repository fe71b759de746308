"""Masks cleaned as a request asks: holes filled, small regions left out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cytomask.cleaning import clean, cleaner_of
from cytomask.errors import PixelSizeUnknown
from cytomask.lengths import PixelSize
from cytomask.metrics import Mask
from cytomask.model.predictor import Prediction, logit
from cytomask.requests import Parameters

masks = arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=12))


def drawn(*rows: str) -> Mask:
    """A mask from rows of text, in which # is cell."""
    return np.array([[pixel == "#" for pixel in row] for row in rows])


RING_AND_SPECK = drawn("###..", "#.#..", "###.#")


def test_a_plain_request_cleans_nothing() -> None:
    assert not Parameters(pixel_size_um=(0.5, 0.5)).cleans


def test_small_regions_are_left_out() -> None:
    cleaner = cleaner_of(Parameters(min_size_px=8), None, "a.tif")
    assert np.array_equal(cleaner(RING_AND_SPECK), drawn("###..", "#.#..", "###.."))


def test_holes_are_filled_before_regions_are_measured() -> None:
    cleaner = cleaner_of(Parameters(min_size_px=9, fill_holes=True), None, "a.tif")
    assert np.array_equal(cleaner(RING_AND_SPECK), drawn("###..", "###..", "###.."))


def test_an_area_in_micrometres_follows_the_size_of_a_pixel() -> None:
    parameters = Parameters(min_size_um2=1.0)
    large, small = (cleaner_of(parameters, PixelSize(*sides), "a.tif") for sides in ((2, 0.5), (0.5, 0.2)))
    assert np.array_equal(large(RING_AND_SPECK), RING_AND_SPECK)
    assert not small(RING_AND_SPECK).any()  # 10 pixels of 0.1 square micrometres are the least


def test_an_area_in_micrometres_of_unknown_pixels_is_refused_by_name() -> None:
    with pytest.raises(PixelSizeUnknown, match=r"`min_size_um2`: a.tif does not say .* give `pixel_size_um`"):
        cleaner_of(Parameters(min_size_um2=1.0), None, "a.tif")


def test_the_requests_pixel_size_counts_more_than_the_files() -> None:
    told = PixelSize(0.3, 0.3)
    assert PixelSize.chosen(None, told) == told
    assert PixelSize.chosen(None, None) is None
    assert PixelSize.chosen((0.5, 0.6), told) == PixelSize(0.5, 0.6)


@given(masks, st.integers(0, 20), st.booleans())
def test_cleaning_twice_is_cleaning_once(mask: Mask, least: int, fill: bool) -> None:
    once = clean(mask, min_area=least, fill_holes=fill)
    assert np.array_equal(clean(once, min_area=least, fill_holes=fill), once)


@given(
    arrays.arrays(np.float32, (9, 11), elements=st.floats(-3, 3, width=32)),
    st.floats(0, 1),
    st.integers(0, 30),
    st.booleans(),
)
def test_confluence_lies_between_low_and_high_at_any_threshold_after_cleaning_too(
    logits: np.ndarray[tuple[int, int], np.dtype[np.float32]], threshold: float, least: int, fill: bool
) -> None:
    mask = logits >= logit(threshold)
    plain = Prediction(logits, mask, None)
    cleaned = plain.cleaned(lambda mask: clean(mask, min_area=least, fill_holes=fill))
    for prediction in (plain, cleaned):
        assert prediction.confluence_low <= prediction.confluence <= prediction.confluence_high
    assert cleaned.confluence == clean(mask, min_area=least, fill_holes=fill).mean()
