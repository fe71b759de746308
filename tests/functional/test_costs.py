"""The numbers behind the estimates in docs/costs.md: one default image without a ground truth."""

import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from factories import GROUND_TRUTH, ground_truth, request, s3_event, tiff
from functions_on_moto import EvaluateFunction, HttpDoor, SegmentStack
from moto_stack import INDEXES
from write_units import Snapshot, size_of, snapshot, units_of

from cytomask.cli.costs import OTHER_USD
from cytomask.cli.main import main
from cytomask.cli.stack import Stack
from cytomask.infra.template import TEMPLATE, load_template
from cytomask.telemetry import USD_PER_GB_SECOND

COSTS = (Path(__file__).parents[2] / "docs" / "costs.md").read_text()
PRICE = COSTS.partition("| **together** |")[0]  # the table of one image
PRICES = [
    (what, float(usd))
    for what, usd in re.findall(r"^\| (?!\*\*)([^|]+) \|.*\| (0\.\d{4}) \|$", PRICE, re.MULTILINE)
]
KEY, ON_A_PLATE = "A172_Phase_C7_1.tif", "A172_Phase_C7_1_00d00h00m_1.tif"
READS, WRITES = ("HeadObject", "GetObject"), ("PutObject",)
ROWS = ("UpdateItem", "PutItem", "DeleteItem")
ROW_READS = ("GetItem", "Query")
OTHERS = ("ListObjectsV2", "SendMessage", "DeleteObject")

REQUEST_ID = "8f507cfc-9f0c-4b9b-a0a5-2f3a1d5c6e7f"  # as long as AWS's ids
OF_A_ROW = 100  # bytes that DynamoDB adds to each row
USD_PER_GB_OF_ROWS, USD_PER_GB_OF_LOGS = 0.25 + 0.20, 0.50


@dataclass(frozen=True)
class Counted:
    """What one image took.

    Attributes:
        calls: how often each operation was called.
        units: DynamoDB's write units.
        stored: bytes of its rows.
    """

    calls: Counter[str]
    units: int
    stored: int


def counted(stack: SegmentStack, deliver: Callable[[], object]) -> Counted:
    """Count what a delivery takes, for the second image of a day."""
    stack.segment("A172_Phase_A1_1.tif", tiff())
    calls: Counter[str] = Counter()
    states: list[Snapshot] = []
    for name in (*READS, *WRITES, *ROWS, *ROW_READS, *OTHERS):
        stack.wire.before(name, partial(calls.update, [name]), times=1000)
    for name in ROWS:
        stack.wire.before(name, lambda: states.append(snapshot(stack.table)), times=1000)
    before = snapshot(stack.table)
    deliver()
    states.append(snapshot(stack.table))
    new = states[-1].keys() - before.keys()
    stored = sum(size_of(states[-1][key]) + OF_A_ROW for key in new)
    return Counted(calls, sum(units_of(*each, INDEXES) for each in pairwise(states)), stored)


def one_image(stack: SegmentStack, key: str) -> Counted:
    """Count what an upload takes."""
    stack.upload(key, tiff())
    return counted(stack, lambda: stack.deliver(s3_event(key)))


def number_after(pattern: str) -> str:
    found = re.search(pattern, COSTS, re.MULTILINE)
    assert found, pattern
    return found[1]


def documented(what: str) -> int:
    return int(number_after(rf"\| {what} \| (\d+)\b"))


def test_the_calls_of_an_image_are_those_of_the_estimate(stack: SegmentStack) -> None:
    image = one_image(stack, KEY)
    assert sum(image.calls[name] for name in READS) == documented("S3 reads")
    assert sum(image.calls[name] for name in WRITES) == documented("S3 writes")
    assert image.calls["ListObjectsV2"] == 0
    assert sum(image.calls[name] for name in ROWS) == documented("rows written")
    assert image.units == documented("DynamoDB, write units")
    assert sum(image.calls[name] for name in ROW_READS) == documented("DynamoDB, reads")
    assert set(image.calls) <= {*READS, *WRITES, *ROWS, *ROW_READS}
    assert image.stored / 1000 == pytest.approx(float(number_after(r"(\d\.\d) KB for each image")), abs=0.1)


def test_an_image_of_a_plate_makes_the_documented_calls(stack: SegmentStack) -> None:
    image = one_image(stack, ON_A_PLATE)
    rows = sum(image.calls[name] for name in ROWS)
    assert f"{rows} rows and {image.units} write units" in COSTS


def test_an_image_sent_over_http_makes_the_documented_writes(http: HttpDoor) -> None:
    http.stack.upload(KEY, tiff())

    def ask() -> None:
        assert http.post("/jobs", request(KEY)).status == 202
        http.deliver_queued()

    image = counted(http.stack, ask)
    usual = documented("DynamoDB, write units")
    assert f"{image.units} write units instead of {usual}" in COSTS
    more = float(number_after(r"instead of \d+, US\$ (0\.\d{4}) more for 1,000"))
    assert more == pytest.approx((image.units - usual) * 0.625e-3, abs=0.00005)


