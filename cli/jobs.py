"""`cytomask jobs`: what became of the images, from the Jobs table."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping
from heapq import merge
from itertools import islice
from typing import Any

from boto3.dynamodb.types import TypeDeserializer

from cytomask.cli.stack import Stack
from cytomask.jobs import STATUSES

Row = dict[str, Any]

MOST_JOBS = 100


def run_jobs(stack: Stack, arguments: argparse.Namespace) -> int:
    """Prints one job in full, or a line for each of the newest; 1 for an id, 2 for a status, that is none."""
    if arguments.id is not None:
        return show_job(stack, arguments.id)
    if arguments.status not in (None, *STATUSES):
        print(f"no job is ever {arguments.status}; --status takes {', '.join(STATUSES)}", file=sys.stderr)
        return 2
    found = list(islice(newest_jobs(stack, arguments.status, arguments.group), MOST_JOBS + 1))
    shown = found[:MOST_JOBS][::-1]
    if not shown:
        print("no jobs", file=sys.stderr)
        return 0
    print(f"{'job':32}  {'status':9}  {'confluence':>10}  {'IoU':>5}  {'Dice':>5}  {'group':12}  image")
    for row in shown:
        print(line_of(row, newest_score(rows_of(stack, row["job_id"]))))
    if len(found) > MOST_JOBS:
        print(f"the newest {MOST_JOBS}; there are more, see --status and --group", file=sys.stderr)
    return 0


def show_job(stack: Stack, job_id: str) -> int:
    """Prints all that is known of one job and its evaluations."""
    rows = rows_of(stack, job_id)
    if not any(row["record"] == "JOB" for row in rows):
        print(f"the stack `{stack.name}` has no job {job_id}; `cytomask jobs` lists them", file=sys.stderr)
        return 1
    for row in sorted(rows, key=lambda row: (row["record"] != "JOB", row["created_at"])):
        if row["record"] != "JOB":
            print(f"\n{row['record']}")
        for name, value in sorted(row.items()):
            if name != "record":
                print(f"{name:22} {value}")
    return 0


def newest_jobs(stack: Stack, status: str | None, group: str | None) -> Iterator[Row]:
    """Jobs of this status and group, the newest first."""
    if group is not None:
        found = _jobs_of(stack, "by_group", "group", group)
        return found if status is None else (row for row in found if row["status"] == status)
    wanted = STATUSES if status is None else (status,)
    newest = [_jobs_of(stack, "by_status", "status", each) for each in wanted]
    return merge(*newest, key=lambda row: row["created_at"], reverse=True)


def _jobs_of(stack: Stack, index: str, name: str, value: str) -> Iterator[Row]:
    """What an index lists, without the evaluations that it lists too."""
    return (row for row in _query(stack, index, name, value) if row["record"] == "JOB")


def rows_of(stack: Stack, job_id: str) -> list[Row]:
    """A job's own row and those of its evaluations."""
    return list(_query(stack, None, "job_id", job_id))


def newest_score(rows: Iterable[Row]) -> Row:
    """The scored evaluation against the newest version of the ground truth; empty where none is scored."""
    scored = [row for row in rows if row.get("evaluation_status") == "SCORED"]
    return max(scored, key=lambda row: row["created_at"], default={})


def line_of(row: Row, score: Mapping[str, Any]) -> str:
    """One job as a line of the table."""
    iou, dice = (f"{score[name]:.3f}" if score else "-" for name in ("iou", "dice"))
    confluence = f"{row['confluence']:.3f}" if "confluence" in row else "-"
    what = row["image"] if "image" in row else f"message {row.get('message', '')[:80]!r}"
    ratios = f"{confluence:>10}  {iou:>5}  {dice:>5}"
    return f"{row['job_id']:32}  {row['status']:9}  {ratios}  {row.get('group', '-'):12}  {what}"


def _query(stack: Stack, index: str | None, name: str, value: str) -> Iterator[Row]:
    """Rows whose key `name` has this value, the newest first where an index orders them by time."""
    asked: dict[str, Any] = {"IndexName": index} if index else {"ConsistentRead": True}
    pages = stack.dynamodb.get_paginator("query").paginate(
        TableName=stack.table,
        KeyConditionExpression="#name = :value",
        ExpressionAttributeNames={"#name": name},
        ExpressionAttributeValues={":value": {"S": value}},
        ScanIndexForward=False,
        **asked,
    )
    plain = TypeDeserializer().deserialize
    return ({key: plain(each) for key, each in item.items()} for page in pages for item in page["Items"])
