"""Keep the last decoded values, within a number of bytes; callers of the same value share one decoding."""

import secrets
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar

from cytomask.web.raster import Raster

MOST_OPENED = 512
MOST_BYTES = 768 * 2**20  # four pages of 64 megapixels with 16 bits, or some thousand of LIVECell's


class Sized(Protocol):
    """A value that knows how much memory it takes."""

    @property
    def nbytes(self) -> int:
        """Its bytes."""


Kept = TypeVar("Kept", bound=Sized)


class Cache:
    """Least recently used goes first. Safe to share between threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        """Keep at most `most_bytes`, but always the newest value."""
        self._most = most_bytes
        self._kept: OrderedDict[Hashable, Sized] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """Return what `make` returned for this key; its errors pass through and are not kept."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]  # type: ignore[return-value]  # the key says which kind
            try:
                made = make()
                with self._lock:
                    self._kept[key] = made
                    while (
                        sum(each.nbytes for each in self._kept.values()) > self._most and len(self._kept) > 1
                    ):
                        self._kept.popitem(last=False)
                return made
            finally:
                with self._lock:
                    self._making.pop(key, None)


class Opened:
    """Names for rasters that a view has open, so that a tile need not be looked up through row and result.

    A raster that the cache has dropped is gone here too; its tiles are then looked up again.
    """

    def __init__(self) -> None:
        """Begin without any."""
        self._kept: OrderedDict[str, weakref.ref[Raster]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, raster: Raster) -> str:
        """Name a raster; the name cannot be guessed."""
        name = secrets.token_urlsafe(12)
        with self._lock:
            self._kept[name] = weakref.ref(raster)
            while len(self._kept) > MOST_OPENED:
                self._kept.popitem(last=False)
        return name

    def find(self, name: str) -> Raster | None:
        """Find the raster of a name; None if it is gone."""
        with self._lock:
            found = self._kept.get(name)
        return found() if found else None
