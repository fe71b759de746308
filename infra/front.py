"""Serve one Lambda function over HTTP: `python -m cytomask.infra.front FD MODULE:HANDLER [ENDPOINT]`.

FD is an inherited listening socket. ministack posts an event and gets the handler's answer. Like one
environment of Lambda, a front runs one invocation at a time; unlike Lambda, it does not stop a handler that
exceeds its timeout. With the ENDPOINT of an emulator, it restarts when a stack update has changed the
function's environment variables.
"""

import importlib
import io
import json
import os
import queue
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, TextIO

from botocore.exceptions import BotoCoreError, ClientError

from cytomask.infra.children import end_with_parent
from cytomask.infra.session import client, function_environment

RENEWED = "--renewed"

Handler = Callable[[Any, "Context"], Any]


@dataclass(frozen=True)
class Context:
    """The context that Lambda passes to a handler, with Lambda's names and types (memory is a string)."""

    function_name: str
    memory_limit_in_mb: str
    invoked_function_arn: str
    aws_request_id: str
    deadline_ms: int
    function_version: str = "$LATEST"
    client_context: None = None
    identity: None = None

    @property
    def log_group_name(self) -> str:
        """Name the log group that holds the function's lines."""
        return f"/aws/lambda/{self.function_name}"

    @property
    def log_stream_name(self) -> str:
        """Name the log stream, one for each process."""
        return f"local/{os.getpid()}"

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the caller gives up; at least 0."""
        return max(0, self.deadline_ms - _now_ms())


def main() -> None:
    """Serve invocations until the parent ends."""
    end_with_parent()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # one write for each log line
    if os.environ.get("AWS_ENDPOINT_URL"):
        sys.stdout = ShippedOutput(sys.stdout)
    handler = _handler_again(sys.argv[2]) if RENEWED in sys.argv else _handler(sys.argv[2])
    with _server(int(sys.argv[1]), handler, _renewal(sys.argv[3]) if sys.argv[3:] else None) as server:
        server.serve_forever()


def _handler(name: str) -> Handler:
    module, attribute = name.split(":")
    handler: Handler = getattr(importlib.import_module(module), attribute)
    return handler


def _handler_again(name: str) -> Handler:
    """Import the handler; if that fails, return one that fails every invocation until the next update."""
    try:
        return _handler(name)
    except Exception as error:
        failure, trace = error, error.__traceback__

    def failing(_event: Any, _context: Context) -> Any:
        raise failure.with_traceback(trace)  # each `raise` would add its own frames to the earlier ones

    return failing


def _renewal(endpoint: str) -> Callable[[], None]:
    """Return a function that restarts this process if the function's environment variables changed."""
    lambdas = client("lambda", endpoint)
    name = os.environ["AWS_LAMBDA_FUNCTION_NAME"]

    def renew() -> None:
        try:
            wanted = function_environment(lambdas, endpoint, name)
        except (BotoCoreError, ClientError):  # the emulator is shutting down
            return
        if wanted.items() <= os.environ.items():
            return
        if isinstance(sys.stdout, ShippedOutput):
            sys.stdout.wait_until_shipped()
        arguments = [argument for argument in sys.orig_argv[1:] if argument != RENEWED]
        os.execve(sys.executable, [sys.executable, *arguments, RENEWED], {**os.environ, **wanted})

    return renew


class ShippedOutput(io.TextIOBase):
    """Standard output that also ships each line, in order, to the emulator's CloudWatch Logs."""

    def __init__(self, printed: TextIO) -> None:
        """Write to `printed` and to the function's log group."""
        self._printed = printed
        self._unfinished = ""
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._ship, daemon=True).start()

    def write(self, text: str) -> int:
        """Write the text and ship each completed line."""
        *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in filter(None, lines):
            self._lines.put({"timestamp": _now_ms(), "message": line})
        return self._printed.write(text)

    def flush(self) -> None:
        """Flush the underlying output."""
        self._printed.flush()

    def wait_until_shipped(self) -> None:
        """Wait until every completed line is in the log group."""
        self._lines.join()

    def _ship(self) -> None:
        logs = client("logs", os.environ["AWS_ENDPOINT_URL"])
        place = {
            "logGroupName": f"/aws/lambda/{os.environ['AWS_LAMBDA_FUNCTION_NAME']}",
            "logStreamName": f"local/{os.getpid()}",
        }
        with suppress(BotoCoreError, ClientError):  # the log file still has every line
            logs.create_log_stream(**place)
        while True:
            lines = [self._lines.get()]
            while not self._lines.empty():
                lines.append(self._lines.get())
            with suppress(BotoCoreError, ClientError):
                logs.put_log_events(**place, logEvents=lines)
            for _ in lines:
                self._lines.task_done()


def invoke(handler: Handler, event: Any, context: Context) -> tuple[HTTPStatus, bytes]:
    """Call the handler; turn an exception into Lambda's error object and a log line with its traceback."""
    if context.get_remaining_time_in_millis() == 0:
        return _error("Sandbox.Timedout", "the invocation timed out while it waited for the previous one", [])
    try:
        return HTTPStatus.OK, json.dumps(handler(event, context)).encode()
    except Exception as error:
        trace = traceback.format_exception(error)
        _log_failure(error, trace, context)
        return _error(type(error).__name__, str(error), trace)


def _server(descriptor: int, handler: Handler, before_each: Callable[[], None] | None = None) -> HTTPServer:
    class Invocation(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(HTTPStatus.OK, b"{}")

        def do_POST(self) -> None:
            event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(*invoke(handler, event, self._context()))

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing: the handlers' own lines are the log."""

        def _context(self) -> Context:
            return Context(
                function_name=self.headers["X-Amzn-Lambda-Function-Name"],
                memory_limit_in_mb=os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"],
                invoked_function_arn=self.headers["X-Amzn-Lambda-Function-Arn"],
                aws_request_id=self.headers["X-Amzn-Lambda-Request-Id"],
                deadline_ms=int(self.headers["X-Amzn-Lambda-Deadline-Ms"]),
            )

        def _answer(self, status: HTTPStatus, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class Server(HTTPServer):
        def get_request(self) -> Any:
            if before_each:  # before accepting the connection, so that a restarted process can accept it
                before_each()
            return super().get_request()

    inherited = socket.socket(fileno=descriptor)
    server = Server(inherited.getsockname(), Invocation, bind_and_activate=False)
    server.socket.close()
    server.socket = inherited
    return server


def _error(kind: str, message: str, trace: list[str]) -> tuple[HTTPStatus, bytes]:
    body = {"errorMessage": message, "errorType": kind, "stackTrace": trace}
    return HTTPStatus.INTERNAL_SERVER_ERROR, json.dumps(body).encode()


def _log_failure(error: Exception, trace: list[str], context: Context) -> None:
    line = {
        "level": "ERROR",
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "message": "invocation_failed",
        "errorType": type(error).__name__,
        "errorMessage": str(error),
        "stackTrace": trace,
        "function_name": context.function_name,
        "function_request_id": context.aws_request_id,
    }
    sys.stdout.write(json.dumps(line) + "\n")


def _now_ms() -> int:
    return int(time.time() * 1000)


if __name__ == "__main__":
    main()
