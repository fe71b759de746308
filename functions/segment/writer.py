"""Make a job's outputs, page after page, and write them under one prefix of the output bucket."""

from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from cytomask import images
from cytomask.addresses import S3Object, parse_uri
from cytomask.errors import ImageNotFound, RejectedInput
from cytomask.model.predictor import Predictor
from cytomask.output_names import RESULT, output_key
from cytomask.outputs import encode_files
from cytomask.records import Fault, ImageIdentity, ModelIdentity, PageResult, Result, cut
from cytomask.requests import Parameters
from cytomask.settings import Settings
from cytomask.storage import Download, Storage
from cytomask.table import timestamp
from cytomask.telemetry import Stopwatch, estimated_cost_usd
from cytomask.work import Work, resolve

from .invocation import Invocation
from .networks import Networks
from .pages import Source, describe, predictions, require_answer_in_time, summarise
from .plating import Plating


class Writer:
    """Make and store the outputs of one image; rows and other images are the segmenter's subject."""

    def __init__(
        self,
        settings: Settings,
        networks: Networks,
        storage: Storage,
        plating: Plating,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._limits = images.Limits.within(settings.memory_mb)
        self._networks = networks
        self._storage = storage
        self._plating = plating
        self._clock = clock

    def source(self, image: S3Object, download: Download | None = None) -> Source:
        """Return the image as a source that is read when it is first asked for.

        Args:
            image: in the version that is meant.
            download: its bytes, if they are on their way already; the source closes it.
        """
        if download is None or not download.began:
            return Source(lambda: self._storage.read_image(image, self._limits), image.uri, self._limits)
        return Source(lambda: download.read(self._limits), image.uri, self._limits, download.close)

    def write(
        self,
        work: Work,
        prefix: str,
        source: Source,
        present: bool,
        invocation: Invocation,
        *,
        new_name: bool = False,
    ) -> Result:
        """Segment an image and write all its outputs under a prefix.

        Args:
            work: the job.
            prefix: the image's name, or the job's folder.
            source: the image.
            present: whether the object was found; otherwise the job is rejected.
            invocation: the call that it came with.
            new_name: the prefix is the image's name, and nothing should lie there yet.

        Returns:
            The result as it was written; a bad image's is REJECTED, with the pages before a damaged one.

        Raises:
            SupersededError: the prefix is the image's name, and a newer image has taken it.
            ModelUnusable: the model of the image's plate is missing or damaged.
            NameTakenError: something lies under the new name after all.
        """
        image = work.request.image
        watch = Stopwatch()
        result = Result(
            status="REJECTED",
            job_id=work.job_id,
            image=ImageIdentity.of(image),
            group=work.request.group,
            result=self.uri(output_key(prefix, RESULT)),
        )
        predictor = self._networks.find(work.parameters.mode, work.model_sha256)
        self._describe_run(result, work.parameters, predictor, invocation)
        try:
            if not present:
                raise ImageNotFound(f"{image.uri} is not there; it was deleted, moved or never uploaded")
            for page in self._segment_pages(work, prefix, source, predictor, watch, new_name):
                result.pages.append(page)  # those before a damaged one are written and stay on record
            summarise(result, result.pages)
        except RejectedInput as error:
            result.error = Fault(error.code, cut(error))
        self._plating.note_place(result, work.request, source)
        self._note_spent(result, watch)
        key, body = output_key(prefix, RESULT), msgspec.json.encode(result.shown())
        self._write(
            work, key, body, prefix, new_name, look=not result.pages
        )  # the last mask's look was just now
        return result

    def segment_content(
        self, content: bytes, parameters: Parameters, one_mask: bool, invocation: Invocation
    ) -> tuple[Result, list[bytes]]:
        """Segment an image that came in a request's body, and store nothing.

        Returns:
            The result, and each page's mask as a PNG.

        Raises:
            RejectedInput: it cannot be segmented.
            NotAcceptable: `one_mask` is wanted and it has several pages.
        """
        watch, result = Stopwatch(), Result(status="REJECTED")
        predictor = self._networks.present(parameters.mode)
        settled = resolve(parameters, predictor.manifests[parameters.mode].threshold)
        self._describe_run(result, settled, predictor, invocation)
        masks = []
        with Source(lambda: content, "the image in the body", self._limits) as source:
            require_answer_in_time(source, settled, one_mask)
            for page, prediction in predictions(source, settled, predictor, self._limits, watch):
                result.pages.append(describe(page, prediction, source.pixel_size(settled, page.index)))
                with watch.stage("encode"):
                    masks.append(images.encode_mask(prediction.mask))
        summarise(result, result.pages)
        self._note_spent(result, watch)
        return result, masks

    def write_again(self, work: Work, result: Result) -> None:
        """Overwrite a stored result; raise SupersededError if a newer image has taken its name."""
        key = parse_uri(result.result or "", "result").key
        body = msgspec.json.encode(result.shown())
        self._write(work, key, body, key.removesuffix(f".{RESULT}"), new_name=False)

    def put(self, key: str, body: bytes) -> S3Object:
        """Write an object of the output bucket."""
        return self._storage.write(self._settings.output_bucket, key, body)

    def uri(self, key: str) -> str:
        """Return the address of an output."""
        return S3Object(self._settings.output_bucket, key).uri

    def _segment_pages(
        self,
        work: Work,
        prefix: str,
        source: Source,
        predictor: Predictor,
        watch: Stopwatch,
        new_name: bool,
    ) -> Iterator[PageResult]:
        """Segment and write page after page; yield what the result says of each.

        The first output under a new name needs no check of the image. If a newer image was handled since
        this one was read, its invocation has left a row, and the name is not new.
        """
        parameters, look = work.parameters, not new_name
        with watch.stage("read"):
            source.open()
        for page, prediction in predictions(source, parameters, predictor, self._limits, watch):
            number = page.index if len(source.open().pages) > 1 else None
            pixel_size = source.pixel_size(parameters, page.index)
            described = describe(page, prediction, pixel_size)
            files = encode_files(
                parameters.outputs,
                pixels=page.pixels,
                mask=prediction.mask,
                probability=prediction.probability,
                name=f"{source.name} {page.index}",
                pixel_size=pixel_size,
                facts=partial(source.open().facts, page.index, parameters.channel),
            )
            for kind, ending, encode in files:
                with watch.stage("encode"):
                    body = encode()
                key = output_key(prefix, ending, number)
                with watch.stage("write"):
                    written = self._write(work, key, body, prefix, new_name, look)
                look = True  # later outputs notice early that a newer image came
                setattr(described, kind, written.uri)
                setattr(described, f"{kind}_etag", written.etag)
            yield described

    def _describe_run(
        self, result: Result, parameters: Parameters, predictor: Predictor, invocation: Invocation
    ) -> None:
        manifest = predictor.manifests[parameters.mode]
        result.model = ModelIdentity(manifest.name, manifest.sha256, manifest.licence)
        result.parameters = parameters
        result.normalisation = manifest.normalisation
        result.cold_start = invocation.cold_start
        result.request_id = invocation.request_id

    def _note_spent(self, result: Result, watch: Stopwatch) -> None:
        result.finished_at = timestamp(self._clock())
        result.timings_ms = watch.milliseconds()
        result.estimated_cost_usd = estimated_cost_usd(result.timings_ms["total"], self._settings.memory_mb)

    def _write(
        self, work: Work, key: str, body: bytes, prefix: str, new_name: bool, look: bool = True
    ) -> S3Object:
        """Write one output."""
        if prefix != work.own_name(self._settings.input_bucket, self._settings.attached_buckets):
            return self.put(key, body)
        return self._storage.write_named(
            S3Object(self._settings.output_bucket, key),
            body,
            work.request.image,
            new=new_name,
            look=look,
        )
