"""Typed results and rows: the result JSON of a job, its row, and the rows of its evaluations.

`python -m cytomask.records` makes docs/result.schema.json and docs/rows.schema.json from these structs.
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
    """A warning about a page's quality: its name, and the value that raised it."""

    name: str
    value: float


class Fault(msgspec.Struct, frozen=True):
    """Why a job was rejected: a stable code, and a sentence."""

    code: str
    message: str


class ImageIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The object that was segmented. `etag` has no quotes; `uploaded_at` is S3's time, in whole seconds."""

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
    """The network that made the mask."""

    name: str
    sha256: str
    training_data_licence: str


class Tiling(msgspec.Struct, frozen=True):
    """How a page was cut into tiles: their number, and side and overlap in pixels."""

    count: int
    tile: int
    overlap: int


class Acquired(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Where and when an image was taken.

    Attributes:
        well: name of the well, such as `B02`.
        site: field of view within the well; a crop or a plane follows after a dot.
        time: elapsed hours, or an ISO date.
        frame: number of the scan, if file names count scans instead of giving times.
        placed_by: source of all this: `request`, the name of a naming scheme, `pattern`, `ome` or `tiff`.
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
    """The result of one page.

    Attributes:
        page: its number in the stack, counted from 0.
        dtype: type of the stored pixels.
        time: time of the page in a time series: elapsed hours, or an ISO date.
        confluence: cell pixels over all pixels, 0..1, at the job's threshold.
        confluence_low, confluence_high: the same at thresholds of 0.7 and 0.3, or at the job's own if that
            is above 0.7 or below 0.3.
        tiles: null in `resize` mode.
        quality: warnings about the page's quality, if any.
        orientation: the file's orientation tag, numbered as in EXIF and TIFF: 1 is upright.
        turned: whether the page was turned upright by that tag.
        luma: true if red, green and blue were joined to grey; otherwise absent.
        pixel_size_um: width and height of a pixel in micrometres, if the request or the file gives them.
        cell_area_mm2: area of the page's cells, if the size of a pixel is known.
        mask, probability, overlay, rois, geojson, labels, labels_table, ome: address of each output; each has
            an ETag beside it.
    """

    page: int
    height: int
    width: int
    dtype: str
    orientation: int | None = None
    turned: bool | None = None
    luma: bool = False
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
        """Map the address of each written output to its ETag."""
        etags = [name for name in self.__struct_fields__ if name.endswith("_etag")]
        written = {getattr(self, name.removesuffix("_etag")): getattr(self, name) for name in etags}
        return {uri: etag for uri, etag in written.items() if uri}


class Result(Acquired, kw_only=True, omit_defaults=True):
    """The result JSON: a job's outcome, and how its mask was made.

    Attributes:
        job_id, image, group, result: absent if the image came in an HTTP body.
        mask: address of the first page's mask; null if `outputs` leaves masks out.
        confluence: confluence over the pixels of all pages.
        cell_area_mm2: area of all pages' cells, if the size of a pixel is known.
        message: the beginning of the message, if it named no image.
        parameters: the request's parameters, with the threshold that was used.
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
        """Return the result as plain JSON values; `pages` may be empty and `mask` null."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        if self.image or self.pages:
            fields.setdefault("pages", [])
        if self.pages:
            fields.setdefault("mask", None)
        return fields

    @property
    def pixels(self) -> int:
        """Number of pixels of all pages."""
        return sum(page.height * page.width for page in self.pages)


class JobRow(Acquired, kw_only=True, omit_defaults=True):
    """A job's row in the Jobs table; its `record` is `JOB`. Times are ISO 8601 in UTC with milliseconds.

    Attributes:
        attempt: how often the job was started again, by a redrive or because its outputs were gone.
        message: a FAILED job's message, to send it again; or the beginning of an unreadable message.
        message_group: that message's group in SQS, if it had one: `backfill`.
        ground_truth: address of a COCO file that was never indexed, if the row stands for its notification.
        owner, lease_until: the invocation that holds the lease, and the lease's end in seconds since 1970.
        quality, quality_values: names of the quality flags, and the value of each.
        cell_area_mm2: area of all pages' cells, if the size of a pixel is known.
        milliseconds: duration of the job.
        place: sort key of the index by plate: well, time and site.
        pixels: number of pixels of all pages.
        series: the pages of a stack, each with its time and confluence; their masks are in the result.
        iou: newest score, if the image is part of a plate.
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
    message_group: str | None = None
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
    """A mask's scores against its ground truth.

    Attributes:
        boundary_f1: F1 of the outlines; they match within `boundary_tolerance` pixels.
        confluence, true_confluence: cell pixels over all pixels, of the mask and of the ground truth.
        ground_truth_mask: address of the ground truth as a mask, if it came as a COCO file.
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
        status: FAILED while the evaluation is FAILED, so that the index by status lists it with failed jobs.
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
        group: label to report by; None means that the job's row has it.
        etag: ETag of the image, which identifies the same image under another address.
        created_at: when the job began to look for its ground truth.
    """

    job_id: str
    image: str
    mask: str
    result: str
    etag: str | None = None
    created_at: str | None = None
    group: str | None = None


def cut(error: object) -> str:
    """Shorten an error's text to fit into a row."""
    text = str(error)
    return text if len(text) <= LONGEST_ERROR else f"{text[: LONGEST_ERROR - 1]}…"


def schemas() -> dict[str, dict[str, Any]]:
    """Return the JSON Schemas of results and rows, by file name."""
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    (result,), parts = msgspec.json.schema_components([Result], ref_template="#/$defs/{name}")
    rows, row_parts = msgspec.json.schema_components([JobRow, EvaluationRow], ref_template="#/$defs/{name}")
    table = {"title": "Rows of the Jobs table", "anyOf": list(rows), "$defs": _dedented(row_parts)}
    return {
        "result.schema.json": draft | result | {"$defs": _dedented(parts)},
        "rows.schema.json": draft | table,
    }


def _dedented(parts: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Remove the indentation of docstrings, which Python 3.13 does itself."""
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
