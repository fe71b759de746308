"""From corrected pages to weights that segment: `finetune`, `models`, `segment --weights`, `compare`."""

import json
import os
import shlex
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from factories import ground_truth, tiff
from functions_on_moto import EvaluateFunction, SegmentStack
from tiny_model import make_tiny_model, write_mask, write_pairs

from cytomask.cli.compare import Compared, table_of
from cytomask.cli.finetune import notes_of
from cytomask.cli.main import main
from cytomask.cli.rows import Search
from cytomask.cli.scored_pages import scored_images
from cytomask.cli.stack import Stack
from cytomask.model.predictor import page_hash, read_manifest
from cytomask.training import tuner

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("parent"))


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, parent: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with the small model, and use one small generated page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CYTOMASK_MODELS", str(tmp_path / "models"))
    shutil.copytree(parent, tmp_path / "models" / "parent")
    monkeypatch.setattr(tuner, "GENERATED", 1)
    monkeypatch.setattr(tuner, "GENERATED_SIZE", (64, 64))
    monkeypatch.setattr("cytomask.training.finetune.GENERATED_SEEDS", range(1))
    return tmp_path


def finetune(*arguments: str | Path, steps: int = 2) -> int:
    return main(["finetune", *map(str, arguments), "--start", "parent-1", "--steps", str(steps)])


