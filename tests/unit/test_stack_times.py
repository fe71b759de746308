"""Times from metadata, for names without a time."""

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from cytomask.acquisition import Acquisition
from cytomask.stack_times import page_times, place_pages

OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def ome(date: str | None, planes: str = "", pixels: str = "") -> str:
    dated = f"<AcquisitionDate>{date}</AcquisitionDate>" if date else ""
    lengths = " ".join(f'Size{axis}="1"' for axis in "CTZ" if f"Size{axis}" not in pixels)
    sizes = f'DimensionOrder="XYZCT" SizeX="8" SizeY="8" {lengths} {pixels}'
    return f'<OME xmlns="{OME}"><Image ID="Image:0">{dated}<Pixels {sizes}>{planes}</Pixels></Image></OME>'


def plane(frame: int, delta: float, unit: str = "s") -> str:
    return f'<Plane TheC="0" TheT="{frame}" TheZ="0" DeltaT="{delta}" DeltaTUnit="{unit}"/>'


def test_omes_date_is_that_of_a_single_page() -> None:
    (found,) = page_times(ome("2026-11-25T13:20:00"), None, 1)
    assert (found.time, found.sources) == ("2026-11-25T13:20:00", ("ome",))


def test_omes_deltas_are_added_to_the_date() -> None:
    planes = "".join(plane(frame, 2.0 * frame, "h") for frame in range(3))
    found = page_times(ome("2026-11-25T20:00:00", planes), None, 3)
    assert [each.time for each in found] == [
        "2026-11-25T20:00:00",
        "2026-11-25T22:00:00",
        "2026-11-26T00:00:00",
    ]
    assert [each.frame for each in found] == [0, 1, 2]


def test_deltas_without_a_date_are_elapsed_hours() -> None:
    found = page_times(ome(None, plane(0, 0) + plane(1, 90, "min")), None, 2)
    assert [each.time for each in found] == [0.0, 1.5]


def test_a_stack_whose_planes_are_not_its_pages_tells_no_times() -> None:
    assert page_times(ome("2026-11-25T20:00:00", plane(0, 0)), None, 3) == [Acquisition()] * 3


@pytest.mark.parametrize(
    ("pixels", "times"),
    [
        ('SizeT="3" TimeIncrement="14400.0"', [0.0, 4.0, 8.0]),
        ('SizeT="3" TimeIncrement="4" TimeIncrementUnit="h"', [0.0, 4.0, 8.0]),
        ('SizeT="3" TimeIncrement="4" TimeIncrementUnit="Ms"', [None] * 3),
        ('SizeT="3"', [None] * 3),
    ],
)
def test_omes_time_increment_is_the_interval_of_frames(pixels: str, times: list[float | None]) -> None:
    found = page_times(ome(None, "", pixels), None, 3)
    assert [each.time for each in found] == times
    assert [each.frame for each in found] == [0, 1, 2]


def test_omes_date_is_that_of_the_first_frame() -> None:
    date, later = "2026-11-25T20:00:00", "2026-11-26T00:00:00"
    found = page_times(ome(date, "", 'SizeT="2" TimeIncrement="4" TimeIncrementUnit="h"'), None, 2)
    assert [each.time for each in found] == [date, later]
    assert [each.time for each in page_times(ome(date, "", 'SizeT="2"'), None, 2)] == [date, None]


def test_omes_time_increment_is_not_that_of_planes() -> None:
    text = ome(None, "", 'SizeT="1" SizeZ="3" TimeIncrement="14400.0"')
    assert page_times(text, None, 3) == [Acquisition()] * 3


def test_a_text_of_several_images_tells_no_times() -> None:
    text = ome("2026-11-25T20:00:00", plane(0, 0))
    two = text.replace("</OME>", text[text.index("<Image") :])
    assert page_times(two, None, 1) == [Acquisition()]
    assert page_times(two, None, 2) == [Acquisition()] * 2


@pytest.mark.parametrize("delta", ["inf", "nan", "1e300", "-5"])
def test_an_impossible_delta_tells_no_time(delta: str) -> None:
    planes = plane(0, 0) + plane(1, float(delta))
    for date in (None, "2026-11-25T20:00:00", "9999-12-31T20:00:00"):
        assert page_times(ome(date, planes), None, 2)[1].time is None


