"""`cytomask jobs`, `logs` and `failed`: ids, reasons, filters, and names with control characters."""

import json
import time
from collections.abc import Callable
from typing import Any

import boto3
import numpy as np
import pytest
from botocore.exceptions import ClientError
from factories import INPUT, ground_truth, page, png, request, tiff
from functions_on_moto import EvaluateFunction, FailuresFunction, SegmentStack

from cytomask.cli.main import main
from cytomask.cli.stack import Stack, UnknownJob
from cytomask.leads import SHARDS

NASTY = "inj/\x1b[31mRED\x1b[2J\n2026-11-25T00:00:00Z forged line \u202egnp.tif"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(connected: Stack, capsys: Capture) -> Callable[..., tuple[int, str, str]]:
    """Run a command; return its exit code and its own output."""

    def command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        return code, *capsys.readouterr()

    return command


Run = Callable[..., tuple[int, str, str]]


def test_the_id_that_is_printed_is_taken(stack: SegmentStack, run: Run) -> None:
    job_id = stack.segment("a.tif", tiff())["job_id"]
    _, listed, _ = run("jobs")
    printed = listed.splitlines()[1].split()[0]
    assert printed == job_id[:8]
    code, shown, _ = run("jobs", printed)
    assert code == 0
    assert f"s3://{INPUT}/a.tif" in shown
    assert run("jobs", printed.upper())[0] == 0


@pytest.mark.parametrize("body", [b"text", tiff()])
def test_an_id_is_found_for_jobs_of_every_status(stack: SegmentStack, connected: Stack, body: bytes) -> None:
    job_id = stack.segment("a.tif", body)["job_id"]
    assert connected.find_job(job_id) == connected.find_job(job_id[:6]) == job_id


def test_an_id_that_fits_jobs_of_two_statuses_is_refused(stack: SegmentStack, connected: Stack) -> None:
    ids = sorted(
        stack.segment(name, body)["job_id"] for name, body in (("a.tif", b"text"), ("b.tif", tiff()))
    )
    with pytest.raises(UnknownJob, match=f"fits 2 jobs: {ids[0]}, {ids[1]}; give more digits"):
        connected.find_job("")


def test_an_id_that_fits_two_jobs_is_refused_with_both(stack: SegmentStack, connected: Stack) -> None:
    ids = [f"{'ab' * 4}{digit * 24}" for digit in "01"]
    for job_id in ids:
        row = {"job_id": job_id, "record": "JOB", "status": "SUCCEEDED", "created_at": "2026"}
        stack.table.put_item(Item=row)
    with pytest.raises(UnknownJob, match=f"abab fits 2 jobs: {ids[0]}, {ids[1]}; give more digits"):
        connected.find_job("abab")
    assert connected.find_job(f"{'ab' * 4}1") == ids[1]


def test_a_row_of_a_newer_stack_is_one_sentence(stack: SegmentStack, run: Run) -> None:
    row = {"job_id": "a", "record": "JOB", "status": "SUCCEEDED", "created_at": "2026", "pages": "many"}
    stack.table.put_item(Item=row)
    code, _, said = run("jobs")
    assert code == 2
    assert said.startswith("a row of the Jobs table cannot be read: Expected `int | null`, got `str`")
    assert len(said.splitlines()) == 1


def test_an_unknown_id_is_one_sentence(run: Run) -> None:
    code, _, said = run("jobs", "f00")
    assert (code, said) == (1, "the stack `cytomask` has no job f00; `cytomask jobs` lists them\n")


def test_jobs_say_why_an_image_has_no_mask(stack: SegmentStack, run: Run) -> None:
    stack.segment("plate 1/bad.tif", b"text")
    _, listed, _ = run("jobs", "--status", "rejected")
    assert "UNREADABLE_IMAGE: bad.tif is not a TIFF, PNG or JPEG" in listed


def test_jobs_list_quality_flags_with_their_numbers_beside_a_rejected_score(
    stack: SegmentStack, evaluate: EvaluateFunction, run: Run
) -> None:
    stack.segment("a.tif", png(np.full((40, 60), 7, np.uint8)))
    assert run("jobs")[1].rstrip().endswith("a.tif  EMPTY=0 SATURATED=1 LOW_CONTRAST=0")
    evaluate.upload("a.tif.png", png(np.zeros((3, 4), np.uint8)))
    assert "  EMPTY=0 SATURATED=1 LOW_CONTRAST=0; score: GROUND_TRUTH_MISMATCH" in run("jobs")[1]


