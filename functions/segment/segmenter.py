"""One request from the image to the stored mask: take the job, segment, write, finish the row."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from cytomask import images, metrics
from cytomask.errors import (
    CytomaskError,
    ImageNotFound,
    ImageReplaced,
    ImageTooLarge,
    NotAcceptable,
    RejectedInput,
)
from cytomask.jobs import Jobs, Lease, coco_address, timestamp
from cytomask.model.predictor import Prediction, Predictor
from cytomask.requests import (
    Evaluation,
    Ignored,
    Parameters,
    Refused,
    S3Object,
    SegmentRequest,
    Work,
    admitted,
    coco_name,
    ground_truth_keys,
    job_prefix,
    output_key,
    parse_uri,
    rejected_message_id,
    require_served,
)
from cytomask.settings import Settings
from cytomask.storage import Storage, SupersededError
from cytomask.telemetry import Stopwatch, estimated_cost_usd

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

Result = dict[str, Any]
Arrival = SegmentRequest | Ignored | Refused

LEASE_MARGIN_SECONDS = 5
LONGEST_BODY_KEPT = 4096

# Of an image whose mask somebody waits for: a megapixel was measured to take 0.8 to 1.2 CPU seconds, and into
# HttpApi's 30 s a slower processor and a cold start shall fit too.
PIXELS_WHILE_WAITING = 8 * images.MEGA


@dataclass(frozen=True)
class Invocation:
    """What Lambda says of the call that a request came with."""

    request_id: str
    remaining_seconds: Callable[[], float]
    cold_start: bool


class Segmenter:
    """Everything a request needs, made once per cold start."""

    def __init__(
        self,
        settings: Settings,
        predictor: Predictor,
        storage: Storage,
        jobs: Jobs,
        sqs: "SQSClient",
        logger: Logger,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._limits = images.Limits.within(settings.memory_mb)
        self._predictor = predictor
        self._storage = storage
        self._jobs = jobs
        self._sqs = sqs
        self._logger = logger
        self._metrics = metrics
        self._clock = clock

    def admit(self, arrival: Arrival, body: str) -> Arrival:
        """The arrival; refused where it names a bucket that the stack does not serve."""
        return admitted(arrival, body, self._settings.allowed_buckets)

    def require_served(self, request: SegmentRequest) -> None:
        """Raises ForeignBucket where a request names a bucket that the stack does not serve."""
        require_served(request, self._settings.allowed_buckets)

    def segment(self, request: SegmentRequest, invocation: Invocation) -> Result:
        """Segments one image, or finds that it was done; a bad image ends as REJECTED.

        Raises:
            JobHeld: while another invocation works on the same job.
            Exception: whatever S3, DynamoDB or SQS answered; the job is given back for a retry.
        """
        found = self._storage.find(request.image)
        manifest = self._predictor.manifests[request.parameters.mode]
        work = Work(replace(request, image=found or request.image), manifest.sha256, manifest.threshold)
        self._logger.append_keys(job_id=work.job_id)
        taken = self._jobs.take(
            work.job_id,
            {"image": request.image.uri, "group": request.group},
            invocation.request_id,
            self._clock(),
            invocation.remaining_seconds() + LEASE_MARGIN_SECONDS,
        )
        if not isinstance(taken, Lease):
            return self._repeat(work, taken)
        self._logger.info("job_taken", image=request.image.uri, again=taken.resumed)
        try:
            result = self._unfinished(work) if taken.resumed else None
            if result is None:
                result = self._produce(work, found is not None, invocation)
            self._record_evaluation(work, result, request.group)
            if not self._jobs.finish(taken, result["status"], _row_of(result), self._clock()):
                self._logger.warning("lease_lost", job_id=work.job_id)
        except Exception as error:
            self._jobs.release(taken, f"{type(error).__name__}: {error}", self._clock())
            raise
        self._log(result)
        if result.get("error", {}).get("code") == ImageReplaced.code:
            return self.segment(request, invocation)
        return result

    def require_answer_in_time(self, request: SegmentRequest, one_mask: bool) -> None:
        """Looks at an image's header while nothing is recorded of the request yet.

        An image with another fault passes, for `segment` to reject it.

        Raises:
            ImageTooLarge: it cannot be segmented while somebody waits for the answer.
            NotAcceptable: `one_mask` is wanted and it has several pages.
        """
        found = self._storage.find(request.image)
        if found is None:
            return
        try:
            with images.open_image(self._storage.read_image(found, self._limits), found.uri) as image:
                wanted = request.parameters.selected(len(image.pages), found.uri)
                images.check(image, wanted, request.parameters.channel, self._limits)
        except RejectedInput:
            return
        _require_answer_in_time(image, wanted, one_mask)

    def segment_content(
        self, content: bytes, parameters: Parameters, one_mask: bool, invocation: Invocation
    ) -> tuple[Result, list[bytes]]:
        """Segments an image that lies nowhere, and records nothing.

        Returns:
            The result, and each page's mask as a PNG.

        Raises:
            RejectedInput: it cannot be segmented.
            NotAcceptable: `one_mask` is wanted and it has several pages.
        """
        watch, name = Stopwatch(), "the image in the body"
        images.require_size(len(content), name, self._limits)
        with images.open_image(content, name) as image:
            wanted = parameters.selected(len(image.pages), name)
            images.check(image, wanted, parameters.channel, self._limits)
            _require_answer_in_time(image, wanted, one_mask)
            pages, masks = [], []
            for page, prediction in self._predictions(image, parameters, watch):
                pages.append(_describe(page, prediction))
                with watch.stage("encode"):
                    masks.append(images.encode_mask(prediction.mask))
        result = self._provenance(parameters, invocation) | {
            "status": "SUCCEEDED",
            "confluence": _pooled_confluence(pages),
            "pages": pages,
        }
        return result | self._spent(watch), masks

    def read_mask(self, result: Result) -> bytes:
        """The PNG of a result with one mask; raises ImageReplaced where it is gone."""
        place = parse_uri(result.get("mask") or "", "mask")
        mask = self._storage.read_output(place.bucket, place.key)
        if mask is None:
            raise ImageReplaced(f"{place.uri} is gone: the image was replaced meanwhile; ask again")
        return mask

    def withdraw(self, job_id: str, done: Sequence[str]) -> None:
        """Ends a job that waits for a message of which other jobs were done in its place."""
        if error := self._jobs.withdraw(job_id, done, self._clock()):
            self._logger.warning("job_withdrawn", job_id=job_id, error=error)

    def reject_message(self, body: str, error: RejectedInput) -> Result:
        """Records a message that cannot be understood, with what is wrong, and ends it."""
        job_id = rejected_message_id(body)
        result = {"job_id": job_id, "status": "REJECTED", "error": _error_fields(error)}
        result["message"] = body[:LONGEST_BODY_KEPT]
        result["finished_at"] = timestamp(self._clock())
        key = output_key(job_prefix(job_id, "message"), "result.json")
        self._put(key, msgspec.json.encode(result))
        result["result"] = self._uri(key)
        self._jobs.reject_message(job_id, _row_of(result) | {"message": result["message"]}, self._clock())
        self._log(result)
        return result

    def _repeat(self, work: Work, row: dict[str, Any]) -> Result:
        """The stored result of finished work; a new label or ground truth is still taken in."""
        request = work.request
        self._logger.info("duplicate_ignored", job_id=work.job_id, image=request.image.uri)
        self._metrics.add_metric("Duplicates", MetricUnit.Count, 1)
        group = row.get("group", "") if request.label is None else request.label
        if group != row.get("group", ""):
            self._jobs.note_group(work.job_id, group, self._clock())
        result = self._stored_result(_key_of(row["result"]), work.job_id)
        if result is None:  # a newer upload has replaced it
            return {"job_id": work.job_id, "status": row["status"]}
        if request.ground_truth:
            self._record_evaluation(work, result, group)
        return result

    def _stored_result(self, key: str, job_id: str) -> Result | None:
        """The job's result at `key`; None where there is none, or that of a newer upload."""
        stored = self._storage.read_output(self._settings.output_bucket, key)
        result: Result | None = msgspec.json.decode(stored) if stored else None
        return result if result and result["job_id"] == job_id else None

    def _unfinished(self, work: Work) -> Result | None:
        """The result that an earlier owner wrote before it could finish the row."""
        keys = [output_key(prefix, "result.json") for prefix in self._prefixes(work)]
        return next(filter(None, (self._stored_result(key, work.job_id) for key in keys)), None)

    def _prefixes(self, work: Work) -> list[str]:
        """Where the outputs may lie: under the image's own name where the request has it, else the job's."""
        own = [work.request.image.key] if work.is_default(self._settings.input_bucket) else []
        return [*own, job_prefix(work.job_id, work.request.image.key)]

    def _produce(self, work: Work, present: bool, invocation: Invocation) -> Result:
        """Makes and writes every output; where a newer image owns the name, under the job's prefix."""
        *own, last = self._prefixes(work)
        for prefix in own:
            try:
                return self._write_outputs(work, prefix, present, invocation)
            except SupersededError:
                self._logger.info("superseded", job_id=work.job_id, image=work.request.image.uri)
        return self._write_outputs(work, last, present, invocation)

    def _write_outputs(self, work: Work, prefix: str, present: bool, invocation: Invocation) -> Result:
        image = work.request.image
        watch = Stopwatch()
        result = self._identity(work) | self._provenance(work.request.parameters, invocation)
        result["result"] = self._uri(output_key(prefix, "result.json"))
        pages: list[dict[str, Any]] = []
        try:
            if not present:
                raise ImageNotFound(f"{image.uri} is not there; it was deleted, moved or never uploaded")
            for page in self._segment_pages(work, prefix, watch):
                pages.append(page)  # those before a damaged one are written and stay on record
            result |= {
                "status": "SUCCEEDED",
                "confluence": _pooled_confluence(pages),
                "mask": pages[0].get("mask"),
            }
        except RejectedInput as error:
            result |= {"status": "REJECTED", "error": _error_fields(error)}
        result |= {"pages": pages} | self._spent(watch)
        self._remove_stale(work, prefix, pages)
        self._write(work, prefix, "result.json", None, msgspec.json.encode(result))
        return result

    def _remove_stale(self, work: Work, prefix: str, pages: list[dict[str, Any]]) -> None:
        """Removes the masks under the image's name that an earlier version left and this one did not replace.

        They would else be taken for this version's: of pages that it lacks, or of an image that is refused.
        """
        if prefix != work.request.image.key:
            return
        stored = self._storage.read_output(self._settings.output_bucket, output_key(prefix, "result.json"))
        earlier = msgspec.json.decode(stored)["pages"] if stored else []
        replaced = {page["mask"] for page in pages}
        for page in earlier:
            if page["mask"] not in replaced:
                self._storage.remove(self._settings.output_bucket, _key_of(page["mask"]), work.request.image)

    def _segment_pages(self, work: Work, prefix: str, watch: Stopwatch) -> Iterator[dict[str, Any]]:
        """Segments and writes page after page; yields what the result says of each."""
        image, parameters = work.request.image, work.request.parameters
        with watch.stage("read"):
            content = self._storage.read_image(image, self._limits)
        with images.open_image(content, image.uri) as opened:
            for page, prediction in self._predictions(opened, parameters, watch):
                number = page.index if len(opened.pages) > 1 else None
                described = _describe(page, prediction)
                for output in parameters.outputs:
                    with watch.stage("encode"):
                        body = _encode(output, page, prediction)
                    with watch.stage("write"):
                        written = self._write(work, prefix, f"{output}.png", number, body)
                    described |= {output: written.uri, f"{output}_etag": written.etag}
                yield described

    def _predictions(
        self, image: images.ImageFile, parameters: Parameters, watch: Stopwatch
    ) -> Iterator[tuple[images.Page, Prediction]]:
        """The pages asked for, each with what the network says of it."""
        wanted = parameters.selected(len(image.pages), image.name)
        pages = images.read_pages(image, wanted, parameters.channel, self._limits)
        while True:
            with watch.stage("decode"):
                page = next(pages, None)
            if page is None:
                return
            with watch.stage("infer"):
                prediction = self._predictor.predict(
                    page.pixels, parameters.mode, self._threshold(parameters)
                )
            yield page, prediction

    def _identity(self, work: Work) -> Result:
        request = work.request
        return {
            "job_id": work.job_id,
            "image": {"uri": request.image.uri} | asdict(request.image),
            "group": request.group,
        }

    def _provenance(self, parameters: Parameters, invocation: Invocation) -> Result:
        manifest = self._predictor.manifests[parameters.mode]
        return {
            "model": {
                "name": manifest.name,
                "sha256": manifest.sha256,
                "training_data_licence": manifest.licence,
            },
            "parameters": asdict(parameters) | {"threshold": self._threshold(parameters)},
            "normalisation": manifest.normalisation,
            "cold_start": invocation.cold_start,
            "request_id": invocation.request_id,
        }

    def _threshold(self, parameters: Parameters) -> float:
        own = self._predictor.manifests[parameters.mode].threshold
        return own if parameters.threshold is None else parameters.threshold

    def _spent(self, watch: Stopwatch) -> Result:
        timings = watch.milliseconds()
        return {
            "finished_at": timestamp(self._clock()),
            "timings_ms": timings,
            "estimated_cost_usd": estimated_cost_usd(timings["total"], self._settings.memory_mb),
        }

    def _record_evaluation(self, work: Work, result: Result, group: str) -> None:
        """Records that a mask is to be scored, and queues it where the ground truth is there.

        The rows come first and the look for the ground truth second, so that a ground truth that arrives in
        between is seen by one side at least.
        """
        if not result.get("mask"):
            return
        request, now = work.request, self._clock()
        noted = {"image": request.image.uri, "mask": result["mask"]}
        fields = noted | {"group": group}
        waiting = {"ground_truth": request.ground_truth.uri} if request.ground_truth else {}
        self._jobs.expect_ground_truth(
            work.job_id, self._addresses_of_ground_truth(request), noted | {"result": result["result"]}, now
        )
        self._jobs.await_ground_truth(work.job_id, fields | waiting, now)
        for truth in self._ground_truths(request):
            row = self._jobs.queue_evaluation(
                work.job_id, truth.version, fields | {"ground_truth": truth.uri}, now
            )
            if row["evaluation_status"] == "QUEUED":
                message = Evaluation(work.job_id, row["record"], truth, result["result"])
                self._sqs.send_message(
                    QueueUrl=self._settings.evaluation_queue_url,
                    MessageBody=msgspec.json.encode(message).decode(),
                )
            self._jobs.stop_awaiting(work.job_id, truth.uri)

    def _addresses_of_ground_truth(self, request: SegmentRequest) -> list[str]:
        """Under what the ground truth is looked for, as long as it is not there."""
        addresses = [place.uri for place in self._places_of_ground_truth(request)]
        return addresses if request.ground_truth else [*addresses, coco_address(coco_name(request.image.key))]

    def _ground_truths(self, request: SegmentRequest) -> Iterator[S3Object]:
        """What is there to score against: the first of the places, and the COCO files that name the image.

        Of a COCO file that was replaced since it was indexed, the new version is indexed after the rows of
        this job were written, and finds them.
        """
        found = next(filter(None, map(self._storage.find, self._places_of_ground_truth(request))), None)
        if found:
            yield found
        if request.ground_truth:
            return
        for uri, noted in self._jobs.cocos_that_name(coco_name(request.image.key)):
            if request.image.uri.startswith(noted.get("images", "")):
                coco = self._storage.find(parse_uri(uri, "ground_truth"))
                if coco and coco.version == noted["version"]:
                    yield coco

    def _places_of_ground_truth(self, request: SegmentRequest) -> list[S3Object]:
        """Where the ground truth may come to lie: where the request says, else under the image's key."""
        if request.ground_truth:
            return [request.ground_truth]
        return [
            S3Object(self._settings.ground_truth_bucket, key) for key in ground_truth_keys(request.image.key)
        ]

    def _write(self, work: Work, prefix: str, kind: str, page: int | None, body: bytes) -> S3Object:
        """Writes one output."""
        key = output_key(prefix, kind, page)
        own_name = prefix == work.request.image.key
        return self._put(key, body, work.request.image if own_name else None)

    def _put(self, key: str, body: bytes, named_after: S3Object | None = None) -> S3Object:
        return self._storage.write(self._settings.output_bucket, key, body, named_after)

    def _uri(self, key: str) -> str:
        return S3Object(self._settings.output_bucket, key).uri

    def _log(self, result: Result) -> None:
        if result["status"] == "SUCCEEDED":
            self._logger.info(
                "mask_written",
                job_id=result["job_id"],
                image=result["image"]["uri"],
                mask=result["mask"],
                group=result["group"],
                model=result["model"]["name"],
                confluence=result["confluence"],
                megapixels=_megapixels(result),
                timings_ms=result["timings_ms"],
                estimated_cost_usd=result["estimated_cost_usd"],
            )
            self._count(result)
        else:
            self._logger.warning(
                "image_rejected",
                job_id=result["job_id"],
                image=result.get("image", {}).get("uri"),
                error_code=result["error"]["code"],
                error=result["error"]["message"],
            )
            self._metrics.add_metric("Rejected", MetricUnit.Count, 1)

    def _count(self, result: Result) -> None:
        """Adds what a finished job says of itself to the metrics."""
        self._metrics.add_metric("MasksWritten", MetricUnit.Count, len(result["pages"]))
        self._metrics.add_metric("Megapixels", MetricUnit.NoUnit, _megapixels(result))
        self._metrics.add_metric("Confluence", MetricUnit.NoUnit, result["confluence"])
        self._metrics.add_metric("EstimatedCostUSD", MetricUnit.NoUnit, result["estimated_cost_usd"])
        for stage, milliseconds in result["timings_ms"].items():
            self._metrics.add_metric(f"{stage.capitalize()}Time", MetricUnit.Milliseconds, milliseconds)


