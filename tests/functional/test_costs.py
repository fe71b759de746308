"""The numbers of calls from which docs/costs.md estimates: one default image without a ground truth."""

import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from factories import s3_event, tiff
from functions_on_moto import SegmentStack

from cytomask.infra.template import load_template

COSTS = (Path(__file__).parents[2] / "docs" / "costs.md").read_text()
READS, WRITES = ("HeadObject", "GetObject"), ("PutObject",)
ROWS = ("UpdateItem", "PutItem", "DeleteItem")


def calls_of_one_image(stack: SegmentStack, key: str = "A172_Phase_C7_1.tif") -> Any:
    counted: Counter[str] = Counter()
    for name in (*READS, *WRITES, *ROWS, "ListObjectsV2", "SendMessage", "Query"):
        stack.wire.before(name, partial(counted.update, [name]), times=1000)
    stack.upload(key, tiff())
    stack.deliver(s3_event(key))
    return counted


def number_after(pattern: str) -> str:
    found = re.search(pattern, COSTS, re.MULTILINE)
    assert found, pattern
    return found[1]


def documented(what: str) -> int:
    return int(number_after(rf"\| {what} \| (\d+)\b"))


def test_the_calls_of_an_image_are_those_of_the_estimate(stack: SegmentStack) -> None:
    counted = calls_of_one_image(stack)
    assert sum(counted[name] for name in READS) == documented("S3 reads")
    assert sum(counted[name] for name in WRITES) + 1 == documented("S3 writes, the upload's too")
    assert sum(counted[name] for name in ROWS) == documented("rows written")
    assert counted["ListObjectsV2"] == documented("S3 lists, priced as writes")
    assert counted["Query"] == documented("DynamoDB, queries")
    assert set(counted) <= {*READS, *WRITES, *ROWS, "ListObjectsV2", "Query"}


def test_the_sum_is_that_of_its_lines() -> None:
    lines = re.findall(r"^\| (?!\*\*)[^|]+\|.*\| (0\.\d{4}) \|$", COSTS, re.MULTILINE)
    assert round(sum(map(float, lines)), 4) == float(number_after(r"\*\*(0\.\d{4})\*\* \|$"))


def test_the_alarms_are_as_many_as_the_template_has() -> None:
    alarms = [each for each in load_template()["Resources"].values() if each["Type"].endswith("::Alarm")]
    assert int(number_after(r"the template has (\d+) ")) == len(alarms)
