"""The functions' log lines: metrics, one id for each job, and the fields of the saved queries."""

import json
import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from factories import GROUND_TRUTH, INPUT, ground_truth, request, s3_event, tiff
from functions_on_moto import EvaluateFunction, FailuresFunction, HttpDoor, SegmentStack, lines_of

from cytomask.infra.template import load_template

KEY = "plate 1/A172_Phase_C7_1.tif"
TRUTH = "plate 1/A172_Phase_C7_1.png"
QUERIES = Path(__file__).parents[2] / "infra" / "queries"
STAGES = {"ReadTime", "DecodeTime", "InferTime", "EncodeTime", "WriteTime", "TotalTime"}


@pytest.fixture
def lines(
    stack: SegmentStack, evaluate: EvaluateFunction, failures: FailuresFunction, http: HttpDoor
) -> Iterator[Any]:
    """Return what the four functions have logged so far, in one list."""
    with lines_of(stack.app, evaluate.app, failures.app, http.api.app) as written:
        yield written


def a_day(
    stack: SegmentStack, evaluate: EvaluateFunction, failures: FailuresFunction, http: HttpDoor
) -> None:
    """Send one image from upload to score, one over HTTP, and one for each kind of failure."""
    stack.upload(KEY, tiff())
    stack.deliver(s3_event(KEY))
    stack.deliver(s3_event(KEY))
    stack.upload(TRUTH, ground_truth(), bucket=GROUND_TRUTH)
    evaluate.deliver(s3_event(TRUTH, bucket=GROUND_TRUTH))
    stack.upload("b.tif", b"text")
    stack.upload("c.tif", tiff())
    stack.wire.fail("PutObject", "SlowDown", 503)
    stack.deliver(request("c.tif"), request("b.tif"))
    failures.deliver(request("c.tif"))
    http.post("/jobs", request("c.tif", threshold=0.4))
    http.deliver_queued()
    http.post("/jobs", {})


def printed_metrics(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(text) for text in capsys.readouterr().out.splitlines() if '"_aws"' in text]


def named(line: dict[str, Any]) -> set[str]:
    return {metric["Name"] for metric in line["_aws"]["CloudWatchMetrics"][0]["Metrics"]}


def field(line: dict[str, Any], path: str) -> Any:
    """Return a field of a line by a path such as `$.timings_ms.read`."""
    return reduce(lambda fields, name: fields[name], path.removeprefix("$.").split("."), line)


def fits(line: dict[str, Any], pattern: str) -> bool:
    """Tell whether a line meets all conditions of a filter's pattern."""
    for condition in pattern.strip("{ }").split(" && "):
        path, comparison, value = condition.split(" ")
        found, wanted = field(line, path), json.loads(value)
        if not (found == wanted if comparison == "=" else found >= wanted):
            return False
    return True


def filtered(lines: list[dict[str, Any]]) -> dict[str, float]:
    """Return the metrics that the template's filters make of log lines: name -> the last value."""
    metrics: dict[str, Any] = {}
    for resource in load_template()["Resources"].values():
        if resource["Type"] == "AWS::Logs::MetricFilter":
            [made] = resource["Properties"]["MetricTransformations"]
            for line in lines:
                if fits(line, resource["Properties"]["FilterPattern"]):
                    metrics[made["MetricName"]] = field(line, made["MetricValue"])
                    assert {line[each["Key"]] for each in made.get("Dimensions", [])} <= {"segment"}
    return metrics


def test_a_metric_filter_s_pattern_names_what_it_publishes() -> None:
    """A filter can publish only fields that its pattern matches; `>= 0` leaves out null."""
    for name, resource in load_template()["Resources"].items():
        if resource["Type"] == "AWS::Logs::MetricFilter":
            pattern = resource["Properties"]["FilterPattern"]
            [made] = resource["Properties"]["MetricTransformations"]
            assert f"{made['MetricValue']} >= 0" in pattern, name
            for dimension in made.get("Dimensions", []):
                assert f"{dimension['Value']} = " in pattern, name


def test_log_lines_from_upload_to_score_have_the_same_job_id(
    stack: SegmentStack, evaluate: EvaluateFunction, failures: FailuresFunction, http: HttpDoor, lines: Any
) -> None:
    a_day(stack, evaluate, failures, http)
    job_id = next(line["job_id"] for line in lines() if line.get("image") == f"s3://{INPUT}/{KEY}")
    told = [line["message"] for line in lines() if line.get("job_id") == job_id]
    assert told == ["job_taken", "mask_written", "duplicate_ignored", "evaluation_scored"]
    without = {line["message"] for line in lines() if "job_id" not in line}
    assert without == {"call_refused"}


def test_a_line_about_one_image_does_not_carry_the_id_of_the_one_before(
    stack: SegmentStack, lines: Any
) -> None:
    stack.upload("a.tif", tiff())
    stack.deliver(s3_event("a.tif", "notes.txt"))
    (ignored,) = [line for line in lines() if line["message"] == "event_ignored"]
    assert "job_id" not in ignored


