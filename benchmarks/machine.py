"""Describe the machine and measure the size of installed packages."""

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from cytomask.model.predictor import WEIGHTS, read_manifests

ROOT = Path(__file__).parents[1]
GPU_ONLY = ("nvidia-", "cuda-", "triton")
PACKAGES = ("imagecodecs", "numpy", "onnxruntime", "pillow", "tifffile", "torch")
SERVING = (
    "aws-lambda-powertools",
    "boto3",
    "imagecodecs",
    "msgspec",
    "numpy",
    "onnxruntime",
    "pillow",
    "tifffile",
)
# The packages that a torch server needs instead of onnxruntime and the codecs.
REFERENCE = ("aws-lambda-powertools", "boto3", "numpy", "pillow", "safetensors", "torch")


def describe(threads: int) -> dict[str, Any]:
    """Describe the machine, its software versions and its load."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
        **{
            f"network, {mode}": f"{each.name}, {each.sha256}"
            for mode, each in read_manifests(WEIGHTS).items()
        },
        "commit": _commit(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    known: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        known[name.strip()] = value.strip()
    return (
        f"{known.get('model name', 'unknown')}, family {known.get('cpu family')} model {known.get('model')}"
    )


def _commit() -> str:
    shown = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    return shown.stdout.strip() or "unknown"


def installed_mb(roots: Iterable[str]) -> float:
    """Add up the files of packages and their dependencies, as pip recorded them, in MB (10^6 bytes).

    CUDA's libraries, which PyPI's torch includes, do not count: a server without a GPU does not need them.
    """
    names = (name for name in closure(roots) if not name.startswith(GPU_ONLY))
    return sum(_size(name) for name in names) / 1e6


def closure(roots: Iterable[str]) -> set[str]:
    """List packages and their dependencies by canonical name."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # torch requires setuptools, which newer environments lack
        found.add(name)
        wanted = [Requirement(need) for need in needs]
        waiting += [need.name for need in wanted if not need.marker or need.marker.evaluate({"extra": ""})]
    return found


def _size(name: str) -> int:
    paths = [Path(str(file.locate())) for file in metadata.files(name) or []]
    return sum(path.stat().st_size for path in paths if path.is_file())
