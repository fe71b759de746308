"""Train the network: `python -m cytomask.training.train CONFIG.yaml --data DIR --out DIR`.

The loop of a run. `torchrun --nproc-per-node N -m -- cytomask.training.train …` trains on N devices.
"""

import argparse
import csv
import math
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from cytomask.training.batches import Batches, read_data
from cytomask.training.checkpoints import Folders, load_network, save, write_whole
from cytomask.training.crops import Labelled
from cytomask.training.experiment import TrainingConfig
from cytomask.training.monitoring import Monitor, write_curves, write_samples
from cytomask.training.processes import Process, greatest, join, signals
from cytomask.training.run import Run
from cytomask.training.validation import samples_of, validate

COLUMNS = ("epoch", "step", "seconds", "learning_rate", "loss", "validation_loss", "validation_iou")
BATCHES_OF_NORM = 10


class Interrupted(Exception):
    """SIGINT or SIGTERM came; the step was finished and the checkpoint written."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; continue with --resume")
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
    """Run the experiment; leave weights, metrics.csv, config.json, curves and samples in `out`.

    The weights are the averaged ones of the epoch with the best validation IoU, or the last ones if nothing
    is validated.

    Args:
        config: the experiment.
        data: folder that the sources are relative to.
        out: folder for what the run makes.
        process: this one, of those that train together.
        checkpoints: folder for what resuming needs; `out`/checkpoints if None.
        resume: continue from the last checkpoint, if there is one.
        start: weights to begin from; random ones if None.
        clearml: report to ClearML as well.

    Raises:
        Interrupted: by a signal; the run can be resumed.
        FileExistsError: a checkpoint is there and `resume` is false.
        ValueError, FileNotFoundError: the experiment or the data are at fault.
        OSError: a file could not be written; the last checkpoint is kept.
    """
    folders = Folders(out, checkpoints or out / "checkpoints")
    if folders.last.exists() and not resume:
        raise FileExistsError(
            f"{folders.last} exists already; continue with --resume or train into another folder"
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
        batches = Batches(mix, config, process)
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

            # The averaged weights need batch norm statistics of their own.
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


def train_epoch(run: Run, batches: Batches, signalled: Sequence[int]) -> int:
    """Train to the end of the epoch, or until a signal comes; return the signal's number, or 0.

    A signal during the last step, or while the epoch is scored, takes effect after the next step.
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


def end_epoch(run: Run, held_out: Sequence[Labelled], folders: Folders, monitor: Monitor) -> None:
    """Score the averaged weights, keep them if they are the best so far, and report."""
    config, progress = run.config, run.progress
    epoch = progress.step // run.steps_per_epoch
    scored = validate(run.average, held_out, config, run.process.device)
    iou = scored.get("validation_iou", math.inf)
    if iou > progress.best_iou or not scored:
        progress.best_iou, progress.stale_epochs = iou, 0
        save(run.average, folders.best, run.lineage)
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
    """Write metrics.csv: a row for every epoch, without values of validation if there is none."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(history)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line of the training script; return its exit code."""
    parser = argparse.ArgumentParser(description="Train the network.")
    parser.add_argument("config", type=Path, help="the experiment, a YAML file")
    parser.add_argument("--data", type=Path, required=True, help="folder that the sources are relative to")
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and metrics")
    parser.add_argument("--checkpoints", type=Path, help="folder for checkpoints; default: OUT/checkpoints")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint, if any")
    parser.add_argument("--start", type=Path, metavar="WEIGHTS", help="initial weights; default: random")
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