def test_a_mask_is_counted_with_its_times_and_its_cost(
    stack: SegmentStack, lines: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    result = stack.segment(KEY, tiff())
    assert [named(line) for line in printed_metrics(capsys)] in ([], [{"ColdStarts"}])
    metrics = filtered(lines())
    assert metrics.keys() == STAGES | {
        "MasksWritten",
        "Megapixels",
        "Confluence",
        "FlaggedPages",
        "EstimatedCostUSD",
    }
    assert metrics["MasksWritten"] == 1
    assert metrics["FlaggedPages"] == 0
    assert metrics["Megapixels"] == 64 * 80 / 1e6
    assert metrics["Confluence"] == result["confluence"]
    assert metrics["EstimatedCostUSD"] == result["estimated_cost_usd"]
    for stage, milliseconds in result["timings_ms"].items():
        assert metrics[f"{stage.capitalize()}Time"] == milliseconds


def test_faults_are_counted(
    stack: SegmentStack,
    evaluate: EvaluateFunction,
    failures: FailuresFunction,
    http: HttpDoor,
    capsys: pytest.CaptureFixture[str],
) -> None:
    a_day(stack, evaluate, failures, http)
    names = [name for line in printed_metrics(capsys) for name in named(line)]
    for name in ("Rejected", "Duplicates", "AttemptsFailed", "Failed"):
        assert names.count(name) == 1


def test_calls_over_http_are_counted_by_their_outcome(
    http: HttpDoor, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    http.stack.upload(KEY, tiff())
    http.post("/jobs", request(KEY))
    http.get("/jobs/nobody's")
    http.stack.wire.fail("SendMessage", "ServiceUnavailable", 503)
    http.post("/jobs", request(KEY))
    assert [named(line) for line in printed_metrics(capsys)] == [
        {"JobsQueued"},
        {"CallsRefused"},
        {"AttemptsFailed"},
    ]
    http.post("/seg_mask", {})
    (refused,) = printed_metrics(capsys)
    assert named(refused) - {"ColdStarts"} == {"CallsRefused"}


def test_an_event_that_asks_for_nothing_prints_no_metrics(
    stack: SegmentStack, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.handle(s3_event("a.tif"))
    capsys.readouterr()
    stack.handle({"Event": "s3:TestEvent"})
    assert printed_metrics(capsys) == []


def test_every_metric_of_dashboard_and_alarms_is_printed(
    stack: SegmentStack,
    evaluate: EvaluateFunction,
    failures: FailuresFunction,
    http: HttpDoor,
    lines: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    a_day(stack, evaluate, failures, http)
    printed = {name for line in printed_metrics(capsys) for name in named(line)} | {"ColdStarts"}
    resources = load_template()["Resources"]
    board = json.loads(resources["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"])
    metrics = [metric for widget in board["widgets"] for metric in widget["properties"]["metrics"]]
    shown = {metric[1] for metric in metrics if metric[0] == "${AWS::StackName}"}
    assert shown == printed | filtered(lines()).keys()


def test_no_image_and_no_signed_address_is_in_a_line(
    stack: SegmentStack, evaluate: EvaluateFunction, failures: FailuresFunction, http: HttpDoor, lines: Any
) -> None:
    a_day(stack, evaluate, failures, http)
    written = json.dumps(lines())
    assert "X-Amz-Signature" not in written
    assert "base64" not in written
    assert max(len(json.dumps(line)) for line in lines() if "exception" not in line) < 4096


def flattened(fields: dict[str, Any], prefix: str = "") -> set[str]:
    """Return the names that Logs Insights gives to a line's fields."""
    names = set()
    for name, value in fields.items():
        names |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
    return names


WORDS = {"and", "or", "in", "like", "by", "as", "asc", "desc", "fields", "filter", "stats", "sort", "limit"}


def fields_of(query: str) -> set[str]:
    """Return the fields that a query reads from lines, without keywords and its own names."""
    bare = re.sub(r'"[^"]*"|/[^/\n]*/', " ", query)
    bare = re.sub(r"\w+\(", "(", bare)
    own = set(re.findall(r"\bas (\w+)", bare))
    return {name for name in re.findall(r"(?<![@\w.])[a-z_][\w.]*", bare) if name not in WORDS | own}


@pytest.mark.parametrize("name", [file.stem for file in QUERIES.glob("*.txt")])
def test_every_field_that_a_saved_query_names_is_in_a_recorded_line(
    stack: SegmentStack,
    evaluate: EvaluateFunction,
    failures: FailuresFunction,
    http: HttpDoor,
    lines: Any,
    name: Any,
) -> None:
    a_day(stack, evaluate, failures, http)
    recorded = {field for line in lines() for field in flattened(line)}
    assert fields_of((QUERIES / f"{name}.txt").read_text()) <= recorded


@pytest.mark.parametrize("name", [file.stem for file in QUERIES.glob("*.txt")])
def test_every_event_that_a_saved_query_looks_for_is_in_a_recorded_line(
    stack: SegmentStack,
    evaluate: EvaluateFunction,
    failures: FailuresFunction,
    http: HttpDoor,
    lines: Any,
    name: Any,
) -> None:
    a_day(stack, evaluate, failures, http)
    query = (QUERIES / f"{name}.txt").read_text()
    events = set(re.findall(r'"([a-z]+_[a-z_]+)"', query))
    assert events <= {line["message"] for line in lines()}


def test_the_fields_of_a_query_are_found() -> None:
    query = (
        'fields @timestamp, a.b | filter c = "d" or e like /f g/ | stats max(h / 2) as i by bin(1d) as j, k'
    )
    assert fields_of(query) == {"a.b", "c", "e", "h", "k"}
