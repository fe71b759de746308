"""Score a network on held-out images, with the tiles and the blending that serve."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from cytomask import metrics
from cytomask.model import preprocess
from cytomask.model.predictor import logit, logits_of_page
from cytomask.training.checkpoints import Network
from cytomask.training.crops import Labelled
from cytomask.training.experiment import TrainingConfig
from cytomask.training.losses import loss_of
from cytomask.training.monitoring import Panel

SAMPLES = 6


def validate(
    network: Network, held_out: Sequence[Labelled], config: TrainingConfig, device: torch.device
) -> dict[str, float]:
    """Compute the mean IoU and loss over images, at full resolution, where the truth is known."""
    if not held_out:
        return {}
    infer = tile_function(network, device)
    ious, losses = [], []
    for item in held_out:
        logits = logits_of_page(item.pixels, config.mode, infer)
        known = item.weights()
        mask = logits >= logit(config.threshold)
        ious.append(metrics.score(mask & (known > 0), item.cells & (known > 0)).iou)
        given, truth, counts = (
            torch.tensor(array)[None, None] for array in (logits, item.cells.astype(np.float32), known)
        )
        losses.append(loss_of(given, truth, config.loss, counts).item())
    return {"validation_loss": sum(losses) / len(losses), "validation_iou": sum(ious) / len(ious)}


def samples_of(network: Network, items: Sequence[Labelled], config: TrainingConfig) -> list[Panel]:
    """Return the first images with their ground truths and masks."""
    infer = tile_function(network, torch.device("cpu"))
    cut = logit(config.threshold)
    return [
        (item.name, item.pixels, item.cells, logits_of_page(item.pixels, config.mode, infer) >= cut)
        for item in items[:SAMPLES]
    ]


def tile_function(network: Network, device: torch.device) -> Callable[[preprocess.Pixels], preprocess.Pixels]:
    """Wrap the network as the predictor sees it: (N, 1, side, side) float32 tiles to logits."""

    def infer(tiles: preprocess.Pixels) -> preprocess.Pixels:
        network.eval()
        with torch.inference_mode():
            logits: preprocess.Pixels = network(torch.tensor(tiles, device=device)).float().cpu().numpy()
        return logits

    return infer
