"""Read and write rows of one DynamoDB table with the keys `job_id` and `record`.

Other modules define the rows. Writing None or an empty string removes an attribute, because an index key must
not be empty.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

from cytomask.errors import code_of

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

Row = dict[str, Any]

MOST_READ_AT_ONCE = 100  # rows that DynamoDB returns for one BatchGetItem
LONGEST_SORT_KEY = 1024  # bytes, DynamoDB's limit; a partition key may be twice as long


class ConditionFailed(Exception):
    """The row did not meet the condition of a write."""


class Table:
    """Reads and conditional writes. DynamoDB's faults pass through as ClientError."""

    def __init__(self, dynamodb: "DynamoDBClient", name: str) -> None:
        self._dynamodb = dynamodb
        self._name = name

    def read(self, job_id: str, record: str) -> Row | None:
        """Read a row as it is now."""
        answer = self._dynamodb.get_item(TableName=self._name, Key=_key(job_id, record), ConsistentRead=True)
        return _plain(answer["Item"]) if "Item" in answer else None

    def rows(self, job_id: str, beginning: str = "") -> Iterator[Row]:
        """Read the rows of a partition as they are now; only those whose `record` begins so."""
        narrowed: dict[str, Any] = {
            "KeyConditionExpression": "job_id = :partition",
            "ExpressionAttributeValues": {":partition": {"S": job_id}},
        }
        if beginning:
            narrowed["KeyConditionExpression"] += " AND begins_with(#record, :beginning)"
            narrowed["ExpressionAttributeValues"][":beginning"] = {"S": beginning}
            narrowed["ExpressionAttributeNames"] = {"#record": "record"}
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._name, ConsistentRead=True, **narrowed
        )
        return (_plain(item) for page in pages for item in page["Items"])

    def newest(self, job_id: str, *, since: str, until: str) -> Iterator[list[Row]]:
        """Read the rows of a partition with a `record` between two texts, the last first, page by page.

        Rows written in the last second may be missing.
        """
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._name,
            KeyConditionExpression="job_id = :partition AND #record BETWEEN :since AND :until",
            ExpressionAttributeNames={"#record": "record"},
            ExpressionAttributeValues=_typed({":partition": job_id, ":since": since or "0", ":until": until}),
            ScanIndexForward=False,
        )
        return ([_plain(item) for item in page["Items"]] for page in pages)

    def read_many(
        self, keys: Sequence[tuple[str, str]], *, as_now: bool = False
    ) -> dict[tuple[str, str], Row]:
        """Read rows by their keys; missing rows are left out.

        Rows written in the last second may be missing, unless they are read `as_now`, for twice the price.
        """
        found: dict[tuple[str, str], Row] = {}
        for start in range(0, len(keys), MOST_READ_AT_ONCE):
            some = [_key(*key) for key in keys[start : start + MOST_READ_AT_ONCE]]
            asked: Any = {self._name: {"Keys": some, "ConsistentRead": as_now}}
            while asked:  # DynamoDB returns the keys that it had no capacity to read
                answer = self._dynamodb.batch_get_item(RequestItems=asked)
                rows = [_plain(item) for item in answer["Responses"].get(self._name, [])]
                found |= {(row["job_id"], row["record"]): row for row in rows}
                asked = answer.get("UnprocessedKeys")
        return found

    def put(self, row: Row) -> None:
        """Write a row, replacing any earlier one."""
        self._dynamodb.put_item(TableName=self._name, Item=_typed(_set(row)))

    def add(self, row: Row) -> Row:
        """Add a row unless it exists; return the row as it is now."""
        try:
            self._dynamodb.put_item(
                TableName=self._name,
                Item=_typed(_set(row)),
                ConditionExpression="attribute_not_exists(job_id)",
            )
        except ClientError as error:
            if not condition_failed(error):
                raise
            return self.read(row["job_id"], row["record"]) or row
        return row

    def update(
        self,
        job_id: str,
        record: str,
        *,
        values: Row,
        first: Row | None = None,
        condition: str | None = None,
        given: Row | None = None,
    ) -> Row:
        """Set attributes of a row; the row is created if it does not exist.

        Args:
            job_id: partition key.
            record: sort key.
            values: attributes to set.
            first: attributes to set only if they are absent.
            condition: condition that the row must meet. Names that DynamoDB reserves begin with `#`.
            given: the values that the condition refers to, by `:name`.

        Returns:
            The row as it was before.

        Raises:
            ConditionFailed: the condition is not met; nothing was set.
        """
        first, kept = first or {}, _set(values)
        gone = [name for name in values if name not in kept]
        sets = [f"#{name} = :{name}" for name in kept]
        sets += [f"#{name} = if_not_exists(#{name}, :{name})" for name in first]
        steps = [f"SET {', '.join(sets)}"] if sets else []
        steps += [f"REMOVE {', '.join(f'#{name}' for name in gone)}"] if gone else []
        conditional: dict[str, Any] = {"ConditionExpression": condition} if condition else {}
        try:
            answer = self._dynamodb.update_item(
                TableName=self._name,
                Key=_key(job_id, record),
                UpdateExpression=" ".join(steps),
                ExpressionAttributeNames={f"#{name}": name for name in [*values, *first]}
                | _reserved(condition or ""),
                ExpressionAttributeValues=_typed(
                    {f":{name}": value for name, value in (kept | first).items()} | (given or {})
                ),
                ReturnValues="ALL_OLD",
                **conditional,
            )
        except ClientError as error:
            if condition_failed(error):
                raise ConditionFailed(f"{job_id} {record}") from error
            raise
        return _plain(answer.get("Attributes", {}))

    def update_if(
        self, job_id: str, record: str, *, values: Row, condition: str, given: Row | None = None
    ) -> bool:
        """Set attributes of a row; return False if the condition is not met."""
        try:
            self.update(job_id, record, values=values, condition=condition, given=given)
        except ConditionFailed:
            return False
        return True

    def delete_if(self, job_id: str, record: str, *, condition: str, given: Row) -> bool:
        """Delete a row; return False if the condition is not met."""
        named: dict[str, Any] = {"ExpressionAttributeNames": names} if (names := _reserved(condition)) else {}
        try:
            self._dynamodb.delete_item(
                TableName=self._name,
                Key=_key(job_id, record),
                ConditionExpression=condition,
                ExpressionAttributeValues=_typed(given),
                **named,
            )
        except ClientError as error:
            if condition_failed(error):
                return False
            raise
        return True

    def indexed(
        self, index: str, value: str, *, since: str | None = None, until: str | None = None
    ) -> Iterator[Row]:
        """Read the rows under one value of the index `by_<index>`, the newest first; it may lag by a second.

        Args:
            index: name of the index without `by_`.
            value: value of the index's key.
            since: the earliest `created_at`, as `timestamp` writes it.
            until: the latest `created_at`.
        """
        times = (
            {":since": since or "0", ":until": until or "A"} if since or until else {}
        )  # years begin between
        pages = self._dynamodb.get_paginator("query").paginate(
            TableName=self._name,
            IndexName=f"by_{index}",
            KeyConditionExpression="#key = :value"
            + (" AND created_at BETWEEN :since AND :until" if times else ""),
            ExpressionAttributeNames={"#key": index},
            ExpressionAttributeValues=_typed({":value": value, **times}),
            ScanIndexForward=False,
        )
        return (_plain(item) for page in pages for item in page["Items"])


