"""Fine-tuning on a few pages learns, stays near its start, resumes, and keeps to its licence."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from tiny_model import make_tiny_model, tiny_network

from cytomask.acquisition import Acquisition
from cytomask.model.export import load_checkpoint
from cytomask.model.predictor import WEIGHTS, Mode, Predictor, WeightsError, page_hash, read_manifest
from cytomask.model.preprocess import normalise
from cytomask.model.quality import describe
from cytomask.model.swin_unet import SwinUNet
from cytomask.samples.fields import phase_contrast_field
from cytomask.training import tuner
from cytomask.training.checkpoints import save
from cytomask.training.crops import Labelled
from cytomask.training.finetune import Request, check_pages, finetune, read_start, require_free
from cytomask.training.processes import Process
from cytomask.training.tuner import Interrupted, Recipe, Step, between, logits_of, steps_for, tune
from cytomask.truths.pairs import Page, PairsError

QUICK = Recipe(steps=8, batch=2, held=0, learning_rate=3e-3, average_decay=0.5)


def field(seed: int, **change: Any) -> Page:
    made = phase_contrast_field(seed, 96, 120, 0.4)
    return Page(f"f{seed}.tif", f"f{seed}.tif", made.pixels, change.get("cells", made.cells), Acquisition())


def labelled(seed: int) -> Labelled:
    page = field(seed)
    return Labelled(page.name, normalise(page.pixels), page.cells)


@pytest.fixture(scope="module")
def tiny() -> SwinUNet:
    return tiny_network()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a model on disk, under a licence that forbids commercial use."""
    return make_tiny_model(tmp_path_factory.mktemp("start"))


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use one small generated page, because a full one takes a second to make."""
    monkeypatch.setattr(tuner, "GENERATED", 1)
    monkeypatch.setattr(tuner, "GENERATED_SIZE", (64, 64))
    monkeypatch.setattr("cytomask.training.finetune.GENERATED_SEEDS", range(1))


def weights_of(network: SwinUNet) -> torch.Tensor:
    return torch.cat([value.flatten() for value in network.parameters()])


@pytest.mark.slow
def test_the_loss_falls_and_the_start_stays_as_it_is(tiny: SwinUNet, tmp_path: Path) -> None:
    before, losses = weights_of(tiny).clone(), []
    recipe = msgspec.structs.replace(QUICK, steps=24, learning_rate=0.02)
    tuned = tune(tiny, [labelled(0)], [], recipe, tmp_path, report=lambda step: losses.append(step.loss))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert torch.equal(weights_of(tiny), before)
    assert (tuned.steps, tuned.share, tuned.threshold) == (24, 1.0, 0.5)


def test_statistics_of_batch_norm_are_those_of_the_start(tiny: SwinUNet, tmp_path: Path) -> None:
    tuned = tune(tiny, [labelled(0)], [labelled(1)], QUICK, tmp_path)
    for ours, theirs in zip(tuned.network.buffers(), tiny.buffers(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_a_stronger_pull_stays_nearer_to_the_start(tiny: SwinUNet, tmp_path: Path) -> None:
    def moved(pull: float) -> float:
        recipe = msgspec.structs.replace(QUICK, steps=20, pull=pull)
        tuned = tune(tiny, [labelled(0)], [], recipe, tmp_path / str(pull))
        head = {id(value) for value in tuned.network.head.logit.parameters()}  # calibration scales it
        pairs = zip(tuned.network.parameters(), tiny.parameters(), strict=True)
        return sum(float((now - then).detach().norm()) for now, then in pairs if id(now) not in head)

    assert moved(200.0) < 0.8 * moved(0.0)


def test_an_interrupted_run_ends_as_one_that_was_not(
    tiny: SwinUNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "PATIENCE", 100)
    pages, held_out = [labelled(0), labelled(1)], [labelled(2)]
    whole = tune(tiny, pages, held_out, QUICK, tmp_path / "whole")
    seen: list[Step] = []
    with pytest.raises(Interrupted):
        tune(
            tiny, pages, held_out, QUICK, tmp_path / "cut", report=seen.append, stopped=lambda: len(seen) == 3
        )
    rest: list[Step] = []
    resumed = tune(tiny, pages, held_out, QUICK, tmp_path / "cut", report=rest.append)
    assert [step.step for step in [*seen, *rest]] == list(range(1, QUICK.steps + 1))
    torch.testing.assert_close(weights_of(resumed.network), weights_of(whole.network))
    with pytest.raises(ValueError, match="other pages or settings"):
        tune(tiny, pages[:1], held_out, QUICK, tmp_path / "cut")
    (tmp_path / "cut" / tuner.STATE).write_bytes(b"half")
    with pytest.raises(ValueError, match="is damaged; remove it to begin again"):
        tune(tiny, pages, held_out, QUICK, tmp_path / "cut")


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("device", "apart"),
    [
        ("cpu", 1e-4),
        pytest.param(
            "cuda", 0.02, marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
        ),
    ],
)
def test_a_batch_at_once_has_the_gradient_of_its_two_parts(
    tiny: SwinUNet, monkeypatch: pytest.MonkeyPatch, device: str, apart: float, partial: bool
) -> None:
    monkeypatch.setattr(Process, "half", False)
    page = labelled(0)
    marked = page.cells & (np.arange(page.cells.shape[1]) < 60) if partial else None
    recipe = msgspec.structs.replace(QUICK, batch=4, held=2, partial=partial)

    def learned(device: str, ahead: int) -> tuple[float, torch.Tensor]:
        pages = [Labelled("page", page.pixels, page.cells, marked)]
        run = tuner._Run(tiny, pages, recipe, Process(torch.device(device)))
        run.ahead = ahead
        loss = run.step()
        gradients = [value.grad for value in run.network.parameters() if value.grad is not None]
        return loss, torch.cat([value.flatten().cpu() for value in gradients])

    (loss, gradient), (other_loss, other) = learned("cpu", 0), learned(device, tuner.AHEAD)
    assert other_loss == pytest.approx(loss, rel=apart)
    assert (other - gradient).norm() < apart * gradient.norm()


def test_crops_drawn_ahead_are_those_of_their_steps(tiny: SwinUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tuner._Run(tiny, [labelled(0)], QUICK, Process(torch.device("cpu")))
    run.ahead = 2
    monkeypatch.setattr(run, "_learn", lambda parts: parts)
    for step in (3, 4, 5):
        run.progress.step = step
        [parts] = run._learn_batch()
        assert len(parts) == tuner.PARTS
        for part, drawn in enumerate(parts):
            torch.testing.assert_close(drawn, run._draw_part(step, part), rtol=0, atol=0)


def test_a_run_takes_the_cuda_device_that_torch_finds(
    tiny: SwinUNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []

    def stop(start: Any, train: Any, recipe: Any, process: Process) -> None:
        found.append(process.device.type)
        raise Interrupted

    monkeypatch.setattr(tuner, "_Run", stop)
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        with pytest.raises(Interrupted):
            tune(tiny, [labelled(0)], [], QUICK, tmp_path)
    assert found == ["cuda", "cpu"]


def test_a_run_ends_when_the_held_out_pages_gain_no_more(
    tiny: SwinUNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4])
    monkeypatch.setattr(tuner, "mean_iou", lambda *_: next(scores, 0.4))
    steps: list[Step] = []
    tune(tiny, [labelled(0)], [labelled(1)], QUICK, tmp_path, report=steps.append)
    assert len(steps) == 1 + tuner.PATIENCE


def test_unmarked_pixels_are_learned_from_the_start_alone(tiny: SwinUNet, tmp_path: Path) -> None:
    page = labelled(0)
    marked = page.cells & (np.arange(page.cells.shape[1]) < 60)
    recipe = msgspec.structs.replace(QUICK, steps=3, partial=True)

    def learned(cells: Any) -> torch.Tensor:
        item = Labelled("page", page.pixels, cells, marked)
        return weights_of(tune(tiny, [item], [], recipe, tmp_path / str(cells.sum())).network)

    assert torch.equal(learned(marked), learned(page.cells))


@pytest.mark.slow
def test_a_few_marks_do_not_make_a_page_all_cell(tmp_path: Path) -> None:
    start = tiny_network()
    with torch.no_grad():
        start.head.logit.weight.zero_()
        torch.nn.init.constant_(start.head.logit.bias, -3.0)  # type: ignore[arg-type]
    page = labelled(0)
    marked = np.zeros_like(page.cells)
    marked[20:32, 20:32] = True
    recipe = msgspec.structs.replace(QUICK, steps=40, learning_rate=0.02, pull=0.0, partial=True)
    tuned = tune(start, [Labelled("page", page.pixels, marked, marked)], [], recipe, tmp_path)
    logits = logits_of(tuned.network, page, "native")
    assert -3.0 < logits.mean() < -1.0


def test_parts_of_a_page_are_normalised_as_pages_of_their_own() -> None:
    made = phase_contrast_field(0, 300, 400, 0.4)
    page = Labelled("page", normalise(made.pixels), made.cells, made.cells)
    whole, *parts = tuner.views_of(page, seed=1)
    assert whole is page
    assert len(parts) == tuner.PARTS_OF_PAGE
    for part in parts:
        assert all(224 <= length <= 320 for length in part.cells.shape)
        assert part.pixels.shape == part.cells.shape
        assert part.known is not None
        np.testing.assert_array_equal(part.known, part.cells)
        assert part.pixels.mean() == pytest.approx(0, abs=0.05)
        assert part.pixels.std() == pytest.approx(1, abs=0.15)


def test_weights_between_two_networks(tiny: SwinUNet) -> None:
    other = SwinUNet(tiny.config)
    torch.testing.assert_close(
        weights_of(between(tiny, other, 0.25)), 0.75 * weights_of(tiny) + 0.25 * weights_of(other)
    )


def test_more_pages_train_for_longer_up_to_a_limit() -> None:
    assert steps_for(1) < steps_for(5) < steps_for(10) <= steps_for(1000) == tuner.MOST_STEPS


@pytest.mark.slow
def test_a_model_is_written_with_its_scores_lineage_and_licence(start: Path, tmp_path: Path) -> None:
    pages = [field(seed) for seed in range(5)]
    told: list[Any] = []
    outcome = finetune(
        Request(pages, tmp_path / "child", "child-1", start, QUICK, about="fields"),
        begun=told.append,
    )
    folder = tmp_path / "child"
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "swin_unet.onnx",
        "swin_unet.safetensors",
    ]
    manifest = read_manifest(folder, "native")
    assert (manifest.name, manifest.licence) == ("child-1", "CC BY-NC 4.0")
    assert [ancestor.name for ancestor in manifest.lineage] == ["parent-1"]
    assert manifest.training_data == ["fields: 5 pages, no licence stated", "fields"]
    [split] = told
    assert (sum(split.held_out), sum(split.learned)) == (1, 0)
    assert [each.before for each in outcome.pages] == split.scores
    predictor = Predictor(folder, modes=["native"])
    for each in outcome.pages:
        mask = predictor.predict(each.page.pixels).mask
        union = (mask | each.page.cells).sum()
        assert each.after == pytest.approx((mask & each.page.cells).sum() / union if union else 1.0)
    held = next(each for each in outcome.pages if each.held_out)
    assert manifest.scores["held-out pages"] == {
        "images": 1,
        "mean_iou": {"native": held.after},
        "before": held.before,
    }
    assert manifest.training["held_out"] == [held.page.name]
    assert len(manifest.known_pages) == 5
    np.testing.assert_allclose(
        manifest.known_pages[0], describe(normalise(pages[0].pixels)), atol=1e-4, rtol=0
    )
    used = [page for page, is_held in zip(pages, split.held_out, strict=True) if not is_held]
    assert manifest.learned_pages == sorted(page_hash(page.pixels) for page in used)
    checkpoint = load_checkpoint(folder / "swin_unet.safetensors")
    assert checkpoint.config == load_checkpoint(start / "swin_unet.safetensors").config

    with pytest.raises(ValueError, match="holds a model already: "):
        finetune(Request(pages, folder, "child-1", start, QUICK))
    grandchild = Request(pages[:1], tmp_path / "grandchild", "grandchild-1", folder, QUICK, licence="MIT")
    with pytest.raises(ValueError, match=r"builds on child-1, whose licence is non-commercial"):
        finetune(grandchild)
    assert not grandchild.out.exists()


@pytest.mark.parametrize(
    ("pairs", "claimed", "said"),
    [
        ("CC BY-SA 4.0", "", "the two cannot be combined"),
        ("CC BY-ND 4.0", "", "allows no derived works"),
        ("CC BY-NC-SA 4.0", "CC BY-NC 4.0", "builds on its pairs, whose licence is share-alike"),
        ("", "Apache-2.0", "builds on parent-1, whose licence is non-commercial"),
    ],
)
def test_licences_that_cannot_be_combined_are_refused_before_the_training(
    start: Path, tmp_path: Path, pairs: str, claimed: str, said: str
) -> None:
    request = Request([field(0)], tmp_path / "out", "n", start, QUICK, licence=claimed, pairs_licence=pairs)
    with pytest.raises(ValueError, match=said):
        finetune(request)
    assert not request.out.exists()


def test_pages_that_teach_nothing_are_refused_with_their_names() -> None:
    empty = field(3, cells=np.zeros((96, 120), bool))
    check_pages([field(0), empty], partial=False)
    with pytest.raises(PairsError, match="none of the masks has a cell in it"):
        check_pages([empty], partial=False)
    with pytest.raises(PairsError, match=r"no cell is marked in f3\.tif; with --partial"):
        check_pages([field(0), empty], partial=True)
    flat = Page("flat", "flat", np.full((9, 9), 7, np.uint8), np.eye(9, dtype=bool), Acquisition())
    with pytest.raises(PairsError, match="all pixels of flat are the same"):
        check_pages([flat], partial=False)
    with pytest.raises(
        PairsError, match=r"no cell is marked in f3\.tif; .*; all pixels of flat are the same"
    ):
        check_pages([field(0), empty, flat], partial=True)


@pytest.mark.parametrize("mode", ["native", "resize"])
def test_training_can_begin_from_the_shipped_weights_of_both_modes(mode: Mode) -> None:
    network, manifest = read_start(WEIGHTS, mode)
    assert (manifest.mode, network.config.tile) == (mode, manifest.tile)


@pytest.mark.slow
def test_weights_for_resize_are_made_and_served(tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(QUICK, mode="resize", steps=2)
    made = finetune(Request([field(0), field(1)], tmp_path / "child", "child-1", WEIGHTS, recipe))
    assert made.manifest.lineage[-1].name == read_manifest(WEIGHTS / "resize", "resize").name
    assert Predictor(made.folder).predict(field(2).pixels, "resize").mask.shape == (96, 120)


def test_a_start_of_another_architecture_or_sha256_is_refused(
    start: Path, tmp_path: Path, network: SwinUNet
) -> None:
    other = shutil.copytree(start, tmp_path / "other")
    save(network, other / "swin_unet.safetensors")
    with pytest.raises(WeightsError, match="is a network of another architecture than manifest"):
        read_start(other, "native")
    told = json.loads((start / "manifest.json").read_text())
    told["architecture"]["layers"] = 3
    (other / "manifest.json").write_text(json.dumps(told))
    with pytest.raises(WeightsError, match=r"training cannot begin from .* unknown field `layers`"):
        read_start(other, "native")
    shutil.copy(start / "manifest.json", other)
    (other / "swin_unet.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match=r"training cannot begin from .* is not a checkpoint"):
        read_start(other, "native")
    (other / "swin_unet.onnx").write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"has sha256 .* but its manifest says"):
        read_start(other, "native")


def test_a_folder_with_weights_is_never_written_to(start: Path, tmp_path: Path) -> None:
    require_free(tmp_path / "new")
    (tmp_path / "both").mkdir()
    shutil.copytree(start, tmp_path / "both" / "native")
    for folder in (start, tmp_path / "both"):
        with pytest.raises(ValueError, match=r"holds a model already: manifest\.json is there and is kept"):
            require_free(folder)
