"""Read jobs for the commands: their rows in the table, and their results in S3."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from cytomask.addresses import parse_uri
from cytomask.evaluations import AWAITING, Evaluations
from cytomask.leads import Leads
from cytomask.records import JOB, STATUSES, EvaluationRow, JobRow, Result
from cytomask.table import Table, timestamp

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

    from cytomask.storage import Storage

ID_DIGITS = 32
AT_ONCE = 8  # parallel reads, which mostly wait for AWS; boto3 keeps ten connections


@dataclass(frozen=True)
class Search:
    """The jobs to read; None means any. `since` and `until` limit the time of creation."""

    status: str | None = None
    group: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Rows:
    """A reader of the Jobs table. DynamoDB's faults pass through as ClientError."""

    def __init__(self, dynamodb: "DynamoDBClient", table: str) -> None:
        self._dynamodb = dynamodb
        self._name = table
        self._table = Table(dynamodb, table)
        self._leads = Leads(self._table)

    def jobs(self, search: Search) -> Iterator[JobRow]:
        """Read the jobs of a search, the newest first."""
        since, until = (timestamp(at.timestamp()) if at else "" for at in (search.since, search.until))
        rows = self._leads.jobs(status=search.status, group=search.group, since=since, until=until)
        return (msgspec.convert(row, JobRow, strict=False) for row in rows)

    def of(self, job_id: str) -> tuple[JobRow, list[EvaluationRow]] | None:
        """Read a job and its evaluations as they are now, the oldest first; None for an unknown job."""
        found = Evaluations(self._table).with_job(job_id)
        return found and (found[0], sorted(found[1], key=lambda row: row.created_at))

    def evaluations(self, jobs: Iterable[JobRow]) -> Iterator[list[EvaluationRow]]:
        """Read the evaluations of several jobs, in the order of the jobs."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for found in pool.map(lambda row: self.of(row.job_id), jobs):
                yield found[1] if found else []

    def ids(self, beginning: str) -> list[str]:
        """Find ids that begin with this text, not all: the newest of each status and of the newest day."""
        if len(beginning) >= ID_DIGITS:
            return [beginning] if self.of(beginning) else []
        found = set(self._leads.beginning(beginning))
        for status in STATUSES:
            found |= next(filter(None, self._beginning(status, beginning)), set())
        return sorted(found)

    def _beginning(self, status: str, beginning: str) -> Iterator[set[str]]:
        """Yield the matching ids of a status, the newest first, for each page of 1 MB that DynamoDB reads."""
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._name,
            IndexName="by_status",
            KeyConditionExpression="#status = :status",
            FilterExpression="begins_with(job_id, :beginning) AND #record = :job",
            ExpressionAttributeNames={"#status": "status", "#record": "record"},
            ExpressionAttributeValues={
                ":status": {"S": status},
                ":beginning": {"S": beginning},
                ":job": {"S": JOB},
            },
            ScanIndexForward=False,
        )
        return ({item["job_id"]["S"] for item in page["Items"]} for page in pages)


def arrived(evaluations: Iterable[EvaluationRow]) -> list[EvaluationRow]:
    """Select the evaluations whose ground truth has arrived, the oldest first."""
    return sorted((row for row in evaluations if row.record != AWAITING), key=lambda row: row.created_at)


def newest_score(evaluations: Iterable[EvaluationRow]) -> EvaluationRow | None:
    """Select the score against the newest ground truth; None if the job was not scored."""
    scored = [row for row in evaluations if row.evaluation_status == "SCORED"]
    return max(scored, key=lambda row: row.created_at, default=None)


def newest_evaluation(evaluations: Iterable[EvaluationRow]) -> EvaluationRow | None:
    """Select the newest score, or the evaluation against the newest ground truth if there is no score."""
    came = arrived(evaluations)
    return newest_score(came) or (came[-1] if came else None)


def read_result(storage: "Storage", uri: str | None) -> Result | None:
    """Read a job's result; None if it is gone or not a result. Raises ClientError if S3 refuses."""
    if not uri:
        return None
    place = parse_uri(uri, "result")
    stored = storage.read_output(place.bucket, place.key)
    try:
        return msgspec.json.decode(stored, type=Result) if stored else None
    except ValueError:
        return None
