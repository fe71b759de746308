"""Draw ground truths for images that have none.

`python -m cytomask.training.pseudo_label WEIGHTS… --images DIR --out DIR`

Several networks, each shown the page in its eight orientations, agree on a mask that is better than any one
of theirs (noisy student: Xie et al. 2020, arXiv:1911.04252). The folder that they leave is a source to train
on: `pairs:IMAGES:MASKS`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cytomask import images
from cytomask.model.predictor import Infer, Prediction, logits_of_page, open_network
from cytomask.model.preprocess import Pixels
from cytomask.training.sources import read_unlabelled
from cytomask.training.train import load_network, tile_function


def teacher(weights: Path) -> Infer:
    """A network as the predictor sees it: a checkpoint of a run, or an ONNX file of an earlier release.

    Raises:
        ValueError: it is neither.
    """
    if weights.suffix != ".onnx":
        return tile_function(load_network(weights), torch.device("cpu"))
    try:
        return open_network(weights, "native")
    except Exception as error:  # ONNX Runtime's own classes have no public base
        raise ValueError(f"{weights} holds no network: {error}") from error


def agreed_probability(normalised: Pixels, teachers: Sequence[Infer]) -> NDArray[np.float32]:
    """Mean probability of cell over all teachers and the eight symmetries of the square.

    Args:
        normalised: (H, W) float32, as `preprocess.normalise` returns it.
        teachers: map (N, 1, 224, 224) tiles to logits of that shape.

    Returns:
        (H, W) float32 in 0..1.
    """
    views = []
    for turns in range(4):
        for mirrored in (False, True):
            view = np.rot90(normalised[:, ::-1] if mirrored else normalised, turns)
            for infer in teachers:
                logits = logits_of_page(np.ascontiguousarray(view), "native", infer)
                upright = np.rot90(Prediction(logits, logits >= 0, None).probability, -turns)
                views.append(upright[:, ::-1] if mirrored else upright)
    mean: NDArray[np.float32] = np.mean(views, axis=0, dtype=np.float32)
    return mean


def pseudo_label(teachers: Sequence[Path], pictures: Path, out: Path) -> int:
    """Writes a mask, an 8-bit PNG of 0 and 255, for every image of a folder; returns how many.

    Raises:
        ValueError, FileNotFoundError: as `teacher` and `read_unlabelled` do.
    """
    networks = [teacher(weights) for weights in teachers]
    unlabelled = read_unlabelled(pictures)
    out.mkdir(parents=True, exist_ok=True)
    for item in tqdm(unlabelled, unit="image", disable=None):
        mask = agreed_probability(item.pixels, networks) >= 0.5
        (out / f"{item.name}.png").write_bytes(images.encode_mask(mask))
    return len(unlabelled)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the labelling; returns its exit code."""
    parser = argparse.ArgumentParser(description="Make ground truths for images that have none.")
    parser.add_argument("teachers", type=Path, nargs="+", metavar="WEIGHTS", help=".safetensors or .onnx")
    parser.add_argument("--images", type=Path, required=True, help="folder of images without ground truth")
    parser.add_argument("--out", type=Path, required=True, help="folder for the masks")
    given = parser.parse_args(arguments)
    try:
        count = pseudo_label(given.teachers, given.images, given.out)
    except (ValueError, OSError) as error:
        print(f"cannot label: {error}", file=sys.stderr)
        return 1
    print(f"{given.out}: {count} masks")
    return 0


if __name__ == "__main__":
    sys.exit(main())
