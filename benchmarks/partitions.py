"""Simulate a second of heavy load on the Jobs table: `python -m benchmarks.partitions [--images N]`.

The layer's own code writes the rows to a table in memory. It adds up the write units in the partition of each
row and of each index entry. DynamoDB gives a partition 1,000 write units a second
(docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html).
"""

import argparse
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from cytomask.addresses import S3Object
from cytomask.infra.template import load_template
from cytomask.jobs import Jobs, Lease
from cytomask.names import Names
from cytomask.records import ImageIdentity, Result
from cytomask.table import Table

LIMIT = 1000
NOON = 1_800_014_400.0
Item = dict[str, Any]


class Meter:
    """A table in memory: takes the writes of `cytomask.table`, and adds up their units by partition."""

    def __init__(self) -> None:
        """Start empty, with the indexes of template.yaml."""
        table = load_template()["Resources"]["JobsTable"]["Properties"]
        self._indexes = {
            index["IndexName"]: tuple(key["AttributeName"] for key in index["KeySchema"])
            for index in table["GlobalSecondaryIndexes"]
        }
        self._items: dict[tuple[str, str], Item] = {}
        self.units: Counter[tuple[str, str]] = Counter()

    def put_item(self, *, Item: Item, **_: Any) -> Item:  # boto3's names
        """Write a whole row."""
        self._write(_plain(Item))
        return {}

    def update_item(self, *, Key: Item, UpdateExpression: str, **given: Any) -> Item:
        """Set and remove attributes; the conditions of this load are always met."""
        key = _plain(Key)
        before = self._items.get((key["job_id"], key["record"]), {})
        called, values = given["ExpressionAttributeNames"], _plain(given["ExpressionAttributeValues"])
        item = key | before
        for name, first, value in re.findall(
            r"(#\w+) = (?:if_not_exists\((#\w+), )?(:\w+)", UpdateExpression
        ):
            if not first or called[first] not in item:
                item[called[name]] = values[value]
        for name in re.findall(r"#\w+", UpdateExpression.partition("REMOVE")[2]):
            item.pop(called[name], None)
        self._write(item)
        return {"Attributes": _typed(before)}

    def _write(self, item: Item) -> None:
        key = item["job_id"], item["record"]
        before = self._items.get(key)
        self._items[key] = item
        self.units["table", key[0]] += _units(item)
        for index, parts in self._indexes.items():
            old, new = ([row.get(part) for part in parts] for row in (before or {}, item))
            if all(old) and old != new:
                self.units[index, str(old[0])] += _units(before or {})
            if all(new):
                self.units[index, str(new[0])] += _units(item)


def _plain(item: Mapping[str, Any]) -> Item:
    return {name: next(iter(value.values())) for name, value in item.items()}


def _typed(item: Item) -> Item:
    return {name: {"S" if isinstance(value, str) else "N": value} for name, value in item.items()}


def _units(item: Item) -> int:
    return -(-sum(len(name) + len(str(value)) for name, value in item.items()) // 1024)


def segment(meter: Meter, numbers: Iterable[int], *, group: str, seconds: float = 1.0) -> None:
    """Write the rows of these images, all of one group, as the segment function does within `seconds`."""
    client: Any = meter
    table = Table(client, "jobs")
    moment = NOON
    jobs, written = Jobs(table), Names(table, clock=lambda: moment)
    images = list(numbers)
    for place, number in enumerate(images):
        moment = NOON + seconds * place / len(images)
        image = S3Object("input", f"run {number % 50}/image_{number:07d}.tif", etag=f"{number:032x}")
        job_id = hashlib.sha256(image.uri.encode()).hexdigest()[:32]
        lease = jobs.take(
            job_id, image=image.uri, group=group, owner="it", now=moment, seconds=125, queued=True
        )
        assert isinstance(lease, Lease)
        result = Result(status="SUCCEEDED", job_id=job_id, image=ImageIdentity.of(image), group=group)
        result.mask = f"s3://output/{image.key}.mask.png"
        result.result = f"s3://output/{image.key}.result.json"
        written.enter(image, job_id, seconds=125, result=result.result)
        jobs.finish(lease, result, now=moment)


def main() -> None:
    """Print the busiest partitions of a second."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--images", type=int, default=10_000, help="in one second")
    given = parser.parse_args()
    meter = Meter()
    segment(meter, range(given.images), group="HeLa")
    total = sum(meter.units.values())
    print(f"{given.images:,} images of one group in a second: {total:,} write units")
    for (where, partition), units in meter.units.most_common(5):
        print(f"{units:>6,}  {where}  {partition}")
    print(f"the limit of a partition is {LIMIT:,}")


if __name__ == "__main__":
    main()
