"""Score exported weights.

`python -m cytomask.training.evaluate SOURCE… --data DIR [--weights DIR] [--out DIR]`

It runs the same predictor as serving, at the size of the page and without test-time averaging, so the
scores are the product's. Pixels are counted first and divided last. `yardsticks` measures what the IoU does
not show.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from cytomask import metrics
from cytomask.images import AGREED, FALSE_NEGATIVE, FALSE_POSITIVE, display_range
from cytomask.model import preprocess
from cytomask.model.predictor import (
    MODES,
    WEIGHTS,
    Manifest,
    Mode,
    Predictor,
    WeightsError,
    logit,
    served_modes,
)
from cytomask.training.sources import Sample, TruthFault, leave_out, read_source
from cytomask.training.yardsticks import Yardsticks, measure, table, yardstick_tables

THRESHOLDS = tuple(twentieths / 20 for twentieths in range(4, 17))  # 0.2 to 0.8
DIGITS = 4

GAP, GAP_GREY = 8, 128  # between the pictures of a panel, in pixels


@dataclass(frozen=True)
class Counts:
    """How far masks and ground truths agree: counts of pixels, and of pixels of their outlines.

    Attributes:
        pixels, boundary: counts within the area whose ground truth is known.
        area: of that part, in pixels.
    """

    pixels: metrics.Score
    boundary: metrics.BoundaryScore
    area: int

    def __add__(self, other: "Counts") -> "Counts":
        """Add the counts of both, as if they were one larger image."""
        return Counts(self.pixels + other.pixels, self.boundary + other.boundary, self.area + other.area)

    @property
    def confluence_error(self) -> float:
        """Return reported minus true confluence, -1..1."""
        return (self.pixels.false_positive - self.pixels.false_negative) / max(self.area, 1)


RATIOS: dict[str, Callable[[Counts], float]] = {
    "iou": lambda counts: counts.pixels.iou,
    "dice": lambda counts: counts.pixels.dice,
    "precision": lambda counts: counts.pixels.precision,
    "recall": lambda counts: counts.pixels.recall,
    "boundary_f1": lambda counts: counts.boundary.f1,
}


@dataclass(frozen=True)
class Scored:
    """One image's masks compared with its ground truth.

    Attributes:
        name: the file's name, or its path below the data if another file of the source has the same name.
        counts: by mode, at the model's threshold.
        sweep: by mode, the IoU at each of `THRESHOLDS`.
    """

    name: str
    sample: Sample
    counts: Mapping[Mode, Counts]
    sweep: Mapping[Mode, Sequence[float]]


def score_source(predictor: Predictor, folder: Path, source: str) -> list[Scored]:
    """Score every image of a source in every mode that is served.

    Images whose ground truth is at fault are left out, and named in the log.

    Raises:
        ValueError, FileNotFoundError: as `read_source`, `Sample.read` and `leave_out` do.
    """
    samples = read_source(folder, source)
    files = Counter(sample.image.name for sample in samples)
    scored, faults = [], []
    for sample in tqdm(samples, source, unit="image", disable=None):
        unique = files[sample.image.name] == 1
        name = sample.image.name if unique else sample.image.relative_to(folder).as_posix()
        try:
            scored.append(_score(predictor, sample, name))
        except TruthFault as fault:
            faults.append(fault)
    leave_out(faults, len(samples))
    return scored


def _score(predictor: Predictor, sample: Sample, name: str) -> Scored:
    """Score one image, with one inference a mode for all thresholds."""
    page, cells = sample.read()
    known = np.ones(cells.shape, np.bool_)
    if sample.rule:
        known = sample.rule(preprocess.normalise(page), cells)
        cells = cells & known
    counts: dict[Mode, Counts] = {}
    sweep: dict[Mode, list[float]] = {}
    for mode in predictor.manifests:
        prediction = predictor.predict(page, mode)
        mask, logits = prediction.mask & known, prediction.logits
        counts[mode] = Counts(
            metrics.score(mask, cells), metrics.score_boundary(mask, cells), int(np.count_nonzero(known))
        )
        sweep[mode] = [metrics.score((logits >= logit(cut)) & known, cells).iou for cut in THRESHOLDS]
    return Scored(name, sample, counts, sweep)


def mean_iou(scored: Sequence[Scored], mode: Mode = "native") -> float:
    """Return the mean IoU over images, 0..1, to the digits that are reported."""
    return round(fmean(image.counts[mode].pixels.iou for image in scored), DIGITS)


def summarise(scored: Sequence[Scored]) -> dict[str, Any]:
    """Summarise the scores of one source, as the manifest and scores.json carry them.

    Returns:
        `images`, their number; `mean_X` over images and `pooled_X` over all pixels together, each by mode,
        for every X of `RATIOS`; `confluence_bias` and `confluence_error`, by mode the mean and the mean
        absolute error of the confluence; `iou` by image and mode; `groups`, the same measures by cell line;
        `sweep`, by mode the mean IoU at each threshold and the best threshold.
    """
    lines: dict[str, list[Scored]] = {}
    for image in sorted(scored, key=lambda image: image.sample.group):
        lines.setdefault(image.sample.group or "unnamed", []).append(image)
    modes = scored[0].counts
    ious = {
        image.name: {mode: round(image.counts[mode].pixels.iou, DIGITS) for mode in modes} for image in scored
    }
    return _measures(scored) | {
        "iou": ious,
        "groups": {line: _measures(images) for line, images in lines.items()},
        "sweep": {mode: _sweep([image.sweep[mode] for image in scored]) for mode in modes},
    }


def _measures(scored: Sequence[Scored]) -> dict[str, Any]:
    counts = {mode: [image.counts[mode] for image in scored] for mode in scored[0].counts}
    pooled = {mode: sum(rest, first) for mode, (first, *rest) in counts.items()}
    measures: dict[str, Any] = {"images": len(scored)}
    for name, ratio in RATIOS.items():
        measures[f"mean_{name}"] = {mode: round(fmean(map(ratio, counts[mode])), DIGITS) for mode in counts}
        measures[f"pooled_{name}"] = {mode: round(ratio(pooled[mode]), DIGITS) for mode in counts}
    errors = {mode: [each.confluence_error for each in counts[mode]] for mode in counts}
    measures["confluence_bias"] = {mode: round(fmean(each), DIGITS) for mode, each in errors.items()}
    measures["confluence_error"] = {
        mode: round(fmean(map(abs, each)), DIGITS) for mode, each in errors.items()
    }
    return measures


def _sweep(ious: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the mean IoU by threshold of (images, thresholds) IoUs; a tie goes to the one nearest 0.5."""
    means = dict(zip(THRESHOLDS, map(fmean, zip(*ious, strict=True)), strict=True))
    return {
        "best": max(means, key=lambda threshold: (means[threshold], -abs(threshold - 0.5))),
        "mean_iou": {f"{threshold:.2f}": round(mean, DIGITS) for threshold, mean in means.items()},
    }


