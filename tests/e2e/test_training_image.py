"""The training image, built with torch for CPUs and run like SageMaker: `train`, with /opt/ml."""

import csv
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from account import BRIDGE
from PIL import Image
from tools import PATIENCE_SECONDS, ROOT, run

from cytomask.model.export import load_checkpoint
from cytomask.samples.fields import phase_contrast_field
from cytomask.training.sagemaker_job import METRICS, build, encode

PYTHON = "3.11"
BASE = f"local/lambda-python:{PYTHON}"
IMAGE = "local/cytomask-training"
EXPERIMENT = {
    "name": "two-steps",
    "train": {"pairs:images:masks": 1.0},
    "hold_out": ["1"],
    "epochs": 1,
    "steps_per_epoch": 2,
    "batch_size": 2,
    "warmup_steps": 1,
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Download the CPU wheel of the torch version in constraints.txt."""
    [version] = re.findall(r"^torch==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    folder = tmp_path_factory.mktemp("wheels")
    platform = ("--python-version", PYTHON, "--platform", "manylinux_2_28_x86_64")
    tries = ("--retries", "0", "--timeout", "20")
    got = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pip",
                "download",
                "--no-deps",
                "--only-binary",
                ":all:",
                *platform,
                *tries,
            ),
            *("--dest", str(folder), f"torch=={version}+cpu"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if got.returncode:
        pytest.skip(
            f"the training image is NOT TESTED: torch {version}+cpu cannot be had: {got.stderr[-300:]}"
        )
    return folder


@pytest.fixture(scope="module")
def image(wheels: Path) -> Iterator[str]:
    """Build the training image on the substitute base; serve the wheel to its build."""
    [emulator] = ROOT.glob(".venv-sam/lib/python3*/site-packages/samcli/local/rapid/aws-lambda-rie-x86_64")
    run("tests/e2e/make_base_image.sh", BASE, emulator, BASE_PYTHON=PYTHON)
    handler = partial(SimpleHTTPRequestHandler, directory=str(wheels))
    with ThreadingHTTPServer((BRIDGE, 0), handler) as server, pytest.MonkeyPatch.context() as patch:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        patch.setenv("DOCKER_BUILDKIT", "0")
        place = f"TORCH_WHEELS=http://{BRIDGE}:{server.server_port}/"
        build(IMAGE, [f"BASE={BASE}", place, f"PIP_TRUSTED_HOST={BRIDGE}"])
        server.shutdown()
    yield IMAGE
    run("docker", "image", "rm", "--force", IMAGE)  # with torch, the one that is large


@pytest.fixture
def opt_ml(tmp_path: Path) -> Path:
    """Make the folders that SageMaker mounts, with two fields and masks in the channel `training`."""
    training = tmp_path / "input" / "data" / "training"
    for folder in ("images", "masks"):
        (training / folder).mkdir(parents=True)
    for seed in range(2):
        field = phase_contrast_field(seed, 256, 256)
        Image.fromarray(field.pixels).save(training / "images" / f"{seed}.png")
        Image.fromarray(field.cells).save(training / "masks" / f"{seed}.png")
    (tmp_path / "input" / "config").mkdir()
    return tmp_path


def started(opt_ml: Path, **changes: Any) -> str:
    """Start a container with the experiment's hyperparameters; return its id."""
    hyperparameters = {name: encode(value) for name, value in (EXPERIMENT | changes).items()}
    (opt_ml / "input" / "config" / "hyperparameters.json").write_text(json.dumps(hyperparameters))
    limits = ("--network=none", "--env=OMP_NUM_THREADS=1", f"--volume={opt_ml}:/opt/ml")
    return run("docker", "run", "--detach", *limits, IMAGE, "train").stdout.strip()


def ended(container: str) -> tuple[int, str]:
    """Wait for a container to end and remove it; return its exit code and log."""
    code = int(run("docker", "wait", container).stdout)
    log = log_of(container)
    run("docker", "rm", "--volumes", container)
    return code, log


def log_of(container: str) -> str:
    logs = run("docker", "logs", container)
    return logs.stdout + logs.stderr


def stopped_after(container: str, epoch: int) -> tuple[int, str]:
    """Stop a container as SageMaker does, after the end of an epoch."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while f"epoch {epoch}/" not in (log := log_of(container)):
        running = run("docker", "inspect", "--format", "{{.State.Running}}", container).stdout.strip()
        assert running == "true" and time.monotonic() < deadline, log
        time.sleep(0.5)
    run("docker", "stop", "--time=120", container)
    return ended(container)


@pytest.mark.usefixtures("image")
def test_two_steps_leave_weights_and_metrics_where_sagemaker_collects_them(opt_ml: Path) -> None:
    code, log = ended(started(opt_ml))
    assert (code, (opt_ml / "output" / "failure").exists()) == (0, False), log
    assert load_checkpoint(opt_ml / "model" / "swin_unet.safetensors").config.as_dict()
    assert json.loads((opt_ml / "model" / "config.json").read_text())["name"] == "two-steps"
    with (opt_ml / "output" / "data" / "metrics.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert row["step"] == "2"
    assert (opt_ml / "output" / "data" / "curves.png").stat().st_size > 1000
    assert (opt_ml / "checkpoints" / "last.pt").exists()
    [line] = [line for line in log.splitlines() if line.startswith("epoch 1/1 ")]
    assert [name for name in METRICS if f"{name} " not in line] == []


@pytest.mark.usefixtures("image")
def test_a_stopped_container_goes_on_from_its_checkpoint_in_the_next(opt_ml: Path) -> None:
    code, _ = stopped_after(started(opt_ml, epochs=1000), epoch=1)
    assert (code, (opt_ml / "output" / "failure").exists()) == (143, False)
    _, log = stopped_after(started(opt_ml, epochs=1000), epoch=3)
    assert "epoch 1/1000" not in log


@pytest.mark.usefixtures("image")
def test_a_refusal_of_training_becomes_the_failure_reason(opt_ml: Path) -> None:
    code, _ = ended(started(opt_ml, train={"pairs:images:nothing": 1.0}))
    failure = (opt_ml / "output" / "failure").read_text()
    assert code == 1
    assert failure.startswith("training ended with exit code 1: cannot train: ")
    assert "nothing" in failure


@pytest.mark.usefixtures("image")
def test_the_training_image_holds_no_tests_functions_or_command_line() -> None:
    code = "from pathlib import Path; print(*sorted(p.name for p in Path('.').iterdir()))"
    listed = run("docker", "run", "--rm", "--entrypoint=python3", IMAGE, "-c", code).stdout.split()
    assert listed == ["constraints.txt", "cytomask", "pyproject.toml", "requirements.txt"]
    code = "from pathlib import Path; print(*(p.name for p in Path('cytomask').iterdir() if p.is_dir()))"
    rooms = run("docker", "run", "--rm", "--entrypoint=python3", IMAGE, "-c", code).stdout.split()
    assert {"model", "training"} <= set(rooms)
    assert not {"cli", "functions", "infra", "web"} & set(rooms)
