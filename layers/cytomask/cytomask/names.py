"""Coordinate the writers of outputs under an image's own name: a row lets each writer see the others.

The same row leads from a ground truth to the image's jobs, so it lies where evaluations.py looks for them.

S3 cannot make a write depend on another object, so a writer checks that its image is the newest, and then
writes. If the image is overwritten in between, an older mask may lie under the name for a moment. The writer
checks again after its last write and repairs the name. If it is killed before that, the row still lists it.
A later writer finds it there and sends a message to check the name again once the first writer's time is up.
docs/decisions/09-newest-image-wins.md has the whole argument.

The row of a name stays. A name without a row has never had outputs, which saves its first writer a list call.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from cytomask.addresses import S3Object
from cytomask.arrivals import settling
from cytomask.table import Row, Table, fitted
from cytomask.truths import names

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

GROUND_TRUTH = "GROUND_TRUTH#"
TRUTH_OF = "TRUTH_OF#"
LONGEST_STEM = 900  # bytes; a sort key has 1,024, and a hash or a job's id comes behind
LONGEST_DELAY_SECONDS = 900  # SQS' own limit, and Lambda's for an invocation


class OtherWriters(NamedTuple):
    """The writers of an image's name besides the one that asks.

    Attributes:
        seconds: until those that may still work must have ended; 0 if there are none.
        ended: those whose time is up, each with its entry in the row.
    """

    seconds: float
    ended: dict[str, Any]


class Entered(NamedTuple):
    """What a writer learns when it is announced.

    Attributes:
        known: whether any writer was announced before, so that the name may have outputs.
        entry: the writer's entry in the row.
    """

    known: bool
    entry: dict[str, Any]


class Names:
    """The rows of writers under images' names. Faults of DynamoDB and SQS pass through as ClientError."""

    def __init__(
        self,
        table: Table,
        sqs: "SQSClient | None" = None,
        queue_url: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use the names in a table; `queue_url` is the segment queue's."""
        self._table = table
        self._sqs = sqs
        self._queue_url = queue_url
        self._clock = clock

    def enter(self, image: S3Object, writer: str, *, seconds: float, result: str | None = None) -> Entered:
        """Announce a writer, before it checks which image is the newest.

        Args:
            image: the image whose name it is, in any version.
            writer: id of the writer's job, or a word.
            seconds: the longest time that the writer can work.
            result: where its result will lie, if ground truths may find the job by the image's name.
        """
        entry: Row = {"until": Decimal(str(round(self._clock() + seconds, 3)))}
        if result:
            entry |= {"result": result, "etag": image.etag or ""}
        before = self._table.update(*_row_of(image), values={writer: entry, "image": image.uri})
        return Entered(bool(before), entry)

    def others(self, image: S3Object, writer: str) -> OtherWriters:
        """Return all other writers of an image's name."""
        now = self._clock()
        row = self._table.read(*_row_of(image)) or {}
        others = {name: entry for name, entry in writers_of(row) if name != writer}
        ended = {name: entry for name, entry in others.items() if entry["until"] < now}
        return OtherWriters(max([0.0, *(entry["until"] - now for entry in others.values())]), ended)

    def leads_to(self, image: S3Object, writer: str) -> bool:
        """Tell whether ground truths may find a writer's job by the image's name."""
        row = self._table.read(*_row_of(image)) or {}
        return "result" in row.get(writer, {})

    def forget(self, image: S3Object, writer: str, entry: Row) -> None:
        """Remove a writer that writes no more, unless it has entered again since.

        No output under the name is its own, so no ground truth needs to find its job there.
        """
        self._table.update_if(
            *_row_of(image),
            values={writer: None},
            condition=f"#{writer} = :seen",
            given={":seen": entry},
        )

    def look_again(self, image: S3Object, seconds: float) -> None:
        """Send a message to check an image's name again after this many seconds."""
        if self._sqs is None:
            raise TypeError("these names were made without a queue; pass `sqs` to send")
        self._sqs.send_message(
            QueueUrl=self._queue_url,
            MessageBody=settling(image),
            DelaySeconds=min(int(seconds) + 1, LONGEST_DELAY_SECONDS),
        )


def by_name(stem: str) -> str:
    """Return the partition of the images with a name; the stem has been cleaned, which works only once."""
    return f"{GROUND_TRUTH}image:{fitted(stem.rpartition('/')[2])}"


def of_stem(stem: str) -> str:
    """Return how the records of images with this shortest stem begin."""
    return f"{TRUTH_OF}{fitted(stem, LONGEST_STEM)}#"


def lead_to(image: str, end: str) -> tuple[str, str]:
    """Return the key of a row by which a ground truth finds the image with a key; `end` ends the record."""
    stem = names.shortest_stem(names.clean(image))
    return by_name(stem), f"{of_stem(stem)}{end}"


def writers_of(row: Row) -> Iterator[tuple[str, Row]]:
    """List the writers in the row of a name, each with its entry."""
    return ((name, entry) for name, entry in row.items() if isinstance(entry, dict))


def _row_of(image: S3Object) -> tuple[str, str]:
    return lead_to(image.key, hashlib.sha256(image.uri.encode()).hexdigest()[:32])
