"""Read every kind of event and message into the same request.

S3 notifications, EventBridge and SNS events, messages that a person wrote and direct events all become
`SegmentRequest`s. Pure: nothing here asks AWS.
"""

import json
import re
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote_plus

import msgspec

from cytomask.acquisition import Acquisition, check_plate, check_time, check_well
from cytomask.errors import ForeignBucket, InvalidRequest, NoSuchPage

Mode = Literal["native", "resize"]
Output = Literal["mask", "probability", "overlay", "rois", "geojson", "labels", "ome"]
Shape = TypeVar("Shape")
Arriving = TypeVar("Arriving")

SIDECARS = {".json", ".csv", ".xml", ".txt", ".md", ".db", ".platemap"}
S3_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>.+)", re.DOTALL)
PAGES = re.compile(r"all|[0-9]{1,6}(-[0-9]{1,6})?")
LONGEST_KEY = 1024  # bytes, S3's own limit
LONGEST_NOTIFIED_KEY = 2 * LONGEST_KEY  # S3 itself refuses keys beyond its own limit
MOST_IMAGES = 100  # in one message
WAITING_JOB = "job_id"
JOB_ID = re.compile(r"[0-9a-f]{32}")
NO_OBJECT = 'the request is not a JSON object; send one, such as {"image": "s3://bucket/key"}'


@dataclass(frozen=True)
class S3Object:
    """An object, and its version where one is known.

    Attributes:
        etag: without quotes.
        uploaded_at: as S3 gives it, in whole seconds.
    """

    bucket: str
    key: str
    version_id: str | None = None
    etag: str | None = None
    uploaded_at: str | None = None

    @property
    def uri(self) -> str:
        """The address `s3://bucket/key`, never encoded."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def was_found(self) -> bool:
        """Whether S3 confirmed the object; a message alone does not."""
        return self.uploaded_at is not None

    @property
    def version(self) -> str:
        """The version's id, or the ETag: it tells the versions of a found object apart."""
        return str(self.version_id or self.etag)


@dataclass(frozen=True)
class Parameters:
    """How to segment an image; docs/requests.md explains the fields."""

    threshold: float | None = None
    mode: Mode = "native"
    pages: str = "all"
    channel: int | None = None
    outputs: tuple[Output, ...] = ("mask",)

    def selected(self, count: int, name: str) -> list[int]:
        """List the pages asked for, of an image that has `count`; raise NoSuchPage past its end."""
        if self.pages == "all":
            return list(range(count))
        first, _, last = self.pages.partition("-")
        wanted = range(int(first), int(last or first) + 1)
        if wanted.stop > count:
            raise NoSuchPage(
                f"{name} has no page {wanted.stop - 1}: it has {count}, counted from 0; correct `pages`"
            )
        return list(wanted)


NOWHERE = Acquisition()


@dataclass(frozen=True)
class SegmentRequest:
    """One image to segment.

    Attributes:
        label: the group to report it by, if the request names one.
        place: where and when it was taken, if the request says so.
        expected_pages: how many pages its plate will have, if the request says so.
    """

    image: S3Object
    parameters: Parameters = Parameters()
    ground_truth: S3Object | None = None
    label: str | None = None
    place: Acquisition = NOWHERE
    expected_pages: int | None = None

    @property
    def group(self) -> str:
        """The label, or the cell line of a LIVECell-style name (`A172_Phase_C7_…`), or nothing."""
        if self.label is not None:
            return self.label
        line, found, _ = PurePosixPath(self.image.key).name.partition("_Phase_")
        return line if found else ""


@dataclass(frozen=True)
class Settle:
    """A name to look at: its image was deleted, or two jobs wrote under it at once. `why`: for the log."""

    image: S3Object
    why: str


@dataclass(frozen=True)
class PlateMapUpload:
    """A plate map that was uploaded beside the images of its plate."""

    file: S3Object


