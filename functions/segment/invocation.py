"""The call that a request came with, and the caller who waits for its answer."""

from collections.abc import Callable
from dataclasses import dataclass

LEASE_MARGIN_SECONDS = 5


@dataclass(frozen=True)
class Invocation:
    """The Lambda invocation that a request came with.

    Attributes:
        queued: whether a queue delivers the message again if this invocation is killed.
    """

    request_id: str
    remaining_seconds: Callable[[], float]
    cold_start: bool
    queued: bool

    @property
    def lease_seconds(self) -> float:
        """Seconds for which a job taken now must be leased."""
        return self.remaining_seconds() + LEASE_MARGIN_SECONDS


@dataclass(frozen=True)
class Waiting:
    """A caller who waits for the answer. `one_mask`: wants a PNG, which holds one mask."""

    one_mask: bool