@pytest.mark.slow
def test_from_corrected_pages_to_masks(workplace: Path, capsys: Capture) -> None:
    write_pairs(workplace / "corrected", 5)
    (workplace / "corrected" / "f9.tif").write_bytes((workplace / "corrected" / "f0.tif").read_bytes())
    assert finetune("corrected", "--name", "mine-1", "--about", "test fields") == 0
    said, complained = capsys.readouterr()
    assert "left out 1 image without a ground truth: f9.tif" in complained
    assert "step 2 of 2" in complained
    assert "5 pages: 4 to learn from, held out: f" in said
    assert "use it: cytomask segment PATH --weights mine-1" in said
    rows = [line.split() for line in said.splitlines() if line.startswith("f") and ".tif" in line]
    assert sorted(row[0] for row in rows) == [f"f{seed}.tif" for seed in range(5)]
    assert [row for row in said.splitlines() if row.startswith("mean of 1  held out")]
    assert not (workplace / "models/mine-1/unfinished").exists()
    page = (workplace / "models/mine-1/report.html").read_text()
    assert "mine-1: fine-tuned from parent-1" in page
    assert page.count("data:image/png;base64,") >= 3
    assert "http" not in page.replace("http-equiv", "")

    assert main(["models", "mine-1"]) == 0
    said = capsys.readouterr().out
    assert "began from  parent-1" in said
    assert "data        test fields: 5 pages, no licence stated" in said
    assert "licence     CC BY-NC 4.0" in said

    assert main(["segment", "corrected/f0.tif", "--weights", "mine-1", "--csv", "rows.csv"]) == 0
    assert "mine-1" in Path("rows.csv").read_text()
    assert Path("masks/f0.tif.mask.png").exists()
    capsys.readouterr()

    assert main(["compare", "parent-1", "mine-1", "corrected", "--out", "ab.html"]) == 0
    said = capsys.readouterr().out
    assert "A is parent-1, B is mine-1; 6 pages" in said
    assert "mean of 6, IoU of 5" in said
    lines = {line.split()[0]: line for line in said.splitlines() if line.startswith("f")}
    assert len(lines) == 6
    learned = read_manifest(workplace / "models/mine-1", "native").training["learned_from"]
    assert sorted(name for name, line in lines.items() if line.endswith(" B")) == sorted(learned)
    assert "IoU B  learned by" in said
    assert "mean of 1 that no model learned from" in said
    page = Path("ab.html").read_text()
    assert page.count("data:image/png;base64,") == 5 * 4 + 2
    assert page.count("<span>A (orange) and B (blue)</span>") == 6
    assert page.count("<span>B (orange) and ground truth (blue)</span>") == 5
    assert page.count("repeat(4, 1fr)") == 5


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_the_same_command(
    workplace: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pairs(workplace / "in", 2)
    step = tuner._Run.step

    def interrupted(run: Any) -> float:
        loss = step(run)
        if run.progress.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(tuner._Run, "step", interrupted)
    assert finetune("in", "--name", "mine-2", steps=4) == 130
    assert "stopped; run the same command again to resume" in capsys.readouterr().err
    assert not (workplace / "models/mine-2/manifest.json").exists()
    monkeypatch.setattr(tuner._Run, "step", step)
    assert finetune("in", "--name", "mine-2", steps=4) == 0
    told = capsys.readouterr()
    assert "all to learn from, so no score is independent" in told.out
    assert "step 4 of 4" in told.err
    assert "step 1 of 4" not in told.err
    assert read_manifest(workplace / "models/mine-2", "native").training["steps_taken"] == 4


@pytest.mark.slow
def test_one_pair_with_some_cells_marked(workplace: Path, capsys: Capture) -> None:
    write_pairs(workplace / "in", 1)
    assert finetune("in", "--partial", "--out", "my Straße äöü") == 0
    said = capsys.readouterr().out
    assert "share of the marked cells that was found" in said
    assert "mean confluence of these pages: 0." in said
    (used,) = (line for line in said.splitlines() if line.startswith("use it: "))
    assert shlex.split(used.removeprefix("use it: "))[-2:] == ["--weights", "my Straße äöü"]
    manifest = read_manifest(workplace / "my Straße äöü", "native")
    assert (manifest.name, manifest.threshold) == ("my-Strasse-aou", 0.5)
    assert manifest.training["recipe"]["partial"] is True
    assert set(manifest.scores["pages that it learned from"]) == {"images", "mean_recall", "before"}


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        ((), "give PAIRS, or --from-stack", 2),
        (("in", "--from-stack"), "give PAIRS, or --from-stack", 2),
        (("in", "--group", "g"), "use them with --from-stack", 2),
        (("in", "--name", "../x"), "is not a name for weights", 2),
        (("äöü€/日本",), "give a --name", 2),
        (("in", "--name", "parent-1"), "weights called parent-1 exist already", 1),
        (("in", "--name", "swin-unet-1.0"), "weights called swin-unet-1.0 exist already", 1),
        (("in", "--out", "models/parent", "--name", "parent-1"), "choose another --name or --out", 1),
        (("nowhere",), "nowhere does not exist", 1),
        (("in", "--licence", "MIT"), "builds on parent-1, whose licence is non-commercial", 1),
        (("in", "--pairs-licence", "CC BY-SA 4.0"), "the two cannot be combined", 1),
        (("in", "--mode", "resize"), "parent-1 is for --mode native, not for resize", 1),
        (("none",), "none of the masks has a cell in it", 1),
        (("other",), "f0_mask.png is 50 x 40 pixels and the image 120 x 96", 1),
        (("other",), "f1_mask.png is 50 x 40 pixels and the image 120 x 96", 1),
    ],
)
def test_unusable_input_is_reported_before_training(
    workplace: Path, capsys: Capture, arguments: tuple[str, ...], said: str, code: int
) -> None:
    for name, count in (("in", 1), ("none", 1), ("other", 2)):
        write_pairs(workplace / name, count)
    write_mask(workplace / "none/f0_mask.png", np.zeros((96, 120), bool))
    for name in ("f0", "f1"):
        write_mask(workplace / f"other/{name}_mask.png", np.eye(40, 50, dtype=bool))
    before = sorted(workplace.rglob("*"))
    assert finetune(*arguments) == code
    assert said in capsys.readouterr().err
    assert sorted(workplace.rglob("*")) == before


def outcome_of(steps: int, generated_after: float, pages: Sequence[Any] = ()) -> Any:
    manifest = SimpleNamespace(
        training={"recipe": {"steps": 16, "partial": False}},
        lineage=[SimpleNamespace(name="parent-1")],
        licence="MIT",
    )
    tuned = SimpleNamespace(steps=steps, threshold=0.5, share=1.0)
    return SimpleNamespace(manifest=manifest, tuned=tuned, generated=(0.8, generated_after), pages=pages)


@pytest.mark.parametrize(("steps", "early"), [(5, True), (16, False)])
def test_a_run_that_ends_early_says_why(steps: int, early: bool) -> None:
    line = "stopped after 5 of 16 steps, because the held-out pages no longer gained"
    assert (line in notes_of(outcome_of(steps, 0.8), "IoU")) is early


