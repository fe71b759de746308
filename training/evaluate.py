"""Scores exported weights: `python -m training.evaluate --data DIR` prints JSON, by source and mode.

It runs the predictor that serves, so that the number is the product's.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cytomask import images, metrics
from model.predictor import WEIGHTS, Mode, Predictor
from training.dataset import read_index

MODES: tuple[Mode, ...] = ("native", "resize")


def evaluate(predictor: Predictor, folder: Path, sources: Sequence[str]) -> dict[str, Any]:
    """Mean IoU per source and mode, at full resolution and the default threshold, with every image's.

    Args:
        predictor: the weights to score.
        folder: holds index.csv.
        sources: `source/split` each, as in a training configuration.
    """
    scores: dict[str, Any] = {}
    for source in sources:
        rows = read_index(folder, [source])
        per_image: dict[str, dict[str, float]] = {}
        for row in rows:
            page = images.read_page(row.image).pixels
            cells = images.read_page(row.mask).pixels > 0
            per_image[row.image.name] = {
                mode: round(metrics.score(predictor.predict(page, mode).mask, cells).iou, 4) for mode in MODES
            }
        means = {mode: sum(score[mode] for score in per_image.values()) / len(rows) for mode in MODES}
        scores[source] = {
            "images": len(rows),
            "mean_iou": {mode: round(mean, 4) for mode, mean in means.items()},
            "iou": per_image,
        }
    return scores


def main() -> None:
    """Command line of the evaluation."""
    parser = argparse.ArgumentParser(description="Score exported weights.")
    parser.add_argument("sources", nargs="+", help="rows of index.csv as source/split")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds index.csv")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="default: those that ship")
    arguments = parser.parse_args()
    scores = evaluate(Predictor(arguments.weights), arguments.data, arguments.sources)
    print(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()
