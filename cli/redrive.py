"""`cytomask redrive`: send the messages of failed jobs and evaluations again."""

import time
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from cytomask.cli.console import complain, say
from cytomask.cli.options import Commands, Parser, add_command, on_stack

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack
    from cytomask.jobs import Jobs
    from cytomask.records import EvaluationRow, JobRow

EXAMPLES = (
    "cytomask redrive                                       # everything that failed",
    "cytomask redrive 1f3a77c0 77c0d4ad                     # some of it",
)


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands, "redrive", "send failed jobs again", on_stack(run_redrive), EXAMPLES, on_a_stack=True
    )
    parser.add_argument(
        "ids", nargs="*", metavar="ID", help="ids of jobs, or their first digits; default: all that failed"
    )


def run_redrive(stack: "Stack", arguments: Namespace) -> int:
    """Send failed jobs again; 1 if an id names none of them."""
    from cytomask.jobs import Jobs  # boto3 takes half a second
    from cytomask.table import Table

    jobs = Jobs(Table(stack.dynamodb, stack.table))
    failed = list(jobs.failed())
    wanted = [row for row in failed if not arguments.ids or row.job_id.startswith(tuple(arguments.ids))]
    for row in wanted:
        if redrive_row(stack, jobs, row):
            say(f"{row.job_id}  {row.image or row.ground_truth or ''}")
    unknown = [each for each in arguments.ids if not any(row.job_id.startswith(each) for row in failed)]
    for each in unknown:
        complain(f"{each} names no failed job; `cytomask failed` lists them")
    if not failed:
        complain("nothing failed")
    return 1 if unknown else 0


def redrive_row(stack: "Stack", jobs: "Jobs", found: "JobRow | EvaluationRow") -> bool:
    """Send the message of a failed row again; return False if it is not FAILED any more.

    The row becomes QUEUED first, for the function may be quick; it is put back if the message cannot be sent.
    """
    from cytomask.arrivals import awaited_by
    from cytomask.records import JobRow

    row = jobs.queue_again(found, now=time.time())
    if row is None:
        return False
    of_image = isinstance(row, JobRow) and row.image is not None
    group = row.message_group if isinstance(row, JobRow) else None
    fair: dict[str, Any] = {"MessageGroupId": group} if group else {}  # fresh uploads still come before it
    try:
        stack.sqs.send_message(
            QueueUrl=stack.segment_queue if of_image else stack.evaluation_queue,
            MessageBody=row.message or "",
            MessageAttributes=awaited_by(row.job_id, row.message or "") if of_image else {},
            **fair,
        )
    except BaseException:
        jobs.fail_again(row)
        raise
    if isinstance(row, JobRow) and not of_image:
        jobs.forget_queued(row.job_id)  # a notice's row: the evaluations that it asks for have their own
    return True
