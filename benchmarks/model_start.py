"""`python -m benchmarks.model_start`: time cold starts with the container's weights and with the stack's own.

Each start is a process that imports the segment function's module, as Lambda does, against the emulated S3 on
this computer. The times therefore include loading, checks and copies, but not the network between S3 and
Lambda.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.timing import environment
from cytomask.infra.emulator import emulated_stack
from cytomask.infra.session import function_environment
from cytomask.model.predictor import WEIGHTS, cores
from cytomask.model_store import BAKED_IN, ModelStore

PROGRAM = """
import time
began = time.perf_counter()
import cytomask.functions.segment.app as app
took, used = (time.perf_counter() - began) * 1000, time.process_time() * 1000
print(took, used, app.segmenter._networks.present("native").manifests["native"].sha256)
"""
STARTS = 9
OTHER = bytes([0x32, 4]) + b"copy"  # ONNX's doc_string: the same network under another sha256


def main() -> None:
    """Measure both in turns and print the medians and their ratio."""
    parser = argparse.ArgumentParser(
        description="Compare cold starts with and without a model of the stack's own."
    )
    parser.add_argument("--starts", type=int, default=STARTS, metavar="N", help=f"of each; default: {STARTS}")
    starts = parser.parse_args().starts
    with (
        tempfile.TemporaryDirectory(prefix="cytomask-") as folder,
        emulated_stack(Path(folder) / "stack") as stack,
    ):
        store = ModelStore(stack.client("s3"), stack.outputs["ModelsBucketName"])
        sha256 = store.add(copy_model(Path(folder) / "model")).sha256
        told = function_environment(stack.client("lambda"), stack.endpoint, "cytomask-segment")
        spent: dict[str, list[Start]] = {"container": [], "from S3": [], "from /tmp": []}
        cache = Path(folder) / "tmp"
        cache.mkdir()
        for number in range(starts):
            fresh = Path(folder) / f"tmp-{number}"
            fresh.mkdir()
            spent["container"].append(start(told, BAKED_IN, fresh))
            spent["from S3"].append(start(told, sha256, fresh))
            if number == 0:
                start(told, sha256, cache)
            spent["from /tmp"].append(start(told, sha256, cache))
    for name, each in spent.items():
        wall, cpu = (median(getattr(one, kind) for one in each) for kind in ("milliseconds", "cpu"))
        first = [median(getattr(one, kind) for one in spent["container"]) for kind in ("milliseconds", "cpu")]
        print(
            f"{name:10} {wall:6.0f} ms, {wall / first[0]:.2f} times the container's; "
            f"CPU {cpu:6.0f} ms, {cpu / first[1]:.2f} times"
        )


@dataclass(frozen=True)
class Start:
    """A start's wall time and CPU time; other processes on the machine hardly change the latter."""

    milliseconds: float
    cpu: float


def start(told: Mapping[str, str], model: str, temporary: Path) -> Start:
    """Start the function once; raise ValueError if it serves another model."""
    variables = dict(environment(cores())) | dict(told) | {"MODEL": model, "TMPDIR": str(temporary)}
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=variables,
        cwd=Path(__file__).parents[1],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    spent, used, serving = output.splitlines()[-1].split()
    if model not in (BAKED_IN, serving):
        raise ValueError(f"{serving} serves, not {model}: {output}")
    return Start(float(spent), float(used))


def copy_model(folder: Path) -> Path:
    """Write the shipped network under another sha256."""
    shipped = WEIGHTS / "native"
    manifest = json.loads((shipped / "manifest.json").read_text())
    content = (shipped / manifest["file"]).read_bytes() + OTHER
    folder.mkdir()
    (folder / manifest["file"]).write_bytes(content)
    manifest["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


if __name__ == "__main__":
    main()
