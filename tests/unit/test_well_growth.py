"""Doubling times and notes of wells with known growth."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cytomask.curves import Curve, student
from cytomask.samples.plates import Kind, Well, measured, random_well
from cytomask.well_growth import Growth, first_crossing, measure_growth, measure_plate, pool_sites

SCANS = np.arange(0, 88, 4.0)
LONG = np.arange(0, 168, 2.0)
TOO_FEW = (
    "too few scans: {} with a confluence of 0.03 to 0.8 before the well is full or falls; "
    "a doubling time needs 5"
)


def curve_of(well: Well, hours: NDArray[np.float64] = SCANS) -> Curve:
    return Curve(hours, well.confluence(hours))


def grown(well: Well, hours: NDArray[np.float64] = SCANS) -> Growth:
    return measure_growth(curve_of(well, hours), hours)


@pytest.mark.parametrize("hours", [14.0, 20.0, 40.0])
@pytest.mark.parametrize("kind", ["exponential", "logistic"])
def test_a_curve_without_noise_gives_its_doubling_time(kind: Kind, hours: float) -> None:
    growth = grown(Well(kind, hours, begins=0.05, limit=1.0), LONG)
    assert growth.doubling_time_h == pytest.approx(hours, rel=0.01)
    assert growth.r2 == pytest.approx(1, abs=1e-3)
    assert growth.notes == ()


def test_a_straight_line_through_a_slowing_curve_overestimates_the_doubling_time() -> None:
    growth = grown(Well("logistic", 15.0, begins=0.05))
    assert growth.doubling_time_h == pytest.approx(15, rel=0.01)
    assert growth.plain_doubling_time_h is not None
    assert growth.plain_doubling_time_h > 20


def errors_of(
    wells: list[Well], hours: NDArray[np.float64], alike: float = 0.0
) -> tuple[NDArray[np.float64], float]:
    """Return the errors of a plate's doubling times, and the share of intervals that hold the true value."""
    rng = np.random.default_rng(1)
    curves = {
        str(number): Curve(*measured(rng, well, hours, alike=alike)) for number, well in enumerate(wells)
    }
    errors, covered = [], []
    for well, growth in zip(wells, measure_plate(curves, hours).values(), strict=True):
        assert growth.doubling_time_h is not None, growth.notes
        assert growth.doubling_time_low_h is not None
        errors.append(growth.doubling_time_h / well.doubling_time_h - 1)
        high = growth.doubling_time_high_h or math.inf
        covered.append(growth.doubling_time_low_h <= well.doubling_time_h <= high)
    return np.abs(errors), float(np.mean(covered))


@pytest.mark.parametrize("kind", ["exponential", "logistic"])
def test_doubling_times_of_noisy_plates_with_missing_scans_are_right(kind: Kind) -> None:
    rng = np.random.default_rng(1)
    errors, coverage = errors_of([random_well(rng, kind) for _ in range(96)], LONG[:60])
    assert np.median(errors) <= 0.03
    assert np.quantile(errors, 0.9) <= 0.08
    assert coverage >= 0.9


def test_doubling_times_are_right_if_wells_fill_up_early() -> None:
    rng = np.random.default_rng(1)
    wells = [random_well(rng, "logistic", doubling=(12, 48), limit=(0.6, 0.7)) for _ in range(96)]
    errors, coverage = errors_of(wells, SCANS)
    assert np.median(errors) <= 0.03
    assert np.quantile(errors, 0.9) <= 0.08
    assert coverage >= 0.9


def test_a_lag_before_growth_that_slows_is_not_slow_growth() -> None:
    rng = np.random.default_rng(1)
    wells = [random_well(rng, "logistic", doubling=(12, 48), limit=(0.75, 1), lag=(6, 24)) for _ in range(96)]
    errors, coverage = errors_of(wells, SCANS)
    assert np.median(errors) <= 0.05
    assert np.quantile(errors, 0.9) <= 0.12
    assert coverage >= 0.9


