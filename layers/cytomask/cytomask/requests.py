"""What is asked for: every way in, read into the same request.

An S3 notification, an EventBridge or SNS event, a message that a person wrote and a direct event all
become `SegmentRequest`s. Pure: nothing here asks AWS.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote_plus

import msgspec

from cytomask.errors import ForeignBucket, InvalidRequest, NoSuchPage

Mode = Literal["native", "resize"]
Output = Literal["mask", "probability", "overlay"]
Shape = TypeVar("Shape")

SIDECARS = {".json", ".csv", ".xml", ".txt", ".md", ".db"}
S3_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<key>.+)", re.DOTALL)
PAGES = re.compile(r"all|[0-9]{1,6}(-[0-9]{1,6})?")
LONGEST_KEY = 1024
WAITING_JOB = "job_id"
NO_OBJECT = 'the request is not a JSON object; send one, such as {"image": "s3://bucket/key"}'


@dataclass(frozen=True)
class S3Object:
    """An object, and the version of it where one is known.

    Attributes:
        etag: without quotes.
        uploaded_at: as S3 gives it, in seconds; without versions it tells apart two uploads of the same
            bytes, between which other bytes may have had the key.
    """

    bucket: str
    key: str
    version_id: str | None = None
    etag: str | None = None
    uploaded_at: str | None = None

    @property
    def uri(self) -> str:
        """As `s3://bucket/key`, never encoded."""
        return f"s3://{self.bucket}/{self.key}"

    @property
    def version(self) -> str:
        """What tells its versions apart, of an object that was found: the version's id, else the ETag."""
        return str(self.version_id or self.etag)


@dataclass(frozen=True)
class Parameters:
    """How an image is to be segmented; see the field table of the README for the meanings."""

    threshold: float | None = None
    mode: Mode = "native"
    pages: str = "all"
    channel: int | None = None
    outputs: tuple[Output, ...] = ("mask",)

    def selected(self, count: int, name: str) -> list[int]:
        """The pages asked for, of an image that has `count`; raises NoSuchPage past its end."""
        if self.pages == "all":
            return list(range(count))
        first, _, last = self.pages.partition("-")
        wanted = range(int(first), int(last or first) + 1)
        if wanted.stop > count:
            raise NoSuchPage(
                f"{name} has no page {wanted.stop - 1}: it has {count}, counted from 0; correct `pages`"
            )
        return list(wanted)


@dataclass(frozen=True)
class SegmentRequest:
    """One image to segment. `label`: what to report it by, where the request says so."""

    image: S3Object
    parameters: Parameters = Parameters()
    ground_truth: S3Object | None = None
    label: str | None = None

    @property
    def group(self) -> str:
        """The label, or the cell line of a LIVECell-style name (`A172_Phase_C7_…`), else nothing."""
        if self.label is not None:
            return self.label
        line, found, _ = PurePosixPath(self.image.key).name.partition("_Phase_")
        return line if found else ""


@dataclass(frozen=True)
class Ignored:
    """Something that arrived and asks for nothing, with the reason for the log."""

    what: str
    reason: str


@dataclass(frozen=True)
class Refused:
    """Something that asks for what nobody can understand: its text, and what is wrong with it."""

    text: str
    error: InvalidRequest


Arrival = SegmentRequest | S3Object | Ignored | Refused


def parse_body(body: str) -> list[SegmentRequest | Ignored | Refused]:
    """Reads a queue's message or a direct event, as JSON, whichever of the ways in it came by.

    Keys are decoded where S3 encodes them (its notifications) and nowhere else. What cannot be understood
    is one of the answers and no exception, for the sake of what came with it.
    """
    return [_segmented(arrival) for arrival in _parse_body(body)]


def _segmented(arrival: Arrival) -> SegmentRequest | Ignored | Refused:
    """What the segment function makes of an arrival: an upload becomes a request for its mask."""
    if not isinstance(arrival, S3Object):
        return arrival
    if PurePosixPath(arrival.key).suffix.lower() in SIDECARS:
        return _sidecar(arrival)
    return SegmentRequest(arrival)


def admitted(
    arrival: SegmentRequest | Ignored | Refused, body: str, buckets: Set[str]
) -> SegmentRequest | Ignored | Refused:
    """The arrival; refused where it names a bucket that is none of these. `body`: what it came in."""
    if isinstance(arrival, SegmentRequest):
        try:
            require_served(arrival, buckets)
        except ForeignBucket as error:
            return Refused(body, error)
    return arrival


def require_served(request: SegmentRequest, buckets: Set[str]) -> None:
    """Raises ForeignBucket where a request names a bucket that is none of these."""
    for named in (request.image, request.ground_truth):
        if named and named.bucket not in buckets:
            raise ForeignBucket(
                f"{named.uri} is in a bucket that this stack does not serve: copy it into one of its own, "
                "or have whoever runs the stack add the bucket to AllowedBuckets"
            )


class Evaluation(msgspec.Struct, frozen=True):
    """A message of ours that asks for a score.

    Attributes:
        job_id, record: the evaluation's row.
        ground_truth: in exactly the version that the row is named after.
        result: s3 address of the job's result JSON, which names the masks.
    """

    job_id: str
    record: str
    ground_truth: S3Object
    result: str


