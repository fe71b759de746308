"""The training script: two small epochs on generated fields, every way they can end, and the parts."""

import csv
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from cytomask.model import preprocess
from cytomask.model.predictor import MODES, Mode, tile_side
from cytomask.model.preprocess import Pixels
from cytomask.model.swin_unet import STRIDE, SwinUNet, SwinUNetConfig
from cytomask.samples.fields import phase_contrast_field
from cytomask.training import train as script
from cytomask.training.batches import Batches, read_data
from cytomask.training.checkpoints import load_network, save
from cytomask.training.conv_unet import ConvUNet, ConvUNetConfig
from cytomask.training.crops import Labelled
from cytomask.training.experiment import TrainingConfig
from cytomask.training.processes import Process, join
from cytomask.training.run import Run, schedule_of
from cytomask.training.sources import load, read_source
from cytomask.training.train import main, train
from cytomask.training.validation import validate

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
ALONE = Process(CPU)
TILE = 96  # pixels, instead of 288: a step takes a ninth of the time
SIZES: dict[str, Any] = {
    "width": 16, "depths": [2], "half_width": 4, "quarter_width": 8, "window": TILE // STRIDE,
}  # fmt: skip
FIELDS: dict[str, Any] = {
    "swin_unet": SIZES,
    "train": {"field/train": 1},
    "validation": ["field/val"],
    "epochs": 2,
    "steps_per_epoch": 3,
    "batch_size": 2,
    "warmup_steps": 1,
}


