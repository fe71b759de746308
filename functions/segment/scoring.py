"""What a mask is scored against: looks for its ground truths and asks for the evaluations."""

from collections.abc import Iterator

from cytomask.coco_index import CocoIndex, coco_address
from cytomask.evaluations import Evaluations
from cytomask.records import Result, Scorable
from cytomask.requests import S3Object, SegmentRequest, parse_uri
from cytomask.storage import Storage
from cytomask.work import coco_name, ground_truth_keys


class Scoring:
    """Records that a mask is to be scored, and queues it if the ground truth is there."""

    def __init__(
        self, storage: Storage, evaluations: Evaluations, index: CocoIndex, ground_truth_bucket: str
    ) -> None:
        self._storage = storage
        self._evaluations = evaluations
        self._index = index
        self._bucket = ground_truth_bucket

    def record(self, request: SegmentRequest, result: Result, group: str) -> None:
        """Ask for the evaluations of a result that has a mask.

        The rows come first and the look for the ground truth second, so that a ground truth that arrives in
        between is seen by one side at least.
        """
        if not (result.mask and result.result and result.job_id):
            return
        job = Scorable(
            job_id=result.job_id,
            image=request.image.uri,
            mask=result.mask,
            result=result.result,
            group=group,
        )
        self._evaluations.expect(job, self._addresses(request))
        self._evaluations.wait(job, request.ground_truth.uri if request.ground_truth else None)
        for truth in self._ground_truths(request):
            self._evaluations.ask(job, truth)

    def _addresses(self, request: SegmentRequest) -> list[str]:
        """Addresses to watch until the ground truth arrives."""
        addresses = [place.uri for place in self._places(request)]
        return addresses if request.ground_truth else [*addresses, coco_address(coco_name(request.image.key))]

    def _ground_truths(self, request: SegmentRequest) -> Iterator[S3Object]:
        """What is there to score against: the first of the places, and the COCO files that name the image.

        A COCO file that was replaced since it was indexed is passed over: its new version is indexed later
        and finds the rows of this job.
        """
        found = next(filter(None, map(self._storage.find, self._places(request))), None)
        if found:
            yield found
        if request.ground_truth:
            return
        for lead in self._index.naming(coco_name(request.image.key)):
            if request.image.uri.startswith(lead.images):
                coco = self._storage.find(parse_uri(lead.record, "ground_truth"))
                if coco and coco.version == lead.version:
                    yield coco

    def _places(self, request: SegmentRequest) -> list[S3Object]:
        """Where the ground truth may come to lie: where the request says, or under the image's key."""
        if request.ground_truth:
            return [request.ground_truth]
        return [S3Object(self._bucket, key) for key in ground_truth_keys(request.image.key)]
