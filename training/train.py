"""Trains the network: `python -m cytomask.training.train CONFIG.yaml --data DIR --out DIR`.

Reads from top to bottom: configuration, losses, schedule, one run's state, the loop, score, checkpoints,
command line. `torchrun --nproc-per-node N -m -- cytomask.training.train …` trains on N devices.
"""

import argparse
import csv
import json
import math
import os
import pickle
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, Self, cast

import msgspec
import numpy as np
import torch
import yaml
from msgspec import Meta
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LinearLR,
    LRScheduler,
    SequentialLR,
)
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from tqdm import tqdm

from cytomask import metrics
from cytomask.model import preprocess
from cytomask.model.predictor import Mode, logit, logits_of_page
from cytomask.model.swin_unet import SwinUNet, SwinUNetConfig
from cytomask.training.conv_unet import ConvUNet, ConvUNetConfig
from cytomask.training.crops import Augmentation, Crop, Labelled, Mix, Share, draw_crop
from cytomask.training.losses import Loss, loss_of
from cytomask.training.monitoring import Monitor, Panel, write_curves, write_samples
from cytomask.training.sources import load, read_source

Network = SwinUNet | ConvUNet

COLUMNS = ("epoch", "step", "seconds", "learning_rate", "loss", "validation_loss", "validation_iou")
BATCHES_OF_NORM = 10
SAMPLES = 6

Positive = Annotated[int, Meta(ge=1)]


class TrainingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One experiment.

    Attributes:
        name: of the experiment; its file's.
        train: sources, as `read_source` takes them, each with its share of the crops.
        validation: sources that are scored after every epoch.
        hold_out: names of images that are taken from `train` and scored as well.
        network: `conv_unet` is the baseline.
        swin_unet: the sizes of the Swin-UNet; the baseline has its own.
        epochs, steps_per_epoch: how long; by default an epoch has as many crops as there are images.
        batch_size: crops of a step, over all devices together.
        learning_rate, min_learning_rate: at the start and at the end of the cosine.
        schedule: CosineAnnealingLR, or CosineAnnealingWarmRestarts with a first period of
            `restart_epochs`, each next one twice as long.
        warmup_steps: of linear growth before the schedule begins.
        clip_norm: largest norm of the gradient.
        average_decay: of the exponential moving average of the weights, which is what is scored and kept.
        early_stopping: epochs without a better validation IoU after which the run ends, once `min_epochs`
            have passed; never where None.
        loss: binary cross-entropy, alone, plus soft Dice or plus the Lovász hinge.
        mode, threshold: how validation makes a mask, as serving would; the weights may serve this mode.
    """

    name: str
    train: Annotated[dict[str, Annotated[float, Meta(gt=0)]], Meta(min_length=1)]
    validation: tuple[str, ...] = ()
    hold_out: tuple[str, ...] = ()
    network: Literal["swin_unet", "conv_unet"] = "swin_unet"
    swin_unet: SwinUNetConfig = SwinUNetConfig()
    epochs: Positive
    steps_per_epoch: Positive | None = None
    batch_size: Positive = 12
    learning_rate: Annotated[float, Meta(gt=0)] = 1e-3
    min_learning_rate: Annotated[float, Meta(ge=0)] = 0.0
    schedule: Literal["cosine", "warm_restarts"] = "cosine"
    restart_epochs: Positive = 10
    warmup_steps: Annotated[int, Meta(ge=0)] = 50
    weight_decay: Annotated[float, Meta(ge=0)] = 0.05
    clip_norm: Annotated[float, Meta(gt=0)] = 1.0
    average_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.99
    min_epochs: Positive = 1
    early_stopping: Positive | None = None
    loss: Loss = "bce_dice"
    mode: Mode = "native"
    threshold: Share = 0.5
    seed: Annotated[int, Meta(ge=0)] = 0
    augmentation: Augmentation = Augmentation()

    @classmethod
    def read(cls, path: Path) -> "TrainingConfig":
        """Reads the experiment's YAML; raises ValueError as `from_dict` does, or where it is no YAML."""
        try:
            values = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} has no fields of an experiment, such as train and epochs")
        return cls.from_dict(path.stem, values)

    @classmethod
    def from_dict(cls, name: str, values: dict[str, Any]) -> "TrainingConfig":
        """The experiment of these fields.

        Raises:
            ValueError: naming the field that is unknown, of another type or out of range.
        """
        try:
            config = msgspec.convert({"name": name} | values, cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"experiment {name}: {error}") from error
        if config.early_stopping and not (config.validation or config.hold_out):
            raise ValueError(f"experiment {name}: early_stopping needs validation or hold_out")
        return config

    def as_dict(self) -> dict[str, Any]:
        """Every field, defaults included, as JSON has them: lists for tuples."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain


def schedule_of(
    optimiser: torch.optim.Optimizer, config: TrainingConfig, steps_per_epoch: int
) -> LRScheduler:
    """Linear warm-up, then a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983); stepped every step."""
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


@dataclass(frozen=True)
class Process:
    """This process among those that train together."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether it scores, writes and reports."""
        return self.rank == 0

    @property
    def half(self) -> bool:
        """Whether the device multiplies bfloat16 faster than float32."""
        if self.device.type == "cuda":
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
        return torch.cpu.get_capabilities().get("avx512_bf16", False) is True


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
    """An experiment's weights and their optimiser, together with how far they have come."""

    def __init__(
        self, config: TrainingConfig, steps_per_epoch: int, process: Process, start: Path | None
    ) -> None:
        self.config, self.steps_per_epoch, self.process = config, steps_per_epoch, process
        torch.manual_seed(config.seed)
        network = ConvUNet() if config.network == "conv_unet" else SwinUNet(config.swin_unet)
        if start:
            begun = load_network(start)
            if type(begun) is not type(network):
                raise ValueError(f"{start} does not hold a {config.network}, the network of {config.name}")
            if isinstance(begun, SwinUNet) and begun.config != config.swin_unet:
                raise ValueError(f"{start} is of other sizes than {config.name} gives under swin_unet")
            network = begun
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

        Shape: all three (B, 1, 224, 224) float32, cells and known 0 or 1.

        Raises:
            ValueError: the loss is not a number; the weights are still those of the step before.
        """
        self.trained.train()
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.process.half):
            logits = self.trained(pixels)
        loss = loss_of(logits.float(), cells, known, self.config.loss)
        if not loss.isfinite():
            raise ValueError(
                f"the loss is {loss.item()} after {self.progress.step} steps; the last epoch's checkpoint "
                "stands: lower learning_rate or clip_norm and train into another folder"
            )
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm)
        self.optimiser.step()
        self.schedule.step()
        self.averaged.update_parameters(self.network)
        return loss.item()

    def save(self, path: Path) -> None:
        """Writes all that `resume` needs."""
        state = {
            "config": json.dumps(self.config.as_dict()),
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "progress": asdict(self.progress),
        }
        write_whole(path, lambda partial: torch.save(state, partial))

    def resume(self, path: Path) -> None:
        """Goes on where `save` was called; raises ValueError when that was another experiment."""
        try:
            state = torch.load(path, map_location=self.process.device, weights_only=True)
            saved = json.loads(state["config"])
        except (RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no checkpoint of a run; take it away to start afresh") from error
        changed = [name for name, value in self.config.as_dict().items() if saved.get(name) != value]
        if changed:
            raise ValueError(
                f"{path} is of an experiment with other {', '.join(changed)}; train into another folder"
            )
        try:
            self.network.load_state_dict(state["network"])
        except RuntimeError as error:
            raise ValueError(
                f"{path} is of another network; give the --start that the run began from"
            ) from error
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.progress = Progress(**state["progress"])


class Interrupted(Exception):
    """SIGINT or SIGTERM came: the step was finished and the checkpoint written."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; --resume goes on from here")
        self.exit_code = 128 + number


