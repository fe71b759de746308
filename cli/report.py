"""`cytomask report`: show how good the masks are, by group and by model."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from cytomask.cli.console import complain, say
from cytomask.cli.options import Commands, Parser, add_command, moment, on_stack, require_extra

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack

EXAMPLES = (
    "cytomask report                                        # IoU, Dice, confluence and failures",
    "cytomask report --group A172 --since 7d",
    "cytomask report --csv scores.csv --html report.html    # a row for each job; the best and worst masks",
)


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "report",
        "show how good the masks are, by group and by model",
        on_stack(run_report),
        EXAMPLES,
        on_a_stack=True,
    )
    parser.add_argument("--group", metavar="G", help="only jobs of this group")
    parser.add_argument(
        "--since", type=moment, metavar="TIME", help="only jobs since: 2h or 7d ago, or a date, in UTC"
    )
    parser.add_argument("--until", type=moment, metavar="TIME", help="only jobs until this time")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="write a row for each job and each of its evaluations"
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write the numbers, and the worst, median and best masks"
    )


def run_report(stack: "Stack", arguments: Namespace) -> int:
    """Print the measures and write the requested files; return 1 if no job matches or a file fails."""
    if arguments.html:
        require_extra("local", "jinja2")
    from cytomask.cli.report_files import print_report, read_jobs, write_files  # NumPy, boto3
    from cytomask.cli.rows import Search

    search = Search(group=arguments.group, since=arguments.since, until=arguments.until)
    jobs = read_jobs(stack, search)
    if not jobs:
        narrowed = " that you asked for" if search != Search() else ""
        complain(f"the stack `{stack.name}` has no jobs{narrowed}; nothing to report")
        return 1
    # Write files before printing, because a reader such as `| head` may stop early.
    written = write_files(stack, jobs, arguments.csv, arguments.html)
    print_report(stack, jobs)
    for path, fault in written.items():
        if fault:
            complain(f"{path} cannot be written: {fault}")
        else:
            say(f"wrote {path}")
    return 1 if any(written.values()) else 0