@pytest.mark.parametrize(("kind", "least"), [("exponential", 0.72), ("logistic", 0.85)])
def test_intervals_are_wider_if_errors_last_over_several_scans(kind: Kind, least: float) -> None:
    rng = np.random.default_rng(1)
    wells = [random_well(rng, kind, doubling=(12, 48), limit=(0.75, 1)) for _ in range(96)]
    errors, coverage = errors_of(wells, SCANS, alike=0.8)
    assert coverage >= least
    assert np.median(errors) <= 0.06


@pytest.mark.parametrize("kind", ["exponential", "logistic"])
def test_hourly_scans_whose_errors_last_tell_as_much_as_rarer_ones(kind: Kind) -> None:
    """Neighbouring scans hide such errors, so that a short window among them would seem exact."""
    rng = np.random.default_rng(1)
    wells = [random_well(rng, kind, doubling=(12, 48), limit=(0.75, 1)) for _ in range(48)]
    errors, _ = errors_of(wells, np.arange(0, 84.0), alike=0.8)
    assert np.median(errors) <= 0.04
    assert np.quantile(errors, 0.9) <= 0.12


def test_the_first_scan_of_a_fall_is_not_part_of_the_growth() -> None:
    share = np.where(SCANS < 49, 0.05 * 2 ** (SCANS / 16), 0.4 * 2 ** (-(SCANS - 48) / 20))
    growth = measure_growth(Curve(SCANS, share), SCANS)
    assert growth.plain_doubling_time_h == pytest.approx(16, rel=0.01)
    assert growth.to_h == 48


def test_a_well_that_falls_before_it_grows_lags_until_it_grows() -> None:
    share = np.where(SCANS < 24, 0.3 * 2 ** (-SCANS / 24), 0.15 * 2 ** ((SCANS - 24) / 18))
    growth = measure_growth(Curve(SCANS, share), SCANS)
    assert growth.lag_h == pytest.approx(24, abs=2)
    assert growth.doubling_time_h == pytest.approx(18, rel=0.03)


def test_a_well_that_regrows_to_less_than_it_had_is_measured() -> None:
    share = np.where(SCANS < 24, 0.6 * 2 ** (-SCANS / 8), 0.075 * 2 ** ((SCANS - 24) / 30))
    growth = measure_growth(Curve(SCANS, share), SCANS)
    assert growth.doubling_time_h == pytest.approx(30, rel=0.05)


def test_a_bad_first_scan_does_not_hide_the_growth_after_it() -> None:
    share = Well("exponential", 18.0, begins=0.05).confluence(SCANS)
    share[0] = 0.9
    assert measure_growth(Curve(SCANS, share), SCANS).doubling_time_h == pytest.approx(18, rel=0.03)


def test_lag_is_unknown_if_the_first_cells_cannot_be_seen() -> None:
    growth = grown(Well("exponential", 13.0, begins=0.002))
    assert growth.doubling_time_h == pytest.approx(13, rel=0.05)
    assert growth.lag_h is None


def test_lag_is_the_time_until_growth_begins() -> None:
    growth = grown(Well("exponential", 20.0, begins=0.05, lag_h=16.0), LONG)
    assert growth.lag_h == pytest.approx(16, abs=1.5)
    assert growth.doubling_time_h == pytest.approx(20, rel=0.03)
    assert growth.from_h is not None
    assert growth.from_h >= 14


@pytest.mark.parametrize(("kind", "most"), [("exponential", 1.0), ("logistic", 2.0)])
def test_noise_makes_a_long_lag_hardly_shorter(kind: Kind, most: float) -> None:
    rng = np.random.default_rng(2)
    wells = [random_well(rng, kind, doubling=(12, 30), lag=(24, 36)) for _ in range(60)]
    found = [measure_growth(Curve(*measured(rng, well, SCANS, missing=0))).lag_h for well in wells]
    errors = [lag - well.lag_h for lag, well in zip(found, wells, strict=True) if lag is not None]
    assert abs(np.mean(errors)) <= most


