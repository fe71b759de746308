"""Take a COCO file from its upload to an evaluation for every image that it names."""

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import msgspec
from aws_lambda_powertools import Logger

from cytomask.addresses import LONGEST_KEY, S3Object
from cytomask.coco_index import CocoIndex, IndexingRow, rejection
from cytomask.errors import ImageNotNamed, UnreadableCoco
from cytomask.evaluations import Evaluations
from cytomask.records import Scorable
from cytomask.settings import Settings
from cytomask.storage import Storage
from cytomask.truths import names
from cytomask.truths.coco import Coco, read_coco, read_part, require_few_images
from cytomask.work import coco_prefix

MOST_NAMES = 20  # in a row and a log line
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

        Only a file in the ground-truth bucket counts for images whose requests do not name it. The row is
        written last: an interrupted run is done again from the start, with the same outcome.

        Raises:
            ImageNotFound, ImageReplaced: the file changed or vanished after it was found.
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

    def part(self, coco: S3Object, image: str) -> Coco:
        """Read what a COCO file says of the images that have the base name of the one at `image`.

        Raises:
            UnreadableCoco: the file could not be indexed.
            ImageNotNamed: it does not name the image.
            ImageNotFound, ImageReplaced: it is not indexed, and it is gone.
        """
        row = self._rows.read(coco) or self.index(coco)
        if row.index_status == "REJECTED":
            raise UnreadableCoco(row.error or "")
        base = names.base(image)
        part = self._storage.read_output(self._settings.output_bucket, _part_key(coco, base))
        if part is None:
            raise ImageNotNamed(
                f"{coco.uri} does not name {image}; add it, or rename the image as its file_name says"
            )
        return read_part(part, coco.uri)

    def _split(self, coco: S3Object) -> IndexingRow:
        """Write the parts and queue the evaluations; return what the row says of the file."""
        content, prefix = self._storage.read_coco(coco)
        file = read_coco(content, coco.uri)
        require_few_images(file)
        with ThreadPoolExecutor(WORKERS) as pool:
            unmatched = list(pool.map(lambda base: self._publish(coco, prefix, base, file), file.by_base))
        outcome = IndexingRow(
            index_status="INDEXED",
            images=file.images,
            annotations=file.annotations,
            annotations_without_image=file.annotations_without_image,
            images_without_annotations=len(file.unannotated),
            images_without_name=file.unnamed,
            refused=len(file.faults),
            refused_names=sorted(file.faults)[:MOST_NAMES],
        )
        if coco.bucket != self._settings.ground_truth_bucket:
            return outcome
        lonely = sorted(chain.from_iterable(unmatched))
        outcome.unmatched, outcome.unmatched_names = len(lonely), lonely[:MOST_NAMES]
        if lonely:
            self._logger.warning(
                "coco_names_unmatched",
                ground_truth=coco.uri,
                unmatched=len(lonely),
                unmatched_names=lonely[:MOST_NAMES],
                what_to_do="nothing if the images are to come; otherwise rename them or correct file_name",
            )
        return outcome

    def _publish(self, coco: S3Object, prefix: str, base: str, file: Coco) -> list[str]:
        """Write one part and, if the file speaks for all, the row that leads to it, then the messages.

        Write the row first and look for waiting jobs second. `segment` does it the other way round, so that
        at least one of them sees the other.

        Returns:
            The names that no image has so far.
        """
        part = file.part(base, prefix)
        self._storage.write(self._settings.output_bucket, _part_key(coco, base), part)
        if coco.bucket != self._settings.ground_truth_bucket:
            return []
        self._rows.name(base, coco, images=prefix)
        jobs = self.jobs_of(base, prefix)
        same = names.group_same((job.image, job.etag) for job in jobs)
        found = read_part(part, coco.uri).assign({uris[0]: uris for uris in same.values()})
        for job in jobs:
            if same[job.image][0] not in found.lonely:
                self._evaluations.ask(job, coco)
        doubtful = {name for several in found.doubtful.values() for name in several}
        return [name for name in found.unused if name not in doubtful]

    def jobs_of(self, base: str, prefix: str) -> list[Scorable]:
        """List the jobs of images with a base name that a COCO file may speak of."""
        return list(self._evaluations.expecting_coco(base, prefix))


def _part_key(coco: S3Object, base: str) -> str:
    """Make the key of a part. A name too long for S3 is hashed; no image can have such a name."""
    key = f"{coco_prefix(coco)}/{base}.json"
    fits = len(key.encode()) <= LONGEST_KEY
    return key if fits else f"{coco_prefix(coco)}/{hashlib.sha256(base.encode()).hexdigest()}.json"
