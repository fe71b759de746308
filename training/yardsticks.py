"""Measures beside the IoU: can a confluence be believed on empty, sparse and degraded pages?

Four measures: phantom confluence on generated empty pages; neurite pages, on which only somata are marked;
the IoU between the masks of a degraded page and of the plain page; and how exact the outlines of the ground
truths are, which bounds every IoU.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import cv2
import msgspec
import numpy as np
from tqdm import tqdm

from cytomask import metrics
from cytomask.model import preprocess
from cytomask.model.predictor import Mode, Predictor
from cytomask.samples.degradations import DEGRADATIONS
from cytomask.samples.empty import empty_page
from cytomask.training.labels import somata
from cytomask.training.sources import read_source

EMPTY_PAGES = range(72)  # eight of each kind; training uses other seeds
SPARSE = 0.05  # a page of neurites: its somata cover at most this share
FOUND = 0.5  # share of a soma's pixels that must be found
REACH = 10  # pixels; a region of a ground truth is looked for this far off
DISPLACED = (1, 2, 3)  # pixels
DIGITS = 4


class Phantom(msgspec.Struct, frozen=True):
    """Reported confluence of pages without a cell, 0..1."""

    pages: int
    mean: float
    worst: float


class Neurites(msgspec.Struct, frozen=True):
    """A neuron culture on which only somata are marked.

    Attributes:
        name: of the image.
        somata: share of the page that they cover, 0..1.
        confluence: as reported.
        false_area: share of the smooth ground and of debris that is reported as cell.
        recall: share of the somata that are reported as cell in at least `FOUND` of their pixels.
    """

    name: str
    somata: float
    confluence: float
    false_area: float
    recall: float


class Robustness(msgspec.Struct, frozen=True):
    """The IoU between the masks of degraded and plain pages of the same scene."""

    pages: int
    mean: float
    worst: float


class Outlines(msgspec.Struct, frozen=True):
    """How exact the outlines of a source's ground truths are.

    Attributes:
        regions: number of connected regions of cells, at least `REACH` pixels off the border.
        displacement: how far a region must be moved to overlap the mask most, in pixels; the median.
        displaced_iou: mean IoU of the ground truths with copies of which each region was moved by `DISPLACED`
            pixels in a random direction. Where outlines lie that far off, a perfect mask scores no more.
    """

    regions: int
    displacement: float
    displaced_iou: list[float]


class Yardsticks(msgspec.Struct, frozen=True):
    """All of them for one mode."""

    phantom: dict[str, Phantom]
    neurites: list[Neurites]
    robustness: dict[str, Robustness]
    outlines: dict[str, Outlines]


def measure(
    predictor: Predictor,
    mode: Mode,
    data: Path,
    neurons: Sequence[str],
    plain: Sequence[str],
    outlined: Sequence[str],
) -> Yardsticks:
    """Measure one network.

    Args:
        predictor: with the network.
        mode: of the network.
        data: folder of the sources.
        neurons: sources of neurite pages.
        plain: sources to degrade, for the robustness.
        outlined: sources whose outlines are checked.
    """
    return Yardsticks(
        phantom_confluence(predictor, mode),
        [page for source in neurons for page in neurite_pages(predictor, mode, data, source)],
        robustness(predictor, mode, data, plain) if plain else {},
        {source: outlines(predictor, mode, data, source) for source in outlined},
    )


def phantom_confluence(
    predictor: Predictor, mode: Mode, seeds: Sequence[int] | None = None
) -> dict[str, Phantom]:
    """Report the confluence of empty pages, `EMPTY_PAGES` if None, by kind and over all."""
    by_kind: dict[str, list[float]] = {}
    for seed in tqdm(
        EMPTY_PAGES if seeds is None else seeds, "empty pages", unit="page", disable=None, leave=False
    ):
        page = empty_page(seed)
        by_kind.setdefault(page.kind, []).append(float(predictor.predict(page.pixels, mode).mask.mean()))
    by_kind["all"] = [value for values in by_kind.values() for value in values]
    return {
        kind: Phantom(len(values), round(fmean(values), DIGITS), round(max(values), DIGITS))
        for kind, values in by_kind.items()
    }


def neurite_pages(predictor: Predictor, mode: Mode, data: Path, source: str) -> list[Neurites]:
    """Measure every page of a source of neuron cultures, sparse or not."""
    pages = []
    for sample in read_source(data, source):
        page, cells = sample.read()
        mask = predictor.predict(page, mode).mask
        ground = somata(preprocess.normalise(page), cells) & ~cells
        pages.append(
            Neurites(
                sample.name,
                round(float(cells.mean()), DIGITS),
                round(float(mask.mean()), DIGITS),
                round(float(mask[ground].mean()) if ground.any() else 0.0, DIGITS),
                round(found_share(mask, cells), DIGITS),
            )
        )
    return pages


def found_share(mask: metrics.Mask, cells: metrics.Mask) -> float:
    """Return the share of marked regions that the mask covers by `FOUND` or more; 1 if none is marked."""
    count, regions = cv2.connectedComponents(cells.astype(np.uint8))
    if count == 1:
        return 1.0
    sizes = np.bincount(regions.ravel(), minlength=count)[1:]
    hits = np.bincount(regions[mask].ravel(), minlength=count)[1:]
    return float(np.mean(hits >= FOUND * sizes))


def robustness(predictor: Predictor, mode: Mode, data: Path, sources: Sequence[str]) -> dict[str, Robustness]:
    """Compare the masks of degraded pages with those of the plain pages, for each degradation."""
    ious: dict[str, list[float]] = {name: [] for name in DEGRADATIONS}
    samples = [sample for source in sources for sample in read_source(data, source)]
    for number, sample in enumerate(tqdm(samples, "degraded pages", unit="page", disable=None, leave=False)):
        page, _ = sample.read()
        plain = predictor.predict(page, mode).mask
        for name, degrade in DEGRADATIONS.items():
            degraded = degrade(page, np.random.default_rng(number))
            mask = degraded.back(predictor.predict(degraded.page, mode).mask)
            ious[name].append(metrics.score(mask & degraded.seen, plain & degraded.seen).iou)
    return {
        name: Robustness(len(values), round(fmean(values), DIGITS), round(min(values), DIGITS))
        for name, values in ious.items()
    }


def outlines(predictor: Predictor, mode: Mode, data: Path, source: str) -> Outlines:
    """Measure how far the outlines of a source's ground truths lie off, and what that costs."""
    rng = np.random.default_rng(0)
    distances: list[float] = []
    ious: list[list[float]] = []
    for sample in read_source(data, source):
        page, cells = sample.read()
        mask = predictor.predict(page, mode).mask
        moved = [np.zeros_like(cells) for _ in DISPLACED]
        count, regions, boxes, _ = cv2.connectedComponentsWithStats(cells.astype(np.uint8))
        for region in range(1, count):
            left, top, width, height = boxes[region, :4]
            box = regions[top : top + height, left : left + width] == region
            around = mask[
                max(top - REACH, 0) : top + height + REACH, max(left - REACH, 0) : left + width + REACH
            ]
            if around.shape == (height + 2 * REACH, width + 2 * REACH):
                distances.append(_displacement(box, around))
            place = np.argwhere(box) + np.array([top, left])  # pixels, 2
            angle = rng.uniform(0, 2 * np.pi)
            for each, pixels in zip(moved, DISPLACED, strict=True):
                to = place + np.rint(pixels * np.array([np.sin(angle), np.cos(angle)])).astype(int)
                rows, columns = to[((to >= 0) & (to < cells.shape)).all(axis=1)].T
                each[rows, columns] = True
        ious.append([metrics.score(each, cells).iou for each in moved])
    return Outlines(
        len(distances),
        round(float(np.median(distances)), 1) if distances else 0.0,
        [round(fmean(each), DIGITS) for each in zip(*ious, strict=True)],
    )


