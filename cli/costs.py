"""`cytomask costs`: show the cost of jobs by day, group and plate, from their rows."""

from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cytomask.cli.console import complain, say
from cytomask.cli.files import count_of
from cytomask.cli.options import Commands, Parser, add_command, moment, on_stack
from cytomask.cli.tables import number, print_table

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack
    from cytomask.records import JobRow

EXAMPLES = (
    "cytomask costs                                         # the last 30 days",
    "cytomask costs --plate P1 --since 2026-11-01",
)
# The cost of a mask besides computing: S3 and SQS calls, rows, log lines. docs/costs.md derives it.
OTHER_USD = 0.0000155


@dataclass
class Spent:
    """The cost of the jobs of one day, group and plate, in US$."""

    jobs: int = 0
    computing: float = 0.0

    @property
    def total(self) -> float:
        """Cost of computing, and of each job's calls, rows and log lines."""
        return self.computing + self.jobs * OTHER_USD


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "costs",
        "show the cost of jobs, by day, group and plate",
        on_stack(run_costs),
        EXAMPLES,
        description="A job is one version of an image with one set of settings, so an image that was\n"
        "overwritten or sent with another threshold counts again. The costs are estimates from the jobs'\n"
        "rows: computing as billed, everything else by the rates in docs/costs.md.",
        on_a_stack=True,
    )
    parser.add_argument(
        "--since", type=moment, default="30d", metavar="TIME", help="2h, 7d or a date; default: 30d"
    )
    parser.add_argument("--plate", metavar="P", help="only this plate")


def run_costs(stack: "Stack", arguments: Namespace) -> int:
    """Print a row for each day, group and plate; return 1 if nothing was segmented."""
    from cytomask.cli.rows import Search  # boto3 takes half a second

    spent = by_day(stack.rows.jobs(Search(since=arguments.since)), arguments.plate)
    if not spent:
        complain("nothing was segmented in that time; --since looks further back")
        return 1
    print_table(
        ("day", "group", "plate", "jobs", "computing US$", "together US$"),
        [
            (day, group, plate, str(each.jobs), number(each.computing, 5), number(each.total, 5))
            for (day, group, plate), each in sorted(spent.items())
        ],
        right=("jobs", "computing US$", "together US$"),
    )
    jobs, usd = sum(each.jobs for each in spent.values()), sum(each.total for each in spent.values())
    say()
    say(f"{count_of(jobs, 'job')}, US$ {usd:.4f}")
    return 0


def by_day(rows: "Iterable[JobRow]", plate: str | None) -> dict[tuple[str, str, str], Spent]:
    """Add up the costs of jobs by day, group and plate; skip jobs without a cost."""
    spent: dict[tuple[str, str, str], Spent] = defaultdict(Spent)
    for row in rows:
        if row.estimated_cost_usd is None or (plate is not None and row.plate != plate):
            continue
        each = spent[row.created_at[:10], row.group or "", row.plate or ""]
        each.jobs += 1
        each.computing += row.estimated_cost_usd
    return dict(spent)