@dataclass(frozen=True)
class Ignored:
    """Something that arrived without a request, with the reason for the log."""

    what: str
    reason: str


@dataclass(frozen=True)
class Refused:
    """Something that cannot be understood: its text, and the error."""

    text: str
    error: InvalidRequest


Arrival = SegmentRequest | Settle | PlateMapUpload | Ignored | Refused  # what the segment function is given
_Named = SegmentRequest | S3Object | Settle | Ignored | Refused


def parse_body(body: str) -> list[Arrival]:
    """Read a queue's message or a direct event, as JSON, whichever of the ways in it came by.

    Keys are decoded where S3 encodes them (its notifications) and nowhere else. A part that cannot be
    understood becomes a `Refused` rather than an exception, so that the other parts are still done.
    """
    return _bounded([_segmented(arrival) for arrival in _parse_body(body)], body)


def images_of(body: str) -> list[str]:
    """List the addresses of the images that a message names."""
    named = parse_body(body)
    return list(dict.fromkeys(each.image.uri for each in named if isinstance(each, SegmentRequest)))


def _bounded(arrivals: list[Arriving], body: str) -> list[Arriving | Refused]:
    """Refuse a message that names too many images; what it ignores counts too."""
    if len(arrivals) <= MOST_IMAGES:
        return [*arrivals]
    return [
        Refused(
            body,
            InvalidRequest(
                f"the message names {len(arrivals)} images and the most is {MOST_IMAGES}; send it in parts"
            ),
        )
    ]


def _segmented(arrival: _Named) -> Arrival:
    """Turn an arrival into one of the segment function: an upload becomes a request for its mask."""
    if isinstance(arrival, S3Object):
        if is_plate_map(arrival.key):
            return PlateMapUpload(arrival)
        return _sidecar(arrival) if _is_sidecar(arrival) else SegmentRequest(arrival)
    if isinstance(arrival, Settle) and _is_sidecar(arrival.image):
        return _sidecar(arrival.image)
    return arrival


def admitted(arrival: Arrival, body: str, *, served: Set[str], outputs: str) -> Arrival:
    """Return the arrival, or a refusal if it names a forbidden bucket.

    Args:
        arrival: read from the message.
        body: the message that it came in.
        served: the buckets that messages may name.
        outputs: the bucket of the stack's own outputs.
    """
    if isinstance(arrival, SegmentRequest):
        try:
            require_served(arrival, served=served, outputs=outputs)
        except ForeignBucket as error:
            return Refused(body, error)
    return arrival


def require_served(request: SegmentRequest, *, served: Set[str], outputs: str) -> None:
    """Raise ForeignBucket if a request names a forbidden bucket; see `admitted` for the buckets."""
    if request.image.bucket == outputs:
        raise ForeignBucket(
            f"{request.image.uri} is one of this stack's own outputs, not an image; name an image in the "
            "input bucket"
        )
    require_served_bucket(request.image, served)
    if request.ground_truth:
        require_ground_truth(request.ground_truth, served=served, outputs=outputs)


def require_ground_truth(truth: S3Object, *, served: Set[str], outputs: str) -> None:
    """Raise ForeignBucket if an object is a part of a COCO file, or in a bucket that is not served."""
    if truth.bucket == outputs and truth.key.startswith("jobs/coco/"):
        raise ForeignBucket(
            f"{truth.uri} is a part of a COCO file that this stack has split; name the file itself"
        )
    require_served_bucket(truth, served)


def require_served_bucket(named: S3Object, served: Set[str]) -> None:
    """Raise ForeignBucket if an object is outside these buckets."""
    if named.bucket not in served:
        raise ForeignBucket(
            f"{named.uri} is in a bucket that this stack does not serve: copy it into one of its own, "
            "or have whoever runs the stack add the bucket to AllowedBuckets"
        )


class Evaluation(msgspec.Struct, frozen=True):
    """A message from one of the functions that asks for a score.

    Attributes:
        job_id, record: the evaluation's row.
        ground_truth: in exactly the version that the row is named after.
        result: s3 address of the job's result JSON, which names the masks.
    """

    job_id: str
    record: str
    ground_truth: S3Object
    result: str


