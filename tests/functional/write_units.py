"""Count the write units of a DynamoDB table like AWS: for the row, and for its entry in each index.

docs.aws.amazon.com/amazondynamodb/latest/developerguide/GSI.html#GSI.ThroughputConsiderations.Writes
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

Item = Mapping[str, Any]
Snapshot = Mapping[tuple[str, str], Item]

KILOBYTE = 1024


def snapshot(table: Any) -> Snapshot:
    """Return all items of a small table by their keys."""
    return {(item["job_id"], item["record"]): item for item in table.scan()["Items"]}


def units_of(before: Snapshot, after: Snapshot, indexes: Mapping[str, str]) -> int:
    """Count the write units between two states of a table, of which one write at most made the second.

    Args:
        before, after: the states.
        indexes: partition key -> sort key of each index; all attributes are projected.
    """
    changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    assert len(changed) < 2, changed
    return sum(_units(before.get(key), after.get(key), indexes) for key in changed)


def _units(old: Item | None, new: Item | None, indexes: Mapping[str, str]) -> int:
    total = _rounded(max(map(size_of, filter(None, (old, new)))))
    for keys in indexes.items():
        entries = [item if item and all(name in item for name in keys) else None for item in (old, new)]
        was, now = ([entry[name] for name in keys] if entry else None for entry in entries)
        if was == now and was is not None:
            total += _rounded(max(map(size_of, filter(None, entries))))
        else:
            total += sum(_rounded(size_of(entry)) for entry in entries if entry)
    return total


def _rounded(size: int) -> int:
    return math.ceil(size / KILOBYTE)


def size_of(value: Any) -> int:
    """Count the bytes of an attribute's value, or of an item, like DynamoDB."""
    if isinstance(value, Mapping):
        return 3 + sum(len(name.encode()) + size_of(each) for name, each in value.items())
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, Decimal):
        return math.ceil(len(value.as_tuple().digits) / 2) + 2
    if isinstance(value, Sequence):
        return 3 + sum(1 + size_of(each) for each in value)
    return 1
