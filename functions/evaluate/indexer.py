"""A COCO file from its upload to an evaluation for every image that it names."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec
from aws_lambda_powertools import Logger

from cytomask.errors import ImageNotNamed, UnreadableCoco
from cytomask.jobs import Jobs, coco_address
from cytomask.requests import Evaluation, S3Object, coco_name, coco_prefix, parse_uri
from cytomask.settings import Settings
from cytomask.storage import Storage
from cytomask.truths.coco import read_coco

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

WORKERS = 8  # each waits for AWS most of its time; boto3 keeps ten connections


class Indexer:
    """Splits COCO files into a part for each image name, once for each upload."""

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        jobs: Jobs,
        sqs: "SQSClient",
        logger: Logger,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._storage = storage
        self._jobs = jobs
        self._sqs = sqs
        self._logger = logger
        self._clock = clock

    def index(self, coco: S3Object) -> dict[str, Any]:
        """Indexes an upload unless that was done; returns its row, which says INDEXED or REJECTED.

        Only a file of the ground-truth bucket speaks for images whose requests do not name it. The row is
        written last: whatever breaks off before is done again from the start, and what is done twice has
        the same outcome as once.

        Raises:
            ImageNotFound, ImageReplaced: the file is no longer what it was when it was found.
        """
        row = self._jobs.read_indexing(coco)
        if row:
            self._logger.info("duplicate_ignored", ground_truth=coco.uri, record=row["record"])
            return row
        try:
            status, fields = "INDEXED", self._split(coco)
        except UnreadableCoco as error:
            status, fields = "REJECTED", {"error_code": error.code, "error": str(error)}
        self._jobs.end_indexing(coco, status, fields, self._clock())
        self._logger.info(f"coco_{status.lower()}", ground_truth=coco.uri, **fields)
        return {"index_status": status} | fields

    def part(self, coco: S3Object, image: str) -> bytes:
        """What a COCO file says of the images that are called as the one at `image` is.

        Raises:
            UnreadableCoco: the file could not be indexed.
            ImageNotNamed: it says nothing of such an image.
            ImageNotFound, ImageReplaced: it is neither indexed nor there any more.
        """
        row = self._jobs.read_indexing(coco) or self.index(coco)
        if row["index_status"] == "REJECTED":
            raise UnreadableCoco(row["error"])
        name = coco_name(parse_uri(image, "image").key)
        part = self._storage.read_output(self._settings.output_bucket, _part_key(coco, name))
        if part is None:
            raise ImageNotNamed(
                f"{coco.uri} does not name {image}; add it, or rename the image as its file_name says"
            )
        return part

    def _split(self, coco: S3Object) -> dict[str, Any]:
        """Writes the parts and queues the evaluations; returns what the row says of the file."""
        content, images = self._storage.read_coco(coco)
        file = read_coco(content, coco.uri)
        with ThreadPoolExecutor(WORKERS) as pool:
            published = pool.map(
                lambda name: self._publish(coco, images, name, file.part(name)), file.by_base
            )
            list(published)  # raises what a worker raised
        return {
            "images": file.images,
            "annotations": file.annotations,
            "annotations_without_image": file.annotations_without_image,
        }

    def _publish(self, coco: S3Object, images: str, name: str, part: bytes) -> None:
        """Writes one part and, where the file speaks for all, the row that leads to it, then the messages.

        The row comes first and the look for waiting jobs second: `segment` does it the other way round, so
        that one of them at least sees the other.
        """
        self._storage.write(self._settings.output_bucket, _part_key(coco, name), part)
        if coco.bucket != self._settings.ground_truth_bucket:
            return
        self._jobs.name_in_coco(name, coco, {"images": images})
        for job_id, noted in self._jobs.jobs_of_ground_truth(coco_address(name)):
            if noted["image"].startswith(images):
                evaluation = record_evaluation(self._jobs, job_id, noted, coco, self._clock())
                self._sqs.send_message(
                    QueueUrl=self._settings.evaluation_queue_url,
                    MessageBody=msgspec.json.encode(evaluation).decode(),
                )
                self._jobs.stop_awaiting(job_id, coco.uri)


def record_evaluation(
    jobs: Jobs, job_id: str, noted: dict[str, Any], truth: S3Object, now: float
) -> Evaluation:
    """Records that a job is to be scored, of which `noted` leads from its ground truth to it."""
    job = jobs.read(job_id) or {}
    fields = {"image": noted["image"], "mask": noted["mask"], "group": job.get("group")}
    row = jobs.queue_evaluation(job_id, truth.version, fields | {"ground_truth": truth.uri}, now)
    return Evaluation(job_id, row["record"], truth, noted["result"])


def _part_key(coco: S3Object, name: str) -> str:
    return f"{coco_prefix(coco)}/{name}.json"