def report(
    manifests: Mapping[Mode, Manifest],
    scores: Mapping[str, Any],
    measured: Mapping[Mode, Yardsticks] | None = None,
) -> str:
    """Write the scores of some sources, as `summarise` gives them, and the yardsticks in Markdown."""
    titles = ["set", "mode", *(f"{threshold:.2f}" for threshold in THRESHOLDS), "best"]
    rows = []
    for source, score in scores.items():
        for mode in manifests:
            sweep = score["sweep"][mode]
            means = [f"{mean:.3f}" for mean in sweep["mean_iou"].values()]
            rows.append([source, mode, *means, f"{sweep['best']:.2f}"])
    by_threshold = f"## Mean IoU by threshold\n\n{table(titles, rows)}"
    beside = f"\n## Yardsticks\n\n{yardstick_tables(measured)}\n" if measured else ""
    return f"# Scores\n\n{score_table(manifests, scores)}\n\n{by_threshold}\n{beside}"


def score_table(manifests: Mapping[Mode, Manifest], scores: Mapping[str, Any]) -> str:
    """Write the scores at the networks' thresholds: by set, mode, and cell line if there are several."""
    titles = ["set", "cell line", "images", "mode", "IoU", "Dice", "precision", "recall", "boundary F1"]
    titles.append("confluence: bias / error")
    rows = []
    for source, score in scores.items():
        lines = score["groups"] if len(score["groups"]) > 1 else {}
        for line, measures in [("all", score), *lines.items()]:
            for mode in manifests:
                ratios = [
                    f"{measures[f'mean_{name}'][mode]:.3f} / {measures[f'pooled_{name}'][mode]:.3f}"
                    for name in RATIOS
                ]
                # Releases before 0.7 did not measure the confluence.
                errors = [measures.get(f"confluence_{name}", {}).get(mode) for name in ("bias", "error")]
                confluence = "–" if None in errors else f"{errors[0]:+.3f} / {errors[1]:.3f}"
                rows.append([source, line, str(measures["images"]), mode, *ratios, confluence])
    networks = "; ".join(
        f"`{mode}` by {manifest.name} (sha256 {manifest.sha256[:12]}…) at threshold {manifest.threshold:g}"
        for mode, manifest in manifests.items()
    )
    return (
        f"{networks}. Masks are compared at the size of the page, without test-time averaging: mean over "
        f"images / all pixels together. Outlines agree within {metrics.BOUNDARY_TOLERANCE} pixels.\n\n"
        f"{table(titles, rows)}"
    )