def test_an_image_of_a_call_that_waits_makes_the_documented_writes(http: HttpDoor) -> None:
    http.stack.upload(KEY, tiff())
    image = counted(http.stack, lambda: http.post("/seg_mask", request(KEY)))
    assert f"takes {image.units} write units" in COSTS


def test_a_score_makes_the_documented_calls(stack: SegmentStack, evaluate: EvaluateFunction) -> None:
    stack.segment(KEY, tiff())
    truth = KEY.replace(".tif", "_mask.png")
    stack.upload(truth, ground_truth(), bucket=GROUND_TRUTH)
    calls: Counter[str] = Counter()
    for name in (*READS, *ROWS, *ROW_READS, "BatchGetItem"):
        stack.wire.before(name, partial(calls.update, [name]), times=1000)
    assert evaluate.deliver(s3_event(truth, bucket=GROUND_TRUTH)) == []
    assert evaluate.row()["evaluation_status"] == "SCORED"
    of_s3, of_rows, writes = (
        sum(calls[name] for name in names) for names in (READS, (*ROW_READS, "BatchGetItem"), ROWS)
    )
    told = f"{of_s3} reads of S3, {of_rows} reads of rows and {writes} row writes"
    assert told in " ".join(COSTS.split())


def test_the_log_lines_of_an_image_have_the_documented_length(
    stack: SegmentStack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.segment("A172_Phase_A1_1.tif", tiff())
    stack.upload(KEY, tiff())
    handler, written = stack.app.logger.registered_handler, io.StringIO()
    standard_output, handler.stream = handler.stream, written
    capsys.readouterr()
    stack.deliver(s3_event(KEY))
    handler.stream = standard_output
    text = written.getvalue() + capsys.readouterr().out
    size = len(text.replace(f"invocation-{stack.invocations}", REQUEST_ID).encode())
    assert size / 1000 == pytest.approx(float(number_after(r": (\d\.\d) KB of lines")), abs=0.1)


def test_the_commands_use_the_documented_price() -> None:
    told = re.findall(r"^\| ((?:S3|DynamoDB|SQS|CloudWatch)[^|]*) \|.*\| (0\.\d{4}) \|$", PRICE, re.MULTILINE)
    lines = dict(told)
    upload = float(lines.pop("S3, your own upload"))
    assert len(lines) == 6
    total = sum(map(float, lines.values()))
    assert pytest.approx(total / 1000) == OTHER_USD
    assert float(number_after(r"\+ n x (0\.0000\d+) +S3")) == pytest.approx((total + upload) / 1000)


def test_the_price_in_a_backlog_follows_from_the_size_of_a_batch() -> None:
    function = load_template()["Resources"]["SegmentFunction"]["Properties"]
    batch = function["Events"]["Images"]["Properties"]["BatchSize"]
    backlog = COSTS.partition("### In a backlog")[2].partition("### ")[0]
    told = dict(re.findall(r"^\| ([^|]+) \|.*\| \**(0\.\d{4})\** \|$", backlog, re.MULTILINE))
    *lines, together = (float(usd) for usd in told.values())
    logs, lines_alone = (float(number_after(rf"{kind} KB")) for kind in (r"Logs \| (\d\.\d)", r": (\d\.\d)"))
    kilobytes = lines_alone + (logs - lines_alone) / batch
    assert told["Lambda, requests"] == f"{0.0002 / batch + 1e-9:.4f}"
    assert told["SQS requests"] == f"{(1 + 2 / batch) * 0.0004:.4f}"
    assert told["CloudWatch Logs"] == f"{kilobytes * 0.0005:.4f}"
    same = [usd for what, usd in PRICES if what not in told]
    assert float(told["all other lines, as above"]) == pytest.approx(sum(same))
    assert together == pytest.approx(sum(lines))
    assert f"US$ {together * 1000:.1f}**" in backlog


def test_the_floor_and_what_lies_above_it_make_the_price() -> None:
    floor, with_upload = (
        float(number_after(pattern)) for pattern in (r"US\$ (0\.\d{4})\nfor 1,000", r"or (0\.\d{4}) with")
    )
    table = COSTS.partition("| above the floor |")[2].partition("\n\n")[0]
    above = sum(map(float, re.findall(r"^\| [^|]+ \| (0\.\d{4}) \|", table, re.MULTILINE)))
    assert floor + above == pytest.approx(float(number_after(r"your own upload it is US\$ (0\.\d{4})")))
    assert with_upload + above == pytest.approx(float(number_after(r"\*\*(0\.\d{4})\*\* \|$")))


def test_the_growth_of_a_year_follows_from_the_bytes_of_an_image() -> None:
    rows = float(number_after(r"Rows have (\d\.\d) KB for each")) * 1000
    logs = float(number_after(r"CloudWatch Logs \| (\d\.\d) KB")) * 1000
    table = COSTS.partition("| images a month |")[2].partition("\n\n")[0].splitlines()[2:]
    for line in table:
        images, *told = (float(each.replace(",", "")) for each in line.strip("| ").split(" | "))
        of_rows, of_logs = (12 * images * each / 1e9 for each in (rows, logs))
        usd = of_rows * USD_PER_GB_OF_ROWS, of_logs * USD_PER_GB_OF_LOGS
        assert told == pytest.approx([of_rows, usd[0], of_logs, usd[1], of_logs / 12], abs=0.005)
    assert len(table) == 2


@pytest.mark.parametrize("name", ["evaluate", "failures", "api"])
def test_a_start_of_a_zip_function_costs_at_most_a_second(name: str) -> None:
    memory = load_template()["Resources"][f"{name.capitalize()}Function"]["Properties"]["MemorySize"]
    told = float(number_after(rf"^\| {name} \| {memory:,} \| (0\.\d{{4}}) \|$"))
    assert told == pytest.approx(1000 * memory / 1024 * USD_PER_GB_SECOND, abs=0.00005)


def test_the_memory_sizes_are_those_of_the_benchmarks() -> None:
    head = "| memory, MB | vCPUs |"
    table = COSTS[COSTS.index(head) :].partition("\n\n")[0]
    assert table in (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()


def test_the_sum_is_that_of_its_lines() -> None:
    assert round(sum(usd for _, usd in PRICES), 4) == float(number_after(r"\*\*(0\.\d{4})\*\* \|$"))


def test_the_alarms_are_as_many_as_the_template_has() -> None:
    alarms = [each for each in load_template()["Resources"].values() if each["Type"].endswith("::Alarm")]
    assert int(number_after(r"the template has (\d+) ")) == len(alarms)


def test_the_metrics_are_as_many_as_functions_and_filters_send() -> None:
    def added_in(*paths: Path) -> set[str]:
        return {name for path in paths for name in re.findall(r'add_metric\("(\w+)"', path.read_text())}

    root = TEMPLATE.parent
    of_http = added_in(root / "layers" / "cytomask" / "cytomask" / "http.py")
    sent = {
        name: added_in(*(root / "functions" / name).glob("*.py")) for name in ("segment", "failures", "api")
    }
    for name in ("segment", "api"):
        sent[name] |= of_http
    filters = [
        each for each in load_template()["Resources"].values() if each["Type"] == "AWS::Logs::MetricFilter"
    ]
    total = len(filters) + sum(map(len, sent.values()))
    assert int(number_after(r"the stack sends up to (\d+) ")) == total


def test_the_readme_names_the_price_of_an_idle_stack() -> None:
    [polling] = re.findall(r"\| polling four queues \| ([0-9.]+) after", COSTS)
    [each, free, count] = re.findall(
        r"\| alarms \| ([0-9.]+) each beyond (ten) free ones; .* has ([0-9]+) \|", COSTS
    )[0]
    price = f"US$ {float(polling) + float(each) * (int(count) - {'ten': 10}[free]):.2f} a month"
    readme = Path(__file__).parents[2] / "README.md"
    assert price in COSTS
    assert price in readme.read_text()


def table_of(text: str) -> list[list[str]]:
    """Return the cells of a printed table without its heading."""
    lines = text.partition("\n\n")[0].splitlines()
    return [re.split(r" {2,}", line.strip()) for line in lines[1:]]


def test_the_command_counts_jobs_and_adds_up_what_each_cost(
    stack: SegmentStack, connected: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    first = stack.segment(ON_A_PLATE, tiff())
    assert stack.deliver(request(ON_A_PLATE, threshold=0.4)) == []
    (second,) = (row for row in stack.rows() if row["job_id"] != first["job_id"])
    stack.segment(KEY, b"no image")
    assert stack.deliver("no request") == []
    computing = first["estimated_cost_usd"] + float(second["estimated_cost_usd"])
    capsys.readouterr()

    assert main(["costs", "--plate", first["plate"]]) == 0
    shown = capsys.readouterr().out
    ((day, group, plate, jobs, usd, together),) = table_of(shown)
    assert (day, group, plate, jobs) == (first["finished_at"][:10], "A172", first["plate"], "2")
    assert float(usd) == pytest.approx(computing, abs=0.00001)
    assert float(together) == pytest.approx(computing + 2 * OTHER_USD, abs=0.00001)
    assert shown.splitlines()[0].split()[:4] == ["day", "group", "plate", "jobs"]
    assert shown.splitlines()[-1].startswith("2 jobs, US$ ")

    assert main(["costs"]) == 0
    shown = capsys.readouterr().out
    assert sum(int(line[-3]) for line in table_of(shown)) == 3
    assert shown.splitlines()[-1].startswith("3 jobs, US$ ")
    assert main(["costs", "--plate", "another"]) == 1
