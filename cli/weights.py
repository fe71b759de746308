"""Which weights `cytomask segment` uses: those that ship, a folder, or a name."""

from pathlib import Path
from typing import get_args

from cytomask.model import predictor
from cytomask.model.predictor import MANIFEST, WEIGHTS, Mode, WeightsError, network_folder, read_manifest


def open_weights(named: str | None, mode: Mode) -> predictor.Predictor:
    """Begin to load the network for a mode.

    Args:
        named: a folder with a manifest, or with a folder for each mode; or the name of weights that ship;
            None for those that ship.
        mode: what the network is for.

    Raises:
        WeightsError: the weights do not exist, or they are for another mode.
    """
    if named is None:
        return predictor.Predictor(modes=[mode])
    return predictor.Predictor(weights=find_weights(named, mode), modes=[mode])


def find_weights(named: str, mode: Mode) -> Path:
    """Return the folder that has a folder for the mode; raise WeightsError."""
    folder = Path(named)
    if (network_folder(folder, mode) / MANIFEST).is_file():
        return folder
    if folder.is_dir():
        raise WeightsError(f"{folder} has no weights for the mode {mode}: {mode}/{MANIFEST} is not there")
    shipped = {read_manifest(WEIGHTS / each, each).name: each for each in get_args(Mode)}
    if shipped.get(named) == mode:
        return WEIGHTS
    if named in shipped:
        raise WeightsError(f"{named} is for --mode {shipped[named]}, not for {mode}")
    raise WeightsError(
        f"{named} is neither a folder nor the name of weights that ship ({', '.join(sorted(shipped))})"
    )
