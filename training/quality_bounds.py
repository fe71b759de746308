"""Find the bounds of the quality flags on public pages, their degradations and other modalities.

`python -m cytomask.training.quality_bounds --data DIR --reference SOURCE… --score SOURCE…` writes
model/quality_bounds.py and prints the tables of docs/quality.md, one for each mode.

The reference pages show what is usual. Each bound then lets through the share `SPARED` of the pages whose
mask is good: flags must be rare to be read. Both modes share the bounds, found in `native` mode, except that
for doubt.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from cytomask import metrics
from cytomask.model import preprocess, quality
from cytomask.model.predictor import (
    MODES,
    WEIGHTS,
    Infer,
    Mode,
    load_network,
    logit,
    logits_of_page,
    read_manifest,
)
from cytomask.model.quality import Measures
from cytomask.model.quality_bounds import BOUNDS, Bounds
from cytomask.samples.degradations import DEGRADATIONS, MODALITIES, SEVERE
from cytomask.training.sources import Sample, read_source, read_unlabelled
from cytomask.training.yardsticks import table

GOOD, BAD = 0.85, 0.7  # IoU: from the first on a page should carry no flag, below the second one
SPARED = 0.985  # share of the good pages that each bound alone lets through
SHRINK = 0.1  # the covariance by this share towards its diagonal: there are few reference pages
LEFT_OUT = ("double size",)  # has four times the pixels, and shows nothing new
# A page is measured before its flags are known; these are right in any case.
EMPTY, SATURATED = 0.001, 0.02

# Measures with a bound, and whether it is the largest or the least value that passes.
BOUNDED: dict[str, bool] = {
    "sharpness": False,
    "levels": False,
    "unevenness": True,
    "unusualness": True,
    "doubt": True,
}


@dataclass(frozen=True)
class Checked:
    """A page, plain or degraded, with what was measured and the IoU of its mask with the ground truth."""

    source: str
    change: str
    iou: float
    measures: Measures
    description: NDArray[np.float64]


def usual(descriptions: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Learn what is usual from (pages, len(DESCRIPTION)) float64.

    Returns:
        The centre, and the matrix after which the pages' deviations are 1 in every direction.
    """
    covariance = np.cov(descriptions.T)
    covariance = (1 - SHRINK) * covariance + SHRINK * np.diag(np.diag(covariance))
    return descriptions.mean(axis=0), np.linalg.inv(np.linalg.cholesky(covariance))


def check_sample(
    sample: Sample, source: str, infer: Infer, mode: Mode, cut: float, seed: int
) -> list[Checked]:
    """Measure and score a page, plain and after every change."""
    page, cells = sample.read()
    checked = []
    changes = {name: change for name, change in DEGRADATIONS.items() if name not in LEFT_OUT}
    for name, change in {"plain": None, **changes, **SEVERE, **MODALITIES}.items():
        degraded = change(page, np.random.default_rng(seed)) if change else None
        shown = degraded.page if degraded else page
        normalised = preprocess.normalise(shown)
        logits = logits_of_page(normalised, mode, infer)
        mask, seen = logits >= cut, np.ones(cells.shape, np.bool_)
        if degraded:
            mask, seen = degraded.back(mask), degraded.seen
        iou = metrics.score(mask & seen, cells & seen).iou
        measured = quality.measure(quality.look_at(shown, normalised), logits, squashed=mode == "resize")
        checked.append(Checked(source, name, iou, measured, quality.describe(normalised)))
    return checked


def with_usual(checked: Sequence[Checked], bounds: Bounds) -> list[Checked]:
    """Measure the unusualness again, by these bounds' centre and whitening."""
    renewed = []
    for each in checked:
        away = bounds.whitening @ (each.description - bounds.centre)
        measured = msgspec.structs.replace(each.measures, unusualness=float(np.sqrt(away @ away / away.size)))
        renewed.append(Checked(each.source, each.change, each.iou, measured, each.description))
    return renewed


def bounds_of(checked: Sequence[Checked], bounds: Bounds) -> Bounds:
    """Set each bound so that it lets through `SPARED` of the pages whose mask is good.

    Args:
        checked: pages in both modes. Only `squashed_doubt` is found in `resize` mode.
        bounds: with the centre and the whitening that the pages were measured by.

    Raises:
        ValueError: a mode has no page with a good mask.
    """
    good = [each.measures for each in checked if each.iou >= GOOD]
    native, squashed = ([each for each in good if each.squashed is mode] for mode in (False, True))
    for mode, pages in (("native", native), ("resize", squashed)):
        if not pages:
            raise ValueError(
                f"no page has an IoU of {GOOD} or more in `{mode}` mode; --score pages like its "
                "weights' training pages"
            )
    found: dict[str, Any] = {
        name: _sparing([getattr(measures, name) for measures in native], largest=largest)
        for name, largest in BOUNDED.items()
    }
    found["squashed_doubt"] = _sparing([each.doubt for each in squashed], largest=True)
    return bounds._replace(empty=EMPTY, saturated=SATURATED, **found)