EvaluationArrival = Evaluation | S3Object | Ignored | Refused  # what the evaluate function is given


def parse_evaluation(body: str, *, served: Set[str], outputs: str) -> list[EvaluationArrival]:
    """Read a message of the evaluation queue: what to score, or the ground truths that were uploaded.

    Uploads of ground truths arrive like those of images; a JSON file counts too, as COCO's format.
    An arrival that names a forbidden bucket is refused; see `admitted` for the buckets.
    """
    try:
        event = decode(body)
        if isinstance(event, dict) and "job_id" in event:
            evaluation = _convert(event, Evaluation)
            _require_ours(evaluation, outputs)
            named: list[EvaluationArrival] = [evaluation]
        else:
            named = _bounded([_evaluated(arrival) for arrival in _parse_body(body)], body)
    except InvalidRequest as error:
        return [Refused(body, error)]
    return [_admitted_truth(arrival, body, served=served, outputs=outputs) for arrival in named]


def _require_ours(evaluation: Evaluation, outputs: str) -> None:
    """Raise InvalidRequest if no function of this stack can have sent an evaluation."""
    whole = JOB_ID.fullmatch(evaluation.job_id) and re.fullmatch(r"EVAL#.{1,1000}", evaluation.record)
    if not whole or not evaluation.ground_truth.key or not evaluation.ground_truth.etag:
        raise InvalidRequest(
            "the message is not an evaluation of this stack: `job_id` takes 32 hex digits, `record` EVAL# "
            "and the ground truth's version, `ground_truth` a key and an ETag"
        )
    if parse_uri(evaluation.result, "result").bucket != outputs:
        raise ForeignBucket(f"{evaluation.result[:300]} is not a result of this stack; correct `result`")


def _admitted_truth(
    arrival: EvaluationArrival, body: str, *, served: Set[str], outputs: str
) -> EvaluationArrival:
    truth = arrival.ground_truth if isinstance(arrival, Evaluation) else arrival
    if isinstance(truth, S3Object):
        try:
            require_ground_truth(truth, served=served, outputs=outputs)
        except ForeignBucket as error:
            return Refused(body, error)
    return arrival


def _evaluated(arrival: _Named) -> EvaluationArrival:
    """Turn an arrival into one of the evaluate function: every upload is a ground truth."""
    if isinstance(arrival, Settle):
        return Ignored(arrival.why, "not an upload")
    uploaded = arrival.image if isinstance(arrival, SegmentRequest) else arrival
    if not isinstance(uploaded, S3Object) or is_coco(uploaded.key):
        return uploaded
    return _sidecar(uploaded) if _is_sidecar(uploaded) else uploaded


def _is_sidecar(uploaded: S3Object) -> bool:
    return PurePosixPath(uploaded.key).suffix.lower() in SIDECARS


def is_plate_map(key: str) -> bool:
    """Whether a sidecar is a plate map, by its name: `x.PlateMap`, `x.platemap.csv`, `platemap.csv`."""
    name = PurePosixPath(key).name.lower()
    return name.endswith((".platemap", ".platemap.csv", ".platemap.xml")) or name == "platemap.csv"


def plate_of_map(key: str) -> str:
    """The plate that a map belongs to, by its key: the part before `.platemap`, or its folder."""
    path = PurePosixPath(key)
    stem = re.split(r"\.?platemap", path.name, maxsplit=1, flags=re.IGNORECASE)[0]
    return stem or path.parent.name


def _sidecar(uploaded: S3Object) -> Ignored:
    return Ignored(uploaded.key, "a sidecar file, not an image")


def _parse_body(body: str) -> list[_Named]:
    try:
        return _parse_event(decode(body))
    except InvalidRequest as error:
        return [Refused(body, error)]


