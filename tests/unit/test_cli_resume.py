"""The CSV of `cytomask segment` grows with each page, and a stopped run resumes from it."""

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from cytomask import __version__
from cytomask.cli import files, segmentation
from cytomask.cli.ledger import COLUMNS, Row
from cytomask.cli.main import main
from cytomask.cli.segmentation import segment_file
from cytomask.model.predictor import Prediction, Predictor
from cytomask.samples.fields import phase_contrast_field

RUN = ["segment", "in", "--csv", "all.csv"]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shipped: Predictor) -> Path:
    """Work in an empty folder, with the network loaded once for all commands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cytomask.model.predictor.Predictor", lambda **_: shipped)
    Path("in").mkdir()
    return tmp_path


def write(name: str, pages: int = 1) -> None:
    fields = np.stack([phase_contrast_field(seed, 40, 50).pixels for seed in range(pages)])
    tifffile.imwrite(f"in/{name}", fields if pages > 1 else fields[0], photometric="minisblack")


def rows(path: str = "all.csv") -> list[dict[str, str]]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def segmented(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the names of the files that are really segmented."""
    names: list[str] = []

    def noted(task: Any, *given: Any) -> Iterator[Row]:
        names.append(task.source.name)
        yield from segment_file(task, *given)

    monkeypatch.setattr(segmentation, "segment_file", noted)
    return names


def stop_after(monkeypatch: pytest.MonkeyPatch, pages: int) -> None:
    """Interrupt the run after this many pages."""
    whole = Predictor.predict
    done: list[Any] = []

    def interrupted(self: Predictor, page: NDArray[Any], *given: Any) -> Prediction:
        if len(done) == pages:
            raise KeyboardInterrupt
        done.append(page)
        return whole(self, page, *given)

    monkeypatch.setattr(Predictor, "predict", interrupted)
    monkeypatch.setattr(segmentation, "AT_ONCE", 1)


def test_the_csv_names_what_made_the_mask(shipped: Predictor) -> None:
    write("a.tif")
    assert main([*RUN, "--threshold", "0.4"]) == 0
    (row,) = rows()
    manifest = shipped.manifests["native"]
    assert (row["model"], row["model_sha256"]) == (manifest.name, manifest.sha256)
    assert (row["mode"], row["threshold"], row["channel"], row["version"]) == (
        "native",
        "0.4",
        "",
        __version__,
    )
    assert float(row["confluence_low"]) <= float(row["confluence"]) <= float(row["confluence_high"])


def test_the_confluences_are_those_of_other_thresholds() -> None:
    write("a.tif")
    assert main(RUN) == 0
    (row,) = rows()
    for threshold, name in (("0.7", "confluence_low"), ("0.3", "confluence_high")):
        assert (
            main(["segment", "in", "--threshold", threshold, "--out", threshold, "--csv", "other.csv"]) == 0
        )
        assert rows("other.csv")[0]["confluence"] == row[name]


@pytest.mark.parametrize(("threshold", "end"), [("0.2", "confluence_high"), ("0.9", "confluence_low")])
def test_a_threshold_beyond_the_range_is_an_end_of_it(threshold: str, end: str) -> None:
    write("a.tif")
    assert main([*RUN, "--threshold", threshold]) == 0
    (row,) = rows()
    assert float(row["confluence_low"]) <= float(row["confluence"]) <= float(row["confluence_high"])
    assert row["confluence"] == row[end]


def test_a_row_is_in_the_file_before_the_next_page_is_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.tif", "b.tif", "c.tif"):
        write(name)
    stop_after(monkeypatch, 2)
    assert main(RUN) == 130
    assert [row["file"] for row in rows()] == ["in/a.tif", "in/b.tif"]
    assert capsys.readouterr().err.endswith("stopped\n")


