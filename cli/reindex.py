"""`cytomask reindex`: find the plates of jobs of earlier releases, and index their ground truths."""

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
    "cytomask reindex                                       # plate, well, site and time from names",
    "cytomask reindex --dry-run                             # show what would change",
    "cytomask reindex --pattern '(?P<plate>[^/_]+)_(?P<well>[A-H][0-9]+)_t(?P<hours>[0-9]+)'",
)
AT_ONCE = 8  # rows written at a time


def add_parser(commands: "Commands[Parser]") -> None:
    """Add the parser of the command."""
    parser = add_command(
        commands,
        "reindex",
        "fill in plate, well, site and time of jobs that lack them",
        on_stack(run_reindex),
        EXAMPLES,
        description="Reads only the names of images, by --pattern or the stack's parameter NamePattern if\n"
        "there is one. Jobs that already belong to a plate are not changed.\n"
        "Also indexes the masks in the ground-truth bucket, so that images uploaded later are scored\n"
        "against masks from version 0.1 too.",
        on_a_stack=True,
    )
    add_pattern_option(parser)
    parser.add_argument("--dry-run", action="store_true", help="write nothing")


def run_reindex(stack: "Stack", arguments: Namespace) -> int:
    """Fill in the rows; a second run changes nothing."""
    from cytomask.cli.rows import Search
    from cytomask.plate_places import place_row
    from cytomask.plate_rows import Plates, note_row

    plates = Plates(stack.dynamodb, stack.table)
    pattern = arguments.pattern or stack.pattern
    looked_at = 0
    found: list[tuple[JobRow, dict[str, Any]]] = []

    def unplaced() -> Iterator["JobRow"]:
        nonlocal looked_at
        for row in stack.rows.jobs(Search()):
            looked_at += 1
            if row.plate is None and row.image is not None:
                yield row

    for row in unplaced():
        if (placed := place_row(row.image or "", pattern)) is not None:
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
    """Index each mask in the ground-truth bucket under the images it may belong to; return how many."""
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
