"""One experiment: everything a training run is told, read from one small YAML file."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from cytomask.model.predictor import Mode, tile_side
from cytomask.model.swin_unet import STRIDE, SwinUNetConfig
from cytomask.training.crops import Augmentation, Share
from cytomask.training.losses import Loss

Positive = Annotated[int, Meta(ge=1)]


class TrainingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One experiment.

    Attributes:
        name: of the experiment; the file's name without its suffix.
        train: sources, as `read_source` takes them, each with its share of the crops.
        validation: sources that are scored after every epoch.
        hold_out: names of images that are taken from `train` and scored as well.
        network: `swin_unet`, or the baseline `conv_unet`.
        swin_unet: the sizes of the Swin-UNet; the baseline has its own.
        epochs, steps_per_epoch: the length; by default an epoch has as many crops as there are images.
        batch_size: crops of a step, over all devices together.
        learning_rate, min_learning_rate: at the start and at the end of the cosine.
        schedule: CosineAnnealingLR, or CosineAnnealingWarmRestarts with a first period of
            `restart_epochs`, each next one twice as long.
        warmup_steps: of linear growth before the schedule begins.
        clip_norm: largest norm of the gradient.
        average_decay: of the exponential moving average of the weights, which is scored and kept.
        early_stopping: epochs without a better validation IoU after which the run ends, once `min_epochs`
            have passed; never if None.
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
        """Read the experiment's YAML; raise ValueError if it is not YAML, or as `from_dict` does."""
        try:
            values = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {error}") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} has no fields of an experiment, such as train and epochs")
        return cls.from_dict(path.stem, values)

    @classmethod
    def from_dict(cls, name: str, values: dict[str, Any]) -> "TrainingConfig":
        """Build the experiment from its fields.

        Raises:
            ValueError: naming the field that is unknown, of another type or out of range.
        """
        try:
            config = msgspec.convert({"name": name} | values, cls)
        except msgspec.ValidationError as error:
            raise ValueError(f"experiment {name}: {error}") from error
        if config.network == "swin_unet" and config.swin_unet.tile != (side := tile_side(config.mode)):
            raise ValueError(
                f"experiment {name}: mode {config.mode} has tiles of {side} pixels; under swin_unet, set "
                f"window to {side // STRIDE}, not {config.swin_unet.window}"
            )
        if config.early_stopping and not (config.validation or config.hold_out):
            raise ValueError(f"experiment {name}: early_stopping needs validation or hold_out")
        return config

    def as_dict(self) -> dict[str, Any]:
        """Return every field, defaults included, as JSON has them: lists for tuples."""
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(self))
        return plain
