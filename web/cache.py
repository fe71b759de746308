"""Keeps what was decoded last, within a number of bytes; two who want the same wait for one decoding."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar

MOST_BYTES = 768 * 2**20  # four pages of 64 megapixels with 16 bits, or some thousand of LIVECell's


class Sized(Protocol):
    """What says how much memory it takes."""

    @property
    def nbytes(self) -> int:
        """Bytes."""


Kept = TypeVar("Kept", bound=Sized)


class Cache:
    """Least recently used goes first. Safe to share between threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        """Keeps at most so many bytes, and the newest in any case."""
        self._most = most_bytes
        self._kept: OrderedDict[Hashable, Sized] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """What `make` returned for this key; what it raises passes through, and is not kept."""
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
