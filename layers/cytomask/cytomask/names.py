"""Who writes under an image's own name: a row that lets each writer see the others.

S3 cannot make a write depend on another object, so a writer checks that its image is the newest, and then
writes. If the image is overwritten in between, an older mask may lie under the name for a moment. The writer
checks again after its last write and repairs the name. If it is killed before that, the row still names it:
a writer that finds another whose time is not up asks for the name to be checked again when it is.
docs/decisions/09-newest-image-wins.md has the whole argument.

The row of a name stays: a name without one has never had outputs, which spares its first writer a list call.
"""

import time
from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING

from cytomask.addresses import S3Object
from cytomask.arrivals import settling
from cytomask.table import Table

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

NAME = "NAME#"
WRITERS = "WRITERS"  # each of its attributes is a writer, and the time at which it will have ended
LONGEST_DELAY_SECONDS = 900  # SQS' own limit, and Lambda's for an invocation


class Names:
    """The rows of writers under images' names. Faults of DynamoDB and SQS pass through as ClientError."""

    def __init__(
        self,
        table: Table,
        sqs: "SQSClient | None" = None,
        queue_url: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Names of a table's stack; `queue_url` is that of the segment queue."""
        self._table = table
        self._sqs = sqs
        self._queue_url = queue_url
        self._clock = clock

    def enter(self, image: S3Object, writer: str, *, seconds: float) -> bool:
        """Announce a writer, before it looks which image is the newest.

        Args:
            image: whose name it is, in any version.
            writer: id of its job, or a word.
            seconds: how long it can work.

        Returns:
            Whether anybody was announced here before, so that outputs may lie under the name.
        """
        until = Decimal(str(round(self._clock() + seconds, 3)))
        return bool(self._table.update(f"{NAME}{image.uri}", WRITERS, values={writer: until}))

    def others(self, image: S3Object, writer: str) -> float:
        """Seconds until no other writer can be at work under an image's name; 0 if none can.

        Writers whose time is up are removed.
        """
        now, latest = self._clock(), 0.0
        row = self._table.read(f"{NAME}{image.uri}", WRITERS) or {}
        for other in row.keys() - {"job_id", "record", writer}:
            if row[other] < now:
                self._table.update_if(
                    row["job_id"],
                    WRITERS,
                    values={other: None},
                    condition=f"#{other} = :seen",
                    given={":seen": row[other]},
                )
            else:
                latest = max(latest, row[other] - now)
        return latest

    def look_again(self, image: S3Object, seconds: float) -> None:
        """Send a message to check an image's name again after this many seconds."""
        if self._sqs is None:
            raise TypeError("these names were made without a queue; pass `sqs` to send")
        self._sqs.send_message(
            QueueUrl=self._queue_url,
            MessageBody=settling(image),
            DelaySeconds=min(int(seconds) + 1, LONGEST_DELAY_SECONDS),
        )
