"""The files of a run: its weights and the state for resuming. Each is written whole or not at all."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as weights_bytes

from cytomask.model.export import read_lineage
from cytomask.model.predictor import MANIFEST, Ancestor, Manifest
from cytomask.model.swin_unet import SwinUNet, SwinUNetConfig
from cytomask.training.conv_unet import ConvUNet, ConvUNetConfig
from cytomask.training.experiment import TrainingConfig

Network = SwinUNet | ConvUNet

CONFIG = "config.json"


@dataclass(frozen=True)
class Folders:
    """Where a run writes: results into `out`, the state for resuming into `checkpoints`."""

    out: Path
    checkpoints: Path

    @property
    def weights(self) -> Path:
        """The averaged weights, the result of the run."""
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
        """The state for resuming."""
        return self.checkpoints / "last.pt"

    def make(self, config: TrainingConfig) -> None:
        """Make both folders and write the resolved configuration."""
        for folder in (self.out, self.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        (self.out / CONFIG).write_text(json.dumps(config.as_dict(), indent=1))


def load_network(path: Path) -> Network:
    """Load the network of a file that `save` wrote; raise ValueError if it is not one."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        sizes = json.loads(metadata["config"])
        network = (
            ConvUNet(ConvUNetConfig(tuple(sizes["widths"])))
            if "widths" in sizes
            else SwinUNet(SwinUNetConfig.from_dict(sizes))
        )
        network.load_state_dict(load_file(path))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} does not hold weights of a cytomask network: {error}") from error
    return network


def save(network: Network, path: Path, lineage: Sequence[Ancestor] = ()) -> None:
    """Write the weights, the sizes of their network, and their lineage."""
    metadata = {
        "config": json.dumps(network.config.as_dict()),
        "lineage": msgspec.json.encode(lineage).decode(),
    }
    content = weights_bytes(network.state_dict(), metadata)  # save_file would make it private to its owner
    write_whole(path, lambda partial: partial.write_bytes(content))


def lineage_from(start: Path) -> list[Ancestor]:
    """Return the lineage of weights that begin from this file: its own, and the file itself.

    A released file takes licence and data from the manifest beside it. A training run's file takes its
    data from the config.json beside it.

    Raises:
        ValueError: the file does not say what it began from, and no manifest beside it does.
    """
    sha256 = hashlib.sha256(start.read_bytes()).hexdigest()
    if start.with_name(MANIFEST).exists():
        manifest = msgspec.json.decode(start.with_name(MANIFEST).read_bytes(), type=Manifest)
        itself = Ancestor(manifest.name, sha256, manifest.training_data, manifest.licence)
        return [*manifest.lineage, itself]
    before = read_lineage(start)
    config = start.with_name(CONFIG)
    if not config.exists():
        return [*before, Ancestor(start.stem, sha256, [], "")]
    experiment = json.loads(config.read_text())
    return [*before, Ancestor(experiment["name"], sha256, [*experiment["train"]], "")]


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that an interruption or a full disk leaves the old file or the new one, never half.

    Raises:
        OSError: with the file's name, and whether an older one is still there.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        write(partial)
        partial.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors wrap the disk's error
        partial.unlink(missing_ok=True)
        stands = "the older file is kept" if path.exists() else "there is no older file"
        raise OSError(f"{path} could not be written, {stands}: {error}") from error
