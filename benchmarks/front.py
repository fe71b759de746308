"""Plot IoU against milliseconds per megapixel: by mode, by overlap of tiles, for other networks."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot
from numpy.typing import NDArray

from benchmarks.timing import Spread, in_turns
from cytomask import metrics
from cytomask.model import preprocess
from cytomask.model.predictor import (
    WEIGHTS,
    Infer,
    load_network,
    logit,
    logits_of_page,
    open_network,
    read_manifests,
)
from cytomask.training.sources import read_source

SOURCES = ("usiigaci/val", "deepcell/val")  # used neither for training nor for testing
OVERLAPS = (0, 28, 56, 84, 112)
ROUNDS = 3
TICKS = (10, 30, 100, 300, 1000)  # milliseconds
MEGA = 1e6

Segment = Callable[[NDArray[Any]], metrics.Mask]


def measure(data: Path, networks: Sequence[Path], threads: int) -> list[dict[str, Any]]:
    """Measure each image's IoU by source, and milliseconds per megapixel from page to mask, in every way.

    `networks` are ONNX files to compare with the served ones, with the same normalisation and threshold 0.5.
    """
    samples = {source: [sample.read() for sample in read_source(data, source)] for source in SOURCES}
    pages = [page for pairs in samples.values() for page, _ in pairs]
    ways = _ways(networks, threads)
    spent = in_turns({name: partial(_ms_per_megapixel, way, pages) for name, way in ways.items()}, ROUNDS)
    return [
        {
            "way": name,
            "ms_per_megapixel": Spread.of(spent[name]),
            "iou": {
                source: [metrics.score(way(page), cells).iou for page, cells in pairs]
                for source, pairs in samples.items()
            },
        }
        for name, way in ways.items()
    ]


def _ways(networks: Sequence[Path], threads: int) -> dict[str, Segment]:
    manifests = read_manifests(WEIGHTS)
    cuts = {mode: logit(manifest.threshold) for mode, manifest in manifests.items()}
    serving = {mode: load_network(WEIGHTS / mode, manifest, threads) for mode, manifest in manifests.items()}

    def overlapping(infer: Infer, cut: float, overlap: int, page: NDArray[Any]) -> metrics.Mask:
        return logits_of_page(preprocess.normalise(page), "native", infer, overlap) >= cut

    def squashed(infer: Infer, cut: float, page: NDArray[Any]) -> metrics.Mask:
        return logits_of_page(preprocess.normalise(page), "resize", infer) >= cut

    native = partial(overlapping, serving["native"], cuts["native"])
    ways: dict[str, Segment] = {
        "resize": partial(squashed, serving["resize"], cuts["resize"]),
        **{f"native, overlap {overlap}": partial(native, overlap) for overlap in OVERLAPS},
    }
    for path in networks:
        ways |= {
            f"{path.stem}, resize": partial(squashed, open_network(path, "resize", threads), 0.0),
            f"{path.stem}, native": partial(
                overlapping, open_network(path, "native", threads), 0.0, preprocess.OVERLAP
            ),
        }
    return ways


def _ms_per_megapixel(segment: Segment, pages: Sequence[NDArray[Any]]) -> float:
    started = time.perf_counter()
    for page in pages:
        segment(page)
    return (time.perf_counter() - started) * 1000 / (sum(page.size for page in pages) / MEGA)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw one panel for each source."""
    mpl.use("Agg")
    sources = list(rows[0]["iou"])
    figure, panels = pyplot.subplots(1, len(sources), figsize=(5 * len(sources), 4), layout="constrained")
    for panel, source in zip(panels, sources, strict=True):
        for row in rows:
            panel.plot(row["ms_per_megapixel"].median, fmean(row["iou"][source]), "o", label=row["way"])
        panel.set_xscale("log")
        panel.set_xticks(TICKS, map("{:,}".format, TICKS))
        panel.minorticks_off()
        panel.set(title=source, xlabel="ms per megapixel", ylabel="mean IoU")
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
