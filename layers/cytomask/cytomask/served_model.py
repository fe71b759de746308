"""Describe the networks that the stack serves, for functions that compute job ids but run no jobs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, get_args

import msgspec

from cytomask.requests import Mode, SegmentRequest
from cytomask.work import Work

# manifest_native.json and so on: copies of the weights' own manifests, for the layer.
MANIFESTS = Path(__file__).parent


class Model(Protocol):
    """The part of a network's manifest that a job's id needs. `threshold` is the network's own, 0..1."""

    @property
    def sha256(self) -> str: ...  # noqa: D102 - told above

    @property
    def threshold(self) -> float: ...  # noqa: D102 - told above


class ServedModel(msgspec.Struct, frozen=True):
    """The same, read from a manifest, with the name to show to people."""

    sha256: str
    threshold: float
    name: str = ""


ServedModels = Mapping[Mode, Model]


def read_served_models() -> Mapping[Mode, ServedModel]:
    """Read the manifests that travel with the layer."""
    return {
        mode: msgspec.json.decode((MANIFESTS / f"manifest_{mode}.json").read_bytes(), type=ServedModel)
        for mode in get_args(Mode)
    }


def work_of(request: SegmentRequest, models: ServedModels) -> Work:
    """Combine a request for a known version of its image with the network of its mode."""
    model = models[request.parameters.mode]
    return Work(request, model.sha256, model.threshold)