def test_a_rejected_score_is_not_shown_as_missing(
    stack: SegmentStack, evaluate: EvaluateFunction, run: Run
) -> None:
    stack.segment("a.tif", tiff())
    stack.segment("b.tif", tiff())
    evaluate.upload("a.tif.png", png(np.zeros((3, 4), np.uint8)))
    _, listed, _ = run("jobs")
    lines = {line.split()[6]: line for line in listed.splitlines()[1:]}
    scored, unscored = lines[f"s3://{INPUT}/a.tif"], lines[f"s3://{INPUT}/b.tif"]
    assert scored.split()[3:5] == ["rejected", "-"]
    assert "score: GROUND_TRUTH_MISMATCH" in scored
    assert unscored.split()[3:5] == ["-", "-"]
    assert "score:" not in unscored


def test_jobs_are_json_for_a_program(stack: SegmentStack, evaluate: EvaluateFunction, run: Run) -> None:
    job_id = stack.segment(NASTY, tiff())["job_id"]
    evaluate.upload(f"{NASTY}.png", ground_truth())
    code, printed, _ = run("jobs", "--json")
    (job,) = json.loads(printed)
    assert (code, job["job_id"], job["image"]) == (0, job_id, f"s3://{INPUT}/{NASTY}")
    assert isinstance(job["confluence"], float)
    assert job["evaluations"][0]["iou"] == pytest.approx(float(evaluate.row()["iou"]))
    assert printed.isascii()
    assert json.loads(run("jobs", job_id, "--json")[1]) == job
    assert json.loads(run("jobs", "--json", "--group", "nobody's")[1]) == []


def test_jobs_are_narrowed_by_time(stack: SegmentStack, run: Run) -> None:
    for day in ("20", "21", "22"):
        row = {"job_id": day * 16, "record": "JOB", "status": "SUCCEEDED", "image": f"s3://{INPUT}/{day}.tif"}
        stack.table.put_item(Item=row | {"created_at": f"2026-11-{day}T12:00:00.000Z", "group": "HeLa"})
    options = {
        ("--since", "2026-11-21"): {"21", "22"},
        ("--until", "2026-11-21T23:00"): {"20", "21"},
        ("--since", "2026-11-21", "--until", "2026-11-22"): {"21"},
        ("--group", "HeLa", "--since", "2026-11-22"): {"22"},
        ("--since", "2026-11-21", "--status", "failed"): set(),
    }
    for given, days in options.items():
        _, listed, _ = run("jobs", *given)
        assert {line.split()[6][-6:-4] for line in listed.splitlines()[1:]} == days


def listed_by(run: Run, *arguments: str) -> set[str]:
    """The images that `jobs` lists, by their keys."""
    code, out, _ = run("jobs", "--json", *arguments)
    return {row["image"].rpartition("/")[2] for row in json.loads(out)} if code == 0 else set()


@pytest.mark.parametrize("after_a_reindex", [False, True])
def test_jobs_of_version_0_1_are_found_beside_those_of_today(
    stack: SegmentStack, run: Run, after_a_reindex: bool
) -> None:
    """They have no lead, and the indexes list all of them."""
    early = {
        "record": "JOB",
        "created_at": "2025-11-02T08:00:00.000Z",
        "updated_at": "2025-11-02T08:00:01.000Z",
    }
    for number, status in enumerate(("SUCCEEDED", "REJECTED", "FAILED")):
        told = {"job_id": f"{number}" * 32, "status": status, "image": f"s3://{INPUT}/old {status}.tif"}
        stack.table.put_item(Item=early | told | {"group": "HeLa"})
    stack.segment("new.tif", tiff())
    if after_a_reindex:
        assert run("reindex")[0] == 0
    old = {f"old {status}.tif" for status in ("SUCCEEDED", "REJECTED", "FAILED")}
    assert listed_by(run) == old | {"new.tif"}
    assert listed_by(run, "--group", "HeLa") == old
    assert listed_by(run, "--until", "2025-12-01") == old
    assert listed_by(run, "--status", "SUCCEEDED") == {"old SUCCEEDED.tif", "new.tif"}
    assert listed_by(run, "--status", "FAILED") == {"old FAILED.tif"}
    assert run("jobs", "0" * 31)[0] == 0


