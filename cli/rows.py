"""What the commands read from the Jobs table."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import TypeDeserializer

from cytomask.jobs import JOB, STATUSES
from cytomask.table import timestamp

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

Row = dict[str, Any]

ID_DIGITS = 32
AT_ONCE = 8  # each waits for AWS most of its time; boto3 keeps ten connections


@dataclass(frozen=True)
class Search:
    """Which jobs are asked for; None asks for all. `since` and `until` are of their creation."""

    status: str | None = None
    group: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Rows:
    """A reader of the Jobs table. DynamoDB's faults pass through as ClientError."""

    def __init__(self, dynamodb: "DynamoDBClient", table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    def jobs(self, search: Search) -> Iterator[Row]:
        """The jobs that are asked for, the newest first."""
        if search.group is not None:
            found = self._indexed("group", search.group, search)
            return (
                found if search.status is None else (row for row in found if row["status"] == search.status)
            )
        wanted = STATUSES if search.status is None else (search.status,)
        newest = [self._indexed("status", each, search) for each in wanted]
        return merge(*newest, key=lambda row: row["created_at"], reverse=True)

    def of(self, job_id: str) -> list[Row]:
        """A job's own row and those of its evaluations, as they are now."""
        asked = {"KeyConditionExpression": "job_id = :id", "ConsistentRead": True}
        return list(self._query(asked | {"ExpressionAttributeValues": {":id": {"S": job_id}}}))

    def of_each(self, jobs: Iterable[Row]) -> Iterator[list[Row]]:
        """The rows of several jobs, in their order."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield from pool.map(lambda row: self.of(row["job_id"]), jobs)

    def ids(self, beginning: str) -> list[str]:
        """The ids of jobs that begin so: of the newest ones, as far as the table was read to find any."""
        if len(beginning) >= ID_DIGITS:
            return [beginning] if any(row["record"] == JOB for row in self.of(beginning)) else []
        for status in STATUSES:
            for page in self._beginning(status, beginning):
                if page:
                    return sorted({row["job_id"] for row in page})
        return []

    def _beginning(self, status: str, beginning: str) -> Iterator[list[Row]]:
        """The jobs of a status whose id begins so, the newest first, by DynamoDB's pages of 1 MB read."""
        return self._pages(
            {
                "IndexName": "by_status",
                "KeyConditionExpression": "#status = :status",
                "FilterExpression": "begins_with(job_id, :beginning) AND #record = :job",
                "ExpressionAttributeNames": {"#status": "status", "#record": "record"},
                "ExpressionAttributeValues": {
                    ":status": {"S": status},
                    ":beginning": {"S": beginning},
                    ":job": {"S": JOB},
                },
                "ScanIndexForward": False,
            }
        )

    def _indexed(self, name: str, value: str, search: Search) -> Iterator[Row]:
        """What an index lists, the newest first, without the evaluations that it lists too."""
        conditions, values = ["#name = :name"], {":name": {"S": value}}
        first, last = (at and timestamp(at.timestamp()) for at in (search.since, search.until))
        if first and last:
            conditions.append("created_at BETWEEN :since AND :until")
        elif first or last:
            conditions.append("created_at >= :since" if first else "created_at <= :until")
        values |= {":since": {"S": first}} if first else {}
        values |= {":until": {"S": last}} if last else {}
        asked = {
            "IndexName": f"by_{name}",
            "KeyConditionExpression": " AND ".join(conditions),
            "ExpressionAttributeNames": {"#name": name},
            "ExpressionAttributeValues": values,
            "ScanIndexForward": False,
        }
        return (row for row in self._query(asked) if row["record"] == JOB)

    def _query(self, asked: dict[str, Any]) -> Iterator[Row]:
        return (row for page in self._pages(asked) for row in page)

    def _pages(self, asked: dict[str, Any]) -> Iterator[list[Row]]:
        plain = TypeDeserializer().deserialize
        pages = self._dynamodb.get_paginator("query").paginate(TableName=self._table, **asked)
        return (
            [{name: plain(value) for name, value in item.items()} for item in page["Items"]] for page in pages
        )


def newest_evaluation(rows: Iterable[Row]) -> Row:
    """The evaluation against the newest ground truth that came, a scored one first; empty where none came."""
    came = [row for row in rows if row.get("evaluation_status") not in (None, "AWAITING_GROUND_TRUTH")]
    scored = newest_score(came)
    return scored or max(came, key=lambda row: str(row["created_at"]), default={})


def newest_score(rows: Iterable[Row]) -> Row:
    """The scored evaluation against the newest version of the ground truth; empty where none is scored."""
    scored = [row for row in rows if row.get("evaluation_status") == "SCORED"]
    return max(scored, key=lambda row: row["created_at"], default={})
