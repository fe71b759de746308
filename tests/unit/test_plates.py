"""Pages of a plate become curves, comparisons and a list of omitted pages, even if some are faulty."""

from datetime import datetime, timedelta
from typing import get_args

import msgspec
import numpy as np
import pytest

from cytomask.cli import plate_page
from cytomask.errors import InvalidRequest
from cytomask.model.quality import FlagName
from cytomask.plate_pages import FLAGS, Options, PlatePage, parse_flags
from cytomask.plate_tables import conditions_csv, pages_csv, prism_grid, wells_csv
from cytomask.platemap import parse_plate_map
from cytomask.plates import PlateReport, build_report
from cytomask.samples.plates import Well
from cytomask.well_growth import Growth

HOURS = [float(hour) for hour in range(0, 88, 4)]
MAP = parse_plate_map(b"# control: DMSO\nwell,compound,dose,unit\nA1:A2,DMSO,,\nB1:B2,X,3,uM\n", "map.csv")


def page(well: str = "A01", site: str = "1", time: float | str | None = 0.0, **fields: object) -> PlatePage:
    given: dict[str, object] = {"confluence": 0.1, "image": f"s3://in/{well}_{site}_{time}.tif", **fields}
    return PlatePage(plate="p", well=well, site=site, time=time, **given)  # type: ignore[arg-type]


def series(well: str, site: str = "1", doubling: float = 20.0, scale: float = 1.0) -> list[PlatePage]:
    truth = Well("logistic", doubling).confluence(np.array(HOURS)) * scale
    return [page(well, site, hour, confluence=float(share)) for hour, share in zip(HOURS, truth, strict=True)]


def report(pages: list[PlatePage], **options: object) -> PlateReport:
    return build_report("p", pages, options=Options(**options))  # type: ignore[arg-type]


def test_sites_of_a_well_are_pooled_and_measured() -> None:
    found = report([*series("A01", "1", scale=0.8), *series("A01", "2", scale=1.2)])
    well = found.wells["A01"]
    assert well.pages == 44
    assert well.growth.doubling_time_h == pytest.approx(20, rel=0.02)
    assert set(well.sites) == {"1", "2"}
    assert found.notes == []
    assert found.left_out == []


def test_the_order_of_pages_does_not_matter() -> None:
    pages = [*series("A01"), *series("B02", doubling=30)]
    there, back = report(pages), report(pages[::-1])
    assert wells_csv(there) == wells_csv(back)
    assert pages_csv(there) == pages_csv(back)


def test_the_later_of_two_images_for_one_well_site_and_time_counts_and_both_are_named() -> None:
    old = page(image="s3://in/old.tif", confluence=0.9, uploaded_at="2026-01-01")
    new = page(image="s3://in/new.tif", confluence=0.1, uploaded_at="2026-01-02")
    for pages in ([old, new], [new, old]):
        found = report(pages)
        assert [each.image for each in found.pages] == ["s3://in/new.tif"]
        (left_out,) = found.left_out
        assert left_out.image == "s3://in/old.tif"
        assert left_out.reason == "A01, site 1 at 0 h has a later upload, which counts: s3://in/new.tif"
    assert found.notes == ["1 page is not the last one of its well, site and time"]


def test_an_image_that_was_segmented_twice_counts_once_with_its_plain_mask() -> None:
    plain = page(mask="s3://out/a.tif.mask.png", confluence=0.3)
    again = page(mask="s3://out/jobs/0123/a.tif.mask.png", confluence=0.4)
    found = report([again, plain])
    assert [each.confluence for each in found.pages] == [0.3]
    assert found.left_out[0].reason.startswith("segmented again: A01, site 1 at 0 h")


def test_times_that_go_backwards_are_named() -> None:
    dates = ["2026-03-29T01:00:00", "2026-03-29T03:00:00", "2026-03-29T02:30:00"]
    found = report([page(time=date, frame=number) for number, date in enumerate(dates)])
    assert found.notes == [
        "times go backwards in A01, site 1, scan 2 (2026-03-29T03:00:00, then 2026-03-29T02:30:00): was a "
        "clock changed? Pages are ordered by their times"
    ]


