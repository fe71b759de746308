"""Train in SageMaker's container: `python -m cytomask.training.sagemaker_entry train`.

Hyperparameters and SageMaker's folders become a command line of training.train. Training resumes from the
checkpoints that SageMaker restored, and its outputs go to the folders that SageMaker collects.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGINT)
# SageMaker kills the container 120 s after SIGTERM; torchrun would kill its processes after 30.
SHUTDOWN_SECONDS = 100
REMEMBERED_LINES = 200


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code, 128 + N where signal N ended it.
        errors: the last lines that it wrote to standard error.
        stopped_by: the first signal that was passed on to it.
    """

    code: int
    errors: str
    stopped_by: int | None


@dataclass(frozen=True)
class Layout:
    """Where SageMaker puts its inputs and looks for outputs.

    Attributes:
        hyperparameters: of the job, decoded.
        data: the channel `training`.
        model: becomes model.tar.gz.
        output: becomes output.tar.gz.
        checkpoints: synchronised with S3 while training runs; restored after a spot interruption.
        failure: SageMaker copies its first characters into the job's FailureReason.
        gpus: how many to train on; 0 trains on the CPU.
    """

    hyperparameters: dict[str, Any]
    data: Path
    model: Path
    output: Path
    checkpoints: Path
    failure: Path
    gpus: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Layout":
        """Find SageMaker's folders; the training toolkit's `SM_` variables may name others.

        Raises:
            OSError, ValueError: the hyperparameters cannot be read.
        """
        base = base_folder(environment)
        if "SM_HPS" in environment:
            hyperparameters = json.loads(environment["SM_HPS"])
        else:
            texts = json.loads((base / "input" / "config" / "hyperparameters.json").read_text())
            hyperparameters = {name: decode(text) for name, text in texts.items()}
        return cls(
            hyperparameters,
            data=Path(environment.get("SM_CHANNEL_TRAINING", base / "input" / "data" / "training")),
            model=Path(environment.get("SM_MODEL_DIR", base / "model")),
            output=Path(environment.get("SM_OUTPUT_DATA_DIR", base / "output" / "data")),
            checkpoints=base / "checkpoints",
            failure=failure_file(environment),
            gpus=int(environment["SM_NUM_GPUS"]) if "SM_NUM_GPUS" in environment else count_gpus(),
        )


def base_folder(environment: Mapping[str, str]) -> Path:
    """Return the folder below which SageMaker keeps everything."""
    return Path(environment.get("SAGEMAKER_BASE_DIR", "/opt/ml"))


def failure_file(environment: Mapping[str, str]) -> Path:
    """Return the file that takes the reason of a failure."""
    return base_folder(environment) / "output" / "failure"


def decode(text: str) -> Any:
    """Return a hyperparameter's value: parsed as JSON, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def count_gpus() -> int:
    """Count the GPUs that the NVIDIA driver shows; 0 without a driver."""
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 0
    return len(listed.stdout.splitlines())


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; return training's exit code, or 143 if SageMaker stopped it."""
    parser = argparse.ArgumentParser(description="Train in SageMaker's container.")
    parser.add_argument("task", nargs="?", choices=("train",), help="SageMaker passes it to every container")
    parser.parse_args(arguments)
    try:
        layout = Layout.from_environment(os.environ)
        return train(layout)
    except (OSError, ValueError) as error:
        write_failure(failure_file(os.environ), f"{type(error).__name__}: {error}")
        return 1


def train(layout: Layout) -> int:
    """Run training.train and hand its files over; return its exit code, or 143 if it was stopped."""
    # Beside the checkpoints, so that metrics and curves survive a spot interruption.
    out = layout.checkpoints / "run"
    with tempfile.TemporaryDirectory() as folder:
        config = write_config(layout.hyperparameters, Path(folder))
        ended = run(command(layout, config, out))
    hand_over(out, layout)
    # torchrun ends with 1 whatever its processes returned.
    if ended.stopped_by and ended.code == 1 and layout.gpus > 1:
        return 128 + ended.stopped_by
    if ended.code not in (0, *STOPPED):
        sentence = f"training ended with exit code {ended.code}: {reason(ended.errors)}"
        write_failure(layout.failure, f"{sentence}\n{ended.errors}")
    return ended.code


def write_config(hyperparameters: Mapping[str, Any], folder: Path) -> Path:
    """Write the experiment's YAML into a folder, by its name; return its path."""
    values = dict(hyperparameters)
    path = folder / f"{values.pop('name', 'sagemaker')}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def command(layout: Layout, config: Path, out: Path) -> list[str]:
    """Return the command line of training.train, started by torchrun if there are several GPUs."""
    launcher = (
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={layout.gpus}",
        f"--shutdown-timeout={SHUTDOWN_SECONDS}",
        "--tee=2",  # keeps lines of several processes whole; otherwise they run into each other
        "-m",
    )
    return [
        *(
            sys.executable,
            "-m",
            *(launcher if layout.gpus > 1 else ()),
            "cytomask.training.train",
            str(config),
        ),
        *("--data", str(layout.data), "--out", str(out), "--checkpoints", str(layout.checkpoints)),
        # Fail if the driver is too old for torch: training on the CPU would cost a GPU's price.
        *("--resume", "--device", "cuda" if layout.gpus else "cpu"),
    ]


def run(command: Sequence[str]) -> Ended:
    """Run a command to its end, show its output, and pass SIGTERM and SIGINT on to it."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
    passed_on: list[int] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        passed_on.append(number)
        process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGINT)}
    lines: deque[str] = deque(maxlen=REMEMBERED_LINES)
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            sys.stderr.write(line)
            lines.append(line)
    code = process.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
    return Ended(code if code >= 0 else 128 - code, "".join(lines), next(iter(passed_on), None))


def reason(errors: str) -> str:
    """Return the last line that training wrote to standard error before torchrun's report.

    torchrun prefixes the lines of its first process with `[default0]:`.
    """
    lines = takewhile(lambda line: "torch/distributed/elastic/" not in line, errors.splitlines())
    said = (re.sub(r"^\[default\d+\]:", "", line) for line in reversed(list(lines)))
    return next((line for line in said if line.strip()), "it wrote no error")


def hand_over(out: Path, layout: Layout) -> None:
    """Copy weights and configuration to the model's folder, and every other finished file to the output's."""
    for path in out.rglob("*"):
        if path.is_file() and path.suffix != ".partial":
            belongs_to_model = path.suffix == ".safetensors" or path.name == "config.json"
            target = (layout.model if belongs_to_model else layout.output) / path.relative_to(out)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def write_failure(path: Path, text: str) -> None:
    """Leave the reason in SageMaker's failure file and in the log."""
    print(text.partition("\n")[0], file=sys.stderr)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
