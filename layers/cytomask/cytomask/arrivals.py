"""Read every kind of event and message.

S3 notifications, EventBridge and SNS events, messages that a person wrote, and direct events all become
`Arrival`s. Pure: nothing here calls AWS.
"""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from urllib.parse import unquote_plus

import msgspec

from cytomask.addresses import (
    LONGEST_KEY,
    S3Object,
    is_coco,
    is_plate_map,
    is_sidecar,
    may_be_plate_map,
    parse_uri,
)
from cytomask.admission import require_ground_truth, require_served
from cytomask.errors import ForeignBucket, InvalidRequest
from cytomask.requests import ACCEPTED, NO_OBJECT, SegmentRequest, ascii_json, convert, decode, parse_request

Arriving = TypeVar("Arriving")
MOST_IMAGES = 100  # in one message
LONGEST_NOTIFIED_KEY = 2 * LONGEST_KEY  # S3 itself refuses keys beyond its own limit
WAITING_JOB = "job_id"
LONGEST_MESSAGE_BYTES = 262_144  # what the queues take, with attributes, and what a row has room for
JOB_ID = re.compile(r"[0-9a-f]{32}")
VersionId = Annotated[str, msgspec.Meta(max_length=1024)]


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
    """Something that cannot be read: its text, and the error."""

    text: str
    error: InvalidRequest


Arrival = SegmentRequest | Settle | PlateMapUpload | Ignored | Refused  # what the segment function is given
_Named = SegmentRequest | S3Object | Settle | Ignored | Refused


def parse_body(body: str) -> list[Arrival]:
    """Read a queue's message or a direct event from JSON.

    Only keys of S3's notifications are decoded, because only S3 encodes them. A part that cannot be read
    becomes a `Refused` rather than an exception, so that the other parts are still done.
    """
    return _bounded([_segmented(arrival) for arrival in _parse_body(body)], body)


def images_of(body: str) -> list[str]:
    """List the addresses of the images that a message names."""
    named = parse_body(body)
    return list(dict.fromkeys(each.image.uri for each in named if isinstance(each, SegmentRequest)))


def _bounded(arrivals: list[Arriving], body: str) -> list[Arriving | Refused]:
    """Refuse a message that names too many images; ignored parts count too."""
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
        if is_plate_map(arrival.key) or may_be_plate_map(arrival.key):
            return PlateMapUpload(arrival)
        return _sidecar(arrival) if is_sidecar(arrival.key) else SegmentRequest(arrival)
    if isinstance(arrival, Settle) and is_sidecar(arrival.image.key):
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
            evaluation = convert(event, Evaluation)
            _require_ours(evaluation, outputs)
            named: list[EvaluationArrival] = [evaluation]
        else:
            named = _bounded([_evaluated(arrival) for arrival in _parse_body(body)], body)
    except InvalidRequest as error:
        return [Refused(body, error)]
    return [_admitted_truth(arrival, body, served=served, outputs=outputs) for arrival in named]


def _require_ours(evaluation: Evaluation, outputs: str) -> None:
    """Raise InvalidRequest if an evaluation cannot come from this stack's functions."""
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
    return _sidecar(uploaded) if is_sidecar(uploaded.key) else uploaded


def _sidecar(uploaded: S3Object) -> Ignored:
    return Ignored(uploaded.key, "a sidecar file, not an image")


def _parse_body(body: str) -> list[_Named]:
    try:
        return _parse_event(decode(body))
    except InvalidRequest as error:
        return [Refused(body, error)]


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
    notified = convert(record, _S3Record)
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
    found = convert(detail, _EventBridgeDetail)
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


def settling(image: S3Object) -> str:
    """Write the message that `parse_body` reads as a name to look at."""
    return ascii_json({"settle": image.uri})


def awaited_by(job_id: str, message: str) -> dict[str, Any]:
    """Make the SQS attributes of a message for which a job waits as QUEUED.

    A message that leaves no room for them goes without. Its job stays QUEUED if the image or the model has
    changed since.
    """
    size = len(message.encode()) + sum(map(len, (WAITING_JOB, "String", job_id)))
    attributes = {WAITING_JOB: {"DataType": "String", "StringValue": job_id}}
    return attributes if size <= LONGEST_MESSAGE_BYTES else {}


def waiting_job(attributes: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Read which job waits for a message from the attributes that Lambda passes on; None if none does.

    The message may become another job, if image or model are newer than the row.
    """
    job_id = attributes.get(WAITING_JOB, {}).get("stringValue")
    return job_id if isinstance(job_id, str) and JOB_ID.fullmatch(job_id) else None
