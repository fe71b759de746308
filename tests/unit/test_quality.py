"""Quality flags: each one fires on its fault, none on a good page, and copies of a page get the same."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_data import GOOD

from cytomask.model import quality
from cytomask.model.predictor import Predictor
from cytomask.model.preprocess import Pixels, normalise
from cytomask.model.quality import Measures, check, describe, flags_of, look_at, measure, share_above
from cytomask.model.quality_bounds import BOUNDS
from cytomask.samples.degradations import MODALITIES, blurred, noisy, rescaled
from cytomask.samples.empty import empty_page
from cytomask.samples.fields import phase_contrast_field


def field(seed: int = 2) -> NDArray[np.uint16]:
    return phase_contrast_field(seed, 240, 320).pixels


def logits_like(page: NDArray[Any], share: float = 0.3, sure: float = 5.0) -> Pixels:
    """Make logits of a confident network, with this share of cell."""
    logits = np.full(page.shape, -sure, np.float32)
    logits[: round(share * page.shape[0])] = sure
    return logits


def names(page: NDArray[Any], logits: Pixels | None = None) -> set[str]:
    logits = logits_like(page) if logits is None else logits
    return {flag.name for flag in check(look_at(page, normalise(page)), logits, squashed=False)}


def test_a_good_page_has_no_flag() -> None:
    assert flags_of(GOOD) == []


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("EMPTY", "confluence_high", 0.0),
        ("OUT_OF_FOCUS", "sharpness", 0.26),
        ("SATURATED", "saturated", 0.2),
        ("LOW_CONTRAST", "levels", 0),
        ("UNEVEN_LIGHT", "unevenness", 0.99),
        ("UNUSUAL", "unusualness", 20),
        ("UNCERTAIN", "doubt", 0.9),
        ("SQUASHED", "shrinkage", 27),
    ],
)
def test_each_number_out_of_bounds_has_its_flag(name: str, field: str, value: float) -> None:
    measures = {key: getattr(GOOD, key) for key in GOOD.__struct_fields__} | {field: value}
    (flag,) = flags_of(Measures(**measures))
    assert (flag.name, flag.value) == (name, value)


def test_shares_are_counted_at_a_probability() -> None:
    logits = np.log(np.array([[0.1, 0.29, 0.31, 0.69, 0.71, 0.9]], np.float32))
    logits -= np.log1p(-np.exp(logits))
    assert share_above(logits, 0.3) == pytest.approx(4 / 6)
    assert share_above(logits, 0.7) == pytest.approx(2 / 6)


def test_a_page_that_the_network_is_unsure_of_is_uncertain() -> None:
    page = field()
    assert "UNCERTAIN" in names(page, logits_like(page, sure=0.5))
    assert "UNCERTAIN" not in names(page, logits_like(page, sure=5))


def test_a_blurred_page_is_out_of_focus() -> None:
    page = field()
    rng = np.random.default_rng(0)
    assert "OUT_OF_FOCUS" in names(blurred(4)(page, rng).page)
    assert "OUT_OF_FOCUS" not in names(page)


def test_a_saturated_page_is_flagged() -> None:
    page = field()
    assert "SATURATED" in names(np.minimum(page, np.quantile(page, 0.6).astype(np.uint16)))
    assert "SATURATED" not in names(page)


def test_a_page_of_hardly_any_grey_levels_has_low_contrast() -> None:
    page = np.full((240, 320), 100, np.uint8)
    page[100:104, 50:60] = 101
    assert "LOW_CONTRAST" in names(page)
    assert "LOW_CONTRAST" not in names(field())


def test_a_page_brighter_at_one_side_has_uneven_light() -> None:
    page = field().astype(np.float32)
    slope = np.linspace(0, 20 * float(page.std()), page.shape[1], dtype=np.float32)
    assert "UNEVEN_LIGHT" in names(page + slope)
    assert "UNEVEN_LIGHT" not in names(page)


def test_a_page_of_another_modality_is_unusual() -> None:
    page = MODALITIES["fluorescence"](field(), np.random.default_rng(0)).page
    assert "UNUSUAL" in names(page)
    assert "UNUSUAL" not in names(field())


def test_an_empty_page_is_empty() -> None:
    page = empty_page(0, 200, 300).pixels
    assert "EMPTY" in names(page, logits_like(page, share=0))
    assert "EMPTY" not in names(page)


def test_resize_may_doubt_more_of_a_page_than_native_before_it_is_flagged() -> None:
    assert BOUNDS.doubt < 0.2 < BOUNDS.squashed_doubt < 0.4
    doubts = {(squashed, doubt) for squashed in (False, True) for doubt in (0.2, 0.4)}
    flagged = {
        (squashed, doubt)
        for squashed, doubt in doubts
        if flags_of(msgspec.structs.replace(GOOD, squashed=squashed, doubt=doubt))
    }
    assert flagged == doubts - {(True, 0.2)}


def test_resize_flags_a_page_that_it_squashes_too_far() -> None:
    page = field()
    for longer, squashed in ((int(BOUNDS.shrinkage * 224), False), (int(BOUNDS.shrinkage * 224) + 300, True)):
        large = np.resize(page, (200, longer))
        flags = check(look_at(large, normalise(large)), logits_like(large), squashed=True)
        assert ("SQUASHED" in {flag.name for flag in flags}) is squashed
        assert "SQUASHED" not in names(large)


@pytest.mark.parametrize("value", [0, 7])
def test_a_constant_page_is_flagged_and_nothing_fails(value: int) -> None:
    page = np.full((50, 60), value, np.uint8)
    assert {"EMPTY", "SATURATED", "LOW_CONTRAST"} <= names(page, np.full(page.shape, -np.inf, np.float32))


COPIES: dict[str, Callable[[NDArray[np.uint16]], NDArray[Any]]] = {
    "offset": lambda page: page + np.uint16(1000),
    "double gain": lambda page: page.astype(np.uint32) * 2,
    "float": lambda page: page.astype(np.float32),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_copies_of_a_page_have_the_same_measures(copy: Callable[[NDArray[np.uint16]], NDArray[Any]]) -> None:
    page = field() // 16
    logits = logits_like(page)
    first, second = (
        measure(look_at(each, normalise(each)), logits, squashed=False) for each in (page, copy(page))
    )
    for name in Measures.__struct_fields__:
        if name != "levels":
            assert getattr(first, name) == pytest.approx(getattr(second, name), rel=1e-4, abs=1e-6)


@settings(max_examples=examples(40), deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32))
def test_any_page_is_measured(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    page = rng.integers(0, rng.integers(1, 300), (height, width)).astype(np.uint16)
    for squashed in (False, True):
        measures = measure(look_at(page, normalise(page)), logits_like(page), squashed=squashed)
        numbers = [getattr(measures, name) for name in Measures.__struct_fields__]
        assert not any(math.isnan(number) for number in numbers)
        assert 0 <= measures.confluence_low <= measures.confluence_high <= 1
        assert measures.unevenness >= 0
        assert {flag.name for flag in flags_of(measures)} <= set(get_args(quality.FlagName))


def test_the_description_has_a_name_for_each_number() -> None:
    assert describe(normalise(field())).shape == (len(quality.DESCRIPTION),)
    assert BOUNDS.centre.shape == (len(quality.DESCRIPTION),)
    assert BOUNDS.whitening.shape == (len(quality.DESCRIPTION),) * 2


def test_the_docs_give_the_bound_of_each_flag() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "quality.md").read_text()
    told = dict(re.findall(r"^\| `([A-Z_]+)` \|[^|]*\| ([^|]+) \|", docs, re.MULTILINE))
    assert told == {
        "EMPTY": f"below {BOUNDS.empty:g}",
        "OUT_OF_FOCUS": f"below {BOUNDS.sharpness:g}",
        "SATURATED": f"above {BOUNDS.saturated:g}",
        "LOW_CONTRAST": f"below {BOUNDS.levels:g}",
        "UNEVEN_LIGHT": f"above {BOUNDS.unevenness:g}",
        "UNUSUAL": f"above {BOUNDS.unusualness:g}",
        "UNCERTAIN": f"above {BOUNDS.doubt:g}; in `resize` mode {BOUNDS.squashed_doubt:g}",
        "SQUASHED": f"above {BOUNDS.shrinkage:g}",
    }


def test_a_prediction_carries_flags_and_the_range_of_its_confluence(shipped: Predictor) -> None:
    page = field()
    rng = np.random.default_rng(0)
    plain = shipped.predict(page)
    assert 0 < plain.confluence_low < plain.confluence < plain.confluence_high < 1
    assert plain.confluence == plain.mask.mean()
    for change in (blurred(4), noisy(60)):
        assert shipped.predict(change(page, rng).page).quality
    large = rescaled(BOUNDS.shrinkage * 224 / 320 + 1)(page, rng).page
    assert "SQUASHED" in {flag.name for flag in shipped.predict(large, "resize").quality}


def test_pages_like_those_of_fine_tuning_are_usual() -> None:
    page = blurred(4)(field(), np.random.default_rng(0)).page
    normalised, logits = normalise(page), logits_like(page)
    strange = measure(look_at(page, normalised), logits, squashed=False)
    known = [describe(normalise(field())).tolist(), describe(normalised).tolist()]
    familiar = measure(look_at(page, normalised, known), logits, squashed=False)
    assert strange.unusualness > BOUNDS.unusualness
    assert familiar.unusualness == pytest.approx(0)
    assert "UNUSUAL" not in {
        flag.name for flag in check(look_at(page, normalised, known), logits, squashed=False)
    }
