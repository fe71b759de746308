"""Coordinate the writers of outputs under an image's own name: a row lets each writer see the others.

S3 cannot make a write depend on another object, so a writer checks that its image is the newest, and then
writes. If the image is overwritten in between, an older mask may lie under the name for a moment. The writer
checks again after its last write and repairs the name. If it is killed before that, the row still lists it.
A later writer finds it there and sends a message to check the name again once the first writer's time is up.
docs/decisions/09-newest-image-wins.md has the whole argument.

The row of a name stays. A name without a row has never had outputs, which saves its first writer a list call.
"""

import time
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from cytomask.addresses import S3Object
from cytomask.arrivals import settling
from cytomask.table import Table

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

NAME = "NAME#"
WRITERS = "WRITERS"  # each attribute of this row is a writer and the time when it must have ended
LONGEST_DELAY_SECONDS = 900  # SQS' own limit, and Lambda's for an invocation


class OtherWriters(NamedTuple):
    """The writers of an image's name besides the one that asks.

    Attributes:
        seconds: until those that may still work must have ended; 0 if there are none.
        ended: those whose time is up, each with the time when it was.
    """

    seconds: float
    ended: dict[str, float]


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

    def enter(self, image: S3Object, writer: str, *, seconds: float) -> bool:
        """Announce a writer, before it checks which image is the newest.

        Args:
            image: the image whose name it is, in any version.
            writer: id of the writer's job, or a word.
            seconds: the longest time that the writer can work.

        Returns:
            Whether any writer was announced before, so that the name may have outputs.
        """
        until = Decimal(str(round(self._clock() + seconds, 3)))
        return bool(self._table.update(f"{NAME}{image.uri}", WRITERS, values={writer: until}))

    def others(self, image: S3Object, writer: str) -> OtherWriters:
        """Return all other writers of an image's name."""
        now = self._clock()
        row = self._table.read(f"{NAME}{image.uri}", WRITERS) or {}
        others = {name: row[name] for name in row.keys() - {"job_id", "record", writer}}
        ended = {name: until for name, until in others.items() if until < now}
        return OtherWriters(max([0.0, *(until - now for until in others.values())]), ended)

    def forget(self, image: S3Object, writer: str, until: float) -> None:
        """Remove a writer whose time was up, unless it has entered again since."""
        self._table.update_if(
            f"{NAME}{image.uri}",
            WRITERS,
            values={writer: None},
            condition=f"#{writer} = :seen",
            given={":seen": until},
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
