"""Trains the Swin-UNet: `python -m training.train CONFIG.yaml --data DIR --out DIR`.

Reads from top to bottom: configuration, losses, schedule, loop, score, checkpoint.
"""

import argparse
import csv
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from cytomask import metrics
from model import preprocess
from model.export import load_checkpoint
from model.predictor import logits_of_page
from model.swin_unet import SwinUNet
from training.dataset import Augmentation, Labelled, load_index, random_batch


@dataclass(frozen=True)
class TrainingConfig:
    """One experiment. `train` and `validation` name rows of index.csv as `source/split`."""

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]
    steps: int
    batch_size: int = 12
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    average_decay: float = 0.99
    validate_every: int = 100
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    @classmethod
    def read(cls, path: Path) -> "TrainingConfig":
        """Reads the experiment's YAML; unknown fields are a TypeError that names them."""
        values = yaml.safe_load(path.read_text())
        augmentation = Augmentation(**values.pop("augmentation", {}))
        return cls(name=path.stem, augmentation=augmentation, **values)


def loss_of(logits: Tensor, cells: Tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice (Milletari et al. 2016, arXiv:1606.04797).

    Shape: logits and cells (B, 1, H, W); returns a scalar. Dice is taken over the batch, so that a
    crop without cells does not dominate it.
    """
    probability = logits.sigmoid()
    overlap = (probability * cells).sum()
    dice = (2 * overlap + 1) / (probability.sum() + cells.sum() + 1)
    return functional.binary_cross_entropy_with_logits(logits, cells) + 1 - dice


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Linear warm-up, then half a cosine down to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    config: TrainingConfig, data: Path, out: Path, device: torch.device, start: Path | None = None
) -> None:
    """Runs the experiment; leaves the averaged weights, metrics.csv and config.json in `out`.

    Args:
        config: the experiment.
        data: folder that holds index.csv.
        out: folder for what the run makes.
        device: where the network trains.
        start: weights to begin from; random ones where None.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(asdict(config), indent=1))
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    pool, held_out = load_index(data, config.train), load_index(data, config.validation)

    network = (load_checkpoint(start) if start else SwinUNet()).to(device)
    averaged = AveragedModel(
        network,
        multi_avg_fn=get_ema_multi_avg_fn(config.average_decay),  # type: ignore[no-untyped-call]  # torch's
    )
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay)

    def batch() -> tuple[Tensor, Tensor]:
        arrays = random_batch(pool, config.batch_size, config.augmentation, rng)
        pixels, cells = (torch.from_numpy(array).to(device) for array in arrays)
        return pixels, cells

    started = time.monotonic()
    with (out / "metrics.csv").open("w", newline="") as file:
        log = csv.writer(file)
        log.writerow(["step", "seconds", "loss", "validation_iou"])
        for step in range(1, config.steps + 1):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step - 1, config)
            pixels, cells = batch()
            network.train()
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = loss_of(network(pixels), cells)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm)
            optimiser.step()
            averaged.update_parameters(network)

            if step % config.validate_every == 0 or step == config.steps:
                update_bn([batch()[0] for _ in range(10)], averaged, device)
                average = cast(SwinUNet, averaged.module)
                iou = mean_iou(average, held_out, device)
                log.writerow([step, round(time.monotonic() - started), f"{loss.item():.4f}", f"{iou:.4f}"])
                file.flush()
                save(average, out / "swin_unet.safetensors")


def mean_iou(network: SwinUNet, items: Sequence[Labelled], device: torch.device) -> float:
    """Mean over images of the IoU at full resolution, by the tiles and the blend that serve."""
    infer = tile_function(network, device)
    scores = [
        metrics.score(logits_of_page(item.pixels, "native", infer) >= 0, item.cells).iou for item in items
    ]
    return sum(scores) / len(scores)


def tile_function(
    network: SwinUNet, device: torch.device
) -> Callable[[preprocess.Pixels], preprocess.Pixels]:
    """The network as the predictor sees it: (N, 1, 224, 224) float32 tiles to logits of that shape."""

    def infer(tiles: preprocess.Pixels) -> preprocess.Pixels:
        network.eval()
        with torch.inference_mode():
            logits: preprocess.Pixels = network(torch.from_numpy(tiles).to(device)).float().cpu().numpy()
        return logits

    return infer


def save(network: SwinUNet, path: Path) -> None:
    """Writes the weights so that an interruption leaves the old file or the new one, never half."""
    partial = path.with_suffix(".partial")
    save_file(network.state_dict(), partial, metadata={"config": json.dumps(network.config.as_dict())})
    partial.replace(path)


def main() -> None:
    """Command line of the training script."""
    parser = argparse.ArgumentParser(description="Train the Swin-UNet.")
    parser.add_argument("config", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds index.csv")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and metrics")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--start", type=Path, metavar="WEIGHTS", help="begin from these; default: random")
    arguments = parser.parse_args()
    config = TrainingConfig.read(arguments.config)
    train(config, arguments.data, arguments.out, torch.device(arguments.device), arguments.start)


if __name__ == "__main__":
    main()
