"""`cytomask logs`, `failed` and `redrive`: what the functions said, what failed, and its next attempt."""

import argparse
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from botocore.exceptions import ClientError

from cytomask.cli.stack import Stack
from cytomask.jobs import JOB, Jobs, Row
from cytomask.requests import awaited_by

FUNCTIONS = ("segment", "evaluate", "failures", "api")
TROUBLE = ("WARNING", "ERROR", "CRITICAL")
# What Lambda says in words of its own of an invocation that was ended.
ENDED = re.compile(r"Task timed out|Runtime exited|Runtime\.\w+|signal: killed")
ENDED_PATTERNS = ('"Task timed out"', '"Runtime exited"')
# Lambda's own words of every invocation, and what is said in another column or to machines.
NOISE = re.compile(r"(INIT_START|START|END|REPORT|XRAY) ")
HIDDEN = ("function_", "location", "service", "cold_start", "xray_trace_id", "level", "timestamp", "message")

Place = tuple[str, int, str]  # what tells lines apart, of which the emulator has no ids


@dataclass(frozen=True)
class Line:
    """A log line.

    Attributes:
        at: milliseconds since 1970.
        fields: of a structured line; empty where Lambda speaks in plain text.
    """

    at: int
    function: str
    text: str
    fields: dict[str, Any]

    @property
    def request_id(self) -> str | None:
        """Of the invocation that wrote it."""
        return self.fields.get("function_request_id")

    def is_of(self, job_id: str) -> bool:
        """Whether it tells of the job: it names it, or names none and so tells of the whole invocation."""
        return job_id in self.text or ("job_id" not in self.fields and not NOISE.match(self.text))

    def is_trouble(self) -> bool:
        """Whether it tells of something that failed or was rejected."""
        return self.fields.get("level") in TROUBLE or (not self.fields and bool(ENDED.search(self.text)))


def run_logs(stack: Stack, arguments: argparse.Namespace) -> int:
    """Prints the lines asked for, oldest first; 1 where there is none."""
    since = int((time.time() - arguments.since.total_seconds()) * 1000)
    lines = _lines_of_job(stack, arguments.job, since) if arguments.job else _lines(stack, since)
    if arguments.errors and not arguments.job:
        levels = " || ".join(f'$.level = "{level}"' for level in TROUBLE)
        lines = _lines(stack, since, f"{{ {levels} }}", *ENDED_PATTERNS)
    wanted = [line for line in lines if line.is_trouble()] if arguments.errors else lines
    for line in wanted:
        print(_printed(line))
    if not wanted:
        print("no such line; --since says how far to look back", file=sys.stderr)
    return 0 if wanted else 1


def run_failed(stack: Stack, arguments: argparse.Namespace) -> int:
    """Prints which jobs and evaluations failed, and why, the latest first; 1 where any did."""
    rows = list(Jobs(stack.dynamodb, stack.table).failed())
    for row in rows:
        what = row.get("image", row.get("ground_truth", ""))
        print(f"{row['job_id']}  {row['updated_at']}  attempt {row.get('attempt', 1)}  {what}")
        if row["record"] != JOB:
            print(f"    scored against {row['ground_truth']}")
        print(f"    {row['error_code']}: {row['error']}")
    print(
        f"{len(rows)} failed; `cytomask redrive` sends them again" if rows else "nothing failed",
        file=sys.stderr,
    )
    return 1 if rows else 0


def run_redrive(stack: Stack, arguments: argparse.Namespace) -> int:
    """Sends failed jobs again; 1 where an id names none of them."""
    jobs = Jobs(stack.dynamodb, stack.table)
    failed = list(jobs.failed())
    wanted = [row for row in failed if not arguments.ids or row["job_id"].startswith(tuple(arguments.ids))]
    for row in wanted:
        if _redrive(stack, jobs, row):
            print(f"{row['job_id']}  {row.get('image', row.get('ground_truth', ''))}")
    unknown = [each for each in arguments.ids if not any(row["job_id"].startswith(each) for row in failed)]
    for each in unknown:
        print(f"{each} names no failed job; `cytomask failed` lists them", file=sys.stderr)
    return 1 if unknown else 0


COMMANDS = MappingProxyType({"logs": run_logs, "failed": run_failed, "redrive": run_redrive})


def _redrive(stack: Stack, jobs: Jobs, found: Row) -> bool:
    """Sends the message of a failed row again; False where it is not FAILED any more.

    The row says QUEUED first, for the function may be quick; it is put back if the message cannot be sent.
    """
    row = jobs.queue_again(found["job_id"], found["record"], time.time())
    if row is None:
        return False
    of_image = row["record"] == JOB and "image" in row
    try:
        stack.sqs.send_message(
            QueueUrl=stack.segment_queue if of_image else stack.evaluation_queue,
            MessageBody=row["message"],
            MessageAttributes=awaited_by(row["job_id"]) if of_image else {},
        )
    except BaseException:
        jobs.fail_again(row)
        raise
    if row["record"] == JOB and not of_image:
        jobs.forget_queued(row["job_id"])  # a notice's row: the evaluations that it asks for have their own
    return True


def _lines(stack: Stack, since: int, *patterns: str) -> list[Line]:
    """The lines that CloudWatch finds by any of the patterns, or all; oldest first, each once."""
    found: dict[Place, Line] = {}
    for function in FUNCTIONS:
        for pattern in patterns or ("",):
            found |= dict(_filtered(stack, function, since, pattern))
    return sorted(found.values(), key=lambda line: line.at)


def _lines_of_job(stack: Stack, job_id: str, since: int) -> list[Line]:
    """The lines that name a job, and those of their invocations that name no other."""
    naming = _lines(stack, since, f'"{job_id}"')
    requests = sorted({line.request_id for line in naming if line.request_id})
    if not requests:
        return naming
    return [
        line for line in _lines(stack, since, *(f'"{request}"' for request in requests)) if line.is_of(job_id)
    ]


def _filtered(stack: Stack, function: str, since: int, pattern: str) -> Iterator[tuple[Place, Line]]:
    pages = stack.logs.get_paginator("filter_log_events").paginate(
        logGroupName=f"/aws/lambda/{stack.name}-{function}", startTime=since, filterPattern=pattern
    )
    try:
        for event in (event for page in pages for event in page["events"]):
            text = event["message"].rstrip()
            fields = _fields(text)
            if "_aws" not in fields:
                place = (event["logStreamName"], event["timestamp"], text)
                yield place, Line(event["timestamp"], function, text, fields)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "ResourceNotFoundException":
            raise


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _printed(line: Line) -> str:
    at = datetime.fromtimestamp(line.at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if not line.fields:
        return f"{at}  {line.function:8}  {line.text}"
    said = line.fields
    shown = [*_pairs(said.items())]
    return (
        f"{at}  {line.function:8}  {said.get('level', ''):8}  {said.get('message', '')}  {'  '.join(shown)}"
    )


def _pairs(fields: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """Fields as `name=value`, without Lambda's own; a traceback on lines of its own, last."""
    trace = ""
    for name, value in fields:
        if name in ("exception", "stack_trace", "stackTrace"):
            trace = trace or (value if isinstance(value, str) else "")
        elif not name.startswith(HIDDEN) and value not in (None, ""):
            yield f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
    if trace:
        yield "\n    " + trace.strip().replace("\n", "\n    ")
