"""Break down a cold start by module, with Python's `-X importtime`."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import median

from benchmarks.timing import environment
from cytomask.infra.template import load_template, made_up_environment

LINE = re.compile(r"import time:\s+(?P<own>\d+) \|\s+\d+ \| +(?P<module>\S+)$")
LAMBDAS = {  # Lambda sets these; importing the function's module creates its clients
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "3008",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
LARGEST = 12


def import_times(module: str, threads: int, runs: int) -> dict[str, float]:
    """Measure a module's import by package: median milliseconds, largest first; `all` is the sum.

    A package's share is the time of its own modules, without the modules that they import from others.
    """
    by_run = [_import_once(module, threads) for _ in range(runs)]
    packages = {name for spent in by_run for name in spent}
    shares = {name: median(spent.get(name, 0.0) for spent in by_run) for name in packages}
    largest = sorted(shares, key=lambda name: -shares[name])[:LARGEST]
    shown = {name: round(shares[name], 1) for name in largest}
    total = median(sum(spent.values()) for spent in by_run)
    others = median(sum(spent.values()) - sum(spent.get(name, 0.0) for name in largest) for spent in by_run)
    return {"all": round(total, 1), **shown, "others": round(others, 1)}


def _import_once(module: str, threads: int) -> dict[str, float]:
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    told = environment(threads) | _function_environment()
    output = subprocess.run(command, env=told, check=True, capture_output=True, text=True).stderr
    spent: Counter[str] = Counter()
    for line in output.splitlines():
        found = LINE.match(line)
        if found:
            name = found["module"].partition(".")[0]
            kind = "Python's own" if name in sys.stdlib_module_names or name.startswith("_") else name
            spent[kind] += int(found["own"]) / 1000  # type: ignore[assignment]  # a Counter also adds floats
    return dict(spent)


def modules_after(module: str) -> list[str]:
    """List the modules loaded in a process after it has imported this one."""
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    told = environment(1) | _function_environment()
    output = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        env=told,
        check=True,
        capture_output=True,
    ).stdout
    loaded: list[str] = json.loads(output)
    return loaded


def _function_environment() -> dict[str, str]:
    return made_up_environment(load_template()) | LAMBDAS
