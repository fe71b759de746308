"""How the page's server answers: JSON, and errors as RFC 9457 has them."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from botocore.exceptions import BotoCoreError, ClientError
from starlette.requests import Request
from starlette.responses import Response

from cytomask.errors import CytomaskError
from cytomask.http import PROBLEM, status_of
from cytomask.web.caller import JSON, ApiUnreachable

MOST_JSON_BYTES = 1_000_000

_encoder = msgspec.json.Encoder(decimal_format="number")


class Refusal(Exception):
    """A call that the server refuses: a status, a code and a sentence."""

    def __init__(self, status: HTTPStatus, code: str, detail: str) -> None:
        """Say what failed and what to do."""
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


def answer(content: Any, status: HTTPStatus = HTTPStatus.OK) -> Response:
    """Make a JSON answer; numbers of DynamoDB become JSON's."""
    return Response(_encoder.encode(content), status, media_type=JSON)


def problem(status: HTTPStatus, code: str, detail: str) -> Response:
    """Make the answer to an error: its code and a sentence."""
    content = {"type": "about:blank", "title": status.phrase, "status": status.value}
    return Response(
        msgspec.json.encode(content | {"detail": detail, "code": code}), status, media_type=PROBLEM
    )


def refused(_: Request, error: Exception) -> Response:
    """Answer a Refusal."""
    assert isinstance(error, Refusal)
    return problem(error.status, error.code, error.detail)


def failed(_: Request, error: Exception) -> Response:
    """Answer an error of the layer."""
    assert isinstance(error, CytomaskError)
    try:
        status = status_of(type(error))
    except StopIteration:
        status = HTTPStatus.INTERNAL_SERVER_ERROR
    return problem(status, error.code, str(error))


def unreachable(_: Request, error: Exception) -> Response:
    """Answer an error of AWS, or of a connection to AWS."""
    if isinstance(error, ClientError):
        said: Mapping[str, Any] = error.response.get("Error", {})
        detail = f"AWS refused {error.operation_name}: {said.get('Message') or said.get('Code')}"
        return problem(HTTPStatus.BAD_GATEWAY, "AWS_REFUSED", detail)
    return problem(HTTPStatus.BAD_GATEWAY, "AWS_UNREACHABLE", str(error))


HANDLERS = {
    Refusal: refused,
    CytomaskError: failed,
    ClientError: unreachable,
    BotoCoreError: unreachable,
    ApiUnreachable: unreachable,
}


async def read_json(request: Request, most: int = MOST_JSON_BYTES) -> dict[str, Any]:
    """Read the body as a JSON object, which no form can send; raise Refusal for anything else."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON:
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", f"send {JSON}")
    body = await read_body(request, most)
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:  # the latter for very deep nesting
        raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_REQUEST", f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise Refusal(HTTPStatus.BAD_REQUEST, "INVALID_REQUEST", "the body is not a JSON object")
    return value


async def read_body(request: Request, most: int) -> bytes:
    """Read the body's bytes; raise Refusal as soon as there are more than `most`."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "BODY_TOO_LARGE", f"the limit is {most} bytes")
        parts.append(part)
    return b"".join(parts)
