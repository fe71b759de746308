"""Report a training run to ClearML from a process of its own; `monitoring.ClearML` starts and feeds it.

ClearML replaces signal handlers, `os.fork` and `os._exit`, ends a process that its server calls aborted, and
waits for that server without a limit. In a process of its own, none of this reaches the run. An alarm ends
this process if a call takes too long; otherwise it ends with the run's last line, or with the run.
"""

import base64
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PROJECT = "cytomask"


def main() -> None:
    """Read lines of JSON: the run, then its reports, then `null`."""
    lines = (json.loads(line) for line in sys.stdin)
    run = next(lines)
    with _at_most(run["seconds"]):
        task = _start(run)
    for report in lines:
        if report is None:
            break
        with _at_most(run["seconds"]):
            _send(task.get_logger(), report)
    # This alarm stays set to the end, because exit handlers wait for servers too.
    signal.setitimer(signal.ITIMER_REAL, run["seconds"])
    task.close()


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """End the process if the context takes longer: SIGALRM interrupts every thread."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)


def _start(run: dict[str, Any]) -> Any:
    """Make a ClearML task that knows the run's command and configuration."""
    sys.argv = run["argv"]  # ClearML reads the script and its repository from here
    from clearml import Task  # noqa: PLC0415  # under the alarm: the import alone reads configuration

    # This is `sdk.development.report_use_subprocess` of clearml.conf; no call or variable turns it off. It
    # forks, and if a thread is starting git at that moment (to list uncommitted changes), both hang.
    Task._report_subprocess_enabled = False  # type: ignore[assignment]  # a value read late
    if not _has_server():
        Task.set_offline(True)
    task: Any = Task.init(
        project_name=PROJECT,
        task_name=run["name"],
        reuse_last_task_id=False,
        auto_connect_arg_parser=False,
        auto_connect_frameworks=False,
        auto_resource_monitoring=False,
        auto_connect_streams=False,
    )
    task.connect(run["config"])
    return task


def _has_server() -> bool:
    """Tell whether ClearML's configuration, a file or the environment, names a server."""
    files = [Path.home() / "clearml.conf", Path.home() / "trains.conf"]
    return (
        any(name.startswith("CLEARML_API_") for name in os.environ)
        or "CLEARML_CONFIG_FILE" in os.environ
        or any(file.is_file() for file in files)
    )


def _send(logger: Any, report: dict[str, Any]) -> None:
    for name, value in report.get("scalars", {}).items():
        graph, _, line = name.rpartition("/")
        logger.report_scalar(graph or line, line, value, report["step"])
    if "png" in report:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(report["png"]))))
        logger.report_image(report["image"], report["image"], report["step"], image=pixels)


if __name__ == "__main__":
    main()
