"""Measure the figures that have goals: the serving path and the reference take turns."""

import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.graph import count_flops, node_counts
from benchmarks.machine import REFERENCE, SERVING, installed_mb
from benchmarks.timing import Spread, Worker, in_turns, ratios, whole_process, worker
from benchmarks.worker import NETWORKS, TILES
from cytomask.model.predictor import WEIGHTS, Mode, read_manifest

COLD_ROUNDS, WARM_ROUNDS, WARM_IMAGES = 7, 9, 3
THROUGHPUT_ROUNDS, THROUGHPUT_IMAGES = 4, 25  # 100 images in total
PRODUCT_FLOP = 2 * 2048**3
REFERENCE_IOU = 0.788  # as published; its weights are not available


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    Attributes:
        reference, ours: the measurements, in `unit`.
        ratio: ratio of the two, which the goal limits.
        goal: the goal in words; empty if the figure has none.
        met: whether the goal is met; None without a goal or a measurement.
    """

    name: str
    unit: str
    reference: Spread | None
    ours: Spread | None
    ratio: Spread | None
    goal: str = ""
    met: bool | None = None


def cold_starts(image: Path, threads: int) -> list[Figure]:
    """Time whole processes, from start to the written mask."""
    with tempfile.TemporaryDirectory(prefix="cytomask-") as name:
        out = Path(name)
        segment = [sys.executable, "-m", "cytomask.cli.main", "segment", str(image), "--out", str(out)]
        commands = {
            "reference": [sys.executable, "-m", "benchmarks.reference", str(image), str(out / "mask.png")],
            "resize": [*segment, "--mode", "resize"],
            "native": [*segment, "--mode", "native"],
        }
        runs = {way: partial(whole_process, command, threads) for way, command in commands.items()}
        in_turns(runs, 1)  # fills the page cache and the bytecode cache
        spent = in_turns(runs, COLD_ROUNDS)
    return [
        _faster(f"process start to first mask, `{mode}`", "ms", spent["reference"], spent[mode], 6)
        for mode in ("resize", "native")
    ]


def warm(image: Path, threads: int) -> list[Figure]:
    """Measure time, throughput and memory of warm processes."""
    ways = ("reference", "resize", "native", "resize_side_by_side")
    with ExitStack() as running:
        workers = {way: running.enter_context(worker(way, image, threads)) for way in ways}
        single = {way: workers[way] for way in ways[:3]}
        spent = in_turns(
            {way: partial(_median_ms, one, WARM_IMAGES) for way, one in single.items()}, WARM_ROUNDS
        )
        together = {way: workers[way] for way in ways if way != "native"}
        rates = in_turns(
            {way: partial(_images_per_second, one, THROUGHPUT_IMAGES) for way, one in together.items()},
            THROUGHPUT_ROUNDS,
        )
        peaks = {way: one.run(1)["peak_mb"] for way, one in single.items()}
    times = ratios(spent["native"], spent["reference"])
    memory = Spread.of([peaks["native"] / peaks["reference"]])
    return [
        _faster("warm, `resize`, file to PNG bytes", "ms", spent["reference"], spent["resize"], 3),
        Figure(
            "warm, `native`, file to PNG bytes",
            "ms",
            Spread.of(spent["reference"]),
            Spread.of(spent["native"]),
            times,
            "at most 4 times the reference's",
            times.median <= 4,
        ),
        Figure(
            "peak resident memory, `native`",
            "MB",
            Spread.of([peaks["reference"]]),
            Spread.of([peaks["native"]]),
            memory,
            "at most 0.5 of the reference's",
            memory.median <= 0.5,
        ),
        _throughput("one after another", rates["reference"], rates["resize"]),
        _throughput(f"{threads} side by side", rates["reference"], rates["resize_side_by_side"]),
    ]


def _median_ms(one: Worker, count: int) -> float:
    one.run(1)  # refills the caches that other workers emptied
    return float(median(one.run(count)["ms"]))


def _images_per_second(one: Worker, count: int) -> float:
    return count / float(one.run(count)["seconds"])


def _faster(name: str, unit: str, reference: list[float], ours: list[float], goal: float) -> Figure:
    ratio = ratios(reference, ours)
    return Figure(
        name,
        unit,
        Spread.of(reference),
        Spread.of(ours),
        ratio,
        f"at least {goal:g} times faster",
        ratio.median >= goal,
    )


def _throughput(how: str, reference: list[float], ours: list[float]) -> Figure:
    ratio = ratios(ours, reference)
    name = f"throughput over 100 images, `resize`, {how}"
    return Figure(
        name,
        "images/s",
        Spread.of(reference),
        Spread.of(ours),
        ratio,
        "at least 3 times",
        ratio.median >= 3,
    )


def environment_size() -> Figure:
    """Compare the size of the serving environment with that of a torch server."""
    reference, ours = installed_mb(REFERENCE), installed_mb(SERVING)
    ratio = ours / reference
    return Figure(
        "installed serving environment",
        "MB",
        Spread.of([reference]),
        Spread.of([ours]),
        Spread.of([ratio]),
        "at most 0.35 of the reference's",
        ratio <= 0.35,
    )


def accuracies() -> list[Figure]:
    """Measure mean IoU over test images, which justifies `native`; the reference's is published."""
    return [_accuracy("native", "at least 0.05 above the reference's", 0.05), _accuracy("resize", "", None)]


def _accuracy(mode: Mode, goal: str, least: float | None) -> Figure:
    scores = read_manifest(WEIGHTS / mode, mode).scores.get("livecell/test")
    if scores is None:
        return Figure(f"mean IoU, `{mode}`: the manifest has no livecell/test", "", None, None, None, goal)
    ours = float(scores["mean_iou"][mode])
    return Figure(
        f"mean IoU, `{mode}`: {scores['images']} of LIVECell's test images, the reference's over all 1,512",
        "",
        Spread.of([REFERENCE_IOU]),
        Spread.of([ours]),
        None,
        goal,
        None if least is None else ours - REFERENCE_IOU >= least,
    )


def against_the_limit(image: Path, threads: int) -> list[Figure]:
    """Compare a page's tiles with a large matrix product of as many operations."""
    ways = ("product", "tiles_native", "tiles_resize")
    with ExitStack() as running:
        workers = {way: running.enter_context(worker(way, image, threads)) for way in ways}
        spent = in_turns({way: partial(_median_ms, one, 10) for way, one in workers.items()}, WARM_ROUNDS)
    figures = []
    for (mode, network), way in zip(NETWORKS.items(), ways[1:], strict=True):
        flop = TILES[mode] * count_flops(network)
        limit = [ms * flop / PRODUCT_FLOP for ms in spent["product"]]
        figures.append(
            Figure(
                f"network for `{mode}`, all tiles of a page, against the limit",
                "ms",
                Spread.of(limit),
                Spread.of(spent[way]),
                ratios(limit, spent[way]),
            )
        )
    return figures


def graphs() -> dict[str, dict[str, Any]]:
    """Count nodes and operations of the served networks, by mode."""
    described: dict[str, dict[str, Any]] = {}
    for mode, network in NETWORKS.items():
        nodes = node_counts(network)
        described[mode] = {
            "nodes": sum(nodes.values()),
            "by_kind": dict(nodes.most_common()),
            "flop": count_flops(network),
        }
    return described
