"""Reads a job's layers from the buckets: the page, its mask, its probabilities, its ground truth."""

import time
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from cytomask import images
from cytomask.errors import NoSuchJob
from cytomask.jobs import JOB
from cytomask.requests import S3Object, is_coco, parse_uri
from cytomask.storage import Storage
from cytomask.table import Table
from cytomask.truths.masks import read_ground_truth
from cytomask.web.account import Account, Row
from cytomask.web.answers import Refusal
from cytomask.web.cache import Cache
from cytomask.web.raster import Raster, mask_raster, raster_of
from cytomask.work import ground_truth_keys

FRESH_SECONDS = 3.0
MOST_KNOWN = 256
WORKERS = 8  # each waits for S3
LAYERS = ("image", "mask", "probability", "truth")


@dataclass(frozen=True)
class Known:
    """A job's row and result."""

    row: Row
    result: dict[str, Any]
    nbytes: ClassVar[int] = 4096  # about


class Library:
    """The layers of every job, decoded once and kept for a while."""

    def __init__(self, account: Account, cache: Cache) -> None:
        """Reads with the account's rights."""
        self._account = account
        self._storage = Storage(account.s3)
        self._table = Table(account.dynamodb, account.table)
        self._cache = cache
        self._known = Cache(MOST_KNOWN * Known.nbytes)
        self._pool = ThreadPoolExecutor(WORKERS)

    def row(self, job_id: str) -> Row:
        """A job's row as it is now; raises NoSuchJob."""
        row = self._table.read(job_id, JOB)
        if row is None:
            raise NoSuchJob(f"there is no job {job_id}")
        return row

    def known(self, job_id: str) -> "Known":
        """A job's row and result, as they were a moment ago: a view asks for several layers at once."""

        def make() -> Known:
            row = self.row(job_id)
            return Known(row, self.result(row))

        return self._known.get((job_id, time.monotonic() // FRESH_SECONDS), make)

    def result(self, row: Row) -> dict[str, Any]:
        """A job's result; raises Refusal where the job has none (any more)."""
        if "result" not in row:
            raise Refusal(HTTPStatus.NOT_FOUND, "NO_RESULT", f"the job is {row['status']} and has no result")
        place = self._in_buckets(row["result"])
        stored = self._storage.read_output(place.bucket, place.key)
        result = msgspec.json.decode(stored) if stored else {}
        if result.get("job_id") != row["job_id"]:
            raise Refusal(
                HTTPStatus.NOT_FOUND,
                "NO_RESULT",
                "the result is gone: a newer image of this name took its place, or it was deleted",
            )
        return dict(result)

    def raster(self, layer: str, job_id: str, page: int) -> Raster:
        """A layer of a page.

        Raises:
            Refusal: the job has no such page or layer.
            RejectedInput: it cannot be read, or was replaced since.
        """
        known = self.known(job_id)
        row, result = known.row, known.result
        described = page_of(result, page)
        match layer:
            case "image":
                return self._image(result, page)
            case "mask" | "probability":
                if layer not in described:
                    raise Refusal(HTTPStatus.NOT_FOUND, "NO_LAYER", f"the job wrote no {layer}")
                place = self._in_buckets(described[layer])
                found = S3Object(place.bucket, place.key, etag=described[f"{layer}_etag"])
                return self._stored(found)
            case _:
                truth = self.truth(row, result)
                if truth is None:
                    raise Refusal(HTTPStatus.NOT_FOUND, "NO_LAYER", "there is no ground truth yet")
                return self._truth(truth, result, page)

    def truth(self, row: Row, result: Mapping[str, Any]) -> S3Object | None:
        """The ground truth that a job is scored against: a mask image, or a COCO file's drawing."""
        rows = [each for each in self._table.rows(row["job_id"]) if "evaluation_status" in each]
        rows.sort(key=lambda each: str(each["created_at"]), reverse=True)
        found = self.first_of(self.truth_places(row, result))
        if found:
            return found
        for each in rows:
            drawn = each.get("ground_truth_mask")
            if drawn and (found := self._storage.find(self._in_buckets(drawn))):
                return found
        return None

    def truth_places(self, row: Row, result: Mapping[str, Any]) -> list[S3Object]:
        """Where scoring looks for a mask image of this job, the first that is there counts."""
        rows = (each for each in self._table.rows(row["job_id"]) if "evaluation_status" in each)
        own = self._account.ground_truth_bucket
        bucket_keys = [S3Object(own, key) for key in ground_truth_keys(result["image"]["key"])]
        usual = {place.uri for place in bucket_keys}
        named = [each["ground_truth"] for each in rows if each.get("ground_truth")]
        others = [parse_uri(uri, "ground_truth") for uri in dict.fromkeys(named) if uri not in usual]
        masks = [place for place in others if not is_coco(place.key) and place.bucket in self._served(result)]
        return [*masks, *bucket_keys]

    def first_of(self, places: Sequence[S3Object]) -> S3Object | None:
        """The first of these objects that is there, all of which are looked for at once."""
        return next(filter(None, self._pool.map(self._storage.find, places)), None)

    def find(self, place: S3Object) -> S3Object | None:
        """The object that lies there now."""
        return self._storage.find(place)

    def _served(self, result: Mapping[str, Any]) -> set[str]:
        return {*self._account.buckets, result["image"]["bucket"]}

    def _image(self, result: Mapping[str, Any], page: int) -> Raster:
        found = S3Object(**{name: result["image"].get(name) for name in S3Object.__annotations__})
        channel = result["parameters"].get("channel")

        def make() -> Raster:
            content = self._storage.read_image(found, images.LIMITS)
            with images.open_image(content, found.uri) as image:
                read = next(images.read_pages(image, [page], channel))
            return raster_of(read.pixels, read.dtype)

        return self._cache.get(("image", found, page, channel), make)

    def _stored(self, found: S3Object) -> Raster:
        key: Hashable = ("stored", found)

        def make() -> Raster:
            content = self._storage.read_image(found, images.LIMITS)
            with images.open_image(content, found.uri) as image:
                read = next(images.read_pages(image))
            return raster_of(read.pixels, read.dtype)  # our masks are 0 and 255 already

        return self._cache.get(key, make)

    def _truth(self, truth: S3Object, result: Mapping[str, Any], page: int) -> Raster:
        sizes = [(each["height"], each["width"]) for each in result["pages"]]
        index = [each["page"] for each in result["pages"]].index(page)

        def make() -> Raster:
            content = self._storage.read_image(truth, images.LIMITS)
            pages = read_ground_truth(content, truth.uri, sizes, images.LIMITS)
            cells = next(cells for number, cells in enumerate(pages) if number == index)
            return mask_raster(cells)

        return self._cache.get(("truth", truth, page), make)

    def truth_pages(self, truth: S3Object, result: Mapping[str, Any]) -> list[NDArray[np.bool_]]:
        """Every page of a ground truth, (H, W) bool each."""
        return [self._truth(truth, result, each["page"]).shades > 0 for each in result["pages"]]

    def _in_buckets(self, uri: str) -> S3Object:
        """The object at an address of a row; raises Refusal outside the stack's buckets."""
        place = parse_uri(uri, "address")
        if place.bucket not in self._account.buckets:
            raise Refusal(HTTPStatus.FORBIDDEN, "FOREIGN_BUCKET", f"{place.bucket} is not the stack's")
        return place


def page_of(result: Mapping[str, Any], page: int) -> dict[str, Any]:
    """What a result says of a page; raises Refusal where it has no such page."""
    pages: Sequence[dict[str, Any]] = result["pages"]
    for each in pages:
        if each["page"] == page:
            return each
    raise Refusal(HTTPStatus.NOT_FOUND, "NO_SUCH_PAGE", f"the job has no page {page}")
