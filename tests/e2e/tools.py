"""Run sam, docker and the `cytomask` command as users do."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from account import LOOPBACK, free_port
from numpy.typing import NDArray
from PIL import Image

from cytomask.infra import session

ROOT = Path(__file__).parents[2]
SAM = ROOT / ".venv-sam" / "bin" / "sam"
BUILT = ROOT / ".aws-sam" / "build"
BASE_IMAGE = "local/lambda-python:3.13"
IMAGE = "segmentfunction:segment"
# Lambda's image for zips cannot be pulled where the base image cannot; the stand-in serves for both.
STAND_INS = [f"--invoke-image={name}Function={BASE_IMAGE}" for name in ("Api", "Evaluate", "Failures")]
LOCAL_IMAGES = ("--skip-pull-image", *STAND_INS)
PATIENCE_SECONDS = 900
ENVIRONMENT = {
    **os.environ,
    **session.CREDENTIALS,
    "AWS_DEFAULT_REGION": session.REGION,
    "AWS_MAX_ATTEMPTS": "1",  # sam asks AWS who we are; nobody answers
    "DOCKER_BUILDKIT": "0",
    "SAM_CLI_TELEMETRY": "0",
}


def run(*command: str | Path, **settings: str) -> "subprocess.CompletedProcess[str]":
    """Run a command in the repository's root with `settings` in its environment; fail if it fails."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=ENVIRONMENT | settings,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done


@dataclass(frozen=True)
class Invoked:
    """A function's answer and its log."""

    answer: Any
    log: str


def invoke_locally(event: Path, environment_file: Path, function: str = "SegmentFunction") -> Invoked:
    """Run `sam local invoke` with an event file."""
    arguments: list[str | Path] = ["-e", event, "--env-vars", environment_file, *LOCAL_IMAGES]
    done = run(SAM, "local", "invoke", function, *arguments)
    return Invoked(json.loads(done.stdout), done.stderr)


@contextmanager
def left_running(command: str, environment_file: Path, log: Path) -> Iterator[int]:
    """Run `sam local start-lambda` or `start-api` with warm containers; yield its port."""
    port = free_port(LOOPBACK)
    options: list[str | Path] = [
        "--env-vars",
        environment_file,
        *LOCAL_IMAGES,
        "--warm-containers",
        "LAZY",
        "--port",
        str(port),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [SAM, "local", command, *options],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_for_port(port)
        yield port
    finally:
        os.kill(process.pid, signal.SIGINT)  # upon which it removes its containers
        process.wait(timeout=60)


@dataclass(frozen=True)
class Container:
    """A container of the segment function, with Lambda's emulator in front of it."""

    name: str
    port: int

    def invoke(self, event: object) -> Any:
        """Post an event; return the function's answer, or Lambda's error if the function ended."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/2015-03-31/functions/function/invocations",
            data=json.dumps(event).encode(),
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    @property
    def log(self) -> str:
        """Return everything written so far, to both streams."""
        logs = subprocess.run(["docker", "logs", self.name], capture_output=True, text=True, check=True)
        return logs.stdout + logs.stderr


@contextmanager
def container(environment: dict[str, str], *options: str, memory_mb: int = 3008) -> Iterator[Container]:
    """Run the segment function's image as Lambda would, with limited memory and no swap.

    Args:
        environment: of the function.
        options: more of `docker run`.
        memory_mb: of the function.
    """
    given = (
        environment
        | session.CREDENTIALS
        | {
            "AWS_DEFAULT_REGION": session.REGION,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb),
            "AWS_LAMBDA_FUNCTION_TIMEOUT": "120",
        }
    )
    variables = [option for name, value in given.items() for option in ("--env", f"{name}={value}")]
    memory = (f"--memory={memory_mb}m", f"--memory-swap={memory_mb}m")
    name = run(
        "docker", "run", "--detach", "--publish=127.0.0.1::8080", *memory, *variables, *options, IMAGE
    ).stdout
    name = name.strip()
    try:
        port = int(run("docker", "port", name, "8080/tcp").stdout.rpartition(":")[2])
        wait_for_port(port)
        yield Container(name, port)
    finally:
        run("docker", "rm", "--force", "--volumes", name)


def wait_for_port(port: int, seconds: float = 30) -> None:
    """Wait until an HTTP server answers on a port of 127.0.0.1, even with an error."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            assert time.monotonic() < deadline, f"nothing answers on port {port}"
            time.sleep(0.05)


def mask_of_command_line(picture: Path, folder: Path, options: Sequence[str] = ()) -> NDArray[np.uint8]:
    """Segment a file with `cytomask segment`; return the mask, (H, W) uint8, 0 or 255."""
    run(Path(sys.executable).with_name("cytomask"), "segment", picture, "--out", folder, *options)
    return pixels(folder / f"{picture.name}.mask.png")


def pixels(file: Any) -> NDArray[np.uint8]:
    """Read the pixels of a mask's file: (H, W) uint8."""
    with Image.open(file) as image:
        assert image.mode == "L"
        return np.asarray(image)