def test_a_names_time_is_that_of_the_first_frame() -> None:
    times = page_times(ome(None, "", 'SizeT="3" TimeIncrement="4" TimeIncrementUnit="h"'), None, 3)
    hours = place_pages(Acquisition(well="B02", time=24.0, sources=("pattern",)), times)
    assert [each.time for each in hours] == [24.0, 28.0, 32.0]
    assert {each.sources for each in hours} == {("pattern", "ome")}
    dates = place_pages(Acquisition(time="2026-11-25T20:00:00"), times)
    assert [each.time for each in dates] == [
        *("2026-11-25T20:00:00", "2026-11-26T00:00:00", "2026-11-26T04:00:00")
    ]


def test_later_frames_have_no_time_if_the_interval_is_unknown() -> None:
    found = place_pages(Acquisition(time=24.0), [Acquisition()] * 3)
    assert [(each.time, each.frame) for each in found] == [(24.0, 0), (None, 1), (None, 2)]


def test_a_names_own_count_of_scans_is_that_of_all_its_pages() -> None:
    found = place_pages(Acquisition(frame=7), [Acquisition()] * 2)
    assert [each.frame for each in found] == [7, 7]


def test_a_single_page_has_the_time_of_its_name_or_else_its_own() -> None:
    times = page_times("", "2026:11:25 13:20:11", 1)
    assert place_pages(Acquisition(time=4.0), times) == [Acquisition(time=4.0)]
    assert place_pages(Acquisition(), times) == times


def test_imagejs_frames_and_interval() -> None:
    text = "ImageJ=1.54f\nimages=3\nframes=3\nfinterval=14400.0\ntunit=sec\n"
    assert [each.time for each in page_times(text, None, 3)] == [0.0, 4.0, 8.0]


@pytest.mark.parametrize(
    ("unit", "hours"),
    [
        *(("s", 4 / 3600), ("seconds", 4 / 3600), ("ms", 4e-3 / 3600), ("µs", 4e-6 / 3600)),
        *(("min", 4 / 60), ("minutes", 4 / 60), ("h", 4), ("hr", 4), ("hours", 4), ("d", 96), ("day", 96)),
    ],
)
def test_imagejs_interval_is_in_the_files_own_unit(unit: str, hours: float) -> None:
    text = f"ImageJ=1.53t\nframes=3\nfinterval=4.0\ntunit={unit}\n"
    assert [each.time for each in page_times(text, None, 3)] == pytest.approx([0, hours, 2 * hours])


@pytest.mark.parametrize("unit", ["fortnights", "pixel", "m", "Ms"])
def test_an_unknown_unit_tells_no_time(unit: str) -> None:
    text = f"ImageJ=1.53t\nframes=3\nfinterval=4.0\ntunit={unit}\n"
    assert [each.time for each in page_times(text, None, 3)] == [None] * 3
    planes = "".join(plane(frame, 2.0 * frame, unit) for frame in range(3))
    assert [each.time for each in page_times(ome(None, planes), None, 3)] == [None] * 3


@pytest.mark.parametrize("text", ["frames=3\nfinterval=0.0", "frames=2\nfinterval=60.0", "frames=x", ""])
def test_imagejs_description_without_a_usable_interval_tells_no_time(text: str) -> None:
    assert [each.time for each in page_times(f"ImageJ=1.54f\n{text}\n", None, 3)] == [None] * 3


def test_tiffs_date_is_that_of_a_single_page() -> None:
    (found,) = page_times("", "2026:11:25 13:20:11", 1)
    assert (found.time, found.sources) == ("2026-11-25T13:20:11", ("tiff",))
    assert page_times("", "2026:11:25 13:20:11", 2) == [Acquisition()] * 2


def test_files_written_by_tifffile_are_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("stack") / "a.ome.tif"
    planes = {"Plane": {"DeltaT": [0.0, 3600.0], "DeltaTUnit": ["s", "s"]}}
    increment = {"TimeIncrement": 1.0, "TimeIncrementUnit": "h"}
    for told in (planes, increment):
        tifffile.imwrite(path, np.zeros((2, 8, 8), np.uint8), metadata={"axes": "TYX", **told}, ome=True)
        with tifffile.TiffFile(path) as file:
            found = page_times(file.pages.first.description, None, 2)
        assert [each.time for each in found] == [0.0, 1.0]


@given(st.text(max_size=300), st.integers(1, 5))
def test_any_description_is_read_without_an_error(text: str, pages: int) -> None:
    for description in (text, ome(None, text), f"ImageJ=1\n{text}"):
        assert len(page_times(description, text, pages)) == pages
