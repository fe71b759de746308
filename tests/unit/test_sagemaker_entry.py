"""The container's entry point, with /opt/ml in a temporary folder: a stub of training, and the real one."""

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from cytomask.model.export import load_checkpoint
from cytomask.samples.fields import phase_contrast_field
from cytomask.training.experiment import TrainingConfig
from cytomask.training.sagemaker_entry import Layout, main, reason, run
from cytomask.training.sagemaker_job import ROOT, encode

EXPERIMENT = {
    "name": "two-steps",
    "train": {"pairs:images:masks": 1.0},
    "hold_out": ["1"],
    "epochs": 1,
    "steps_per_epoch": 2,
    "batch_size": 2,
    "warmup_steps": 1,
    "learning_rate": 1e-6,
}
STUB = """
import argparse, os, signal, sys, time
from pathlib import Path
parser = argparse.ArgumentParser()
parser.add_argument("config", type=Path)
for name in ("data", "out", "checkpoints"):
    parser.add_argument(f"--{name}", type=Path)
parser.add_argument("--resume", action="store_true")
parser.add_argument("--device")
given = parser.parse_args()
given.out.mkdir(parents=True, exist_ok=True)
(given.out / f"arguments{os.environ.get('RANK', '')}.txt").write_text("\\n".join(sys.argv))
(given.out / "config.yaml").write_text(given.config.read_text())
"""


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make /opt/ml of a job with the experiment's hyperparameters, on a machine without a GPU."""
    folder = tmp_path / "opt" / "ml"
    (folder / "input" / "config").mkdir(parents=True)
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(folder))
    monkeypatch.setenv("SM_NUM_GPUS", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    give(folder, EXPERIMENT)
    return folder


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a stub of training.train, which notes its arguments, before the real one; more code can follow."""
    package = tmp_path / "stub" / "cytomask" / "training"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(package.parents[1]))
    monkeypatch.chdir(package.parents[1])

    def write(more: str = "") -> None:
        (package / "train.py").write_text(STUB + textwrap.dedent(more))

    write()
    return write


def give(base: Path, hyperparameters: dict[str, Any]) -> None:
    texts = {name: encode(value) for name, value in hyperparameters.items()}
    (base / "input" / "config" / "hyperparameters.json").write_text(json.dumps(texts))


def failure_of(base: Path) -> str:
    return (base / "output" / "failure").read_text()


def test_training_gets_the_experiment_and_sagemakers_folders(base: Path, stub: Any) -> None:
    assert main(["train"]) == 0
    out = base / "checkpoints" / "run"
    _, config, *options = (out / "arguments.txt").read_text().splitlines()
    assert Path(config).name == "two-steps.yaml"
    assert options == [
        *("--data", str(base / "input" / "data" / "training"), "--out", str(out)),
        *("--checkpoints", str(base / "checkpoints"), "--resume", "--device", "cpu"),
    ]
    values = yaml.safe_load((out / "config.yaml").read_text())
    expected = {name: value for name, value in EXPERIMENT.items() if name != "name"}
    assert TrainingConfig.from_dict("two-steps", values) == TrainingConfig.from_dict("two-steps", expected)
    assert not (base / "output" / "failure").exists()


def test_the_toolkits_variables_win(base: Path, tmp_path: Path) -> None:
    layout = Layout.from_environment(
        {
            "SAGEMAKER_BASE_DIR": str(base),
            "SM_CHANNEL_TRAINING": "/data",
            "SM_MODEL_DIR": "/model",
            "SM_OUTPUT_DATA_DIR": "/output",
            "SM_NUM_GPUS": "4",
            "SM_HPS": '{"name": "given", "train": {"a": 1.0}}',
        }
    )
    assert layout == Layout(
        hyperparameters={"name": "given", "train": {"a": 1.0}},
        data=Path("/data"),
        model=Path("/model"),
        output=Path("/output"),
        checkpoints=base / "checkpoints",
        failure=base / "output" / "failure",
        gpus=4,
    )


@pytest.mark.parametrize(("driver", "gpus"), [("echo GPU 0: A10G; echo GPU 1: A10G", 2), ("exit 9", 0)])
def test_gpus_are_counted_by_the_driver(
    driver: str, gpus: int, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{driver}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("SM_NUM_GPUS")
    assert Layout.from_environment(os.environ).gpus == gpus


def test_no_gpu_is_found_without_a_driver(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("SM_NUM_GPUS")
    assert Layout.from_environment(os.environ).gpus == 0


def test_files_go_where_sagemaker_collects_them(base: Path, stub: Any) -> None:
    stub(
        """
        (given.out / "events").mkdir()
        for name in ("swin_unet.safetensors", "config.json", "metrics.csv", "events/1.tfevents"):
            (given.out / name).write_text(name)
        (given.out / "swin_unet.safetensors.partial").touch()
        """
    )
    assert main([]) == 0
    model = sorted(path.name for path in (base / "model").iterdir())
    assert model == ["config.json", "swin_unet.safetensors"]
    output = base / "output" / "data"
    assert {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()} == {
        *("arguments.txt", "config.yaml", "events/1.tfevents", "metrics.csv")
    }
    assert (output / "events" / "1.tfevents").read_text() == "events/1.tfevents"


def test_a_failed_training_keeps_its_reason_exit_code_and_files(base: Path, stub: Any) -> None:
    stub(
        """
        print("epoch 1/1", file=sys.stderr)
        print("cannot train: no images in pairs:images:masks", file=sys.stderr)
        sys.exit(3)
        """
    )
    assert main(["train"]) == 3
    first, *rest = failure_of(base).splitlines()
    assert first == "training ended with exit code 3: cannot train: no images in pairs:images:masks"
    assert rest[0] == "epoch 1/1"
    assert (base / "output" / "data" / "config.yaml").exists()


def test_a_killed_training_is_a_failure(base: Path, stub: Any) -> None:
    stub("os.kill(os.getpid(), signal.SIGKILL)")
    assert main([]) == 137
    assert failure_of(base).startswith("training ended with exit code 137: it wrote no error")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "FileNotFoundError"),
        ("{", "JSONDecodeError"),
        pytest.param("{}", "exit code 1", marks=pytest.mark.slow),
    ],
)
def test_hyperparameters_that_cannot_be_read_are_the_reason(
    text: str | None, said: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = base / "input" / "config" / "hyperparameters.json"
    path.unlink() if text is None else path.write_text(text)
    assert main([]) == 1
    assert said in failure_of(base)


def test_only_training_is_offered(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve"])
    assert ended.value.code == 2
    assert "invalid choice: 'serve'" in capsys.readouterr().err


# The stub stands before the real training in the child's path only.
ENTRY = f"""
import sys
sys.path.insert(0, {str(ROOT / "layers" / "cytomask")!r})
from cytomask.training.sagemaker_entry import main
sys.exit(main())
"""
WAIT_FOR_SIGNAL = """
noted = []
signal.signal(signal.SIGTERM, lambda number, _: noted.append(number))
Path(given.out / f"ready{os.environ.get('RANK', '')}").touch()
while not noted:
    time.sleep(0.05)
(given.checkpoints / f"last{os.environ.get('RANK', '')}.pt").touch()
sys.exit(128 + noted[0])
"""


@pytest.mark.parametrize("gpus", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_spot_interruption_reaches_training_which_ends_in_order(gpus: int, base: Path, stub: Any) -> None:
    stub(WAIT_FOR_SIGNAL)
    ranks = [str(rank) for rank in range(gpus)] or [""]
    out = base / "checkpoints" / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", ENTRY], env=os.environ | {"SM_NUM_GPUS": str(gpus)}, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 120
    while not all((out / f"ready{rank}").exists() for rank in ranks):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert all((base / "checkpoints" / f"last{rank}.pt").exists() for rank in ranks)
    assert not (base / "output" / "failure").exists()


@pytest.mark.slow
def test_several_gpus_train_under_torchrun(base: Path, stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SM_NUM_GPUS", "2")
    assert main(["train"]) == 0
    out = base / "checkpoints" / "run"
    for rank in ("0", "1"):
        assert (out / f"arguments{rank}.txt").read_text().endswith("--resume\n--device\ncuda")


def test_the_reason_under_torchrun_is_trainings_own(
    base: Path, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub("raise ValueError('experiment two-steps: no such network')")
    monkeypatch.setenv("SM_NUM_GPUS", "2")
    assert main(["train"]) == 1
    sentence = failure_of(base).splitlines()[0]
    assert sentence == "training ended with exit code 1: ValueError: experiment two-steps: no such network"


def test_the_reason_is_the_last_line_that_says_something() -> None:
    assert reason("warning\nValueError: no\n\n") == "ValueError: no"
    assert reason("") == "it wrote no error"


def test_a_commands_messages_are_shown_and_kept(capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys; print('out'); [print(n, file=sys.stderr) for n in range(300)]"
    ended = run([sys.executable, "-c", code])
    assert (ended.code, ended.stopped_by) == (0, None)
    assert ended.errors.splitlines() == [str(number) for number in range(100, 300)]
    shown = capfd.readouterr()
    assert shown.out == "out\n"
    assert len(shown.err.splitlines()) == 300


@pytest.mark.slow
def test_two_real_steps_leave_weights_and_metrics_and_can_be_gone_on_from(
    base: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    training = base / "input" / "data" / "training"
    for folder in ("images", "masks"):
        (training / folder).mkdir(parents=True)
    for seed in range(2):
        field = phase_contrast_field(seed, 256, 256)
        Image.fromarray(field.pixels).save(training / "images" / f"{seed}.png")
        Image.fromarray(field.cells).save(training / "masks" / f"{seed}.png")

    assert main(["train"]) == 0
    assert "epoch 1/1 step 2 loss " in capfd.readouterr().out
    assert load_checkpoint(base / "model" / "swin_unet.safetensors").config.as_dict()
    assert json.loads((base / "model" / "config.json").read_text())["learning_rate"] == 1e-6
    with (base / "output" / "data" / "metrics.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2"]
    assert (base / "output" / "data" / "curves.png").exists()
    assert (base / "checkpoints" / "last.pt").exists()

    # SageMaker restarts it with only the checkpoints; a finished run is not trained again.
    (base / "model" / "swin_unet.safetensors").unlink()
    assert main(["train"]) == 0
    assert "epoch 1/1" not in capfd.readouterr().out
    assert (base / "model" / "swin_unet.safetensors").exists()
