"""Job and evaluation rows in DynamoDB. The job row is the lock: who takes it, works.

Status of a job: QUEUED while it waits for its message, sent by HTTP or by a redrive; RUNNING; then
SUCCEEDED or REJECTED, or FAILED when its queue has given it up, which a redrive makes QUEUED again. What is
uploaded has no row before it is RUNNING. A row is keyed by `job_id` and `record`: `JOB`, or
`EVAL#<version>` for the ground truth of that version, or `EVAL#awaiting` while there is none. Rows of
another kind lead from a ground truth to its jobs, whether it is there already or not: their `job_id` is
`GROUND_TRUTH#<its address>`, their `record` `TRUTH_OF#<job id>`. A COCO file has many images and its
address is in no image's key, so it is also looked for as `coco:<image's name>`; a row `COCO#<image's name>`
for every file that names the image leads the other way. `COCO_FILE#<address>` says what became of a file.

The index by status lists whatever failed: an evaluation has a `status` beside its `evaluation_status` while
that is FAILED.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

from cytomask.errors import ImageReplaced, JobHeld
from cytomask.requests import S3Object

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

Row = dict[str, Any]

STATUSES = ("QUEUED", "RUNNING", "SUCCEEDED", "REJECTED", "FAILED")
FINISHED = ("SUCCEEDED", "REJECTED")
# A job that was withdrawn has no result, and can begin after all where an older version is the newest again.
NOT_HELD = (
    "attribute_not_exists(job_id) OR #status IN (:queued, :failed) "
    "OR (#status = :running AND lease_until < :now) "
    "OR (#status = :rejected AND error_code = :replaced AND attribute_not_exists(#result))"
)
JOB = "JOB"
AWAITING = "EVAL#awaiting"
TRUTH_OF = "TRUTH_OF#"
COCO = "COCO#"
COCO_FILE = "COCO_FILE#"


@dataclass(frozen=True)
class Lease:
    """The right to work on a job. `resumed`: it was known before, so an earlier owner may have done it."""

    job_id: str
    owner: str
    resumed: bool


class Jobs:
    """What the functions do with the Jobs table. DynamoDB's faults pass through as ClientError."""

    def __init__(self, dynamodb: "DynamoDBClient", table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table

    def queue(self, job_id: str, fields: Row, now: float) -> Row:
        """Notes that a job is asked for, unless it is known; returns its row as it is now."""
        item = fields | {"job_id": job_id, "record": JOB, "status": "QUEUED"}
        item |= {"created_at": timestamp(now), "updated_at": timestamp(now)}
        return self._add(item)

    def withdraw(self, job_id: str, others: Sequence[str], now: float) -> str | None:
        """Rejects a job that waits for a message which has become other jobs.

        Returns:
            The error that its row has now; None where it does not wait, or is one of the others.
        """
        if job_id in others:
            return None
        error = (
            "the image was replaced or deleted, or the model renewed, before the job began; "
            f"done in its place: job {', '.join(others)}"
        )
        ended = {"status": "REJECTED", "error_code": ImageReplaced.code, "error": error, "message": None}
        values = ended | {"updated_at": timestamp(now)}
        rejected = self._update_where("#status = :queued", {":queued": "QUEUED"}, job_id, JOB, values)
        return error if rejected else None

    def take(self, job_id: str, fields: Row, owner: str, now: float, seconds: float) -> Lease | Row:
        """Takes the job for `seconds`, or returns the row of a job that is finished already.

        Args:
            job_id: of the job.
            fields: what to note of it at once: `image`, `group`.
            owner: whoever works: the invocation's id.
            now: seconds since 1970.
            seconds: how long the owner can work at most.

        Raises:
            JobHeld: while another owner's lease lasts.
        """
        values = fields | {
            "status": "RUNNING",
            "owner": owner,
            "lease_until": Decimal(str(round(now + seconds, 3))),
            "error": None,
            "updated_at": timestamp(now),
        }
        first = {"created_at": timestamp(now), "attempt": 1}
        taken, row = self._update_unless_held(job_id, values, first, now)
        return Lease(job_id, owner, resumed=bool(row)) if taken else row

    def finish(self, lease: Lease, status: str, fields: Row, now: float) -> bool:
        """Ends a job with its status; False where the lease was lost and another owner ends it."""
        values = fields | {"status": status, "updated_at": timestamp(now)}
        return self._update_owned(lease, values)

    def release(self, lease: Lease, error: str, now: float) -> bool:
        """Gives the job back after a passing fault, so that the next delivery need not wait."""
        values = {"lease_until": Decimal(0), "error": error, "updated_at": timestamp(now)}
        return self._update_owned(lease, values)

    def fail(self, job_id: str, fields: Row, code: str, without_a_word: str, now: float) -> bool:
        """Ends a job whose message the queue has given up; False where it has ended already.

        Args:
            job_id: of the job, which has no row where no try came so far.
            fields: what to note of it: `image`, `group`, `message`.
            code: of the error.
            without_a_word: the error, where the last try has left none.
            now: seconds since 1970.

        Raises:
            JobHeld: while an owner's lease lasts.
        """
        ended = {"status": "FAILED", "error_code": code, "owner": None, "lease_until": None}
        values = fields | ended | {"updated_at": timestamp(now)}
        first = {"created_at": timestamp(now), "attempt": 1, "error": without_a_word}
        failed, _ = self._update_unless_held(job_id, values, first, now)
        return failed

    def queue_again(self, job_id: str, record: str, now: float) -> Row | None:
        """Makes a failed job or evaluation wait for its next attempt; None where it is not FAILED (any more).

        Returns:
            The row as it was, with the `message` to send.
        """
        name = "status" if record == JOB else "evaluation_status"
        row = self.read(job_id, record)
        if row is None or row.get(name) != "FAILED":
            return None
        gone = {"status": None, "error": None, "error_code": None}
        values = gone | {name: "QUEUED", "attempt": row.get("attempt", 1) + 1, "updated_at": timestamp(now)}
        again = self._update_where(f"#{name} = :failed", {":failed": "FAILED"}, job_id, record, values)
        return row if again else None

    def fail_again(self, row: Row) -> None:
        """Puts a row back that was to wait for its next attempt, where its message could not be sent."""
        self._dynamodb.put_item(TableName=self._table, Item=_typed(row))

    def failed(self) -> Iterator[Row]:
        """The jobs and evaluations that are FAILED, the latest first; the index may lag by a second."""
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._table,
            IndexName="by_status",
            KeyConditionExpression="#status = :failed",
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues={":failed": {"S": "FAILED"}},
            ScanIndexForward=False,
        )
        return (_plain(item) for page in pages for item in page["Items"])

    def forget_queued(self, job_id: str) -> None:
        """Takes a job's row away if it still waits for an attempt."""
        self._delete_where("#status = :queued", {":queued": "QUEUED"}, job_id, JOB)

    def note_group(self, job_id: str, group: str, now: float) -> None:
        """Sets the label that a job is reported by, and its evaluations with it."""
        values = {"group": group, "updated_at": timestamp(now)}
        for row in self.rows(job_id):
            self._update(job_id, row["record"], values, {}, "attribute_exists(job_id)", {})

    def reject_message(self, job_id: str, fields: Row, now: float) -> None:
        """Records a message that names no image and so never becomes a job that could be taken."""
        values = fields | {"status": "REJECTED", "updated_at": timestamp(now)}
        self._update(job_id, JOB, values, {"created_at": timestamp(now), "attempt": 1}, None, {})

    def read(self, job_id: str, record: str = JOB) -> Row | None:
        """A row as it is now, by a consistent read."""
        answer = self._dynamodb.get_item(TableName=self._table, Key=_key(job_id, record), ConsistentRead=True)
        return _plain(answer["Item"]) if "Item" in answer else None

    def expect_ground_truth(self, job_id: str, uris: Sequence[str], fields: Row, now: float) -> None:
        """Leads from every address under which a job's ground truth is looked for to the job."""
        for uri in uris:
            self._update(
                _of_ground_truth(uri), f"{TRUTH_OF}{job_id}", fields, {"created_at": timestamp(now)}, None, {}
            )

    def jobs_of_ground_truth(self, uri: str) -> Iterator[tuple[str, Row]]:
        """The ids of the jobs that look for their ground truth at this address, and what was noted."""
        for row in self.rows(_of_ground_truth(uri)):
            yield row["record"].removeprefix(TRUTH_OF), row

    def name_in_coco(self, name: str, coco: S3Object, fields: Row) -> None:
        """Notes that a COCO file speaks of the image `name`, unless a later upload of it has done so."""
        later = "attribute_not_exists(job_id) OR uploaded_at <= :uploaded_at"
        values = fields | {"version": coco.version, "uploaded_at": coco.uploaded_at}
        self._update_where(later, {}, f"{COCO}{name}", coco.uri, values)

    def cocos_that_name(self, name: str) -> Iterator[tuple[str, Row]]:
        """The addresses of the COCO files that speak of the image `name`, and what was noted."""
        for row in self.rows(f"{COCO}{name}"):
            yield row["record"], row

    def read_indexing(self, coco: S3Object) -> Row | None:
        """What became of an upload of a COCO file; None while it is not indexed."""
        return self.read(f"{COCO_FILE}{coco.uri}", _indexing(coco))

    def end_indexing(self, coco: S3Object, status: str, fields: Row, now: float) -> None:
        """Notes that an upload of a COCO file is INDEXED or REJECTED."""
        values = fields | {"index_status": status, "updated_at": timestamp(now)}
        first = {"created_at": timestamp(now)}
        self._update(f"{COCO_FILE}{coco.uri}", _indexing(coco), values, first, None, {})

    def await_ground_truth(self, job_id: str, fields: Row, now: float) -> None:
        """Notes that a job's mask is to be scored once its ground truth is there."""
        values = fields | {"evaluation_status": "AWAITING_GROUND_TRUTH", "updated_at": timestamp(now)}
        self._update(job_id, AWAITING, values, {"created_at": timestamp(now)}, None, {})

    def queue_evaluation(self, job_id: str, version: str, fields: Row, now: float) -> Row:
        """Adds the evaluation against a ground truth's version, unless it is there.

        Returns:
            The evaluation's row as it is now; QUEUED unless an earlier one got further.
        """
        item = fields | {"job_id": job_id, "record": f"EVAL#{version}", "evaluation_status": "QUEUED"}
        item |= {"created_at": timestamp(now), "updated_at": timestamp(now)}
        return self._add(item)

    def stop_awaiting(self, job_id: str, uri: str) -> None:
        """Ends the wait for a ground truth that has come, unless one of another address is waited for."""
        of_this = "attribute_not_exists(ground_truth) OR ground_truth = :uri"
        self._delete_where(of_this, {":uri": uri}, job_id, AWAITING)

    def end_evaluation(self, job_id: str, record: str, status: str, fields: Row, now: float) -> bool:
        """Ends a queued evaluation with its status; False where it has ended already."""
        values = {"message": None} | fields | {"evaluation_status": status, "updated_at": timestamp(now)}
        condition = "#evaluation_status = :queued"
        return self._update_where(condition, {":queued": "QUEUED"}, job_id, record, values)

    def listed(self, names: Mapping[str, str], start: Row | None, count: int) -> tuple[list[Row], Row | None]:
        """Jobs with these values of `status`, `group` or both, by one of the indexes; the newest first.

        Args:
            names: what to look for, at least one of the two.
            start: where an earlier list ended, as it said.
            count: how many rows to look at; evaluations of a group, and those that failed, count too.

        Returns:
            The jobs, and where to go on; None at the end.
        """
        (name, value), *rest = sorted(names.items())  # a group is smaller than a status
        filters = dict(rest) | {"record": JOB}
        going_on: dict[str, Any] = {"ExclusiveStartKey": _typed(start)} if start else {}
        answer = self._dynamodb.query(
            TableName=self._table,
            IndexName=f"by_{name}",
            KeyConditionExpression=f"#{name} = :{name}",
            ExpressionAttributeNames={f"#{each}": each for each in {name, *filters}},
            ExpressionAttributeValues=_typed(
                {f":{each}": text for each, text in {name: value, **filters}.items()}
            ),
            FilterExpression=" AND ".join(f"#{each} = :{each}" for each in filters),
            ScanIndexForward=False,
            Limit=count,
            **going_on,
        )
        end = answer.get("LastEvaluatedKey")
        return [_plain(item) for item in answer["Items"]], _plain(end) if end else None

    def rows(self, partition: str) -> Iterator[Row]:
        """All rows of a partition as they are now, by consistent reads: a job's own, and its evaluations."""
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="job_id = :partition",
            ExpressionAttributeValues={":partition": {"S": partition}},
            ConsistentRead=True,
        )
        return (_plain(item) for page in pages for item in page["Items"])

    def _update_unless_held(self, job_id: str, values: Row, first: Row, now: float) -> tuple[bool, Row]:
        """Sets attributes of a job that is neither finished nor held.

        Returns:
            Whether it did, and the row as it was before: else that of a finished job.

        Raises:
            JobHeld: while an owner's lease lasts.
        """
        known: Row = {f":{status.lower()}": status for status in ("QUEUED", "FAILED", "RUNNING", "REJECTED")}
        known |= {":replaced": ImageReplaced.code, ":now": Decimal(str(now))}
        try:
            return True, self._update(job_id, JOB, values, first, NOT_HELD, known)
        except ClientError as error:
            if not _condition_failed(error):
                raise
            row = self.read(job_id) or {}
            if row.get("status") in FINISHED:
                return False, row
            raise JobHeld(f"another invocation works on job {job_id}; its message is tried again") from error

    def _update_owned(self, lease: Lease, values: Row) -> bool:
        return self._update_where("#owner = :mine", {":mine": lease.owner}, lease.job_id, JOB, values)

    def _add(self, item: Row) -> Row:
        """Adds a row unless it is there; returns it as it is now."""
        try:
            self._dynamodb.put_item(
                TableName=self._table,
                Item=_typed({name: value for name, value in item.items() if _is_set(value)}),
                ConditionExpression="attribute_not_exists(job_id)",
            )
        except ClientError as error:
            if not _condition_failed(error):
                raise
            return self.read(item["job_id"], item["record"]) or item
        return item

    def _update_where(self, condition: str, extra: Row, job_id: str, record: str, values: Row) -> bool:
        """Sets attributes on a condition; False where it is not met."""
        try:
            self._update(job_id, record, values, {}, condition, extra)
        except ClientError as error:
            if _condition_failed(error):
                return False
            raise
        return True

    def _delete_where(self, condition: str, extra: Row, job_id: str, record: str) -> None:
        """Takes a row away on a condition."""
        named: dict[str, Any] = {"ExpressionAttributeNames": names} if (names := _reserved(condition)) else {}
        try:
            self._dynamodb.delete_item(
                TableName=self._table,
                Key=_key(job_id, record),
                ConditionExpression=condition,
                ExpressionAttributeValues=_typed(extra),
                **named,
            )
        except ClientError as error:
            if not _condition_failed(error):
                raise

    def _update(
        self, job_id: str, record: str, values: Row, first: Row, condition: str | None, extra: Row
    ) -> Row:
        """Sets attributes, those of `first` only where absent; returns the row as it was before.

        None removes an attribute; so does an empty string, which no index key may be.
        """
        kept = {name: value for name, value in values.items() if _is_set(value)}
        gone = [name for name in values if name not in kept]
        sets = [f"#{name} = :{name}" for name in kept]
        sets += [f"#{name} = if_not_exists(#{name}, :{name})" for name in first]
        expression = f"SET {', '.join(sets)}" + (
            f" REMOVE {', '.join(f'#{name}' for name in gone)}" if gone else ""
        )
        names = {f"#{name}": name for name in [*values, *first]} | _reserved(condition or "")
        conditional: dict[str, Any] = {"ConditionExpression": condition} if condition else {}
        answer = self._dynamodb.update_item(
            TableName=self._table,
            Key=_key(job_id, record),
            UpdateExpression=expression,
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=_typed(
                {f":{name}": value for name, value in (kept | first).items()} | extra
            ),
            ReturnValues="ALL_OLD",
            **conditional,
        )
        return _plain(answer.get("Attributes", {}))


