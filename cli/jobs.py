"""`cytomask jobs`: what became of the images, from the Jobs table."""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

from cytomask.cli.console import complain, say, say_all
from cytomask.cli.options import Commands, Parser, add_command, count, moment, on_stack
from cytomask.cli.tables import number, print_table

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack

Row = dict[str, Any]

EXAMPLES = (
    "cytomask jobs                                          # the newest 100, the newest last",
    "cytomask jobs d4adc4fe                                 # all that is known of one",
    "cytomask jobs --status REJECTED --since 1d             # what was refused since yesterday, and why",
    "cytomask jobs --group HeLa --json                      # for a program",
)
SHORT_ID = 8  # digits of an id that are printed, and that every command takes
MOST_JOBS = 100
HEADS = ("job", "status", "confluence", "IoU", "Dice", "group", "image", "reason")
TO_THE_RIGHT = ("confluence", "IoU", "Dice")


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands, "jobs", "list what became of the images", on_stack(run_jobs), EXAMPLES, on_a_stack=True
    )
    parser.add_argument("id", nargs="?", metavar="ID", help="show all that is known of this job")
    add_search(parser)
    parser.add_argument("--limit", type=count, metavar="N", help=f"how many; default: {MOST_JOBS}")
    parser.add_argument("--json", action="store_true", help="print JSON, each job with its evaluations")


def add_search(parser: Parser) -> None:
    """Add the options by which jobs are chosen."""
    parser.add_argument(
        "--status", type=str.upper, metavar="S", help="only those that are so, such as FAILED"
    )
    parser.add_argument("--group", metavar="G", help="only those of this label")
    parser.add_argument(
        "--since", type=moment, metavar="TIME", help="only those made since: 2h or 7d ago, or a date, in UTC"
    )
    parser.add_argument("--until", type=moment, metavar="TIME", help="only those made until then")


def run_jobs(stack: "Stack", arguments: Namespace) -> int:
    """Print one job in full, or a line for each of the newest; 1 for an unknown id, 2 for a wrong status."""
    from cytomask.cli.rows import Search  # boto3 takes half a second
    from cytomask.jobs import STATUSES

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
        say_all(as_json([_with_evaluations(rows) for rows in stack.rows.of_each(shown)]))
    elif shown:
        print_jobs(stack, shown)
    else:
        complain("no jobs")
    if len(found) > most:
        complain(f"the newest {most}; there are more, see --limit, --since, --status and --group")
    return 0


def print_jobs(stack: "Stack", rows: Sequence[Row]) -> None:
    """Print a line for each job, with the score of its mask, and the reason where there is none."""
    from cytomask.cli.rows import newest_evaluation

    lines = [
        _line(row, newest_evaluation(evaluations))
        for row, evaluations in zip(rows, stack.rows.of_each(rows), strict=True)
    ]
    print_table(HEADS, lines, TO_THE_RIGHT)


def show_job(stack: "Stack", job_id: str, in_json: bool) -> int:
    """Print all that is known of one job and its evaluations."""
    rows = sorted(stack.rows.of(job_id), key=lambda row: (row["record"] != "JOB", str(row["created_at"])))
    if in_json:
        say_all(as_json(_with_evaluations(rows)))
        return 0
    for row in rows:
        if row["record"] != "JOB":
            say()
            say(row["record"])
        for name, value in sorted(row.items()):
            if name != "record":
                say(f"{name:22} {value}")
    return 0


def as_json(value: Any) -> str:
    """JSON in ASCII: no terminal obeys it."""
    return json.dumps(value, indent=2, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return sorted(value) if isinstance(value, set) else str(value)


def _with_evaluations(rows: Sequence[Row]) -> Row:
    job = next((row for row in rows if row["record"] == "JOB"), {})
    evaluations = [row for row in rows if row["record"] != "JOB"]
    return {name: value for name, value in job.items() if name != "record"} | {"evaluations": evaluations}


def _line(row: Row, evaluation: Mapping[str, Any]) -> tuple[str, ...]:
    status, image = evaluation.get("evaluation_status"), row.get("image", "")
    iou, dice = (number(evaluation.get(name)) for name in ("iou", "dice"))
    return (
        row["job_id"][:SHORT_ID],
        row["status"],
        number(row.get("confluence")),
        iou if status in (None, "SCORED") else status.lower(),
        dice,
        row.get("group") or "-",
        image or f"message {row.get('message', '')[:80]!r}",
        # The image stands beside it: in the reason its name is enough.
        (reason_of(row) or reason_of(evaluation, "score: ") or doubts_of(row)).replace(
            image or "\0", image.rpartition("/")[2]
        ),
    )


def doubts_of(row: Mapping[str, Any]) -> str:
    """Name the quality flags of a mask that was made; empty if it has none."""
    return ", ".join(row.get("quality") or ())


def reason_of(row: Mapping[str, Any], what: str = "") -> str:
    """Why a job or an evaluation was rejected or failed; empty where it was not."""
    if "error_code" in row:
        return f"{what}{row['error_code']}: {row.get('error', '')}"
    return f"{what}{row['error']}" if row.get("error") else ""
