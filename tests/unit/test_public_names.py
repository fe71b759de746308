"""The public names take arrays and paths, and their errors name the required shape."""

import subprocess
import sys
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

import cytomask
from cytomask.cli.ledger import COLUMNS
from cytomask.cli.tables import write_csv
from cytomask.errors import AmbiguousChannels, NoBackground, NoSuchPage, RejectedInput
from cytomask.plate_pages import PlatePage
from cytomask.plate_tables import pages_csv
from cytomask.plates import build_report
from cytomask.samples.fields import Field, phase_contrast_field

HEIGHT, WIDTH = 64, 80


@pytest.fixture(scope="module")
def field() -> Field:
    return phase_contrast_field(1, 240, 320, confluence=0.3)


def save_mask(path: Path, cells: NDArray[np.bool_]) -> Path:
    Image.fromarray(cells.astype(np.uint8) * 255).save(path)
    return path


def test_an_array_and_its_file_get_the_same_mask(field: Field, tmp_path: Path) -> None:
    path = tmp_path / "field.tif"
    tifffile.imwrite(path, field.pixels)
    found, of_file = cytomask.segment(field.pixels), cytomask.segment(path)
    assert found.mask.shape == found.probability.shape == field.pixels.shape
    assert (found.mask.dtype, found.probability.dtype) == (np.dtype(np.bool_), np.dtype(np.float32))
    assert np.array_equal(found.mask, of_file.mask)
    assert np.array_equal(cytomask.segment(str(path)).mask, found.mask)
    assert cytomask.score(found.mask, field.cells).iou > 0.6


def test_the_mode_and_the_threshold_are_those_asked_for(field: Field) -> None:
    found = cytomask.segment(field.pixels, mode="resize", threshold=0.9)
    assert found.plan is None
    assert np.array_equal(found.mask, found.probability >= np.float32(0.9))


def test_a_predictor_of_ones_own_is_used(field: Field) -> None:
    predictor = cytomask.Predictor(modes=["resize"], threads=1)
    found = cytomask.segment(field.pixels, mode="resize", predictor=predictor)
    assert np.array_equal(found.mask, cytomask.segment(field.pixels, mode="resize").mask)


def test_a_page_of_a_stack_must_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    planes = np.arange(3 * HEIGHT * WIDTH, dtype=np.uint16).reshape(3, HEIGHT, WIDTH)
    tifffile.imwrite(path, planes, photometric="minisblack")
    with pytest.raises(NoSuchPage, match="has 3 pages; choose one with page=0 to 2"):
        cytomask.read_page(path)
    assert np.array_equal(cytomask.read_page(path, page=2), planes[2])
    with pytest.raises(NoSuchPage):
        cytomask.read_page(path, page=3)


