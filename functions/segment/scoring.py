"""Find a mask's ground truths and ask for their evaluations."""

from collections.abc import Iterator

from cytomask.addresses import S3Object, parse_uri
from cytomask.coco_index import CocoIndex
from cytomask.evaluations import Evaluations
from cytomask.mask_index import MaskIndex
from cytomask.records import Result, Scorable
from cytomask.requests import SegmentRequest
from cytomask.storage import Storage
from cytomask.truths import names


class Scoring:
    """Record that a mask needs a score, and queue it if the ground truth exists."""

    def __init__(
        self,
        storage: Storage,
        evaluations: Evaluations,
        cocos: CocoIndex,
        masks: MaskIndex,
        ground_truth_bucket: str,
    ) -> None:
        self._storage = storage
        self._evaluations = evaluations
        self._cocos = cocos
        self._masks = masks
        self._bucket = ground_truth_bucket

    def record(
        self, request: SegmentRequest, result: Result, group: str, *, led_to: str | None = None
    ) -> None:
        """Ask for the evaluations of a result that has a mask.

        Write the rows first and look for the ground truth second, so that at least one side sees a ground
        truth that arrives in between.

        Args:
            request: the request.
            result: its result, which has been written.
            group: label to report by.
            led_to: address of a result to which the row of the image's name leads. It leads to this result
                unless a newer image has taken the name. The job is then scored by the truths of that name,
                even if the request names another: an upload may have been killed before it looked for them.
        """
        if not (result.mask and result.result and result.job_id):
            return
        job = Scorable(
            job_id=result.job_id,
            image=request.image.uri,
            mask=result.mask,
            result=result.result,
            group=group,
            etag=request.image.etag,
        )
        named = request.ground_truth
        by_name = led_to is not None or named is None
        if by_name and result.result != led_to:
            self._evaluations.expect(job, None)
        if named:
            self._evaluations.expect(job, named.uri)
            self._evaluations.wait(job, named.uri)
        for truth in self._ground_truths(request, by_name=by_name):
            self._evaluations.ask(job, truth)

    def _ground_truths(self, request: SegmentRequest, *, by_name: bool) -> Iterator[S3Object]:
        """Find the ground truth that the request names, and masks and COCO files by the image's name."""
        if by_name:
            yield from self._masks_of(request.image)
            yield from self._cocos_of(request.image)
        if request.ground_truth and (named := self._storage.find(request.ground_truth)):
            yield named

    def _masks_of(self, image: S3Object) -> Iterator[S3Object]:
        """Find the image's masks in the index.

        A mask that was uploaded but is not indexed yet finds this job, by the rows of `Evaluations.expect`.
        """
        for key in dict.fromkeys(self._masks.naming(image.key)):
            found = self._storage.find(S3Object(self._bucket, key))
            if found:
                yield found

    def _cocos_of(self, image: S3Object) -> Iterator[S3Object]:
        """Find the COCO files that name the image.

        A COCO file that was replaced after it was indexed is skipped: its new version is indexed later and
        finds the rows of this job.
        """
        for lead in self._cocos.naming(names.base(image.key)):
            if image.uri.startswith(lead.images):
                coco = self._storage.find(parse_uri(lead.coco or lead.record, "ground_truth"))
                if coco and coco.version == lead.version:
                    yield coco
