"""The state of one run: weights, optimiser, schedule, and how far they have come."""

import json
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LinearLR,
    LRScheduler,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cytomask.model.predictor import Ancestor
from cytomask.model.swin_unet import SwinUNet, with_mlp_ratio, with_window
from cytomask.training.checkpoints import Network, lineage_from, load_network, write_whole
from cytomask.training.conv_unet import ConvUNet
from cytomask.training.experiment import TrainingConfig
from cytomask.training.losses import loss_of
from cytomask.training.processes import Process


@dataclass
class Progress:
    """How far a run has come: what resuming needs beside the weights."""

    step: int = 0
    seconds: float = 0.0
    epoch_loss: float = 0.0
    best_iou: float = -1.0
    stale_epochs: int = 0
    ended: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)


class Run:
    """An experiment's weights, their optimiser, and how far they have come."""

    def __init__(
        self, config: TrainingConfig, steps_per_epoch: int, process: Process, start: Path | None
    ) -> None:
        self.config, self.steps_per_epoch, self.process = config, steps_per_epoch, process
        torch.manual_seed(config.seed)
        network = ConvUNet() if config.network == "conv_unet" else SwinUNet(config.swin_unet)
        self.lineage: list[Ancestor] = []
        if start:
            begun = load_network(start)
            if type(begun) is not type(network):
                raise ValueError(f"{start} does not hold a {config.network}, the network of {config.name}")
            if isinstance(begun, SwinUNet):
                sizes = config.swin_unet
                if begun.config.window < sizes.window:
                    begun = with_window(begun, sizes.window)
                if begun.config.mlp_ratio > sizes.mlp_ratio:
                    begun = with_mlp_ratio(begun, sizes.mlp_ratio)
                if begun.config != sizes:
                    raise ValueError(f"{start} has other sizes than {config.name} sets under swin_unet")
            network = begun
            self.lineage = lineage_from(start)
        self.network = network.to(process.device)
        self.averaged = AveragedModel(
            self.network,
            multi_avg_fn=get_ema_multi_avg_fn(config.average_decay),  # type: ignore[no-untyped-call]  # torch's
        )
        self.trained = DistributedDataParallel(self.network) if process.count > 1 else self.network
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.schedule = schedule_of(self.optimiser, config, steps_per_epoch)
        self.progress = Progress()

    @property
    def average(self) -> Network:
        """The averaged weights."""
        return cast(Network, self.averaged.module)

    def step(self, pixels: Tensor, cells: Tensor, known: Tensor) -> float:
        """Learn from one batch and return its loss.

        Shape: all three (B, 1, side, side) float32, cells and known 0 or 1.

        Raises:
            ValueError: the loss is not a number; the weights are still those of the step before.
        """
        self.trained.train()
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.process.half):
            logits = self.trained(pixels)
        loss = loss_of(logits.float(), cells, self.config.loss, known)
        if not loss.isfinite():
            raise ValueError(
                f"the loss is {loss.item()} after {self.progress.step} steps; the last epoch's checkpoint "
                "is kept: lower learning_rate or clip_norm and train into another folder"
            )
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimiser.step()
        self.schedule.step()
        self.averaged.update_parameters(self.network)
        return loss.item()

    def save(self, path: Path) -> None:
        """Write everything that `resume` needs."""
        state = {
            "config": json.dumps(self.config.as_dict()),
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": asdict(self.progress),
            "lineage": msgspec.json.encode(self.lineage).decode(),
        }
        write_whole(path, lambda partial: torch.save(state, partial))

    def resume(self, path: Path) -> None:
        """Continue where `save` was called; raise ValueError if that was another experiment."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)  # AdamW counts steps there
            saved = json.loads(state["config"])
        except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a checkpoint of a run; remove it to start afresh") from error
        changed = [name for name, value in self.config.as_dict().items() if saved.get(name) != value]
        if changed:
            raise ValueError(
                f"{path} belongs to an experiment with another {', '.join(changed)}; "
                "train into another folder"
            )
        try:
            self.network.load_state_dict(state["network"])
        except RuntimeError as error:
            raise ValueError(
                f"{path} holds another network; give the --start that the run began from"
            ) from error
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress = Progress(**state["progress"])
        self.lineage = msgspec.json.decode(state["lineage"], type=list[Ancestor])


def schedule_of(
    optimiser: torch.optim.Optimizer, config: TrainingConfig, steps_per_epoch: int
) -> LRScheduler:
    """Build a linear warm-up, then a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983), by steps."""
    after = config.epochs * steps_per_epoch - config.warmup_steps
    if after <= 0:
        raise ValueError(f"experiment {config.name}: warmup_steps must be less than the steps of the run")
    cosine: LRScheduler
    if config.schedule == "warm_restarts":
        period = config.restart_epochs * steps_per_epoch
        cosine = CosineAnnealingWarmRestarts(optimiser, period, T_mult=2, eta_min=config.min_learning_rate)
    else:
        cosine = CosineAnnealingLR(optimiser, after, eta_min=config.min_learning_rate)
    if not config.warmup_steps:
        return cosine
    first = 1 / config.warmup_steps
    warmup = LinearLR(optimiser, start_factor=first, total_iters=config.warmup_steps)
    return SequentialLR(optimiser, [warmup, cosine], [config.warmup_steps])
