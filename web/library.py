"""Read a job's layers from the buckets: the page, its mask, its probabilities, its ground truth."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar

import msgspec

from cytomask import images
from cytomask.addresses import S3Object, is_coco, parse_uri
from cytomask.cleaning import cleaner_of
from cytomask.errors import NoSuchJob
from cytomask.jobs import Jobs
from cytomask.lengths import PixelSize
from cytomask.mask_index import MaskIndex
from cytomask.metrics import Mask
from cytomask.output_names import RESULT, output_key
from cytomask.records import JOB, EvaluationRow, ImageIdentity, JobRow, PageResult, Result
from cytomask.requests import Parameters
from cytomask.storage import Storage
from cytomask.table import Table
from cytomask.truths.limits import Size
from cytomask.truths.masks import read_ground_truth
from cytomask.web.account import Account
from cytomask.web.answers import Refusal
from cytomask.web.cache import Cache
from cytomask.web.raster import Raster, least_shade, mask_raster, raster_of
from cytomask.work import ground_truth_keys

FRESH_SECONDS = 1
MOST_KNOWN = 256
WORKERS = 8  # each waits for S3
ENDED = ("SUCCEEDED", "REJECTED")  # a FAILED job's result is of an earlier attempt
LAYERS = ("image", "mask", "probability", "truth")
CLEANED = "cleaned"  # a layer for each threshold


@dataclass(frozen=True)
class Known:
    """A finished job: its row, the result that names its outputs, and the image that it was made of."""

    row: JobRow
    result: Result
    image: ImageIdentity
    nbytes: ClassVar[int] = 4096  # about

    @property
    def source(self) -> S3Object:
        """The image, in exactly the version that was segmented."""
        image = self.image
        return S3Object(image.bucket, image.key, image.version_id, image.etag, image.uploaded_at)

    def page(self, number: int) -> PageResult:
        """Find a page in the result; raise Refusal if the image has no such page."""
        for page in self.result.pages:
            if page.page == number:
                return page
        raise Refusal(HTTPStatus.NOT_FOUND, "NO_SUCH_PAGE", f"the job has no page {number}")


@dataclass(frozen=True)
class Truth:
    """A ground truth: its object, and whether it is a COCO file's drawing, which must not be replaced."""

    found: S3Object
    drawn: bool = False

    @property
    def seen(self) -> str:
        """The ETag that a new painting must name; empty if saving makes a new file."""
        return "" if self.drawn else str(self.found.etag)


