"""`cytomask logs`: the functions' structured log lines, from CloudWatch."""

import json
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cytomask.cli.console import complain, say
from cytomask.cli.options import Commands, Parser, add_command, moment, on_stack

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack

EXAMPLES = (
    "cytomask logs                                          # the last hour, the oldest first",
    "cytomask logs --job d4adc4fe                           # one job, from its upload to its score",
    "cytomask logs --errors --since 1d                      # what failed or was rejected since yesterday",
)
FUNCTIONS = ("segment", "evaluate", "failures", "api")
TROUBLE = ("WARNING", "ERROR", "CRITICAL")
REJECTED = "_rejected"  # ending of events about a rejection, at any level
# Lambda's own words about an invocation that it ended, and about a function that did not start.
ENDED = re.compile(
    r"Task timed out|Runtime exited|Runtime\.\w+|signal: killed|^\[ERROR\]|^INIT_REPORT.*\bStatus: "
)
LEVELS = " || ".join(f'$.level = "{level}"' for level in TROUBLE)
ERROR_PATTERNS = (
    f'{{ {LEVELS} || $.message = "*{REJECTED}" }}',
    '"Task timed out"',
    '"Runtime exited"',
    '"[ERROR]"',
    '"INIT_REPORT"',
)
# Lambda's own words about every invocation; then fields that have a column of their own or are for machines.
NOISE = re.compile(r"(INIT_START|START|END|REPORT|XRAY) ")
HIDDEN = ("function_", "location", "service", "cold_start", "xray_trace_id", "level", "timestamp", "message")
TRACES = ("exception", "stack_trace", "stackTrace")

Place = tuple[str, int, str]  # identifies a line: the emulator gives lines no id


@dataclass(frozen=True)
class Line:
    """A log line.

    Attributes:
        at: milliseconds since 1970.
        fields: of a structured line; empty for Lambda's plain text.
    """

    at: int
    function: str
    text: str
    fields: dict[str, Any]

    @property
    def request_id(self) -> str | None:
        """The id of the invocation that wrote the line."""
        return self.fields.get("function_request_id")

    def is_of(self, job_id: str) -> bool:
        """Tell whether the line is about the job: it names the job or the whole invocation."""
        return job_id in self.text or ("job_id" not in self.fields and not NOISE.match(self.text))

    def is_trouble(self) -> bool:
        """Tell whether the line is about something that failed or was rejected."""
        if not self.fields:
            return bool(ENDED.search(self.text))
        return self.fields.get("level") in TROUBLE or str(self.fields.get("message")).endswith(REJECTED)


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "logs",
        "show what the functions logged, the oldest first",
        on_stack(run_logs),
        EXAMPLES,
        description="The exit code is 1 if no line matches.",
        on_a_stack=True,
    )
    parser.add_argument("--job", metavar="ID", help="only this job, from its upload to its score")
    parser.add_argument(
        "--since",
        type=moment,
        default="1h",
        metavar="TIME",
        help="how far to look back: 30m, 2h, 7d, or a date, in UTC; default: 1h",
    )
    parser.add_argument("--errors", action="store_true", help="only failures and rejections")


def run_logs(stack: "Stack", arguments: Namespace) -> int:
    """Print the matching lines, the oldest first; return 1 if none match."""
    since = max(0, int(arguments.since.timestamp() * 1000))
    if arguments.job:
        ids = stack.rows.ids(arguments.job.lower())
        # A job whose row is gone may still have its lines.
        lines = lines_of_job(stack, ids[0] if len(ids) == 1 else arguments.job, since)
    elif arguments.errors:
        lines = _lines(stack, since, *ERROR_PATTERNS)
    else:
        lines = _lines(stack, since)
    wanted = [line for line in lines if line.is_trouble()] if arguments.errors else lines
    for line in wanted:
        for text in _shown(line):
            say(text)
    if not wanted:
        complain("no such line; --since says how far to look back")
    return 0 if wanted else 1


def _lines(stack: "Stack", since: int, *patterns: str) -> list[Line]:
    """Read the lines that match any of the patterns, or all lines; the oldest first, each once."""
    found: dict[Place, Line] = {}
    for function in FUNCTIONS:
        for pattern in patterns or ("",):
            found |= dict(_filtered(stack, function, since, pattern))
    return sorted(found.values(), key=lambda line: line.at)


def lines_of_job(stack: "Stack", job_id: str, since: int) -> list[Line]:
    """Read the lines that name a job, and those of the same invocations that name no other job."""
    naming = _lines(stack, since, f'"{job_id}"')
    requests = sorted({line.request_id for line in naming if line.request_id})
    if not requests:
        return naming
    return [
        line for line in _lines(stack, since, *(f'"{request}"' for request in requests)) if line.is_of(job_id)
    ]


def _filtered(stack: "Stack", function: str, since: int, pattern: str) -> Iterator[tuple[Place, Line]]:
    for event in stack.log_events(function, since, pattern):
        text = event["message"].rstrip()
        fields = _fields(text)
        if "_aws" not in fields:
            place = (event["logStreamName"], event["timestamp"], text)
            yield place, Line(event["timestamp"], function, text, fields)


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _shown(line: Line) -> Iterator[str]:
    """The line as a person reads it; a traceback follows on lines of its own."""
    at = datetime.fromtimestamp(line.at / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if not line.fields:
        yield f"{at}  {line.function:8}  {line.text}"
        return
    said = line.fields
    yield f"{at}  {line.function:8}  {said.get('level', ''):8}  {text_of(line)}"
    trace = next((said[name] for name in TRACES if said.get(name)), "")
    for text in "".join(trace).strip().split("\n") if trace else ():
        yield f"    {text}"


def text_of(line: Line) -> str:
    """Return what a line says beside its time, function and level."""
    if not line.fields:
        return line.text
    return f"{line.fields.get('message', '')}  {'  '.join(_pairs(line.fields.items()))}".rstrip()


def _pairs(fields: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """Fields as `name=value`, without Lambda's own."""
    for name, value in fields:
        if name not in TRACES and not name.startswith(HIDDEN) and value not in (None, ""):
            yield f"{name}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
