"""Turn one dead letter into FAILED rows of the jobs it asked for, with the message and the last error."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from botocore.exceptions import ClientError

from cytomask.acquisition import parse_pattern, read_acquisition
from cytomask.addresses import S3Object, is_coco
from cytomask.arrivals import (
    LONGEST_MESSAGE_BYTES,
    Arrival,
    Evaluation,
    EvaluationArrival,
    Ignored,
    PlateMapUpload,
    Refused,
    Settle,
    admitted,
    images_of,
    parse_body,
    parse_evaluation,
)
from cytomask.errors import InvalidRequest, TimeShort
from cytomask.evaluations import Evaluations
from cytomask.jobs import Jobs
from cytomask.names import Names
from cytomask.plate_counts import PlateCounts
from cytomask.plate_places import columns_of
from cytomask.records import EvaluationRow, JobRow, cut
from cytomask.requests import SegmentRequest
from cytomask.served_model import work_of
from cytomask.settings import Settings
from cytomask.stack_models import StackModels
from cytomask.storage import Storage, SupersededError
from cytomask.truths.names import truth_stems
from cytomask.work import Work, rejected_message_id

NO_ERROR_REPORTED = (
    "no attempt reported an error: probably a timeout or out of memory, or a service could not be reached; "
    "look at `cytomask logs --job`, then send it again with `cytomask redrive`"
)
REFUSED = (
    "S3 refuses to read {uri} ({why}); let the functions read its bucket (AllowedBuckets) and use its key "
    "(AllowedKeys), then send it again with `cytomask redrive`"
)
UNSCORED = (
    "the ground truth could not be compared in any attempt; `cytomask logs --errors` says why, "
    "`cytomask redrive` tries again"
)
REDRIVE = "find the cause with `cytomask logs --job`, then run `cytomask redrive` with the job's id"
FAILURES = "failures"  # the writer that clears a name


class Recorder:
    """Everything a dead letter needs, made once per cold start."""

    def __init__(
        self,
        settings: Settings,
        models: StackModels,
        storage: Storage,
        jobs: Jobs,
        evaluations: Evaluations,
        names: Names,
        plates: PlateCounts,
        logger: Logger,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._evaluation_dlq = f"{settings.evaluation_queue_url.rpartition('/')[2]}-dlq"
        self._settings = settings
        self._models = models
        self._storage = storage
        self._jobs = jobs
        self._evaluations = evaluations
        self._names = names
        self._plates = plates
        self._logger = logger
        self._metrics = metrics
        self._clock = clock

    def record(
        self,
        body: str,
        queue_arn: str,
        *,
        remaining_seconds: Callable[[], float],
        message_group: str | None = None,
    ) -> list[str]:
        """Record everything that a dead letter asks for; a part that fails does not hold up the others.

        Args:
            body: the message.
            queue_arn: of the dead-letter queue.
            remaining_seconds: tells how many seconds are left to work.
            message_group: the message's group in SQS.

        Returns:
            The jobs of its images, including jobs that had ended before.

        Raises:
            JobHeld: an invocation still works on one of the jobs.
            TimeShort: too little time is left for the rest of the message.
            Exception: whatever S3 or DynamoDB answered.
        """
        of_evaluation = queue_arn.rpartition(":")[2] == self._evaluation_dlq
        named = self._truths_of(body) if of_evaluation else self._images_of(body)
        whole = remaining_seconds()
        job_ids: list[str] = []
        faults: list[Exception] = []
        for arrival in named:
            if remaining_seconds() < whole / 4:
                faults.append(TimeShort("too little time is left for the rest of the dead letter"))
                break
            try:
                job_ids += self._record_one(arrival, body, message_group, remaining_seconds)
            except Exception as error:
                faults.append(error)
        if faults:
            raise faults[0]
        return job_ids

    def _record_one(
        self,
        arrival: Arrival | EvaluationArrival,
        body: str,
        message_group: str | None,
        remaining_seconds: Callable[[], float],
    ) -> list[str]:
        match arrival:
            case Ignored(what, reason):
                self._logger.info("event_ignored", what=what, reason=reason)
            case Settle(image, _):
                self._settle(image, remaining_seconds())
            case PlateMapUpload(file):
                self._lose_map(file)
            case Refused():
                return [self._reject(arrival)]
            case SegmentRequest():
                return [self._fail_job(arrival, body, message_group, remaining_seconds)]
            case Evaluation():
                self._fail_evaluation(arrival)
            case uploaded:
                self._fail_upload(uploaded, body)
        return []

    def _images_of(self, body: str) -> list[Arrival]:
        served, outputs = self._settings.allowed_buckets, self._settings.output_bucket
        return [admitted(arrival, body, served=served, outputs=outputs) for arrival in parse_body(body)]

    def _truths_of(self, body: str) -> list[EvaluationArrival]:
        settings = self._settings
        return parse_evaluation(body, served=settings.allowed_buckets, outputs=settings.output_bucket)

    def withdraw(self, job_id: str, message: str, recorded: Sequence[str]) -> None:
        """End a job that waits for a message which became other jobs."""
        images = images_of(message)
        if error := self._jobs.withdraw(
            job_id, others=recorded, message=message, images=images, now=self._clock()
        ):
            self._logger.warning("job_withdrawn", job_id=job_id, error=error)

    def _reject(self, refused: Refused) -> str:
        """Record an unreadable message, whole: only its rejection can have failed."""
        job_id = rejected_message_id(refused.text)
        code, error = refused.error.code, cut(refused.error)
        self._jobs.reject_message(
            job_id, code=code, error=error, message=_kept(refused.text), now=self._clock()
        )
        self._logger.error(
            "message_rejected",
            job_id=job_id,
            record="JOB",
            error_code=code,
            error=error,
            what_to_do="send it again as the error says",
        )
        self._metrics.add_metric("Rejected", MetricUnit.Count, 1)
        return job_id

    def _fail_job(
        self,
        request: SegmentRequest,
        body: str,
        message_group: str | None,
        remaining_seconds: Callable[[], float],
    ) -> str:
        found, refusal = self._look_up(request.image)
        work = work_of(replace(request, image=found or request.image), self._models.of(request))
        failed = self._jobs.fail(
            work.job_id,
            image=request.image.uri,
            group=request.group,
            message=_kept(body),
            message_group=message_group,
            error=refusal or NO_ERROR_REPORTED,
            now=self._clock(),
        )
        if failed:
            self._count_on_plate(work)
            self._clear_name(work, remaining_seconds())
            self._report(self._jobs.read(work.job_id), image=request.image.uri)
        else:
            self._logger.info("duplicate_ignored", job_id=work.job_id, image=request.image.uri)
        return work.job_id

    def _count_on_plate(self, work: Work) -> None:
        """Put a failed job on its plate, which may be complete now."""
        request = work.request
        pattern = parse_pattern(self._settings.name_pattern) if self._settings.name_pattern else None
        placed = columns_of(request.place.filled_from(read_acquisition(request.image.key, pattern)))
        if placed is not None:
            self._jobs.note_place(work.job_id, placed)
            self._plates.count(
                placed, pages=1, masked=False, cost_usd=0.0, expected_pages=request.expected_pages
            )

    def _settle(self, image: S3Object, seconds: float) -> None:
        """Clear a name that no attempt could look at, unless it holds the newest image's own mask."""
        found = self._found(image) or image
        work = work_of(SegmentRequest(found), self._models.of(SegmentRequest(found)))
        name = self._own_name(work)
        if name and self._storage.whole_result(self._settings.output_bucket, name, work.job_id):
            return
        self._clear_name(work, seconds)
        self._logger.error(
            "name_not_settled",
            job_id=work.job_id,
            record="JOB",
            image=image.uri,
            what_to_do="if the image is still there, send it again to have its mask",
        )
        self._metrics.add_metric("Failed", MetricUnit.Count, 1)

    def _lose_map(self, file: S3Object) -> None:
        """Log that a plate map was not stored."""
        self._logger.error(
            "plate_map_lost",
            plate_map=file.uri,
            what_to_do="upload it again, or give it to `cytomask plate --map`",
        )
        self._metrics.add_metric("Failed", MetricUnit.Count, 1)

    def _clear_name(self, work: Work, seconds: float) -> None:
        """Remove the outputs under an image's name that are not its own."""
        image, name = work.request.image, self._own_name(work)
        if name is None:
            return
        self._names.enter(image, FAILURES, seconds=seconds)
        try:
            if self._storage.clear(self._settings.output_bucket, name, image):
                self._logger.info("mask_removed", image=image.uri)
        except SupersededError:
            self._logger.info("superseded", job_id=work.job_id, image=image.uri)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 403:
                raise
            self._logger.error(
                "name_not_cleared",
                job_id=work.job_id,
                record="JOB",
                image=image.uri,
                error=cut(error),
                what_to_do="let this function list and delete outputs, then run `cytomask redrive`",
            )

    def _own_name(self, work: Work) -> str | None:
        return work.own_name(self._settings.input_bucket, self._settings.attached_buckets)

    def _found(self, wanted: S3Object) -> S3Object | None:
        """Return the object as it is now; None if it is gone, impossible, or locked."""
        return self._look_up(wanted)[0]

    def _look_up(self, wanted: S3Object) -> tuple[S3Object | None, str]:
        """Return the object as `_found` does, and why S3 refuses to show it; empty if it does not."""
        try:
            return self._storage.find(wanted), ""
        except InvalidRequest:
            return None, ""
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 403:
                return None, REFUSED.format(uri=wanted.uri, why=error.response["Error"].get("Message", ""))
            raise

    def _fail_upload(self, uploaded: S3Object, body: str) -> None:
        """End the evaluations that an upload asked for.

        A mask image without a job is found when its image is segmented. What a COCO file asks for is not
        known before it is read, so its notice gets a row of its own.
        """
        truth = self._found(S3Object(uploaded.bucket, uploaded.key)) or uploaded
        if truth.etag or truth.version_id:
            speaks_by_name = truth.bucket == self._settings.ground_truth_bucket and not is_coco(truth.key)
            stems = truth_stems(truth.key) if speaks_by_name else []
            for evaluation in self._evaluations.of_ground_truth(truth, stems):
                self._fail_evaluation(evaluation)
        if is_coco(uploaded.key):
            job_id = rejected_message_id(body)
            self._jobs.fail(
                job_id,
                ground_truth=uploaded.uri,
                message=_kept(body),
                error=UNSCORED,
                now=self._clock(),
            )
            self._report(self._jobs.read(job_id), ground_truth=uploaded.uri)

    def _fail_evaluation(self, evaluation: Evaluation) -> None:
        """End an evaluation as FAILED; the message kept asks for this one alone."""
        job_id, record = evaluation.job_id, evaluation.record
        if self._evaluations.fail(evaluation, UNSCORED):
            self._report(self._evaluations.read(job_id, record), ground_truth=evaluation.ground_truth.uri)
        else:
            self._logger.info("duplicate_ignored", job_id=job_id, record=record)

    def _report(self, row: JobRow | EvaluationRow | None, **of: str) -> None:
        if row is None:
            return
        self._logger.error(
            "job_failed" if isinstance(row, JobRow) else "evaluation_failed",
            job_id=row.job_id,
            record=row.record,
            error_code=row.error_code,
            error=row.error,
            attempt=row.attempt or 1,
            what_to_do=REDRIVE,
            extra=of,
        )
        self._metrics.add_metric("Failed", MetricUnit.Count, 1)


def _kept(body: str) -> str:
    """Cut a message to what a row has room for."""
    content = body.encode(errors="replace")
    return (
        body
        if len(content) <= LONGEST_MESSAGE_BYTES
        else content[:LONGEST_MESSAGE_BYTES].decode(errors="ignore")
    )
