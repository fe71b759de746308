"""`cytomask report`: how good the masks are, by model version and by group, from the Jobs table."""

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cytomask.cli.jobs import newest_jobs, rows_of
from cytomask.cli.report_page import render_page
from cytomask.cli.stack import Stack
from cytomask.cli.summary import (
    EVALUATION,
    Block,
    Job,
    Row,
    compare,
    models_of,
    name_of,
    warn_of_different_images,
)
from cytomask.jobs import AWAITING, JOB
from cytomask.storage import Storage

WORKERS = 8  # each waits for AWS most of its time; boto3 keeps ten connections

OF_THE_JOB = (
    "job_id",
    "image",
    "group",
    "status",
    "model_sha256",
    "created_at",
    "pages",
    "confluence",
    "milliseconds",
    "estimated_cost_usd",
    "mask",
    "error_code",
    "error",
)
OF_THE_EVALUATION = (
    "evaluation_status",
    "ground_truth",
    "iou",
    "dice",
    "precision",
    "recall",
    "boundary_f1",
    "boundary_tolerance",
    "true_confluence",
    "true_positive",
    "false_positive",
    "false_negative",
)
COLUMNS = (
    *OF_THE_JOB,
    *OF_THE_EVALUATION,
    "ground_truth_version",
    "evaluation_updated_at",
    "counts",
    "evaluation_error_code",
    "evaluation_error",
)


def run_report(stack: Stack, arguments: argparse.Namespace) -> int:
    """Prints the measures and writes the files asked for; 1 where there are no jobs or a file fails."""
    jobs = read_jobs(stack, arguments.group)
    if not jobs:
        of_group = f" of the group {arguments.group}" if arguments.group else ""
        print(f"the stack `{stack.name}` has no jobs{of_group}; nothing to report", file=sys.stderr)
        return 1
    files = files_of(stack, jobs, arguments)
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    except OSError as error:
        print(f"{error.filename} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    print_blocks(compare(jobs), [name_of(model) for model in models_of(jobs)])
    for path in files:
        print(f"wrote {path}")
    warning = warn_of_different_images(jobs)
    if warning:
        print(f"\n{warning}", file=sys.stderr)
    return 0


def read_jobs(stack: Stack, group: str | None) -> list[Job]:
    """All jobs, or those of one group, the newest first."""
    rows = list({row["job_id"]: row for row in newest_jobs(stack, None, group)}.values())
    with ThreadPoolExecutor(WORKERS) as pool:
        evaluations = pool.map(lambda row: _evaluations(stack, row), rows)
        return [Job(row, found) for row, found in zip(rows, evaluations, strict=True)]


def _evaluations(stack: Stack, job: Row) -> list[Row]:
    """Those of a job against ground truths that came, the oldest first; without a mask there are none."""
    if job["status"] != "SUCCEEDED":
        return []
    rows = [row for row in rows_of(stack, job["job_id"]) if row["record"] not in (JOB, AWAITING)]
    return sorted(rows, key=lambda row: str(row["created_at"]))


def print_blocks(blocks: Iterable[Block], models: Sequence[str]) -> None:
    """Prints a line for each measure, with a column for each model."""
    for block in blocks:
        heads = "".join(f"  {model:>12}" for model in models)
        print(f"\n{block.title:44}{heads}")
        for name, values in block.lines:
            print(f"  {name:42}" + "".join(f"  {value:>12}" for value in values))


def files_of(stack: Stack, jobs: Sequence[Job], arguments: argparse.Namespace) -> dict[Path, bytes]:
    """What is to be written, by its path."""
    files = {}
    if arguments.csv:
        files[arguments.csv] = table_of(jobs)
    if arguments.html:
        title = f"Masks of the stack {stack.name}"
        files[arguments.html] = render_page(Storage(stack.s3), title, jobs)
    return files


def table_of(jobs: Iterable[Job]) -> bytes:
    """A CSV of every job with every evaluation; `counts` is 1 for the one that the measures are made of."""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, COLUMNS)
    writer.writeheader()
    for job in jobs:
        own = {name: job.row.get(name) for name in OF_THE_JOB}
        for evaluation in job.evaluations or [{}]:
            writer.writerow(own | _columns_of(evaluation, evaluation == job.score))
    return table.getvalue().encode()


def _columns_of(evaluation: Row, counts: bool) -> Row:
    if not evaluation:
        return {}
    return {name: evaluation.get(name) for name in OF_THE_EVALUATION} | {
        "ground_truth_version": evaluation["record"].removeprefix(EVALUATION),
        "evaluation_updated_at": evaluation["updated_at"],
        "counts": int(counts),
        "evaluation_error_code": evaluation.get("error_code"),
        "evaluation_error": evaluation.get("error"),
    }
