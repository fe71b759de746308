"""Names tell where and when an image was taken: schemes of real instruments, and names that break them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytomask.acquisition import (
    Acquisition,
    Pattern,
    check_plate,
    check_time,
    check_well,
    from_metadata,
    iso_date,
    parse_pattern,
    read_acquisition,
)
from cytomask.errors import InvalidRequest

STITCHED = "A1_-2_1_1_Tsf[Stitched[Channel1 300,400]]_001.tif"
HARMONY = "P1__2024-01-01T00_00_00-Measurement 1"
GUID = "12345678-1234-1234-1234-123456789ABC"

# key, plate, well, site, channel, time, frame
NAMES = [
    ("SHSY5Y_Phase_B10_1_00d04h00m_1.tif", "SHSY5Y", "B10", "1.1", "Phase", 4.0, None),
    ("a/A172_Phase_C7_2_01d20h30m_4.tif", "A172", "C07", "2.4", "Phase", 44.5, None),
    ("MiaPaCa2-PhaseOriginal_A2_1_03d06h40m.tif", "MiaPaCa2", "A02", "1", "PhaseOriginal", 78 + 2 / 3, None),
    ("VID_1523_B2_1_00d00h00m.tif", "VID_1523", "B02", "1", None, 0.0, None),
    ("my plate/B2_1_00d12h30m.tif", "my plate", "B02", "1", None, 12.5, None),
    ("my plate\\b2_1_00d12h30m.tif", "my plate", "B02", "1", None, 12.5, None),
    ("AF48_12_00d00h00m.ome.tif", None, "AF48", "12", None, 0.0, None),
    ("VID1_B2_1_2026y11m25d_13h20m.tif", "VID1", "B02", "1", None, "2026-11-25T13:20:00", None),
    (
        "EssenFiles/ScanData/2505/16/1124/1248/A1-1-Ph.tif",
        *("1248", "A01", "1", "Ph", "2025-05-16T11:24:00", None),
    ),
    ("00d04h00m/vessel 7/B2_1_Ph.tif", "vessel 7", "B02", "1", "Ph", 4.0, None),
    ("20261125_1320/7/B2_1_Ph.tif", "7", "B02", "1", "Ph", "2026-11-25T13:20:00", None),
    ("1124/1248/B2_1_Ph.tif", "1248", "B02", "1", "Ph", None, None),
    (f"{HARMONY}/Images/r01c02f03p01-ch1sk5fk1fl1.tiff", HARMONY, "A02", "3", "1", None, 5),
    ("r16c24f03p02-ch1sk1fk1fl1.tiff", None, "P24", "3.z2", "1", None, 1),
    ("p/TimePoint_3/Exp7_A01_s1_w1.tif", "Exp7", "A01", "1", "1", None, 3),
    ("p/TimePoint_3/A01_s2_w1.tif", "p", "A01", "2", "1", None, 3),
    (f"Exp7_A01_s1_w2{GUID}.tif", "Exp7", "A01", "1", "2", None, None),
    (
        "AssayPlate_Greiner_#655090_C02_T0007F001L01A01Z01C01.tif",
        *("AssayPlate_Greiner_#655090", "C02", "1", "01", None, 7),
    ),
    ("run3/A1_01_1_2_Phase Contrast_001.tif", "run3", "A01", "2", "Phase Contrast", None, 1),
    (STITCHED, None, "A01", "1", "Tsf[Stitched[Channel1 300,400]]", None, 1),
    ("A1_1Z4_DAPI_1_003_.tif", None, "A01", "1.z4", "DAPI", None, 3),
    ("B2_1_Bright Field_1_001_02.tif", None, "B02", "1", "Bright Field", None, 1),
    ("exp/B2-Site_0/img_channel000_position004_time000000007_z000.tif", "exp", "B02", "0", "000", None, 7),
    ("exp/Pos3/img_channel001_position003_time000000000_z000.tif", "exp", None, "3", "001", None, 0),
    ("exp_Phase_Contrast_H12_4_03d12h00m.tif", "exp", "H12", "4", "Phase_Contrast", 84.0, None),
    ("exp_phase_H12_4_03d12h00m.tif", "exp", "H12", "4", "phase", 84.0, None),
    ("exp_NearIR_H12_4_03d12h00m.tif", "exp", "H12", "4", "NearIR", 84.0, None),
    ("exp_Green Calibrated_H12_4_03d12h00m.tif", "exp", "H12", "4", "Green Calibrated", 84.0, None),
    ("exp_H12_1_00d4h00m.OME.TIF", "exp", "H12", "1", None, 4.0, None),
    ("2026-11-25 13-20-05/1248/B2_1_Ph.tif", "1248", "B02", "1", "Ph", "2026-11-25T13:20:05", None),
    ("04h/vessel 7/B2_1_Ph.tif", "vessel 7", "B02", "1", "Ph", 4.0, None),
    ("vessel 7/01d04h/B2_1_Ph.tif", "vessel 7", "B02", "1", "Ph", 28.0, None),
    ("04h/B2_1_Ph.tif", None, "B02", "1", "Ph", 4.0, None),
    ("Images/r01c02f03p01-ch1sk5fk1fl1.tiff", None, "A02", "3", "1", None, 5),
    ("_A01_T0001F001L01A01Z01C01.tif", None, "A01", "1", "01", None, 1),
    ("p/A01_T0001F001L01A01Z01C01.tif", "p", "A01", "1", "01", None, 1),
    ("q/TimePoint_2/my_plate_B2_s1_w10.TIF", "my_plate", "B02", "1", "10", None, 2),
    ("q/timepoint_2/my_plate_b2_s1_w1.tif", "my_plate", "B02", "1", "1", None, 2),
    ("q/TimePoint_1/exp_A01.tif", "exp", "A01", None, None, None, 1),
    ("TimePoint_1/A01_s1.tif", None, "A01", "1", None, None, 1),
    (f"Exp7_A01_s1_w1{GUID.lower()}.tif", "Exp7", "A01", "1", "1", None, None),
]


@pytest.mark.parametrize(("key", "plate", "well", "site", "channel", "time", "frame"), NAMES)
def test_real_names_tell_where_and_when(
    key: str,
    plate: str | None,
    well: str | None,
    site: str | None,
    channel: str | None,
    time: float | str | None,
    frame: int | None,
) -> None:
    found = read_acquisition(key)
    assert (found.plate, found.well, found.site, found.channel) == (plate, well, site, channel)
    assert (found.time, found.frame) == (pytest.approx(time) if isinstance(time, float) else time, frame)
    assert len(found.sources) == 1


@pytest.mark.parametrize(
    "key",
    [
        "hello.tif",
        "x/y/z.png",
        "well_Z99_1_00d00h00m.tif",  # no plate has a column 99
        f"Exp7_A01_s1_w2_thumb{GUID}.tif",  # a preview, not a page
        "report_2026.tif",
        "exp_s1_w1.tif",  # site and wavelength, but no well
        "exp_A01.tif",
        "",
    ],
)
def test_a_name_without_a_place_is_not_an_error(key: str) -> None:
    assert read_acquisition(key) == Acquisition()


def test_the_part_before_phase_is_the_cell_line() -> None:
    assert read_acquisition("SHSY5Y_Phase_B10_1_00d04h00m_1.tif").cell_line == "SHSY5Y"
    assert read_acquisition("VID1_B10_1_00d04h00m.tif").cell_line is None


def test_a_plate_whose_name_is_too_long_for_the_table_is_left_unnamed() -> None:
    found = read_acquisition(f"folder/{'x' * 200}_B2_1_00d00h00m.tif")
    assert (found.plate, found.well) == (None, "B02")


@given(st.text(max_size=1100))
def test_a_request_can_give_every_place_that_a_name_can(key: str) -> None:
    found = read_acquisition(key)
    assert found.plate is None or check_plate(found.plate) == found.plate
    assert found.well is None or check_well(found.well) == found.well
    assert found.time is None or check_time(found.time) == found.time


@pytest.mark.parametrize(
    "unit", ["a", "A1_", "_", "/", "00d00h00m_", "A1_1_", "a_Phase_B", "x/", "_s1_w1", "TimePoint_1/"]
)
def test_no_name_keeps_the_presets_busy(unit: str) -> None:
    started = time.process_time()
    for _ in range(20):
        read_acquisition((unit * 1024)[:1020])
    assert (time.process_time() - started) / 20 < 0.1  # 0.3 to 3 ms; one that backtracks takes minutes


ALL_AT_ONCE = Pattern(
    r"(?P<well>B2)" + "".join(f"(?=(?P<{name}>.*))" for name in sorted(Pattern.GROUPS - {"well"}))
)


@given(st.one_of(st.text(max_size=200), st.from_regex(r"[0-9.,:T-]{1,60}", fullmatch=True)))
def test_whatever_a_pattern_captures_can_be_stored(captured: str) -> None:
    found = read_acquisition(f"B2{captured}", ALL_AT_ONCE)
    assert found.well == "B02"
    assert found.plate is None or check_plate(found.plate) == found.plate
    assert found.time is None or check_time(found.time) == found.time
    assert len(found.site or "") <= 32
    assert (found.frame or 0) < 10**10


def test_fields_of_a_request_override_those_of_the_name() -> None:
    asked = Acquisition(plate="mine", time=7.0, sources=("request",))
    found = asked.filled_from(read_acquisition("SHSY5Y_Phase_B10_1_00d04h00m_1.tif"))
    assert (found.plate, found.well, found.time) == ("mine", "B10", 7.0)
    assert found.sources == ("request", "incucyte_elapsed")


def test_a_source_that_adds_nothing_is_not_named() -> None:
    told = read_acquisition("SHSY5Y_Phase_B10_1_00d04h00m_1.tif")
    assert told.filled_from(from_metadata("2026:11:25 13:20:11", None, "tiff")).sources == (
        "incucyte_elapsed",
    )


@pytest.mark.parametrize("name", ["plate 1", "AssayPlate_#655090", "Ä"])
def test_a_plates_name_may_hold_spaces_hashes_and_umlauts(name: str) -> None:
    assert check_plate(f" {name} ") == name


@pytest.mark.parametrize("name", ["", " ", "a/b", "x" * 1000, "a\nb", "a\x00", ".", "..", " .. "])
def test_a_plates_name_that_breaks_addresses_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"`plate`.*1 to 128"):
        check_plate(name)


@pytest.mark.parametrize("name", ["A49", "A0", "1A", "AG1", "", "A1 B2", "B²"])
def test_an_impossible_well_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"`well`.*B2 or B02"):
        check_well(name)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (4, 4.0),
        (0.5, 0.5),
        ("12.5", 12.5),
        ("01d04h30m", 28.5),
        ("4h", 4.0),
        ("2026-11-25T13:20", "2026-11-25T13:20:00"),
        ("2026-11-25T13:20:11.5Z", "2026-11-25T13:20:11"),
        ("2026:11:25 13:20:11", "2026-11-25T13:20:11"),
        ("2026y11m25d_13h20m", "2026-11-25T13:20:00"),
    ],
)
def test_a_time_is_hours_or_a_date(given: float | str, read: float | str) -> None:
    assert check_time(given) == read


@pytest.mark.parametrize("given", [-1, float("nan"), float("inf"), 1e9, "soon", "-4", "2026-13-25T13:20", ""])
def test_a_time_that_is_neither_is_refused(given: float | str) -> None:
    with pytest.raises(InvalidRequest, match=r"`time`.*2026-11-25T13:20"):
        check_time(given)


def test_the_date_of_a_plane_is_the_stacks_and_its_delta() -> None:
    found = from_metadata("2026-11-25T23:00:00", 7200.0, "ome")
    assert (found.time, found.sources) == ("2026-11-26T01:00:00", ("ome",))


def test_a_delta_without_a_date_is_elapsed_time() -> None:
    assert from_metadata(None, 5400.0, "ome").time == 1.5
    assert from_metadata("yesterday", None, "tiff") == Acquisition()
    assert iso_date("0000:00:00 00:00:00") is None


def test_a_users_pattern_is_tried_before_the_presets() -> None:
    pattern = Pattern(r"(?P<plate>[^_/]+)_(?P<well>[A-H]\d+)_f(?P<site>\d+)_t(?P<hours>\d+)")
    found = read_acquisition("run 1/p7_b3_f2_t012.tif", Pattern(r"(?P<well>b\d)_f(?P<site>\d)"))
    assert (found.well, found.site, found.time) == ("B03", "2", None)
    found = read_acquisition("run 1/p7_B3_f02_t012.tif", pattern)
    assert (found.plate, found.well, found.site, found.time) == ("p7", "B03", "2", 12.0)
    assert found.sources == ("pattern",)


def test_presets_apply_if_a_users_pattern_does_not_match() -> None:
    found = read_acquisition("SHSY5Y_Phase_B10_1_00d04h00m_1.tif", Pattern(r"^never(?P<well>x)"))
    assert found.well == "B10"


def test_days_hours_and_minutes_of_a_pattern_add_up() -> None:
    pattern = Pattern(r"(?P<well>\w\d)-(?P<days>\d)\.(?P<hours>\d\d)\.(?P<minutes>\d\d)")
    assert read_acquisition("B2-1.04.30.tif", pattern).time == 28.5


@pytest.mark.parametrize(
    ("key", "time"), [("B3_t4.5.tif", 4.5), ("B3_t4,5.tif", 4.5), ("B3_tx.tif", None), ("B3_tnan.tif", None)]
)
def test_hours_that_are_no_number_tell_no_time(key: str, time: float | None) -> None:
    found = read_acquisition(key, Pattern(r"(?P<well>[A-H]\d+)_t(?P<hours>.+)\.tif"))
    assert (found.well, found.time) == ("B03", time)


@pytest.mark.parametrize("date", ["20261125132011", "2026-11-25 13-20-11", "2026-11-25T13:20:11"])
def test_a_date_of_a_pattern_may_have_seconds(date: str) -> None:
    found = read_acquisition(f"b2_{date}.tif", Pattern(r"(?P<well>b\d)_(?P<date>[^.]+)"))
    assert found.time == "2026-11-25T13:20:11"


def test_a_frame_that_no_table_can_hold_is_not_read() -> None:
    pattern = Pattern(r"(?P<well>[A-H]\d)_(?P<frame>\d+)")
    assert read_acquisition(f"B2_{'9' * 60}.tif", pattern).frame is None
    assert read_acquisition("B2_9999999999.tif", pattern).frame == 9_999_999_999


def test_a_site_that_no_request_could_give_is_not_read() -> None:
    found = read_acquisition(f"B2_{'s' * 900}.tif", Pattern(r"(?P<well>[A-H]\d)_(?P<site>\w+)"))
    assert (found.well, found.site) == ("B02", None)


def test_the_folder_is_the_plate_if_a_pattern_gives_none() -> None:
    pattern = Pattern(r"(?P<well>[A-H]\d+)_t(?P<hours>\d+)")
    assert read_acquisition("a/b/B2_t4.tif", pattern).plate == "b"
    assert read_acquisition("B2_t4.tif", pattern).plate is None
    assert read_acquisition("B2_t4.tif", pattern, path="/scans/p 7/B2_t4.tif").plate == "p 7"


def test_folders_above_a_relative_path_give_plate_and_time() -> None:
    found = read_acquisition("B2_1_Ph.tif", path="/scans/00d04h00m/vessel 7/B2_1_Ph.tif")
    assert (found.plate, found.time) == ("vessel 7", 4.0)


@pytest.mark.parametrize("key", ["a/b/B2.tif", f"{'x' * 200}/B2.tif"])
def test_a_plate_that_no_request_could_name_is_none(key: str) -> None:
    found = read_acquisition(key, Pattern(r"(?P<plate>.+)/(?P<well>[A-H]\d)"))
    assert (found.plate, found.well) == (None, "B02")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (r"(?P<plate>.+)_x", r"no group `well`.*\(\?P<well>"),
        (r"(?P<well>\w\d)(?P<colour>.)", "unknown group colour; it may have"),
        (r"(?P<well>", "not a regular expression"),
        (r"(?P<well>(a+)+)$", "takes too long on a long name"),
        (r"(?P<well>([a-z0-9_]+/?)+)\.tif$", "takes too long on a long name"),
        ("(?P<well>x)" + "y" * 500, "511 characters; it may have 500"),
    ],
)
def test_a_pattern_that_cannot_serve_is_refused_when_it_is_set(text: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        parse_pattern(text)


def test_matching_a_name_stops_after_a_time_limit() -> None:
    pattern = Pattern(r"(?P<well>q)?(?:(?:qz?)+)+#")
    started = time.process_time()
    assert pattern.search("q" * 1000) is None
    assert time.process_time() - started < 1
