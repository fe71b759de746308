"""Which model the stack serves, for the functions that name jobs without running it."""

from pathlib import Path

import msgspec

MANIFEST = Path(__file__).parent / "manifest.json"  # the weights' own; the layer carries a copy


class ServedModel(msgspec.Struct, frozen=True):
    """What a job's id takes from the manifest. `threshold`: the model's own, 0..1."""

    sha256: str
    threshold: float


def read_served_model() -> ServedModel:
    """Reads the manifest that travels with the layer."""
    return msgspec.json.decode(MANIFEST.read_bytes(), type=ServedModel)
