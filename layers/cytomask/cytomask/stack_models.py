"""Choose the network that segments an image: the one that its plate began with, or the stack's current one.

A change of model must not cause a step in a growth curve. The first image of a plate therefore pins the plate
to the current model, in the row `PLATE#<name>`, `MODEL` of the Jobs table.
"""

import time
from collections.abc import Callable

import msgspec

from cytomask.acquisition import Pattern, read_acquisition
from cytomask.errors import ModelUnusable
from cytomask.model_store import BAKED_IN, MODE, ModelStore
from cytomask.plate_places import columns_of
from cytomask.requests import SegmentRequest
from cytomask.served_model import ServedModel, ServedModels, read_served_models
from cytomask.table import Table, timestamp

MODEL = "MODEL"


class Pins:
    """The models that plates are pinned to. Faults of DynamoDB pass through as ClientError."""

    def __init__(self, table: Table, clock: Callable[[], float] = time.time) -> None:
        self._table = table
        self._clock = clock

    def read(self, plate: str) -> ServedModel | None:
        """Return the model that a plate is pinned to, or None."""
        row = self._table.read(_of_plate(plate), MODEL)
        return msgspec.convert(row, ServedModel, strict=False) if row else None

    def begin(self, plate: str, model: ServedModel) -> ServedModel:
        """Pin a plate to a model unless it is pinned; return the model it is pinned to."""
        return self.read(plate) or msgspec.convert(
            self._table.add(self._row(plate, model)), ServedModel, strict=False
        )

    def pin(self, plate: str, model: ServedModel) -> None:
        """Pin a plate to a model, replacing an earlier pin."""
        self._table.put(self._row(plate, model))

    def unpin(self, plate: str) -> bool:
        """Remove a plate's pin, so that its next image sets a new one; return False if it had none."""
        return self._table.delete_if(
            _of_plate(plate), MODEL, condition="sha256 <> :none", given={":none": "-"}
        )

    def _row(self, plate: str, model: ServedModel) -> dict[str, object]:
        of_model = msgspec.to_builtins(model)
        return {
            "job_id": _of_plate(plate),
            "record": MODEL,
            "pinned_at": timestamp(self._clock()),
            **of_model,
        }


class StackModels:
    """Chooses the models of each request, for code that computes job ids without running the jobs."""

    def __init__(
        self,
        current: ServedModels,
        pin_of: Callable[[str], ServedModel | None],
        pattern: Pattern | None,
    ) -> None:
        """Keep the current models, the function that reads a plate's pin, and the user's naming scheme."""
        self._current = current
        self._pin_of = pin_of
        self._pattern = pattern

    @property
    def current(self) -> ServedModels:
        """The models, by mode, of images whose plate is not pinned to another."""
        return self._current

    def of(self, request: SegmentRequest) -> ServedModels:
        """Return the models that will segment a request, by mode."""
        plate = plate_of(request, self._pattern)
        pinned = self._pin_of(plate) if plate else None
        return {**self._current, MODE: pinned} if pinned else self._current


def plate_of(request: SegmentRequest, pattern: Pattern | None) -> str | None:
    """Return the plate whose pin applies to a request and which counts its image; None if there is none.

    A request for `resize` mode is never pinned: its network is always the container's.
    """
    if request.parameters.mode != MODE:
        return None
    placed = columns_of(request.place.filled_from(read_acquisition(request.image.key, pattern)))
    return placed["plate"] if placed else None


def read_current(store: ModelStore, named: str) -> ServedModels:
    """Return the models, by mode, of images whose plate is not pinned to another.

    Args:
        store: the models bucket.
        named: value of the stack's parameter Model.
    """
    baked_in = read_served_models()
    if named == BAKED_IN:
        return baked_in
    try:
        return {**baked_in, MODE: store.describe(named).served}
    except ModelUnusable:  # the segment function falls back to the same model and raises an alarm
        return baked_in


def _of_plate(plate: str) -> str:
    return f"PLATE#{plate}"
