"""`cytomask plates`: list the stack's plates and their progress."""

import json
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from cytomask.cli.console import complain, say_all
from cytomask.cli.options import Commands, Parser, add_command, on_stack
from cytomask.cli.tables import number, print_table

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack

EXAMPLES = (
    "cytomask plates                                        # wells, scans, complete or not, cost",
    "cytomask plates --json                                 # as JSON, for a program",
)
HEADS = ("plate", "wells", "scans", "from", "to", "pages", "failed", "complete", "US$")


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "plates",
        "list the plates that images belong to",
        on_stack(run_plates),
        EXAMPLES,
        on_a_stack=True,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_plates(stack: "Stack", arguments: Namespace) -> int:
    """Print a line for each plate."""
    from cytomask.plate_rows import Plates

    summaries = list(Plates(stack.dynamodb, stack.table).summaries())
    if arguments.json:
        say_all(json.dumps([each.shown() for each in summaries], indent=2, ensure_ascii=False))
    elif summaries:
        rows = [
            (
                each.plate,
                str(each.wells),
                str(each.scans),
                shown_time(each.first),
                shown_time(each.last),
                str(each.pages),
                str(each.failed),
                _complete(each),
                number(each.cost_usd, 4),
            )
            for each in summaries
        ]
        print_table(HEADS, rows, ("wells", "scans", "from", "to", "pages", "failed", "US$"))
    else:
        complain(
            "no plates: they come from the images' names, or from a request's `plate` and `well`; see "
            "docs/plates.md"
        )
    return 0


def shown_time(time: float | str | None) -> str:
    """Write when a scan was: its hours, its date to the hour, or its number, such as n00000003."""
    if time is None:
        return "-"
    if not isinstance(time, str):
        return f"{time:g} h"
    return f"scan {int(time[1:])}" if time.startswith("n") else f"{time.replace('T', ' ')}:00"


def _complete(summary: Any) -> str:
    if summary.complete is None:
        return "-"
    ended = summary.pages + summary.failed
    return "yes" if summary.complete else f"{ended} of {summary.expected_pages}"