def _require_answer_in_time(image: images.ImageFile, wanted: Sequence[int], one_mask: bool) -> None:
    if one_mask and len(wanted) > 1:
        raise NotAcceptable(
            f"{image.name} has {len(wanted)} pages and a PNG holds one mask; name a page with `pages`, "
            "or accept application/json"
        )
    pixels = sum(image.pages[index].height * image.pages[index].width for index in wanted)
    if pixels > PIXELS_WHILE_WAITING:
        raise ImageTooLarge(
            f"{image.name} has {pixels / images.MEGA:.1f} megapixels, and while you wait "
            f"{PIXELS_WHILE_WAITING // images.MEGA} can be segmented; upload it and name it to POST /jobs"
        )


def _describe(page: images.Page, prediction: Prediction) -> dict[str, Any]:
    height, width = page.pixels.shape
    plan = prediction.plan
    return {
        "page": page.index,
        "height": height,
        "width": width,
        "dtype": page.dtype,
        "orientation": page.orientation,
        "turned": page.turned,
        "confluence": metrics.confluence(prediction.mask),
        "tiles": plan and {"count": plan.count, "tile": plan.tile, "overlap": plan.overlap},
    }


def _encode(output: str, page: images.Page, prediction: Prediction) -> bytes:
    match output:
        case "probability":
            return images.encode_probability(prediction.probability)
        case "overlay":
            return images.encode_overlay(page.pixels, prediction.mask)
    return images.encode_mask(prediction.mask)