def train(
    config: TrainingConfig,
    data: Path,
    out: Path,
    process: Process,
    *,
    checkpoints: Path | None = None,
    resume: bool = False,
    start: Path | None = None,
    clearml: bool = False,
) -> None:
    """Runs the experiment; leaves weights, metrics.csv, config.json, curves and samples in `out`.

    The weights are the averaged ones of the epoch with the best validation IoU, or the last where
    nothing is validated.

    Args:
        config: the experiment.
        data: folder that the sources are relative to.
        out: folder for what the run makes.
        process: this one, of those that train together.
        checkpoints: folder for what resuming needs; `out`/checkpoints where None.
        resume: go on from the last checkpoint, if there is one.
        start: weights to begin from; random ones where None.
        clearml: report to ClearML as well.

    Raises:
        Interrupted: by a signal, resumable.
        FileExistsError: another run's checkpoint is there and `resume` is not asked for.
        ValueError, FileNotFoundError: of the experiment or the data.
        OSError: what could not be written; the last checkpoint stands.
    """
    folders = Folders(out, checkpoints or out / "checkpoints")
    if folders.last.exists() and not resume:
        raise FileExistsError(
            f"{folders.last} is there already; go on with --resume or train into another folder"
        )
    if config.batch_size % process.count:
        raise ValueError(f"batch_size {config.batch_size} cannot be shared by {process.count} processes")
    mix, held_out = read_data(config, data)
    images = sum(len(items) for _, items in mix)
    steps_per_epoch = config.steps_per_epoch or -(-images // config.batch_size)
    config = msgspec.structs.replace(config, steps_per_epoch=steps_per_epoch)
    run = Run(config, steps_per_epoch, process, start)
    if folders.last.exists():
        run.resume(folders.last)
    progress = run.progress

    with ExitStack() as stack:
        signalled = stack.enter_context(signals())
        batches = stack.enter_context(Batches(mix, config, process))
        monitor = None
        if process.leads:
            folders.make(config)
            begin = progress.step + 1 if progress.step else None
            monitor = stack.enter_context(Monitor(out, config.name, config.as_dict(), clearml, begin))

        while progress.step < config.epochs * steps_per_epoch and not progress.ended:
            started = time.monotonic() - progress.seconds
            stop = train_epoch(run, batches, signalled)
            progress.seconds = time.monotonic() - started
            if stop:
                if process.leads:
                    run.save(folders.last)
                raise Interrupted(stop)

            # Batch norm's statistics belong to the weights: the averaged ones need their own.
            norm = batches.of(range(-BATCHES_OF_NORM, 0))
            update_bn((pixels for pixels, *_ in norm), run.averaged, process.device)
            if monitor:
                end_epoch(run, held_out, folders, monitor)
                progress.seconds = time.monotonic() - started
                run.save(folders.last)
            progress.ended = bool(greatest(int(progress.ended), process))

        if monitor:
            write_whole(folders.weights, lambda partial: shutil.copyfile(folders.best, partial))
            shown = samples_of(load_network(folders.best), held_out or mix[0][1], config)
            write_samples(shown, out / "samples.png")
            monitor.image("samples", out / "samples.png", progress.step)


def train_epoch(run: Run, batches: "Batches", signalled: Sequence[int]) -> int:
    """Trains to the end of the epoch, or until a signal comes; returns the signal's number, else 0.

    A signal during the last step, or while the epoch is scored, is answered after the first of the next.
    """
    progress = run.progress
    epoch, done = divmod(progress.step, run.steps_per_epoch)
    if not done:
        progress.epoch_loss = 0.0
    bar = tqdm(
        batches.of(range(progress.step, progress.step + run.steps_per_epoch - done)),
        desc=f"epoch {epoch + 1}/{run.config.epochs}",
        initial=done,
        total=run.steps_per_epoch,
        leave=False,
        disable=None if run.process.leads else True,
    )
    for pixels, cells, known in bar:
        progress.epoch_loss += run.step(pixels, cells, known)
        progress.step += 1
        stop = greatest(signalled[0], run.process)
        if stop and progress.step % run.steps_per_epoch:
            return stop
    return 0


def end_epoch(run: Run, held_out: Sequence[Labelled], folders: "Folders", monitor: Monitor) -> None:
    """Scores the averaged weights, keeps them where they are the best so far, and reports."""
    config, progress = run.config, run.progress
    epoch = progress.step // run.steps_per_epoch
    scored = validate(run.average, held_out, config, run.process.device)
    iou = scored.get("validation_iou", math.inf)
    if iou > progress.best_iou or not scored:
        progress.best_iou, progress.stale_epochs = iou, 0
        save(run.average, folders.best)
    else:
        progress.stale_epochs += 1
    patience = config.early_stopping or math.inf
    progress.ended = epoch >= config.min_epochs and progress.stale_epochs >= patience

    figures = {
        "loss": f"{progress.epoch_loss / run.steps_per_epoch:.4f}",
        **{name: f"{value:.4f}" for name, value in scored.items()},
        "learning_rate": f"{run.schedule.get_last_lr()[0]:.2e}",
    }
    row = {"epoch": epoch, "step": progress.step, "seconds": round(progress.seconds), **figures}
    progress.history.append(row)
    write_whole(folders.metrics, lambda partial: write_rows(progress.history, partial))
    write_curves(folders.metrics, folders.out / "curves.png")
    monitor.scalars({name: float(value) for name, value in figures.items()}, progress.step)
    line = " ".join(f"{name} {value}" for name, value in figures.items())
    tqdm.write(f"epoch {epoch}/{config.epochs} step {progress.step} {line}", file=sys.stdout)
    sys.stdout.flush()


def write_rows(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes metrics.csv: a row for every epoch, validation's cells empty where there is none."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(history)


@dataclass(frozen=True)
class Folders:
    """Where a run writes: what it is for into `out`, what resuming needs into `checkpoints`."""

    out: Path
    checkpoints: Path

    @property
    def weights(self) -> Path:
        """The averaged weights that the run is for."""
        return self.out / "swin_unet.safetensors"

    @property
    def metrics(self) -> Path:
        """A row for every epoch."""
        return self.out / "metrics.csv"

    @property
    def best(self) -> Path:
        """The averaged weights of the best epoch so far."""
        return self.checkpoints / "best.safetensors"

    @property
    def last(self) -> Path:
        """All that resuming needs."""
        return self.checkpoints / "last.pt"

    def make(self, config: TrainingConfig) -> None:
        """Makes both and writes the resolved configuration."""
        for folder in (self.out, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        (self.out / "config.json").write_text(json.dumps(config.as_dict(), indent=1))


def read_data(config: TrainingConfig, data: Path) -> tuple[Mix, list[Labelled]]:
    """The images to train on, by weighted source, and those to validate on.

    What validation names is not trained on, even where `train` names it too: some of LIVECell's official
    validation images stand in its training file (sartorius-research/LIVECell issue 26).

    Raises:
        FileNotFoundError, ValueError: as `read_source` and `load` do, the latter for all sources at once; a
            name in `hold_out` that no source of `train` has, or a source of which none is left to train on.
    """
    samples = {source: read_source(data, source) for source in (*config.train, *config.validation)}
    loaded = iter(load([sample for listed in samples.values() for sample in listed]))
    labelled = {source: list(islice(loaded, len(listed))) for source, listed in samples.items()}
    sources = {source: labelled[source] for source in config.train}
    names = {item.name for items in sources.values() for item in items}
    if unknown := set(config.hold_out) - names:
        raise ValueError(f"hold_out names images that train does not have: {', '.join(sorted(unknown))}")
    held_out = [item for items in sources.values() for item in items if item.name in config.hold_out]
    for source in config.validation:
        held_out += labelled[source]
    validated = {sample.image for source in config.validation for sample in samples[source]}
    mix = []
    for source, items in sources.items():
        kept = [
            item
            for sample, item in zip(samples[source], items, strict=True)
            if item.name not in config.hold_out and sample.image not in validated
        ]
        if not kept:
            raise ValueError(f"hold_out and validation leave nothing of {source}; take it out of train")
        mix.append((config.train[source], kept))
    return mix, held_out


class Batches:
    """Random crops, drawn ahead by threads while the device computes.

    A crop depends on seed, step and its place in the batch only: the same whatever was drawn before, by
    however many threads and processes.
    """

    def __init__(self, mix: Mix, config: TrainingConfig, process: Process) -> None:
        self._mix, self._config, self._process = mix, config, process
        self._places = range(process.rank, config.batch_size, process.count)
        self._executor = ThreadPoolExecutor(min(os.cpu_count() or 1, 8))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def of(self, steps: Sequence[int]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """This process's share of each step's crops, on its device: three (B, 1, 224, 224) float32."""
        drawn = deque(self._draw(step) for step in steps[:2])
        for ahead in [*steps[2:], None, None][: len(steps)]:
            crops = [future.result() for future in drawn.popleft()]
            if ahead is not None:
                drawn.append(self._draw(ahead))
            pixels, cells, known = (
                torch.from_numpy(np.stack(arrays)).to(self._process.device)
                for arrays in zip(*crops, strict=True)
            )
            yield pixels, cells, known

    def _draw(self, step: int) -> list[Future[Crop]]:
        return [self._executor.submit(self._crop, step, place) for place in self._places]

    def _crop(self, step: int, place: int) -> Crop:
        rng = np.random.default_rng((self._config.seed, step % 2**32, place))
        return draw_crop(self._mix, self._config.augmentation, rng)


def validate(
    network: Network, held_out: Sequence[Labelled], config: TrainingConfig, device: torch.device
) -> dict[str, float]:
    """Mean over images of IoU and loss at full resolution, by the tiles and the blend that serve."""
    if not held_out:
        return {}
    infer = tile_function(network, device)
    ious, losses = [], []
    for item in held_out:
        logits = logits_of_page(item.pixels, config.mode, infer)
        known = item.weights()
        mask = logits >= logit(config.threshold)
        ious.append(metrics.score(mask & (known > 0), item.cells & (known > 0)).iou)
        truth, logits, counts = (
            torch.from_numpy(array)[None, None] for array in (item.cells.astype(np.float32), logits, known)
        )
        losses.append(loss_of(logits, truth, counts, config.loss).item())
    return {"validation_loss": sum(losses) / len(losses), "validation_iou": sum(ious) / len(ious)}


def samples_of(network: Network, items: Sequence[Labelled], config: TrainingConfig) -> list[Panel]:
    """The first images with their ground truths and masks."""
    infer = tile_function(network, torch.device("cpu"))
    cut = logit(config.threshold)
    return [
        (item.name, item.pixels, item.cells, logits_of_page(item.pixels, config.mode, infer) >= cut)
        for item in items[:SAMPLES]
    ]


def tile_function(network: Network, device: torch.device) -> Callable[[preprocess.Pixels], preprocess.Pixels]:
    """The network as the predictor sees it: (N, 1, 224, 224) float32 tiles to logits of that shape."""

    def infer(tiles: preprocess.Pixels) -> preprocess.Pixels:
        network.eval()
        with torch.inference_mode():
            logits: preprocess.Pixels = network(torch.tensor(tiles, device=device)).float().cpu().numpy()
        return logits

    return infer


def load_network(path: Path) -> Network:
    """The network of a file that `save` wrote; raises ValueError where it is none."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        sizes: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in json.loads(metadata["config"]).items()
        }
        network = (
            ConvUNet(ConvUNetConfig(**sizes)) if "widths" in sizes else SwinUNet(SwinUNetConfig(**sizes))
        )
        network.load_state_dict(load_file(path))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} holds no weights of a network of ours: {error}") from error
    return network


def save(network: Network, path: Path) -> None:
    """Writes the weights and what they are the weights of."""
    metadata = {"config": json.dumps(network.config.as_dict())}
    write_whole(path, lambda partial: save_file(network.state_dict(), partial, metadata=metadata))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file so that an interruption or a full disk leaves the old one or the new one, never half.

    Raises:
        OSError: naming the file and what stands.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        write(partial)
        partial.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap what the disk says
        partial.unlink(missing_ok=True)
        stands = "the older one stands" if path.exists() else "there is no older one"
        raise OSError(f"{path} could not be written, {stands}: {error}") from error


@contextmanager
def signals() -> Iterator[list[int]]:
    """Notes SIGINT and SIGTERM, whose number stands in the list, instead of dying of them."""
    noted = [0]

    def note(number: int, _: FrameType | None) -> None:
        noted[0] = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def greatest(value: int, process: Process) -> int:
    """The greatest of all processes' values: they stop together or not at all."""
    if process.count == 1:
        return value
    shared = torch.tensor(value, device=process.device)
    distributed.all_reduce(shared, distributed.ReduceOp.MAX)
    return int(shared.item())


@contextmanager
def join(device: str) -> Iterator[Process]:
    """This process, with those that torchrun started beside it; raises ValueError without the device."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device here; train with --device cpu, or check the driver")
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if not distributed.is_torchelastic_launched():
        yield Process(torch.device(chosen))
        return
    distributed.init_process_group("nccl" if chosen == "cuda" else "gloo")
    try:
        place = f"cuda:{distributed.get_node_local_rank()}" if chosen == "cuda" else chosen
        yield Process(torch.device(place), distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the training script; returns its exit code."""
    parser = argparse.ArgumentParser(description="Train the network.")
    parser.add_argument("config", type=Path, help="the experiment, a YAML file")
    parser.add_argument("--data", type=Path, required=True, help="folder that the sources are relative to")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and metrics")
    parser.add_argument("--checkpoints", type=Path, help="folder for checkpoints; default: OUT/checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint, if any")
    parser.add_argument("--start", type=Path, metavar="WEIGHTS", help="begin from these; default: random")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--clearml", action="store_true", help="report to ClearML too")
    given = parser.parse_args(arguments)
    try:
        with join(given.device) as process:
            train(
                TrainingConfig.read(given.config),
                given.data,
                given.out,
                process,
                checkpoints=given.checkpoints,
                resume=given.resume,
                start=given.start,
                clearml=given.clearml,
            )
    except Interrupted as interruption:
        print(interruption, file=sys.stderr)
        return interruption.exit_code
    except KeyboardInterrupt:
        print("stopped by SIGINT before the first step", file=sys.stderr)
        return 128 + signal.SIGINT
    except (ValueError, OSError) as error:
        print(f"cannot train: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