def test_a_stopped_run_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, segmented: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.tif", "b.tif", "c.tif"):
        write(name)
    with monkeypatch.context() as stopping:
        stop_after(stopping, 2)
        assert main(RUN) == 130
    segmented.clear()
    capsys.readouterr()
    assert main(RUN) == 0
    assert segmented == ["c.tif"]
    assert [row["file"] for row in rows()] == ["in/a.tif", "in/b.tif", "in/c.tif"]
    said = capsys.readouterr()
    assert [line.partition("  ")[0] for line in said.out.splitlines()] == ["in/c.tif"]
    assert "2 images done before, by all.csv" in said.err
    assert "1 image, 1 page segmented, 2 done before" in said.err


def test_resuming_a_finished_run_segments_nothing(segmented: list[str]) -> None:
    write("a.tif")
    write("b.tif")
    assert main(RUN) == 0
    before = Path("all.csv").read_bytes()
    segmented.clear()
    assert main(RUN) == 0
    assert segmented == []
    assert Path("all.csv").read_bytes() == before


def test_a_stack_with_a_missing_output_is_done_again(
    monkeypatch: pytest.MonkeyPatch, segmented: list[str]
) -> None:
    write("stack.tif", pages=3)
    with monkeypatch.context() as stopping:
        stop_after(stopping, 2)
        assert main(RUN) == 130
    assert [row["page"] for row in rows()] == ["0", "1"]
    segmented.clear()
    assert main(RUN) == 0
    assert segmented == ["stack.tif"]
    assert [row["page"] for row in rows()] == ["0", "1", "2"]


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_page_with_a_truncated_csv_line_is_done_again(segmented: list[str], cut: int) -> None:
    write("a.tif")
    write("b.tif")
    assert main(RUN) == 0
    whole = Path("all.csv").read_bytes()
    Path("all.csv").write_bytes(whole[:-cut])
    segmented.clear()
    assert main(RUN) == 0
    assert segmented == ["b.tif"]
    assert len(rows()) == 2


@pytest.mark.parametrize(
    "options",
    [["--threshold", "0.4"], ["--mode", "resize"], ["--channel", "0"], ["--outputs", "mask", "overlay"]],
)
def test_other_settings_start_again(segmented: list[str], options: list[str]) -> None:
    write("a.tif")
    assert main(RUN) == 0
    segmented.clear()
    assert main([*RUN, *options]) == 0
    assert segmented == ["a.tif"]
    assert len(rows()) == 1