def stack(image: str, time: float | str | None, frames: int) -> list[PlatePage]:
    """Return the pages of a stack whose first page has this time."""
    return [
        page(time=None if number else time, frame=number, page=number, image=image)
        for number in range(frames)
    ]


@pytest.mark.parametrize("first", [24.0, "2026-11-25T20:00:00"])
def test_the_interval_gives_frames_their_times_after_the_first(first: float | str) -> None:
    later = 48.0 if isinstance(first, float) else "2026-11-26T20:00:00"
    found = report([*stack("a.tif", first, 6), *stack("b.tif", later, 6)], interval_h=4.0)
    assert (found.notes, found.left_out) == ([], [])
    begin = 24 if isinstance(first, float) else 0
    assert found.scans.tolist() == [begin + 4 * number for number in range(12)]


def test_each_stack_of_a_well_counts_its_own_frames() -> None:
    pages = [
        page(time=start + 4.0 * number, frame=number, page=number, image=f"{start}.tif")
        for start in (0, 24)
        for number in range(6)
    ]
    assert report(pages).notes == []


def test_names_of_two_schemes_in_one_plate_are_named() -> None:
    pages = [*series("A01")[:3], page("A02", source="opera")]
    pages[:3] = [page("A01", time=float(hour), source="incucyte_elapsed") for hour in range(3)]
    assert report(pages).notes == [
        "names of several schemes are in this plate: incucyte_elapsed (3), opera (1); are these two plates?"
    ]


def test_elapsed_hours_and_dates_are_not_mixed() -> None:
    found = report([*series("A01"), page("A02", time="2026-11-25T13:20:00")])
    assert (
        "times of two kinds cannot be put in order: 22 with elapsed hours and 1 with dates" in found.notes[0]
    )
    assert [each.reason for each in found.left_out] == ["not a time with elapsed hours"]
    assert found.wells["A02"].growth.notes == ("no page of this well can be used",)


def test_dates_become_hours_since_the_first_scan() -> None:
    found = report([page(time="2026-11-25T13:20:00"), page(time="2026-11-26T01:20:00")])
    assert list(found.scans) == [0.0, 12.0]


def test_pages_of_one_scan_that_took_minutes_share_its_hour() -> None:
    pages = [
        page(well, "1", f"2026-11-25T{hour:02d}:{minute:02d}:00")
        for hour in (0, 4, 8)
        for well, minute in (("A01", 0), ("A02", 7), ("A03", 14))
    ]
    assert list(report(pages).scans) == [0.0, 4.0, 8.0]


def scanned(minutes: float, missing: tuple[tuple[str, int], ...] = ()) -> PlateReport:
    """Return the report of 24 wells that a scan of so many minutes visits one after the other."""
    start = datetime(2026, 11, 25, 10)
    pages = []
    for scan in range(8):
        for number in range(24):
            time = start + timedelta(hours=4 * scan, minutes=minutes * number / 24)
            well = f"{'ABCD'[number // 6]}{number % 6 + 1:02d}"
            if (well, scan) not in missing:
                pages.append(page(well, time=time.isoformat(), confluence=0.05 * 2 ** (scan / 5)))
    return report(pages)


@pytest.mark.parametrize("minutes", [30, 70, 120, 239])
def test_a_scan_that_takes_long_stays_one_scan(minutes: int) -> None:
    found = scanned(minutes)
    assert list(found.scans) == [0, 4, 8, 12, 16, 20, 24, 28]
    assert {well.growth.notes for well in found.wells.values()} == {()}


def test_a_long_scan_without_its_first_well_stays_one_scan() -> None:
    found = scanned(120, missing=(("A01", 3),))
    assert list(found.scans) == pytest.approx([0, 4, 8, 12 + 5 / 60, 16, 20, 24, 28], abs=1e-3)
    assert found.wells["A01"].growth.notes == ("1 of 8 scans is missing (12.0833 h)",)
    assert found.wells["D06"].growth.notes == ()


def test_numbered_scans_need_an_interval() -> None:
    pages = [page(time=None, frame=frame, image=str(frame)) for frame in (1, 2, 3)]
    found = report(pages)
    assert found.scans.size == 0
    assert "give the hours between two (--interval)" in found.notes[0]
    assert {each.reason for each in found.left_out} == {"no time is known"}
    assert list(report(pages, interval_h=2.5).scans) == [0.0, 2.5, 5.0]


