"""Run processes in turns, and compute medians with their spread."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

ROOT = Path(__file__).parents[1]
SETTLE_SECONDS = 0.3  # OpenMP threads spin for 0.2 s after their last work


@dataclass(frozen=True)
class Spread:
    """The median and quartiles of `count` measurements."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise at least one value."""
        low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
        return cls(median(values), low, high, len(values))


@dataclass(frozen=True)
class Worker:
    """A running `benchmarks.worker`.

    Attributes:
        started: `import_ms`, `load_ms` and `first_ms` in milliseconds, and `peak_mb` after the first image.
    """

    process: "subprocess.Popen[str]"
    started: Mapping[str, float]

    def run(self, count: int) -> dict[str, Any]:
        """Run `count` images; return `ms` of each, `seconds` for all, and `peak_mb` so far."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return _answer(self.process)


@contextmanager
def worker(way: str, image: Path, threads: int, python: str = sys.executable) -> Iterator[Worker]:
    """Run one way in its own process with this many threads while the context lasts."""
    process = subprocess.Popen(
        [python, "-m", "benchmarks.worker", way, str(image), str(threads)],
        cwd=ROOT,
        env=environment(threads),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Worker(process, _answer(process))
    finally:
        process.communicate()


def _answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{' '.join(map(str, process.args))} ended with {process.wait()}")  # type: ignore[arg-type]
    answer: dict[str, Any] = json.loads(line)
    return answer


def environment(threads: int) -> dict[str, str]:
    """Copy this process's environment with the thread count set for every library."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    path = os.pathsep.join([str(ROOT), str(ROOT / "layers" / "cytomask")])
    return os.environ | dict.fromkeys(names, str(threads)) | {"PYTHONPATH": path}


def in_turns(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run every way once a round, so that other load affects all of them equally."""
    measured: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            time.sleep(SETTLE_SECONDS)
            measured[name].append(run())
    return measured


def whole_process(command: Sequence[str], threads: int) -> float:
    """Return the milliseconds from a process's start to its end; raise if it fails."""
    started = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment(threads), check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000


def ratios(reference: Sequence[float], ours: Sequence[float]) -> Spread:
    """Compute how many times faster than the reference, round by round."""
    return Spread.of([theirs / mine for theirs, mine in zip(reference, ours, strict=True)])
