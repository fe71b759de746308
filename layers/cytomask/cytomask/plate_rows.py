"""Read and write plates in the Jobs table: pages through the index `by_plate`, and each plate's counts.

A job's row has `plate` and `place` (well, time and site), the keys of the index. The table also has rows
whose `job_id` is

* `PLATES`, with a plate's name as `record`: its counts, to list plates without their pages;
* `PLATE#<name>`, with the records `WELL#<well>` for the places that ended, and `MAP` for the plate map.

Places are kept as sets, which makes counting safe: a page that is delivered repeatedly, in any order, is in
its well's set once. Each well's counts are copied into its plate's row, where a larger number of pages is a
later one. A job may also leave a well: that adds `DEPARTURE` to the number, so that it still grows.
"""

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import msgspec
from botocore.exceptions import ClientError

from cytomask.errors import InvalidPlateMap
from cytomask.plate_pages import PlatePage
from cytomask.plate_places import integer, pages_of_row, places_of, plain, read_time, time_of, times_of
from cytomask.platemap import PlateMap
from cytomask.records import JobRow
from cytomask.table import condition_failed

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

INDEX = "by_plate"
LIST = "PLATES"
MAP = "MAP"
ENDED = ("SUCCEEDED", "REJECTED", "FAILED")
DEPARTURE = 1_000_000  # more pages than a well can have
Row = Mapping[str, Any]
ENOUGH_PAGES = 2500  # in one answer: with the last stack's own at most 4,600, and an answer has 6 MB
LARGEST_MAP = 380_000  # bytes; a row of DynamoDB has at most 400 KB


class PlateSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The counts of a plate.

    Attributes:
        plate: its name.
        wells, scans: number of wells and scans with pages. Dates count by the hour, because a scan takes
            minutes.
        first, last: time of the first and the last scan: hours, or ISO dates to the hour.
        pages: number of pages with a mask.
        failed: number of pages that were rejected or failed for good.
        expected_pages: pages of the whole experiment, if a request or a plate map gives their number.
        completed_at: when the last expected page ended.
        cost_usd: estimated cost of all its jobs, including repeats.
    """

    plate: str
    wells: int = 0
    scans: int = 0
    first: float | str | None = None
    last: float | str | None = None
    pages: int = 0
    failed: int = 0
    expected_pages: int | None = None
    completed_at: str | None = None
    cost_usd: float = 0.0

    @property
    def complete(self) -> bool | None:
        """Whether every expected page has ended; None if the number is unknown."""
        return None if self.expected_pages is None else self.pages + self.failed >= self.expected_pages

    def shown(self) -> dict[str, Any]:
        """Return the counts as JSON values, those of 0 too, and whether the plate is complete."""
        counts = {name: getattr(self, name) for name in ("wells", "scans", "pages", "failed", "cost_usd")}
        told: dict[str, Any] = msgspec.to_builtins(self)
        return told | counts | {"complete": self.complete}


class StoredMap(msgspec.Struct, frozen=True, kw_only=True):
    """The plate map that was uploaded last: its address, and its content or the reason why it is unusable."""

    uri: str
    plate_map: PlateMap | None = None
    error: str | None = None


class Plates:
    """Read and write plates, for functions and commands. DynamoDB's faults pass through as ClientError."""

    def __init__(self, dynamodb: "DynamoDBClient", table: str) -> None:
        self._dynamodb = dynamodb
        self._table = table
        self._known: set[str] = set()

    def note(
        self,
        plate: str,
        well: str,
        *,
        places: Collection[str],
        times: Collection[str],
        masked: bool,
        cost_usd: float,
        now: str,
    ) -> PlateSummary:
        """Count pages of one image that ended; a repeat changes nothing but the cost.

        Args:
            plate: its name.
            well: name of the well, such as `B02`.
            places: one text for each page: site, time and number in the stack.
            times: times as `time_of` writes them.
            masked: whether the pages have masks; otherwise they were rejected or failed.
            cost_usd: estimated cost of the job.
            now: time in ISO 8601.
        """
        self._make(plate, now)
        counted = self._note_well(plate, well, places, masked, cost_usd)
        row = self._copy_counts(plate, well, counted, times, now)
        return _summary(row) if row is not None else self.summary(plate) or PlateSummary(plate=plate)

    def leave(
        self, job_id: str, placed: Row, *, pages: int, times: Collection[str], cost_usd: float, now: str
    ) -> None:
        """Take back the counts of a job that moves elsewhere; a repeat changes nothing.

        The place stays counted if another job has it. The index tells, so a job that ended within the last
        second may be missed.

        Args:
            job_id: id of the job.
            placed: attributes of its row, from `columns_of`.
            pages: number of its pages.
            times: its scans, as `time_of` writes them.
            cost_usd: its estimated cost.
            now: time in ISO 8601.
        """
        plate, well = placed["plate"], placed["well"]
        places = places_of(placed, range(max(pages, 1)))
        key = f"PLATE#{plate}", f"WELL#{well}"
        row = self._update(
            *key,
            expression="ADD departures :one, departed_usd :cost DELETE done :places, failed :places",
            values={
                ":one": {"N": "1"},
                ":cost": {"N": _decimal(cost_usd)},
                ":places": {"SS": places},
                ":place": {"S": places[0]},
            },
            condition="contains(done, :place) OR contains(failed, :place)",
        ) or self._read(*key)
        if row is None:
            return
        self._copy_counts(plate, well, row, (), now)
        if times:
            self._update(
                LIST, plate, expression="DELETE scans :times", values={":times": {"SS": sorted(times)}}
            )
        for other in self._at_place(plate, placed["place"]):
            if other["job_id"] != job_id and other["status"] in ENDED:
                self.note(
                    plate,
                    well,
                    places=places_of(other, range(integer(other.get("pages")) or 1)),
                    times=_scans_of(other),
                    masked=other["status"] == "SUCCEEDED",
                    cost_usd=0.0,
                    now=now,
                )
        # A page that was counted meanwhile added its scan before or after the deletion; this read finds both.
        if still := [time for time in times if self._has_scan(plate, time, job_id)]:
            self._update(LIST, plate, expression="ADD scans :times", values={":times": {"SS": still}})

    def place(self, job_id: str, values: Row) -> bool:
        """Set plate, place and the rest in a job's row; return False if the row is gone or has a plate."""
        named = {f"#{name}": name for name in values}
        expression = "SET " + ", ".join(f"#{name} = :{name}" for name in values)
        placed = self._update(
            job_id,
            "JOB",
            expression=expression,
            names=named,
            values={f":{name}": _typed(value) for name, value in values.items()},
            condition="attribute_exists(job_id) AND attribute_not_exists(place)",
        )
        return placed is not None

    def expect(self, plate: str, pages: int, *, now: str) -> PlateSummary:
        """Store how many pages a plate will have."""
        self._make(plate, now)
        row = self._update(
            LIST,
            plate,
            expression="SET expected_pages = :pages, updated_at = :now",
            values={":pages": {"N": str(pages)}, ":now": {"S": now}},
        )
        return _summary(row or {})

    def claim_completion(self, plate: str, *, now: str) -> bool:
        """Mark a plate as complete; return True only to the caller who did so first."""
        claimed = self._update(
            LIST,
            plate,
            expression="SET completed_at = :now",
            values={":now": {"S": now}},
            condition="attribute_not_exists(completed_at)",
        )
        return claimed is not None

    def give_completion_back(self, plate: str) -> None:
        """Remove the mark, so that the next page announces the plate: this announcement could not be sent."""
        self._update(LIST, plate, expression="REMOVE completed_at")

    def summaries(self) -> Iterator[PlateSummary]:
        """List all plates that have wells, by name.

        A row without wells has only a map or a number of expected pages. Its name may be the map's alone.
        """
        asked = {
            "KeyConditionExpression": "job_id = :list",
            "ExpressionAttributeValues": {":list": {"S": LIST}},
            "ConsistentRead": True,
        }
        found = (_summary(row) for page in self._pages_of(asked) for row in page)
        return (summary for summary in found if summary.wells)

    def summary(self, plate: str) -> PlateSummary | None:
        """Read a plate's counts; None for an unknown plate."""
        row = self._read(LIST, plate)
        return _summary(row) if row else None

    def put_map(self, plate: str, stored: StoredMap, *, now: str) -> None:
        """Store a plate's map, replacing an earlier one.

        Raises:
            InvalidPlateMap: it is too large for a row.
        """
        # Unpacked, a map of 1,536 wells with long names would exceed a row.
        content = zlib.compress(msgspec.json.encode(stored))
        if len(content) > LARGEST_MAP:
            raise InvalidPlateMap(
                f"the plate map takes {len(content) / 1000:.0f} kB when packed, and at most "
                f"{LARGEST_MAP / 1000:.0f} kB can be kept; shorten its conditions' names"
            )
        self._make(plate, now)
        self._dynamodb.put_item(
            TableName=self._table,
            Item={
                "job_id": {"S": f"PLATE#{plate}"},
                "record": {"S": MAP},
                "content": {"B": content},
                "updated_at": {"S": now},
            },
        )

    def map_of(self, plate: str) -> StoredMap | None:
        """Read a plate's map; None if none was uploaded."""
        row = self._read(f"PLATE#{plate}", MAP)
        return msgspec.json.decode(zlib.decompress(bytes(row["content"])), type=StoredMap) if row else None

    def pages(self, plate: str, well: str | None = None) -> Iterator[PlatePage]:
        """Read the pages of a plate or a well, by well, site and time; the index may lag by a second."""
        asked = _query(plate, well)
        return (page for rows in self._pages_of(asked) for row in rows for page in pages_of_row(row))

    def some_pages(
        self, plate: str, *, well: str | None, start: Row | None, count: int
    ) -> tuple[list[PlatePage], Row | None]:
        """Read some of a plate's pages.

        Args:
            plate: its name.
            well: only pages of this well.
            start: where the previous answer ended.
            count: how many jobs to read; a stack has several pages, so fewer may be enough.

        Returns:
            The pages, and where to continue; None at the end.
        """
        asked = _query(plate, well) | {"Limit": count}
        if start:
            asked["ExclusiveStartKey"] = {name: {"S": value} for name, value in start.items()}
        answer = self._dynamodb.query(TableName=self._table, **asked)
        end = answer.get("LastEvaluatedKey")
        pages: list[PlatePage] = []
        for place, item in enumerate(answer["Items"]):
            if len(pages) >= ENOUGH_PAGES:
                last = answer["Items"][place - 1]
                end = {name: last[name] for name in ("job_id", "record", "plate", "place")}
                break
            pages += pages_of_row(plain(item))
        return pages, plain(end) if end else None

    def _make(self, plate: str, now: str) -> None:
        """Add the plate's row unless it exists: nested fields can be set only in an existing row."""
        if plate in self._known:
            return
        try:
            self._dynamodb.put_item(
                TableName=self._table,
                Item={
                    "job_id": {"S": LIST},
                    "record": {"S": plate},
                    "ended": {"M": {}},
                    "failed": {"M": {}},
                    "cost": {"M": {}},
                    "created_at": {"S": now},
                },
                ConditionExpression="attribute_not_exists(job_id)",
            )
        except ClientError as error:
            if not condition_failed(error):
                raise
        self._known.add(plate)

    def _note_well(
        self, plate: str, well: str, places: Collection[str], masked: bool, cost_usd: float
    ) -> Row:
        """Add places to their well; return the well's row."""
        expression = (
            "ADD done :places, cost :cost DELETE failed :places"
            if masked
            else ("ADD failed :places, cost :cost")
        )
        row = self._update(
            f"PLATE#{plate}",
            f"WELL#{well}",
            expression=expression,
            values={":places": {"SS": sorted(places)}, ":cost": {"N": _decimal(cost_usd)}},
        )
        return row or {}

    def _copy_counts(
        self, plate: str, well: str, counted: Row, times: Collection[str], now: str
    ) -> Row | None:
        """Copy a well's counts into its plate's row; return that row, or None if it has later ones."""
        ended, failed = _places(counted), set(counted.get("failed", ())) - set(counted.get("done", ()))
        departures = integer(counted.get("departures")) or 0
        cost = max(counted.get("cost", 0.0) - counted.get("departed_usd", 0.0), 0.0)
        return self._update(
            LIST,
            plate,
            expression="SET ended.#well = :ended, failed.#well = :failed, cost.#well = :cost, "
            "updated_at = :now" + (" ADD scans :times" if times else ""),
            names={"#well": well},
            values={
                ":ended": {"N": str(len(ended) + DEPARTURE * departures)},
                ":failed": {"N": str(len(failed))},
                ":cost": {"N": _decimal(cost)},
                ":now": {"S": now},
                **({":times": {"SS": sorted(times)}} if times else {}),
            },
            condition="attribute_not_exists(ended.#well) OR ended.#well <= :ended",
        )

    def _at_place(self, plate: str, place: str) -> list[Row]:
        """Read the jobs of one place, in all channels; the index may lag by a second."""
        asked = _query(plate, None)
        asked["KeyConditionExpression"] += " AND place = :place"
        asked["ExpressionAttributeValues"] |= {":place": {"S": place}}
        return [row for rows in self._pages_of(asked) for row in rows]

    def _has_scan(self, plate: str, time: str, left: str) -> bool:
        """Tell whether a page of this scan is counted in any well, or another job than `left` has one."""
        asked = {
            "KeyConditionExpression": "job_id = :plate AND begins_with(#record, :well)",
            "ExpressionAttributeNames": {"#record": "record"},
            "ExpressionAttributeValues": {":plate": {"S": f"PLATE#{plate}"}, ":well": {"S": "WELL#"}},
            "ConsistentRead": True,
        }
        if any(
            f"#{time}" in place for rows in self._pages_of(asked) for row in rows for place in _places(row)
        ):
            return True
        # Only the index knows the later frames of stacks.
        stacks = (row for rows in self._pages_of(_query(plate, None)) for row in rows if row.get("series"))
        return any(time in _scans_of(row) for row in stacks if row["job_id"] != left)

    def _update(
        self,
        job_id: str,
        record: str,
        *,
        expression: str,
        values: Mapping[str, Any] | None = None,
        names: Mapping[str, str] | None = None,
        condition: str | None = None,
    ) -> Row | None:
        """Update a row; return it as it is now, or None if the condition is not met."""
        asked: dict[str, Any] = {"ConditionExpression": condition} if condition else {}
        asked |= {"ExpressionAttributeNames": names} if names else {}
        asked |= {"ExpressionAttributeValues": values} if values else {}
        try:
            answer = self._dynamodb.update_item(
                TableName=self._table,
                Key={"job_id": {"S": job_id}, "record": {"S": record}},
                UpdateExpression=expression,
                ReturnValues="ALL_NEW",
                **asked,
            )
        except ClientError as error:
            if condition and condition_failed(error):
                return None
            raise
        return plain(answer["Attributes"])

    def _read(self, job_id: str, record: str) -> Row | None:
        answer = self._dynamodb.get_item(
            TableName=self._table,
            Key={"job_id": {"S": job_id}, "record": {"S": record}},
            ConsistentRead=True,
        )
        return plain(answer["Item"]) if "Item" in answer else None

    def _pages_of(self, asked: Mapping[str, Any]) -> Iterator[list[Row]]:
        """Query in pages of 1 MB."""
        for answer in self._dynamodb.get_paginator("query").paginate(TableName=self._table, **asked):
            yield [plain(item) for item in answer["Items"]]


