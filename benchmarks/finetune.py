"""Measure how much fine-tuning on a few pairs gains on their source and loses elsewhere.

`python -m benchmarks.finetune --data DIR --out FILE` draws pairs of a public source by seed, fine-tunes on
them with the code of `cytomask finetune`, and scores the weights on the source's validation pages and on
LIVECell's test pages. Each finished draw is a line of the JSON file, so a stopped run can resume. Several
processes can share the work, each with its own draws and --out; --join then puts their files together.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from benchmarks.machine import describe
from cytomask.acquisition import read_acquisition
from cytomask.model.predictor import MANIFEST, WEIGHTS, Predictor, cores
from cytomask.training.evaluate import mean_iou, score_source
from cytomask.training.finetune import Request, finetune
from cytomask.training.sources import read_source
from cytomask.training.tuner import Recipe, Step, steps_for
from cytomask.truths.pairs import Page

SOURCES = {"deepcell": (3, 8), "usiigaci": (3, 10)}  # numbers of pairs
DRAWS = (0, 1, 2)
FORGOTTEN = "livecell/test"


def draw(data: Path, source: str, count: int, seed: int) -> list[Page]:
    """Draw pairs of a source's training pages."""
    samples = read_source(data, f"{source}/train")
    chosen = sorted(np.random.default_rng(seed).choice(len(samples), count, replace=False))
    pages = []
    for place in chosen:
        sample = samples[place]
        pixels, cells = sample.read()
        name = sample.image.name
        pages.append(Page(name, name, pixels, cells, read_acquisition(name)))
    return pages


def measure(data: Path, source: str, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Fine-tune on one draw and score the weights; they stay in the folder."""
    pages = draw(data, source, count, seed)
    recipe = Recipe(steps=steps_for(count), seed=seed)
    name = f"{source}-{count}-{seed}"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else describe(cores())["cpu"]
    started, cpu = time.monotonic(), time.process_time()
    request = Request(pages, folder / name, name, WEIGHTS, recipe)
    outcome = finetune(request, report=_say)
    row = {
        "source": source,
        "pairs": count,
        "draw": seed,
        "pages": [page.name for page in pages],
        "held_out": [each.page.name for each in outcome.pages if each.held_out],
        "steps": outcome.tuned.steps,
        "share": outcome.tuned.share,
        "threshold": outcome.tuned.threshold,
        "device": device,
        "minutes": round((time.monotonic() - started) / 60, 1),
        "cpu_minutes": round((time.process_time() - cpu) / 60, 1),
    }
    for what, scored in (("val", f"{source}/val"), ("livecell_test", FORGOTTEN)):
        row[f"{what}_before"] = shipped_iou(data, scored)
        row[f"{what}_after"] = mean_iou(score_source(outcome.after, data, scored))
    return row


@cache
def shipped_iou(data: Path, source: str) -> float:
    """Score the weights that ship on a source."""
    return mean_iou(score_source(Predictor(WEIGHTS, modes=["native"]), data, source))


def _say(step: Step) -> None:
    if step.iou is not None or step.step % 50 == 0:
        print(f"step {step.step} of {step.steps}, loss {step.loss:.3f}, held-out {step.iou}", file=sys.stderr)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Write the table in Markdown: means and ranges over the draws that one kind of device trained."""
    lines = [
        "| pairs | draws | val before | val after: mean (range) | livecell/test before | after | minutes | "
        "CPU min | device |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in sorted({_kind(row) for row in rows}):
        source, count, device = kind
        some = [row for row in rows if _kind(row) == kind]
        after = [row["val_after"] for row in some]
        lines.append(
            f"| {count} of {source} | {len(some)} | {some[0]['val_before']:.3f} | {fmean(after):.3f} "
            f"({min(after):.3f} to {max(after):.3f}) | {some[0]['livecell_test_before']:.3f} | "
            f"{fmean(row['livecell_test_after'] for row in some):.3f} | "
            f"{fmean(row['minutes'] for row in some):.1f} | "
            f"{fmean(row['cpu_minutes'] for row in some):.1f} | {device} |"
        )
    return "\n".join(lines)


def _kind(row: dict[str, Any]) -> tuple[str, int, str]:
    return row["source"], row["pairs"], row.get("device", "a CPU")  # older rows name no device


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the draws that are not done yet, then print the table."""
    parser = argparse.ArgumentParser(description="Measure what fine-tuning on a few pairs gains.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the sources")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the finished draws")
    parser.add_argument("--models", type=Path, default=Path("build/finetune"), help="folder for the weights")
    parser.add_argument("--sources", nargs="+", choices=tuple(SOURCES), default=list(SOURCES))
    parser.add_argument("--draws", nargs="+", type=int, default=list(DRAWS))
    parser.add_argument("--pairs", nargs="+", type=int, help="only these numbers of pairs")
    parser.add_argument(
        "--join",
        nargs="+",
        type=Path,
        default=[],
        help="JSON files of other processes; their draws join --out",
    )
    parsed = parser.parse_args(arguments)
    machine = describe(cores())
    files = [*([parsed.out] if parsed.out.exists() else []), *parsed.join]
    found = [row for file in files for row in json.loads(file.read_text())["draws"]]
    rows = {(row["source"], row["pairs"], row["draw"]): row for row in found}
    if parsed.join:
        _write(parsed.out, machine, rows.values())
    for seed in parsed.draws:
        for source in parsed.sources:
            for count in SOURCES[source]:
                if (source, count, seed) in rows or (parsed.pairs and count not in parsed.pairs):
                    continue
                folder = parsed.models / f"{source}-{count}-{seed}"
                if (folder / MANIFEST).exists():  # an earlier run made these weights but did not score them
                    shutil.rmtree(folder)
                row = rows[source, count, seed] = measure(parsed.data, source, count, seed, parsed.models)
                _write(parsed.out, machine, rows.values())
                print(json.dumps(row), file=sys.stderr)
    print(table([*rows.values()]))


def _write(out: Path, machine: dict[str, Any], rows: Iterable[dict[str, Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"machine": machine, "draws": [*rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
