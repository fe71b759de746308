"""`cytomask reindex`: find the plates of jobs that an earlier release has done."""

from argparse import Namespace
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from cytomask.cli.console import complain, say, with_progress
from cytomask.cli.files import count_of
from cytomask.cli.options import Commands, Parser, add_command, on_stack
from cytomask.cli.plate_options import add_pattern_option

if TYPE_CHECKING:
    from cytomask.cli.stack import Stack
    from cytomask.records import JobRow

EXAMPLES = (
    "cytomask reindex                                       # plate, well, site and time by names",
    "cytomask reindex --dry-run                             # says what would be found",
    "cytomask reindex --pattern '(?P<plate>[^/_]+)_(?P<well>[A-H][0-9]+)_t(?P<hours>[0-9]+)'",
)
AT_ONCE = 8  # rows that are written at the same time


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "reindex",
        "fill in plate, well, site and time of jobs that lack them",
        on_stack(run_reindex),
        EXAMPLES,
        description="Reads the names of images only. Jobs that belong to a plate already stay as they are.",
        on_a_stack=True,
    )
    add_pattern_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="write nothing")


def run_reindex(stack: "Stack", arguments: Namespace) -> int:
    """Fill in the rows; a second run finds nothing more to do."""
    from cytomask.cli.rows import Search
    from cytomask.plate_places import place_row
    from cytomask.plate_rows import Plates, note_row

    plates = Plates(stack.dynamodb, stack.table)
    looked_at = 0
    found: list[tuple[JobRow, dict[str, Any]]] = []

    def unplaced() -> Iterator["JobRow"]:
        nonlocal looked_at
        for row in stack.rows.jobs(Search()):
            looked_at += 1
            if row.plate is None and row.image is not None:
                yield row

    for row in unplaced():
        if (placed := place_row(row.image or "", arguments.pattern)) is not None:
            found.append((row, placed))
    names = sorted({placed["plate"] for _, placed in found})
    if not arguments.dry_run:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            done = pool.map(lambda pair: note_row(plates, *pair), found)
            for _ in with_progress(done, len(found), "job"):
                pass
    verb = "would belong" if arguments.dry_run else "belong"
    say(f"{count_of(looked_at, 'job')} looked at; {len(found)} {verb} to {count_of(len(names), 'plate')}")
    for name in names[:50]:
        say(f"  {name}")
    if len(names) > 50:
        complain(f"{len(names) - 50} more plates; `cytomask plates` lists them")
    return 0