def decode(body: str | bytes) -> object:
    """Read JSON; raise InvalidRequest."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f'the message is not JSON ({error}); send an object such as {{"image": "s3://bucket/key"}}'
        ) from error


def _parse_event(event: object) -> list[_Named]:
    match event:
        case {"Event": "s3:TestEvent"}:
            return [Ignored("s3:TestEvent", "S3 announces that the notification is set up")]
        case {"Type": "Notification", "Message": str(message)}:
            return _parse_body(message)
        case {"Records": [*records]}:
            return [request for record in records for request in _parse_record(record)]
        case {"detail-type": str(kind), "detail": {"bucket": _, "object": _} as detail}:
            return [_from_eventbridge(kind, detail)]
        case {"settle": str(uri), **others} if not others:
            return [Settle(parse_uri(uri, "image"), "two jobs wrote under the name")]
        case {"image": _} | {"image_path": _}:
            return [parse_request(event)]
        case {}:
            raise InvalidRequest(
                f"the request names no image: give `image`, {ACCEPTED['image']} (found "
                f"{', '.join(sorted(map(str, event)))[:300] or 'no field'})"
            )
    raise InvalidRequest(NO_OBJECT)


def _parse_record(record: object) -> list[_Named]:
    match record:
        case {"Sns": {"Message": str(message)}}:
            return _parse_body(message)
    try:
        return [_from_notification(record)]
    except InvalidRequest as error:
        return [Refused(msgspec.json.encode(record).decode(), error)]


VersionId = Annotated[str, msgspec.Meta(max_length=1024)]


class _Bucket(msgspec.Struct, frozen=True):
    name: str


class _NotifiedObject(msgspec.Struct, frozen=True):
    key: str
    version_id: VersionId | None = msgspec.field(name="versionId", default=None)
    etag: str | None = msgspec.field(name="eTag", default=None)


class _S3Entity(msgspec.Struct, frozen=True):
    bucket: _Bucket
    object: _NotifiedObject


class _S3Record(msgspec.Struct, frozen=True):
    """docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html."""

    name: str = msgspec.field(name="eventName")
    s3: _S3Entity


class _EventBridgeObject(msgspec.Struct, frozen=True):
    """docs.aws.amazon.com/AmazonS3/latest/userguide/ev-events.html."""

    key: str
    version_id: VersionId | None = msgspec.field(name="version-id", default=None)
    etag: str | None = None


class _EventBridgeDetail(msgspec.Struct, frozen=True):
    bucket: _Bucket
    object: _EventBridgeObject


def _from_notification(record: object) -> S3Object | Settle | Ignored:
    notified = _convert(record, _S3Record)
    found = notified.s3.object
    named = S3Object(notified.s3.bucket.name, unquote_plus(found.key), found.version_id, found.etag)
    if "ObjectRemoved:" in notified.name:
        return _changed(named, removed_by=notified.name)
    if "ObjectCreated:" in notified.name:
        return _changed(named)
    return Ignored(notified.name, "not an upload")


def _from_eventbridge(kind: str, detail: object) -> S3Object | Settle | Ignored:
    if kind not in ("Object Created", "Object Deleted"):
        return Ignored(kind, "not an upload")
    found = _convert(detail, _EventBridgeDetail)
    named = S3Object(found.bucket.name, found.object.key, found.object.version_id, found.object.etag)
    return _changed(named, removed_by=kind if kind == "Object Deleted" else None)


def _changed(named: S3Object, *, removed_by: str | None = None) -> S3Object | Settle | Ignored:
    if not 0 < len(named.key.encode()) <= LONGEST_NOTIFIED_KEY:
        raise InvalidRequest(
            f"the notice names an object whose key has {len(named.key.encode())} bytes; S3's keys have 1 to "
            f"{LONGEST_KEY}"
        )
    if named.key.endswith("/"):
        return Ignored(named.key, "a folder's marker")
    return Settle(S3Object(named.bucket, named.key), removed_by) if removed_by else named


class _ParameterFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    mode: Mode = "native"
    pages: int | str = "all"
    channel: Annotated[int, msgspec.Meta(ge=0, le=999)] | None = None


class _RequestFields(_ParameterFields, frozen=True, forbid_unknown_fields=True):
    image: str | None = None
    image_path: str | None = None
    ground_truth: str | None = None
    outputs: tuple[Output, ...] = ("mask",)
    group: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    plate: str | None = None
    well: str | None = None
    site: float | Annotated[str, msgspec.Meta(max_length=32)] | None = None
    time: float | str | None = None
    cell_line: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    expected_pages: Annotated[float, msgspec.Meta(ge=1, le=10_000_000)] | None = None


ACCEPTED = {
    "image": "the image as s3://bucket/key",
    "image_path": "the same as `image`: s3://bucket/key",
    "ground_truth": "a mask image or a COCO file as s3://bucket/key",
    "threshold": "a probability from 0 to 1",
    "mode": '"native" or "resize"',
    "pages": '"all", a page counted from 0, or a range such as "0-3"',
    "channel": "the channel's number, counted from 0",
    "outputs": 'a list of "mask", "probability", "overlay", "rois", "geojson", "labels" and "ome", not empty',
    "group": "a label of at most 256 characters",
    "plate": "the plate's name, of 1 to 128 characters without `/`",
    "well": "a well such as B2 or B02",
    "site": "the field of view within the well, a number or at most 32 characters",
    "time": "hours since the first scan, elapsed time as 00d04h30m, or a date as 2026-11-25T13:20",
    "cell_line": "a name of at most 128 characters",
    "expected_pages": "how many pages the plate will have, 1 to 10,000,000",
}


def parse_request(event: object) -> SegmentRequest:
    """Read a request that a person or a program wrote; raise InvalidRequest."""
    if not isinstance(event, dict):
        raise InvalidRequest(NO_OBJECT)
    fields = _convert(event, _RequestFields)
    if (fields.image is None) == (fields.image_path is None):
        raise InvalidRequest(f"the request takes one of `image` and `image_path`: {ACCEPTED['image']}")
    name = "image" if fields.image is not None else "image_path"
    image = parse_uri(fields.image or fields.image_path or "", name)
    if not fields.outputs:
        raise _refusal("outputs", "it is empty")
    ground_truth = None if fields.ground_truth is None else parse_uri(fields.ground_truth, "ground_truth")
    return SegmentRequest(
        image,
        Parameters(
            fields.threshold,
            fields.mode,
            _parse_pages(fields.pages),
            fields.channel,
            tuple(sorted(set(fields.outputs))),
        ),
        ground_truth,
        fields.group,
        _place_of(fields),
        None if fields.expected_pages is None else _whole("expected_pages", fields.expected_pages),
    )


def _whole(field: str, number: float) -> int:
    """A whole number, as JSON may write it: 3 or 3.0."""
    if not number.is_integer():
        raise _refusal(field, f"{number:g} is not a whole number")
    return int(number)


def _site_of(site: float | str | None) -> str | None:
    if isinstance(site, str):
        return site.strip() or None
    return None if site is None else str(_whole("site", site))


def _place_of(fields: _RequestFields) -> Acquisition:
    """Where and when the image was taken, as far as the request says; raise InvalidRequest."""
    told = Acquisition(
        plate=None if fields.plate is None else check_plate(fields.plate),
        well=None if fields.well is None else check_well(fields.well),
        site=_site_of(fields.site),
        time=None if fields.time is None else check_time(fields.time),
        cell_line=fields.cell_line or None,
    )
    return told if told == NOWHERE else msgspec.structs.replace(told, sources=("request",))


def parse_parameters(fields: Mapping[str, str]) -> Parameters:
    """Read from text how to segment an image that comes without a request; raise InvalidRequest."""
    given = msgspec.convert(_query(fields), _ParameterFields)
    return Parameters(given.threshold, given.mode, _parse_pages(given.pages), given.channel)


def complete(event: object, fields: Mapping[str, str]) -> object:
    """Merge query parameters into the request; fields of the body win. Raise InvalidRequest."""
    return _query(fields) | event if isinstance(event, dict) else event


def _query(fields: Mapping[str, str]) -> dict[str, object]:
    for name, text in fields.items():
        if text.lower() == "null" and name in ACCEPTED:  # msgspec takes it for nothing
            raise _refusal(name, f'"{text}" is none of these')
    given: dict[str, object] = msgspec.to_builtins(_convert(fields, _ParameterFields, strict=False))
    return given


def message_of(request: SegmentRequest) -> str:
    """Write the message that `parse_body` reads as this request."""
    fields = {"image": request.image.uri} | asdict(request.parameters) | {"group": request.label}
    fields["ground_truth"] = request.ground_truth.uri if request.ground_truth else None
    fields |= {name: getattr(request.place, name) for name in ("plate", "well", "site", "time", "cell_line")}
    fields["expected_pages"] = request.expected_pages
    return ascii_json({name: value for name, value in fields.items() if value is not None})


def ascii_json(message: object) -> str:
    """Encode a message in ASCII: SQS does not take all of Unicode."""
    return json.dumps(msgspec.to_builtins(message))


def settling(image: S3Object) -> str:
    """Write the message that `parse_body` reads as a name to look at."""
    return ascii_json({"settle": image.uri})


def awaited_by(job_id: str) -> dict[str, Any]:
    """Make the attributes of a message for which a job waits as QUEUED, as SQS takes them."""
    return {WAITING_JOB: {"DataType": "String", "StringValue": job_id}}


def waiting_job(attributes: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Read which job waits for a message, from its attributes as Lambda passes them on; None if none does.

    The message may become another job: of an image or a model that is newer than the row.
    """
    job_id = attributes.get(WAITING_JOB, {}).get("stringValue")
    return job_id if isinstance(job_id, str) and JOB_ID.fullmatch(job_id) else None


