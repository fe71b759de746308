"""Job rows: take a job's lease, end it, fail it, send it again. The row is the lock.

A job is QUEUED while it waits for a message that HTTP or a redrive sent, then RUNNING, then SUCCEEDED or
REJECTED, or FAILED once its queue has given up on it. An upload has no row before it is RUNNING. Two steps
lead back, and each counts an attempt: a redrive turns FAILED into QUEUED, and a job whose outputs are gone
becomes RUNNING again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec

from cytomask.arrivals import MOST_IMAGES
from cytomask.errors import ImageReplaced, JobHeld, TriesUsedUp
from cytomask.leads import Leads, Standing, standing_of
from cytomask.plate_places import place_of
from cytomask.records import JOB, Acquired, EvaluationRow, JobRow, PageResult, Result, cut
from cytomask.table import ConditionFailed, Row, Table, timestamp

FINISHED = ("SUCCEEDED", "REJECTED")
# A job whose image was replaced has no result. It may still start: a message may be late, or an older version
# may become the newest again.
NOT_HELD = (
    "attribute_not_exists(job_id) OR #status IN (:queued, :failed) "
    "OR (#status = :running AND lease_until < :now) "
    "OR (#status = :rejected AND error_code = :replaced AND attribute_not_exists(#result))"
)


@dataclass(frozen=True)
class Lease:
    """The right to work on a job.

    Attributes:
        earlier: the row as it was before; None for a new job. An earlier owner may have done it.
        created_at: when the job was created.
    """

    job_id: str
    owner: str
    earlier: JobRow | None
    created_at: str


class Jobs:
    """Read and write job rows. DynamoDB's faults pass through as ClientError."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._leads = Leads(table)

    def read(self, job_id: str) -> JobRow | None:
        """Read a job's row as it is now."""
        row = self._table.read(job_id, JOB)
        return msgspec.convert(row, JobRow, strict=False) if row else None

    def queue(self, job_id: str, *, image: str, group: str, now: float) -> JobRow:
        """Add a job as QUEUED unless it exists; return its row as it is now."""
        row = {"job_id": job_id, "record": JOB, "status": "QUEUED", "image": image, "group": group}
        row |= {name: timestamp(now) for name in ("created_at", "made_at", "updated_at")}
        return msgspec.convert(self._table.add(row), JobRow, strict=False)

    def withdraw(
        self, job_id: str, *, others: Sequence[str], message: str, images: Sequence[str], now: float
    ) -> str | None:
        """Reject a queued job because its message turned into other jobs.

        Args:
            job_id: the queued job, from an attribute of the message.
            others: the jobs that the message turned into.
            message: body of the message.
            images: the images that the message names. Only a job of these images, or with this message, is
                rejected.
            now: seconds since 1970.

        Returns:
            The error now in the job's row; None if the job is not queued or is one of the others.
        """
        if job_id in others:
            return None
        named: Row = {f":image{number}": image for number, image in enumerate(images[:MOST_IMAGES])}
        of_these = f" OR image IN ({', '.join(named)})" if named else ""
        error = (
            "the image was replaced or deleted, or the model changed, before the job began; "
            f"jobs done instead: {', '.join(others) or 'none'}"
        )
        values = {
            "status": "REJECTED",
            "error_code": ImageReplaced.code,
            "error": cut(error),
            "message": None,
            "message_group": None,
            "updated_at": timestamp(now),
        }
        rejected = self._table.update_if(
            job_id,
            JOB,
            values=values,
            condition=f"#status = :queued AND (#message = :body{of_these})",
            given={":queued": "QUEUED", ":body": message} | named,
        )
        return error if rejected else None

    def end_replaced(self, job_id: str, *, now: float) -> bool:
        """Reject a job that no owner works on, because its image was replaced before a retry finished it.

        Returns:
            Whether it was; not if it has ended already or never began.
        """
        row = self.read(job_id)
        if row is None or row.status != "RUNNING":
            return False
        values: Row = {
            "status": "REJECTED",
            "error_code": ImageReplaced.code,
            "error": cut(f"the image was replaced or deleted before a retry; the last fault: {row.error}"),
            "owner": None,
            "lease_until": None,
            "created_at": row.created_at,
            "updated_at": timestamp(now),
        }
        condition = "#status = :running AND lease_until < :now"
        given = {":running": "RUNNING", ":now": Decimal(str(now))}
        return self._table.update_if(job_id, JOB, values=values, condition=condition, given=given)

    def take(
        self, job_id: str, *, image: str, group: str, owner: str, now: float, seconds: float, queued: bool
    ) -> Lease | JobRow:
        """Take a job's lease, or return the row if the job is finished.

        No index lists a queued job that succeeds at the first attempt. A lead lists it instead, and its row
        has `made_at` instead of `created_at`, because an index leaves out rows without its sort key. Until
        they end, the indexes list a job that no queue delivers again, and one whose earlier owner was killed.

        Args:
            job_id: id of the job.
            image: address of the image, stored in the row at once.
            group: label to report by, stored too.
            owner: id of the invocation.
            now: seconds since 1970.
            seconds: the longest time that the owner can work.
            queued: whether a queue delivers the job again if the owner is killed.

        Raises:
            JobHeld: another owner's lease has not expired.
        """
        values = {"image": image, "group": group, "error": None} | _lease(owner, now, seconds)
        taken, row = self._update_unless_held(
            job_id, values, {"made_at": timestamp(now), "attempt": 1}, now=now
        )
        if not taken:
            return _finished(row, job_id)
        created_at = row.created_at if row and row.created_at else timestamp(now)
        self._leads.add(Standing(created_at, job_id), group)
        lease = Lease(job_id, owner, row, created_at)
        if not queued or (row and row.status == "RUNNING"):
            self._update_owned(lease, {"created_at": created_at})
        return lease

    def take_again(self, row: JobRow, *, owner: str, now: float, seconds: float, anew: bool = True) -> Lease:
        """Take a finished job again.

        Args:
            row: its row, as it was when it was looked at.
            owner: id of the invocation.
            now: seconds since 1970.
            seconds: the longest time that the owner can work.
            anew: whether its outputs are made anew, which counts as an attempt.

        Raises:
            JobHeld: another owner has taken it since.
        """
        values = _lease(owner, now, seconds) | {"attempt": (row.attempt or 1) + anew}
        values |= {"made_at": row.created_at, "created_at": row.created_at}
        given = {":was": row.status, ":seen": row.updated_at}
        condition = "#status = :was AND updated_at = :seen"
        if not self._table.update_if(row.job_id, JOB, values=values, condition=condition, given=given):
            raise _held(row.job_id)
        self._leads.add(Standing(row.created_at, row.job_id), row.group or "")
        return Lease(row.job_id, owner, row, row.created_at)

    def finish(self, lease: Lease, result: Result, *, now: float) -> bool:
        """End a job with its result; return False if the lease was lost and another owner ends the job.

        The indexes list it only if it needs attention.
        """
        values = outcome_of(result) | {"status": result.status, "updated_at": timestamp(now)}
        values["made_at"] = lease.created_at  # `take` set a later one in a row of version 0.1
        needs_attention = result.status == "REJECTED" or result.quality
        values["created_at"] = lease.created_at if needs_attention else None
        return self._update_owned(lease, values)

    def release(self, lease: Lease, error: str, *, now: float) -> bool:
        """Release a job's lease after a temporary fault, so that the next delivery need not wait.

        From now on the indexes list the job until it ends.
        """
        values = {"lease_until": Decimal(0), "error": cut(error), "updated_at": timestamp(now)}
        return self._update_owned(lease, values | {"created_at": lease.created_at})

    def fail(
        self,
        job_id: str,
        *,
        message: str,
        error: str,
        now: float,
        image: str | None = None,
        group: str | None = None,
        ground_truth: str | None = None,
        message_group: str | None = None,
    ) -> bool:
        """Fail a job whose message the queue has given up on; return False if it has ended already.

        Args:
            job_id: id of the job; it has no row if no attempt created one.
            message: body of the message, kept for a redrive.
            error: error to store if the last attempt stored none.
            now: seconds since 1970.
            image: the image that the message named.
            group: label of that image.
            ground_truth: the ground truth, if the message named one instead of an image.
            message_group: the message's group in SQS, kept for a redrive too.

        Raises:
            JobHeld: an owner's lease has not expired.
        """
        values = {"message": message, "message_group": message_group, "image": image, "group": group}
        values["ground_truth"] = ground_truth
        values |= {"status": "FAILED", "error_code": TriesUsedUp.code, "owner": None, "lease_until": None}
        known = self.read(job_id)
        values["created_at"] = known.created_at if known else timestamp(now)
        first = {"made_at": values["created_at"], "attempt": 1, "error": cut(error)}
        failed, _ = self._update_unless_held(job_id, values | {"updated_at": timestamp(now)}, first, now=now)
        return failed

    def reject_message(
        self, job_id: str, *, code: str, error: str, message: str, now: float, result: str | None = None
    ) -> None:
        """Record a message that names no image and therefore never becomes a job."""
        values: Row = {"status": "REJECTED", "error_code": code, "error": cut(error), "message": message}
        values |= {"result": result, "updated_at": timestamp(now), "owner": None, "lease_until": None}
        self._table.update(job_id, JOB, values=values, first={"created_at": timestamp(now), "attempt": 1})

    def failed(self) -> Iterator[JobRow | EvaluationRow]:
        """List the jobs and evaluations that are FAILED, the latest first; the index may lag by a second."""
        for row in self._table.indexed("status", "FAILED"):
            if row["record"] == JOB:
                yield msgspec.convert(row, JobRow, strict=False)
            else:
                yield msgspec.convert(row, EvaluationRow, strict=False)

    def queue_again(self, failed: JobRow | EvaluationRow, *, now: float) -> JobRow | EvaluationRow | None:
        """Queue a failed job or evaluation for its next attempt.

        Returns:
            The row as it was, with the `message` to send; None if it is no longer FAILED.
        """
        name = "status" if isinstance(failed, JobRow) else "evaluation_status"
        row = self._table.read(failed.job_id, failed.record)
        if row is None or row.get(name) != "FAILED":
            return None
        values: Row = {"status": None, "error": None, "error_code": None, name: "QUEUED"}
        values |= {"attempt": row.get("attempt", 1) + 1, "updated_at": timestamp(now)}
        again = self._table.update_if(
            failed.job_id,
            failed.record,
            values=values,
            condition=f"#{name} = :failed",
            given={":failed": "FAILED"},
        )
        return msgspec.convert(row, type(failed), strict=False) if again else None

    def fail_again(self, row: JobRow | EvaluationRow) -> None:
        """Undo `queue_again`, because the message could not be sent."""
        put_back: Row = msgspec.to_builtins(row) | {"record": row.record}
        if isinstance(row, JobRow):
            put_back["made_at"] = row.created_at
        self._table.put(put_back)

    def forget_queued(self, job_id: str) -> None:
        """Delete a job's row if it still waits for an attempt."""
        self._table.delete_if(job_id, JOB, condition="#status = :queued", given={":queued": "QUEUED"})

    def note_group(self, job_id: str, group: str, *, now: float) -> None:
        """Set the label that a job and its evaluations are reported by."""
        values = {"group": group, "updated_at": timestamp(now)}
        for row in self._table.rows(job_id):
            self._table.update_if(job_id, row["record"], values=values, condition="attribute_exists(job_id)")
            if row["record"] == JOB:
                self._leads.add(standing_of(row), group)

    def note_place(self, job_id: str, placed: Row) -> None:
        """Put a job on its plate; `placed` comes from `plate_rows.columns_of`."""
        self._table.update_if(job_id, JOB, values=placed, condition="attribute_exists(job_id)")

    def listed(
        self, names: Mapping[str, str], *, before: Standing | None, count: int, examined: int
    ) -> tuple[list[JobRow], Standing | None]:
        """List jobs, the newest first.

        Args:
            names: value of `status`, `group` or both.
            before: where the previous list ended, as returned by it.
            count: the most jobs to list.
            examined: the most rows to look at.

        Returns:
            The jobs, and where to continue; None at the end.
        """
        found: list[JobRow] = []
        status, group = names.get("status"), names.get("group")
        rows = self._leads.examined(status=status, group=group, since="", until="", before=before)
        for number, row in enumerate(rows, 1):
            if status in (None, row["status"]) and group in (None, row.get("group", "")):
                found.append(msgspec.convert(row, JobRow, strict=False))
            if len(found) == count or number == examined:
                return found, standing_of(row)
        return found, None

    def _update_unless_held(
        self, job_id: str, values: Row, first: Row, *, now: float
    ) -> tuple[bool, JobRow | None]:
        """Set attributes of a job that is neither finished nor leased.

        Returns:
            True and the row as it was before (None if there was none), or False and a finished job's row.

        Raises:
            JobHeld: an owner's lease has not expired.
        """
        known: Row = {f":{status.lower()}": status for status in ("QUEUED", "FAILED", "RUNNING", "REJECTED")}
        known |= {":replaced": ImageReplaced.code, ":now": Decimal(str(now))}
        try:
            before = self._table.update(
                job_id, JOB, values=values, first=first, condition=NOT_HELD, given=known
            )
        except ConditionFailed as error:
            row = self.read(job_id)
            if row and row.status in FINISHED:
                return False, row
            raise _held(job_id) from error
        return True, msgspec.convert(before, JobRow, strict=False) if before else None

    def _update_owned(self, lease: Lease, values: Row) -> bool:
        return self._table.update_if(
            lease.job_id, JOB, values=values, condition="#owner = :mine", given={":mine": lease.owner}
        )


