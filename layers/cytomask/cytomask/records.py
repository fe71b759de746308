"""Typed results and rows: the result JSON of a job, its row, and the rows of its evaluations.

docs/result.schema.json and docs/rows.schema.json are made from these structs (`python -m cytomask.records`).
A field that does not apply is absent, both in JSON and in DynamoDB.
"""

import sys
from inspect import cleandoc
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from cytomask.addresses import S3Object
from cytomask.requests import Parameters

JobStatus = Literal["QUEUED", "RUNNING", "SUCCEEDED", "REJECTED", "FAILED"]
STATUSES: tuple[JobStatus, ...] = get_args(JobStatus)
JOB = "JOB"  # the `record` of a job's own row
EvaluationStatus = Literal["AWAITING_GROUND_TRUTH", "QUEUED", "SCORED", "REJECTED", "FAILED"]

LONGEST_ERROR = 2000  # characters: a row has room for 400 KB, most of it for the message


class Flag(msgspec.Struct, frozen=True):
    """A doubt about a page's quality: its name, and the value that raised it."""

    name: str
    value: float


class Fault(msgspec.Struct, frozen=True):
    """Why a job was rejected: a code that never changes, and a sentence."""

    code: str
    message: str


class ImageIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Which object was segmented. `etag` without quotes; `uploaded_at` as S3 gives it, in whole seconds."""

    uri: str
    bucket: str
    key: str
    version_id: str | None
    etag: str | None
    uploaded_at: str | None

    @classmethod
    def of(cls, image: S3Object) -> "ImageIdentity":
        """Describe an object."""
        return cls(
            uri=image.uri,
            bucket=image.bucket,
            key=image.key,
            version_id=image.version_id,
            etag=image.etag,
            uploaded_at=image.uploaded_at,
        )


class ModelIdentity(msgspec.Struct, frozen=True):
    """Which network made the mask."""

    name: str
    sha256: str
    training_data_licence: str


class Tiling(msgspec.Struct, frozen=True):
    """How a page was cut: number of tiles, side and overlap of each in pixels."""

    count: int
    tile: int
    overlap: int


class Acquired(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Where and when an image was taken.

    Attributes:
        well: as `B02`.
        site: field of view within the well; a crop or a plane follows after a dot.
        time: elapsed hours, or an ISO date.
        frame: number of the scan, where names count scans and tell no time.
        placed_by: what told all this: `request`, a naming scheme, `pattern`, `ome`, `tiff`.
    """

    plate: str | None = None
    well: str | None = None
    site: str | None = None
    time: float | str | None = None
    frame: int | None = None
    cell_line: str | None = None
    channel: str | None = None
    placed_by: str | None = None