def timestamp(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _of_ground_truth(uri: str) -> str:
    return f"GROUND_TRUTH#{uri}"


def coco_address(name: str) -> str:
    """The address under which jobs look for a COCO file that speaks of the image `name`."""
    return f"coco:{name}"


def _indexing(coco: S3Object) -> str:
    """Names an upload: the same bytes may come again after others, and are indexed again then."""
    return f"INDEX#{coco.version} {coco.uploaded_at}"


def _reserved(condition: str) -> dict[str, str]:
    """The names that a condition writes with a #, because DynamoDB has words that are spelt the same."""
    return {f"#{name}": name for name in re.findall(r"#(\w+)", condition)}


def _is_set(value: Any) -> bool:
    return value not in (None, "")


def _key(job_id: str, record: str) -> Row:
    return {"job_id": {"S": job_id}, "record": {"S": record}}


def _typed(values: Row) -> Row:
    serialise = TypeSerializer().serialize
    return {name: serialise(_exact(value)) for name, value in values.items()}


def _exact(value: Any) -> Any:
    """DynamoDB's numbers are decimal; a float keeps the digits that it prints."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, dict):
        return {name: _exact(item) for name, item in value.items()}
    return value


def _plain(item: Row) -> Row:
    deserialise = TypeDeserializer().deserialize
    return {name: deserialise(value) for name, value in item.items()}


def _condition_failed(error: ClientError) -> bool:
    return error.response.get("Error", {}).get("Code") == "ConditionalCheckFailedException"
