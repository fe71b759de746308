"""One evaluation from its message to the scored row: read both masks, compare, end the row."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
from aws_lambda_powertools import Logger

from cytomask import images
from cytomask.addresses import S3Object, is_coco, parse_uri
from cytomask.arrivals import Evaluation, EvaluationArrival, parse_evaluation
from cytomask.errors import ImageNotFound, ImageNotNamed, ImageReplaced, MaskReplaced, RejectedInput
from cytomask.evaluations import Evaluations
from cytomask.mask_index import MaskIndex
from cytomask.metrics import BOUNDARY_TOLERANCE, BoundaryScore, Mask, Score, score, score_boundary
from cytomask.records import PageResult, Scorable, Scores
from cytomask.settings import Settings
from cytomask.storage import Storage
from cytomask.truths import names
from cytomask.truths.coco import Coco
from cytomask.truths.limits import Size
from cytomask.truths.masks import read_ground_truth
from cytomask.work import coco_prefix

from .indexer import Indexer

MOST_TAKEN_BACK = 20  # jobs, for each score
WHAT_TO_DO = "none yet: the message is tried again; after its last try `cytomask redrive` sends it once more"


class Evaluator:
    """Everything an evaluation needs, made once per cold start."""

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        evaluations: Evaluations,
        indexer: Indexer,
        masks: MaskIndex,
        logger: Logger,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._limits = images.Limits.within(settings.memory_mb)
        self._storage = storage
        self._evaluations = evaluations
        self._indexer = indexer
        self._masks = masks
        self._logger = logger
        self._clock = clock

    def read(self, body: str) -> list[EvaluationArrival]:
        """Read a message; refuse the parts that name a forbidden bucket."""
        settings = self._settings
        return parse_evaluation(body, served=settings.allowed_buckets, outputs=settings.output_bucket)

    def score_uploaded(self, uploaded: S3Object) -> list[Exception]:
        """Score every job that waits for this ground truth; return the faults that a retry may mend.

        The newest version counts, even if the notice names an older one: a late notice finds it recorded
        already. A COCO file is indexed first; each image in it is scored by a message of its own.
        """
        try:
            found = self._storage.find(S3Object(uploaded.bucket, uploaded.key))
            if found is None:
                self._logger.info("event_ignored", what=uploaded.uri, reason="deleted since it was uploaded")
                return []
            return self.score_all(self._evaluations_of(found))
        except RejectedInput as error:
            self._logger.error(
                "ground_truth_refused",
                ground_truth=uploaded.uri,
                error_code=error.code,
                error=str(error),
                what_to_do="upload it again as the error says",
            )
            return []
        except Exception as error:
            self._logger.exception("attempt_failed", ground_truth=uploaded.uri, what_to_do=WHAT_TO_DO)
            return [error]

    def _evaluations_of(self, truth: S3Object) -> Iterator[Evaluation]:
        """Add the evaluations of a ground truth, after the rows by which later jobs find it."""
        stems: list[str] = []
        if is_coco(truth.key):
            self._indexer.index(truth)
        elif truth.bucket == self._settings.ground_truth_bucket:
            self._masks.name(truth, now=self._clock())
            stems = names.truth_stems(truth.key)
        found = False
        for evaluation in self._evaluations.of_ground_truth(truth, stems):
            found = True
            yield evaluation
        if not found and not is_coco(truth.key):
            self._logger.info(
                "ground_truth_unmatched",
                ground_truth=truth.uri,
                images=names.truth_stems(truth.key),
                what_to_do="nothing if the image is still to come; otherwise name the mask as its image",
            )

    def score_all(self, evaluations: Iterable[Evaluation]) -> list[Exception]:
        """Score the evaluations that have no score yet; return the faults that a retry may mend."""
        faults: list[Exception] = []
        for evaluation in evaluations:
            try:
                self._score(evaluation)
            except Exception as error:
                self._logger.exception(
                    "attempt_failed",
                    job_id=evaluation.job_id,
                    record=evaluation.record,
                    ground_truth=evaluation.ground_truth.uri,
                    what_to_do=WHAT_TO_DO,
                )
                faults.append(error)
        return faults

    def _score(self, evaluation: Evaluation) -> None:
        """Score one mask and end the row; a ground truth at fault ends it as REJECTED."""
        row = self._evaluations.read(evaluation.job_id, evaluation.record)
        if row is None or row.evaluation_status != "QUEUED":
            self._logger.info("duplicate_ignored", job_id=evaluation.job_id, record=evaluation.record)
            return
        noted: dict[str, Any] = {
            "job_id": evaluation.job_id,
            "record": evaluation.record,
            "ground_truth": evaluation.ground_truth.uri,
        }
        try:
            scores = self._compare(evaluation, row.image or "")
        except NotItsTruth:
            return
        except RejectedInput as error:
            if self._evaluations.reject(evaluation, error):
                self._logger.warning("evaluation_rejected", **noted, error_code=error.code, error=str(error))
            return
        if self._evaluations.score(evaluation, scores):
            self._logger.info("evaluation_scored", **noted, **msgspec.to_builtins(scores))

    def _compare(self, evaluation: Evaluation, image: str) -> Scores:
        """Compare all pages of a mask with its ground truth."""
        pages = self._pages(evaluation)
        sizes = [(page.height, page.width) for page in pages]
        drawn: str | None = None
        if is_coco(evaluation.ground_truth.key):
            cells, drawn = self._drawn(evaluation, image, sizes)
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
        next(truths, None)  # run the checks that follow the last page
        return Scores(
            **asdict(total),
            iou=total.iou,
            dice=total.dice,
            precision=total.precision,
            recall=total.recall,
            boundary_f1=outline.f1,
            boundary_tolerance=BOUNDARY_TOLERANCE,
            confluence=(total.true_positive + total.false_positive) / area,
            true_confluence=(total.true_positive + total.false_negative) / area,
            ground_truth_mask=drawn,
        )

    def _stored(self, truth: S3Object, sizes: Sequence[Size]) -> Iterator[Mask]:
        """Read the pages of a mask image."""
        return read_ground_truth(
            self._storage.read_image(truth, self._limits), truth.uri, sizes, self._limits
        )

    def _drawn(self, evaluation: Evaluation, image: str, sizes: Sequence[Size]) -> tuple[Mask, str]:
        """Draw what a COCO file says of the image as a mask, and return where it was stored for viewing."""
        coco = evaluation.ground_truth
        part = self._indexer.part(coco, image)
        cells = part.draw(self._entry(evaluation, image, part), sizes)
        key = f"{coco_prefix(coco)}/{evaluation.job_id}.mask.png"
        return cells, self._storage.write(self._settings.output_bucket, key, images.encode_mask(cells)).uri

    def _entry(self, evaluation: Evaluation, image: str, part: Coco) -> str:
        """Find the image's name in a COCO file, and correct the scores of others that it affects.

        An image that came later may fit a name better than one that was scored before, or as well.

        Raises:
            ImageNotNamed: the file does not name the image, or its name also fits another.
            NotItsTruth: the name is another image's; the image waits for its own ground truth again.
        """
        coco = evaluation.ground_truth
        if any(job.job_id == evaluation.job_id for job in self._evaluations.expecting(coco.uri)):
            return part.find(image, part.assign({image: [image]}))  # the request names the file
        jobs = self._indexer.jobs_of(names.base(image), part.prefix)
        same = names.group_same([(image, None), *((job.image, job.etag) for job in jobs)])
        found = part.assign({uris[0]: uris for uris in same.values()})
        # Only earlier images can have been scored by a name that the next image made doubtful.
        first = sorted(jobs, key=lambda job: job.created_at or "")[:MOST_TAKEN_BACK]
        own = [job for job in jobs if job.job_id == evaluation.job_id]
        for job in {job.job_id: job for job in [*first, *own]}.values():
            known = same[job.image][0]
            if known in found.lonely:
                self._take_back(job, coco, None)
            elif known in found.doubtful and job not in own:
                self._take_back(job, coco, _doubt(part, known, found))
        if same[image][0] in found.lonely:
            raise NotItsTruth
        return part.find(same[image][0], found)

    def _take_back(self, job: Scorable, coco: S3Object, error: RejectedInput | None) -> None:
        if self._evaluations.take_back(job, coco, error):
            self._logger.warning(
                "evaluation_rejected" if error else "evaluation_taken_back",
                job_id=job.job_id,
                ground_truth=coco.uri,
                image=job.image,
                error=str(error or "the file names another image"),
            )

    def _pages(self, evaluation: Evaluation) -> list[PageResult]:
        """Read what the job's result says of each page; raise MaskReplaced if it is another job's now."""
        result = self._storage.read_result(evaluation.result)
        if result is None or result.job_id != evaluation.job_id or not result.mask:
            raise _replaced(evaluation.result)
        return result.pages

    def _mask(self, page: PageResult) -> Mask:
        """Read a page's mask, (H, W) bool, as the job wrote it.

        A newer job replaces the masks before the result.
        """
        written = parse_uri(page.mask or "", "mask")
        place = S3Object(written.bucket, written.key, etag=page.mask_etag)
        try:
            content = self._storage.read_image(place, self._limits)
        except (ImageNotFound, ImageReplaced) as error:
            raise _replaced(place.uri) from error
        with images.open_image(content, place.uri) as image:
            return next(images.read_pages(image, limits=self._limits)).pixels > 0


class NotItsTruth(Exception):
    """A COCO file names another image by this one's base name."""


def _doubt(part: Coco, image: str, found: names.Assignment[str, str]) -> RejectedInput | None:
    try:
        part.find(image, found)
    except ImageNotNamed as error:
        return error
    return None


def _replaced(uri: str) -> MaskReplaced:
    return MaskReplaced(
        f"{uri} is no longer this job's: a newer upload of the image replaced it or it was deleted; "
        "the newer mask is scored by itself"
    )