class PageResult(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is known of one page.

    Attributes:
        page: its number in the stack, counted from 0.
        dtype: of the pixels as they were stored.
        time: of a stack over time: elapsed hours, or an ISO date.
        confluence: cell pixels over all pixels, 0..1, at the job's threshold.
        confluence_low, confluence_high: the same at the thresholds 0.7 and 0.3.
        tiles: null in `resize` mode.
        quality: doubts about the page, if any.
        orientation: what the file says, as EXIF and TIFF count it: 1 is upright.
        turned: whether the page was turned by it.
        pixel_size_um: width and height of a pixel in micrometres, where the request or the file says so.
        cell_area_mm2: what the cells of the page cover, where the size of a pixel is known.
        mask, probability, overlay, rois, geojson, labels, labels_table, ome: where each output lies; each has
            an ETag beside it.
    """

    page: int
    height: int
    width: int
    dtype: str
    orientation: int | None = None
    turned: bool | None = None
    time: float | str | None = None
    confluence: float
    confluence_low: float | None = None
    confluence_high: float | None = None
    tiles: Tiling | None
    quality: list[Flag] = []
    pixel_size_um: tuple[float, float] | None = None
    cell_area_mm2: float | None = None
    mask: str | None = None
    mask_etag: str | None = None
    probability: str | None = None
    probability_etag: str | None = None
    overlay: str | None = None
    overlay_etag: str | None = None
    rois: str | None = None
    rois_etag: str | None = None
    geojson: str | None = None
    geojson_etag: str | None = None
    labels: str | None = None
    labels_etag: str | None = None
    labels_table: str | None = None
    labels_table_etag: str | None = None
    ome: str | None = None
    ome_etag: str | None = None

    def outputs(self) -> dict[str, str | None]:
        """Map the address of each output that was written to its ETag."""
        etags = [name for name in self.__struct_fields__ if name.endswith("_etag")]
        written = {getattr(self, name.removesuffix("_etag")): getattr(self, name) for name in etags}
        return {uri: etag for uri, etag in written.items() if uri}


class Result(Acquired, kw_only=True, omit_defaults=True):
    """The result JSON: a job's outcome, and how its mask was made.

    Attributes:
        job_id, image, group, result: absent for an image that came in an HTTP body.
        mask: of the first page; null where `outputs` leaves masks out.
        confluence: over the pixels of all pages.
        cell_area_mm2: what the cells of all pages cover, where the size of a pixel is known.
        message: the beginning of a message that named no image.
        parameters: the request's, with the threshold that decided.
    """

    status: Literal["SUCCEEDED", "REJECTED"]
    job_id: str | None = None
    image: ImageIdentity | None = None
    group: str | None = None
    result: str | None = None
    error: Fault | None = None
    message: str | None = None
    confluence: float | None = None
    confluence_low: float | None = None
    confluence_high: float | None = None
    cell_area_mm2: float | None = None
    quality: list[Flag] = []
    mask: str | None = None
    pages: list[PageResult] = []
    model: ModelIdentity | None = None
    parameters: Parameters | None = None
    normalisation: str | None = None
    cold_start: bool | None = None
    request_id: str | None = None
    finished_at: str | None = None
    timings_ms: dict[str, float] = {}
    estimated_cost_usd: float | None = None

    def shown(self) -> dict[str, Any]:
        """Return the result as JSON has it, with empty `pages` and with a `mask` that is null."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        if self.image or self.pages:
            fields.setdefault("pages", [])
        if self.pages:
            fields.setdefault("mask", None)
        return fields

    @property
    def pixels(self) -> int:
        """Pixels of all pages."""
        return sum(page.height * page.width for page in self.pages)


class JobRow(Acquired, kw_only=True, omit_defaults=True):
    """A job's row in the Jobs table; its `record` is `JOB`. Times are ISO 8601 in UTC with milliseconds.

    Attributes:
        attempt: how often the job was begun anew, by a redrive or because its outputs were gone.
        message: to send again, of a FAILED job; or the beginning of an unreadable message.
        ground_truth: of the notice of a COCO file that was never indexed.
        owner, lease_until: the invocation that works on it, and the end of its lease, in seconds since 1970.
        quality, quality_values: the names of the quality flags, and the number behind each.
        cell_area_mm2: what the cells of all pages cover, where the size of a pixel is known.
        milliseconds: that the job took.
        place: sort key of the index by plate: well, time and site.
        pixels: of all pages. `series`: the pages of a stack, each with its time, confluence and mask.
        iou: of the newest score, of an image that is part of a plate.
    """

    job_id: str
    record: str = "JOB"
    status: JobStatus
    created_at: str = ""
    updated_at: str = ""
    image: str | None = None
    mask: str | None = None
    group: str | None = None
    error_code: str | None = None
    error: str | None = None
    message: str | None = None
    attempt: int | None = None
    result: str | None = None
    confluence: float | None = None
    confluence_low: float | None = None
    confluence_high: float | None = None
    cell_area_mm2: float | None = None
    quality: list[str] = []
    quality_values: dict[str, float] = {}
    pages: int | None = None
    milliseconds: float | None = None
    estimated_cost_usd: float | None = None
    model_sha256: str | None = None
    model: str | None = None
    mode: str | None = None
    threshold: float | None = None
    place: str | None = None
    pixels: int | None = None
    series: list[dict[str, Any]] = []
    uploaded_at: str | None = None
    iou: float | None = None
    ground_truth: str | None = None
    owner: str | None = None
    lease_until: float | None = None


class Scores(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How a mask compares with its ground truth.

    Attributes:
        boundary_f1: of the outlines, which match within `boundary_tolerance` pixels.
        confluence, true_confluence: cell pixels over all pixels, of the mask and of the truth.
        ground_truth_mask: where the truth lies as a mask, if it came as a COCO file.
    """

    true_positive: int | None = None
    false_positive: int | None = None
    false_negative: int | None = None
    iou: float | None = None
    dice: float | None = None
    precision: float | None = None
    recall: float | None = None
    boundary_f1: float | None = None
    boundary_tolerance: float | None = None
    confluence: float | None = None
    true_confluence: float | None = None
    ground_truth_mask: str | None = None


class EvaluationRow(Scores, kw_only=True, omit_defaults=True):
    """An evaluation's row: its `record` is `EVAL#` and the ground truth's version, or `EVAL#awaiting`.

    Attributes:
        status: FAILED while the evaluation is, so that the index by status lists it beside failed jobs.
    """

    job_id: str
    record: str
    evaluation_status: EvaluationStatus
    created_at: str = ""
    updated_at: str = ""
    image: str | None = None
    mask: str | None = None
    group: str | None = None
    error_code: str | None = None
    error: str | None = None
    message: str | None = None
    attempt: int | None = None
    ground_truth: str | None = None
    status: Literal["FAILED"] | None = None


class Scorable(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """A job whose mask can be scored.

    Attributes:
        group: read from the job's row where it is None.
        etag: of the image, by which the same image is known under another address.
        created_at: when it began to look for its ground truth.
    """

    job_id: str
    image: str
    mask: str
    result: str
    etag: str | None = None
    created_at: str | None = None
    group: str | None = None


def cut(error: object) -> str:
    """Shorten an error's text to what a row has room for."""
    text = str(error)
    return text if len(text) <= LONGEST_ERROR else f"{text[: LONGEST_ERROR - 1]}…"


def schemas() -> dict[str, dict[str, Any]]:
    """Describe results and rows as JSON Schemas, by file name."""
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    (result,), parts = msgspec.json.schema_components([Result], ref_template="#/$defs/{name}")
    rows, row_parts = msgspec.json.schema_components([JobRow, EvaluationRow], ref_template="#/$defs/{name}")
    table = {"title": "Rows of the Jobs table", "anyOf": list(rows), "$defs": _dedented(row_parts)}
    return {
        "result.schema.json": draft | result | {"$defs": _dedented(parts)},
        "rows.schema.json": draft | table,
    }


def _dedented(parts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Remove the indentation of docstrings, as Python 3.13 does by itself."""
    return {
        name: part | ({"description": cleandoc(part["description"])} if "description" in part else {})
        for name, part in parts.items()
    }


def main(folder: Path) -> None:
    """Write the schemas into a folder."""
    for name, schema in schemas().items():
        text = msgspec.json.format(msgspec.json.encode(schema, order="sorted"), indent=2)
        (folder / name).write_bytes(text + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
