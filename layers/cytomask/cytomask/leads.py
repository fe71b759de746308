"""Leads list all jobs, day by day, in rows that spread over many partitions.

The indexes by status and by group hold only the jobs that need attention: QUEUED, REJECTED, FAILED, flagged,
or RUNNING after a failed attempt or for a direct call. These are few. All other jobs would fall into one
partition of an index, and DynamoDB allows a partition 1,000 writes a second. Therefore each job that is taken
gets a lead: a row `<time>#<job id>` under `DAY#<day>#<shard>`. Rows under `DAYS`, and for a group under
`DAYS#<group>`, list the days with leads.
Rows of earlier releases are still in the indexes.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from heapq import merge
from itertools import chain, groupby, islice
from typing import NamedTuple

from cytomask.records import JOB, STATUSES
from cytomask.table import MOST_READ_AT_ONCE, Row, Table, timestamp

INDEXED = ("QUEUED", "REJECTED", "FAILED")  # the indexes hold all jobs of these statuses
# A first attempt ends within 15 minutes. If it was killed, its message comes again within the queue's
# visibility timeout, of at most 12 hours, and the next attempt enters the job into the indexes. A direct call
# has no message that comes again, so its job is in the indexes from the start.
FIRST_ATTEMPT_SECONDS = 86_400
SHARDS = 16  # partitions of a day; at 10,000 jobs a second each gets 625
DAY = "DAY#"
DAYS = "DAYS"
AT_ONCE = 8  # queries in flight at a time


class Standing(NamedTuple):
    """A job's position in a list: the time when it was created, and its id."""

    created_at: str
    job_id: str


def partition_of(place: Standing) -> str:
    """Return the partition of a job's lead."""
    shard = int(sha256(place.job_id.encode()).hexdigest()[:8], 16) % SHARDS
    return _partition(place.created_at[:10], shard)


def _partition(day: str, shard: int) -> str:
    return f"{DAY}{day}#{shard:02d}"


class Leads:
    """Adds leads, and lists jobs. DynamoDB's faults pass through as ClientError."""

    def __init__(self, table: Table, clock: Callable[[], float] = time.time) -> None:
        self._table = table
        self._clock = clock
        self._noted: set[tuple[str, str]] = set()

    def add(self, place: Standing, group: str) -> None:
        """Add a job's lead, or change the group in it."""
        day = place.created_at[:10]
        for days in [DAYS, *([_days_of(group)] if group else [])]:
            if (days, day) not in self._noted:  # once for each process
                self._table.put({"job_id": days, "record": day})
                self._noted.add((days, day))
        record = f"{place.created_at}#{place.job_id}"
        lead = {"job_id": partition_of(place), "record": record, "job": place.job_id}
        self._table.put(lead | {"label": group})

    def jobs(
        self,
        *,
        status: str | None = None,
        group: str | None = None,
        since: str = "",
        until: str = "",
        before: Standing | None = None,
    ) -> Iterator[Row]:
        """Read the rows of jobs, the newest first; rows written in the last second may be missing.

        Args:
            status: only jobs of this status; None for any.
            group: only jobs of this group; None for any.
            since: the earliest `created_at`; empty for any.
            until: the latest `created_at`; empty for any.
            before: only jobs that follow this position in the list.
        """
        for row in self.examined(status=status, group=group, since=since, until=until, before=before):
            if status in (None, row["status"]) and group in (None, row.get("group", "")):
                yield row

    def examined(
        self, *, status: str | None, group: str | None, since: str, until: str, before: Standing | None
    ) -> Iterator[Row]:
        """Read every row that a search has to look at, in the order of `jobs`."""
        if before:
            until = min(until, before.created_at) if until else before.created_at
        sources = [self._indexed("group", group, since, until)] if group is not None else []
        if group is None:
            wanted = STATUSES if status is None else (status,)
            sources = [self._indexed("status", each, since, until) for each in wanted]
        if status not in INDEXED:
            begun = timestamp(self._clock() - FIRST_ATTEMPT_SECONDS) if status == "RUNNING" else ""
            sources.append(self._led(group, max(since, begun), until))
        last = before
        for row in merge(*sources, key=standing_of, reverse=True):
            place = standing_of(row)
            if last is None or place < last:  # a job may be in an index and have a lead
                last = place
                yield row

    def beginning(self, job_id: str) -> list[str]:
        """Find the ids in the leads that begin with this text; stop at the newest day that has any."""
        for day in self._days(DAYS, "", ""):
            found = {lead["job"] for lead in self._leads(day, "", "") if lead["job"].startswith(job_id)}
            if found:
                return sorted(found)
        return []

    def _indexed(self, name: str, value: str, since: str, until: str) -> Iterator[Row]:
        rows = self._table.indexed(name, value, since=since or None, until=until or None)
        for _, same_time in groupby(rows, key=lambda row: row["created_at"]):
            yield from sorted(
                (row for row in same_time if row["record"] == JOB), key=standing_of, reverse=True
            )

    def _led(self, group: str | None, since: str, until: str) -> Iterator[Row]:
        """Read the rows that leads point to; skip leads that a job no longer has."""
        days = self._days(DAYS if group is None else _days_of(group), since, until)
        leads = chain.from_iterable(self._leads(day, since, until) for day in days)
        wanted = (lead for lead in leads if group is None or lead.get("label") == group)
        while some := list(islice(wanted, MOST_READ_AT_ONCE)):
            rows = self._table.read_many([(lead["job"], JOB) for lead in some])
            for lead in some:
                row = rows.get((lead["job"], JOB))
                if row and f"{row['created_at']}#{row['job_id']}" == lead["record"]:
                    yield row

    def _days(self, partition: str, since: str, until: str) -> list[str]:
        """List the days that have leads, the newest first."""
        days = [row["record"] for row in self._table.rows(partition)]
        return sorted((day for day in days if since[:10] <= day <= (until[:10] or "A")), reverse=True)

    def _leads(self, day: str, since: str, until: str) -> Iterator[Row]:
        """Read the leads of a day, the newest first."""
        pages = [
            self._table.newest(_partition(day, shard), since=since, until=f"{until}$" if until else "A")
            for shard in range(SHARDS)
        ]  # in ASCII, `$` follows the `#` that ends a time
        with ThreadPoolExecutor(AT_ONCE) as pool:
            first: list[list[Row]] = list(pool.map(_first_page, pages))
        shards = [chain(begun, chain.from_iterable(more)) for begun, more in zip(first, pages, strict=True)]
        yield from merge(*shards, key=lambda lead: str(lead["record"]), reverse=True)


def _first_page(pages: Iterator[list[Row]]) -> list[Row]:
    return next(pages, [])


def standing_of(row: Row) -> Standing:
    """Return the position of a job's row in a list."""
    return Standing(row["created_at"], row["job_id"])


def _days_of(group: str) -> str:
    return f"{DAYS}#{group}"