def _sparing(values: Sequence[float], *, largest: bool) -> float:
    """Return the largest or the least value that passes, so that `SPARED` of the finite values do."""
    ordered = np.sort(values)
    ordered = ordered[np.isfinite(ordered)]
    spared = math.ceil(SPARED * ordered.size) - 1
    return float(ordered[spared] if largest else ordered[-1 - spared])


def flag_table(checked: Sequence[Checked], bounds: Bounds) -> str:
    """Write how many of the bad and of the good pages carry a flag, by source and by change, in Markdown."""
    rows = []
    for title, groups in (("source", _grouped(checked, "source")), ("change", _grouped(checked, "change"))):
        for name, pages in groups.items():
            rows.append([title, name, *_flagged(pages, bounds)])
    rows.append(["all", "", *_flagged(checked, bounds)])
    titles = ["by", "", "pages", f"IoU under {BAD}: flagged", f"IoU from {GOOD}: flagged", "flags"]
    return table(titles, rows)


def _grouped(checked: Sequence[Checked], by: str) -> Mapping[str, list[Checked]]:
    groups: dict[str, list[Checked]] = {}
    for each in checked:
        groups.setdefault(getattr(each, by), []).append(each)
    return groups


def _flagged(pages: Sequence[Checked], bounds: Bounds) -> list[str]:
    flags = {id(page): quality.flags_of(page.measures, bounds) for page in pages}
    bad = [page for page in pages if page.iou < BAD]
    good = [page for page in pages if page.iou >= GOOD]
    shares = [f"{sum(bool(flags[id(page)]) for page in group)} of {len(group)}" for group in (bad, good)]
    names = sorted({flag.name for found in flags.values() for flag in found})
    return [str(len(pages)), *shares, ", ".join(names) or "–"]


def write_module(bounds: Bounds, path: Path) -> None:
    """Write the bounds as the module that serving imports."""
    before, _, _ = path.read_text().partition("BOUNDS = ")
    numbers = {name: value for name, value in bounds._asdict().items() if isinstance(value, int | float)}
    lines = [
        "BOUNDS = Bounds(",
        f"    centre=np.array({_written(bounds.centre)}),",
        "    whitening=np.array(",
        "        [",
        *(f"            {_written(row)}," for row in bounds.whitening),
        "        ]",
        "    ),",
        *(f"    {name}={value:.4g}," for name, value in numbers.items()),
        ")",
    ]
    path.write_text(before + "\n".join(lines) + "\n")


def _written(row: NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{value:.3f}" for value in row) + "]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description="Find the bounds of the quality flags.")
    parser.add_argument("--data", type=Path, required=True, help="folder that the sources lie in")
    parser.add_argument("--reference", nargs="+", required=True, help="sources whose pages are usual")
    parser.add_argument("--unlabelled", nargs="*", default=[], help="folders of more usual pages")
    parser.add_argument("--score", nargs="+", required=True, help="sources whose ground truth is complete")
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--out", type=Path, default=Path(quality.__file__).with_name("quality_bounds.py"))
    given = parser.parse_args(arguments)
    try:
        pages = [sample.read()[0] for source in given.reference for sample in read_source(given.data, source)]
        usual_pages = [preprocess.normalise(page) for page in pages]
        usual_pages += [
            item.pixels for folder in given.unlabelled for item in read_unlabelled(given.data / folder)
        ]
        centre, whitening = usual(np.stack([quality.describe(page) for page in usual_pages]))
        bounds = BOUNDS._replace(centre=centre, whitening=whitening)
        samples = [(source, sample) for source in given.score for sample in read_source(given.data, source)]
        checked = []
        for mode in MODES:
            manifest = read_manifest(given.weights / mode, mode)
            infer, cut = load_network(given.weights / mode, manifest, threads=1), logit(manifest.threshold)
            for seed, (source, sample) in enumerate(tqdm(samples, mode, unit="page", disable=None)):
                checked += check_sample(sample, source, infer, mode, cut, seed)
    except (OSError, ValueError) as error:
        print(f"cannot find bounds: {error}", file=sys.stderr)
        return 1
    checked = with_usual(checked, bounds)
    bounds = bounds_of(checked, bounds)
    write_module(bounds, given.out)
    print(f"{len(usual_pages)} usual pages")
    for mode in MODES:
        own = [each for each in checked if each.measures.squashed is (mode == "resize")]
        print(f"\n`{mode}`:\n\n{flag_table(own, bounds)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
