"""`cytomask reindex`: find the plates of jobs, and the ground truths, that an earlier release knew."""

import time
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
        description="Reads the names of images only. Jobs that belong to a plate already stay as they are.\n"
        "Masks in the ground-truth bucket are noted, so that images uploaded later are scored against\n"
        "those of version 0.1 too.",
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
    masks = _note_masks(stack, dry_run=arguments.dry_run)
    verb = "would belong" if arguments.dry_run else "belong"
    say(f"{count_of(looked_at, 'job')} looked at; {len(found)} {verb} to {count_of(len(names), 'plate')}")
    for name in names[:50]:
        say(f"  {name}")
    if len(names) > 50:
        complain(f"{len(names) - 50} more plates; `cytomask plates` lists them")
    say(f"{count_of(masks, 'ground truth')} {'found' if arguments.dry_run else 'noted'}")
    return 0


def _note_masks(stack: "Stack", *, dry_run: bool) -> int:
    """Note of which images each mask in the ground-truth bucket may be the truth; return how many."""
    from cytomask.addresses import S3Object, is_coco, is_sidecar
    from cytomask.mask_index import MaskIndex
    from cytomask.table import Table

    index = MaskIndex(Table(stack.dynamodb, stack.table))
    pages = stack.s3.get_paginator("list_objects_v2").paginate(Bucket=stack.ground_truth_bucket)
    keys = [each["Key"] for page in pages for each in page.get("Contents", [])]
    masks = [
        S3Object(stack.ground_truth_bucket, key)
        for key in keys
        if not (key.endswith("/") or is_coco(key) or is_sidecar(key))
    ]
    if not dry_run:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            noted = pool.map(lambda mask: index.name(mask, now=time.time()), masks)
            for _ in with_progress(noted, len(masks), "mask"):
                pass
    return len(masks)
