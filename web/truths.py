"""Save a painted mask as a ground truth under the name that scoring looks for."""

import io
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import PurePosixPath

import numpy as np
import tifffile
from botocore.exceptions import ClientError
from numpy.typing import NDArray

from cytomask import images
from cytomask.addresses import S3Object
from cytomask.web.account import Account
from cytomask.web.answers import Refusal
from cytomask.web.library import Known, Library
from cytomask.web.raster import TILE, painted
from cytomask.work import ground_truth_keys

PLACE = struct.Struct("<HH")  # column and row of a tile
PACKED = TILE * TILE // 8
TIFF_SUFFIXES = (".tif", ".tiff")
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Painting:
    """What the page sends: the layer that was painted on (`mask`, `truth`, `empty`), and the changed tiles.

    `seen` is the ETag of the ground truth that it was painted over; empty where there was none.
    """

    base: str
    seen: str
    tiles: Sequence[tuple[int, int, Mask]]


def parse_tiles(body: bytes, height: int, width: int) -> list[tuple[int, int, Mask]]:
    """Read painted tiles: column and row as little-endian 16 bits, then TILE x TILE bits, row by row.

    No tile at all means that the layer is right as it is.

    Raises:
        Refusal: the length is wrong, or a tile lies outside the page.
    """
    size = PLACE.size + PACKED
    if len(body) % size:
        raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_REQUEST", "the painted tiles are cut short")
    tiles = []
    for start in range(0, len(body), size):
        column, row = PLACE.unpack_from(body, start)
        if column * TILE >= width or row * TILE >= height:
            raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_REQUEST", f"tile {column}, {row} is off the page")
        packed = np.frombuffer(body, np.uint8, PACKED, start + PLACE.size)
        tiles.append((column, row, np.unpackbits(packed).reshape(TILE, TILE).astype(bool)))
    return tiles


def most_bytes(height: int, width: int) -> int:
    """Compute the length of a body that paints every tile of a page."""
    return -(-height // TILE) * -(-width // TILE) * (PLACE.size + PACKED)


class Painter:
    """Ground truths, stored with the account's rights."""

    def __init__(self, account: Account, library: Library) -> None:
        """Take the layers that were painted on from `library`."""
        self._account = account
        self._library = library

    def save(self, known: Known, page: int, painting: Painting) -> S3Object:
        """Write the painted ground truth; return its address and version.

        Raises:
            Refusal: TRUTH_EXISTS if another ground truth replaced the one that was shown; PART_OF_IMAGE if
                the job has only some of the image's pages, and the others have neither truth nor mask.
        """
        described, job_id = known.page(page), known.row.job_id
        present = self._library.first_of(self._library.truth_places(known))
        unseen = (present.etag if present else "") != painting.seen
        if unseen and (present is None or painting.base == "truth"):
            raise _exists(present)
        base = self._base(job_id, page, painting.base, (described.height, described.width))
        own = painted(base, painting.tiles)
        pages = [own if each is None else each for each in self._others(known, page, present)]
        place = present or self._new_place(known.image.key, len(pages))
        body = encode(pages, place.key)
        if present and unseen:
            if self._library.content(present) != body:
                raise _exists(present)
            return present  # it was saved, and the answer was lost
        return self._write(place, present, body)

    def _base(self, job_id: str, page: int, layer: str, size: tuple[int, int]) -> Mask:
        if layer == "empty":
            return np.zeros(size, bool)
        return self._library.raster(layer, job_id, page).shades > 0

    def _others(self, known: Known, page: int, present: S3Object | None) -> list[Mask | None]:
        """Copy the image's other pages from the ground truth, or from the masks; None stands for the painted.

        A job may have only some of the pages, but the ground truth belongs to the whole image.
        """
        if len(self._library.sizes(known)) == 1:
            return [None]
        if present:
            truths = self._library.truth_cells(present, known)
            return [None if number == page else cells for number, cells in truths]
        whole = self._library.whole(known)
        return [
            None
            if each.page == page
            else self._library.raster("mask", whole.row.job_id, each.page).shades > 0
            for each in whole.result.pages
        ]

    def _new_place(self, key: str, pages: int) -> S3Object:
        """Choose a new truth's name: for a stack, which is a TIFF, the image's own; otherwise with `.png`."""
        names = ground_truth_keys(key)
        named = [name for name in names if name == f"{key}.png"] or list(names)
        return S3Object(self._account.ground_truth_bucket, names[0] if pages > 1 else named[0])

    def _write(self, place: S3Object, present: S3Object | None, body: bytes) -> S3Object:
        suffix = PurePosixPath(place.key).suffix.lower()
        kind = "image/tiff" if suffix in TIFF_SUFFIXES else "image/png"
        condition = {"IfMatch": f'"{present.etag}"'} if present else {"IfNoneMatch": "*"}
        try:
            written = self._account.s3.put_object(
                Bucket=place.bucket,
                Key=place.key,
                Body=body,
                ContentType=kind,
                **condition,  # type: ignore[arg-type]
            )
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status in (409, 412):
                raise _exists(self._library.find(S3Object(place.bucket, place.key))) from error
            raise
        return S3Object(place.bucket, place.key, written.get("VersionId"), written["ETag"].strip('"'))


def encode(pages: Sequence[Mask], key: str) -> bytes:
    """Encode a mask of 0 and 255 as PNG; as TIFF if there are several pages or the name says so."""
    if len(pages) == 1 and PurePosixPath(key).suffix.lower() not in TIFF_SUFFIXES:
        return images.encode_mask(pages[0])
    return encode_tiff(page.view(np.uint8) * np.uint8(255) for page in pages)


def encode_tiff(pages: Iterable[NDArray[np.generic]]) -> bytes:
    """Encode pages of one channel, (H, W) of any real dtype, as TIFF without loss."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for page in pages:
            writer.write(
                page,
                photometric="minisblack",
                compression="zlib",
                contiguous=False,
                metadata=None,  # plain pages: a description of tifffile's own makes each a series
            )
    return stream.getvalue()


def _exists(present: S3Object | None) -> Refusal:
    what = f"{present.uri} exists" if present else "the ground truth was deleted meanwhile"
    return Refusal(
        HTTPStatus.CONFLICT, "TRUTH_EXISTS", f"{what}; save again to replace it, or discard your painting"
    )
