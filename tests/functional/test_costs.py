"""The numbers of calls behind the estimates in docs/costs.md: one default image without a ground truth."""

import re
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path

from factories import s3_event, tiff
from functions_on_moto import SegmentStack
from moto_stack import INDEXES
from write_units import Snapshot, snapshot, units_of

from cytomask.infra.template import load_template

COSTS = (Path(__file__).parents[2] / "docs" / "costs.md").read_text()
KEY, ON_A_PLATE = "A172_Phase_C7_1.tif", "A172_Phase_C7_1_00d00h00m_1.tif"
READS, WRITES = ("HeadObject", "GetObject"), ("PutObject",)
ROWS = ("UpdateItem", "PutItem", "DeleteItem")
ROW_READS = ("GetItem", "Query")
OTHERS = ("ListObjectsV2", "SendMessage", "DeleteObject")


def calls_of_one_image(stack: SegmentStack, key: str) -> tuple[Counter[str], int]:
    """Return how often each operation was called, and the write units, for the second image of a day."""
    stack.segment("A172_Phase_A1_1.tif", tiff())
    counted: Counter[str] = Counter()
    states: list[Snapshot] = []
    for name in (*READS, *WRITES, *ROWS, *ROW_READS, *OTHERS):
        stack.wire.before(name, partial(counted.update, [name]), times=1000)
    for name in ROWS:
        stack.wire.before(name, lambda: states.append(snapshot(stack.table)), times=1000)
    stack.upload(key, tiff())
    stack.deliver(s3_event(key))
    states.append(snapshot(stack.table))
    return counted, sum(units_of(*each, INDEXES) for each in pairwise(states))


def number_after(pattern: str) -> str:
    found = re.search(pattern, COSTS, re.MULTILINE)
    assert found, pattern
    return found[1]


def documented(what: str) -> int:
    return int(number_after(rf"\| {what} \| (\d+)\b"))


def test_the_calls_of_an_image_are_those_of_the_estimate(stack: SegmentStack) -> None:
    counted, units = calls_of_one_image(stack, KEY)
    assert sum(counted[name] for name in READS) == documented("S3 reads")
    assert sum(counted[name] for name in WRITES) == documented("S3 writes")
    assert counted["ListObjectsV2"] == 0
    assert sum(counted[name] for name in ROWS) == documented("rows written")
    assert units == documented("DynamoDB, write units")
    assert sum(counted[name] for name in ROW_READS) == documented("DynamoDB, reads")
    assert set(counted) <= {*READS, *WRITES, *ROWS, *ROW_READS}


def test_an_image_of_a_plate_makes_the_documented_calls(stack: SegmentStack) -> None:
    counted, units = calls_of_one_image(stack, ON_A_PLATE)
    rows = sum(counted[name] for name in ROWS)
    assert f"{rows} rows and {units} write units" in COSTS


def test_the_sum_is_that_of_its_lines() -> None:
    lines = re.findall(r"^\| (?!\*\*)[^|]+\|.*\| (0\.\d{4}) \|$", COSTS, re.MULTILINE)
    assert round(sum(map(float, lines)), 4) == float(number_after(r"\*\*(0\.\d{4})\*\* \|$"))


def test_the_alarms_are_as_many_as_the_template_has() -> None:
    alarms = [each for each in load_template()["Resources"].values() if each["Type"].endswith("::Alarm")]
    assert int(number_after(r"the template has (\d+) ")) == len(alarms)
