"""Run every command of docs/local-testing.md and check what it prints."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import PATIENCE_SECONDS, ROOT

PAGE = ROOT / "docs" / "local-testing.md"
BLOCK = re.compile(
    r"```sh(?P<running> leave-running)?\n(?P<commands>.*?)```(?:\n\n```text\n(?P<printed>.*?)```)?", re.DOTALL
)


@dataclass(frozen=True)
class Step:
    """Commands of the page, and the output that it promises."""

    commands: str
    printed: str
    running: bool


def read_steps(text: str) -> list[Step]:
    return [
        Step(match["commands"], match["printed"] or "", bool(match["running"]))
        for match in BLOCK.finditer(text)
    ]


def missing_lines(promised: str, printed: str) -> list[str]:
    """List promised lines that were not printed; `…` matches anything."""
    patterns = {line: ".*".join(map(re.escape, line.split("…"))) for line in promised.splitlines()}
    return [line for line, pattern in patterns.items() if not re.search(pattern, printed)]


def script(setting: Step, step: Step) -> list[str]:
    return ["bash", "-euo", "pipefail", "-c", setting.commands + step.commands]


@contextmanager
def left_running(setting: Step, step: Step, log: Any) -> Iterator[None]:
    """Run commands until the context ends; enter it once they have printed what the page promises."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            script(setting, step), cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while missing_lines(step.printed, log.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(timeout=60)


def test_every_command_of_the_page_prints_what_the_page_says(tmp_path: Path) -> None:
    setting, *steps = read_steps(PAGE.read_text(encoding="utf-8"))
    assert len(steps) == PAGE.read_text(encoding="utf-8").count("```sh") - 1
    with ExitStack() as running:
        for index, step in enumerate(steps):
            if step.running:
                running.enter_context(left_running(setting, step, tmp_path / f"{index}.log"))
                continue
            done = subprocess.run(
                script(setting, step),
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=PATIENCE_SECONDS,
                check=False,
            )
            printed = done.stdout + done.stderr
            assert done.returncode == 0, f"{step.commands}\n{printed}"
            assert missing_lines(step.printed, printed) == [], f"{step.commands}\n{printed}"