def write_report(
    predictor: Predictor,
    scored: Mapping[str, Sequence[Scored]],
    measured: Mapping[Mode, Yardsticks],
    panels: int,
    out: Path,
) -> None:
    """Write scores.json, scores.md and the `panels` worst images, worst-1.png and so on, into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    scores = {source: summarise(images) for source, images in scored.items()}
    yardsticks = msgspec.to_builtins(measured)
    (out / "scores.json").write_text(json.dumps(scores | {"yardsticks": yardsticks}, indent=1) + "\n")
    images = [image for images in scored.values() for image in images]
    mode = next(iter(predictor.manifests))
    worst = sorted(images, key=lambda image: image.counts[mode].pixels.iou)[:panels]
    text = [
        report(predictor.manifests, scores, measured),
        f"## Worst images, `{mode}`\n",
        "Image, ground truth, mask, and where these two disagree: grey is cell in both, orange in the mask",
        "only (false positive), blue in the ground truth only (false negative).\n",
    ]
    for place, image in enumerate(worst, start=1):
        page, cells = image.sample.read()
        drawn = panel(page, cells, predictor.predict(page, mode).mask)
        Image.fromarray(drawn).save(out / f"worst-{place}.png")
        iou = image.counts[mode].pixels.iou
        text.append(f"`{image.name}`, IoU {iou:.3f}:\n\n![worst {place}](worst-{place}.png)\n")
    (out / "scores.md").write_text("\n".join(text))


def panel(page: NDArray[np.generic], cells: metrics.Mask, mask: metrics.Mask) -> NDArray[np.uint8]:
    """Draw image, ground truth, mask and disagreement beside each other.

    Args:
        page: (H, W), any real dtype; its 0.5 and 99.5 percentiles become black and white.
        cells: (H, W) bool, the ground truth.
        mask: (H, W) bool.

    Returns:
        (H, 4 W + 3 GAP, 3) uint8.
    """
    height, width = page.shape
    low, high = display_range(page)
    gain = 255 / (high - low) if high > low else 0.0
    grey = np.clip((page.astype(np.float64) - low) * gain, 0, 255)
    compared = np.zeros((height, width, 3), np.uint8)
    compared[mask & cells] = AGREED
    compared[mask & ~cells] = FALSE_POSITIVE
    compared[~mask & cells] = FALSE_NEGATIVE
    drawn = np.full((height, 4 * width + 3 * GAP, 3), GAP_GREY, np.uint8)
    pictures = (grey[..., None], cells[..., None] * 255, mask[..., None] * 255, compared)
    for place, picture in enumerate(pictures):
        left = place * (width + GAP)
        drawn[:, left : left + width] = picture
    return drawn


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of the evaluation."""
    parser = argparse.ArgumentParser(description="Score exported weights.")
    parser.add_argument(
        "sources", nargs="+", help="as in a training configuration, such as livecell_like/val"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that the sources lie in")
    parser.add_argument(
        "--weights",
        type=Path,
        default=WEIGHTS,
        help="a folder with one folder for each mode; default: the shipped weights",
    )
    parser.add_argument(
        "--out", type=Path, help="folder for scores.json, scores.md and panels; without it, print"
    )
    parser.add_argument(
        "--panels", type=int, default=5, help="how many of the worst images to draw into --out"
    )
    parser.add_argument(
        "--degrade",
        action="append",
        metavar="SOURCE",
        help="a source whose pages are degraded for the table of robustness, repeatable; default: the first",
    )
    parser.add_argument("--quick", action="store_true", help="scores only: no empty or degraded pages")
    parsed = parser.parse_args(arguments)
    if parsed.quick and parsed.degrade:
        parser.error("--quick leaves out the table that --degrade is for; give one of them")
    neurons = [source for source in parsed.sources if source.startswith("somata:")]
    outlined = [source for source in parsed.sources if source not in neurons]
    degraded = parsed.degrade or parsed.sources[:1]
    try:
        for source in {*parsed.sources, *degraded}:
            read_source(parsed.data, source)  # fails now, not after the other sources were scored
        predictor = Predictor(parsed.weights, modes=served_modes(parsed.weights) or MODES)
        scored = {source: score_source(predictor, parsed.data, source) for source in parsed.sources}
        measured: dict[Mode, Yardsticks] = {}
        if not parsed.quick:
            measured = {
                mode: measure(predictor, mode, parsed.data, neurons, degraded, outlined)
                for mode in predictor.manifests
            }
        if parsed.out:
            write_report(predictor, scored, measured, max(parsed.panels, 0), parsed.out)
        else:
            scores = {source: summarise(images) for source, images in scored.items()}
            print(report(predictor.manifests, scores, measured), end="")
    except (OSError, ValueError, WeightsError) as error:
        sys.exit(f"evaluate: {error}")


if __name__ == "__main__":
    main()
