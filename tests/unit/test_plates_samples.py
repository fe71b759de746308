"""The simulated plates match their truth."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile

from cytomask.acquisition import read_acquisition
from cytomask.cli import demo_plate
from cytomask.plate_pages import PlatePage
from cytomask.plate_rows import PlateSummary
from cytomask.samples.plates import DEMO_HOURS, DEMO_WELLS, PAGE, SamplePage, Well, measured, write_plate


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[SamplePage]:
    return write_plate(tmp_path_factory.mktemp("plate"))


def test_the_demo_plate_has_a_page_for_each_well_and_hour(pages: list[SamplePage]) -> None:
    places = {(found.well, found.time) for page in pages if (found := read_acquisition(page.key))}
    assert places == {(well, float(hour)) for well in DEMO_WELLS for hour in DEMO_HOURS}
    assert {tifffile.imread(page.image).shape for page in pages} == {PAGE}


def test_pages_show_the_true_confluence(pages: list[SamplePage]) -> None:
    for page in pages:
        found = read_acquisition(page.key)
        well = DEMO_WELLS[found.well or ""]
        hour = np.array([float(found.time or 0)])
        true = 0.08 if well.truth is None else float(well.truth.confluence(hour)[0])
        assert page.confluence == pytest.approx(true, abs=0.02)  # a cell or so


def test_a_plate_map_lies_beside_the_pages(pages: list[SamplePage]) -> None:
    text = (Path(pages[0].image).parent / "platemap.csv").read_text()
    assert text.splitlines()[0] == "# expected pages: 48"
    assert "A01,control" in text


def test_a_well_doubles_in_its_doubling_time() -> None:
    hours = np.array([0.0, 20.0, 40.0])
    assert Well("exponential", 20.0, begins=0.1).confluence(hours) == pytest.approx([0.1, 0.2, 0.4])
    assert Well("logistic", 20.0, begins=1e-4).confluence(hours) == pytest.approx(
        [1e-4, 2e-4, 4e-4], rel=1e-3
    )


def test_measurements_have_the_given_noise_and_missing_share() -> None:
    hours = np.arange(0.0, 4000.0)
    kept, seen = measured(np.random.default_rng(0), Well("exponential", 1e9, begins=0.5), hours)
    assert kept.size == pytest.approx(3600, abs=80)
    assert seen.std() == pytest.approx(0.025, rel=0.05)


def test_errors_of_neighbouring_scans_are_as_alike_as_asked() -> None:
    well, hours = Well("exponential", 1e9, begins=0.5), np.arange(0.0, 4000.0)
    _, seen = measured(np.random.default_rng(0), well, hours, missing=0, alike=0.8)
    assert np.corrcoef(seen[1:], seen[:-1])[0, 1] == pytest.approx(0.8, abs=0.05)
    assert seen.std() == pytest.approx(0.025, rel=0.1)


def test_the_demo_waits_until_the_pages_that_were_counted_can_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo_plate, "POLL_SECONDS", 0)
    measured, running = (PlatePage(plate="p", well="A01", confluence=each) for each in (0.5, None))
    readable = [[], [measured], [measured, running], [measured, measured]]
    found = PlateSummary(plate="p", pages=2, completed_at="2026-11-25T13:20:00Z")
    plates = SimpleNamespace(summary=lambda _: found, pages=lambda _: readable.pop(0))
    assert demo_plate.wait_for_plate(plates, 2) == found  # type: ignore[arg-type]
    assert readable == []