def as_of_version_0_1(stack: SegmentStack, key: str, **changed: Any) -> None:
    """Turn a job's row into one of version 0.1: it has `created_at`, no `made_at` and no lead."""
    (row,) = (row for row in stack.rows() if row["image"] == f"s3://{INPUT}/{key}")
    for item in stack.table.scan()["Items"]:
        if item["job_id"].startswith("DAY"):
            stack.table.delete_item(Key={"job_id": item["job_id"], "record": item["record"]})
    stack.table.put_item(
        Item={name: value for name, value in row.items() if name != "made_at"}
        | {"created_at": "2025-11-02T08:00:00.000Z"}
        | changed
    )


@pytest.mark.parametrize(("body", "status"), [(tiff(), "SUCCEEDED"), (b"text", "REJECTED")])
def test_a_redriven_job_of_version_0_1_stays_in_the_list(
    stack: SegmentStack, failures: FailuresFunction, run: Run, body: bytes, status: str
) -> None:
    stack.upload("old.tif", body)
    assert failures.deliver(request("old.tif")) == []
    as_of_version_0_1(stack, "old.tif")
    stack.segment("bad.tif", b"newer text")
    assert run("redrive")[0] == 0
    assert stack.deliver(*[message["Body"] for message in stack.take_messages()]) == []
    assert listed_by(run) == {"old.tif", "bad.tif"}
    assert "old.tif" in listed_by(run, "--status", status)
    assert listed_by(run, "--until", "2025-12-01") == {"old.tif"}


def test_a_job_of_version_0_1_stays_in_the_list_after_a_retry(stack: SegmentStack, run: Run) -> None:
    stack.segment("old.tif", tiff())
    as_of_version_0_1(stack, "old.tif", status="RUNNING", lease_until=1)
    assert stack.deliver(request("old.tif")) == []
    assert stack.row()["status"] == "SUCCEEDED"
    assert listed_by(run, "--status", "SUCCEEDED") == {"old.tif"}


def test_two_people_who_redrive_at_once_send_a_job_once(
    stack: SegmentStack, failures: FailuresFunction, run: Run
) -> None:
    stack.upload("a.tif", tiff())
    assert failures.deliver(request("a.tif")) == []

    def redrive_first() -> None:
        stack.wire.mend()
        assert run("redrive")[0] == 0

    stack.wire.before("UpdateItem", redrive_first)
    assert run("redrive")[0] == 0
    assert (stack.row()["status"], stack.row()["attempt"]) == ("QUEUED", 2)
    assert len(stack.take_messages()) == 1


def test_a_job_stays_in_the_list_after_a_redrive_that_could_not_be_sent(
    stack: SegmentStack, failures: FailuresFunction, run: Run, connected: Stack
) -> None:
    stack.upload("a.tif", tiff())
    assert failures.deliver(request("a.tif")) == []
    stack.sqs.delete_queue(QueueUrl=connected.segment_queue)
    assert run("redrive")[0] == 2
    stack.sqs.create_queue(QueueName="cytomask-segment")
    assert run("redrive")[0] == 0
    assert stack.deliver(*[message["Body"] for message in stack.take_messages()]) == []
    assert stack.row()["status"] == "SUCCEEDED"
    assert listed_by(run) == {"a.tif"}