def timestamp(seconds: float) -> str:
    """Format seconds since 1970 as ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fitted(text: str, room: int = LONGEST_SORT_KEY) -> str:
    """Return the text if it has at most `room` bytes, otherwise a hash of it."""
    if len(text.encode()) <= room:
        return text
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


class _Reader(TypeDeserializer):
    """Reads numbers as int or float; floats were written with all their digits."""

    def _deserialize_n(self, value: str) -> int | float:
        number = Decimal(value)
        return int(number) if number == number.to_integral_value() else float(number)


_reader, _writer = _Reader(), TypeSerializer()


def _plain(item: Mapping[str, Any]) -> Row:
    row = {name: _reader.deserialize(value) for name, value in item.items()}
    if "made_at" in row:  # a job that no index lists has it instead of `created_at`
        row.setdefault("created_at", row["made_at"])
        del row["made_at"]
    return row


def _typed(values: Row) -> Row:
    return {name: _writer.serialize(_exact(value)) for name, value in values.items()}


def _exact(value: Any) -> Any:
    """Convert floats to Decimal, as DynamoDB requires, with the digits that Python prints."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_exact(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _exact(item) for name, item in value.items()}
    return value


def _set(values: Row) -> Row:
    return {name: value for name, value in values.items() if value is not None and value not in ("", [])}


def _key(job_id: str, record: str) -> Row:
    return {"job_id": {"S": job_id}, "record": {"S": record}}


def _reserved(condition: str) -> dict[str, str]:
    """Find the attribute names that a condition writes with a #, because DynamoDB reserves them."""
    return {f"#{name}": name for name in re.findall(r"#(\w+)", condition)}


def condition_failed(error: ClientError) -> bool:
    """Tell whether a write was refused because its condition does not hold."""
    return code_of(error) == "ConditionalCheckFailedException"
