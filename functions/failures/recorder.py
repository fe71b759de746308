"""One dead letter to the rows of what it asked for: FAILED, with the message and the last error."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import msgspec
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit
from botocore.exceptions import ClientError

from cytomask.errors import TriesUsedUp
from cytomask.jobs import JOB, Jobs
from cytomask.requests import (
    Evaluation,
    Ignored,
    Refused,
    S3Object,
    SegmentRequest,
    admitted,
    is_coco,
    parse_body,
    parse_evaluation,
    rejected_message_id,
)
from cytomask.served_model import ServedModels, work_of
from cytomask.settings import Settings
from cytomask.storage import Storage

WITHOUT_A_WORD = (
    "every try ended without a word: its time or its memory ran out, or a service that it needs was not "
    "reached; look at `cytomask logs --job`, then send it again by `cytomask redrive`"
)
UNSCORED = (
    "the ground truth could not be compared in any of its tries; `cytomask logs --errors` says why, "
    "`cytomask redrive` tries again"
)


class Recorder:
    """Everything a dead letter needs, made once per cold start."""

    def __init__(
        self,
        settings: Settings,
        models: ServedModels,
        storage: Storage,
        jobs: Jobs,
        logger: Logger,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._evaluation_dlq = f"{settings.evaluation_queue_url.rpartition('/')[2]}-dlq"
        self._buckets = settings.allowed_buckets
        self._models = models
        self._storage = storage
        self._jobs = jobs
        self._logger = logger
        self._metrics = metrics
        self._clock = clock

    def record(self, body: str, queue_arn: str) -> list[str]:
        """Records whatever a dead letter asks for; a part that cannot be recorded holds up no other.

        Returns:
            The jobs that it asks for, of images; those that had ended before as well.

        Raises:
            JobHeld: while an invocation is still at work on one of the jobs.
            Exception: whatever S3 or DynamoDB answered.
        """
        of_evaluation = queue_arn.rpartition(":")[2] == self._evaluation_dlq
        job_ids: list[str] = []
        faults: list[Exception] = []
        for arrival in parse_evaluation(body) if of_evaluation else self._images_of(body):
            try:
                match arrival:
                    case Ignored(what, reason):
                        self._logger.info("event_ignored", what=what, reason=reason)
                    case Refused():
                        job_ids.append(self._reject(arrival))
                    case SegmentRequest():
                        job_ids.append(self._fail_job(arrival, body))
                    case Evaluation():
                        self._fail_evaluation(arrival)
                    case uploaded:
                        self._fail_upload(uploaded, body)
            except Exception as error:
                faults.append(error)
        if faults:
            raise faults[0]
        return job_ids

    def _images_of(self, body: str) -> list[SegmentRequest | Ignored | Refused]:
        return [admitted(arrival, body, self._buckets) for arrival in parse_body(body)]

    def withdraw(self, job_id: str, recorded: Sequence[str]) -> None:
        """Ends a job that waits for a message of which other jobs were recorded in its place."""
        if error := self._jobs.withdraw(job_id, recorded, self._clock()):
            self._logger.warning("job_withdrawn", job_id=job_id, error=error)

    def _reject(self, refused: Refused) -> str:
        """Records a message that nobody understands, whole: only the rejection itself can have failed."""
        job_id = rejected_message_id(refused.text)
        code, error = refused.error.code, str(refused.error)
        fields = {"error_code": code, "error": error, "message": refused.text}
        self._jobs.reject_message(job_id, fields, self._clock())
        self._logger.warning("message_rejected", job_id=job_id, error_code=code, error=error)
        self._metrics.add_metric("Rejected", MetricUnit.Count, 1)
        return job_id

    def _fail_job(self, request: SegmentRequest, body: str) -> str:
        image = self._found(request.image) or request.image
        work = work_of(replace(request, image=image), self._models)
        fields = {"image": request.image.uri, "group": request.group, "message": body}
        if self._jobs.fail(work.job_id, fields, TriesUsedUp.code, WITHOUT_A_WORD, self._clock()):
            self._report(work.job_id, JOB, "image", request.image.uri)
        else:
            self._logger.info("duplicate_ignored", job_id=work.job_id, image=request.image.uri)
        return work.job_id

    def _found(self, wanted: S3Object) -> S3Object | None:
        """The object as it is now; None where it is gone, or where the bucket keeps it from us for good."""
        try:
            return self._storage.find(wanted)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 403:
                return None
            raise

    def _fail_upload(self, uploaded: S3Object, body: str) -> None:
        """Ends the evaluations that an upload asked for.

        A mask image without a job is found when its image is segmented; what a COCO file asks for is not
        known before it is read, so its notice gets a row of its own.
        """
        for evaluation in self._evaluations_of(uploaded):
            self._fail_evaluation(evaluation)
        if is_coco(uploaded.key):
            job_id, fields = rejected_message_id(body), {"ground_truth": uploaded.uri, "message": body}
            self._jobs.fail(job_id, fields, TriesUsedUp.code, UNSCORED, self._clock())
            self._report(job_id, JOB, "ground_truth", uploaded.uri)

    def _evaluations_of(self, uploaded: S3Object) -> Iterator[Evaluation]:
        """The evaluations that an upload of a ground truth asked for, each with its row."""
        truth = self._found(S3Object(uploaded.bucket, uploaded.key)) or uploaded
        for job_id, noted in self._jobs.jobs_of_ground_truth(truth.uri):
            fields = {"image": noted["image"], "mask": noted["mask"], "ground_truth": truth.uri}
            row = self._jobs.queue_evaluation(job_id, truth.version, fields, self._clock())
            yield Evaluation(job_id, row["record"], truth, noted["result"])
            self._jobs.stop_awaiting(job_id, truth.uri)

    def _fail_evaluation(self, evaluation: Evaluation) -> None:
        """Ends an evaluation as FAILED; the message kept asks for this one alone."""
        fields = {
            "status": "FAILED",  # so that the index by status lists it beside the jobs that failed
            "message": msgspec.json.encode(evaluation).decode(),
            "error_code": TriesUsedUp.code,
            "error": UNSCORED,
        }
        job_id, record = evaluation.job_id, evaluation.record
        if self._jobs.end_evaluation(job_id, record, "FAILED", fields, self._clock()):
            self._report(job_id, record, "ground_truth", evaluation.ground_truth.uri)
        else:
            self._logger.info("duplicate_ignored", job_id=job_id, record=record)

    def _report(self, job_id: str, record: str, of: str, uri: str) -> None:
        row = self._jobs.read(job_id, record) or {}
        self._logger.error(
            "job_failed" if record == JOB else "evaluation_failed",
            job_id=job_id,
            record=record,
            error_code=row.get("error_code"),
            error=row.get("error"),
            attempt=int(row.get("attempt", 1)),
            extra={of: uri},
        )
        self._metrics.add_metric("Failed", MetricUnit.Count, 1)