def parse_evaluation(body: str) -> list[Evaluation | S3Object | Ignored | Refused]:
    """Reads a message of the evaluation queue: what to score, or the ground truths that were uploaded.

    An upload of a ground truth is announced as that of an image is; a JSON file is one too, in COCO's format.
    """
    try:
        event = decode(body)
        if isinstance(event, dict) and "job_id" in event:
            return [_convert(event, Evaluation)]
    except InvalidRequest as error:
        return [Refused(body, error)]
    return [_evaluated(arrival) for arrival in _parse_body(body)]


def _evaluated(arrival: Arrival) -> S3Object | Ignored | Refused:
    """What the evaluate function makes of an arrival: a ground truth is all that it can be."""
    uploaded = arrival.image if isinstance(arrival, SegmentRequest) else arrival
    if not isinstance(uploaded, S3Object) or is_coco(uploaded.key):
        return uploaded
    suffix = PurePosixPath(uploaded.key).suffix.lower()
    return _sidecar(uploaded) if suffix in SIDECARS else uploaded


def _sidecar(uploaded: S3Object) -> Ignored:
    return Ignored(uploaded.key, "a sidecar file, not an image")


def _parse_body(body: str) -> list[Arrival]:
    try:
        return _parse_event(decode(body))
    except InvalidRequest as error:
        return [Refused(body, error)]


def decode(body: str | bytes) -> object:
    """Reads JSON; raises InvalidRequest."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            f'the message is not JSON ({error}); send an object such as {{"image": "s3://bucket/key"}}'
        ) from error


def _parse_event(event: object) -> list[Arrival]:
    match event:
        case {"Event": "s3:TestEvent"}:
            return [Ignored("s3:TestEvent", "S3 announces that the notification is set up")]
        case {"Type": "Notification", "Message": str(message)}:
            return _parse_body(message)
        case {"Records": [*records]}:
            return [request for record in records for request in _parse_record(record)]
        case {"detail-type": str(kind), "detail": {"bucket": _, "object": _} as detail}:
            return [_from_eventbridge(kind, detail)]
        case {"image": _} | {"image_path": _}:
            return [parse_request(event)]
        case {}:
            raise InvalidRequest(
                f"the request names no image: give `image`, {ACCEPTED['image']} (found "
                f"{', '.join(sorted(map(str, event)))[:300] or 'no field'})"
            )
    raise InvalidRequest(NO_OBJECT)


def _parse_record(record: object) -> list[Arrival]:
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
    version_id: str | None = msgspec.field(name="versionId", default=None)
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
    version_id: str | None = msgspec.field(name="version-id", default=None)
    etag: str | None = None


class _EventBridgeDetail(msgspec.Struct, frozen=True):
    bucket: _Bucket
    object: _EventBridgeObject


def _from_notification(record: object) -> S3Object | Ignored:
    notified = _convert(record, _S3Record)
    if "ObjectCreated:" not in notified.name:
        return Ignored(notified.name, "not an upload")
    found = notified.s3.object
    return _uploaded(notified.s3.bucket.name, unquote_plus(found.key), found.version_id, found.etag)


def _from_eventbridge(kind: str, detail: object) -> S3Object | Ignored:
    if kind != "Object Created":
        return Ignored(kind, "not an upload")
    found = _convert(detail, _EventBridgeDetail)
    return _uploaded(found.bucket.name, found.object.key, found.object.version_id, found.object.etag)


def _uploaded(bucket: str, key: str, version: str | None, etag: str | None) -> S3Object | Ignored:
    if key.endswith("/"):
        return Ignored(key, "a folder's marker")
    return S3Object(bucket, key, version, etag)


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


ACCEPTED = {
    "image": "the image as s3://bucket/key",
    "image_path": "the same as `image`: s3://bucket/key",
    "ground_truth": "a mask image or a COCO file as s3://bucket/key",
    "threshold": "a probability from 0 to 1",
    "mode": '"native" or "resize"',
    "pages": '"all", a page counted from 0, or a range such as "0-3"',
    "channel": "the channel's number, counted from 0",
    "outputs": 'a list of "mask", "probability" and "overlay", with at least one of them',
    "group": "a label of at most 256 characters",
}


def parse_request(event: object) -> SegmentRequest:
    """Reads a request that a person or a program wrote; raises InvalidRequest."""
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
    )


def parse_parameters(fields: Mapping[str, str]) -> Parameters:
    """Reads how to segment an image that comes without a request, from text alone; raises InvalidRequest."""
    given = msgspec.convert(_query(fields), _ParameterFields)
    return Parameters(given.threshold, given.mode, _parse_pages(given.pages), given.channel)


def complete(event: object, fields: Mapping[str, str]) -> object:
    """A request with what else is said of it in text; its own fields count more. Raises InvalidRequest."""
    return _query(fields) | event if isinstance(event, dict) else event


def _query(fields: Mapping[str, str]) -> dict[str, object]:
    for name, text in fields.items():
        if text.lower() == "null" and name in ACCEPTED:  # which msgspec takes for nothing
            raise _refusal(name, f'"{text}" is none of these')
    given: dict[str, object] = msgspec.to_builtins(_convert(fields, _ParameterFields, strict=False))
    return given


def message_of(request: SegmentRequest) -> str:
    """The message that `parse_body` reads as this request, in ASCII: SQS does not take all of Unicode."""
    fields = {"image": request.image.uri} | asdict(request.parameters) | {"group": request.label}
    fields["ground_truth"] = request.ground_truth.uri if request.ground_truth else None
    return json.dumps({name: value for name, value in fields.items() if value is not None})


def awaited_by(job_id: str) -> dict[str, Any]:
    """The attributes of a message for which a job waits as QUEUED, as SQS takes them."""
    return {WAITING_JOB: {"DataType": "String", "StringValue": job_id}}


def waiting_job(attributes: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The job that waits for a message with these attributes, as Lambda passes them on; None where none does.

    The message may become another job: of an image or a model that is newer than the row.
    """
    return attributes.get(WAITING_JOB, {}).get("stringValue") or None


