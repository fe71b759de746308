"""`cytomask segment --plate`: the report of a plate in a folder, from the pages that were segmented."""

import json
import re
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from cytomask.cli.local_plate import read_fitting_map, report_plates
from cytomask.cli.main import main, make_parser
from cytomask.samples.plates import DEMO_WELLS, SamplePage, write_plate

Line = dict[str, object]


@pytest.fixture(scope="module")
def plate(tmp_path_factory: pytest.TempPathFactory) -> list[Line]:
    """Return the demo's plate with its true cells as masks."""
    folder = tmp_path_factory.mktemp("plate")
    return [line_of(page, folder / "masks") for page in write_plate(folder)]


def line_of(page: SamplePage, masks: Path) -> Line:
    pixels = tifffile.imread(page.image)
    mask = masks / f"{page.image.name}.mask.png"
    mask.parent.mkdir(exist_ok=True)
    Image.fromarray((np.arange(pixels.size).reshape(pixels.shape) % 97 < 20).astype(np.uint8) * 255).save(
        mask
    )
    return line(page.image, confluence=page.confluence, mask=str(mask))


def line(file: Path | str, **changed: object) -> Line:
    given: Line = {
        **{"file": str(file), "page": 0, "height": 224, "width": 224, "confluence": 0.3, "mask": None},
        **{"confluence_low": None, "confluence_high": None, "model": "m", "mode": "native", "threshold": 0.5},
        **{"error": None},
    }
    return given | changed


def asked(*options: str) -> Namespace:
    return make_parser(["segment"]).parse_args(["segment", "x", "--plate", *options])


