"""One evaluation from its message to the scored row: read both masks, compare, end the row."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
from aws_lambda_powertools import Logger

from cytomask import images
from cytomask.errors import ImageNotFound, ImageReplaced, MaskReplaced, RejectedInput
from cytomask.jobs import Jobs
from cytomask.metrics import BOUNDARY_TOLERANCE, BoundaryScore, Mask, Score, score, score_boundary
from cytomask.requests import Evaluation, S3Object, coco_prefix, is_coco, parse_uri
from cytomask.settings import Settings
from cytomask.storage import Storage
from cytomask.truths.coco import read_part
from cytomask.truths.limits import Size
from cytomask.truths.masks import read_ground_truth
from cytomask.truths.names import clean

from .indexer import Indexer, record_evaluation


class Evaluator:
    """Everything an evaluation needs, made once per cold start."""

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        jobs: Jobs,
        indexer: Indexer,
        logger: Logger,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._limits = images.Limits.within(settings.memory_mb)
        self._storage = storage
        self._jobs = jobs
        self._indexer = indexer
        self._logger = logger
        self._clock = clock

    def score_all(self, evaluations: Iterable[Evaluation]) -> list[Exception]:
        """Scores what is not scored yet; returns the faults that a retry may mend."""
        faults: list[Exception] = []
        for evaluation in evaluations:
            try:
                self._score(evaluation)
            except Exception as error:
                self._logger.exception(
                    "attempt_failed", job_id=evaluation.job_id, ground_truth=evaluation.ground_truth.uri
                )
                faults.append(error)
        return faults

    def evaluations_of(self, uploaded: S3Object) -> Iterator[Evaluation]:
        """Records an evaluation for every job whose ground truth came to lie at this address.

        The newest version counts, whichever of them was announced: a late notice of an older one finds
        the newer one's evaluation recorded. A COCO file is indexed first; what it names is scored by
        messages of its own.
        """
        found = self._storage.find(S3Object(uploaded.bucket, uploaded.key))
        if found is None:
            self._logger.info("event_ignored", what=uploaded.uri, reason="deleted since it was uploaded")
            return
        if is_coco(found.key):
            self._indexer.index(found)
        for job_id, noted in self._jobs.jobs_of_ground_truth(found.uri):
            yield record_evaluation(self._jobs, job_id, noted, found, self._clock())
            self._jobs.stop_awaiting(job_id, found.uri)

    def _score(self, evaluation: Evaluation) -> None:
        """Scores one mask and ends the row; a ground truth at fault ends it as REJECTED."""
        row = self._jobs.read(evaluation.job_id, evaluation.record)
        if row is None or row["evaluation_status"] != "QUEUED":
            self._logger.info("duplicate_ignored", job_id=evaluation.job_id, record=evaluation.record)
            return
        try:
            fields = self._compare(evaluation, row["image"])
        except RejectedInput as error:
            fields = {"error_code": error.code, "error": str(error)}
            self._end(evaluation, "REJECTED", fields)
            return
        self._end(evaluation, "SCORED", fields)

    def _end(self, evaluation: Evaluation, status: str, fields: dict[str, Any]) -> None:
        if self._jobs.end_evaluation(evaluation.job_id, evaluation.record, status, fields, self._clock()):
            self._logger.info(
                f"evaluation_{status.lower()}",
                job_id=evaluation.job_id,
                record=evaluation.record,
                ground_truth=evaluation.ground_truth.uri,
                **fields,
            )

    def _compare(self, evaluation: Evaluation, image: str) -> dict[str, Any]:
        """The scores of all pages together, as the row keeps them."""
        pages = self._pages(evaluation)
        sizes = [(page["height"], page["width"]) for page in pages]
        fields: dict[str, Any] = {}
        if is_coco(evaluation.ground_truth.key):
            cells, fields["ground_truth_mask"] = self._drawn(evaluation, image, sizes)
            truths = iter([cells])
        else:
            truths = self._stored(evaluation.ground_truth, sizes)
        total, outline, area = Score(0, 0, 0), BoundaryScore(0, 0, 0, 0), 0
        for page in pages:
            mask = self._mask(page)  # first, since a newer mask has its own evaluation
            cells = next(truths)
            total += score(mask, cells)
            outline += score_boundary(mask, cells)
            area += cells.size
        next(truths, None)  # what is wrong with all pages together is said after the last
        return (
            fields
            | asdict(total)
            | {
                "iou": total.iou,
                "dice": total.dice,
                "precision": total.precision,
                "recall": total.recall,
                "boundary_f1": outline.f1,
                "boundary_tolerance": BOUNDARY_TOLERANCE,
                "confluence": (total.true_positive + total.false_positive) / area,
                "true_confluence": (total.true_positive + total.false_negative) / area,
            }
        )

    def _stored(self, truth: S3Object, sizes: Sequence[Size]) -> Iterator[Mask]:
        """The pages of a mask image."""
        return read_ground_truth(
            self._storage.read_image(truth, self._limits), truth.uri, sizes, self._limits
        )

    def _drawn(self, evaluation: Evaluation, image: str, sizes: Sequence[Size]) -> tuple[Mask, str]:
        """What a COCO file says of the image, as a mask, and where it was written to be looked at."""
        coco = evaluation.ground_truth
        part = read_part(self._indexer.part(coco, image), coco.uri)
        key = parse_uri(image, "image").key
        cells = part.draw(part.find(image, {image: [clean(key)]}), sizes)
        key = f"{coco_prefix(coco)}/{evaluation.job_id}.mask.png"
        return cells, self._storage.write(self._settings.output_bucket, key, images.encode_mask(cells)).uri

    def _pages(self, evaluation: Evaluation) -> list[dict[str, Any]]:
        """What the job's result says of each page; raises MaskReplaced where it is another job's now."""
        place = parse_uri(evaluation.result, "result")
        stored = self._storage.read_output(place.bucket, place.key)
        result = msgspec.json.decode(stored) if stored else {}
        if result.get("job_id") != evaluation.job_id:
            raise _replaced(evaluation.result)
        pages: list[dict[str, Any]] = result["pages"]
        return pages

    def _mask(self, page: dict[str, Any]) -> Mask:
        """A page's mask, (H, W) bool, as the job wrote it: a newer job replaces masks before the result."""
        written = parse_uri(page["mask"], "mask")
        place = S3Object(written.bucket, written.key, etag=page["mask_etag"])
        try:
            content = self._storage.read_image(place, self._limits)
        except (ImageNotFound, ImageReplaced) as error:
            raise _replaced(place.uri) from error
        with images.open_image(content, place.uri) as image:
            return next(images.read_pages(image, limits=self._limits)).pixels > 0


def _replaced(uri: str) -> MaskReplaced:
    return MaskReplaced(
        f"{uri} is no longer this job's: a newer upload of the image replaced it or it was deleted; "
        "the newer mask is scored by itself"
    )