def outcome_of(result: Result) -> dict[str, Any]:
    """Return the fields of a result that the job row keeps."""
    error = result.error
    return {
        "mask": result.mask,
        "result": result.result,
        "confluence": result.confluence,
        "confluence_low": result.confluence_low,
        "confluence_high": result.confluence_high,
        "cell_area_mm2": result.cell_area_mm2,
        "quality": [flag.name for flag in result.quality],
        "quality_values": {flag.name: flag.value for flag in result.quality} or None,
        **placement_of(result),
        "model_sha256": result.model and result.model.sha256,
        "milliseconds": result.timings_ms.get("total"),
        "estimated_cost_usd": result.estimated_cost_usd,
        "pages": len(result.pages) or None,
        "pixels": result.pixels or None,
        "error_code": error and error.code,
        "error": error and cut(error.message),
        "message": None,
        "message_group": None,
        "lease_until": None,
        "owner": None,
    }


def placement_of(result: Result) -> dict[str, Any]:
    """Return the image's place and time for the job row; only pages of a plate have a `place`."""
    told = {name: getattr(result, name) for name in Acquired.__struct_fields__}
    if result.plate is None or result.well is None:
        return told | {"place": None}
    parameters, model = result.parameters, result.model
    return told | {
        "place": place_of(result.well, result.site, result.time, result.frame),
        "series": series_of(result),
        "model": model and model.name,
        "mode": parameters and parameters.mode,
        "threshold": parameters and parameters.threshold,
        "uploaded_at": result.image and result.image.uploaded_at,
    }