def _pooled_confluence(pages: list[dict[str, Any]]) -> float:
    """Cell pixels of all pages over their pixels."""
    areas = [page["height"] * page["width"] for page in pages]
    cells = [page["confluence"] * area for page, area in zip(pages, areas, strict=True)]
    return float(sum(cells) / sum(areas))


def _megapixels(result: Result) -> float:
    """Pixels of all pages, in millions."""
    return float(sum(page["height"] * page["width"] for page in result["pages"]) / 1e6)


def _error_fields(error: CytomaskError) -> dict[str, str]:
    return {"code": error.code, "message": str(error)}


def _row_of(result: Result) -> dict[str, Any]:
    """What the job row keeps of a result, under the names that every reader of the table knows."""
    error = result.get("error", {})
    return {
        "mask": result.get("mask"),
        "result": result["result"],
        "confluence": result.get("confluence"),
        "model_sha256": result.get("model", {}).get("sha256"),
        "milliseconds": result.get("timings_ms", {}).get("total"),
        "estimated_cost_usd": result.get("estimated_cost_usd"),
        "pages": len(result["pages"]) if result.get("pages") else None,
        "error_code": error.get("code"),
        "error": error.get("message"),
        "message": None,
        "lease_until": None,
        "owner": None,
    }


def _key_of(uri: str) -> str:
    return uri.removeprefix("s3://").partition("/")[2]