def note_row(plates: Plates, row: JobRow, placed: Mapping[str, Any]) -> None:
    """Put a job of an earlier release on its plate: its row, and the plate's counts."""
    if row.status in ENDED:
        plates.note(
            placed["plate"],
            placed["well"],
            places=places_of(placed, range(row.pages or 1)),
            times=times_of(placed),
            masked=row.status == "SUCCEEDED",
            cost_usd=row.estimated_cost_usd or 0.0,
            now=row.updated_at or row.created_at,
        )
    plates.place(row.job_id, placed)  # last, so that a run that stops in between repeats both


def _typed(value: float | str) -> dict[str, str]:
    return {"S": value} if isinstance(value, str) else {"N": repr(value)}


def _decimal(value: float) -> str:
    """Format a number to a billionth, without an exponent."""
    return f"{value:.9f}".rstrip("0").rstrip(".")


def _query(plate: str, well: str | None) -> dict[str, Any]:
    condition, values = "plate = :plate", {":plate": {"S": plate}}
    if well is not None:
        condition, values = (
            f"{condition} AND begins_with(place, :well)",
            values | {":well": {"S": f"{well}#"}},
        )
    return {
        "IndexName": INDEX,
        "KeyConditionExpression": condition,
        "ExpressionAttributeValues": values,
    }


def _scans_of(row: Row) -> set[str]:
    """Return the scans of a job's pages."""
    return {time for page in pages_of_row(row) if (time := time_of(page.time, page.frame))}


def _places(well: Row) -> Set[str]:
    """Return the places that ended in a well."""
    return set(well.get("done", ())) | set(well.get("failed", ()))


def _summary(row: Row) -> PlateSummary:
    scans: Sequence[str] = sorted(row.get("scans", ()))
    pages = {well: number % DEPARTURE for well, number in row["ended"].items()}
    ended, failed = sum(pages.values()), sum(row["failed"].values())
    return PlateSummary(
        plate=row["record"],
        wells=sum(number > 0 for number in pages.values()),
        scans=len(scans),
        first=read_time(scans[0]) if scans else None,
        last=read_time(scans[-1]) if scans else None,
        pages=int(ended - failed),
        failed=int(failed),
        expected_pages=integer(row.get("expected_pages")),
        completed_at=row.get("completed_at"),
        cost_usd=sum(row["cost"].values()),
    )
