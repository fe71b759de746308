"""Index COCO files by the images that they name, and keep each file's status.

`COCO#<image's name>` has a row for every file; `COCO_FILE#<address>` has one for every upload of a file.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

from cytomask.addresses import S3Object
from cytomask.errors import CytomaskError
from cytomask.records import cut
from cytomask.table import Row, Table, fitted, timestamp

COCO = "COCO#"
COCO_FILE = "COCO_FILE#"


class CocoLead(msgspec.Struct, kw_only=True):
    """A COCO file that names an image.

    Attributes:
        coco: the file's address.
        images: prefix of the images that the file is meant for; empty means all.
    """

    coco: str = ""
    record: str  # the address if it is short enough, and always in rows of version 0.1
    version: str
    uploaded_at: str = ""
    images: str = ""


class IndexingRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The outcome of a COCO file's upload.

    Attributes:
        images, annotations: number of images and annotations in the file.
        annotations_without_image: number of annotations of images that the file does not list.
        images_without_annotations: number of images without annotations, which are empty pages.
        images_without_name: number of entries without a file name, which match no image.
        refused: number of images that the file describes wrongly, so that they cannot be scored.
        refused_names: some of these images.
        unmatched: number of images without a job when the file was indexed; None if this was not checked.
        unmatched_names: some of these images.
    """

    index_status: Literal["INDEXED", "REJECTED"]
    images: int | None = None
    annotations: int | None = None
    annotations_without_image: int | None = None
    images_without_annotations: int | None = None
    images_without_name: int | None = None
    refused: int | None = None
    refused_names: list[str] = []
    unmatched: int | None = None
    unmatched_names: list[str] = []
    error_code: str | None = None
    error: str | None = None


class CocoIndex:
    """Read and write these rows. DynamoDB's faults pass through as ClientError."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def name(self, name: str, coco: S3Object, *, images: str) -> None:
        """Note that a COCO file names an image, unless a later upload of the file has done so."""
        values: Row = {"images": images, "version": coco.version, "uploaded_at": coco.uploaded_at}
        self._table.update_if(
            f"{COCO}{fitted(name)}",
            fitted(coco.uri),
            values=values | {"coco": coco.uri},
            condition="attribute_not_exists(job_id) OR uploaded_at <= :uploaded_at",
        )

    def naming(self, name: str) -> Iterator[CocoLead]:
        """List the COCO files that name an image."""
        for row in self._table.rows(f"{COCO}{fitted(name)}"):
            yield msgspec.convert(row, CocoLead, strict=False)

    def read(self, coco: S3Object) -> IndexingRow | None:
        """Read an upload's outcome; None while it is not indexed."""
        row = self._table.read(f"{COCO_FILE}{coco.uri}", _upload(coco))
        return msgspec.convert(row, IndexingRow, strict=False) if row else None

    def end(self, coco: S3Object, outcome: IndexingRow, *, now: float) -> None:
        """Store an upload's outcome."""
        values: Row = msgspec.to_builtins(outcome) | {"updated_at": timestamp(now)}
        self._table.update(
            f"{COCO_FILE}{coco.uri}", _upload(coco), values=values, first={"created_at": timestamp(now)}
        )


def rejection(error: CytomaskError) -> IndexingRow:
    """Describe an upload that cannot be indexed."""
    return IndexingRow(index_status="REJECTED", error_code=error.code, error=cut(error))


def _upload(coco: S3Object) -> str:
    """Name an upload. If the same bytes are uploaded again after others, that is a new upload."""
    return f"INDEX#{coco.version} {coco.uploaded_at}"