def parse_uri(text: str, field: str) -> S3Object:
    """Reads `s3://bucket/key`; raises InvalidRequest, which names `field`."""
    match = S3_URI.fullmatch(text)
    if match is None:
        raise _refusal(field, f'"{text[:200]}" is no S3 address, and files on your own disk are out of reach')
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
            raise _refusal(field[1], str(error).partition(" - at")[0]) from error
        taken = [name for name in ACCEPTED if name in getattr(shape, "__struct_fields__", ())] or ACCEPTED
        raise InvalidRequest(f"{str(error)[:300]}; a request takes {', '.join(taken)}") from error


def _refusal(field: str, fault: str) -> InvalidRequest:
    return InvalidRequest(f"`{field}`: {fault}; it takes {ACCEPTED[field]}")


@dataclass(frozen=True)
class Work:
    """A request whose image version and model are known: what a job row and a mask stand for."""

    request: SegmentRequest
    model_sha256: str
    model_threshold: float

    @property
    def threshold(self) -> float:
        """The probability that decides: the request's, or the model's own."""
        asked = self.request.parameters.threshold
        return self.model_threshold if asked is None else asked

    @property
    def job_id(self) -> str:
        """The same work has the same id: 32 hex digits of a SHA-256 over all that decides the pixels."""
        image, parameters = self.request.image, self.request.parameters
        identity = [
            image.bucket,
            image.key,
            image.version_id or [image.etag, image.uploaded_at],
            self.model_sha256,
            self.threshold,
            parameters.mode,
            parameters.pages,
            parameters.channel,
            list(parameters.outputs),
        ]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]

    def is_default(self, input_bucket: str) -> bool:
        """Whether its outputs lie under the image's own key rather than under the job's."""
        plain = Parameters(self.request.parameters.threshold) == self.request.parameters
        key = self.request.image.key
        return (
            plain
            and self.threshold == self.model_threshold
            and self.request.image.bucket == input_bucket
            and not key.startswith("jobs/")
            and not re.search(r"\.p\d{4,}$", key)
            and fits(key)
        )


def rejected_message_id(body: str) -> str:
    """The job id of a message that names no image: it has nothing else to be known by."""
    return hashlib.sha256(f"message {body}".encode()).hexdigest()[:32]


LONGEST_SUFFIX = len(".p000000.probability.png")


def fits(key: str) -> bool:
    """Whether S3's longest key leaves room for our suffixes."""
    return len(key.encode()) + LONGEST_SUFFIX <= LONGEST_KEY


def job_prefix(job_id: str, key: str) -> str:
    """Where the outputs of a job lie that does not own its image's name."""
    own = f"jobs/{job_id}/{key}"
    return own if fits(own) else f"jobs/{job_id}/image"


def output_key(prefix: str, kind: str, page: int | None = None) -> str:
    """The key of one output: `<prefix>.mask.png`, of page 3 of a stack `<prefix>.p0003.mask.png`."""
    return f"{prefix}{'' if page is None else f'.p{page:04d}'}.{kind}"


def ground_truth_keys(key: str) -> Sequence[str]:
    """Keys under which a ground truth of the image `key` may lie, the likeliest first."""
    stem = key.removesuffix(PurePosixPath(key).suffix)
    names = dict.fromkeys([key, f"{key}.png", f"{stem}.png", f"{stem}_mask.png"])
    return [name for name in names if len(name.encode()) <= LONGEST_KEY]


def is_coco(key: str) -> bool:
    """Whether a ground truth is a COCO file rather than a mask image, by its name."""
    return key.lower().endswith(".json")


def coco_name(key: str) -> str:
    """The name by which a COCO file may speak of the image `key`: that of the file, without its folders."""
    return PurePosixPath(key).name


def coco_prefix(coco: S3Object) -> str:
    """Where a version of a COCO file lies in parts, each image's under its `coco_name`."""
    return f"jobs/coco/{hashlib.sha256(f'{coco.uri} {coco.version}'.encode()).hexdigest()[:32]}"
