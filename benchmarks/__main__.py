"""`python -m benchmarks`: measure everything, print the table, write results.json, .md and front.png."""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import cold, figures, machine, runtimes
from benchmarks.front import measure, plot
from benchmarks.page import write_page
from benchmarks.report import figure_table, markdown, plain
from benchmarks.timing import worker
from cytomask.model.predictor import cores

IMPORT_RUNS, STARTS = 5, 3


def main() -> None:
    """Run the benchmarks from the command line."""
    parser = argparse.ArgumentParser(description="Measure the serving path against the reference path.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    parser.add_argument("--data", type=Path, help="folder of the labelled images, for the IoU")
    parser.add_argument(
        "--networks",
        type=Path,
        nargs="*",
        default=(),
        metavar="ONNX",
        help="folders of other networks, to compare their IoU and time with ours",
    )
    parser.add_argument(
        "--openvino", type=Path, metavar="PYTHON", help="a Python that has openvino and numpy"
    )
    parsed = parser.parse_args()

    threads = cores()  # like the `cytomask` command
    began = time.monotonic()

    def say(step: str) -> None:
        print(f"{time.monotonic() - began:4.0f} s  {step}", file=sys.stderr, flush=True)

    about = machine.describe(threads)
    with tempfile.TemporaryDirectory(prefix="cytomask-") as folder:
        image = write_page(Path(folder) / "page.tif")
        say("cold starts")
        cold_starts = figures.cold_starts(image, threads)
        dissected = dissect(image, threads)
        say("warm processes")
        warm = figures.warm(image, threads)
        limits = figures.against_the_limit(image, threads)
        say("IoU against time" if parsed.data else "no IoU: --data was not given")
        front = measure(parsed.data, parsed.networks, threads) if parsed.data else None
        say("runtimes")
        compared = runtimes.compare(runtimes.known(parsed.openvino), image, (1, 2))
        say("one thread and two")
        native_ms = [native(image, threads) for threads in (1, 2)]
    results: dict[str, Any] = {
        "machine": about,
        "figures": [*cold_starts, *warm, *figures.accuracies(), figures.environment_size(), *limits],
        "graphs": figures.graphs(),
        "cold": dissected,
        "runtimes": compared,
        "lambda": runtimes.lambda_sizes(*native_ms),
        "front": front,
    }
    parsed.out.mkdir(parents=True, exist_ok=True)
    (parsed.out / "results.json").write_text(json.dumps(results, indent=1, default=plain) + "\n")
    (parsed.out / "results.md").write_text(markdown(results))
    if front:
        plot(front, parsed.out / "front.png")
    print(figure_table(results["figures"]))
    say(f"written to {parsed.out}")


def dissect(image: Path, threads: int) -> dict[str, dict[str, float]]:
    """Measure a cold start: median milliseconds of its steps, and of its imports by package."""
    steps: dict[str, dict[str, float]] = {}
    for way in ("reference", "resize", "native"):
        starts = []
        for _ in range(STARTS):
            with worker(way, image, threads) as started:
                starts.append(started.started)
        steps[f"steps, {way}"] = {
            step: round(median(start[f"{step}_ms"] for start in starts), 1)
            for step in ("import", "load", "first")
        }
    for module in ("benchmarks.reference", "cytomask.cli.segmentation", "cytomask.functions.segment.app"):
        steps[f"imports of {module}"] = cold.import_times(module, threads, IMPORT_RUNS)
    return steps


def native(image: Path, threads: int) -> float:
    """Return the warm milliseconds of an image in `native` mode."""
    with worker("native", image, threads) as started:
        return float(median(started.run(9)["ms"]))


if __name__ == "__main__":
    main()
