"""`cytomask segment`: files, their masks, and the messages to the user."""

import csv
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from cytomask.cli.ledger import COLUMNS, Row
from cytomask.cli.main import main
from cytomask.cli.segmentation import Task
from cytomask.model.predictor import Prediction, Predictor
from cytomask.regions import find_regions
from cytomask.samples.fields import phase_contrast_field


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shipped: Predictor) -> Path:
    """Work in an empty folder, with the network loaded once for all commands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cytomask.model.predictor.Predictor", lambda **_: shipped)
    return tmp_path


def write(name: str, *, pages: int = 1, height: int = 40, width: int = 50) -> Path:
    """Write a small 16-bit TIFF with cells in it, or a PNG or JPEG by the name's suffix."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = [phase_contrast_field(seed, height, width).pixels for seed in range(pages)]
    if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        Image.fromarray((fields[0] >> 8).astype(np.uint8)).save(path)
    else:
        tifffile.imwrite(path, fields if pages > 1 else fields[0], photometric="minisblack")
    return path


def read(name: str) -> NDArray[np.uint8]:
    with Image.open(name) as image:
        return np.asarray(image)


def below(folder: str) -> list[str]:
    """List every file in a folder by its relative path."""
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_mask_equals_the_predictors(shipped: Predictor) -> None:
    pixels = tifffile.imread(write("a.tif", height=61, width=301))
    assert main(["segment", "a.tif"]) == 0
    mask = read("masks/a.tif.mask.png")
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, shipped.predict(pixels).mask * np.uint8(255))
    assert below("masks") == ["a.tif.mask.png"]


def test_a_result_keeps_the_whole_file_name() -> None:
    names = [
        "a.tif.tif",
        "ein Bild ü.TIF",
        "b+c%20d#.png",
        "é (1).jpg",
        ".hidden.jpeg",
        "e.tiff",
        "no suffix",
    ]
    for name in names:
        write(name)
    assert main(["segment", *names, "--out", "o"]) == 0
    assert below("o") == sorted(f"{name}.mask.png" for name in names)


def test_a_folder_keeps_its_structure() -> None:
    for name in ("in/a.tif", "in/deep/er/a.tif", "in/deep/b.PNG"):
        write(name)
    Path("in/notes.txt").write_text("notes")
    Path("in/folder.tif").mkdir()
    assert main(["segment", "in", "--out", "new/out"]) == 0
    assert below("new/out") == ["a.tif.mask.png", "deep/b.PNG.mask.png", "deep/er/a.tif.mask.png"]


def test_files_and_folders_may_be_mixed() -> None:
    for name in ("in/a.tif", "else/where/b.tif"):
        write(name)
    assert main(["segment", "in", "else/where/b.tif"]) == 0
    assert below("masks") == ["a.tif.mask.png", "b.tif.mask.png"]


def test_every_page_of_a_stack_gets_its_mask(shipped: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    pages = tifffile.imread(write("stack.tif", pages=3))
    assert main(["segment", "stack.tif"]) == 0
    assert below("masks") == [f"stack.tif.p000{page}.mask.png" for page in range(3)]
    last = shipped.predict(pages[2]).mask * np.uint8(255)
    assert np.array_equal(read("masks/stack.tif.p0002.mask.png"), last)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("  ")[0] for line in lines] == [f"stack.tif page {page}" for page in range(3)]


def test_each_file_gets_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    write("a.tif")
    main(["segment", "a.tif"])
    share = (read("masks/a.tif.mask.png") > 0).mean()
    output = capsys.readouterr()
    assert output.out.startswith(f"a.tif  confluence {share:.3f}  ")
    assert output.out.endswith(" ms\n")
    assert output.err == ""


def test_two_files_for_one_mask_are_refused_before_anything_is_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("one/a.tif", "two/a.tif", "other.tif"):
        write(name)
    assert main(["segment", "one", "two/a.tif", "other.tif"]) == 2
    assert not Path("masks").exists()
    output = capsys.readouterr()
    assert output.out == ""
    assert "one/a.tif and two/a.tif would both write masks/a.tif.mask.png" in output.err
    assert "other.tif" not in output.err


def test_names_that_differ_in_capitals_alone_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    # They are one file on macOS and Windows.
    for name in ("one/a.tif", "two/A.TIF"):
        write(name)
    assert main(["segment", "one", "two"]) == 2
    assert "one/a.tif and two/A.TIF would both write" in capsys.readouterr().err


