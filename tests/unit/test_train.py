"""The training loop, in two steps on generated fields, and the pieces it is made of."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from infra.samples import phase_contrast_field
from model.export import load_checkpoint
from model.swin_unet import SwinUNet, SwinUNetConfig
from training.dataset import Augmentation, load_index
from training.train import TrainingConfig, learning_rate, loss_of, mean_iou, save, train

CPU = torch.device("cpu")
CONFIG = TrainingConfig(
    name="tiny", train=("field/train",), validation=("field/val",), steps=2, batch_size=2, validate_every=1
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated fields with their ground truths, two to train and one to validate."""
    folder = tmp_path_factory.mktemp("data")
    rows = ["source,split,image,mask"]
    for seed, split in enumerate(("train", "train", "val")):
        field = phase_contrast_field(seed, 230, 240)
        Image.fromarray(field.pixels).save(folder / f"{seed}.png")
        Image.fromarray(field.cells).save(folder / f"{seed}_mask.png")
        rows.append(f"field,{split},{seed}.png,{seed}_mask.png")
    (folder / "index.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a network smaller than the one that ships."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save(SwinUNet(SwinUNetConfig(width=16, depths=(2,), stem_width=4, detail_width=2)), path)
    return path


@pytest.fixture(scope="module")
def out(data: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves."""
    folder = tmp_path_factory.mktemp("out") / "runs" / "tiny"
    train(CONFIG, data, folder, CPU, start)
    return folder


def rows_of(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_weights_metrics_and_configuration(out: Path) -> None:
    assert sorted(path.name for path in out.iterdir()) == [
        "config.json",
        "metrics.csv",
        "swin_unet.safetensors",
    ]
    rows = rows_of(out)
    assert list(rows[0]) == ["step", "seconds", "loss", "validation_iou"]
    assert [row["step"] for row in rows] == ["1", "2"]
    assert all(0 < float(row["loss"]) < 5 and 0 <= float(row["validation_iou"]) <= 1 for row in rows)
    written = json.loads((out / "config.json").read_text())
    assert written["steps"] == 2
    assert written["train"] == ["field/train"]
    assert written["augmentation"]["zoom"] == [0.75, 1.3]


def test_the_weights_that_are_left_have_the_score_that_was_logged(data: Path, out: Path) -> None:
    network = load_checkpoint(out / "swin_unet.safetensors")
    iou = mean_iou(network, load_index(data, CONFIG.validation), CPU)
    assert f"{iou:.4f}" == rows_of(out)[-1]["validation_iou"]


def test_training_changes_every_weight(start: Path, out: Path) -> None:
    before, after = load_file(start), load_file(out / "swin_unet.safetensors")
    assert [name for name, value in before.items() if torch.equal(value, after[name])] == []


def test_the_seed_decides_the_run(data: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, steps=1, batch_size=1)
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        train(replace(config, seed=seed), data, tmp_path / name, CPU)
    first, again, other = (rows_of(tmp_path / name)[0] for name in ("first", "again", "other"))
    assert (first["loss"], first["validation_iou"]) == (again["loss"], again["validation_iou"])
    assert first["loss"] != other["loss"]


def test_an_experiment_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "trial.yaml"
    path.write_text("train: [a/train]\nvalidation: [a/val]\nsteps: 7\naugmentation: {squash: 0.5}\n")
    config = TrainingConfig.read(path)
    assert (config.name, config.steps, config.batch_size) == ("trial", 7, 12)
    assert config.augmentation == Augmentation(squash=0.5)


@pytest.mark.parametrize("line", ["stepps: 8", "augmentation: {stepps: 8}"])
def test_an_unknown_field_of_an_experiment_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "trial.yaml"
    path.write_text(f"train: [a/train]\nvalidation: [a/val]\nsteps: 7\n{line}\n")
    with pytest.raises(TypeError, match="stepps"):
        TrainingConfig.read(path)


def test_the_experiments_that_ship_can_be_read() -> None:
    folder = Path(__file__).parents[2] / "training" / "configs"
    experiments = [TrainingConfig.read(path) for path in folder.glob("*.yaml")]
    assert experiments
    # Nothing is trained on, or chosen by, what is kept for the test.
    used = [source for config in experiments for source in (*config.train, *config.validation)]
    assert [source for source in used if source.endswith("/test")] == []


def half_cells() -> torch.Tensor:
    cells = torch.zeros(2, 1, 8, 8)
    cells[..., :4] = 1
    return cells


def test_the_loss_of_perfect_logits_is_nearly_0() -> None:
    cells = half_cells()
    assert loss_of(40 * cells - 20, cells).item() == pytest.approx(0, abs=1e-6)


def test_the_loss_of_undecided_logits_is_known() -> None:
    # Cross-entropy ln 2; Dice (2 * 32 + 1) / (64 + 64 + 1).
    expected = np.log(2) + 1 - 65 / 129
    assert loss_of(torch.zeros(2, 1, 8, 8), half_cells()).item() == pytest.approx(expected)


def test_the_loss_grows_from_right_over_undecided_to_wrong() -> None:
    cells = half_cells()
    losses = [loss_of(right * (2 * cells - 1), cells).item() for right in (20, 2, 0, -2, -20)]
    assert losses == sorted(losses)
    assert len(set(losses)) == len(losses)


def test_a_batch_without_cells_has_no_loss_where_none_are_found() -> None:
    nothing = torch.zeros(2, 1, 8, 8)
    assert loss_of(nothing - 20, nothing).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0.0002), (24, 0.005), (49, 0.01), (50, 0.01), (150, 0.005), (250, 0)]
)
def test_the_learning_rate_warms_up_and_fades_out(step: int, expected: float) -> None:
    config = replace(CONFIG, steps=250, warmup_steps=50, learning_rate=0.01)
    assert learning_rate(step, config) == pytest.approx(expected)


def test_the_learning_rate_of_a_run_shorter_than_its_warm_up() -> None:
    rates = [learning_rate(step, replace(CONFIG, steps=2, warmup_steps=4)) for step in range(2)]
    assert rates == pytest.approx([0.00025, 0.0005])


def test_saved_weights_can_be_loaded_and_nothing_else_is_left(network: SwinUNet, tmp_path: Path) -> None:
    save(network, tmp_path / "weights.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    loaded = load_checkpoint(tmp_path / "weights.safetensors").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in network.state_dict().items())


def test_an_interrupted_save_keeps_the_old_weights(
    network: SwinUNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.safetensors"
    save(network, path)
    old = path.read_bytes()

    def interrupted(tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str]) -> None:
        save_file(dict(list(tensors.items())[:1]), file, metadata)
        raise KeyboardInterrupt

    monkeypatch.setattr("training.train.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(network, path)
    assert path.read_bytes() == old