@pytest.mark.parametrize(("held_out_after", "gained"), [(0.71, True), (0.7, False), (0.6, False)])
def test_new_weights_that_do_no_better_on_held_out_pages_say_so(held_out_after: float, gained: bool) -> None:
    pages = [
        SimpleNamespace(held_out=held_out, before=0.7, after=after)
        for held_out, after in ((False, 0.9), (True, held_out_after))
    ]
    line = "the held-out pages gained nothing: correct more pages, or keep parent-1"
    assert (line not in notes_of(outcome_of(16, 0.8, pages), "IoU")) is gained


@pytest.mark.parametrize(("after", "worse"), [(0.79, False), (0.77, True)])
def test_new_weights_are_for_one_microscope(after: float, worse: bool) -> None:
    notes = notes_of(outcome_of(16, after), "IoU")
    assert (
        "use the new weights for the microscope of your pairs only, and the shipped ones for others" in notes
    )
    assert ("the new weights got worse on other pages" in notes) is worse


def test_the_folder_of_the_shipped_weights_is_refused(workplace: Path, capsys: Capture) -> None:
    from cytomask.model.predictor import WEIGHTS

    write_pairs(workplace / "in", 1)
    assert finetune("in", "--out", WEIGHTS / "mine") == 1
    assert "is the folder of the shipped weights" in capsys.readouterr().err
    assert not (WEIGHTS / "mine").exists()


def test_a_missing_extra_is_named_in_a_sentence(
    workplace: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cytomask.cli.options.find_spec", lambda name: None if name == "torch" else name)
    assert finetune(workplace) == 2
    assert "this needs torch, from the extra `train`: pip install 'cytomask[train]'" in (
        capsys.readouterr().err
    )


@pytest.mark.slow
def test_corrected_pages_of_a_stack(
    workplace: Path, stack: SegmentStack, evaluate: EvaluateFunction, connected: Stack, capsys: Capture
) -> None:
    assert finetune("--from-stack", "--name", "none") == 1
    assert "has no job with a mask for this" in capsys.readouterr().err
    stack.segment("plate 1/B02_s1.tif", tiff())
    stack.segment("plate 1/B03_s1.tif", tiff())
    assert finetune("--from-stack", "--name", "none") == 1
    assert "has 2 jobs with a mask for this, and none has a ground truth" in capsys.readouterr().err
    evaluate.upload("plate 1/B02_s1.png", ground_truth())
    evaluate.deliver_queued()
    small = tiff(np.eye(9, dtype=np.uint8))
    stack.s3.put_object(Bucket=connected.ground_truth_bucket, Key="plate 1/B03_s1.tif", Body=small)
    capsys.readouterr()
    assert finetune("--from-stack", "--name", "ours") == 0
    left_out = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert len(left_out) == 1
    assert "plate 1/B03_s1.tif is 9 x 9 pixels" in left_out[0]
    manifest = read_manifest(workplace / "models/ours", "native")
    assert manifest.training["learned_from"] == ["plate 1/B02_s1.tif"]
    (scored,) = scored_images(connected, Search(), 9)
    assert page_hash(scored.pages[0][0].pixels) in manifest.learned_pages  # so `promote` marks it
    assert main(["models", "--json", "ours"]) == 0
    said = capsys.readouterr().out
    assert json.loads(said[said.index("[\n") :])[0]["name"] == "ours"


def test_models_on_images_without_truths_are_compared_by_disagreement(
    workplace: Path, capsys: Capture
) -> None:
    write_pairs(workplace / "in", 2)
    for path in workplace.glob("in/*_mask.png"):
        path.unlink()
    assert main(["compare", "parent-1", "parent-1", "in"]) == 0
    said = capsys.readouterr().out
    assert "IoU A" not in said
    assert [line.split()[1] for line in said.splitlines() if line.startswith("f")] == ["1.000", "1.000"]
    assert Path("compare.html").exists()


def test_compare_takes_every_image_beside_outputs_and_names_what_it_cannot_read(
    workplace: Path, capsys: Capture
) -> None:
    write_pairs(workplace / "in", 3)
    for name in ("f0", "f1"):
        write_mask(workplace / f"in/{name}_mask.png", np.eye(40, 50, dtype=bool))
    for made in ("f2.tif", "f0_mask.png"):
        shutil.copy(workplace / "in" / made, workplace / "in" / f"{made}.mask.png")
    shutil.copy(workplace / "in/f2.tif", workplace / "in/g.ome.tif")
    (workplace / "in/h.tif").write_bytes(b"damaged")
    assert main(["compare", "parent-1", "parent-1", "in"]) == 1
    said, complained = capsys.readouterr()
    assert "2 pages" in said
    assert [line.split()[0] for line in said.splitlines()[1:3]] == ["f2.tif", "g.ome.tif"]
    assert "left out 2 files written by cytomask: f0_mask.png.mask.png, f2.tif.mask.png" in complained
    assert all(f"{name}_mask.png is 50 x 40" in complained for name in ("f0", "f1"))
    assert "h.tif" in complained


@pytest.mark.parametrize(
    ("scored", "label"), [(0, "mean of 2"), (1, "mean of 2, IoU of 1"), (2, "mean of 2")]
)
def test_the_means_of_a_comparison_say_of_how_many_pages_they_are(scored: int, label: str) -> None:
    pages = [
        Compared("a", 0.9, (0.4, 0.5), (0.7, 0.8) if place < scored else None, "", {}) for place in (0, 1)
    ]
    _, rows = table_of(pages)
    assert rows[-1] == (label, "0.900", "0.400", "0.500", *(("0.700", "0.800") if scored else ()))


def test_scores_of_pages_that_taught_a_model_are_marked(workplace: Path, capsys: Capture) -> None:
    write_pairs(workplace / "in", 2)
    manifest = shutil.copytree(workplace / "models/parent", workplace / "taught") / "manifest.json"
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(told | {"learned_pages": [page_hash(tifffile.imread("in/f0.tif"))]}))
    assert main(["compare", "parent-1", "taught", "in"]) == 0
    said, complained = capsys.readouterr()
    (row,) = [line for line in said.splitlines() if line.startswith("f0.tif")]
    assert row.endswith("B")
    assert [line.split()[0] for line in said.splitlines() if "that no model learned from" in line] == ["mean"]
    assert "too high" not in complained
    Path("in/f1.tif").unlink()
    Path("in/f1_mask.png").unlink()
    assert main(["compare", "parent-1", "taught", "in"]) == 0
    assert "a model learned from each of the scored pages" in capsys.readouterr().err