def test_pages_without_a_mask_are_left_out_with_their_reason() -> None:
    bad = page("A02", confluence=None, status="REJECTED", error="it is empty")
    waiting = page("A03", confluence=None, status="RUNNING")
    found = report([*series("A01"), bad, waiting])
    assert [(each.well, each.reason) for each in found.left_out] == [
        ("A02", "rejected: it is empty"),
        ("A03", "not segmented yet"),
    ]
    assert found.failures == 1
    assert found.wells["A02"].pages == 0


def test_flagged_pages_are_used_and_named_unless_they_are_to_be_left_out() -> None:
    pages = series("A01")
    pages[3] = page(time=12.0, confluence=0.2, quality=("OUT_OF_FOCUS",))
    kept = report(pages)
    assert kept.notes == ["pages with doubts are used: OUT_OF_FOCUS (1); --leave-out leaves them out"]
    assert kept.wells["A01"].flagged == 1
    assert kept.wells["A01"].growth.notes[-1].endswith("pages is flagged: OUT_OF_FOCUS")
    for choice in (["out_of_focus"], ["All"]):
        found = report(pages, leave_out=parse_flags(choice))
        assert [each.reason for each in found.left_out] == ["flagged: OUT_OF_FOCUS"]
        assert found.wells["A01"].pages == 21


def test_a_flag_that_is_unknown_is_refused_by_name() -> None:
    assert parse_flags(["uncertain", " Empty ", ""]) == {"UNCERTAIN", "EMPTY"}
    with pytest.raises(InvalidRequest, match="unknown quality flag BLURRED to leave out; use EMPTY, OUT_OF"):
        parse_flags(["blurred", "all"])


def test_the_flags_that_may_be_left_out_are_those_of_the_quality_check() -> None:
    assert get_args(FlagName) == FLAGS


def test_pages_of_two_channels_both_count_towards_the_expected_pages() -> None:
    pages = [page(channel=name, image=name) for name in ("Ph", "C1")]
    found = report(pages, expected_pages=2)
    assert found.complete is True
    assert [each.image for each in found.left_out] == ["C1"]


def test_growth_is_that_of_phase_contrast_where_there_are_several_channels() -> None:
    pages = [page(channel="C1", image="c1"), page(channel="Ph", image="ph"), page(channel="C1", time=4.0)]
    found = report(pages)
    assert [each.image for each in found.pages] == ["ph"]
    assert "channels C1 (2), Ph (1); growth is that of Ph" in found.notes[0]
    assert len(report(pages, channel="C1").pages) == 2
    assert "no page is of the channel 'X'; channels are: C1, Ph" in report(pages, channel="X").notes


def test_the_other_pages_keep_their_hours_if_the_first_scan_is_left_out() -> None:
    dates = [f"2026-11-25T{hour:02d}:00" for hour in (8, 12, 16)]
    pages = [page(time=date, quality=("EMPTY",) if date == dates[0] else ()) for date in dates]
    assert [each.hours for each in report(pages).pages] == [0, 4, 8]
    assert [each.hours for each in report(pages, leave_out=frozenset({"EMPTY"})).pages] == [4, 8]


def test_conditions_have_means_errors_and_rates_relative_to_the_control() -> None:
    pages = [*series("A01", doubling=18), *series("A02", doubling=22), *series("B01", doubling=40)]
    found = build_report("p", pages, MAP)
    control, drug = found.conditions
    assert (control.name, control.wells, drug.name) == ("DMSO", ("A01", "A02"), "X 3 uM")
    both = [found.wells[well].curve.confluence for well in control.wells]
    assert control.mean == pytest.approx(np.mean(both, axis=0))
    assert control.error == pytest.approx(np.std(both, axis=0, ddof=1) / np.sqrt(2))
    assert control.relative_rate == pytest.approx(1)
    assert drug.relative_rate == pytest.approx((1 / 40) / ((1 / 18 + 1 / 22) / 2), rel=0.05)
    assert (drug.compound, drug.dose, drug.unit) == ("X", 3.0, "uM")
    assert np.isnan(drug.error).all()