@pytest.fixture(scope="module", autouse=True)
def _small_tiles() -> Iterator[None]:
    """Train on small crops. Pages are still scored in tiles of 288 pixels, three times as wide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preprocess, "TILE", TILE)
        yield


@pytest.fixture
def whole_tiles(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Train on crops as large as in use, as another process does; return the sizes of the network."""
    monkeypatch.setattr(preprocess, "TILE", 288)
    return SIZES | {"window": 288 // STRIDE}


def experiment(**fields: Any) -> TrainingConfig:
    return TrainingConfig.from_dict("tiny", FIELDS | fields)


def write_field(path: Path, seed: int, side: int = 224) -> None:
    """Write an image and its mask."""
    field = phase_contrast_field(seed, side, side)
    Image.fromarray(field.pixels).save(path)
    Image.fromarray(field.cells).save(path.with_name(f"{path.stem}_mask.png"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make generated fields: two for training, one for validation."""
    folder = tmp_path_factory.mktemp("data")
    rows = ["source,split,image,mask"]
    for seed, split in enumerate(("train", "train", "val")):
        write_field(folder / f"{seed}.png", seed)
        rows.append(f"field,{split},{seed}.png,{seed}_mask.png")
    (folder / "index.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make random weights of a network smaller than the shipped one."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    save(SwinUNet(experiment().swin_unet), path)
    return path


@pytest.fixture(scope="module")
def out(data: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train once and return the run's folder."""
    folder = tmp_path_factory.mktemp("out") / "runs" / "tiny"
    train(experiment(), data, folder, ALONE, start=start)
    return folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the drawing, and most batches for batch norm's statistics."""
    monkeypatch.setattr(script, "BATCHES_OF_NORM", 1)
    monkeypatch.setattr(script, "write_curves", lambda *_: None)
    monkeypatch.setattr(script, "write_samples", lambda _, target: Image.new("L", (1, 1)).save(target))


@pytest.fixture
def command(data: Path, start: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Make the command line of an experiment with these fields, writing to tmp_path/out."""

    def arguments(*more: str, **fields: Any) -> list[str]:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(FIELDS | fields))
        given = ("--data", str(data), "--out", str(tmp_path / "out"), "--start", str(start), *more)
        return [str(path), "--device", "cpu", *given]

    return arguments


def rows_of(out: Path) -> list[dict[str, str]]:
    """Read the rows of metrics.csv, without their times."""
    with (out / "metrics.csv").open(newline="") as file:
        return [
            {name: cell for name, cell in row.items() if name != "seconds"} for row in csv.DictReader(file)
        ]


def assert_same(first: Any, second: Any) -> None:
    """Assert that nested states are equal to the last bit."""
    if isinstance(first, Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for name in first:
            if name != "seconds":
                assert_same(first[name], second[name])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


def assert_same_run(first: Path, second: Path) -> None:
    """Assert that two runs wrote the same metrics, weights and checkpoints."""
    assert rows_of(first) == rows_of(second)
    for name in ("swin_unet.safetensors", "checkpoints/best.safetensors"):
        assert_same(load_file(first / name), load_file(second / name))
    assert_same(*(torch.load(out / "checkpoints/last.pt", weights_only=True) for out in (first, second)))


def after_step(monkeypatch: pytest.MonkeyPatch, wanted: int, act: Callable[[], object]) -> None:
    """Do something during that step of the whole test, counted from 1."""
    steps = count(1)
    step = Run.step

    def acting(run: Run, pixels: Tensor, cells: Tensor, known: Tensor) -> float:
        if next(steps) == wanted:
            act()
        return step(run, pixels, cells, known)

    monkeypatch.setattr(Run, "step", acting)


def signal_self(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


# What a run leaves


def test_a_run_leaves_weights_metrics_pictures_and_checkpoints(out: Path) -> None:
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if "events" not in path.name) == [
        "checkpoints",
        "checkpoints/best.safetensors",
        "checkpoints/last.pt",
        "config.json",
        "curves.png",
        "metrics.csv",
        "samples.png",
        "swin_unet.safetensors",
        "tensorboard",
    ]
    for name in ("curves.png", "samples.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 500


def test_an_epoch_is_a_row_of_the_metrics(out: Path) -> None:
    with (out / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        "epoch",
        "step",
        "seconds",
        "learning_rate",
        "loss",
        "validation_loss",
        "validation_iou",
    ]
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6")]
    for row in rows:
        assert 0 < float(row["loss"]) < 5
        assert 0 < float(row["validation_loss"]) < 5
        assert 0 <= float(row["validation_iou"]) <= 1
    # Two of the cosine's 5 steps are gone, then all of them.
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([6.55e-4, 0], abs=1e-6)


def test_the_configuration_is_resolved(out: Path) -> None:
    written = json.loads((out / "config.json").read_text())
    assert written["name"] == "tiny"
    assert written["clip_norm"] == 1.0
    assert written["augmentation"]["zoom"] == [0.75, 1.3]
    assert TrainingConfig.from_dict("tiny", written) == experiment()


@pytest.mark.usefixtures("quick")
def test_an_epoch_has_as_many_crops_as_there_are_images(data: Path, start: Path, tmp_path: Path) -> None:
    config = experiment(epochs=2, steps_per_epoch=None, batch_size=1, warmup_steps=1)
    train(config, data, tmp_path, ALONE, start=start)
    assert [row["step"] for row in rows_of(tmp_path)] == ["2", "4"]
    assert json.loads((tmp_path / "config.json").read_text())["steps_per_epoch"] == 2


def test_the_written_weights_have_the_logged_score(data: Path, out: Path) -> None:
    best = max(rows_of(out), key=lambda row: float(row["validation_iou"]))
    held_out = load(read_source(data, "field/val"))
    scored = validate(load_network(out / "swin_unet.safetensors"), held_out, experiment(), CPU)
    assert f"{scored['validation_iou']:.4f}" == best["validation_iou"]
    assert f"{scored['validation_loss']:.4f}" == best["validation_loss"]


def test_training_changes_every_weight(start: Path, out: Path) -> None:
    before, after = load_file(start), load_file(out / "swin_unet.safetensors")
    assert [name for name, value in before.items() if torch.equal(value, after[name])] == []


@pytest.mark.usefixtures("quick")
def test_an_epoch_is_a_line_of_output(
    command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(epochs=1, validation=[])) == 0
    assert capsys.readouterr().out.startswith("epoch 1/1 step 3 loss ")


@pytest.mark.usefixtures("quick")
def test_the_seed_decides_the_run(data: Path, start: Path, tmp_path: Path) -> None:
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        train(experiment(seed=seed, epochs=1), data, tmp_path / name, ALONE, start=start)
    first, again, other = (rows_of(tmp_path / name) for name in ("first", "again", "other"))
    assert first == again
    assert first[0]["loss"] != other[0]["loss"]


@pytest.mark.usefixtures("quick")
def test_the_baseline_is_trained_by_the_same_script(data: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    save(ConvUNet(ConvUNetConfig(widths=(4, 8, 12))), start)
    train(experiment(network="conv_unet", epochs=1), data, tmp_path / "out", ALONE, start=start)
    assert isinstance(load_network(tmp_path / "out" / "swin_unet.safetensors"), ConvUNet)


@pytest.mark.usefixtures("quick")
def test_without_validation_the_last_weights_are_kept(data: Path, start: Path, tmp_path: Path) -> None:
    train(experiment(validation=[]), data, tmp_path, ALONE, start=start)
    assert [row["validation_iou"] for row in rows_of(tmp_path)] == ["", ""]
    last = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["averaged"]
    for name, value in load_file(tmp_path / "swin_unet.safetensors").items():
        assert torch.equal(value, last[f"module.{name}"])


def score_by(ious: Sequence[float], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """Make validation return these scores, one per epoch; return the list of scored weights."""
    scored: list[dict[str, Tensor]] = []

    def scripted(network: SwinUNet, *_: object) -> dict[str, float]:
        scored.append({name: value.clone() for name, value in network.state_dict().items()})
        return {"validation_loss": 1.0, "validation_iou": ious[len(scored) - 1]}

    monkeypatch.setattr(script, "validate", scripted)
    return scored


@pytest.mark.usefixtures("quick")
def test_the_best_weights_are_kept_and_not_the_last(
    data: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = score_by([0.2, 0.9, 0.9, 0.5], monkeypatch)
    train(experiment(epochs=4, steps_per_epoch=1), data, tmp_path, ALONE, start=start)
    kept = load_file(tmp_path / "swin_unet.safetensors")
    assert_same(kept, scored[1])
    assert any(not torch.equal(value, scored[3][name]) for name, value in kept.items())


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("ious", "min_epochs", "epochs"),
    [
        ([0.5, 0.4, 0.3, 0.2, 0.1, 0.0], 1, 3),
        ([0.5, 0.4, 0.3, 0.2, 0.1, 0.0], 5, 5),
        ([0.5, 0.4, 0.6, 0.5, 0.6, 0.7], 1, 5),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 1, 6),
    ],
)
def test_a_run_ends_early_when_it_gets_no_better(
    data: Path,
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ious: list[float],
    min_epochs: int,
    epochs: int,
) -> None:
    score_by(ious, monkeypatch)
    config = experiment(epochs=6, steps_per_epoch=1, batch_size=1, min_epochs=min_epochs, early_stopping=2)
    train(config, data, tmp_path, ALONE, start=start)
    assert [row["epoch"] for row in rows_of(tmp_path)] == [str(epoch) for epoch in range(1, epochs + 1)]


# Stopped and resumed


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("schedule", ["cosine", pytest.param("warm_restarts", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("number", "step", "stopped_at"),
    [
        pytest.param(signal.SIGTERM, 2, 2, id="in the middle of an epoch"),
        pytest.param(signal.SIGINT, 3, 4, id="in the last step of an epoch"),
    ],
)
def test_a_run_that_a_signal_stopped_goes_on_to_the_same_numbers(
    data: Path,
    command: Callable[..., list[str]],
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    schedule: str,
    number: signal.Signals,
    step: int,
    stopped_at: int,
) -> None:
    fields = {"schedule": schedule, "restart_epochs": 1}
    train(experiment(**fields), data, tmp_path / "whole", ALONE, start=start)

    with monkeypatch.context() as patched:
        after_step(patched, step, signal_self(number))
        assert main(command(**fields)) == 128 + number
    assert capsys.readouterr().err.endswith(f"stopped by {number.name}; continue with --resume\n")
    last = torch.load(tmp_path / "out/checkpoints/last.pt", weights_only=True)
    assert last["progress"]["step"] == stopped_at
    assert not (tmp_path / "out" / "swin_unet.safetensors").exists()

    assert main(command("--resume", **fields)) == 0
    assert_same_run(tmp_path / "out", tmp_path / "whole")


@pytest.mark.usefixtures("quick")
def test_a_run_that_was_killed_between_epochs_goes_on_to_the_same_numbers(
    out: Path, data: Path, start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "BATCHES_OF_NORM", 10)

    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        after_step(patched, 4, kill)
        train(experiment(), data, tmp_path, ALONE, start=start)
    train(experiment(), data, tmp_path, ALONE, start=start, resume=True)
    assert_same_run(tmp_path, out)

    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in curves.Scalars("loss")] == [3, 6]


@pytest.mark.usefixtures("quick")
def test_a_signal_while_an_epoch_is_scored_lets_it_be_scored(
    command: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {"validation_loss": 1.0, "validation_iou": 0.5}

    monkeypatch.setattr(script, "validate", interrupted)
    assert main(command()) == 143
    last = torch.load(tmp_path / "out/checkpoints/last.pt", weights_only=True)["progress"]
    assert last["step"] == 4
    assert [row["step"] for row in last["history"]] == [3]


@pytest.mark.usefixtures("quick")
def test_a_signal_in_the_last_step_lets_the_run_end(
    command: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_step(monkeypatch, 3, signal_self(signal.SIGTERM))
    assert main(command(epochs=1)) == 0
    assert (tmp_path / "out" / "swin_unet.safetensors").exists()


@pytest.mark.usefixtures("quick")
def test_resuming_an_ended_run_changes_nothing(
    command: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_by([0.5, 0.4], monkeypatch)
    fields = {"epochs": 5, "steps_per_epoch": 1, "early_stopping": 1, "warmup_steps": 0}
    assert main(command(**fields)) == 0
    before = (tmp_path / "out/swin_unet.safetensors").read_bytes(), rows_of(tmp_path / "out")
    assert len(before[1]) == 2
    assert main(command("--resume", **fields)) == 0
    assert ((tmp_path / "out/swin_unet.safetensors").read_bytes(), rows_of(tmp_path / "out")) == before


@pytest.mark.usefixtures("quick")
def test_resume_without_a_checkpoint_starts_anew_in_the_given_folder(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    assert main(command("--resume", "--checkpoints", str(tmp_path / "elsewhere"), epochs=1)) == 0
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["best.safetensors", "last.pt"]
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_folder_with_another_run_is_refused_unless_it_is_resumed(
    data: Path, out: Path, start: Path
) -> None:
    before = (out / "checkpoints" / "last.pt").read_bytes()
    with pytest.raises(
        FileExistsError, match=r"last\.pt exists already; continue with --resume or train into"
    ):
        train(experiment(), data, out, ALONE, start=start)
    assert (out / "checkpoints" / "last.pt").read_bytes() == before


def test_another_experiment_is_not_resumed_and_its_fields_are_named(
    data: Path, out: Path, start: Path
) -> None:
    other = experiment(seed=7, augmentation={"flip": 0.1}, hold_out=["0"])
    with pytest.raises(
        ValueError, match="to an experiment with another hold_out, seed, augmentation; train into"
    ):
        train(other, data, out, ALONE, start=start, resume=True)


def test_a_run_is_not_resumed_on_so_much_data_that_its_epochs_differ(
    data: Path, out: Path, start: Path
) -> None:
    with pytest.raises(ValueError, match="to an experiment with another steps_per_epoch; train into"):
        train(experiment(steps_per_epoch=None), data, out, ALONE, start=start, resume=True)


@pytest.mark.usefixtures("quick")
def test_a_run_from_start_weights_of_other_sizes_is_not_resumed_without_them(
    data: Path, tmp_path: Path
) -> None:
    start, baseline = tmp_path / "start.safetensors", experiment(network="conv_unet", epochs=1)
    save(ConvUNet(ConvUNetConfig(widths=(4, 8, 12))), start)
    train(baseline, data, tmp_path / "out", ALONE, start=start)
    with pytest.raises(ValueError, match=r"last\.pt holds another network; give the --start that the run"):
        train(baseline, data, tmp_path / "out", ALONE, resume=True)


@pytest.mark.parametrize("sizes", [{"window": TILE // STRIDE}, SIZES | {"half_depth": 1}])
def test_start_weights_of_other_sizes_than_the_experiments_are_refused(
    data: Path, start: Path, tmp_path: Path, sizes: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"start\.safetensors has other sizes than tiny sets under swin_"):
        train(experiment(swin_unet=sizes), data, tmp_path, ALONE, start=start)


def test_a_run_may_begin_from_weights_with_wider_mlps(data: Path, start: Path, tmp_path: Path) -> None:
    wider = experiment().swin_unet.mlp_ratio
    run = Run(experiment(swin_unet=SIZES | {"mlp_ratio": wider // 2}), 1, ALONE, start)
    assert isinstance(run.network, SwinUNet)
    assert run.network.config.mlp_ratio == wider // 2


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 half of one"])
def test_a_checkpoint_that_cannot_be_read_is_named(
    data: Path, start: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"last\.pt is not a checkpoint of a run; remove it to start afresh"):
        train(experiment(), data, tmp_path, ALONE, start=start, resume=True)


# Disk, signals and devices


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Make the kernel refuse to write more to a file, like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("exists", [True, False])
def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    start: Path, tmp_path: Path, exists: bool
) -> None:
    run = Run(experiment(), 3, ALONE, start)
    path = tmp_path / "last.pt"
    if exists:
        run.save(path)
    before = [file.read_bytes() for file in tmp_path.iterdir()]
    expected = "the older file is kept" if exists else "there is no older file"
    with (
        pytest.raises(OSError, match=rf"last\.pt could not be written, {expected}: "),
        files_no_larger_than(20_000),
    ):
        run.save(path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == before


def test_weights_that_cannot_be_written_leave_the_old_ones(network: SwinUNet, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save(network, path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="the older file is kept"), files_no_larger_than(20_000):
        save(network, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64")])
def test_a_full_disk_ends_the_run_with_a_sentence_and_can_be_resumed(
    command: Callable[..., list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    saved = torch.save
    calls = count(1)

    def full(state: object, path: Path) -> None:
        if next(calls) == 2:
            path.write_bytes(b"half of")
            raise error
        saved(state, path)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        assert main(command()) == 1
    last = tmp_path / "out" / "checkpoints" / "last.pt"
    assert capsys.readouterr().err == (
        f"cannot train: {last} could not be written, the older file is kept: {error}\n"
    )
    assert sorted(path.name for path in last.parent.iterdir()) == ["best.safetensors", "last.pt"]
    assert torch.load(last, weights_only=True)["progress"]["step"] == 3
    assert main(command("--resume")) == 0


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'layers' / 'cytomask'}"}


@pytest.mark.slow
def test_sigterm_stops_a_process_with_143_and_a_checkpoint(
    command: Callable[..., list[str]], tmp_path: Path, whole_tiles: dict[str, Any]
) -> None:
    given = command(epochs=1000, steps_per_epoch=1000, swin_unet=whole_tiles)
    arguments = [sys.executable, "-m", "cytomask.training.train", *given]
    with subprocess.Popen(
        arguments, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
    ) as process:
        try:
            deadline = time.monotonic() + 180
            while not (tmp_path / "out" / "config.json").exists():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 143
    assert errors == "stopped by SIGTERM; continue with --resume\n"
    assert torch.load(tmp_path / "out/checkpoints/last.pt", weights_only=True)["progress"]["step"] >= 1


def test_ctrl_c_while_the_data_is_read_is_130(
    command: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "read_data", interrupted)
    assert main(command()) == 130
    assert capsys.readouterr().err == "stopped by SIGINT before the first step\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_a_sentence(
    command: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("--device", "cuda")) == 1
    assert capsys.readouterr().err == (
        "cannot train: torch finds no CUDA device here; train with --device cpu, or check the driver\n"
    )


def test_invalid_start_weights_are_named(data: Path, tmp_path: Path, start: Path) -> None:
    nothing = tmp_path / "nothing.safetensors"
    nothing.write_text("no weights")
    with pytest.raises(ValueError, match=r"nothing\.safetensors does not hold weights of a cytomask"):
        train(experiment(), data, tmp_path / "out", ALONE, start=nothing)
    with pytest.raises(
        ValueError, match=r"start\.safetensors does not hold a conv_unet, the network of tiny"
    ):
        train(experiment(network="conv_unet"), data, tmp_path / "out", ALONE, start=start)


@pytest.mark.usefixtures("quick")
def test_start_weights_are_where_the_run_begins(data: Path, start: Path, tmp_path: Path) -> None:
    # So slow that the network learns nothing.
    config = experiment(epochs=1, learning_rate=1e-12, weight_decay=0)
    train(config, data, tmp_path, ALONE, start=start)
    before, after = load_file(start), load_file(tmp_path / "swin_unet.safetensors")
    for name, value in before.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(after[name], value, rtol=0, atol=1e-9)


# Several processes


WORKER = """
import os, signal, sys
from pathlib import Path
import torch
from cytomask.training import run, train as script

folder, signalled, *arguments = sys.argv[1:]
rank = os.environ["RANK"]
runs = []

class Noted(run.Run):
    def __init__(self, *given):
        super().__init__(*given)
        runs.append(self)

    def step(self, *given):
        if rank == signalled:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(*given)

script.Run = Noted
script.Process.half = False
torch.set_num_threads(1)
code = script.main(arguments)
torch.save(dict(runs[0].network.named_parameters()), f"{folder}/rank{rank}.pt")
Path(folder, f"code{rank}.txt").write_text(str(code))
sys.exit(code)
"""


@pytest.mark.slow
def test_two_processes_stop_together_go_on_and_learn_what_one_does(
    command: Callable[..., list[str]],
    start: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole_tiles: dict[str, Any],
) -> None:
    monkeypatch.setattr(Process, "half", False)  # bfloat16 would hide in its rounding what is compared
    # Equal crops: each half of a batch then has the batch norm of the whole.
    write_field(tmp_path / "a.png", 0)
    (tmp_path / "index.csv").write_text("source,split,image,mask\nfield,train,a.png,a_mask.png\n")
    still = {"zoom": [1, 1], "flip": 0, "turn": False}
    still |= dict.fromkeys(("squash", "noise", "repage", "contrast", "brightness"), 0)
    fields = {"augmentation": still, "validation": [], "epochs": 1, "steps_per_epoch": 2, "loss": "bce"}
    fields |= {"warmup_steps": 0, "batch_size": 4, "swin_unet": whole_tiles}
    (tmp_path / "worker.py").write_text(WORKER)

    def launch(signalled: str, *more: str) -> subprocess.CompletedProcess[str]:
        launcher = (
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "--",
        )
        given = (str(tmp_path / "worker.py"), str(tmp_path), signalled, *command(*more, **fields))
        return subprocess.run(
            [*launcher, *given, "--data", str(tmp_path)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment(),
            timeout=400,
            check=False,
        )

    stopped = launch("1")
    assert stopped.returncode != 0
    assert "stopped by SIGTERM; continue with --resume" in stopped.stderr
    assert {(tmp_path / f"code{rank}.txt").read_text() for rank in (0, 1)} == {"143"}
    last = torch.load(tmp_path / "out/checkpoints/last.pt", weights_only=True)
    assert last["progress"]["step"] == 1

    ended = launch("nobody", "--resume")
    assert ended.returncode == 0, ended.stderr
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same(first, second)

    train(experiment(**fields), tmp_path, tmp_path / "alone", ALONE, start=start)
    (together,), (alone,) = rows_of(tmp_path / "out"), rows_of(tmp_path / "alone")
    assert float(together["loss"]) == pytest.approx(float(alone["loss"]), abs=2e-4)
    weights = torch.load(tmp_path / "alone/checkpoints/last.pt", weights_only=True)["network"]
    # Adam's first steps are as long as the learning rate for any gradient, so rounding can flip a few.
    differences = torch.cat([(value - weights[name]).abs().flatten() for name, value in first.items()])
    assert (differences < 1e-4).float().mean() > 0.95


def test_a_batch_that_the_processes_cannot_share_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size 2 cannot be shared by 3 processes"):
        train(experiment(), data, tmp_path, Process(CPU, 0, 3))


def crops_of(
    data: Path, steps: range, process: Process = ALONE, **fields: Any
) -> list[tuple[Pixels, Pixels]]:
    config = experiment(batch_size=4, **fields)
    mix, _ = read_data(config, data)
    batches = Batches(mix, config, process)
    return [(pixels.numpy(), cells.numpy()) for pixels, cells, _ in batches.of(steps)]


def test_the_crops_of_a_step_are_the_same_for_any_number_of_processes(data: Path) -> None:
    alone = crops_of(data, range(3))
    shares = [crops_of(data, range(3), Process(CPU, rank, 2)) for rank in (0, 1)]
    for step in range(3):
        for kind in (0, 1):
            together = np.stack([share[step][kind] for share in shares], axis=1)  # 2 places, 2 processes
            assert np.array_equal(together.reshape(4, 1, TILE, TILE), alone[step][kind])


def test_the_crops_of_a_step_are_the_same_wherever_a_run_begins(data: Path) -> None:
    whole = crops_of(data, range(5))
    rest = crops_of(data, range(3, 5))
    assert len(whole) == 5
    assert all(np.array_equal(one[0], other[0]) for one, other in zip(whole[3:], rest, strict=True))
    assert crops_of(data, range(5, 5)) == []


def test_every_step_seed_and_place_has_its_own_crop(data: Path) -> None:
    crops = [crops_of(data, steps, seed=seed) for steps, seed in ((range(-2, 2), 0), (range(2), 1))]
    assert len({crop.tobytes() for batches in crops for pixels, _ in batches for crop in pixels}) == 6 * 4


# What is read


def test_held_out_images_are_scored_and_not_trained_on(data: Path) -> None:
    mix, held_out = read_data(experiment(hold_out=["1"], train={"field/train": 3}), data)
    assert [(weight, [item.name for item in items]) for weight, items in mix] == [(3.0, ["0"])]
    assert [item.name for item in held_out] == ["1", "2"]


def test_validation_images_are_never_trained_on(tmp_path: Path) -> None:
    # LIVECell's official training file names some images of the validation file.
    for seed in (0, 1):
        write_field(tmp_path / f"{seed}.png", seed)
    for split, names in {"train": ["0.png", "1.png"], "val": ["1.png"]}.items():
        images = [{"id": at, "file_name": name, "height": 224, "width": 224} for at, name in enumerate(names)]
        square = [[20, 20, 90, 20, 90, 90, 20, 90]]
        cells = [{"id": at, "image_id": at, "segmentation": square} for at in range(len(names))]
        (tmp_path / f"{split}.json").write_text(json.dumps({"images": images, "annotations": cells}))
    both = {"train": {"coco:train.json:.": 1}, "validation": ["coco:val.json:."]}
    mix, held_out = read_data(experiment(**both), tmp_path)
    assert [(weight, [item.name for item in items]) for weight, items in mix] == [(1.0, ["0"])]
    assert [item.name for item in held_out] == ["1"]


def test_images_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        for kind in ("images", "masks"):
            (tmp_path / folder / kind).mkdir(parents=True)
            write_field(tmp_path / folder / kind / "1.png", 0)
            (tmp_path / folder / kind / "1_mask.png").unlink()
    sources = {"train": {"pairs:a/images:a/masks": 1}, "validation": ["pairs:b/images:b/masks"]}
    mix, held_out = read_data(experiment(**sources), tmp_path)
    assert (len(mix[0][1]), len(held_out)) == (1, 1)


def test_unknown_names_in_hold_out_are_named(data: Path) -> None:
    with pytest.raises(ValueError, match=r"hold_out names images that train does not have: 2, nobody$"):
        read_data(experiment(hold_out=["nobody", "1", "2"]), data)


def test_a_hold_out_that_leaves_no_training_image_is_refused(data: Path) -> None:
    with pytest.raises(
        ValueError, match="hold_out and validation leave nothing of field/val; take it out of train"
    ):
        read_data(experiment(hold_out=["2"], train={"field/train": 1, "field/val": 1}), data)


def test_corrupt_images_of_all_sources_are_named_before_the_first_step(
    command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["source,split,image,mask"]
    for seed, split in enumerate(("train", "train", "val")):
        write_field(tmp_path / f"{seed}.png", seed, 64)
        rows.append(f"field,{split},{seed}.png,{seed}_mask.png")
    (tmp_path / "index.csv").write_text("\n".join(rows))
    for seed in (1, 2):
        content = (tmp_path / f"{seed}.png").read_bytes()
        (tmp_path / f"{seed}.png").write_bytes(content[: len(content) // 2])
    assert main(command("--data", str(tmp_path))) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("cannot train: 2 of 3 images cannot be used: 1.png: ")
    assert "; 2.png: " in errors
    assert not (tmp_path / "out").exists()


def test_a_missing_data_folder_is_reported_in_a_sentence(
    command: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("--data", str(tmp_path / "nowhere"))) == 1
    assert capsys.readouterr().err.startswith("cannot train: [Errno 2] No such file or directory: ")


# Pieces


def rates(steps: int, steps_per_epoch: int, **fields: Any) -> list[float]:
    """Return the learning rate of every step."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule = schedule_of(optimiser, experiment(learning_rate=0.01, **fields), steps_per_epoch)
    seen = []
    for _ in range(steps):
        seen.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return seen


def cosine(share: float, low: float = 0.0) -> float:
    """Return the cosine of 0.01 after this share of the period."""
    return float(low + (0.01 - low) * (1 + np.cos(np.pi * share)) / 2)


def test_the_learning_rate_warms_up_and_fades_out() -> None:
    seen = rates(251, 50, epochs=5, warmup_steps=50)
    assert [seen[step] for step in (0, 24, 49, 50, 100, 150, 250)] == pytest.approx(
        [0.0002, 0.0002 + 0.0098 * 24 / 50, 0.0002 + 0.0098 * 49 / 50, 0.01, cosine(1 / 4), 0.005, 0],
        abs=1e-9,
    )


def test_without_warm_up_the_learning_rate_begins_at_its_height() -> None:
    seen = rates(101, 20, epochs=5, warmup_steps=0, min_learning_rate=0.001)
    assert seen == pytest.approx([cosine(step / 100, 0.001) for step in range(101)])


@pytest.mark.parametrize("warmup", [0, 10])
def test_warm_restarts_come_after_periods_that_double(warmup: int) -> None:
    fields = {"schedule": "warm_restarts", "restart_epochs": 2, "min_learning_rate": 0.001}
    seen = rates(warmup + 60, 10, epochs=7, warmup_steps=warmup, **fields)
    first = [cosine(step / 20, 0.001) for step in range(20)]
    second = [cosine(step / 40, 0.001) for step in range(40)]
    assert seen[warmup:] == pytest.approx(first + second)
    assert seen[:warmup] == pytest.approx([0.001 + 0.009 * step / 10 for step in range(warmup)])


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_steps must be less than the steps of the run"):
        rates(1, 3, epochs=2, warmup_steps=6)


def batch() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    pixels = torch.randn(2, 1, TILE, TILE)
    return pixels, (pixels > 0).float(), torch.ones_like(pixels)


def test_a_loss_that_is_not_a_number_ends_the_run_before_it_changes_the_weights(start: Path) -> None:
    run = Run(experiment(), 3, ALONE, start)
    before = {name: value.clone() for name, value in run.network.named_parameters()}
    pixels, cells, known = batch()
    with pytest.raises(
        ValueError, match="the loss is nan after 0 steps; the last epoch's checkpoint is kept"
    ):
        run.step(pixels * math.nan, cells, known)
    assert_same(dict(run.network.named_parameters()), before)


@pytest.mark.parametrize(("half", "computed"), [(True, torch.bfloat16), (False, torch.float32)])
def test_convolutions_run_in_bfloat16_where_the_device_is_fast_at_it(
    start: Path, monkeypatch: pytest.MonkeyPatch, half: bool, computed: torch.dtype
) -> None:
    monkeypatch.setattr(Process, "half", half)
    run = Run(experiment(), 3, ALONE, start)
    seen = []
    run.network.head.logit.register_forward_hook(lambda _, __, output: seen.append(output.dtype))  # type: ignore[union-attr]
    run.step(*batch())
    assert seen == [computed]


def test_the_device_is_found_at_run_time() -> None:
    with join("auto") as process:
        assert process.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_the_gradient_is_clipped_to_its_norm(start: Path) -> None:
    norms = []
    for largest in (1e6, 1e-3):
        run = Run(experiment(clip_norm=largest), 3, ALONE, start)
        run.step(*batch())
        gradients = [value.grad for value in run.network.parameters() if value.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())
    assert norms[0] > 2e-3
    assert norms[1] == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_weights_are_averaged_by_their_decay(start: Path, decay: float) -> None:
    run = Run(experiment(average_decay=decay, learning_rate=0.1), 3, ALONE, start)
    expected: Any = None
    for _ in range(3):
        run.step(*batch())
        weight: Any = run.network.head.logit.weight.detach().clone()  # type: ignore[union-attr,operator]
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
    assert expected is not None
    torch.testing.assert_close(run.average.head.logit.weight, expected)  # type: ignore[union-attr]


def constant_network(value: float, mode: Mode = "native") -> SwinUNet:
    """A network that gives every pixel this logit."""
    window = tile_side(mode) // STRIDE
    network = SwinUNet(SwinUNetConfig(16, (2,), half_width=4, quarter_width=8, window=window))
    with torch.no_grad():
        network.head.logit.weight.zero_()
        torch.nn.init.constant_(network.head.logit.bias, value)  # type: ignore[arg-type]
    return network


@pytest.mark.parametrize("mode", MODES)
def test_validation_is_the_mean_over_images_at_the_threshold(mode: Mode) -> None:
    items = [
        Labelled(
            str(side),
            np.ones((side, side + 10), np.float32),
            np.arange(side * (side + 10)).reshape(side, -1) % parts == 0,
        )
        for side, parts in ((100, 2), (230, 4))
    ]
    logit = float(np.log(0.3 / 0.7))
    expected = np.mean([-np.log(0.3) / parts - np.log(0.7) * (1 - 1 / parts) for parts in (2, 4)])
    for threshold, iou in ((0.2, (1 / 2 + 1 / 4) / 2), (0.4, 0)):
        sizes = SIZES | {"window": tile_side(mode) // STRIDE}
        config = experiment(mode=mode, swin_unet=sizes, threshold=threshold, loss="bce")
        scored = validate(constant_network(logit, mode), items, config, CPU)
        assert scored["validation_iou"] == pytest.approx(iou)
        assert scored["validation_loss"] == pytest.approx(expected, abs=1e-4)


def test_nothing_to_validate_has_no_score() -> None:
    assert validate(constant_network(0), [], experiment(), CPU) == {}


def test_saved_weights_can_be_loaded_and_nothing_else_is_left(network: SwinUNet, tmp_path: Path) -> None:
    save(network, tmp_path / "weights.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    loaded = load_network(tmp_path / "weights.safetensors").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in network.state_dict().items())