class Library:
    """The layers of every job, decoded once and kept for a while."""

    def __init__(self, account: Account, cache: Cache) -> None:
        """Read with the account's rights."""
        self._account = account
        self._storage = Storage(account.s3)
        self._table = Table(account.dynamodb, account.table)
        self._jobs = Jobs(self._table)
        self._masks = MaskIndex(self._table)
        self._cache = cache
        self._known = Cache(MOST_KNOWN * Known.nbytes)
        self._views: Counter[str] = Counter()  # by job
        self._pool = ThreadPoolExecutor(WORKERS)

    def known(self, job_id: str, *, anew: bool = False) -> Known:
        """Read a finished job, or return what was read a moment ago: a view asks for several layers at once.

        Args:
            job_id: of the job.
            anew: read it again. The first call of every view does.

        Raises:
            NoSuchJob: the job has no row.
            Refusal: the job has no result (any more).
        """
        if anew:
            self._views[job_id] += 1
        moment = (job_id, self._views[job_id], time.monotonic() // FRESH_SECONDS)
        return self._known.get(moment, lambda: self._read_known(self.row(job_id)))

    def row(self, job_id: str) -> JobRow:
        """Read a job's row as it is now; raise NoSuchJob."""
        row = self._jobs.read(job_id)
        if row is None:
            raise NoSuchJob(f"there is no job {job_id}")
        return row

    def raster(self, layer: str, job_id: str, page: int) -> Raster:
        """Decode a layer of a page.

        Raises:
            Refusal: the job has no such page or layer.
            RejectedInput: the file cannot be read, or was replaced since.
        """
        known = self.known(job_id)
        described = known.page(page)
        if layer == "image":
            return self._image(known, page)
        if layer == "truth":
            truth = self.truth(known)
            if truth is None:
                raise Refusal(HTTPStatus.NOT_FOUND, "NO_LAYER", "there is no ground truth yet")
            return self._truth(truth.found, known, page)
        uri = described.mask if layer == "mask" else described.probability
        etag = described.mask_etag if layer == "mask" else described.probability_etag
        if uri is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "NO_LAYER", f"the job wrote no {layer}")
        place = self._in_buckets(uri)
        return self._stored(S3Object(place.bucket, place.key, etag=etag))

    def cleaned(self, job_id: str, page: int, threshold: float) -> Raster:
        """Make the mask that the job would have at another threshold, cleaned as its request asks.

        Raises:
            Refusal: the job has no such page, or wrote no probabilities.
            RejectedInput: the probabilities cannot be read, or the mask is too ragged to clean.
        """
        known = self.known(job_id)
        described = known.page(page)
        probability = self.raster("probability", job_id, page)
        parameters = known.result.parameters or Parameters()
        size = PixelSize(*described.pixel_size_um) if described.pixel_size_um else None

        def make() -> Raster:
            mask = probability.shades >= least_shade(threshold)
            return mask_raster(cleaner_of(parameters, size, known.image.key)(mask))

        return self._cache.get((CLEANED, described.probability_etag, parameters, size, threshold), make)

    def truth(self, known: Known) -> Truth | None:
        """Find the ground truth that a job is scored against: a mask image, or a COCO file's drawing."""
        evaluations = self._evaluations(known)
        found = self.first_of(self._places(known, evaluations))
        if found:
            return Truth(found)
        for each in sorted(evaluations, key=lambda row: row.created_at, reverse=True):
            if each.ground_truth_mask:
                drawn = self._storage.find(self._in_buckets(each.ground_truth_mask))
                if drawn:
                    return Truth(drawn, drawn=True)
        return None

    def truth_places(self, known: Known) -> list[S3Object]:
        """List where scoring looks for a mask image of this job; the first that is there counts."""
        return self._places(known, self._evaluations(known))

    def first_of(self, places: Sequence[S3Object]) -> S3Object | None:
        """Look for all of these objects at once; return the first that is there."""
        return next(filter(None, self._pool.map(self._storage.find, places)), None)

    def truth_cells(self, found: S3Object, known: Known) -> Iterator[tuple[int, Mask]]:
        """Read a ground truth's pages by their numbers in the image, each (H, W) bool.

        It has every page of the image, or only the pages that the job has.

        Raises:
            GroundTruthMismatch: it has neither.
            RejectedInput: it cannot be read.
        """
        content = self._storage.read_image(found, images.LIMITS)
        with images.open_image(content, found.uri) as image:
            count = len(image.pages)
        sizes = {page.page: (page.height, page.width) for page in known.result.pages}
        if count != len(sizes):
            sizes = dict(enumerate(self.sizes(known)))
        truths = read_ground_truth(content, found.uri, list(sizes.values()), images.LIMITS)
        return zip(sizes, truths, strict=False)  # one without background can be shown, though not scored

    def sizes(self, known: Known) -> list[Size]:
        """List the height and width of every page of the image, also of those that the job left out."""
        own = {page.page: (page.height, page.width) for page in known.result.pages}
        asked = known.result.parameters
        if known.result.status == "SUCCEEDED" and (asked is None or asked.pages == "all"):
            return list(own.values())
        content = self._storage.read_image(known.source, images.LIMITS)
        with images.open_image(content, known.source.uri) as image:
            headers = [(page.height, page.width) for page in image.pages]
        return [own.get(number, size) for number, size in enumerate(headers)]

    def whole(self, known: Known) -> Known:
        """Find a job with a mask of every page of the image: this one, or the one that its upload started.

        Raises:
            Refusal: the upload's job has no such masks (any more).
        """
        count, image = len(self.sizes(known)), known.image
        if len(known.result.pages) == count:
            return known
        name = image.key if image.bucket == self._account.input_bucket else f"{image.bucket}/{image.key}"
        stored = self._storage.read_output(self._account.output_bucket, output_key(name, RESULT))
        usual = msgspec.json.decode(stored, type=Result) if stored else None
        if usual is None or usual.job_id is None or usual.image != image or len(usual.pages) != count:
            raise Refusal(
                HTTPStatus.CONFLICT,
                "PART_OF_IMAGE",
                f"the job has {len(known.result.pages)} of the image's {count} pages, and the others have "
                "neither ground truth nor mask to copy; segment the whole image first",
            )
        return self.known(usual.job_id)

    def find(self, place: S3Object) -> S3Object | None:
        """Look for an object as it is now."""
        return self._storage.find(place)

    def content(self, found: S3Object) -> bytes:
        """Read an object's bytes; raise RejectedInput if it was replaced since."""
        return self._storage.read_image(found, images.LIMITS)

    def _read_known(self, row: JobRow) -> Known:
        if row.result is None or row.status not in ENDED:
            raise Refusal(HTTPStatus.NOT_FOUND, "NO_RESULT", f"the job is {row.status} and has no result")
        place = self._in_buckets(row.result)
        stored = self._storage.read_output(place.bucket, place.key)
        result = msgspec.json.decode(stored, type=Result) if stored else None
        if result is None or result.job_id != row.job_id or result.image is None:
            raise Refusal(
                HTTPStatus.NOT_FOUND,
                "NO_RESULT",
                "the result is gone: a newer image of this name took its place, or it was deleted",
            )
        return Known(row, result, result.image)

    def _evaluations(self, known: Known) -> list[EvaluationRow]:
        rows = (row for row in self._table.rows(known.row.job_id) if row["record"] != JOB)
        return [msgspec.convert(row, EvaluationRow, strict=False) for row in rows]

    def _places(self, known: Known, evaluations: Sequence[EvaluationRow]) -> list[S3Object]:
        """List the addresses that a request named, then those that the image's name leads to."""
        key = known.image.key
        keys = dict.fromkeys([*ground_truth_keys(key), *self._masks.naming(key)])
        usual = [S3Object(self._account.ground_truth_bucket, each) for each in keys]
        named = dict.fromkeys(each.ground_truth for each in evaluations if each.ground_truth)
        known_buckets = {*self._account.buckets, known.image.bucket}
        others = [parse_uri(uri, "ground_truth") for uri in named]
        masks = [each for each in others if not is_coco(each.key) and each.bucket in known_buckets]
        return [*(each for each in masks if each not in usual), *usual]

    def _image(self, known: Known, page: int) -> Raster:
        source = known.source
        channel = known.result.parameters.channel if known.result.parameters else None
        return self._cache.get(("image", source, page, channel), lambda: self._decode(source, page, channel))

    def _stored(self, found: S3Object) -> Raster:
        """An output of ours: its one page. Masks hold 0 and 255 already."""
        return self._cache.get(("output", found), lambda: self._decode(found, 0, None))

    def _decode(self, found: S3Object, page: int, channel: int | None) -> Raster:
        content = self._storage.read_image(found, images.LIMITS)
        with images.open_image(content, found.uri) as image:
            read = next(images.read_pages(image, [page], channel))
        return raster_of(read.pixels, read.dtype)

    def _truth(self, found: S3Object, known: Known, page: int) -> Raster:
        def make() -> Raster:
            return mask_raster(
                next(cells for number, cells in self.truth_cells(found, known) if number == page)
            )

        return self._cache.get(("truth", found, page), make)

    def _in_buckets(self, uri: str) -> S3Object:
        """Parse an address of a row; raise Refusal outside the stack's buckets."""
        place = parse_uri(uri, "address")
        if place.bucket not in self._account.buckets:
            raise Refusal(HTTPStatus.FORBIDDEN, "FOREIGN_BUCKET", f"{place.bucket} is not the stack's")
        return place