def test_lag_counts_from_the_first_scan_of_the_plate() -> None:
    well = Well("exponential", 18.0, begins=0.05, lag_h=20.0)
    whole, late = grown(well), measure_growth(curve_of(well, SCANS[4:]), SCANS)
    assert whole.lag_h == pytest.approx(20, abs=0.5)
    assert late.lag_h == pytest.approx(whole.lag_h)


def test_lag_is_unknown_if_growth_began_before_the_first_scan_of_the_well() -> None:
    growth = measure_growth(curve_of(Well("exponential", 18.0, begins=0.05), SCANS[4:]), SCANS)
    assert growth.doubling_time_h == pytest.approx(18, rel=0.01)
    assert growth.lag_h is None


def test_times_to_half_and_to_eighty_per_cent_lie_between_scans() -> None:
    well = Well("logistic", 15.0, begins=0.05, limit=1.0)
    growth, rate = grown(well, LONG), math.log(2) / 15
    assert growth.half_h == pytest.approx(math.log(19) / rate, abs=0.2)
    assert growth.eighty_h == pytest.approx(math.log(19 * 4) / rate, abs=0.2)


def test_a_level_reached_by_a_single_scan_does_not_count() -> None:
    hours, share = np.arange(5.0), np.array([0.1, 0.6, 0.2, 0.5, 0.7])
    assert first_crossing(hours, share, 0.5) == 3.0
    assert first_crossing(hours, share, 0.9) is None


def test_plateau_and_area_of_a_well_that_filled_up() -> None:
    growth = grown(Well("logistic", 12.0, begins=0.1, limit=0.9), LONG)
    assert growth.plateau == pytest.approx(0.9, abs=0.01)
    assert growth.limit == pytest.approx(0.9, abs=0.06)
    assert growth.area_h == pytest.approx(
        float(np.trapezoid(Well("logistic", 12.0, 0.1, 0.9).confluence(LONG), LONG))
    )
    assert grown(Well("exponential", 40.0, begins=0.05)).plateau is None


def test_a_well_that_does_not_grow_is_named() -> None:
    growth = measure_growth(Curve(SCANS, np.full(SCANS.size, 0.1)), SCANS)
    assert growth.doubling_time_h is None
    assert growth.rate_per_h == 0
    assert growth.notes == ("no growth: confluence goes from 0.10 to 0.10 in 84 h",)


