"""`cytomask jobs`: list images with status and score, from the Jobs table."""

import json
from argparse import Namespace
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from cytomask.cli.console import complain, say, say_all
from cytomask.cli.options import Commands, Parser, add_command, count, moment, on_stack
from cytomask.cli.tables import flags_text, number, print_table

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack
    from cytomask.records import EvaluationRow, JobRow

EXAMPLES = (
    "cytomask jobs                                          # the newest 100, the newest last",
    "cytomask jobs d4adc4fe                                 # everything about one job",
    "cytomask jobs --status REJECTED --since 1d             # images refused since yesterday, and why",
    "cytomask jobs --group HeLa --json                      # as JSON, for a program",
)
SHORT_ID = 8  # printed digits of an id; every command accepts them
MOST_JOBS = 100
HEADS = ("job", "status", "confluence", "IoU", "Dice", "group", "image", "reason")
TO_THE_RIGHT = ("confluence", "IoU", "Dice")


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands, "jobs", "list images with status and score", on_stack(run_jobs), EXAMPLES, on_a_stack=True
    )
    parser.add_argument("id", nargs="?", metavar="ID", help="show everything about this job")
    add_search(parser)
    parser.add_argument("--limit", type=count, metavar="N", help=f"most jobs to list; default: {MOST_JOBS}")
    parser.add_argument("--json", action="store_true", help="print JSON, each job with its evaluations")


def add_search(parser: Parser) -> None:
    """Add the options that choose jobs."""
    parser.add_argument(
        "--status", type=str.upper, metavar="S", help="only jobs with this status, such as FAILED"
    )
    parser.add_argument("--group", metavar="G", help="only jobs of this group")
    parser.add_argument(
        "--since",
        type=moment,
        metavar="TIME",
        help="only jobs since this time: 2h or 7d ago, or a date, in UTC",
    )
    parser.add_argument("--until", type=moment, metavar="TIME", help="only jobs until this time")


def run_jobs(stack: "Stack", arguments: Namespace) -> int:
    """Print one job in full, or a line for each of the newest.

    Returns 1 for an unknown id, 2 for an invalid status.
    """
    from cytomask.cli.rows import Search  # boto3 takes half a second
    from cytomask.records import STATUSES

    if arguments.id is not None:
        return show_job(stack, stack.find_job(arguments.id), arguments.json)
    if arguments.status not in (None, *STATUSES):
        complain(f"invalid status {arguments.status}; use one of {', '.join(STATUSES)}")
        return 2
    search = Search(arguments.status, arguments.group, arguments.since, arguments.until)
    most = arguments.limit or MOST_JOBS
    found = list(islice(stack.rows.jobs(search), most + 1))
    shown = found[:most][::-1]
    if arguments.json:
        found_with = zip(shown, stack.rows.evaluations(shown), strict=True)
        say_all(as_json([_whole(*each) for each in found_with]))
    elif shown:
        print_jobs(stack, shown)
    else:
        complain("no jobs")
    if len(found) > most:
        complain(f"these are the newest {most}; --limit, --since, --status and --group choose others")
    return 0


def print_jobs(stack: "Stack", rows: "Sequence[JobRow]") -> None:
    """Print a line for each job: its score, its quality flags, and the reason if it has no mask or score."""
    from cytomask.cli.rows import newest_evaluation

    lines = [
        _line(row, newest_evaluation(evaluations))
        for row, evaluations in zip(rows, stack.rows.evaluations(rows), strict=True)
    ]
    print_table(HEADS, lines, TO_THE_RIGHT)


def show_job(stack: "Stack", job_id: str, in_json: bool) -> int:
    """Print everything about one job and its evaluations."""
    found = stack.rows.of(job_id)
    if found is None:  # deleted since it was found
        complain(f"the stack `{stack.name}` has no job {job_id}")
        return 1
    job, evaluations = found
    if in_json:
        say_all(as_json(_whole(job, evaluations)))
        return 0
    _say_fields(job)
    for row in evaluations:
        say()
        say(row.record)
        _say_fields(row)
    return 0


def _say_fields(row: "JobRow | EvaluationRow") -> None:
    for name, value in sorted(_fields(row).items()):
        if name != "record":
            say(f"{name:22} {value}")


def as_json(value: Any) -> str:
    """Encode as ASCII JSON, which has no control characters for the terminal."""
    return json.dumps(value, indent=2)


def _fields(row: "JobRow | EvaluationRow") -> dict[str, Any]:
    import msgspec

    fields: dict[str, Any] = msgspec.to_builtins(row)
    return fields


def _whole(job: "JobRow", evaluations: "Sequence[EvaluationRow]") -> dict[str, Any]:
    fields = {name: value for name, value in _fields(job).items() if name != "record"}
    return fields | {"evaluations": [_fields(row) for row in evaluations]}


def _line(row: "JobRow", evaluation: "EvaluationRow | None") -> tuple[str, ...]:
    image = row.image or ""
    iou = number(evaluation.iou) if evaluation else "-"
    if evaluation and evaluation.evaluation_status != "SCORED":
        iou = evaluation.evaluation_status.lower()
    reason = reason_of(row) or (reason_of(evaluation, "score: ") if evaluation else "")
    why = "; ".join(filter(None, (flags_text(row.quality, row.quality_values), reason)))
    return (
        row.job_id[:SHORT_ID],
        row.status,
        number(row.confluence),
        iou,
        number(evaluation.dice) if evaluation else "-",
        row.group or "-",
        image or f"message {(row.message or '')[:80]!r}",
        # The row shows the whole address already, so the reason needs only the name.
        why.replace(image, image.rpartition("/")[2]) if image else why,
    )


def reason_of(row: "JobRow | EvaluationRow", what: str = "") -> str:
    """Say why a job or an evaluation was rejected or failed; empty if it was not."""
    if row.error_code:
        return f"{what}{row.error_code}: {row.error or ''}"
    return f"{what}{row.error}" if row.error else ""
