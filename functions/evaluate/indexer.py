"""A COCO file from its upload to an evaluation for every image that it names."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec
from aws_lambda_powertools import Logger

from cytomask.coco_index import CocoIndex, IndexingRow, coco_address, rejection
from cytomask.errors import ImageNotNamed, UnreadableCoco
from cytomask.evaluations import Evaluations
from cytomask.requests import S3Object, parse_uri
from cytomask.settings import Settings
from cytomask.storage import Storage
from cytomask.truths.coco import read_coco
from cytomask.work import coco_name, coco_prefix

WORKERS = 8  # each waits for AWS most of its time; boto3 keeps ten connections


class Indexer:
    """Splits COCO files into a part for each image name, once for each upload."""

    def __init__(
        self,
        settings: Settings,
        storage: Storage,
        evaluations: Evaluations,
        rows: CocoIndex,
        logger: Logger,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._storage = storage
        self._evaluations = evaluations
        self._rows = rows
        self._logger = logger
        self._clock = clock

    def index(self, coco: S3Object) -> IndexingRow:
        """Index an upload unless that was done; return its row, which says INDEXED or REJECTED.

        Only a file in the ground-truth bucket speaks for images whose requests do not name it. The row is
        written last: what breaks off before is done again from the start, with the same outcome.

        Raises:
            ImageNotFound, ImageReplaced: the file is no longer what it was when it was found.
        """
        row = self._rows.read(coco)
        if row:
            self._logger.info("duplicate_ignored", ground_truth=coco.uri, index_status=row.index_status)
            return row
        try:
            outcome = self._split(coco)
        except UnreadableCoco as error:
            outcome = rejection(error)
        self._rows.end(coco, outcome, now=self._clock())
        fields = msgspec.to_builtins(outcome)
        status = fields.pop("index_status").lower()
        self._logger.info(f"coco_{status}", ground_truth=coco.uri, **fields)
        return outcome

    def part(self, coco: S3Object, image: str) -> bytes:
        """Read what a COCO file says of the images that are called as the one at `image` is.

        Raises:
            UnreadableCoco: the file could not be indexed.
            ImageNotNamed: it says nothing of such an image.
            ImageNotFound, ImageReplaced: it is neither indexed nor there any more.
        """
        row = self._rows.read(coco) or self.index(coco)
        if row.index_status == "REJECTED":
            raise UnreadableCoco(row.error or "")
        name = coco_name(parse_uri(image, "image").key)
        part = self._storage.read_output(self._settings.output_bucket, _part_key(coco, name))
        if part is None:
            raise ImageNotNamed(
                f"{coco.uri} does not name {image}; add it, or rename the image as its file_name says"
            )
        return part

    def _split(self, coco: S3Object) -> IndexingRow:
        """Write the parts and queue the evaluations; return what the row says of the file."""
        content, images = self._storage.read_coco(coco)
        file = read_coco(content, coco.uri)
        with ThreadPoolExecutor(WORKERS) as pool:
            published = pool.map(
                lambda name: self._publish(coco, images, name, file.part(name)), file.by_base
            )
            list(published)  # raises what a worker raised
        return IndexingRow(
            index_status="INDEXED",
            images=file.images,
            annotations=file.annotations,
            annotations_without_image=file.annotations_without_image,
        )

    def _publish(self, coco: S3Object, images: str, name: str, part: bytes) -> None:
        """Write one part and, if the file speaks for all, the row that leads to it, then the messages.

        The row comes first and the look for waiting jobs second: `segment` does it the other way round, so
        that one of them at least sees the other.
        """
        self._storage.write(self._settings.output_bucket, _part_key(coco, name), part)
        if coco.bucket != self._settings.ground_truth_bucket:
            return
        self._rows.name(name, coco, images=images)
        for job in self._evaluations.expecting(coco_address(name)):
            if job.image.startswith(images):
                self._evaluations.ask(job, coco)


def _part_key(coco: S3Object, name: str) -> str:
    return f"{coco_prefix(coco)}/{name}.json"