def _displacement(region: metrics.Mask, around: metrics.Mask) -> float:
    """Return how far a region must be moved to overlap the mask around it most: the least, in pixels."""
    overlap = cv2.matchTemplate(around.astype(np.float32), region.astype(np.float32), cv2.TM_CCORR)
    down, right = np.nonzero(overlap > overlap.max() - 0.5)  # whole pixels, counted in float32
    return float(np.hypot(down - REACH, right - REACH).min())


def yardstick_tables(measured: Mapping[Mode, Yardsticks]) -> str:
    """Write all yardsticks as Markdown tables, a column for each mode."""
    modes = list(measured)
    first = measured[modes[0]]
    sections = [
        (
            "Phantom confluence of generated empty pages, mean / worst",
            ["page", "pages", *modes],
            [
                [kind, str(phantom.pages), *(_pair(measured[mode].phantom[kind]) for mode in modes)]
                for kind, phantom in first.phantom.items()
            ],
        ),
        (
            "Neuron cultures: reported confluence, false area on smooth ground, recall of somata",
            ["page", "somata", *modes],
            [
                [page.name, f"{page.somata:.3f}", *(_neurites(measured[mode].neurites[at]) for mode in modes)]
                for at, page in enumerate(first.neurites)
            ],
        ),
        (
            "IoU with the mask of the plain page, mean / worst",
            ["degradation", "pages", *modes],
            [
                [name, str(row.pages), *(_pair(measured[mode].robustness[name]) for mode in modes)]
                for name, row in first.robustness.items()
            ],
        ),
        (
            "Ground truths: how far their regions lie from the best overlap with the mask, median in pixels, "
            "and their IoU with copies of which each region is displaced",
            ["source", "regions", *modes, *(f"IoU, displaced by {pixels}" for pixels in DISPLACED)],
            [
                [
                    source,
                    str(row.regions),
                    *(f"{measured[mode].outlines[source].displacement:.1f}" for mode in modes),
                    *(f"{iou:.3f}" for iou in row.displaced_iou),
                ]
                for source, row in first.outlines.items()
            ],
        ),
    ]
    return "\n\n".join(f"{title}:\n\n{table(titles, rows)}" for title, titles, rows in sections if rows)


def table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Write a table in Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(" | ".join(["", *map(str, line), ""]).strip() for line in lines)


def _pair(row: Phantom | Robustness) -> str:
    return f"{row.mean:.3f} / {row.worst:.3f}"


def _neurites(page: Neurites) -> str:
    return f"{page.confluence:.3f}, {page.false_area:.3f}, {page.recall:.2f}"
