"""What the HTTP routes share: reading bodies and queries, and answering errors as RFC 9457 says."""

import base64
import binascii
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, Response
from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEventV2
from botocore.exceptions import ClientError

from cytomask.errors import (
    BodyTooLarge,
    CytomaskError,
    ForeignBucket,
    ImageReplaced,
    InvalidRequest,
    JobHeld,
    NoSuchJob,
    NoSuchPlate,
    NoSuchRoute,
    NotAcceptable,
    PassingFault,
    RejectedInput,
    ServiceFault,
    UnsupportedMediaType,
    code_of,
)

JSON = "application/json"
CSV = "text/csv"
PROBLEM = "application/problem+json"
LARGEST_BODY = 4_000_000  # bytes; as base64 well within the 6 MB that Lambda takes
RETRY_AFTER_SECONDS = "5"

STATUSES: dict[type[CytomaskError], HTTPStatus] = {
    InvalidRequest: HTTPStatus.BAD_REQUEST,
    ForeignBucket: HTTPStatus.FORBIDDEN,
    NoSuchJob: HTTPStatus.NOT_FOUND,
    NoSuchPlate: HTTPStatus.NOT_FOUND,
    NoSuchRoute: HTTPStatus.NOT_FOUND,
    NotAcceptable: HTTPStatus.NOT_ACCEPTABLE,
    ImageReplaced: HTTPStatus.CONFLICT,
    JobHeld: HTTPStatus.CONFLICT,
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMediaType: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    RejectedInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    PassingFault: HTTPStatus.SERVICE_UNAVAILABLE,
}

_encoder = msgspec.json.Encoder(decimal_format="number")


def is_http(event: object) -> bool:
    """Tell whether an event is a request from an HttpApi, in its format 2.0."""
    match event:
        case {"version": "2.0", "requestContext": {"http": _}}:
            return True
    return False


def make_door(logger: Logger, metrics: Metrics) -> APIGatewayHttpResolver:
    """Make a resolver that turns every fault behind it into a problem answer, and counts it."""
    door = APIGatewayHttpResolver()

    @door.not_found
    def lost(_: Exception) -> Response[bytes | str]:
        event = door.current_event
        return problem(
            NoSuchRoute(f"there is no route {event.http_method} {event.path}; see docs/openapi.yaml")
        )

    def refused(error: CytomaskError) -> Response[bytes | str]:
        logger.info("call_refused", error_code=error.code, error=str(error))
        metrics.add_metric("CallsRefused", MetricUnit.Count, 1)
        return problem(error)

    def failed(error: Exception) -> Response[bytes | str]:
        logger.exception("attempt_failed")
        metrics.add_metric("AttemptsFailed", MetricUnit.Count, 1)
        said = code_of(error) if isinstance(error, ClientError) else ""
        return problem(ServiceFault(f"{said or type(error).__name__}; try again, the log has the details"))

    door.exception_handler(CytomaskError)(refused)
    door.exception_handler(Exception)(failed)
    return door


def answer(
    status: HTTPStatus, content: Any, headers: dict[str, str] | None = None, kind: str = JSON
) -> Response[bytes | str]:
    """Answer with JSON."""
    return Response(status, kind, _encoder.encode(content).decode(), headers)


def problem(error: CytomaskError, **more: Any) -> Response[bytes | str]:
    """Answer with an error in the form of RFC 9457, with its code and `more` about it."""
    return problem_of(status_of(type(error)), error.code, str(error), **more)


def problem_of(status: HTTPStatus, code: str, detail: str, **more: Any) -> Response[bytes | str]:
    """Answer with the error of a result."""
    content = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail}
    waiting = status in (HTTPStatus.CONFLICT, HTTPStatus.SERVICE_UNAVAILABLE)
    headers = {"Retry-After": RETRY_AFTER_SECONDS} if waiting else {}
    return answer(status, content | {"code": code} | more, headers, PROBLEM)


def status_of(error: type[CytomaskError]) -> HTTPStatus:
    """Find the status of a class of errors: its own, or that of the nearest class above it."""
    return next(STATUSES[kind] for kind in error.__mro__ if kind in STATUSES)


def media_type(event: APIGatewayProxyEventV2) -> str:
    """Read the body's media type, without its parameters; empty if none is named."""
    return event.headers.get("content-type", "").partition(";")[0].strip().lower()


def read_json(event: APIGatewayProxyEventV2) -> bytes:
    """Read the body of a request that must be JSON; raise UnsupportedMediaType, or as `read_body` does."""
    if media_type(event) != JSON:
        raise UnsupportedMediaType(
            f"the body has the media type {media_type(event)[:100] or '(none)'}; send JSON, with "
            f"`Content-Type: {JSON}`"
        )
    return read_body(event)


def read_body(event: APIGatewayProxyEventV2) -> bytes:
    """Read the body's bytes; raise BodyTooLarge."""
    text = event.body or ""
    try:
        body = base64.b64decode(text, validate=True) if event.is_base64_encoded else text.encode()
    except (binascii.Error, UnicodeEncodeError) as error:
        raise InvalidRequest(f"the body cannot be read: {error}") from error
    if len(body) > LARGEST_BODY:
        raise BodyTooLarge(
            f"the body has {len(body)} bytes, the limit is {LARGEST_BODY}; upload the image to the input "
            "bucket and name it as s3://bucket/key"
        )
    return body


def read_query(event: APIGatewayProxyEventV2) -> dict[str, str]:
    """Read the query's fields; raise InvalidRequest if one comes twice."""
    pairs = parse_qsl(event.raw_query_string or "", keep_blank_values=True)
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise InvalidRequest(
            f"a field comes twice in the query {event.raw_query_string[:300]}; send each once"
        )
    return fields


def prefers(event: APIGatewayProxyEventV2, wanted: str, other: str) -> bool:
    """Tell whether the `Accept` header ranks media type `wanted` above `other` (RFC 9110, 12.5.1)."""
    ranges = dict(map(_media_range, event.headers.get("accept", "").split(",")))
    return _quality(ranges, wanted) > _quality(ranges, other)


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
    try:
        return name, float(quality)
    except ValueError:
        return name, 0.0


def _quality(ranges: dict[str, float], media: str) -> float:
    general = f"{media.partition('/')[0]}/*"
    return next((ranges[name] for name in (media, general, "*/*") if name in ranges), 0.0)