@pytest.mark.parametrize("half_life", [6.0, 12.0, 24.0])
@pytest.mark.parametrize("begins", [0.1, 0.4])
def test_a_well_that_dies_has_the_rate_0(begins: float, half_life: float) -> None:
    """Without it, a condition that kills would have no rate, or that of its survivors."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        share = begins * 2 ** (-SCANS / half_life) * (1 + 0.05 * rng.standard_normal(SCANS.size))
        growth = measure_growth(Curve(SCANS, np.clip(share, 0, 1)), SCANS)
        assert growth.rate_per_h == 0
        assert growth.notes[-1].startswith("no growth: confluence goes from")


@pytest.mark.parametrize(
    ("step", "share"),
    [(24, [0.052, 0.083, 0.139, 0.248, 0.442]), (12, [0.051, 0.069, 0.074, 0.1, 0.121])],
)
def test_a_few_scans_that_rise_each_time_are_growth(step: int, share: list[float]) -> None:
    growth = measure_growth(Curve(np.arange(5.0) * step, np.array(share)))
    assert growth.rate_per_h
    assert growth.notes == ()
    assert growth.doubling_time_h == pytest.approx(step * 4 / math.log2(share[-1] / share[0]), rel=0.3)


def test_a_well_without_cells_is_named() -> None:
    growth = measure_growth(Curve(SCANS, np.full(SCANS.size, 0.004)), SCANS)
    assert growth.notes == ("no growth: confluence never reaches 0.03 (highest 0.004)",)


def test_an_empty_well_of_two_scans_is_not_said_to_stand_still() -> None:
    growth = measure_growth(Curve(SCANS[:2], np.zeros(2)))
    assert growth.rate_per_h is None
    assert growth.notes == (TOO_FEW.format(0),)


def test_growth_of_a_well_that_is_full_from_its_first_scan_is_unknown() -> None:
    share = np.linspace(0.85, 0.95, SCANS.size)
    share[6] = 0.78  # a scan that noise takes below
    growth = measure_growth(Curve(SCANS, share), SCANS)
    assert growth.rate_per_h is None
    assert growth.notes == (
        "full: confluence is about 0.8 or more in every scan, where growth cannot be seen",
    )


def test_a_well_that_falls_is_named_and_its_growth_before_is_measured() -> None:
    share = Well("exponential", 16.0, begins=0.05).confluence(LONG)
    share[30:] = share[29] * np.exp(-0.03 * np.arange(share.size - 30))
    growth = measure_growth(Curve(LONG, share), LONG)
    assert any(note.startswith("falling: from 0.62 at 58 h to 0.13") for note in growth.notes)
    assert growth.doubling_time_h == pytest.approx(16, rel=0.05)


@pytest.mark.parametrize("step", [6.0, 8.0])
def test_a_well_that_grows_fast_until_its_last_scan_does_not_fall(step: float) -> None:
    growth = grown(Well("exponential", 12.0, begins=0.05), np.arange(0, 46, step))
    assert growth.notes == ()


def test_a_scan_out_of_focus_is_left_out_and_named() -> None:
    share = Well("logistic", 18.0).confluence(SCANS)
    share[8] *= 0.4
    growth = measure_growth(Curve(SCANS, share), SCANS)
    assert growth.doubling_time_h == pytest.approx(18, rel=0.03)
    assert growth.points == SCANS.size - 1
    assert len(growth.notes) == 1
    assert growth.notes[0].startswith("the scan at 32 h is off its neighbours")


def test_a_jump_that_lasts_is_named() -> None:
    share = Well("logistic", 24.0, begins=0.1).confluence(SCANS)
    share[10:] *= 0.5
    notes = measure_growth(Curve(SCANS, share), SCANS).notes
    assert any("confluence jumps from 0.24 to 0.13" in note and "36 h and 40 h" in note for note in notes)


def test_a_loss_of_cells_while_the_others_grow_is_named() -> None:
    share = Well("exponential", 18.0, begins=0.05).confluence(SCANS)
    share[10:] *= 0.6
    growth = measure_growth(Curve(SCANS, share), SCANS)
    (note,) = growth.notes
    assert note.startswith("confluence jumps from 0.20 to 0.14 between 36 h and 40 h")
    assert growth.points == SCANS.size


def test_the_peak_of_a_well_that_dies_is_no_spike() -> None:
    share = np.where(SCANS < 40, 0.08 * 2 ** (SCANS / 14), 0.08 * 2 ** (40 / 14 - (SCANS - 40) / 8))
    growth = measure_growth(Curve(SCANS, share), SCANS)
    assert growth.points == SCANS.size
    assert not any("off its neighbours" in note for note in growth.notes)


def test_growth_over_missing_scans_is_no_jump() -> None:
    kept = np.delete(SCANS, slice(5, 12))
    growth = measure_growth(curve_of(Well("logistic", 18.0, begins=0.05), kept), SCANS)
    assert growth.notes == ("7 of 22 scans are missing (20 h, 24 h, 28 h, 32 h, 36 h, …)",)


def test_fast_growth_of_a_well_that_is_full_most_of_the_time_is_no_jump() -> None:
    assert grown(Well("logistic", 9.0, begins=0.05)).notes == ()


def test_a_jump_over_missing_scans_is_named() -> None:
    share = Well("logistic", 24.0, begins=0.1).confluence(SCANS)
    share[10:] *= 0.4
    kept = np.delete(np.arange(SCANS.size), [10, 11])
    (note,) = measure_growth(Curve(SCANS[kept], share[kept])).notes
    assert note.startswith("confluence jumps from 0.24 to 0.12 between 36 h and 48 h")


def test_missing_scans_are_named() -> None:
    kept = np.delete(SCANS, [3, 9])
    growth = measure_growth(curve_of(Well(), kept), SCANS)
    assert growth.notes == ("2 of 22 scans are missing (12 h, 36 h)",)


def test_too_few_scans_give_no_doubling_time() -> None:
    growth = measure_growth(curve_of(Well(), SCANS[:4]), SCANS[:4])
    assert growth.doubling_time_h is None
    assert growth.notes == (TOO_FEW.format(4),)


def test_a_well_that_was_never_measured_is_named() -> None:
    growth = measure_growth(Curve(np.array([]), np.array([])))
    assert growth.notes == ("no page of this well was measured",)


def test_a_well_that_is_full_from_the_beginning_has_no_doubling_time() -> None:
    growth = measure_growth(Curve(SCANS, np.full(SCANS.size, 0.95)))
    assert growth.doubling_time_h is None
    assert growth.notes


@given(
    st.lists(
        st.tuples(st.floats(0, 500), st.floats(0, 1)), max_size=40, unique_by=lambda pair: round(pair[0], 2)
    )
)
def test_any_curve_is_measured_without_an_error(points: list[tuple[float, float]]) -> None:
    hours, share = np.array(sorted(points)).T if points else np.zeros((2, 0))
    growth = measure_growth(Curve(hours, share), hours)
    if growth.doubling_time_h is not None:
        assert growth.doubling_time_low_h is not None
        assert 0 < growth.doubling_time_low_h <= growth.doubling_time_h
        assert growth.doubling_time_h <= (growth.doubling_time_high_h or math.inf)
    else:
        assert growth.notes


def test_scattered_scans_have_no_rate() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        growth = measure_growth(Curve(SCANS, rng.random(SCANS.size)))
        assert growth.doubling_time_h is None or growth.doubling_time_high_h or (growth.r2 or 0) >= 0.8
        assert (growth.rate_per_h or 0) >= 0


def test_sites_are_pooled_by_area() -> None:
    cells, pixels = np.array([[10.0, 20.0], [60.0, 90.0]]), np.array([[100.0, 100.0], [300.0, 300.0]])
    assert pool_sites(np.array([0.0, 4.0]), cells, pixels).confluence == pytest.approx([70 / 400, 110 / 400])


def test_a_missing_site_makes_no_jump() -> None:
    true = Well("logistic", 20.0).confluence(SCANS)
    pixels = np.full((2, SCANS.size), 1000.0)
    cells = np.stack([1.4 * true, 0.6 * true]) * 1000
    whole = pool_sites(SCANS, cells.copy(), pixels.copy())
    cells[0, 7] = pixels[0, 7] = np.nan
    patched = pool_sites(SCANS, cells, pixels)
    assert patched.confluence == pytest.approx(whole.confluence, rel=1e-3)


def test_sites_that_are_never_scanned_together_are_pooled_without_zigzag() -> None:
    true = Well("exponential", 24.0, begins=0.05).confluence(SCANS)
    cells, pixels = np.stack([0.5 * true, 1.5 * true]) * 1000, np.full((2, SCANS.size), 1000.0)
    whole = pool_sites(SCANS, cells.copy(), pixels.copy())
    cells[0, ::2] = pixels[0, ::2] = cells[1, 1::2] = pixels[1, 1::2] = np.nan
    patched = pool_sites(SCANS, cells, pixels)
    assert patched.confluence[1:-1] == pytest.approx(whole.confluence[1:-1], rel=0.01)
    assert measure_growth(patched, SCANS).doubling_time_h == pytest.approx(24, rel=0.02)


def test_a_scan_that_every_site_lacks_is_left_out() -> None:
    cells = np.array([[1.0, np.nan, 3.0]])
    curve = pool_sites(np.array([0.0, 1.0, 2.0]), cells, np.where(np.isfinite(cells), 10.0, np.nan))
    assert list(curve.hours) == [0.0, 2.0]


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1, 12.706)]
)
def test_students_quantile_is_right_to_one_per_cent(freedom: int, quantile: float) -> None:
    assert student(freedom) == pytest.approx(quantile, rel=0.01)
