"""One request from the image to the stored mask: take the job, segment, write, finish the row."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import msgspec
from aws_lambda_powertools import Logger, Metrics

from cytomask.addresses import S3Object, parse_uri
from cytomask.admission import require_served
from cytomask.arrivals import Arrival, admitted, images_of
from cytomask.errors import ImageLocked, ImageReplaced, JobHeld, RejectedInput
from cytomask.jobs import FINISHED, Jobs, Lease
from cytomask.names import Entered, Names, OtherWriters
from cytomask.output_names import RESULT, output_key
from cytomask.records import Fault, JobRow, Result, cut
from cytomask.requests import Parameters, SegmentRequest
from cytomask.served_model import work_of
from cytomask.settings import Settings
from cytomask.storage import NameTakenError, Storage, SupersededError
from cytomask.table import timestamp
from cytomask.work import Work, image_name, job_prefix, rejected_message_id

from .invocation import Invocation, Waiting
from .networks import Networks
from .pages import Source, require_answer_in_time
from .plating import Plating
from .report import Report
from .scoring import Scoring
from .writer import Writer

LONGEST_BODY_KEPT = 4096
NOBODY = "removed"  # writes under a name whose image is gone


class Segmenter:
    """Lead each request through its steps; made once per cold start."""

    def __init__(
        self,
        settings: Settings,
        networks: Networks,
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
        self._networks = networks
        self._storage = storage
        self._jobs = jobs
        self._names = names
        self._scoring = scoring
        self._plating = plating
        self._writer = Writer(settings, networks, storage, plating, clock)
        self._report = Report(logger, metrics)
        self._logger = logger
        self._clock = clock

    def look_at_model(self) -> None:
        """Count an invocation in which the container's model stands in for the one that the stack names."""
        if not self._networks.serves_its_own():
            self._report.model_refused()

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
            InvalidRequest: no object can have this name.
            ImageTooLarge, NotAcceptable: the caller who is `waiting` cannot get this answer.
            Exception: whatever S3, DynamoDB or SQS answered; the job is given back for a retry.
        """
        download = self._storage.fetch(request.image)
        found = download.object
        work = work_of(replace(request, image=found or request.image), self._networks.choose(request))
        image = work.request.image
        self._logger.append_keys(job_id=work.job_id)
        with self._writer.source(image, download) as source:
            row = self._jobs.read(work.job_id) if waiting else None
            if row and row.status in FINISHED and (stored := self._repeat(work, row, source, invocation)):
                return stored
            if waiting and found:
                self._require_answer_in_time(source, work, waiting)
            taken = self._take(work, invocation)
            if isinstance(taken, JobRow):
                if stored := self._repeat(work, taken, source, invocation):
                    return stored
                if not self._is_current(work):
                    return self.segment(request, invocation, waiting)
                why = "image_unlocked" if taken.error_code == ImageLocked.code else "outputs_gone"
                self._logger.warning(why, job_id=work.job_id, image=image.uri)
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
        name = image_name(image, self._settings.input_bucket, self._settings.attached_buckets)
        if name is None:
            self._logger.info("event_ignored", what=why, reason=f"{image.uri} has no outputs of its own name")
            return []
        if self._storage.find(image) is not None:
            return [self.segment(SegmentRequest(image), invocation)]
        self._names.enter(image, NOBODY, seconds=invocation.lease_seconds)
        removed = False
        try:
            removed = self._storage.clear(self._settings.output_bucket, name, image)
            newer = not self._storage.is_newest(image)
        except SupersededError:
            newer = True
        if not newer:
            self._attend_to(self._names.others(image, NOBODY), image)
        results = [self.segment(SegmentRequest(image), invocation)] if newer else []
        if removed:
            self._logger.info("mask_removed", image=image.uri, reason=why)
        else:
            self._logger.info("event_ignored", what=why, reason=f"nothing lies under the name of {image.uri}")
        return results

    def segment_content(
        self, content: bytes, parameters: Parameters, one_mask: bool, invocation: Invocation
    ) -> tuple[Result, list[bytes]]:
        """Segment an image that came in a request's body, and store nothing; see `Writer.segment_content`."""
        return self._writer.segment_content(content, parameters, one_mask, invocation)

    def take_map(self, file: S3Object) -> None:
        """Keep a plate map that was uploaded."""
        self._plating.take_map(file)

    def read_mask(self, result: Result) -> bytes:
        """Read the PNG of a result with one mask; raise ImageReplaced if it was just removed."""
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
        self._writer.put(key, msgspec.json.encode(result))
        result.result = self._writer.uri(key)
        self._jobs.reject_message(
            job_id,
            code=error.code,
            error=cut(error),
            message=body[:LONGEST_BODY_KEPT],
            result=result.result,
            now=self._clock(),
        )
        self._report.finished(result)
        return result

    def _require_answer_in_time(self, source: Source, work: Work, waiting: Waiting) -> None:
        """Refuse an image too large to wait for; the job itself rejects other faults of the header."""
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
            queued=invocation.queued,
        )

    def _work(
        self, work: Work, lease: Lease, source: Source, present: bool, invocation: Invocation
    ) -> Result:
        """Do a job that was taken: find what an earlier owner wrote, or make it; finish the row."""
        request = work.request
        self._logger.info("job_taken", image=request.image.uri, again=lease.earlier is not None)
        with self._released_after_faults(lease):
            led_to = self._result_to_find(work, lease)
            entered = self._enter(work, led_to, invocation)
            # Before outputs are removed: without its network the job cannot make new ones.
            self._networks.find(work.parameters.mode, work.model_sha256)
            stored = self._stored(work, source) if lease.earlier else None  # written by an earlier owner
            if stored and lease.earlier:
                result = self._plating.note_place_again(stored, lease.earlier, request, source)
                self._write_place(work, result, stored)
            else:
                known = entered is not None and entered.known
                result = self._produce(work, known, source, present, invocation)
            self._scoring.record(request, result, request.group, led_to=led_to)
            self._end(lease, work, result, stored)
        self._report.finished(result)
        if entered and result.result != self._own_result(work):  # a row has no room for thousands of versions
            self._names.forget(request.image, work.job_id, entered.entry)
        return result

    @contextmanager
    def _released_after_faults(self, lease: Lease) -> Iterator[None]:
        """Give the lease back after a fault, with the fault as the row's error."""
        try:
            yield
        except Exception as error:
            self._jobs.release(lease, f"{type(error).__name__}: {error}", now=self._clock())
            raise

    def _end(self, lease: Lease, work: Work, result: Result, stored: Result | None) -> None:
        """Count the image on its plate, then finish its row: a count may be repeated, never lost."""
        self._plating.count(result, work.request, lease.earlier, stored)
        if not self._jobs.finish(lease, result, now=self._clock()):
            self._logger.warning("lease_lost", job_id=work.job_id)

    def _repeat(self, work: Work, row: JobRow, source: Source, invocation: Invocation) -> Result | None:
        """Find the result of finished work, and take in a new label, place or ground truth.

        Returns:
            The result; a bare one for an older version whose name a newer image has taken; None if the
            outputs are gone, the image was locked and can be read now, or it is no longer the newest.
        """
        request = work.request
        result = self._stored(work, source)
        if result is None and not (request.image.version_id and not self._is_current(work)):
            return None
        self._report.repeated(work.job_id, request.image.uri)
        if result is not None:
            result = self._move(work, row, result, source, invocation)
        group = (row.group or "") if request.label is None else request.label
        if group != (row.group or ""):
            self._jobs.note_group(work.job_id, group, now=self._clock())
        if result is None:
            return Result(status="REJECTED" if row.status == "REJECTED" else "SUCCEEDED", job_id=work.job_id)
        own = self._own_result(work)
        if request.ground_truth:
            self._scoring.record(request, result, group)
        elif result.result == own and not self._names.leads_to(request.image, work.job_id):
            # A message that names a ground truth came before the upload's own notice.
            self._enter(work, own, invocation)
            self._scoring.record(request, result, group, led_to=own)
        return result

    def _move(
        self, work: Work, row: JobRow, stored: Result, source: Source, invocation: Invocation
    ) -> Result:
        """Put a finished image on the plate that a later request gives; return its result as it is now.

        Raises:
            JobHeld: another invocation has taken the job, or the image was replaced.
        """
        result = self._plating.note_place_again(stored, row, work.request, source)
        if result is stored:
            self._plating.expect(result, work.request)
            return result
        lease = self._jobs.take_again(
            row,
            owner=invocation.request_id,
            now=self._clock(),
            seconds=invocation.lease_seconds,
            anew=False,
        )
        with self._released_after_faults(lease):
            self._write_place(work, result, stored)
            self._end(lease, work, result, stored)
        self._logger.info("job_moved", job_id=work.job_id, plate=result.plate, well=result.well)
        return result

    def _write_place(self, work: Work, result: Result, stored: Result) -> None:
        """Overwrite a stored result whose place has changed; raise JobHeld if its image was replaced."""
        if result is stored:
            return
        try:
            self._writer.write_again(work, result)
        except SupersededError as error:
            raise JobHeld(f"{work.request.image.uri} was replaced meanwhile; ask again") from error

    def _stored(self, work: Work, source: Source) -> Result | None:
        """Read the job's result from where its outputs belong, if all of them are there and it still holds.

        The rejection of a locked image holds until the image can be read: restored, or its key enabled.
        """
        result = self._result_in_place(work)
        locked = result is not None and result.error is not None and result.error.code == ImageLocked.code
        return None if locked and not source.is_locked() else result

    def _result_in_place(self, work: Work) -> Result | None:
        name = self._own_name(work)
        if name is None:
            return self._whole_result(work, work.prefix)
        image = work.request.image
        # First the writers, then the image, then its outputs: a later writer sees what we see.
        others = self._names.others(image, work.job_id)
        if not self._storage.is_newest(image):
            return self._whole_result(work, work.prefix)
        result = self._whole_result(work, name)
        if result:
            self._attend_to(others, image)
        return result

    def _whole_result(self, work: Work, prefix: str) -> Result | None:
        return self._storage.whole_result(self._settings.output_bucket, prefix, work.job_id)

    def _is_current(self, work: Work) -> bool:
        return self._storage.is_newest(work.request.image)

    def _result_to_find(self, work: Work, lease: Lease) -> str | None:
        """Return the address of the result to which the row of the image's name may lead a ground truth.

        If the request names a ground truth, the row leads to the job only if it did so before.
        """
        own, image = self._own_result(work), work.request.image
        if own is None or work.request.ground_truth is None:
            return own
        return own if lease.earlier and self._names.leads_to(image, work.job_id) else None

    def _own_result(self, work: Work) -> str | None:
        """Return the address of the result under the image's own name; None if the job does not own it."""
        name = self._own_name(work)
        return None if name is None else self._writer.uri(output_key(name, RESULT))

    def _enter(self, work: Work, led_to: str | None, invocation: Invocation) -> Entered | None:
        """Announce that the job may write under its image's name; None if its outputs do not go there."""
        if self._own_name(work) is None:
            return None
        return self._names.enter(
            work.request.image, work.job_id, seconds=invocation.lease_seconds, result=led_to
        )

    def _produce(
        self, work: Work, known: bool, source: Source, present: bool, invocation: Invocation
    ) -> Result:
        """Make and write every output; under the job's prefix if a newer image owns the name."""
        name = self._own_name(work)
        if name is None:
            return self._writer.write(work, work.prefix, source, present, invocation)
        image = work.request.image
        result = self._write_named(work, name, known, source, present, invocation)
        if result is not None:
            return result
        self._logger.info("superseded", job_id=work.job_id, image=image.uri)
        with self._writer.source(image) as again:
            return self._writer.write(work, work.prefix, again, present, invocation)

    def _write_named(
        self, work: Work, name: str, known: bool, source: Source, present: bool, invocation: Invocation
    ) -> Result | None:
        """Write every output under the image's own name; return None if a newer image owns it.

        A name that is `known` may have older outputs. They are removed first: if this job fails, no older
        mask stays. After the last write the image is checked again. If a newer one came in between, our
        outputs may have replaced a newer job's under the name: the newest image is then settled at once.
        Nobody looks for other writers of a new name: all of them enter later and find this one.
        """
        image = work.request.image
        try:
            doubtful = known or not present or image.version_id  # probably not the newest
            if doubtful and not self._is_current(work):
                return None
            try:
                result = self._write_cleared(work, name, known, source, present, invocation)
            except NameTakenError:
                known = True
                result = self._write_cleared(work, name, known, source, present, invocation)
            others = self._names.others(image, work.job_id) if known else None
            if self._is_current(work):
                if others:
                    self._attend_to(others, image)
                return result
        except SupersededError:
            pass
        self._settle(image, invocation)
        self._logger.append_keys(job_id=work.job_id)
        return None

    def _write_cleared(
        self, work: Work, name: str, known: bool, source: Source, present: bool, invocation: Invocation
    ) -> Result:
        """Remove what lies under a known name, and write every output."""
        if known:
            self._storage.clear(self._settings.output_bucket, name, work.request.image)
        return self._writer.write(work, name, source, present, invocation, new_name=not known)

    def _attend_to(self, others: OtherWriters, image: S3Object) -> None:
        """Check the name again once all other writers have ended, and end jobs that were left unfinished.

        The message of such a job leads to this image now, because it has replaced the job's own.
        """
        if others.seconds:
            self._names.look_again(image, others.seconds)
        for job_id, entry in others.ended.items():
            if self._jobs.end_replaced(job_id, now=self._clock()):
                self._logger.warning("job_replaced", replaced=job_id, image=image.uri)
            self._names.forget(image, job_id, entry)

    def _settle(self, image: S3Object, invocation: Invocation) -> None:
        """Bring the newest image's own outputs, or none, under its name."""
        try:
            self.settle(image, "a newer image was uploaded during the work", invocation)
        except JobHeld:
            self._names.look_again(image, invocation.lease_seconds)

    def _own_name(self, work: Work) -> str | None:
        return work.own_name(self._settings.input_bucket, self._settings.attached_buckets)