def parse_uri(text: str, field: str) -> S3Object:
    """Read `s3://bucket/key`; raise InvalidRequest, which names `field`."""
    match = S3_URI.fullmatch(text)
    if match is None:
        raise _refusal(
            field, f'"{text[:200]}" is not an S3 address, and files on your own disk are out of reach'
        )
    if len(match["key"].encode()) > LONGEST_KEY:
        raise _refusal(field, f"its key is longer than S3's {LONGEST_KEY} bytes")
    return S3Object(match["bucket"], match["key"])


def _parse_pages(pages: int | str) -> str:
    text = str(pages)
    first, _, last = text.partition("-")
    if not PAGES.fullmatch(text) or (last and int(last) < int(first)):
        raise _refusal("pages", f'"{text[:50]}" is none of these')
    return text if text == "all" else "-".join(map(str, dict.fromkeys([int(first), int(last or first)])))


def _convert(event: object, shape: type[Shape], strict: bool = True) -> Shape:
    try:
        return msgspec.convert(event, shape, strict=strict)
    except msgspec.ValidationError as error:
        field = re.search(r"`\$\.(\w+)", str(error))
        if field and field[1] in ACCEPTED:
            raise _refusal(field[1], str(error).partition(" - at")[0][:300]) from error
        taken = [name for name in ACCEPTED if name in getattr(shape, "__struct_fields__", ())] or ACCEPTED
        raise InvalidRequest(f"{str(error)[:300]}; a request takes {', '.join(taken)}") from error


def _refusal(field: str, fault: str) -> InvalidRequest:
    accepted = ACCEPTED.get(field, "an address such as s3://bucket/key")
    return InvalidRequest(f"`{field}`: {fault}; it takes {accepted}")


def is_coco(key: str) -> bool:
    """Whether a ground truth is a COCO file rather than a mask image, by its name."""
    return key.lower().endswith(".json")
