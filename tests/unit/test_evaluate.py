"""Scores come from the serving predictor, count before dividing, and reproduce the manifest's."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from real_images import DATA, needs

from cytomask import metrics
from cytomask.model.predictor import MODES, Mode, Prediction, Predictor
from cytomask.training import yardsticks
from cytomask.training.evaluate import (
    GAP,
    THRESHOLDS,
    Counts,
    Scored,
    main,
    mean_iou,
    panel,
    report,
    score_source,
    summarise,
)
from cytomask.training.sources import Sample, read_source

Grey = NDArray[np.uint8]


class PageIsProbability:
    """Reads an 8-bit page as probability x 255; in `resize` mode every pixel is cell."""

    manifests: Any = dict.fromkeys(
        MODES, SimpleNamespace(name="fake-1", sha256="0123456789abcdef", threshold=0.5)
    )

    def __init__(self) -> None:
        self.calls: list[Mode] = []

    def predict(self, page: Grey, mode: Mode = "native") -> Prediction:
        self.calls.append(mode)
        probability = page / 255 if mode == "native" else np.ones(page.shape)
        with np.errstate(divide="ignore"):
            logits = np.log(probability / (1 - probability)).astype(np.float32)
        return Prediction(logits, logits >= 0, None)


def fake_predictor() -> Any:
    return PageIsProbability()


def columns(*levels: int) -> Grey:
    """Make a page of 8 rows whose columns each have one level."""
    return np.tile(np.array(levels, np.uint8), (8, 1))


def write_rows(folder: Path, rows: dict[str, tuple[str, Grey, Grey]]) -> Path:
    """Write index.csv and files of `made/val`: name -> (cell line, page, ground truth)."""
    lines = ["source,split,image,mask,cell"]
    for name, (line, page, truth) in rows.items():
        for path, pixels in ((folder / name, page), (folder / "masks" / name, truth)):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
        lines.append(f"made,val,{name},masks/{name},{line}")
    (folder / "index.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """One perfect mask of 8 pixels, one of 16 with 8 right, one of 8 with none right."""
    return write_rows(
        tmp_path / "data",
        {
            "a.png": ("A172", columns(255, 0, 0, 0), columns(255, 0, 0, 0)),
            "b.png": ("A172", columns(255, 255, 0, 0), columns(255, 0, 0, 0)),
            "c.png": ("BV2", columns(0, 0, 0, 255), columns(255, 0, 0, 0)),
        },
    )


def scores_of(folder: Path) -> dict[str, Any]:
    return summarise(score_source(fake_predictor(), folder, "made/val"))


def test_means_are_over_images_and_pools_over_pixels(three: Path) -> None:
    scores = scores_of(three)
    assert scores["images"] == 3
    assert scores["mean_iou"] == {"native": 0.5, "resize": 0.25}
    assert scores["pooled_iou"] == {"native": 0.4, "resize": 0.25}  # 16 of 40 pixels, 24 of 96
    assert scores["mean_dice"] == {"native": 0.5556, "resize": 0.4}
    assert scores["pooled_dice"]["native"] == 0.5714  # 32 of 56
    assert scores["mean_precision"]["native"] == 0.5
    assert scores["pooled_precision"]["native"] == 0.5  # 16 of 32
    assert scores["mean_recall"] == {"native": 0.6667, "resize": 1.0}
    assert scores["pooled_recall"]["native"] == 0.6667


def test_the_boundary_has_a_score_of_its_own(three: Path) -> None:
    # a: the same outline. b: one column off, within 2 pixels. c: three columns off. A full page has none.
    scores = scores_of(three)
    assert scores["mean_boundary_f1"] == {"native": 0.6667, "resize": 0.0}
    assert scores["pooled_boundary_f1"]["native"] == 0.6667


def test_the_error_of_the_confluence_has_a_sign_and_a_size(three: Path) -> None:
    # Reported 1/4, 1/2, 1/4 and, in `resize` mode, 1; true 1/4.
    scores = scores_of(three)
    assert scores["confluence_bias"] == {"native": 0.0833, "resize": 0.75}
    assert scores["confluence_error"] == {"native": 0.0833, "resize": 0.75}
    over_and_under = summarise(
        [Scored("a", SAMPLE, {"native": counts}, {"native": [1.0] * len(THRESHOLDS)}) for counts in UNEVEN]
    )
    assert over_and_under["confluence_bias"] == {"native": 0.05}
    assert over_and_under["confluence_error"] == {"native": 0.15}


SAMPLE = Sample("a", Path("a.png"), "", lambda _: np.zeros((1, 1), np.bool_))
NO_OUTLINE = metrics.BoundaryScore(0, 0, 0, 0)
UNEVEN = (
    Counts(metrics.Score(10, 20, 0), NO_OUTLINE, 100),
    Counts(metrics.Score(10, 0, 10), NO_OUTLINE, 100),
)


def test_unknown_pixels_are_not_scored(tmp_path: Path) -> None:
    page, truth = np.zeros((90, 90), np.uint8), np.zeros((90, 90), np.uint8)
    page[20:30, 20:30] = truth[20:30, 20:30] = 255
    page[60:62, 10:80] = 255  # a neurite that nobody marked
    write_rows(tmp_path, {"a.png": ("", page, truth)})
    for source, iou in (("made/val", 100 / 240), ("somata:made/val", 1.0)):
        scores = summarise(score_source(fake_predictor(), tmp_path, source))
        assert scores["mean_iou"]["native"] == pytest.approx(iou, abs=1e-4)


def test_every_image_is_named_with_its_iou(three: Path) -> None:
    assert scores_of(three)["iou"] == {
        "a.png": {"native": 1.0, "resize": 0.25},
        "b.png": {"native": 0.5, "resize": 0.25},
        "c.png": {"native": 0.0, "resize": 0.25},
    }


def test_every_cell_line_has_its_measures_and_its_number_of_images(three: Path) -> None:
    groups = scores_of(three)["groups"]
    assert list(groups) == ["A172", "BV2"]
    assert [groups[line]["images"] for line in groups] == [2, 1]
    assert [groups[line]["mean_iou"]["native"] for line in groups] == [0.75, 0.0]
    assert groups["A172"]["pooled_iou"]["native"] == 0.6667


def test_images_without_a_cell_line_form_one_group(tmp_path: Path) -> None:
    right = (columns(255, 0), columns(255, 0))
    folder = write_rows(tmp_path, {"a.png": ("", *right), "b.png": ("unnamed", *right)})
    groups = scores_of(folder)["groups"]
    assert {line: measures["images"] for line, measures in groups.items()} == {"unnamed": 2}


def test_images_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    right, wrong = (columns(255, 0), columns(255, 0)), (columns(255, 0), columns(0, 255))
    rows = {"1/a.png": ("", *right), "2/a.png": ("", *wrong), "2/b.png": ("", *right)}
    ious = scores_of(write_rows(tmp_path, rows))["iou"]
    assert {name: iou["native"] for name, iou in ious.items()} == {
        "1/a.png": 1.0,
        "2/a.png": 0.0,
        "b.png": 1.0,
    }


def test_an_empty_mask_of_an_empty_page_scores_1(tmp_path: Path) -> None:
    nothing = columns(0, 0, 0)
    scores = scores_of(write_rows(tmp_path, {"a.png": ("", nothing, nothing)}))
    for name in ("iou", "dice", "precision", "recall", "boundary_f1"):
        assert scores[f"mean_{name}"]["native"] == scores[f"pooled_{name}"]["native"] == 1.0
        assert scores[f"mean_{name}"]["resize"] == 0.0  # its mask is all cell
    assert scores["sweep"]["native"]["best"] == 0.5


def test_the_sweep_finds_the_threshold_that_parts_cells_from_the_rest(tmp_path: Path) -> None:
    # Cells at 0.651, the rest at 0.624: 0.65 alone lies between them.
    page, cells = columns(166, 159, 159, 159), columns(1, 0, 0, 0)
    sweep = scores_of(write_rows(tmp_path, {"a.png": ("", page, cells)}))["sweep"]["native"]
    assert sweep["best"] == 0.65
    assert sweep["mean_iou"] == {
        f"{threshold:.2f}": 0.25 if threshold < 0.63 else float(threshold < 0.66) for threshold in THRESHOLDS
    }


def test_the_best_threshold_is_that_of_the_mean_over_images(tmp_path: Path) -> None:
    # The first is right from 0.25 to 0.55 and the second from 0.45 to 0.75: both are from 0.45 to 0.55.
    first, second, cells = columns(150, 60, 60), columns(200, 110, 110), columns(1, 0, 0)
    rows = {"a.png": ("", first, cells), "b.png": ("", second, cells)}
    sweep = scores_of(write_rows(tmp_path, rows))["sweep"]["native"]
    assert [threshold for threshold, mean in sweep["mean_iou"].items() if mean == 1] == [
        "0.45",
        "0.50",
        "0.55",
    ]
    assert sweep["best"] == 0.5


def test_the_thresholds_are_those_from_0_2_to_0_8() -> None:
    assert [f"{threshold:.2f}" for threshold in THRESHOLDS] == [
        *("0.20", "0.25", "0.30", "0.35", "0.40", "0.45", "0.50"),
        *("0.55", "0.60", "0.65", "0.70", "0.75", "0.80"),
    ]


def test_all_thresholds_of_an_image_come_from_one_inference_a_mode(three: Path) -> None:
    predictor: Any = PageIsProbability()
    score_source(predictor, three, "made/val")
    assert sorted(predictor.calls) == ["native"] * 3 + ["resize"] * 3


def test_the_report_says_all_of_it_in_markdown(three: Path) -> None:
    text = report(PageIsProbability.manifests, {"made/val": scores_of(three)})
    fake = "by fake-1 (sha256 0123456789ab…) at threshold 0.5"
    assert text.startswith(
        f"# Scores\n\n`native` {fake}; `resize` {fake}. Masks are compared at the size of "
    )
    assert (
        "| made/val | all | 3 | native | 0.500 / 0.400 | 0.556 / 0.571 | 0.500 / 0.500 | 0.667 / 0.667 "
        "| 0.667 / 0.667 | +0.083 / 0.083 |\n"
    ) in text
    assert "| made/val | A172 | 2 | native | 0.750 / 0.667 |" in text
    assert "| made/val | BV2 | 1 | resize | 0.250 / 0.250 |" in text
    assert f"| made/val | native | {' | '.join(['0.500'] * 13)} | 0.50 |\n" in text


def test_a_panel_shows_image_ground_truth_mask_and_where_these_disagree() -> None:
    cells, mask = np.array([[True, True, False, False]]), np.array([[True, False, True, False]])
    drawn = panel(np.array([[10, 20, 30, 40]], np.uint16), cells, mask)
    assert drawn.shape == (1, 4 * 4 + 3 * GAP, 3)
    assert drawn.dtype == np.uint8
    image, truth, found, compared = (
        drawn[:, place * (4 + GAP) : place * (4 + GAP) + 4] for place in range(4)
    )
    assert image[0, :, 0].tolist() == [0, 84, 170, 255]
    assert truth[0].tolist() == [[255] * 3, [255] * 3, [0] * 3, [0] * 3]
    assert found[0].tolist() == [[255] * 3, [0] * 3, [255] * 3, [0] * 3]
    grey, orange, blue, black = [200, 200, 200], [230, 159, 0], [0, 114, 178], [0, 0, 0]
    assert compared[0].tolist() == [grey, blue, orange, black]
    gaps = np.delete(drawn, [place * (4 + GAP) + column for place in range(4) for column in range(4)], axis=1)
    assert (gaps == 128).all()


def test_a_page_without_contrast_is_drawn_black() -> None:
    nothing = np.zeros((3, 5), np.bool_)
    assert not panel(np.full((3, 5), 7, np.float32), nothing, nothing)[:, :5].any()


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    """Three pages of noise, of different sizes, with half a page of cells."""
    rng = np.random.default_rng(0)
    rows = {}
    for side in (30, 40, 50):
        truth = np.zeros((side, side + 1), np.uint8)
        truth[: side // 2] = 255
        rows[f"{side}.png"] = ("", rng.integers(0, 256, truth.shape, np.uint8), truth)
    return write_rows(tmp_path / "data", rows)


def test_the_report_is_written_with_the_worst_images(noisy: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "scores"
    given = ["made/val", "--data", str(noisy), "--weights", str(weights), "--out", str(out)]
    main([*given, "--panels", "2", "--quick"])
    assert sorted(path.name for path in out.iterdir()) == [
        "scores.json",
        "scores.md",
        "worst-1.png",
        "worst-2.png",
    ]
    predictor = Predictor(weights)
    expected = {}
    for sample in read_source(noisy, "made/val"):
        page, cells = sample.read()
        expected[sample.image.name] = round(metrics.score(predictor.predict(page).mask, cells).iou, 4)
    scores = json.loads((out / "scores.json").read_text())["made/val"]
    assert {name: iou["native"] for name, iou in scores["iou"].items()} == expected
    text = (out / "scores.md").read_text()
    first, second, best = sorted(expected, key=expected.__getitem__)
    assert text.index(f"`{first}`, IoU {expected[first]:.3f}") < text.index(f"`{second}`, IoU")
    assert f"`{best}`" not in text
    side = int(Path(first).stem)
    with Image.open(out / "worst-1.png") as drawn:
        assert drawn.size == (4 * (side + 1) + 3 * GAP, side)


def test_the_report_has_the_yardsticks(
    noisy: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yardsticks, "EMPTY_PAGES", range(2))
    out = tmp_path / "scores"
    main(["somata:made/val", "made/val", "--data", str(noisy), "--weights", str(weights), "--out", str(out)])
    text = (out / "scores.md").read_text()
    for title in ("Phantom confluence", "Neuron cultures", "IoU with the mask of the plain page"):
        assert title in text
    measured = json.loads((out / "scores.json").read_text())["yardsticks"]
    assert set(measured) == {"native", "resize"}
    assert measured["native"]["phantom"]["all"]["pages"] == 2
    assert [page["name"] for page in measured["native"]["neurites"]] == ["30", "40", "50"]
    assert measured["native"]["robustness"]["turned by 180°"]["pages"] == 3


def test_without_a_folder_the_report_is_printed(
    noisy: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["made/val", "--data", str(noisy), "--weights", str(weights), "--quick"])
    scores = summarise(score_source(Predictor(weights), noisy, "made/val"))
    assert capsys.readouterr().out == report(Predictor(weights).manifests, {"made/val": scores})


def test_a_mode_without_weights_is_not_scored(noisy: Path, weights: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(weights / "resize", alone / "resize")
    given = ["made/val", "--data", str(noisy), "--weights", str(alone), "--out", str(tmp_path / "scores")]
    main([*given, "--quick"])
    text = (tmp_path / "scores" / "scores.md").read_text()
    assert "## Worst images, `resize`" in text
    assert "native" not in text
    with pytest.raises(SystemExit, match=r"evaluate: no weights to serve, .*manifest\.json"):
        main(["made/val", "--data", str(noisy), "--weights", str(tmp_path / "none")])


@pytest.mark.parametrize(("source", "missing"), [("made/test", "made/test"), ("made/val", "masks/30.png")])
def test_missing_files_are_named_in_a_sentence(noisy: Path, weights: Path, source: str, missing: str) -> None:
    (noisy / "masks" / "30.png").unlink()
    with pytest.raises(SystemExit) as raised:
        main([source, "--data", str(noisy), "--weights", str(weights)])
    assert str(raised.value.code).startswith("evaluate: ")
    assert missing in str(raised.value.code)


@pytest.mark.parametrize("given", [["made/val", "made/tset"], ["made/val", "--degrade", "made/tset"]])
def test_a_wrong_source_ends_before_the_others_are_scored(
    noisy: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    monkeypatch.delattr("cytomask.training.evaluate.score_source")
    with pytest.raises(SystemExit, match=r"made/tset in .* has no images; index\.csv lists made/val$"):
        main([*given, "--data", str(noisy), "--weights", str(weights)])


def test_quick_and_degrade_contradict_each_other(noisy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["made/val", "--data", str(noisy), "--quick", "--degrade", "made/val"])
    assert "--quick leaves out the table that --degrade is for; give one of them" in capsys.readouterr().err


def test_a_bad_ground_truth_leaves_out_its_image_and_no_other(
    three: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = score_source(fake_predictor(), three, "made/val")
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(three / "masks" / "b.png")
    scored = score_source(fake_predictor(), three, "made/val")
    assert [image.name for image in scored] == ["a.png", "c.png"]
    assert [image.counts for image in scored] == [whole[0].counts, whole[2].counts]
    assert "1 of 3 images cannot be used: b.png: b.png is 3 x 3 pixels" in caplog.text


@needs(DATA / "index.csv")
@pytest.mark.parametrize(
    "source", [pytest.param("livecell/test", marks=pytest.mark.slow), "livecell_like/val"]
)
def test_the_shipped_weights_score_what_their_manifest_says(shipped: Predictor, source: str) -> None:
    found = score_source(shipped, DATA, source)
    for mode, manifest in shipped.manifests.items():
        said = manifest.scores[source]
        assert len(found) == said["images"]
        assert mean_iou(found, mode) == pytest.approx(said["mean_iou"][mode], abs=1e-3)