def test_each_well_gets_a_line_with_its_doubling_time(
    plate: list[Line], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_plates(plate, asked()) == 0
    out = capsys.readouterr().out
    assert out.startswith("plate demo plate: 6 wells, 8 scans, 0 to 56 h, 48 pages used, 0 left out")
    for well, sample in DEMO_WELLS.items():
        (found,) = re.findall(rf"^{well} .*$", out, re.MULTILINE)
        if sample.truth is None:
            assert "no growth" in found
        else:
            (hours,) = re.findall(r"  ([\d.]+) h  +[\d.]+ to", found)
            assert float(hours) == pytest.approx(sample.truth.doubling_time_h, rel=0.12)


def test_all_files_are_written(plate: list[Line], tmp_path: Path) -> None:
    names = ("pages-csv", "wells", "conditions", "prism", "html")
    options = [part for name in names for part in (f"--{name}", str(tmp_path / name))]
    plate_map = tmp_path / "map.csv"
    plate_map.write_text("well,condition\nA1:A2,control\nA3,drug\n")
    arguments = asked(*options, "--map", str(plate_map), "--control", "control")
    read = read_fitting_map([Path(str(each["file"])) for each in plate], arguments)
    assert report_plates(plate, arguments, read) == 0
    assert (tmp_path / "pages-csv").read_text().count("\n") == 49
    assert (tmp_path / "wells").read_text().count("\n") == 7
    assert (tmp_path / "conditions").read_text().splitlines()[1].startswith("control,")
    assert (tmp_path / "prism").read_text().startswith("Time (h)\tcontrol\tcontrol\tdrug\n")
    assert (tmp_path / "html").read_bytes().startswith(b"<!doctype html>")


def page_data(html: str) -> dict[str, dict[str, dict[str, list[dict[str, float]]]]]:
    (text,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', html, re.DOTALL)
    data: dict[str, dict[str, dict[str, list[dict[str, float]]]]] = json.loads(text)
    return data


def test_the_page_has_curves_and_film_strips_and_fetches_nothing(plate: list[Line], tmp_path: Path) -> None:
    report_plates(plate, asked("--html", str(tmp_path / "p.html")))
    html = (tmp_path / "p.html").read_text()
    assert len(page_data(html)["wells"]["A01"]["f"]) == 8
    assert len(page_data(html)["wells"]["A01"]["c"]) == 8
    assert not re.search(r'(src|href)="https?:', html)
    assert "default-src 'none'" in html


def test_a_name_cannot_become_markup(plate: list[Line], tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>"
    rejected = line(f"{evil}_B2_1_00d00h00m.tif", confluence=None, error="</script><b>")
    report_plates([rejected, *plate], asked(evil, "--html", str(tmp_path / "p.html")))
    html = (tmp_path / "p.html").read_text()
    assert evil not in html
    assert "</script><b>" not in html
    assert "&lt;img src=x" in html
    assert set(page_data(html)["wells"]) == set(DEMO_WELLS)


def test_a_page_that_was_refused_is_left_out_with_its_reason(
    plate: list[Line], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = line("demo plate_Phase_A01_1_02d16h00m.tif", confluence=None, error="it is damaged")
    assert report_plates([*plate, bad], asked("--html", str(tmp_path / "p.html"))) == 0
    assert "left out: demo plate_Phase_A01_1_02d16h00m.tif (A01): rejected: it is damaged" in (
        capsys.readouterr().err
    )
    assert "rejected: it is damaged" in (tmp_path / "p.html").read_text()


def test_lines_of_an_earlier_run_are_text_and_count_alike(
    plate: list[Line], capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [{name: "" if value is None else str(value) for name, value in each.items()} for each in plate]
    report_plates(plate, asked())
    now = capsys.readouterr().out
    report_plates(texts, asked())
    assert capsys.readouterr().out == now


def test_names_without_a_well_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert report_plates([line("a.tif"), line("b.tif")], asked()) == 1
    assert "2 pages belong to no plate; describe your file names with --pattern" in capsys.readouterr().err


def test_a_pattern_of_the_users_own_places_pages(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line(f"x/w_{well}_t{hour}.tif") for well in ("A1", "A2") for hour in (0, 4)]
    pattern = r"w_(?P<well>\w\d)_t(?P<hours>\d+)"
    assert report_plates(lines, asked("mine", "--pattern", pattern)) == 0
    assert capsys.readouterr().out.startswith("plate mine: 2 wells, 2 scans, 0 to 4 h")


def test_hours_that_are_no_number_do_not_end_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line(f"x/B3_t{hour}.tif") for hour in ("0", "4,5", "x")]
    assert report_plates(lines, asked("--pattern", r"(?P<well>[A-H][0-9]+)_t(?P<hours>[^.]+)")) == 0
    told = capsys.readouterr()
    assert told.out.startswith("plate x: 1 well, 2 scans, 0 to 4.5 h")
    assert "left out: x/B3_tx.tif (B03): no time is known" in told.err


def test_a_plates_name_with_a_slash_is_in_no_file_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line(f"{plate}/B2_t0.tif") for plate in ("a/b", "a/c", "d")]
    pattern = r"(?P<plate>.+)/(?P<well>[A-H]\d)_t(?P<hours>\d)"
    assert report_plates(lines, asked("--pattern", pattern, "--wells", str(tmp_path / "w.csv"))) == 0
    assert "2 pages belong to no plate; describe your file names with --pattern, or give --plate NAME" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("name", ["a/b", "x" * 1000, " "])
def test_the_name_of_a_plate_is_checked_when_it_is_given(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        asked(name)
    assert ended.value.code == 2
    assert "a plate's name takes 1 to 128 printable ones and no `/`" in capsys.readouterr().err


@pytest.mark.parametrize("pattern", [r"(?P<site>.)", r"(?P<well>(a+)+)$", "("])
def test_a_pattern_that_cannot_serve_ends_the_command_at_once(
    pattern: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        asked("--pattern", pattern)
    assert ended.value.code == 2
    assert "the pattern" in capsys.readouterr().err


def test_dates_in_files_order_scans_whose_names_tell_no_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, hour in enumerate((8, 12, 16), start=1):
        folder = tmp_path / "run" / f"TimePoint_{number}"
        folder.mkdir(parents=True)
        tifffile.imwrite(
            folder / "X_A01_s1_w1.tif",
            np.zeros((8, 8), np.uint8),
            datetime=f"2026:11:25 {hour:02d}:00:00",
            metadata=None,
        )
    lines = [line(path) for path in sorted(tmp_path.rglob("*.tif"))]
    assert report_plates(lines, asked()) == 0
    assert capsys.readouterr().out.startswith("plate X: 1 well, 3 scans, 0 to 8 h")


@pytest.mark.parametrize(
    ("name", "metadata", "options", "span"),
    [
        ("p/B2.ome.tif", {"TimeIncrement": 4.0, "TimeIncrementUnit": "h"}, (), "0 to 8 h"),
        ("p/B2.ome.tif", {}, ("--interval", "4"), "0 to 8 h"),
        ("p/B2.tif", None, ("--interval", "4"), "0 to 8 h"),
        ("p/B2_t24.ome.tif", {"TimeIncrement": 4.0, "TimeIncrementUnit": "h"}, (), "24 to 32 h"),
        ("p/B2_t24.tif", None, ("--interval", "4"), "24 to 32 h"),
    ],
)
def test_each_frame_of_a_stack_is_a_scan(
    name: str,
    metadata: dict[str, object] | None,
    options: tuple[str, ...],
    span: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / name
    path.parent.mkdir()
    frames = np.zeros((3, 8, 8), np.uint8)
    if metadata is None:
        tifffile.imwrite(path, frames, photometric="minisblack", metadata=None)
    else:
        tifffile.imwrite(path, frames, ome=True, metadata={"axes": "TYX", **metadata})
    lines = [line(path, page=page) for page in range(3)]
    pattern = r"(?P<well>[A-H]\d)(?:_t(?P<hours>\d+))?[^/]*$"
    assert report_plates(lines, asked("--pattern", pattern, *options)) == 0
    assert capsys.readouterr().out.startswith(f"plate p: 1 well, 3 scans, {span}, 3 pages used, 0 left out")


def test_frames_without_an_interval_are_left_out_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "P_B2_1_01d00h00m.tif"
    tifffile.imwrite(path, np.zeros((3, 8, 8), np.uint8), photometric="minisblack", metadata=None)
    assert report_plates([line(path, page=page) for page in range(3)], asked()) == 0
    told = capsys.readouterr()
    assert told.out.startswith("plate P: 1 well, 1 scan, 24 h, 1 page used, 2 left out")
    assert told.err.count("no time is known") == 2
    assert "(--interval)" in told.err


def test_several_plates_in_a_folder_get_files_of_their_own(tmp_path: Path) -> None:
    lines = [line(f"{plate}_A1_1_00d00h00m.tif") for plate in ("p", "q")]
    assert report_plates(lines, asked("--wells", str(tmp_path / "w.csv"))) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w-p.csv", "w-q.csv"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (lambda: b"well,condition\nH12,x\n", "is it another plate's map?"),
        (lambda: b"<!DOCTYPE x><a/>", "declares a document type"),
        (None, "cannot be read"),
    ],
)
def test_an_unusable_plate_map_ends_the_command_before_anything_is_segmented(
    content: Callable[[], bytes] | None, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "map.csv", tmp_path / "masks"
    if content:
        path.write_bytes(content())
    image = tmp_path / "p_A1_1_00d00h00m.tif"
    tifffile.imwrite(image, np.zeros((32, 32), np.uint8))
    assert main(["segment", str(image), "--out", str(out), "--plate", "--map", str(path)]) == 2
    assert sentence in capsys.readouterr().err
    assert not out.exists()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "w.csv"
    assert report_plates([line("p_A1_1_00d00h00m.tif")], asked("--wells", str(target))) == 1
    assert f"{target} cannot be written" in capsys.readouterr().err
