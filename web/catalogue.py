"""The list behind the gallery, failures and spending: every job in few words, kept up to date.

The HTTP API lists a hundred jobs a call, by status or group and without scores. The gallery sorts thousands
by their doubt, so this reads the table's indexes through the layer and keeps finished jobs in memory.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec

from cytomask.leads import Leads
from cytomask.records import JOB
from cytomask.table import Table
from cytomask.web.account import Row

WORKERS = 8
LASTING = frozenset({"SUCCEEDED", "REJECTED"})
WAITING = ("QUEUED", "FAILED")
# A job that was queued long ago and redriven by somebody else has an old place in the index of its status.
WHOLE_AGAIN_SECONDS = 300.0
LOOK_BACK = 200  # finished jobs that are read again each time, in case their order in the index changed


class Entry(msgspec.Struct, omit_defaults=True):
    """A job as the gallery shows it.

    Attributes:
        doubt: 0..1, how much a person should look at it; see `doubt_of`.
        has_mask: False for a job that was asked for something else, as the page asks for probabilities.
        low, high: the confluence at the strict and at the lenient threshold.
        area: what the cells cover in mm², where the size of a pixel is known.
        quality: names of the flags.
        iou: against the newest ground truth that was scored, as it was when `score` last looked.
        score_status: FAILED or REJECTED if the newest ground truth could not be scored, otherwise empty.
        score_code, score_error: why.
    """

    id: str
    status: str
    created: str
    updated: str
    bucket: str = ""
    key: str = ""
    group: str = ""
    confluence: float | None = None
    low: float | None = None
    high: float | None = None
    quality: list[str] = []
    iou: float | None = None
    doubt: float = 0.0
    cost: float = 0.0
    megapixels: float = 0.0
    pages: int = 0
    area: float | None = None
    has_mask: bool = False
    error_code: str = ""
    error: str = ""
    attempt: int = 1
    plate: str = ""
    well: str = ""
    score_status: str = ""
    score_code: str = ""
    score_error: str = ""
    revision: int = 0


class Catalogue:
    """All jobs of a stack by their ids. Safe to share between threads."""

    def __init__(self, table: Table, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without reading."""
        self._table = table
        self._leads = Leads(table)
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._revision = 0
        self._whole_at: float | None = None
        self._lock = threading.Lock()

    def since(self, revision: int) -> tuple[list[Entry], int]:
        """List what changed after a revision, and the revision now."""
        with self._lock:
            self._refresh()
            return [each for each in self._entries.values() if each.revision > revision], self._revision

    def score(self, ids: Iterable[str]) -> list[Entry]:
        """Look up the evaluations of jobs as they are now; return the jobs whose score changed.

        An evaluation leaves its job's row as it is, so a score that was looked up before may be old.
        """
        asked = list(ids)
        with self._lock:
            if not self._entries.keys() >= set(asked):
                self._refresh()
            wanted = [each for each in asked if each in self._entries and self._entries[each].has_mask]
        with ThreadPoolExecutor(WORKERS) as pool:
            found = list(pool.map(lambda each: standing_of(self._table.rows(each)), wanted))
        with self._lock:
            self._revision += 1
            return [
                entry
                for each, standing in zip(wanted, found, strict=True)
                if (entry := self._entries.get(each)) and self._note_score(entry, standing)
            ]

    def _refresh(self) -> None:
        now = self._clock()
        whole = self._whole_at is None or now - self._whole_at > WHOLE_AGAIN_SECONDS
        self._revision += 1
        unfinished = {each.id for each in self._entries.values() if each.status not in LASTING}
        seen: set[str] = set()
        for row in self._listed(whole):
            seen.add(row["job_id"])
            self._note(row)
        for job_id in unfinished - seen:
            now_row = self._table.read(job_id, JOB)
            if now_row is not None:
                self._note(now_row)
        if whole:
            for gone in set(self._entries) - seen:
                del self._entries[gone]
            self._whole_at = now
        self._note_failed_scores()

    def _note_failed_scores(self) -> None:
        """Look up the scores that failed, or were sent again, since the last time."""
        rows = self._table.indexed("status", "FAILED")
        failed = {row["job_id"] for row in rows if row["record"] != JOB}
        known = {each.id for each in self._entries.values() if each.score_status == "FAILED"}
        for job_id in failed ^ known:
            if entry := self._entries.get(job_id):
                self._note_score(entry, standing_of(self._table.rows(job_id)))

    def _note_score(self, entry: Entry, standing: "Standing") -> bool:
        """Put a score into an entry; return whether it changed."""
        names = ("iou", "score_status", "score_code", "score_error")
        if tuple(getattr(entry, name) for name in names) == standing:
            return False
        for name, value in zip(names, standing, strict=True):
            setattr(entry, name, value)
        entry.doubt = doubt_of(entry)
        entry.revision = self._revision
        return True

    def _listed(self, whole: bool) -> Iterator[Row]:
        """List jobs that wait or failed, then all jobs, the newest first, until known ones repeat."""
        for status in WAITING:
            yield from self._leads.jobs(status=status)
        known = 0
        for row in self._leads.jobs():
            if not whole and row["status"] in LASTING:
                entry = self._entries.get(row["job_id"])
                known = known + 1 if entry and entry.updated == row["updated_at"] else 0
            yield row
            if known >= LOOK_BACK:
                return

    def _note(self, row: Row) -> None:
        earlier = self._entries.get(row["job_id"])
        if earlier and (earlier.updated, earlier.status) == (row["updated_at"], row["status"]):
            return
        entry = entry_of(row)
        if earlier and entry.status == earlier.status:
            entry.iou = earlier.iou if entry.iou is None else entry.iou
            entry.score_status = earlier.score_status
            entry.score_code, entry.score_error = earlier.score_code, earlier.score_error
        entry.doubt = doubt_of(entry)
        entry.revision = self._revision
        self._entries[entry.id] = entry


