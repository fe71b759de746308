"""Compare runtimes of the network, and compute times and prices for Lambda's memory sizes."""

import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import closure
from benchmarks.timing import Spread, Worker, in_turns, worker
from cytomask.telemetry import estimated_cost_usd

STARTS, ROUNDS, TILES = 3, 3, 10
MB_PER_VCPU = 1769  # AWS: "at 1,769 MB, a function has the equivalent of one vCPU"
SIZES_MB = (1024, 1769, 2048, 3008, 3538)
# aws.amazon.com/sagemaker/pricing, inference on ml.g4dn.xlarge, us-east-1, in November 2026
GPU_ENDPOINT_USD_PER_HOUR = 0.736
SIZE_OF_PACKAGES = """
import sys
from importlib.metadata import files
paths = {file.locate() for name in sys.argv[1:] for file in files(name)}
print(sum(path.stat().st_size for path in paths if path.is_file()))
"""


@dataclass(frozen=True)
class Runtime:
    """A way to run one tile, the Python to run it with, and the packages it needs."""

    name: str
    way: str
    python: str
    packages: Iterable[str]


def known(openvino: Path | None) -> list[Runtime]:
    """List the runtimes to compare; OpenVINO needs a Python that has it installed."""
    runtimes = [
        Runtime("torch eager", "tile_torch", sys.executable, closure(["numpy", "safetensors", "torch"])),
        Runtime("ONNX Runtime", "tile_onnxruntime", sys.executable, closure(["numpy", "onnxruntime"])),
    ]
    if openvino:
        packages = ("numpy", "openvino", "openvino-telemetry")
        runtimes.append(Runtime("OpenVINO", "tile_openvino", str(openvino), packages))
    return runtimes


def compare(runtimes: Sequence[Runtime], image: Path, thread_counts: Sequence[int]) -> list[dict[str, Any]]:
    """Measure import, load, first and warm run (ms), memory and disk (MB), by runtime and threads."""
    return [row for threads in thread_counts for row in _compare(runtimes, image, threads)]


def _compare(runtimes: Sequence[Runtime], image: Path, threads: int) -> list[dict[str, Any]]:
    starts: dict[str, list[Worker]] = {runtime.name: [] for runtime in runtimes}
    warm: dict[str, list[float]] = {runtime.name: [] for runtime in runtimes}
    for _ in range(STARTS):
        with ExitStack() as running:
            for runtime in runtimes:
                started = running.enter_context(worker(runtime.way, image, threads, runtime.python))
                starts[runtime.name].append(started)
            turns = {name: partial(_median_tile, workers[-1]) for name, workers in starts.items()}
            for name, measured in in_turns(turns, ROUNDS).items():
                warm[name] += measured
    rows = []
    for runtime in runtimes:
        told = [started.started for started in starts[runtime.name]]
        rows.append(
            {"runtime": runtime.name, "threads": threads}
            | {
                key: median(each[key] for each in told)
                for key in ("import_ms", "load_ms", "first_ms", "peak_mb")
            }
            | {"warm_ms": Spread.of(warm[runtime.name]), "disk_mb": _disk_mb(runtime)}
        )
    return rows


def _median_tile(started: Worker) -> float:
    return float(median(started.run(TILES)["ms"]))


def _disk_mb(runtime: Runtime) -> float:
    command = [runtime.python, "-c", SIZE_OF_PACKAGES, *runtime.packages]
    return int(subprocess.run(command, check=True, capture_output=True).stdout) / 1e6


def lambda_sizes(one_ms: float, two_ms: float) -> list[dict[str, float]]:
    """Compute time and price at Lambda's sizes from an image's milliseconds with 1 and 2 threads.

    The values follow from a formula, not from measurements on Lambda. Below one vCPU, a thread gets that
    share of the time; between one and two, the rate grows linearly from one thread's to two threads'. A GPU
    endpoint that runs all the time costs as much as `break_even_per_hour` images an hour, however fast it is.
    """
    rows = []
    for size in SIZES_MB:
        cpus = size / MB_PER_VCPU
        rate = min(cpus, 1) / one_ms + max(min(cpus, 2) - 1, 0) * (1 / two_ms - 1 / one_ms)
        each = estimated_cost_usd(1 / rate, size)
        rows.append(
            {
                "memory_mb": size,
                "vcpus": cpus,
                "ms": 1 / rate,
                "usd_per_1000": 1000 * each,
                "break_even_per_hour": GPU_ENDPOINT_USD_PER_HOUR / each,
            }
        )
    return rows