def test_a_refused_file_leaves_the_others_done(capsys: pytest.CaptureFixture[str]) -> None:
    write("a.tif")
    write("c.tif")
    Path("b.tif").write_text("no image")
    Path("empty.tif").touch()
    assert main(["segment", "a.tif", "b.tif", "empty.tif", "missing.tif", "c.tif"]) == 1
    assert below("masks") == ["a.tif.mask.png", "c.tif.mask.png"]
    output = capsys.readouterr()
    assert [line.split()[0] for line in output.out.splitlines()] == ["a.tif", "c.tif"]
    refusals = output.err.splitlines()
    assert refusals[0].startswith("b.tif  refused, UNREADABLE_IMAGE: b.tif is not a TIFF, PNG or JPEG")
    assert refusals[1].startswith("empty.tif  refused, EMPTY_IMAGE: ")
    assert refusals[2] == "missing.tif  refused, FILE_ERROR: missing.tif: No such file or directory"


def test_several_channels_need_one_named(shipped: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    channels = np.stack([phase_contrast_field(seed, 40, 50).pixels for seed in range(3)])
    tifffile.imwrite("c.tif", channels, imagej=True, metadata={"axes": "CYX"})
    assert main(["segment", "c.tif"]) == 1
    assert "AMBIGUOUS_CHANNELS" in capsys.readouterr().err
    assert main(["segment", "c.tif", "--channel", "3"]) == 1
    assert "c.tif has no channel 3: it has 3, counted from 0; correct `channel`" in capsys.readouterr().err
    assert main(["segment", "c.tif", "--channel", "1"]) == 0
    expected = shipped.predict(channels[1]).mask * np.uint8(255)
    assert np.array_equal(read("masks/c.tif.mask.png"), expected)


def test_a_plate_map_beside_the_images_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    write("plate/A1_1_00d00h00m.tif")
    Path("plate/platemap.csv").write_text("well,condition\nA1,drug\n")
    hint = "a plate map lies beside the images; name it with --map to use it"
    for options, named in (
        ([], False),
        (["--plate"], True),
        (["--plate", "--map", "plate/platemap.csv"], False),
    ):
        assert main(["segment", "plate", *options]) == 0
        assert (hint in capsys.readouterr().err) == named


def test_the_overlay_is_the_page_in_colour() -> None:
    write("a.tif", pages=2)
    write("b.png")
    assert main(["segment", "a.tif", "b.png", "--overlay"]) == 0
    assert below("masks") == [
        "a.tif.p0000.mask.png",
        "a.tif.p0000.overlay.png",
        "a.tif.p0001.mask.png",
        "a.tif.p0001.overlay.png",
        "b.png.mask.png",
        "b.png.overlay.png",
    ]
    assert read("masks/b.png.overlay.png").shape == (40, 50, 3)


def test_the_csv_has_a_row_for_each_page_and_each_refusal() -> None:
    write("ü, x.tif", pages=2)
    write("b.png", height=30, width=70)
    Path("bad.tif").write_text("no image")
    assert main(["segment", "ü, x.tif", "bad.tif", "b.png", "--csv", "reports/all.csv"]) == 1
    first, second, bad, last = rows_of("reports/all.csv")
    assert tuple(first) == COLUMNS
    assert [(row["file"], row["page"]) for row in (first, second)] == [("ü, x.tif", "0"), ("ü, x.tif", "1")]
    assert (last["height"], last["width"], last["page"]) == ("30", "70", "0")
    for row in (first, second, last):
        cells = int((read(row["mask"]) > 0).sum())
        assert int(row["cell_pixels"]) == cells
        assert float(row["confluence"]) == pytest.approx(
            cells / (int(row["height"]) * int(row["width"])), abs=1e-6
        )
        assert float(row["milliseconds"]) > 0
        assert row["error_code"] == row["error"] == ""
    assert (bad["file"], bad["error_code"], bad["mask"]) == ("bad.tif", "UNREADABLE_IMAGE", "")
    assert bad["error"].startswith("bad.tif is not a TIFF")
    assert below("reports") == ["all.csv"]


def test_the_line_and_the_csv_say_how_colours_and_orientation_were_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write("grey.png")
    pixels = Image.open("grey.png").convert("L")
    Image.merge("RGB", [pixels, pixels.point(lambda value: value // 2), pixels]).save("colour.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    pixels.save("turned.png", exif=turned)
    tifffile.imwrite("stored.tif", np.asarray(pixels), extratags=[(274, 3, 1, 3, True)])
    paths = ["colour.png", "grey.png", "stored.tif", "turned.png"]
    assert main(["segment", *paths, "--csv", "all.csv"]) == 0
    rows = {row["file"]: (row["luma"], row["orientation"], row["turned"]) for row in rows_of("all.csv")}
    assert rows == {
        "colour.png": ("1", "1", "0"),
        "grey.png": ("0", "1", "0"),
        "stored.tif": ("0", "3", "0"),
        "turned.png": ("0", "6", "1"),
    }
    lines = {line.partition(" ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "  grey from colours  " in lines["colour.png"]
    assert "  not turned, orientation tag 3  " in lines["stored.tif"]
    assert "  turned upright  " in lines["turned.png"]
    assert "colours" not in lines["grey.png"]
    assert "turned" not in lines["grey.png"]


def test_a_csv_that_cannot_be_written_does_not_cost_the_masks(capsys: pytest.CaptureFixture[str]) -> None:
    write("a.tif")
    Path("folder").mkdir()
    assert main(["segment", "a.tif", "--csv", "folder"]) == 1
    assert below("masks") == ["a.tif.mask.png"]
    assert "folder was not written: Is a directory" in capsys.readouterr().err
    assert below("folder") == []


def test_the_threshold_and_the_mode_reach_the_network(shipped: Predictor) -> None:
    pixels = tifffile.imread(write("a.tif", height=300, width=400))
    assert main(["segment", "a.tif", "--threshold", "0", "--out", "all"]) == 0
    assert read("all/a.tif.mask.png").min() == 255
    assert main(["segment", "a.tif", "--threshold", "1", "--out", "none"]) == 0
    assert read("none/a.tif.mask.png").max() == 0
    assert main(["segment", "a.tif", "--mode", "resize", "--threshold", "0.3", "--out", "resized"]) == 0
    expected = shipped.predict(pixels, "resize", 0.3).mask * np.uint8(255)
    assert np.array_equal(read("resized/a.tif.mask.png"), expected)


@pytest.mark.parametrize("threshold", ["1.01", "-0.1", "nan", "inf", "half", ""])
def test_a_threshold_that_is_no_probability_is_refused(
    threshold: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a.tif")
    with pytest.raises(SystemExit) as exit_:
        main(["segment", "a.tif", f"--threshold={threshold}"])
    assert exit_.value.code == 2
    assert "--threshold" in capsys.readouterr().err
    assert not Path("masks").exists()


@pytest.mark.parametrize("out", ["in/masks", "in", ".", "./in/../in/masks", "{here}/in/masks", "in/deep"])
def test_masks_of_an_earlier_run_are_not_segmented(workplace: Path, out: str) -> None:
    write("in/a.tif", pages=2)
    write("in/deep/b.tif")
    command = ["segment", "in", "--out", out.format(here=workplace), "--overlay"]
    assert main(command) == 0
    first = below(".")
    assert len(first) == 2 + 2 * 3
    assert main(command) == 0
    assert below(".") == first


def test_a_folder_without_images_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in").mkdir()
    Path("in/notes.txt").touch()
    assert main(["segment", "in"]) == 2
    assert (
        "no images (.btf, .jfif, .jpe, .jpeg, .jpg, .lsm, .png, .stk, .tf2, .tf8, .tif, .tiff) in in"
        in capsys.readouterr().err
    )
    assert not Path("masks").exists()


@pytest.mark.parametrize("image", ["a.tif", "blank.tif"])
@pytest.mark.parametrize("lost", ["manifest.json", "swin_unet.onnx"])
def test_nothing_starts_without_weights(
    image: str, lost: str, weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a.tif")
    tifffile.imwrite("blank.tif", np.zeros((5, 7), np.uint8))
    spoilt = Path(shutil.copytree(weights, "weights"))
    (spoilt / "resize" / lost).unlink()
    monkeypatch.setattr("cytomask.model.predictor.Predictor", lambda modes: Predictor(spoilt, modes=modes))
    assert main(["segment", image, "--mode", "resize"]) == 2
    assert capsys.readouterr().err.startswith(f"no weights to serve, {spoilt / 'resize' / lost}: No such")
    assert not Path("masks").exists()
    assert main(["segment", "a.tif"]) == 0


def test_an_interrupted_write_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Path.write_bytes

    def interrupted(path: Path, content: bytes) -> int:
        whole(path, content[: len(content) // 2])
        raise KeyboardInterrupt

    write("a.tif")
    monkeypatch.setattr(Path, "write_bytes", interrupted)
    assert main(["segment", "a.tif"]) == 130
    assert capsys.readouterr().err == "stopped\n"
    assert below("masks") == []


def test_files_come_in_their_order_however_long_each_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Predictor.predict

    def slow_when_wide(self: Predictor, page: NDArray[Any], *given: Any) -> Prediction:
        time.sleep(0.3 if page.shape[1] > 100 else 0)
        return whole(self, page, *given)

    monkeypatch.setattr(Predictor, "predict", slow_when_wide)
    names = [f"in/{letter}.tif" for letter in "abcdef"]
    for place, name in enumerate(names):
        write(name, width=50 if place % 3 else 150)
    assert main(["segment", "in"]) == 0
    assert [line.partition("  ")[0] for line in capsys.readouterr().out.splitlines()] == names


def test_after_an_interruption_no_file_is_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = []

    def interrupted(task: Task, *_: object) -> Iterator[Row]:
        begun.append(task)
        if len(begun) == 1:
            raise KeyboardInterrupt
        time.sleep(0.01)
        yield Row(str(task.source))

    for number in range(60):
        write(f"in/{number}.tif", height=2, width=3)
    monkeypatch.setattr("cytomask.cli.segmentation.segment_file", interrupted)
    assert main(["segment", "in"]) == 130
    assert capsys.readouterr().err == "stopped\n"
    assert len(begun) < 30


def test_a_full_disk_is_reported_with_the_mask_that_did_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, content: bytes) -> int:
        path.touch()
        raise OSError(28, "No space left on device")

    write("a.tif")
    monkeypatch.setattr(Path, "write_bytes", full)
    assert main(["segment", "a.tif"]) == 1
    assert "a.tif  refused, FILE_ERROR: masks/a.tif: No space left on device" in capsys.readouterr().err
    assert below("masks") == []


def test_a_file_in_the_place_of_the_output_folder_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    write("a.tif")
    Path("masks").write_text("mine")
    assert main(["segment", "a.tif"]) == 1
    assert "FILE_ERROR: masks: File exists" in capsys.readouterr().err
    assert Path("masks").read_text() == "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are always text")
def test_a_file_whose_name_is_not_utf8_is_segmented() -> None:
    name = os.fsdecode(b"\xfcber.tif")
    write(name)
    Path(os.fsdecode(b"\xff.tif")).touch()
    # A terminal in UTF-8 is as strict as this; pytest's own is not.
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-m", "cytomask.cli.main", "segment", ".", "--csv", "all.csv"]
    done = subprocess.run(command, env=strict, capture_output=True, check=False)
    assert done.returncode == 1
    assert below("masks") == [f"{name}.mask.png"]
    assert done.stdout.startswith(rb"\udcfcber.tif  confluence ")
    assert done.stderr.startswith(rb"\udcff.tif  refused, EMPTY_IMAGE")
    assert b"\xfcber.tif,0," in Path("all.csv").read_bytes()


def test_masks_are_cleaned_as_asked_and_the_csv_says_how(shipped: Predictor) -> None:
    pixels = tifffile.imread(write("a.tif", height=61, width=301))
    regions = find_regions(shipped.predict(pixels).mask)
    least = int(regions.filled_areas.max())
    assert main(["segment", "a.tif", "--min-size-px", str(least), "--fill-holes", "--csv", "a.csv"]) == 0
    expected = regions.mask(min_area=least, fill_holes=True)
    assert np.array_equal(read("masks/a.tif.mask.png") > 0, expected)
    (row,) = rows_of("a.csv")
    assert (row["cell_pixels"], row["min_size_px"], row["fill_holes"]) == (
        str(expected.sum()),
        str(least),
        "1",
    )
    assert row["min_size_um2"] == row["pixel_size_um"] == ""


def test_the_csv_has_areas_where_the_size_of_a_pixel_is_known() -> None:
    pixels = tifffile.imread(write("plain.tif"))
    options: dict[str, Any] = {"imagej": True, "resolution": (2.0, 2.5), "metadata": {"unit": "um"}}
    tifffile.imwrite("sized.tif", pixels, **options)
    assert main(["segment", "plain.tif", "sized.tif", "--csv", "a.csv"]) == 0
    plain, sized = rows_of("a.csv")
    columns = ("pixel_width_um", "pixel_height_um", "cell_area_um2", "cell_area_mm2")
    assert [plain[name] for name in columns] == [""] * 4
    area = int(sized["cell_pixels"]) * 0.5 * 0.4
    assert [float(sized[name]) for name in columns] == pytest.approx([0.5, 0.4, area, area / 1e6])


def test_each_image_of_an_ome_file_is_measured_and_cleaned_by_its_own_pixels(shipped: Predictor) -> None:
    pixels = tifffile.imread(write("a.tif"))
    with tifffile.TiffWriter("two.ome.tif") as file:
        for side in (0.5, 1.0):
            told = {
                "axes": "YX",
                "PhysicalSizeX": side,
                "PhysicalSizeY": side,
                "Channel": {"Name": f"by {side}"},
            }
            file.write(pixels, metadata=told)
    largest = int(find_regions(shipped.predict(pixels).mask).areas.max())
    arguments = ["--min-size-um2", str(largest / 2), "--csv", "a.csv", "--outputs", "ome"]
    assert main(["segment", "two.ome.tif", *arguments]) == 0
    rows = rows_of("a.csv")
    assert int(rows[0]["cell_pixels"]) == 0 < int(rows[1]["cell_pixels"])  # half of it at 0.5 µm is a quarter
    assert float(rows[1]["cell_area_um2"]) == int(rows[1]["cell_pixels"])
    with tifffile.TiffFile("masks/two.ome.tif.p0001.mask.ome.tif") as file:
        written = str(file.ome_metadata)
    assert 'PhysicalSizeX="1.0"' in written
    assert 'Name="by 1.0"' in written


def test_an_area_in_micrometres_of_unknown_pixels_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write("a.tif")
    assert main(["segment", "a.tif", "--min-size-um2", "9"]) == 1
    assert "PIXEL_SIZE_UNKNOWN: `min_size_um2`: a.tif does not say" in capsys.readouterr().err
    assert main(["segment", "a.tif", "--min-size-um2", "9", "--pixel-size-um", "0.65x0.7"]) == 0


def test_files_are_done_again_with_other_cleaning_options(capsys: pytest.CaptureFixture[str]) -> None:
    write("a.tif")
    for size in ("0.5", "0.5", "0.6"):
        main(["segment", "a.tif", "--csv", "a.csv", "--pixel-size-um", size])
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize("size", ["", "x", "0.5x0.5x0.5", "half"])
def test_an_invalid_pixel_size_is_refused(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["segment", "a.tif", "--pixel-size-um", size])
    assert "is not a pixel's size; give micrometres" in capsys.readouterr().err


def test_two_smallest_areas_are_refused_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", "a.tif", "--min-size-px", "9", "--min-size-um2", "9"]) == 2
    assert "`min_size_px` is given too" in capsys.readouterr().err


def test_a_page_without_any_cell_has_every_output() -> None:
    tifffile.imwrite("flat.tif", np.full((40, 50), 7, np.uint16))
    outputs = ["mask", "probability", "overlay", "rois", "geojson", "labels", "ome"]
    assert main(["segment", "flat.tif", "--fill-holes", "--csv", "a.csv", "--outputs", *outputs]) == 0
    endings = [
        "geojson",
        "labels.csv",
        "labels.tif",
        "mask.ome.tif",
        "mask.png",
        "overlay.png",
        "probability.png",
        "rois.zip",
    ]
    assert below("masks") == [f"flat.tif.{ending}" for ending in endings]
    (row,) = rows_of("a.csv")
    assert (row["cell_pixels"], row["confluence"], row["confluence_high"]) == ("0", "0.0", "0.0")


def test_a_page_that_one_output_refuses_leaves_no_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cytomask.exports.LARGEST_ROI_SIDE", 45)
    tifffile.imwrite("wide.tif", np.full((40, 50), 7, np.uint16))
    assert main(["segment", "wide.tif", "--outputs", "mask", "rois"]) == 1
    assert "refused, IMAGE_TOO_LARGE: a page of 50 x 40 pixels has no ROI set" in capsys.readouterr().err
    assert not Path("masks").exists()
