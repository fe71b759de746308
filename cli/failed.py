"""`cytomask failed`: list the jobs and evaluations that failed, and why."""

from argparse import Namespace
from typing import TYPE_CHECKING

from cytomask.cli.console import complain, say
from cytomask.cli.options import Commands, Parser, add_command, on_stack

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack

EXAMPLES = (
    "cytomask failed                                        # jobs and scores to fix, with reasons",
    "cytomask redrive                                       # then send all of them again",
)


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    add_command(
        commands,
        "failed",
        "list the jobs and scores that failed, and why",
        on_stack(run_failed),
        EXAMPLES,
        description="The exit code is 1 if anything failed.",
        on_a_stack=True,
    )


def run_failed(stack: "Stack", arguments: Namespace) -> int:
    """Print the failed jobs and evaluations, the latest first; return 1 if there are any."""
    from cytomask.jobs import Jobs  # boto3 takes half a second
    from cytomask.records import EvaluationRow
    from cytomask.table import Table

    rows = list(Jobs(Table(stack.dynamodb, stack.table)).failed())
    for row in rows:
        what = row.image or row.ground_truth or ""
        say(f"{row.job_id}  {row.updated_at}  attempt {row.attempt or 1}  {what}")
        if isinstance(row, EvaluationRow):
            say(f"    scored against {row.ground_truth}")
        say(f"    {row.error_code}: {row.error}")
    complain(f"{len(rows)} failed; `cytomask redrive` sends them again" if rows else "nothing failed")
    return 1 if rows else 0
