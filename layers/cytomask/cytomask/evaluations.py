"""Evaluation rows, and the messages that ask for a score: add the row, send the message, stop waiting.

An evaluation is a row beside its job's: `EVAL#<version>` for the ground truth of that version. A mask
without such a row awaits its ground truth. Only a ground truth that a request names and that does not exist
yet has a row, `EVAL#awaiting`.

Rows of another kind list the jobs that look for a ground truth, even before it exists. If the request names
it, the row is under `GROUND_TRUTH#<address>`. Otherwise it is under `GROUND_TRUTH#image:<image's name>`, and
its `record` begins with the image's path: masks find an image by its path, COCO files by its name alone. For
outputs under the image's own name it is the row of their writers (names.py), which is there before the mask.
Image and ground truth may come in either order: each side writes its own rows and then reads the other's.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from cytomask.addresses import S3Object
from cytomask.arrivals import Evaluation
from cytomask.errors import (
    ImageLocked,
    ImageNotFound,
    ImageReplaced,
    MaskReplaced,
    RejectedInput,
    TriesUsedUp,
)
from cytomask.names import GROUND_TRUTH, TRUTH_OF, by_name, lead_to, of_stem, writers_of
from cytomask.records import JOB, EvaluationRow, JobRow, Result, Scorable, Scores, cut
from cytomask.requests import ascii_json
from cytomask.table import Row, Table, fitted, timestamp
from cytomask.truths import names

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

AWAITING = "EVAL#awaiting"
# Mask or ground truth could not be read; the same bytes may be there again.
MISSED = {each.code for each in (MaskReplaced, ImageReplaced, ImageNotFound, ImageLocked)}


class Evaluations:
    """Read and write evaluations. Faults of DynamoDB and SQS pass through as ClientError."""

    def __init__(
        self,
        table: Table,
        sqs: "SQSClient | None" = None,
        queue_url: str = "",
        clock: Callable[[], float] = time.time,
        result_at: Callable[[str], Result | None] = lambda _: None,
    ) -> None:
        """Use the evaluations of a table; without `sqs` they can be recorded and ended but not sent.

        `result_at` reads the result at an address. It tells whether a job that still runs has a mask.
        """
        self._table = table
        self._result_at = result_at
        self._sqs = sqs
        self._queue_url = queue_url
        self._clock = clock

    def read(self, job_id: str, record: str) -> EvaluationRow | None:
        """Read an evaluation as it is now."""
        row = self._table.read(job_id, record)
        return msgspec.convert(row, EvaluationRow, strict=False) if row else None

    def with_job(self, job_id: str) -> tuple[JobRow, list[EvaluationRow]] | None:
        """Read a job and its evaluations; None for an unknown job."""
        rows = {row["record"]: row for row in self._table.rows(job_id)}
        found = rows.pop(JOB, None)
        if found is None:
            return None
        job = msgspec.convert(found, JobRow, strict=False)
        evaluations = [msgspec.convert(row, EvaluationRow, strict=False) for row in rows.values()]
        return job, evaluations or awaited(job)

    def expect(self, job: Scorable, ground_truth: str | None) -> None:
        """Index a job where its ground truth looks for it: under the truth's address, or the image's name."""
        place = f"{GROUND_TRUTH}{ground_truth}", f"{TRUTH_OF}{job.job_id}"
        if ground_truth is None:
            place = lead_to(_key(job.image), job.job_id)
        self._table.update(
            *place,
            values={"image": job.image, "mask": job.mask, "result": job.result, "etag": job.etag},
            first={"created_at": timestamp(self._clock())},
        )

    def expecting(self, address: str) -> Iterator[Scorable]:
        """List the jobs whose request names the ground truth at an address."""
        return map(_scorable, self._table.rows(f"{GROUND_TRUTH}{address}"))

    def expecting_mask(self, stem: str) -> Iterator[Scorable]:
        """List the jobs of the images that a mask with this stem may belong to."""
        rows = chain.from_iterable(
            self._table.rows(by_name(shortest), of_stem(shortest))
            for shortest in names.shortest_stems_of(stem)
        )
        jobs = self._led_to(row for row in rows if stem in names.image_stems(_key(row["image"])))
        earlier = self.expecting(f"mask:{stem}")  # where builds between 0.1 and 0.2 wrote them
        return _once(chain(jobs, earlier))

    def expecting_coco(self, name: str, prefix: str) -> Iterator[Scorable]:
        """List the jobs of images that a COCO file calls by this base name, and whose addresses begin so."""
        rows = self._table.rows(by_name(names.shortest_stem(name)))
        jobs = self._led_to(
            row for row in rows if names.base(_key(row["image"])) == name and row["image"].startswith(prefix)
        )
        earlier = self.expecting(f"coco:{fitted(name)}")  # where version 0.1 wrote them
        return _once(chain(jobs, (job for job in earlier if job.image.startswith(prefix))))

    def _led_to(self, rows: Iterable[Row]) -> Iterator[Scorable]:
        """List the jobs with a mask that rows by an image's name lead to.

        The row of a name is there before the mask. A job that still runs counts once its result is written,
        and looks for ground truths only after that, so at least one side sees the other. Rows of
        single jobs come last: if a job was done again under the image's name, its row has earlier outputs.
        """
        writers: dict[str, tuple[str, Row]] = {}
        single: list[Scorable] = []
        for row in rows:
            if "mask" in row:
                single.append(_scorable(row))
            else:
                writers |= {job: (row["image"], entry) for job, entry in writers_of(row) if "result" in entry}
        jobs = self._table.read_many([(job, JOB) for job in writers], as_now=True)
        for job_id, (image, entry) in writers.items():
            job = jobs.get((job_id, JOB), {})
            mask, result = job.get("mask"), job.get("result")
            if job.get("status") == "RUNNING":
                written = self._result_at(entry["result"])
                mask, result = written and written.job_id == job_id and written.mask, entry["result"]
            if job.get("status") in ("RUNNING", "SUCCEEDED") and mask and result:
                yield Scorable(
                    job_id=job_id,
                    image=image,
                    mask=mask,
                    result=result,
                    etag=entry["etag"],
                    created_at=job["created_at"],
                    group=job.get("group", ""),
                )
        yield from single

    def wait(self, job: Scorable, ground_truth: str) -> None:
        """Record that a mask waits for its ground truth; `ground_truth` is the address in the request.

        Most masks wait forever, so the row has no `created_at`, and no index lists it.
        """
        values = {"image": job.image, "mask": job.mask, "group": job.group, "ground_truth": ground_truth}
        values |= {"evaluation_status": "AWAITING_GROUND_TRUTH", "updated_at": timestamp(self._clock())}
        self._table.update(job.job_id, AWAITING, values=values)

    def ask(self, job: Scorable, truth: S3Object) -> None:
        """Add a job's evaluation, send its message unless it has ended, and end the wait for the truth."""
        row = self._add(job, truth)
        if row.evaluation_status == "QUEUED":
            self._send(Evaluation(job.job_id, row.record, truth, job.result))
        self._stop_waiting(job.job_id, truth.uri)

    def of_ground_truth(self, truth: S3Object, stems: Iterable[str] = ()) -> Iterator[Evaluation]:
        """Add the evaluation of every job that looks for this ground truth by its address or by a stem.

        The caller must end each evaluation before taking the next; only then does its job stop waiting.
        """
        found = chain.from_iterable(self.expecting_mask(stem) for stem in filter(None, stems))
        for job in list(_once(chain(found, self.expecting(truth.uri)))):
            yield Evaluation(job.job_id, self._add(job, truth).record, truth, job.result)
            self._stop_waiting(job.job_id, truth.uri)

    def score(self, evaluation: Evaluation, scores: Scores) -> bool:
        """End an evaluation as SCORED; return False if it has ended already.

        If the job is part of a plate, its row keeps the newest score for the plate's table. A job that still
        runs gets its place only at its end, so its row keeps the score in any case.
        """
        scored = self._end(evaluation, {"evaluation_status": "SCORED"} | msgspec.to_builtins(scores))
        if scored:
            self._table.update_if(
                evaluation.job_id,
                JOB,
                values={"iou": scores.iou},
                condition="attribute_exists(place) OR #status = :running",
                given={":running": "RUNNING"},
            )
        return scored

    def reject(self, evaluation: Evaluation, error: RejectedInput) -> bool:
        """End an evaluation as REJECTED; return False if it has ended already."""
        values = {"evaluation_status": "REJECTED", "error_code": error.code, "error": cut(error)}
        return self._end(evaluation, values)

    def take_back(self, job: Scorable, truth: S3Object, error: RejectedInput | None) -> bool:
        """Take back a job's score if its ground truth may belong to another image.

        Args:
            job: the image's job.
            truth: the ground truth, in the version of the score.
            error: if the image cannot be told from another, the reason; the evaluation is rejected. None if
                the ground truth is another image's; the evaluation is removed, and the job waits again.

        Returns:
            False if there was nothing to take back.
        """
        record, condition = f"EVAL#{truth.version}", "ground_truth = :uri AND #evaluation_status IN (:s, :q)"
        given = {":uri": truth.uri, ":s": "SCORED", ":q": "QUEUED"}
        if error:
            values: Row = dict.fromkeys(Scores.__struct_fields__)
            values |= {"evaluation_status": "REJECTED", "error_code": error.code, "error": cut(error)}
            values |= {"message": None, "updated_at": timestamp(self._clock())}
            return self._table.update_if(job.job_id, record, values=values, condition=condition, given=given)
        return self._table.delete_if(job.job_id, record, condition=condition, given=given)

    def fail(self, evaluation: Evaluation, error: str) -> bool:
        """End an evaluation as FAILED and keep its message; return False if it has ended already."""
        return self._end(
            evaluation,
            {
                "evaluation_status": "FAILED",
                "status": "FAILED",  # so that the index by status lists it with the failed jobs
                "message": ascii_json(evaluation),
                "error_code": TriesUsedUp.code,
                "error": cut(error),
            },
        )

    def _add(self, job: Scorable, truth: S3Object) -> EvaluationRow:
        """Add an evaluation unless it exists; queue it once more if it missed its mask or ground truth."""
        now = timestamp(self._clock())
        group = self._group_of(job.job_id) if job.group is None else job.group
        row: Row = {"job_id": job.job_id, "record": f"EVAL#{truth.version}", "evaluation_status": "QUEUED"}
        row |= {"image": job.image, "mask": job.mask, "ground_truth": truth.uri, "group": group}
        row |= {"created_at": now, "updated_at": now}
        found = self._table.add(row)
        if (missed := found.get("error_code")) in MISSED:
            again = row | {"error": None, "error_code": None}
            for name in ("job_id", "record", "created_at"):
                del again[name]
            condition, given = "error_code = :missed", {":missed": missed}
            if self._table.update_if(
                job.job_id, row["record"], values=again, condition=condition, given=given
            ):
                found = row
        return msgspec.convert(found, EvaluationRow, strict=False)

    def _group_of(self, job_id: str) -> str | None:
        job = self._table.read(job_id, JOB)
        return job.get("group") if job else None

    def _send(self, evaluation: Evaluation) -> None:
        if self._sqs is None:
            raise TypeError("these evaluations were made without a queue; pass `sqs` to send")
        self._sqs.send_message(QueueUrl=self._queue_url, MessageBody=ascii_json(evaluation))

    def _stop_waiting(self, job_id: str, uri: str) -> None:
        """End the wait for a ground truth that has arrived, unless the job waits for another address."""
        condition = "attribute_not_exists(ground_truth) OR ground_truth = :uri"
        self._table.delete_if(job_id, AWAITING, condition=condition, given={":uri": uri})

    def _end(self, evaluation: Evaluation, values: Row) -> bool:
        return self._table.update_if(
            evaluation.job_id,
            evaluation.record,
            values={"message": None} | values | {"updated_at": timestamp(self._clock())},
            condition="#evaluation_status = :queued",
            given={":queued": "QUEUED"},
        )


def awaited(job: JobRow) -> list[EvaluationRow]:
    """Describe the wait of a mask that has no evaluation yet; nothing for a job without a mask."""
    if job.status != "SUCCEEDED" or job.mask is None:
        return []
    return [
        EvaluationRow(
            job_id=job.job_id,
            record=AWAITING,
            evaluation_status="AWAITING_GROUND_TRUTH",
            updated_at=job.updated_at,
            image=job.image,
            mask=job.mask,
            group=job.group,
        )
    ]


def _once(jobs: Iterable[Scorable]) -> Iterator[Scorable]:
    """Leave out a job that came before: its later row may have outputs of an earlier run or release."""
    seen: set[str] = set()
    for job in jobs:
        if job.job_id not in seen:
            seen.add(job.job_id)
            yield job


def _key(uri: str) -> str:
    return uri.partition("://")[2].partition("/")[2]


def _scorable(row: Row) -> Scorable:
    fields = {name: row.get(name) for name in ("image", "mask", "result", "etag", "created_at")}
    return msgspec.convert(fields | {"job_id": row["record"].rpartition("#")[2]}, Scorable)