def test_a_well_that_does_not_grow_counts_as_no_growth_in_its_condition() -> None:
    dead = [page("B01", time=hour, confluence=0.1) for hour in HOURS]
    found = build_report("p", [*series("A01"), *dead], MAP)
    assert found.conditions[1].rate == 0.0
    assert found.conditions[1].relative_rate == 0.0


@pytest.mark.parametrize("share", [[0.05, 0.06], [0.9] * len(HOURS)], ids=["two scans", "always full"])
def test_a_well_whose_growth_is_unknown_does_not_count_in_its_condition(share: list[float]) -> None:
    unknown = [page("A02", time=hour, confluence=each) for hour, each in zip(HOURS, share, strict=False)]
    control, drug = build_report("p", [*series("A01"), *series("B01", doubling=40), *unknown], MAP).conditions
    assert control.doubling_time_h == pytest.approx(20, rel=0.05)
    assert control.rate_error is None
    assert drug.relative_rate == pytest.approx(0.5, rel=0.05)
    assert (control.wells, control.measured) == (("A01", "A02"), 1)
    (alone,) = build_report("p", unknown, MAP).conditions
    assert (alone.rate, alone.doubling_time_h, alone.relative_rate) == (None, None, None)


def test_a_condition_of_several_doses_has_none_of_them() -> None:
    doses = parse_plate_map(b"well,condition,compound,dose\nA1,drug,X,1\nA2,drug,X,9\n", "map.csv")
    (drug,) = build_report("p", [*series("A01"), *series("A02")], doses).conditions
    assert (drug.compound, drug.dose, drug.unit) == (None, None, "")


def test_a_condition_that_kills_is_slower_than_its_control() -> None:
    rng = np.random.default_rng(0)
    shares = [0.4 * 2 ** (-hour / 12) * (1 + 0.05 * rng.standard_normal()) for hour in HOURS]
    dying = [page("B01", time=hour, confluence=share) for hour, share in zip(HOURS, shares, strict=True)]
    _, drug = build_report("p", [*series("A01"), *dying], MAP).conditions
    assert (drug.rate, drug.relative_rate, drug.measured) == (0, 0, 1)


def test_a_second_scan_within_minutes_is_not_called_a_later_upload() -> None:
    pages = [page(time=hour, uploaded_at="1") for hour in (0.0, 4.0, 8.0, 8.5, 12.0)]
    (left_out,) = report(pages).left_out
    assert left_out.image == "s3://in/A01_1_8.0.tif"
    assert left_out.reason == (
        "A01, site 1 at 8 h: a scan 0.5 h later counts as the same one: s3://in/A01_1_8.5.tif"
    )


def test_a_map_for_another_format_is_reported_and_not_used() -> None:
    small = msgspec.structs.replace(MAP, states_size=True)
    found = build_report("p", series("H12"), small)
    assert "the plate map is a map of 6 wells, and the plate has images of H12" in found.notes[0]
    assert found.conditions == []
    assert found.size == 96


def test_a_control_that_does_not_grow_is_reported() -> None:
    dead = [page("A01", time=hour, confluence=0.1) for hour in HOURS]
    found = build_report("p", [*dead, *series("B01")], MAP)
    assert found.notes == ["the control 'DMSO' does not grow, or not measurably: no rate is relative to it"]


def test_pages_of_a_stack_that_are_left_out_are_told_apart() -> None:
    found = report([page(time=None, image="a.tif", page=number) for number in range(2)])
    assert [each.reason for each in found.left_out] == [
        "page 0: no time is known",
        "page 1: no time is known",
    ]


def test_a_control_without_wells_is_reported() -> None:
    found = build_report("p", series("A01"), MAP, Options(control="vehicle"))
    assert found.notes == ["no well has the condition 'vehicle', the control; conditions are: DMSO"]


def test_a_plate_is_complete_when_every_expected_page_ended() -> None:
    pages = [*series("A01"), page("A02", confluence=None, status="REJECTED", error="x")]
    assert report(pages).complete is None
    assert report(pages, expected_pages=23).complete is True
    assert report(pages, expected_pages=24).complete is False
    assert (
        report([*pages, page("A03", confluence=None, status="RUNNING")], expected_pages=24).complete is False
    )


def test_a_page_uploaded_twice_is_one_of_the_expected() -> None:
    pages = [page(uploaded_at="1", image="a"), page(uploaded_at="2", image="b")]
    assert report(pages, expected_pages=2).complete is False