def test_running_jobs_are_listed_without_a_look_at_finished_ones_of_earlier_days(
    stack: SegmentStack, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(stack.app.segmenter, "_clock", lambda: time.time() - 3 * 86_400)
        for key in ("done.tif", "tried.tif"):
            stack.upload(key, tiff(page(len(key))))
        stack.deliver(request("done.tif"))
        stack.wire.fail("PutObject", "SlowDown", 503)
        assert stack.deliver(request("tried.tif")) == [0]
    stack.upload("fresh.tif", tiff())
    stack.wire.cut("PutObject")
    stack.deliver(request("fresh.tif"))
    stack.wire.mend()
    read: list[str] = []
    stack.wire.before("Query", lambda: read.append("leads"), times=100)
    assert listed_by(run, "--status", "RUNNING") == {"tried.tif", "fresh.tif"}
    assert SHARDS <= len(read) < 2 * SHARDS  # the leads of one day
    stack.deliver(request("tried.tif"))
    assert listed_by(run, "--status", "RUNNING") == {"fresh.tif"}
    assert stack.indexed("by_status", "status", "SUCCEEDED") == []


@pytest.mark.parametrize(
    "kills", [("direct",), ("queued", "queued")], ids=["a direct call", "two deliveries"]
)
def test_a_killed_job_is_still_listed_as_running_days_later(
    stack: SegmentStack, run: Run, monkeypatch: pytest.MonkeyPatch, kills: tuple[str, ...]
) -> None:
    stack.upload("killed.tif", tiff())
    for days, way in zip((3, 2), kills, strict=False):
        then = time.time() - days * 86_400
        monkeypatch.setattr(stack.app.segmenter, "_clock", lambda then=then: then)
        stack.wire.cut("PutObject")
        if way == "queued":
            assert stack.deliver(request("killed.tif")) == [0]
        else:
            with pytest.raises(ClientError, match="Killed"):
                stack.handle(request("killed.tif"))
        stack.wire.mend()
    assert listed_by(run, "--status", "RUNNING") == {"killed.tif"}
    assert listed_by(run) == {"killed.tif"}
    monkeypatch.setattr(stack.app.segmenter, "_clock", time.time)
    assert stack.deliver(request("killed.tif")) == []
    assert listed_by(run, "--status", "RUNNING") == set()
    assert listed_by(run, "--status", "SUCCEEDED") == {"killed.tif"}
    assert stack.indexed("by_status", "status", "SUCCEEDED") == []


def test_no_name_group_or_message_reaches_the_terminal_raw(
    stack: SegmentStack, evaluate: EvaluateFunction, failures: FailuresFunction, run: Run
) -> None:
    group = "=1+1|\x1b]0;title\x07<script>alert(1)</script>"
    stack.segment(NASTY, tiff())
    stack.upload("ok.tif", tiff())
    stack.deliver(request("ok.tif", group=group, threshold=0.4), request(NASTY + "gone", group=group))
    failures.deliver(request(NASTY, threshold=0.2))
    log([{"level": "ERROR", "message": "job_failed", "image": NASTY, "exception": "Traceback\n  \x1b[2J"}])
    job_id = stack.rows()[0]["job_id"]
    for command in (["jobs"], ["jobs", job_id], ["failed"], ["logs"], ["report"], ["redrive"]):
        _, out, err = run(*command)
        printed = out + err
        assert printed
        assert not set(printed) & {"\x1b", "\x07", "\u202e"}
        assert not [line for line in printed.splitlines() if line.startswith("2026-11-25T00:00:00Z forged")]


def test_no_group_is_a_formula_in_the_csv(stack: SegmentStack, run: Run, tmp_path: Any) -> None:
    stack.upload("ok.tif", tiff())
    stack.deliver(request("ok.tif", group='=HYPERLINK("http://x","y")'))
    code, *_ = run("report", "--csv", str(tmp_path / "r.csv"))
    assert code == 0
    text = (tmp_path / "r.csv").read_text()
    assert "\"'=HYPERLINK(" in text
    assert not [cell for cell in text.split(",") if cell.lstrip('"').startswith("=")]


def log(lines: list[dict[str, Any]], function: str = "segment") -> None:
    logs = boto3.client("logs")
    place = {"logGroupName": f"/aws/lambda/cytomask-{function}", "logStreamName": "1"}
    logs.create_log_group(logGroupName=place["logGroupName"])
    logs.create_log_stream(**place)
    now = int(time.time() * 1000)
    events = [{"timestamp": now, "message": json.dumps(line)} for line in lines]
    logs.put_log_events(**place, logEvents=events)


def test_logs_take_the_id_that_jobs_print(stack: SegmentStack, run: Run) -> None:
    job_id = stack.segment("a.tif", tiff())["job_id"]
    log([{"level": "INFO", "message": "job_taken", "job_id": job_id, "function_request_id": "r-1"}])
    code, printed, _ = run("logs", "--job", job_id[:8])
    assert code == 0
    assert printed.split()[1:4] == ["segment", "INFO", "job_taken"]


def test_a_rejected_evaluation_is_an_error_of_the_log(run: Run) -> None:
    log(
        [{"level": "INFO", "message": "evaluation_rejected", "error_code": "GROUND_TRUTH_MISMATCH"}],
        "evaluate",
    )
    code, printed, _ = run("logs", "--errors")
    assert code == 0
    assert "evaluation_rejected" in printed


def test_an_endpoint_that_is_no_address_is_one_sentence(capsys: Capture) -> None:
    assert main(["jobs", "--endpoint-url", "127.0.0.1"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("--endpoint-url 127.0.0.1: ")
    assert len(said.splitlines()) == 1


def test_an_invalid_stack_name_is_one_line(capsys: Capture) -> None:
    assert main(["jobs", "--stack", "", "--endpoint-url", "http://127.0.0.1:1"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