def test_another_version_starts_again(segmented: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.tif")
    assert main(RUN) == 0
    segmented.clear()
    monkeypatch.setattr(segmentation, "__version__", "9.9")
    assert main(RUN) == 0
    assert segmented == ["a.tif"]


def test_a_mask_that_is_gone_or_older_than_its_image_is_made_again(segmented: list[str]) -> None:
    for name in ("a.tif", "b.tif", "c.tif"):
        write(name)
    assert main(RUN) == 0
    segmented.clear()
    Path("masks/a.tif.mask.png").unlink()
    os.utime("masks/b.tif.mask.png", (1, 1))
    assert main(RUN) == 0
    assert sorted(segmented) == ["a.tif", "b.tif"]


def test_a_refused_file_is_tried_again(segmented: list[str]) -> None:
    write("a.tif")
    Path("in/bad.tif").write_text("no image")
    assert main(RUN) == 1
    segmented.clear()
    write("bad.tif")
    assert main(RUN) == 0
    assert segmented == ["bad.tif"]
    assert [row["error_code"] for row in rows()] == ["", ""]


def test_another_csv_is_not_taken_for_an_earlier_run(segmented: list[str]) -> None:
    write("a.tif")
    Path("all.csv").write_text("file,page\nin/a.tif,0\n")
    assert main(RUN) == 0
    assert segmented == ["a.tif"]
    assert tuple(rows()[0]) == COLUMNS


def test_a_name_that_is_a_formula_is_text_and_is_known_again(
    segmented: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("=1+1.tif")
    monkeypatch.chdir("in")
    command = ["segment", "=1+1.tif", "--csv", "all.csv", "--out", "."]
    assert main(command) == 0
    (row,) = rows()
    assert (row["file"], row["mask"]) == ("'=1+1.tif", "'=1+1.tif.mask.png")
    segmented.clear()
    assert main(command) == 0
    assert segmented == []


def test_a_csv_that_would_overwrite_an_image_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write("a.tif")
    before = Path("in/a.tif").read_bytes()
    assert main(["segment", "in", "--csv", "./in/../in/a.tif"]) == 2
    assert "would overwrite an image" in capsys.readouterr().err
    assert Path("in/a.tif").read_bytes() == before


def test_a_csv_may_be_a_device(segmented: list[str]) -> None:
    write("a.tif")
    assert main(["segment", "in", "--csv", "/dev/null"]) == 0
    assert segmented == ["a.tif"]
    assert Path("/dev/null").is_char_device()


def test_pages_are_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    write("stack.tif", pages=4)
    assert main([*RUN, "--pages", "1-2"]) == 0
    assert [(row["page"], row["pages"]) for row in rows()] == [("1", "4"), ("2", "4")]
    assert sorted(path.name for path in Path("masks").iterdir()) == [
        "stack.tif.p0001.mask.png",
        "stack.tif.p0002.mask.png",
    ]
    assert main([*RUN, "--pages", "7"]) == 1
    assert "NO_SUCH_PAGE" in capsys.readouterr().err
    assert main([*RUN, "--pages", "x"]) == 2
    assert '`pages`: "x" is none of these' in capsys.readouterr().err


def test_outputs_are_chosen(shipped: Predictor) -> None:
    write("a.tif")
    assert main(["segment", "in", "--outputs", "probability", "overlay"]) == 0
    assert sorted(path.name for path in Path("masks").iterdir()) == [
        "a.tif.overlay.png",
        "a.tif.probability.png",
    ]


def test_a_summary_counts_what_was_done_refused_and_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    write("a.tif")
    write("stack.tif", pages=2)
    Path("in/bad.tif").write_text("no image")
    for name in ("._a.tif", "b.oib"):
        Path(f"in/{name}").touch()
    assert main(["segment", "in"]) == 1
    summary = capsys.readouterr().err.splitlines()[-1]
    assert summary.startswith("3 images, 3 pages segmented, 1 refused, ")
    assert "mean confluence 0." in summary
    assert summary.endswith("; passed over 2 files: 1 ._ of macOS, 1 .oib")


def test_stk_lsm_and_btf_files_of_a_folder_are_read() -> None:
    for name in ("a.stk", "b.lsm", "c.btf"):
        write(name)
    assert main(["segment", "in"]) == 0
    assert sorted(path.name for path in Path("masks").iterdir()) == [
        "a.stk.mask.png",
        "b.lsm.mask.png",
        "c.btf.mask.png",
    ]


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_special_files_are_refused(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["segment", path]) == 1
    assert "FILE_ERROR" in capsys.readouterr().err


def test_a_file_that_vanishes_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a.tif")
    write("b.tif")
    whole = files.find_images

    def vanishing(*asked: Any) -> Any:
        found = whole(*asked)
        Path("in/a.tif").unlink()
        return found

    monkeypatch.setattr(segmentation, "find_images", vanishing)
    assert main(["segment", "in"]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines()[0] == "in/a.tif  refused, FILE_ERROR: in/a.tif: No such file or directory"
    assert said.out.startswith("in/b.tif  confluence")


def test_flags_of_quality_are_in_line_csv_and_summary(capsys: pytest.CaptureFixture[str]) -> None:
    tifffile.imwrite("in/flat.tif", np.full((300, 300), 7, np.uint8))
    tifffile.imwrite("in/good.tif", phase_contrast_field(3).pixels)
    assert main(RUN) == 0
    flat, good = rows()
    assert re.search(r"\bEMPTY=0(\.\d+)?\b", flat["quality"])
    assert good["quality"] == ""
    said = capsys.readouterr()
    assert f"in/flat.tif  confluence 0.000  {flat['quality']}  " in said.out
    assert "1 page with a quality flag" in said.err