def series_of(result: Result) -> list[dict[str, Any]]:
    """Return a stack's pages in short form for the index by plate; an empty list for a single page.

    A row has room for 400 KB and a job for some 2,000 pages, so the masks are left out: they are named alike.
    """
    if len(result.pages) < 2:
        return []
    return [
        {name: value for name, value in _in_series(page).items() if value is not None and value != []}
        for page in result.pages
    ]


def _in_series(page: PageResult) -> dict[str, Any]:
    return {
        "page": page.page,
        "time": page.time,
        "confluence": page.confluence,
        "confluence_low": page.confluence_low,
        "confluence_high": page.confluence_high,
        "cell_area_mm2": None if page.cell_area_mm2 is None else round(page.cell_area_mm2, 9),
        "quality": [flag.name for flag in page.quality],
    }


def _lease(owner: str, now: float, seconds: float) -> Row:
    until = Decimal(str(round(now + seconds, 3)))
    return {"status": "RUNNING", "owner": owner, "lease_until": until, "updated_at": timestamp(now)}


def _finished(row: JobRow | None, job_id: str) -> JobRow:
    if row is None:
        raise _held(job_id)  # the row was deleted in between
    return row


def _held(job_id: str) -> JobHeld:
    return JobHeld(f"another invocation works on job {job_id}; its message is tried again")