def test_a_channel_is_chosen_for_both_commands(workplace: Path, capsys: Capture) -> None:
    write_pairs(workplace / "in", 1)
    page = tifffile.imread(workplace / "in/f0.tif")
    channels = np.stack([np.zeros_like(page), page])
    tifffile.imwrite(workplace / "in/f0.tif", channels, imagej=True, metadata={"axes": "CYX"})
    for command in (["finetune", "in", "--start", "parent-1"], ["compare", "parent-1", "parent-1", "in"]):
        assert main(command) == 1
        assert "has 2 channels; name the phase-contrast one" in capsys.readouterr().err
    assert main(["compare", "parent-1", "parent-1", "in", "--channel", "1"]) == 0
    assert "f0.tif" in capsys.readouterr().out
    assert finetune("in", "--channel", "0") == 1
    assert "all pixels of f0.tif are the same" in capsys.readouterr().err


def test_compare_says_what_is_missing(workplace: Path, capsys: Capture) -> None:
    write_pairs(workplace / "in", 1)
    assert main(["compare", "parent-1", "nobody", "in"]) == 1
    assert "nobody is neither a folder nor the name of a model" in capsys.readouterr().err
    (workplace / "empty/x.zarr").mkdir(parents=True)
    assert main(["compare", "parent-1", "parent-1", "empty"]) == 1
    complained = capsys.readouterr().err
    assert "no images in empty" in complained
    assert "1 folder of OME-Zarr, which is not read; export it as OME-TIFF: x.zarr" in complained
    (workplace / "models/parent/swin_unet.onnx").write_bytes(b"damaged")
    assert main(["compare", "parent-1", "parent-1", "in"]) == 1
    assert "its manifest says" in capsys.readouterr().err
    assert not Path("compare.html").exists()
