"""Draw ground truths for images that have none.

`python -m cytomask.training.pseudo_label WEIGHTS… --images DIR --out DIR`

Several networks each see the page in eight orientations. What all of them agree on is better than the mask
of any one (noisy student: Xie et al. 2020, arXiv:1911.04252). Pixels that they dispute are unknown. The
folder is a source to train on: `pseudo:IMAGES:LABELS`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from cytomask.model.predictor import Infer, logits_of_page, open_network, probability_of, tile_side
from cytomask.model.preprocess import Pixels
from cytomask.model.swin_unet import STRIDE, SwinUNet, with_window
from cytomask.training.checkpoints import load_network
from cytomask.training.labels import SMOOTH, UNKNOWN_GREY, texture
from cytomask.training.sources import read_unlabelled
from cytomask.training.validation import tile_function

CELL, BACKGROUND, CERTAIN = 0.6, 0.3, 0.03  # probabilities, in every view


def teacher(weights: Path) -> Infer:
    """Load a network as the predictor sees it: a checkpoint of a run, or an ONNX file of a release.

    A checkpoint of a release with smaller tiles gets the windows of today's tiles, and so may teach too.

    Raises:
        ValueError: the file is neither.
    """
    if weights.suffix != ".onnx":
        network = load_network(weights)
        if isinstance(network, SwinUNet):
            network = with_window(network, tile_side("native") // STRIDE)
        return tile_function(network, torch.device("cpu"))
    try:
        return open_network(weights, "native")
    except Exception as error:  # ONNX Runtime's own classes have no public base
        raise ValueError(f"{weights} does not hold a network: {error}") from error


def probability_range(
    normalised: Pixels, teachers: Sequence[Infer]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Find the lowest and the highest probability of cell among all teachers and the eight symmetries.

    Args:
        normalised: (H, W) float32, as `preprocess.normalise` returns it.
        teachers: map (N, 1, side, side) tiles to logits of that shape.

    Returns:
        Two (H, W) float32 in 0..1.
    """
    lowest = np.ones(normalised.shape, np.float32)
    highest = np.zeros(normalised.shape, np.float32)
    for turns in range(4):
        for mirrored in (False, True):
            view = np.rot90(normalised[:, ::-1] if mirrored else normalised, turns)
            for infer in teachers:
                logits = logits_of_page(np.ascontiguousarray(view), "native", infer)
                upright = np.rot90(probability_of(logits), -turns)
                upright = upright[:, ::-1] if mirrored else upright
                np.minimum(lowest, upright, out=lowest)
                np.maximum(highest, upright, out=highest)
    return lowest, highest


def label(normalised: Pixels, lowest: NDArray[np.float32], highest: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Draw what the teachers agree on: (H, W) uint8, 255 cell, 0 background, `UNKNOWN_GREY` between.

    Cell needs `CELL` of every view. Background needs less than `BACKGROUND` of every view, and smooth ground
    or almost no doubt: texture that the teachers pass over may be what they have not learned yet.
    """
    drawn = np.full(normalised.shape, UNKNOWN_GREY, np.uint8)
    smooth = texture(normalised) < SMOOTH
    drawn[(highest < BACKGROUND) & (smooth | (highest < CERTAIN))] = 0
    drawn[lowest >= CELL] = 255
    return drawn


def pseudo_label(teachers: Sequence[Path], pictures: Path, out: Path, every: int = 1) -> int:
    """Write a label, an 8-bit PNG as `label` draws it, for the images of a folder; return how many.

    Args:
        teachers: weights, as `teacher` reads them.
        pictures: the folder of images.
        out: the folder for the labels; one that is there already stays, so a run can be resumed.
        every: 3 labels every third image, in the order of their names.

    Raises:
        ValueError, FileNotFoundError: as `teacher` and `read_unlabelled` do.
    """
    networks = [teacher(weights) for weights in teachers]
    chosen = read_unlabelled(pictures)[::every]
    out.mkdir(parents=True, exist_ok=True)
    for item in tqdm(chosen, unit="image", disable=None):
        path = out / f"{item.name}.png"
        if not path.exists():
            drawn = label(item.pixels, *probability_range(item.pixels, networks))
            path.write_bytes(cv2.imencode(".png", drawn)[1].tobytes())
    return len(chosen)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line of the labelling; return its exit code."""
    parser = argparse.ArgumentParser(description="Make ground truths for images that have none.")
    parser.add_argument("teachers", type=Path, nargs="+", metavar="WEIGHTS", help=".safetensors or .onnx")
    parser.add_argument("--images", type=Path, required=True, help="folder of images without ground truth")
    parser.add_argument("--out", type=Path, required=True, help="folder for the labels")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="label every Nth image only")
    given = parser.parse_args(arguments)
    try:
        count = pseudo_label(given.teachers, given.images, given.out, max(given.every, 1))
    except (ValueError, OSError) as error:
        print(f"cannot label: {error}", file=sys.stderr)
        return 1
    print(f"{given.out}: {count} labels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
