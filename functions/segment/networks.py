"""The networks that the function can segment with: those in the container, and those of the models bucket."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from aws_lambda_powertools import Logger

from cytomask.acquisition import Pattern
from cytomask.errors import ModelUnusable
from cytomask.model.predictor import (
    WEIGHTS,
    Mode,
    Predictor,
    WeightsError,
    network_folder,
    read_manifest,
)
from cytomask.model_store import BAKED_IN, MODE, ModelStore
from cytomask.requests import SegmentRequest
from cytomask.served_model import ServedModel, ServedModels
from cytomask.stack_models import Pins, plate_of

MOST_KEPT = 2  # of the bucket's, in memory and on disk: the stack's own, and one that a plate is pinned to
RETRY_SECONDS = 300
# Named, not asked for: `gettempdir` writes a file to try it, and a full /tmp would end the cold start.
CACHE = Path("/tmp/cytomask-models")
WHAT_TO_DO = "upload it with `cytomask promote DIR`, or go back with `cytomask promote baked-in`"


class Networks:
    """Choose, load and keep the networks. In `resize` mode there is only the container's."""

    def __init__(
        self,
        named: str,
        store: ModelStore,
        pins: Pins,
        pattern: Pattern | None,
        make: Callable[..., Predictor],
        logger: Logger,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Load the model that the stack names, or the container's if that one cannot be used.

        Args:
            named: its sha256, or `baked-in`.
            store: the models bucket.
            pins: of the plates.
            pattern: the user's own naming scheme, by which images belong to plates.
            make: makes a predictor of the container's weights; takes `modes`.
            logger: told why a model cannot be used.
            clock: seconds.

        Raises:
            ClientError: S3 has a fault that a retry may mend.
        """
        self._named = named
        self._store = store
        self._pins = pins
        self._pattern = pattern
        self._make = make
        self._logger = logger
        self._clock = clock
        self._kept: dict[str, Predictor] = {}  # from the bucket, by sha256; the one used last comes last
        self._baked_in = read_manifest(network_folder(WEIGHTS, MODE), MODE).sha256
        self._own: Predictor | None = None
        self._retry_at = 0.0
        self._container = make() if named == BAKED_IN else make(modes=("resize",))
        self._native = self._container if named == BAKED_IN else None
        self.serves_its_own()

    def wait(self) -> None:
        """Wait until the container's networks are loaded; raise WeightsError if they are damaged."""
        self._container.wait()

    def serves_its_own(self) -> bool:
        """Tell whether the model that the stack names segments; if not, try to load it every five minutes."""
        if self._named == BAKED_IN or self._own:
            return True
        if self._clock() >= self._retry_at:
            self._retry_at = self._clock() + RETRY_SECONDS
            try:
                self._own = self._load(self._named)
            except ModelUnusable as error:
                self._logger.error(
                    "model_refused", model=self._named, error=str(error), what_to_do=WHAT_TO_DO
                )
        return self._own is not None

    @property
    def current(self) -> ServedModels:
        """The models that segment what no plate pins to another, by mode."""
        return {**self._container.manifests, MODE: self.present(MODE).manifests[MODE]}

    def choose(self, request: SegmentRequest) -> ServedModels:
        """Return the models for a request; the first image of a plate pins it to the present model."""
        plate = plate_of(request, self._pattern)
        if plate is None:
            return self.current
        present = self.present(MODE).manifests[MODE]
        pinned = self._pins.begin(plate, ServedModel(present.sha256, present.threshold, present.name))
        return {**self.current, MODE: pinned}

    def find(self, mode: Mode, sha256: str) -> Predictor:
        """Return the predictor with the network of a job.

        Raises:
            ModelUnusable: a plate is pinned to a model that is missing or damaged.
            ClientError: S3 has a fault that a retry may mend.
        """
        present = self.present(mode)
        if mode != MODE or present.manifests[MODE].sha256 == sha256:
            return present
        if sha256 == self._baked_in:
            return self._containers_native()
        try:
            return self._load(sha256)
        except ModelUnusable as error:
            raise ModelUnusable(
                f"the plate of this image began with the model {sha256[:12]}, which cannot be used now: "
                f"{error}; upload it again with `cytomask promote DIR --no-switch`, or give the plate "
                "another one with `cytomask plate NAME --pin MODEL`; then run `cytomask redrive`"
            ) from error

    def present(self, mode: Mode) -> Predictor:
        """Return the predictor that segments what no plate pins to another."""
        if mode != MODE:
            return self._container
        return self._own or self._containers_native()

    def _containers_native(self) -> Predictor:
        if self._native is None:
            self._native = self._make(modes=(MODE,))
        return self._native

    def _load(self, sha256: str) -> Predictor:
        """Return a network of the bucket, from memory, from disk or from S3."""
        if sha256 in self._kept:
            self._kept[sha256] = self._kept.pop(sha256)
            return self._kept[sha256]
        folder = CACHE / sha256
        try:
            self._store.fetch(sha256, folder / MODE)
            predictor = Predictor(folder, modes=(MODE,))
            predictor.wait()
        except WeightsError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise ModelUnusable(f"{self._store.uri(sha256)}: {error}") from error
        self._kept[sha256] = predictor
        self._make_room()
        return predictor

    def _make_room(self) -> None:
        """Forget the networks that were not used for longest, and delete their files."""
        others = [sha256 for sha256, predictor in self._kept.items() if predictor is not self._own]
        for sha256 in others[: len(self._kept) - MOST_KEPT]:
            del self._kept[sha256]
        for folder in CACHE.iterdir():
            if folder.name not in self._kept:
                shutil.rmtree(folder, ignore_errors=True)
