"""Fit the scale that turns logits into probabilities.

`python -m cytomask.training.calibrate WEIGHTS SOURCE… --data DIR --out FILE`

The Lovász hinge does not reward logits beyond -1 and 1, so they do not tell how sure the network is. One
factor on all logits corrects this, as in temperature scaling (Guo et al. 2017, arXiv:1706.04599). Masks at
the threshold of 0.5 stay the same.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from cytomask.model.export import load_checkpoint, read_lineage
from cytomask.model.predictor import MODES, Mode, logits_of_page
from cytomask.training.checkpoints import save
from cytomask.training.sources import load, read_source
from cytomask.training.validation import tile_function

FACTORS = np.geomspace(0.5, 8, 49)


def best_factor(logits: NDArray[np.float32], cells: NDArray[np.bool_]) -> float:
    """Return the one of `FACTORS` with the least cross-entropy over these pixels, both (pixels,)."""
    given, truth = torch.from_numpy(logits), torch.from_numpy(cells.astype(np.float32))
    entropies = [
        functional.binary_cross_entropy_with_logits(given * float(factor), truth).item() for factor in FACTORS
    ]
    return float(FACTORS[int(np.argmin(entropies))])


def calibrate(weights: Path, data: Path, sources: Sequence[str], out: Path, mode: Mode) -> float:
    """Write the weights with their last layer scaled; return the factor.

    Raises:
        ValueError, FileNotFoundError: as `load_checkpoint`, `read_source` and `load` raise them.
    """
    network = load_checkpoint(weights)
    infer = tile_function(network, torch.device("cpu"))
    items = [item for source in sources for item in load(read_source(data, source))]
    logits = np.concatenate([logits_of_page(item.pixels, mode, infer).ravel() for item in items])
    factor = best_factor(logits, np.concatenate([item.cells.ravel() for item in items]))
    with torch.no_grad():
        for parameter in network.head.logit.parameters():
            parameter.mul_(factor)
    out.parent.mkdir(parents=True, exist_ok=True)
    save(network, out, read_lineage(weights))
    return factor


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line of the calibration; return its exit code."""
    parser = argparse.ArgumentParser(description="Scale the logits so that they are probabilities.")
    parser.add_argument("weights", type=Path, help="swin_unet.safetensors of a training run")
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="images to fit the factor on")
    parser.add_argument("--data", type=Path, required=True, help="folder that the sources lie in")
    parser.add_argument("--out", type=Path, required=True, help="the scaled weights")
    parser.add_argument("--mode", choices=MODES, required=True, help="mode that the weights were trained for")
    given = parser.parse_args(arguments)
    try:
        factor = calibrate(given.weights, given.data, given.sources, given.out, given.mode)
    except (ValueError, OSError) as error:
        print(f"cannot calibrate: {error}", file=sys.stderr)
        return 1
    print(f"{given.out}: the logits of {given.weights}, times {factor:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