def entry_of(row: Row) -> Entry:
    """Shorten a row of the table to an entry."""
    bucket, _, key = row.get("image", "").removeprefix("s3://").partition("/")
    return Entry(
        id=row["job_id"],
        status=row["status"],
        created=row["created_at"],
        updated=row["updated_at"],
        bucket=bucket,
        key=key,
        group=row.get("group", ""),
        confluence=_number(row, "confluence"),
        low=_number(row, "confluence_low"),
        high=_number(row, "confluence_high"),
        quality=[
            str(flag["name"]) if isinstance(flag, dict) else str(flag) for flag in row.get("quality", [])
        ],
        iou=_number(row, "iou"),
        cost=float(row.get("estimated_cost_usd", 0)),
        megapixels=float(row.get("pixels", 0)) / 1e6,
        pages=int(row.get("pages", 0)),
        area=_number(row, "cell_area_mm2"),
        has_mask="mask" in row,
        error_code=row.get("error_code", ""),
        error=row.get("error") or "",
        attempt=int(row.get("attempt", 1)),
        plate=row.get("plate", ""),
        well=row.get("well", ""),
    )


def doubt_of(entry: Entry) -> float:
    """Say how much a person should look at a job: 0 if nothing says so, 1 if it has no mask at all.

    The largest of: 1 where it failed or was rejected; 1 - IoU where it was scored; the width of the
    confluence interval; 0.4 and a tenth for each quality flag.
    """
    if entry.status in ("FAILED", "REJECTED"):
        return 1.0
    reasons = [0.0]
    if entry.iou is not None:
        reasons.append(1 - entry.iou)
    if entry.low is not None and entry.high is not None:
        reasons.append(entry.high - entry.low)
    if entry.quality:
        reasons.append(0.4 + 0.1 * len(entry.quality))
    return round(min(1.0, max(reasons)), 4)


class Standing(NamedTuple):
    """What a job's evaluations say; the fields are those of `Entry`."""

    iou: float | None = None
    score_status: str = ""
    score_code: str = ""
    score_error: str = ""


def standing_of(rows: Iterable[Row]) -> Standing:
    """Find the IoU of the newest ground truth that was scored, and why a newer one was not."""
    ended = [row for row in rows if row.get("evaluation_status") in ("SCORED", "REJECTED", "FAILED")]
    ended.sort(key=lambda row: str(row["created_at"]))
    scored = [float(row["iou"]) for row in ended if row["evaluation_status"] == "SCORED"]
    iou = scored[-1] if scored else None
    if not ended or ended[-1]["evaluation_status"] == "SCORED":
        return Standing(iou)
    newest = ended[-1]
    return Standing(iou, newest["evaluation_status"], newest.get("error_code", ""), newest.get("error") or "")


def spending(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Add up jobs, pages, megapixels, failures and US$ by day (UTC) and group, the newest day first."""
    days: dict[tuple[str, str], dict[str, Any]] = defaultdict(
        lambda: {"jobs": 0, "pages": 0, "megapixels": 0.0, "failed": 0, "rejected": 0, "cost": 0.0}
    )
    for entry in entries:
        total = days[entry.created[:10], entry.group]
        total["jobs"] += 1
        total["pages"] += entry.pages
        total["megapixels"] += entry.megapixels
        total["failed"] += entry.status == "FAILED"
        total["rejected"] += entry.status == "REJECTED"
        total["cost"] += entry.cost
    ordered = sorted(days.items(), key=lambda item: item[0][1])
    ordered.sort(key=lambda item: item[0][0], reverse=True)
    return [{"day": day, "group": group} | total for (day, group), total in ordered]


def _number(row: Row, name: str) -> float | None:
    return float(row[name]) if row.get(name) is not None else None
