"""Who writes under an image's own name: rows that let each writer see the others.

S3 cannot make a write depend on another object, so a writer checks that its image is the newest, and then
writes. If the image is overwritten in between, an older mask may lie under the name for a moment. The writer
checks again after its last write and repairs the name. If it is killed before that, its row is still here:
a writer that finds another's row asks for the name to be checked again when the other's time is up.
docs/decisions/09-newest-image-wins.md has the whole argument.
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
WRITER = "WRITER#"
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

    def enter(self, image: S3Object, writer: str, *, owner: str, seconds: float) -> None:
        """Announce a writer before it checks which image is the newest. `seconds`: how long it can work."""
        until = Decimal(str(round(self._clock() + seconds, 3)))
        row = {"job_id": f"{NAME}{image.uri}", "record": f"{WRITER}{writer}"}
        self._table.put(row | {"owner": owner, "lease_until": until})

    def leave(self, image: S3Object, writer: str, *, owner: str) -> None:
        """Remove a writer's row, once it has seen that its image is still the newest."""
        self._table.delete_if(
            f"{NAME}{image.uri}",
            f"{WRITER}{writer}",
            condition="#owner = :mine",
            given={":mine": owner},
        )

    def others(self, image: S3Object, writer: str) -> float:
        """Seconds until no other writer can be at work under an image's name; 0 if none can.

        Rows of writers whose time is up are removed.
        """
        now, latest = self._clock(), 0.0
        for row in self._table.rows(f"{NAME}{image.uri}"):
            if row["record"] == f"{WRITER}{writer}":
                continue
            if row["lease_until"] < now:
                given = {":owner": row["owner"], ":now": Decimal(str(now))}
                condition = "#owner = :owner AND lease_until < :now"
                self._table.delete_if(row["job_id"], row["record"], condition=condition, given=given)
            else:
                latest = max(latest, row["lease_until"] - now)
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
