"""Drain a backlog of uploads through the emulated stack: `python -m benchmarks.queue [--images N]`.

It reports images a second, whether later images take longer than earlier ones, and whether the function's
memory grows. It reads /proc, so it needs Linux. The emulator runs on the same cores.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

from benchmarks import machine
from benchmarks.environments import environments
from benchmarks.page import SIDES, write_page
from benchmarks.report import table
from cytomask.infra.emulator import HANDLERS, EmulatedStack, emulated_stack

PARTS = 10
POLL_SECONDS = 0.5
STALLED_SECONDS = 300
MOST_GROWTH = {"ms_per_image": 1.5, "resident_mb": 1.2}

Invocations = list[dict[str, Any]]


def main() -> int:
    """Run the benchmark; return 1 if late images took more time or memory than early ones."""
    parser = argparse.ArgumentParser(description="Drain a backlog of uploads through the emulated stack.")
    parser.add_argument("--images", type=int, default=1000, metavar="N", help="default: 1000")
    parser.add_argument(
        "--sides",
        type=int,
        nargs=2,
        default=SIDES,
        metavar="N",
        help="height and width of a page, default: 520 704; small pages measure the queue alone",
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], metavar="N", help="default: 1 2")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    parsed = parser.parse_args()
    sides = (parsed.sides[0], parsed.sides[1])
    runs = {workers: drain(parsed.images, sides, workers) for workers in parsed.workers}
    results = {
        "machine": machine.describe(os.cpu_count() or 1),
        "sides": sides,
        "runs": [summarise(workers, parsed.images, run) for workers, run in runs.items()],
    }
    text = markdown(results)
    parsed.out.mkdir(parents=True, exist_ok=True)
    (parsed.out / "queue.json").write_text(json.dumps(results, indent=1) + "\n")
    (parsed.out / "queue.md").write_text(text)
    plot(runs, parsed.out / "queue.png")
    print(text)
    grown = [sentence for run in results["runs"] for sentence in growth(run)]
    print("\n".join(grown), file=sys.stderr)
    return 1 if grown else 0


def drain(images: int, sides: tuple[int, int], workers: int) -> Invocations:
    """Upload all images while the queue is closed, then open it; return the invocations in order.

    Raises:
        RuntimeError: no image finished for `STALLED_SECONDS`.
    """
    measured = environments(workers, "benchmarks.queue_function:measured")
    handlers = dict(HANDLERS) | {"SegmentFunction": measured}
    with tempfile.TemporaryDirectory(prefix="cytomask-") as name:
        folder = Path(name)
        page = write_page(folder / "page.tif", sides).read_bytes()
        with emulated_stack(folder / "stack", handlers=handlers) as stack:
            _listen(stack, to_it=False)
            s3 = stack.client("s3")
            for number in range(images):
                s3.put_object(
                    Bucket=stack.outputs["InputBucketName"], Key=f"backlog/{number:06d}.tif", Body=page
                )
            _listen(stack, to_it=True)
            return _wait(stack.log, images)


def _listen(stack: EmulatedStack, *, to_it: bool) -> None:
    """Open or close the segment queue's mapping to its function."""
    lambdas = stack.client("lambda")
    for mapping in lambdas.list_event_source_mappings()["EventSourceMappings"]:
        if mapping["FunctionArn"].endswith(stack.outputs["SegmentFunctionName"]):
            lambdas.update_event_source_mapping(UUID=mapping["UUID"], Enabled=to_it)


def _wait(log: Path, images: int) -> Invocations:
    invocations: Invocations = []
    moved = time.monotonic()
    with log.open() as lines:
        while (done := sum(one["images"] for one in invocations)) < images:
            began = lines.tell()
            line = lines.readline()
            if line.endswith("\n"):
                fields = json.loads(line) if line.startswith("{") else {}
                if fields.get("message") == "invocation_measured" and fields["images"]:
                    invocations.append(fields)
                moved = time.monotonic()
                continue
            lines.seek(began)  # read the incomplete line again later
            if time.monotonic() - moved > STALLED_SECONDS:
                raise RuntimeError(f"only {done} of {images} images finished, none in the last 5 minutes")
            time.sleep(POLL_SECONDS)
    return sorted(invocations, key=lambda one: float(one["ended"]))


def summarise(workers: int, images: int, invocations: Invocations) -> dict[str, Any]:
    """Summarise the rate and, by tenth of the backlog, the time per image and the largest process."""
    seconds = invocations[-1]["ended"] - invocations[0]["started"]
    size = -(-len(invocations) // PARTS)
    parts = [invocations[at : at + size] for at in range(0, len(invocations), size)]
    return {
        "workers": workers,
        "images": images,
        "seconds": round(seconds, 1),
        "images_per_second": round(sum(one["images"] for one in invocations) / seconds, 2),
        "ms_per_image": [round(median(map(ms_per_image, part)), 1) for part in parts],
        "resident_mb": [round(max(one["resident_mb"] for one in part), 1) for part in parts],
    }


def growth(run: dict[str, Any]) -> list[str]:
    """List the figures that grew from the first to the last tenth by more than this machine's noise."""
    return [
        f"{run['workers']} workers: {what} grew from {run[what][0]} to {run[what][-1]}"
        for what, most in MOST_GROWTH.items()
        if run[what][-1] > most * run[what][0]
    ]


def ms_per_image(invocation: dict[str, Any]) -> float:
    """Return the milliseconds of one image of a batch."""
    return float((invocation["ended"] - invocation["started"]) * 1000 / invocation["images"])


def markdown(results: dict[str, Any]) -> str:
    """Format the runs as a table, with their first and last tenth."""
    titles = ["workers", "images", "s", "images/s"]
    titles += ["ms an image, first tenth", "last tenth", "largest process, first tenth, MB", "last tenth, MB"]
    rows = []
    for run in results["runs"]:
        spent, resident = run["ms_per_image"], run["resident_mb"]
        numbers = [run["workers"], run["images"], run["seconds"], run["images_per_second"]]
        rows.append([str(one) for one in (*numbers, spent[0], spent[-1], resident[0], resident[-1])])
    height, width = results["sides"]
    about = "; ".join(f"{name} {value}" for name, value in results["machine"].items())
    return (
        "# A backlog through the emulated stack\n\nMade by `make bench-queue`. `native` mode, pages of "
        f"{width}x{height}; the emulator works on the same cores; of several workers each has its share of "
        "them.\n\n"
        f"Machine: {about}.\n\n{table(titles, rows)}\n\n![over the backlog](queue.png)\n"
    )


def plot(runs: dict[int, Invocations], path: Path) -> None:
    """Plot time per image and resident memory over the backlog."""
    mpl.use("Agg")
    figure, panels = pyplot.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
    time_panel, memory_panel = panels
    for workers, invocations in runs.items():
        done = list(accumulate(one["images"] for one in invocations))
        label = f"{workers} worker{'s' * (workers > 1)}"
        time_panel.plot(done, [ms_per_image(one) for one in invocations], ".", markersize=3, label=label)
        memory_panel.plot(done, [one["resident_mb"] for one in invocations], ".", markersize=3, label=label)
    time_panel.set(ylabel="ms an image", ylim=(0, None))
    memory_panel.set(ylabel="resident, MB", xlabel="images done", ylim=(0, None))
    time_panel.legend()
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
