"""One request from the image to the stored mask: take the job, segment, write, finish the row."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import msgspec
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from cytomask import images
from cytomask.errors import ImageNotFound, ImageReplaced, JobHeld, RejectedInput
from cytomask.jobs import FINISHED, Jobs, Lease
from cytomask.model.predictor import Predictor
from cytomask.names import Names
from cytomask.outputs import encode_files
from cytomask.records import Fault, ImageIdentity, JobRow, ModelIdentity, PageResult, Result, cut
from cytomask.requests import (
    Arrival,
    Parameters,
    S3Object,
    SegmentRequest,
    admitted,
    images_of,
    parse_uri,
    require_served,
)
from cytomask.served_model import work_of
from cytomask.settings import Settings
from cytomask.storage import Storage, SupersededError
from cytomask.table import timestamp
from cytomask.telemetry import Stopwatch, estimated_cost_usd
from cytomask.work import RESULT, Work, has_name, job_prefix, output_key, rejected_message_id, resolve

from .pages import Source, describe, predictions, require_answer_in_time, summarise
from .plating import Plating
from .scoring import Scoring

LEASE_MARGIN_SECONDS = 5
LONGEST_BODY_KEPT = 4096
NOBODY = "removed"  # writes under a name whose image is gone


@dataclass(frozen=True)
class Invocation:
    """What Lambda says of the call that a request came with."""

    request_id: str
    remaining_seconds: Callable[[], float]
    cold_start: bool

    @property
    def lease_seconds(self) -> float:
        """Seconds for which a job taken now must be leased."""
        return self.remaining_seconds() + LEASE_MARGIN_SECONDS


@dataclass(frozen=True)
class Waiting:
    """A caller who waits for the answer. `one_mask`: as a PNG, which holds one."""

    one_mask: bool


class Segmenter:
    """Everything a request needs, made once per cold start."""

    def __init__(
        self,
        settings: Settings,
        predictor: Predictor,
        storage: Storage,
        jobs: Jobs,
        names: Names,
        scoring: Scoring,
        plating: Plating,
        logger: Logger,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._limits = images.Limits.within(settings.memory_mb)
        self._predictor = predictor
        self._storage = storage
        self._jobs = jobs
        self._names = names
        self._scoring = scoring
        self._plating = plating
        self._logger = logger
        self._metrics = metrics
        self._clock = clock

    def admit(self, arrival: Arrival, body: str) -> Arrival:
        """Return the arrival, or a refusal if it names a bucket that the stack does not serve."""
        settings = self._settings
        return admitted(arrival, body, served=settings.allowed_buckets, outputs=settings.output_bucket)

    def require_served(self, request: SegmentRequest) -> None:
        """Raise ForeignBucket if a request names a bucket that the stack does not serve."""
        settings = self._settings
        require_served(request, served=settings.allowed_buckets, outputs=settings.output_bucket)

    def segment(
        self, request: SegmentRequest, invocation: Invocation, waiting: Waiting | None = None
    ) -> Result:
        """Return the stored result if this image was segmented before; otherwise segment it and store all.

        A bad image ends as REJECTED. For a caller who waits, the header is looked at before anything is
        recorded.

        Raises:
            JobHeld: another invocation works on the same job.
            InvalidRequest: no object can be called so.
            ImageTooLarge, NotAcceptable: the answer cannot be `waiting` for.
            Exception: whatever S3, DynamoDB or SQS answered; the job is given back for a retry.
        """
        found = self._storage.find(request.image)
        work = work_of(replace(request, image=found or request.image), self._predictor.manifests)
        image = work.request.image
        self._logger.append_keys(job_id=work.job_id)
        with self._source(work) as source:
            row = self._jobs.read(work.job_id) if waiting else None
            if row and row.status in FINISHED and (stored := self._repeat(work, row)):
                return stored
            if waiting and found:
                self._require_answer_in_time(source, work, waiting)
            taken = self._take(work, invocation)
            if isinstance(taken, JobRow):
                if stored := self._repeat(work, taken):
                    return stored
                if not self._is_current(work):
                    return self.segment(request, invocation, waiting)
                self._logger.warning("outputs_gone", job_id=work.job_id, image=image.uri)
                taken = self._jobs.take_again(
                    taken,
                    owner=invocation.request_id,
                    now=self._clock(),
                    seconds=invocation.lease_seconds,
                )
            result = self._work(work, taken, source, found is not None, invocation)
        if result.error and result.error.code == ImageReplaced.code:
            return self.segment(request, invocation, waiting)
        return result

    def settle(self, image: S3Object, why: str, invocation: Invocation) -> list[Result]:
        """Bring the newest image's own outputs under its name, or clear the name if the image is gone."""
        image = S3Object(image.bucket, image.key)
        if not has_name(image, self._settings.input_bucket):
            self._logger.info("event_ignored", what=why, reason=f"{image.uri} has no outputs of its own name")
            return []
        if self._storage.find(image) is not None:
            return [self.segment(SegmentRequest(image), invocation)]
        owner = invocation.request_id
        self._names.enter(image, NOBODY, owner=owner, seconds=invocation.lease_seconds)
        removed = False
        try:
            removed = self._storage.clear(self._settings.output_bucket, image.key, image)
            newer = not self._storage.is_newest(image)
        except SupersededError:
            newer = True
        if seconds := self._names.others(image, NOBODY):
            self._names.look_again(image, seconds)
        results = [self.segment(SegmentRequest(image), invocation)] if newer else []
        self._names.leave(image, NOBODY, owner=owner)
        if removed:
            self._logger.info("mask_removed", image=image.uri, reason=why)
        else:
            self._logger.info("event_ignored", what=why, reason=f"nothing lies under the name of {image.uri}")
        return results

    def segment_content(
        self, content: bytes, parameters: Parameters, one_mask: bool, invocation: Invocation
    ) -> tuple[Result, list[bytes]]:
        """Segment an image that lies nowhere, and record nothing.

        Returns:
            The result, and each page's mask as a PNG.

        Raises:
            RejectedInput: it cannot be segmented.
            NotAcceptable: `one_mask` is wanted and it has several pages.
        """
        watch, result = Stopwatch(), Result(status="REJECTED")
        settled = resolve(parameters, self._predictor.manifests[parameters.mode].threshold)
        self._describe_run(result, settled, invocation)
        masks = []
        with Source(lambda: content, "the image in the body", self._limits) as source:
            require_answer_in_time(source, settled, one_mask)
            for page, prediction in predictions(source, settled, self._predictor, self._limits, watch):
                result.pages.append(describe(page, prediction, source.open().pixel_size))
                with watch.stage("encode"):
                    masks.append(images.encode_mask(prediction.mask))
        summarise(result, result.pages)
        self._note_spent(result, watch)
        return result, masks

    def take_map(self, file: S3Object) -> None:
        """Keep a plate map that was uploaded."""
        self._plating.take_map(file)

    def read_mask(self, result: Result) -> bytes:
        """Read the PNG of a result with one mask; raise ImageReplaced if it was taken away just now."""
        place = parse_uri(result.mask or "", "mask")
        mask = self._storage.read_output(place.bucket, place.key)
        if mask is None:
            raise ImageReplaced(f"{place.uri} is gone: the image was replaced meanwhile; ask again")
        return mask

    def withdraw(self, job_id: str, message: str, done: list[str]) -> None:
        """End a job that waits for a message which became other jobs."""
        images = images_of(message)
        if error := self._jobs.withdraw(
            job_id, others=done, message=message, images=images, now=self._clock()
        ):
            self._logger.warning("job_withdrawn", job_id=job_id, error=error)

    def reject_message(self, body: str, error: RejectedInput) -> Result:
        """Record a message that cannot be understood, with the reason, and end it."""
        job_id = rejected_message_id(body)
        key = output_key(job_prefix(job_id, "message"), RESULT)
        result = Result(
            status="REJECTED",
            job_id=job_id,
            error=Fault(error.code, cut(error)),
            message=body[:LONGEST_BODY_KEPT],
            finished_at=timestamp(self._clock()),
        )
        self._put(key, msgspec.json.encode(result))
        result.result = self._uri(key)
        self._jobs.reject_message(
            job_id,
            code=error.code,
            error=cut(error),
            message=body[:LONGEST_BODY_KEPT],
            result=result.result,
            now=self._clock(),
        )
        self._log(result)
        return result

    def _source(self, work: Work) -> Source:
        image = work.request.image
        return Source(lambda: self._storage.read_image(image, self._limits), image.uri, self._limits)

    def _require_answer_in_time(self, source: Source, work: Work, waiting: Waiting) -> None:
        """Refuse what cannot be waited for; a header with another fault passes, for the job to reject it."""
        parameters = work.parameters
        try:
            source.select(parameters)
        except RejectedInput:
            return
        require_answer_in_time(source, parameters, waiting.one_mask)

    def _take(self, work: Work, invocation: Invocation) -> Lease | JobRow:
        request = work.request
        return self._jobs.take(
            work.job_id,
            image=request.image.uri,
            group=request.group,
            owner=invocation.request_id,
            now=self._clock(),
            seconds=invocation.lease_seconds,
        )

    def _work(
        self, work: Work, lease: Lease, source: Source, present: bool, invocation: Invocation
    ) -> Result:
        """Do a job that was taken: find what an earlier owner wrote, or make it; finish the row."""
        request = work.request
        self._logger.info("job_taken", image=request.image.uri, again=lease.resumed)
        try:
            result = self._unfinished(work) if lease.resumed else None
            if result is None:
                result = self._produce(work, source, present, invocation)
            self._scoring.record(request, result, request.group)
            self._plating.count(result, request)
            if not self._jobs.finish(lease, result, now=self._clock()):
                self._logger.warning("lease_lost", job_id=work.job_id)
        except Exception as error:
            self._jobs.release(lease, f"{type(error).__name__}: {error}", now=self._clock())
            raise
        self._log(result)
        return result

    def _repeat(self, work: Work, row: JobRow) -> Result | None:
        """Find the result of finished work, and take in a new label or ground truth.

        Returns:
            The result; a bare one of an older image whose name a newer one has taken; None where the outputs
            are gone, or the image is no longer the newest.
        """
        request = work.request
        result = self._stored(work)
        if result is None and not (request.image.version_id and not self._is_current(work)):
            return None
        self._logger.info("duplicate_ignored", job_id=work.job_id, image=request.image.uri)
        self._metrics.add_metric("Duplicates", MetricUnit.Count, 1)
        group = (row.group or "") if request.label is None else request.label
        if group != (row.group or ""):
            self._jobs.note_group(work.job_id, group, now=self._clock())
        if result is None:
            return Result(status="REJECTED" if row.status == "REJECTED" else "SUCCEEDED", job_id=work.job_id)
        if request.ground_truth:
            self._scoring.record(request, result, group)
        return result

    def _stored(self, work: Work) -> Result | None:
        """The job's result where its outputs belong, if all of them are there."""
        if not work.owns_name(self._settings.input_bucket):
            return self._whole_result(work, work.prefix)
        image = work.request.image
        # First the writers, then the image, then its outputs: whoever writes after this sees what we see.
        seconds = self._names.others(image, work.job_id)
        if not self._storage.is_newest(image):
            return self._whole_result(work, work.prefix)
        result = self._whole_result(work, image.key)
        if result and seconds:
            self._names.look_again(image, seconds)
        return result

    def _unfinished(self, work: Work) -> Result | None:
        """The result that an earlier owner wrote before it could finish the row."""
        return self._stored(work)

    def _whole_result(self, work: Work, prefix: str) -> Result | None:
        return self._storage.whole_result(self._settings.output_bucket, prefix, work.job_id)

    def _is_current(self, work: Work) -> bool:
        return self._storage.is_newest(work.request.image)

    def _produce(self, work: Work, source: Source, present: bool, invocation: Invocation) -> Result:
        """Make and write every output; under the job's prefix if a newer image owns the name."""
        if not work.owns_name(self._settings.input_bucket):
            return self._write_outputs(work, work.prefix, source, present, invocation)
        image = work.request.image
        self._names.enter(image, work.job_id, owner=invocation.request_id, seconds=invocation.lease_seconds)
        result = self._write_named(work, source, present, invocation)
        self._names.leave(image, work.job_id, owner=invocation.request_id)
        if result is not None:
            return result
        self._logger.info("superseded", job_id=work.job_id, image=image.uri)
        with self._source(work) as again:
            return self._write_outputs(work, work.prefix, again, present, invocation)

    def _write_named(
        self, work: Work, source: Source, present: bool, invocation: Invocation
    ) -> Result | None:
        """Write every output under the image's own name; None where a newer image owns it.

        Older outputs are removed first: if this job fails, no older mask stays. After the last write
        the image is looked at once more. If a newer one came in between, the name may hold our outputs where
        a newer job had seen its own: the newest image is then settled at once.
        """
        image = work.request.image
        result, began = None, False
        try:
            if not self._is_current(work):
                return None
            began = True
            self._storage.clear(self._settings.output_bucket, image.key, image)
            result = self._write_outputs(work, image.key, source, present, invocation)
            seconds = self._names.others(image, work.job_id)
            if self._is_current(work):
                if seconds:
                    self._names.look_again(image, seconds)
                return result
        except SupersededError:
            pass
        if began:
            self._settle(image, invocation)
            self._logger.append_keys(job_id=work.job_id)
        return None

    def _settle(self, image: S3Object, invocation: Invocation) -> None:
        """Bring the newest image's own outputs, or none, under its name."""
        try:
            self.settle(image, "a newer image was uploaded during the work", invocation)
        except JobHeld:
            self._names.look_again(image, invocation.lease_seconds)

    def _write_outputs(
        self, work: Work, prefix: str, source: Source, present: bool, invocation: Invocation
    ) -> Result:
        image = work.request.image
        watch = Stopwatch()
        result = Result(
            status="REJECTED",
            job_id=work.job_id,
            image=ImageIdentity.of(image),
            group=work.request.group,
            result=self._uri(output_key(prefix, RESULT)),
        )
        self._describe_run(result, work.parameters, invocation)
        try:
            if not present:
                raise ImageNotFound(f"{image.uri} is not there; it was deleted, moved or never uploaded")
            for page in self._segment_pages(work, prefix, source, watch):
                result.pages.append(page)  # those before a damaged one are written and stay on record
            summarise(result, result.pages)
        except RejectedInput as error:
            result.error = Fault(error.code, cut(error))
        self._plating.note_place(result, work.request, source)
        self._note_spent(result, watch)
        self._write(work, prefix, RESULT, None, msgspec.json.encode(result.shown()))
        return result

    def _segment_pages(
        self, work: Work, prefix: str, source: Source, watch: Stopwatch
    ) -> Iterator[PageResult]:
        """Segment and write page after page; yield what the result says of each."""
        parameters = work.parameters
        with watch.stage("read"):
            source.open()
        for page, prediction in predictions(source, parameters, self._predictor, self._limits, watch):
            number = page.index if len(source.open().pages) > 1 else None
            pixel_size = source.open().pixel_size
            described = describe(page, prediction, pixel_size)
            files = encode_files(
                parameters.outputs,
                pixels=page.pixels,
                mask=prediction.mask,
                probability=prediction.probability,
                name=f"{source.name} {page.index}",
                pixel_size=pixel_size,
            )
            for kind, ending, encode in files:
                with watch.stage("encode"):
                    body = encode()
                with watch.stage("write"):
                    written = self._write(work, prefix, ending, number, body)
                setattr(described, kind, written.uri)
                setattr(described, f"{kind}_etag", written.etag)
            yield described

    def _describe_run(self, result: Result, parameters: Parameters, invocation: Invocation) -> None:
        manifest = self._predictor.manifests[parameters.mode]
        result.model = ModelIdentity(manifest.name, manifest.sha256, manifest.licence)
        result.parameters = parameters
        result.normalisation = manifest.normalisation
        result.cold_start = invocation.cold_start
        result.request_id = invocation.request_id

    def _note_spent(self, result: Result, watch: Stopwatch) -> None:
        result.finished_at = timestamp(self._clock())
        result.timings_ms = watch.milliseconds()
        result.estimated_cost_usd = estimated_cost_usd(result.timings_ms["total"], self._settings.memory_mb)

    def _write(self, work: Work, prefix: str, kind: str, page: int | None, body: bytes) -> S3Object:
        """Write one output."""
        own_name = prefix == work.request.image.key
        return self._put(output_key(prefix, kind, page), body, work.request.image if own_name else None)

    def _put(self, key: str, body: bytes, named_after: S3Object | None = None) -> S3Object:
        return self._storage.write(self._settings.output_bucket, key, body, named_after)

    def _uri(self, key: str) -> str:
        return S3Object(self._settings.output_bucket, key).uri

    def _log(self, result: Result) -> None:
        if result.error:
            self._logger.warning(
                "image_rejected",
                job_id=result.job_id,
                image=result.image and result.image.uri,
                error_code=result.error.code,
                error=result.error.message,
            )
            self._metrics.add_metric("Rejected", MetricUnit.Count, 1)
            return
        self._logger.info(
            "mask_written",
            job_id=result.job_id,
            image=result.image and result.image.uri,
            mask=result.mask,
            group=result.group,
            model=result.model and result.model.name,
            confluence=result.confluence,
            confluence_low=result.confluence_low,
            confluence_high=result.confluence_high,
            quality={flag.name: flag.value for flag in result.quality},
            flagged_pages=sum(bool(page.quality) for page in result.pages),
            megapixels=result.pixels / 1e6,
            timings_ms=result.timings_ms,
            estimated_cost_usd=result.estimated_cost_usd,
        )
        self._count(result)

    def _count(self, result: Result) -> None:
        """Add what a finished job says of itself to the metrics."""
        self._metrics.add_metric("MasksWritten", MetricUnit.Count, len(result.pages))
        self._metrics.add_metric("Megapixels", MetricUnit.NoUnit, result.pixels / 1e6)
        self._metrics.add_metric("Confluence", MetricUnit.NoUnit, result.confluence or 0)
        flagged = sum(bool(page.quality) for page in result.pages)
        self._metrics.add_metric("FlaggedPages", MetricUnit.Count, flagged)
        self._metrics.add_metric("EstimatedCostUSD", MetricUnit.NoUnit, result.estimated_cost_usd or 0)
        for stage, milliseconds in result.timings_ms.items():
            self._metrics.add_metric(f"{stage.capitalize()}Time", MetricUnit.Milliseconds, milliseconds)
