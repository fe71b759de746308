"""Times from metadata, for names without a time."""

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from cytomask.acquisition import Acquisition
from cytomask.stack_times import page_times

OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def ome(date: str | None, planes: str = "") -> str:
    dated = f"<AcquisitionDate>{date}</AcquisitionDate>" if date else ""
    return f'<OME xmlns="{OME}"><Image ID="Image:0">{dated}<Pixels>{planes}</Pixels></Image></OME>'


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
def test_imagejs_description_without_a_usable_interval_tells_nothing(text: str) -> None:
    assert page_times(f"ImageJ=1.54f\n{text}\n", None, 3) == [Acquisition()] * 3


def test_tiffs_date_is_that_of_a_single_page() -> None:
    (found,) = page_times("", "2026:11:25 13:20:11", 1)
    assert (found.time, found.sources) == ("2026-11-25T13:20:11", ("tiff",))
    assert page_times("", "2026:11:25 13:20:11", 2) == [Acquisition()] * 2


def test_files_written_by_tifffile_are_read(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("stack") / "a.ome.tif"
    planes = {"DeltaT": [0.0, 3600.0], "DeltaTUnit": ["s", "s"]}
    tifffile.imwrite(path, np.zeros((2, 8, 8), np.uint8), metadata={"axes": "TYX", "Plane": planes}, ome=True)
    with tifffile.TiffFile(path) as file:
        found = page_times(file.pages.first.description, None, 2)
    assert [each.time for each in found] == [0.0, 1.0]


@given(st.text(max_size=300), st.integers(1, 5))
def test_any_description_is_read_without_an_error(text: str, pages: int) -> None:
    for description in (text, ome(None, text), f"ImageJ=1\n{text}"):
        assert len(page_times(description, text, pages)) == pages