def test_a_channel_must_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "channels.tif"
    planes = np.arange(2 * HEIGHT * WIDTH, dtype=np.uint16).reshape(2, HEIGHT, WIDTH)
    tifffile.imwrite(path, planes, imagej=True, metadata={"axes": "CYX"})
    with pytest.raises(AmbiguousChannels, match="channel"):
        cytomask.read_page(path)
    assert np.array_equal(cytomask.read_page(path, channel=1), planes[1])


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.zeros((3, HEIGHT, WIDTH)), r"shape \(height, width\), not \(3, 64, 80\); pass one page"),
        (np.zeros((HEIGHT, WIDTH, 3)), r"not \(64, 80, 3\); choose one channel, as in image\[\.\.\., 0\]"),
        (np.zeros(HEIGHT), r"not \(64,\)"),
        (np.zeros((0, WIDTH)), "no pixels"),
        (np.zeros((HEIGHT, WIDTH), bool), "integers or floats, not bool"),
        (np.zeros((HEIGHT, WIDTH), complex), "not complex128"),
        (np.full((HEIGHT, WIDTH), np.nan), "NaN or infinite"),
        (np.ma.masked_equal(np.eye(HEIGHT), 1), r"image has masked values; .* image\.filled\(0\)"),
        (None, r"must be an array of shape \(height, width\), or a path, not NoneType"),
        (b"field.tif", "or a path, not bytes"),
        ([[1, 2], [3]], "image cannot be turned into a NumPy array: "),
    ],
)
def test_an_array_of_another_kind_is_refused_with_the_shape_that_is_wanted(image: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        cytomask.segment(image)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mode": "fast"}, "mode must be 'native' or 'resize', not 'fast'"),
        ({"threshold": 50}, "threshold must be a number between 0 and 1, not 50"),
        ({"threshold": "0.5"}, "threshold must be a number between 0 and 1, not '0.5'"),
        ({"threshold": float("nan")}, "not nan"),
        ({"page": 0}, r"index the array instead, as in image\[0\]"),
        ({"channel": 1}, "page and channel choose from a file"),
        ({"predictor": "mine"}, r"predictor must be a Predictor, .* not 'mine'"),
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        cytomask.segment(np.ones((HEIGHT, WIDTH)), **options)


@pytest.mark.parametrize("option", ["page", "channel"])
def test_a_page_and_a_channel_must_be_numbers(option: str) -> None:
    given: dict[str, Any] = {option: "1"}
    for read in (cytomask.read_page, cytomask.segment):
        with pytest.raises(ValueError, match=f"{option} must be a whole number, counted from 0, not '1'"):
            read("field.tif", **given)


@pytest.mark.parametrize("file", [None, 3, b"field.tif", ["a.tif", "b.tif"]])
def test_a_file_must_be_a_path(file: Any) -> None:
    for read in (cytomask.read_page, cytomask.read_acquisition):
        with pytest.raises(ValueError, match=f"file must be a path, not {type(file).__name__}"):
            read(file)


def test_a_pattern_must_be_a_text() -> None:
    pattern: Any = 5
    with pytest.raises(ValueError, match="pattern must be a regular expression as text, not 5"):
        cytomask.read_acquisition("a.tif", pattern=pattern)


def test_numbers_of_numpy_and_an_array_without_masked_pixels_are_taken(field: Field, tmp_path: Path) -> None:
    path = tmp_path / "field.tif"
    tifffile.imwrite(path, field.pixels)
    numbers: dict[str, Any] = {"page": np.int64(0), "threshold": np.float32(0.5)}
    found = cytomask.segment(path, **numbers, mode="resize")
    whole = np.ma.MaskedArray(field.pixels)
    assert np.array_equal(cytomask.segment(whole, threshold=0.5, mode="resize").mask, found.mask)


def test_scores_are_the_same_for_arrays_labels_and_files(tmp_path: Path) -> None:
    ours, theirs = np.zeros((HEIGHT, WIDTH), bool), np.zeros((HEIGHT, WIDTH), bool)
    ours[:20, :20], theirs[10:30, :20] = True, True
    score = cytomask.score(ours, theirs)
    assert (score.iou, score.dice, score.precision, score.recall) == (1 / 3, 0.5, 0.5, 0.5)
    assert cytomask.score(ours.astype(np.uint16) * 7, theirs) == score
    assert (
        cytomask.score(save_mask(tmp_path / "a.png", ours), str(save_mask(tmp_path / "b.png", theirs)))
        == score
    )


def test_masks_of_two_sizes_are_refused_with_both(tmp_path: Path) -> None:
    ours = np.zeros((HEIGHT, WIDTH), bool)
    with pytest.raises(ValueError, match="mask is 64 x 80 but ground_truth is 80 x 64"):
        cytomask.score(ours, save_mask(tmp_path / "turned.png", ours.T))


def test_a_mask_may_be_all_cell_but_a_ground_truth_without_background_is_refused(tmp_path: Path) -> None:
    full = save_mask(tmp_path / "full.png", np.ones((HEIGHT, WIDTH), bool))
    empty = np.zeros((HEIGHT, WIDTH), bool)
    assert cytomask.score(full, empty).iou == 0.0
    with pytest.raises(NoBackground, match=r"full\.png"):
        cytomask.score(empty, full)


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (np.zeros((HEIGHT, WIDTH), np.float32), "mask must hold bool or integers, not float32; compare"),
        (np.zeros((1, HEIGHT, WIDTH), bool), r"mask must have shape \(height, width\), not \(1, 64, 80\)"),
        (np.zeros((0, WIDTH), bool), "mask has no pixels"),
        (None, "mask must be an array .* or a path, not NoneType"),
    ],
)
def test_arrays_that_are_not_masks_are_not_scored(mask: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        cytomask.score(mask, np.zeros((HEIGHT, WIDTH), bool))


def test_a_file_that_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.tif"
    path.write_text("no image")
    with pytest.raises(RejectedInput, match=r"notes\.tif"):
        cytomask.segment(path)
    with pytest.raises(FileNotFoundError, match=r"missing\.tif"):
        cytomask.read_page(tmp_path / "missing.tif")
    with pytest.raises(RejectedInput, match=r"is a folder; .* OME-Zarr is not read: export it as OME-TIFF"):
        cytomask.segment(tmp_path)


def test_the_import_alone_loads_no_numpy_and_a_wrong_name_is_told() -> None:
    script = (
        "import sys, cytomask; heavy = {'numpy', 'onnxruntime', 'cytomask.notebook'};"
        " print(sorted(heavy & set(sys.modules)), dir(cytomask), hasattr(cytomask, 'segmnt'))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.strip()
    names = sorted(cytomask.__all__)
    assert {"segment", "Predictor", "growth", "read_acquisition"} < set(names)
    assert printed == f"[] {names} False"


HOURS = np.arange(0, 48, 4.0)
DOUBLING_20_H = 0.1 * 2 ** (HOURS / 20)


def test_growth_of_arrays_is_that_of_one_well_in_any_order() -> None:
    found = cytomask.growth(HOURS, DOUBLING_20_H)
    assert found.doubling_time_h == pytest.approx(20, rel=0.05)
    assert cytomask.growth(HOURS[::-1].tolist(), DOUBLING_20_H[::-1].tolist()) == found


@pytest.mark.parametrize("tidy", [True, False])
def test_growth_of_a_table_is_that_of_each_well(tidy: bool, tmp_path: Path) -> None:
    rows = []
    for well, speed in (("B02", 20), ("C03", 40)):
        for hour in range(0, 48, 4):
            share = 0.1 * 2 ** (hour / speed)
            name = f"P7_Phase_{well}_1_{hour // 24:02d}d{hour % 24:02d}h00m.tif"
            place = {"plate": "P7", "well": well, "site": "1", "time": hour, "hours": ""}
            own = place if tidy else dict.fromkeys(COLUMNS, "") | {"file": name, "page": 0}
            rows.append(own | {"confluence": share})
    table = tmp_path / "pages.csv"
    write_csv(table, list(rows[0]), rows)
    found = cytomask.growth(table)
    assert set(found) == {"B02", "C03"}
    assert found["B02"].doubling_time_h == pytest.approx(20, rel=0.05)
    assert found["C03"].doubling_time_h == pytest.approx(40, rel=0.05)


def test_folders_are_refused_with_what_to_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder; name a table of pages in it"):
        cytomask.growth(tmp_path)
    with pytest.raises(ValueError, match=r"ground_truth is the folder .*; name one mask in it"):
        cytomask.score(np.eye(3, dtype=bool), tmp_path)


def test_fields_of_several_sizes_are_pooled_from_a_table_as_in_its_report(tmp_path: Path) -> None:
    pages = [
        PlatePage(plate="p", well="B02", site=site, time=hour, confluence=share, pixels=pixels)
        for hour, share in zip(HOURS.tolist(), DOUBLING_20_H.tolist(), strict=True)
        for site, share, pixels in (("1", share, 9000), ("2", 0.2, 1000))
    ]
    report = build_report("p", pages)
    table = tmp_path / "pages.csv"
    table.write_text(pages_csv(report))
    found = cytomask.growth(table)["B02"].doubling_time_h
    assert found == pytest.approx(report.wells["B02"].growth.doubling_time_h, rel=1e-4)


def test_a_table_that_excel_saved_has_wells_of_one_name(tmp_path: Path) -> None:
    table = tmp_path / "pages.csv"
    rows = "".join(
        f"p,{'B2' if hour % 8 else 'B02'},{hour},{0.1 * 2 ** (hour / 20)}\n" for hour in range(0, 48, 4)
    )
    table.write_text(f"plate,well,time,confluence\n{rows}", encoding="utf-8-sig")
    (found,) = cytomask.growth(table).items()
    assert found[0] == "B02"
    assert found[1].points == 12


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ("p,foo,0,0.1", r"line 3 of .*a\.csv: `well`: 'foo' is not a well of a plate"),
        ("p,B02,25.11.2026 08:00,0.1", r"line 3 of .*: `time`: '25\.11\.2026 08:00' is none of: hours"),
        ("p,B02,0,10", r"line 3 of .*: `confluence`: '10' is not a share from 0 to 1"),
        ("p,B02,0,nan", "'nan' is not a share"),
        ("p,B02,0,n/a", "'n/a' is not a share"),
    ],
)
def test_a_cell_that_cannot_be_read_is_named_by_its_line(cells: str, told: str, tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text(f"plate,well,time,confluence\np,B02,4,0.1\n{cells}\n")
    with pytest.raises(ValueError, match=told):
        cytomask.growth(table)


@pytest.mark.parametrize(
    ("hours", "confluence", "told"),
    [
        ([0, 4], [0.1], r"two lists of one length, not \(2,\) and \(1,\)"),
        ([], [], "two lists of one length"),
        ([0, 4], None, "confluence is missing"),
        (np.array([0, 4], "m8[s]"), [0.1, 0.2], r"not timedelta64\[s\]; divide .* np\.timedelta64\(1, 'h'\)"),
        (np.ma.masked_equal([0, 4], 4), [0.1, 0.2], "hours has masked values"),
        ([0, 4], ["0.1", "high"], "confluence must be integers or floats"),
        ([0, 4], [10, 20], "a share, not a percentage"),
        ([0, float("nan")], [0.1, 0.2], "hours must be finite"),
        ([0, 0], [0.1, 0.2], "average the sites"),
    ],
)
def test_impossible_curves_are_refused(hours: Any, confluence: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        cytomask.growth(hours, confluence)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n1,2\n", "is not a table of pages"),
        ("", "is not a table of pages"),
        (",".join(COLUMNS) + "\na.tif" + "," * (len(COLUMNS) - 1) + "\n", "no name tells a well"),
        ("plate,well,time,confluence\np,B02,0,0.1\nq,B02,0,0.1\n", "pages of 2 plates"),
    ],
)
def test_a_table_of_something_else_is_refused(text: str, told: str, tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text(text)
    with pytest.raises(ValueError, match=told):
        cytomask.growth(table)


def test_an_acquisition_is_read_from_a_path_of_any_system() -> None:
    windows = PureWindowsPath(r"C:\plates\run 1\P7_Phase_B2_3_01d04h00m.tif")
    for file in (windows, str(windows), PurePosixPath("/plates/run 1/P7_Phase_B2_3_01d04h00m.tif")):
        found = cytomask.read_acquisition(file)
        assert (found.plate, found.well, found.site, found.time) == ("P7", "B02", "3", 28.0)
