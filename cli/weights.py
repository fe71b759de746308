"""Find the weights on this computer, shipped and fine-tuned, by name or folder.

A fine-tuned model is a folder with `manifest.json`, the ONNX file that it names, and `swin_unet.safetensors`.
`cytomask finetune` makes them in `models_folder()`, where other commands find them by name.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from cytomask.model import predictor
from cytomask.model.predictor import (
    MANIFEST,
    WEIGHTS,
    Manifest,
    Mode,
    WeightsError,
    network_folder,
    read_manifest,
)

OWN_FOLDER = "CYTOMASK_MODELS"  # environment variable


@dataclass(frozen=True)
class AtHand:
    """A model on this computer.

    Attributes:
        folder: folder of its manifest.
        mode: the mode it is for.
        manifest: its manifest; None if it cannot be read.
        fault: why it cannot be used; empty if it can.
        shipped: whether it came with cytomask.
    """

    folder: Path
    mode: Mode
    manifest: Manifest | None
    fault: str = ""
    shipped: bool = False

    @property
    def name(self) -> str:
        """The name in its manifest, or its folder's if the manifest cannot be read."""
        return self.manifest.name if self.manifest else self.folder.name


def models_folder() -> Path:
    """Return the folder of fine-tuned models: CYTOMASK_MODELS, or one in the user's data folder."""
    if named := os.environ.get(OWN_FOLDER):
        return Path(named)
    if sys.platform == "darwin":
        data = Path.home() / "Library" / "Application Support"
    elif os.name == "nt":
        data = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return data / "cytomask" / "models"


def models_at_hand(folder: Path | None = None) -> list[AtHand]:
    """List the shipped models, then those in a folder, by default `models_folder()`, by name."""
    shipped = [_read(WEIGHTS / mode, mode, shipped=True) for mode in get_args(Mode)]
    own = folder or models_folder()
    found = [each for place in _folders(own) for each in _models_of(place)]
    return [*shipped, *sorted(found, key=lambda each: (each.name, str(each.folder)))]


def _folders(folder: Path) -> Iterator[Path]:
    """Yield a folder if it is a model itself, and the folders in it."""
    if folder.is_dir():
        yield folder
        yield from (each for each in sorted(folder.iterdir()) if each.is_dir())


def _models_of(folder: Path) -> Iterator[AtHand]:
    """Yield the models in a folder: one, or one for each mode."""
    for mode in get_args(Mode):
        if (folder / mode / MANIFEST).is_file():
            yield _read(folder / mode, mode)
    if (folder / MANIFEST).is_file() and folder.name not in get_args(Mode):
        yield _read(folder)


def _read(folder: Path, mode: Mode | None = None, *, shipped: bool = False) -> AtHand:
    """Read a model's manifest and check the sha256 of its weights."""
    faults = []
    for each in [mode] if mode else get_args(Mode):
        try:
            manifest = read_manifest(folder, each)
        except WeightsError as error:
            faults.append(str(error))
            continue
        try:
            predictor.check_weights(folder, manifest)
        except WeightsError as error:
            return AtHand(folder, each, manifest, str(error), shipped)
        return AtHand(folder, each, manifest, shipped=shipped)
    return AtHand(folder, mode or "native", None, faults[0], shipped)


def open_weights(named: str | None, mode: Mode) -> predictor.Predictor:
    """Start loading the network for a mode.

    Args:
        named: a folder with a manifest, a folder with a folder for each mode, or the name of a model; None
            for the shipped weights.
        mode: the mode that the network is for.

    Raises:
        WeightsError: the weights do not exist, or they are for another mode.
    """
    if named is None:
        return predictor.Predictor(modes=[mode])
    return predictor.Predictor(weights=find_weights(named, mode), modes=[mode])


def find_weights(named: str, mode: Mode) -> Path:
    """Return the folder of a model for `Predictor`, by its path or its name.

    Raises:
        WeightsError: nothing has that name, several models have it, or it is for another mode.
    """
    folder = Path(named)
    if _holds_weights(folder, mode):
        return folder
    at_hand = any(each.name == named for each in models_at_hand())  # the folder may hold its pairs
    if folder.is_dir() and not at_hand:
        raise WeightsError(f"{folder} has no weights for the mode {mode}: {mode}/{MANIFEST} is not there")
    return find_model(named, mode).folder


def _holds_weights(folder: Path, mode: Mode) -> bool:
    return (network_folder(folder, mode) / MANIFEST).is_file()


def require_one_mode(one: str, other: str) -> None:
    """Raise WeightsError if no mode has weights of both, each a folder or a name."""
    modes, others = _modes_of(one), _modes_of(other)
    if modes and others and modes.isdisjoint(others):
        raise WeightsError(
            f"{one} is for --mode {modes.pop()} and {other} for {others.pop()}; compare weights of one mode"
        )


def _modes_of(named: str) -> set[Mode]:
    """Return the modes of the weights of a folder or a name; none if there are none."""
    folder = Path(named)
    if any(_holds_weights(folder, mode) for mode in get_args(Mode)):
        return set(predictor.modes_of(folder))
    return {each.mode for each in models_at_hand() if each.name == named}


def find_model(named: str, mode: Mode) -> AtHand:
    """Return the model of a name, shipped or fine-tuned; raises WeightsError like `find_weights`."""
    models = models_at_hand()
    same = [each for each in models if each.name == named]
    fitting = [each for each in same if each.mode == mode]
    if len(fitting) > 1:
        places = " and ".join(str(each.folder) for each in fitting)
        raise WeightsError(f"two models are called {named}: {places}; give the folder of one")
    if fitting:
        if fitting[0].fault:
            raise WeightsError(fitting[0].fault)
        return fitting[0]
    if same:
        raise WeightsError(f"{named} is for --mode {same[0].mode}, not for {mode}")
    names = ", ".join(sorted({each.name for each in models}))
    raise WeightsError(f"{named} is neither a folder nor the name of a model on this computer ({names})")
