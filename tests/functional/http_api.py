"""API Gateway's HTTP API as a WSGI application: the routes of template.yaml, events of format 2.0."""

import base64
import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from cytomask.infra.template import load_template, routes

Invoke = Callable[[Any], Any]
Environ = dict[str, Any]

TEXT = re.compile(r"text/.*|application/(json|javascript|xml)")


def http_api(invoke: Mapping[str, Invoke]) -> Callable[[Environ, Any], Iterable[bytes]]:
    """Make the application; `invoke` maps a function's logical id to a callable."""

    def application(environ: Environ, start_response: Any) -> Iterable[bytes]:
        method, path = (
            environ["REQUEST_METHOD"],
            environ["PATH_INFO"].encode("latin-1").decode(errors="replace"),
        )
        for function, route_method, pattern, route in known_routes():
            match = re.fullmatch(pattern, path)
            if match and method == route_method:
                answer = invoke[function](event_of(environ, method, path, route, match.groupdict()))
                return _respond(answer, start_response)
        return _respond({"statusCode": 404, "body": '{"message":"Not Found"}'}, start_response)

    return application


@cache
def known_routes() -> list[tuple[str, str, str, str]]:
    """List each route's function, its method, a pattern of its path, and its name."""
    return [
        (function, method, re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path), f"{method} {path}")
        for function, method, path in routes(load_template())
    ]


def event_of(
    environ: Environ, method: str, path: str, route: str, parameters: Mapping[str, str]
) -> dict[str, Any]:
    """docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html."""
    headers = {
        name.removeprefix("HTTP_").replace("_", "-").lower(): value
        for name, value in environ.items()
        if name.startswith("HTTP_")
    }
    headers |= {"content-type": environ["CONTENT_TYPE"]} if environ.get("CONTENT_TYPE") else {}
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    text = bool(TEXT.match(headers.get("content-type", "")))
    query = environ.get("QUERY_STRING", "")
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": route,
        "rawPath": path,
        "rawQueryString": query,
        "headers": headers,
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "api-id",
            "domainName": "api-id.execute-api.eu-central-1.amazonaws.com",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"},
            "requestId": "id",
            "routeKey": route,
            "stage": "$default",
            "timeEpoch": int(time.time() * 1000),
        },
        "isBase64Encoded": bool(body) and not text,
    }
    if query:
        fields = parse_qsl(query, keep_blank_values=True)
        event["queryStringParameters"] = {
            name: ",".join(value for other, value in fields if other == name) for name, _ in fields
        }
    if parameters:
        event["pathParameters"] = dict(parameters)
    if body:
        event["body"] = body.decode(errors="replace") if text else base64.b64encode(body).decode()
    return event


def _respond(answer: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    body = answer.get("body") or ""
    content = base64.b64decode(body) if answer.get("isBase64Encoded") else body.encode()
    status = HTTPStatus(answer["statusCode"])
    headers = {"Content-Type": "application/json"} | answer.get("headers", {})
    start_response(f"{status.value} {status.phrase}", list(headers.items()))
    return [content]
