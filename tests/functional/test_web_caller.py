"""Calls to the HTTP API: signed on AWS, unsigned in the emulator, faults as sentences."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import boto3
import pytest

from cytomask.web.caller import ApiUnreachable, Caller

Seen = list[tuple[str, str, dict[str, str], bytes]]


@pytest.fixture
def api() -> Iterator[tuple[str, Seen]]:
    """A server that records its requests."""
    seen: Seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen.append((self.command, self.path, headers, body))
            self.send_response(202)
            self.send_header("Content-Type", "application/json; charset=utf-8")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/stage", seen
    server.shutdown()
    server.server_close()


def test_a_deployed_stack_is_called_with_the_users_own_signature(api: tuple[str, Seen]) -> None:
    url, seen = api
    session = boto3.Session("AKIDEXAMPLE", "the-secret", "the-session-token", region_name="eu-central-1")
    answer = Caller(url, "eu-central-1", session).call("POST", "/jobs", content={"image": "s3://b/ü.tif"})
    assert (answer.status, answer.kind, answer.json()) == (202, "application/json", {})
    ((method, path, headers, body),) = seen
    assert (method, path, body) == ("POST", "/stage/jobs", '{"image":"s3://b/ü.tif"}'.encode())
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "/eu-central-1/execute-api/aws4_request" in headers["authorization"]
    assert headers["x-amz-security-token"] == "the-session-token"
    assert b"the-secret" not in body and "the-secret" not in str(headers)


def test_the_emulator_is_called_unsigned(api: tuple[str, Seen]) -> None:
    url, seen = api
    Caller(url, "eu-central-1").call("GET", "/jobs", {"group": "a b&c"})
    ((_, path, headers, _),) = seen
    assert path == "/stage/jobs?group=a+b%26c"
    assert "authorization" not in headers


def test_an_endpoint_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ApiUnreachable, match="cannot be called"):
        Caller("http://127.0.0.1:9", "eu-central-1").call("GET", "/jobs")


def test_missing_credentials_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Empty:
        def get_credentials(self) -> None:
            return None

    with pytest.raises(ApiUnreachable, match="aws sso login"):
        Caller("http://127.0.0.1:9", "eu-central-1", Empty()).call("GET", "/jobs")