def test_a_plate_without_pages_is_reported_as_such() -> None:
    found = report([])
    assert (found.wells, found.size, found.scans.size) == ({}, 6, 0)
    assert wells_csv(found).count("\n") == 1


def test_costs_add_up_over_all_pages() -> None:
    assert report([page(cost_usd=0.1), page(time=4.0, cost_usd=0.2)]).cost_usd == pytest.approx(0.3)


def test_the_tidy_table_has_a_row_for_each_page() -> None:
    lines = pages_csv(
        report([page(confluence=1 / 3, quality=("a", "b"), model="m", mode="native")])
    ).splitlines()
    assert lines[0].startswith(
        "plate,well,site,time,hours,confluence,confluence_low,confluence_high,quality,iou"
    )
    assert lines[1] == "p,A01,1,0.0,0,0.333333,,,a b,,m,native,,,s3://in/A01_1_0.0.tif,,,,"


def test_the_tidy_table_has_areas_where_the_size_of_a_pixel_is_known() -> None:
    lines = pages_csv(report([page(cell_area_mm2=1.234567891, pixels=90), page(time=4.0)])).splitlines()
    assert lines[0].endswith(",mask,cell_area_um2,cell_area_mm2,pixels")
    assert [line.split(",")[-3:] for line in lines[1:]] == [
        ["1234567.891", "1.234567891", "90"],
        ["", "", ""],
    ]


def test_the_table_of_wells_says_why_a_value_is_absent() -> None:
    dead = [page("A02", time=hour, confluence=0.1) for hour in HOURS]
    header, grown, none = wells_csv(report([*series("A01"), *dead])).splitlines()
    assert header == (
        "plate,well,condition,pages,doubling_time_h,doubling_time_low_h,doubling_time_high_h,rate_per_h,r2,"
        "from_h,to_h,lag_h,half_h,plateau,note"
    )
    assert grown.startswith("p,A01,,22,")
    assert none == "p,A02,,22,,,,0,,,,,,,no growth: confluence goes from 0.10 to 0.10 in 84 h"


def test_the_table_of_conditions_is_a_dose_table() -> None:
    lines = conditions_csv(build_report("p", [*series("A01"), *series("B01")], MAP)).splitlines()
    assert lines[0] == (
        "condition,compound,dose,unit,wells,measured,doubling_time_h,rate_per_h,rate_error,relative_rate"
    )
    assert lines[2].startswith("X 3 uM,X,3,uM,1,1,")


def test_the_grid_for_prism_has_time_down_and_wells_across() -> None:
    pages = [page("A02", time=4.0), page("A01", time=0.0, confluence=0.25)]
    assert prism_grid(report(pages)) == "Time (h)\tA01\tA02\n0\t0.25\t\n4\t\t0.1\n"


def test_replicates_stand_side_by_side_in_the_grid_for_prism() -> None:
    pages = [page("B01"), page("A02"), page("A01")]
    first = prism_grid(build_report("p", pages, MAP)).splitlines()[0]
    assert first == "Time (h)\tDMSO\tDMSO\tX 3 uM"


@pytest.mark.parametrize("name", ["=cmd()", "+1+1", "-a", "@x"])
def test_a_name_that_a_spreadsheet_would_run_is_marked_as_text(name: str) -> None:
    assert f",'{name}," in pages_csv(report([page(image=name)]))


def test_the_page_shows_long_times_without_an_exponent() -> None:
    growth = Growth(doubling_time_low_h=1234.0, doubling_time_high_h=98765.0)
    assert plate_page.hours(1234.0) == "1230 h"
    assert plate_page.number(17.4449) == "17.4"
    assert plate_page.interval(growth) == "1230 to 98800 h"


def test_the_page_has_the_dose_and_the_digits_of_the_tables() -> None:
    doses = parse_plate_map(b"well,condition,dose,unit\nA1,drug,1234.5,nM\n", "map.csv")
    found = build_report("p", series("A01"), doses)
    shown = plate_page.render_plate(found).decode()
    assert "1234.5 nM" in shown
    assert f'"doubling_time_h":{wells_csv(found).splitlines()[1].split(",")[4]},' in shown
