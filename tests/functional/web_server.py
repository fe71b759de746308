"""The page's real server for tests, on a free port, over the faked account."""

import http.client
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from factories import GROUND_TRUTH, INPUT, OUTPUT, TABLE

from cytomask.web.account import Account, LogLine
from cytomask.web.caller import Caller
from cytomask.web.security import Session
from cytomask.web.server import listen, make_server

NOBODY = "http://127.0.0.1:9"  # the discard port: nothing answers


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Browser:
    """Calls the server as the page does; `cookie` is empty before the session is opened."""

    session: Session
    cookie: str = ""
    log: list[str] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.session.port}"

    def call(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str | None] | None = None
    ) -> Answer:
        """Send a request; headers of None are left out."""
        given: dict[str, str | None] = {"Cookie": self.cookie or None}
        if method != "GET":
            given |= {"Origin": self.origin, "Content-Type": "application/json"}
        given |= headers or {}
        connection = http.client.HTTPConnection("127.0.0.1", self.session.port, timeout=30)
        try:
            skip_host = "Host" in given
            connection.putrequest(method, path, skip_host=skip_host, skip_accept_encoding=True)
            for name, value in given.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return Answer(
                answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
            )
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str | None] | None = None) -> Answer:
        return self.call("GET", path, headers=headers)

    def post(self, path: str, content: Any = None, headers: dict[str, str | None] | None = None) -> Answer:
        return self.call("POST", path, json.dumps(content).encode(), headers)

    def open(self) -> "Browser":
        """Exchange the token for the cookie."""
        answer = self.post("/api/session", {"token": self.session.token})
        assert answer.status == 200, answer.body
        self.cookie = answer.headers["set-cookie"].partition(";")[0]
        return self


def account_of(
    s3: Any, dynamodb: Any, lines: Sequence[LogLine] = (), redriven: list[str] | None = None
) -> Account:
    """The account of the functional tests; `redriven` records redriven jobs."""

    def redrive(job_id: str) -> bool:
        if redriven is None:
            return False
        redriven.append(job_id)
        return True

    return Account(
        name="cytomask",
        input_bucket=INPUT,
        output_bucket=OUTPUT,
        ground_truth_bucket=GROUND_TRUTH,
        table=TABLE,
        s3=s3,
        dynamodb=dynamodb,
        caller=Caller(NOBODY, "eu-central-1"),
        log_lines=lambda job_id: [line for line in lines if job_id in line.text],
        redrive=redrive,
    )


@contextmanager
def served(account: Account) -> Iterator[Browser]:
    """Run the server within the context."""
    with listen(0) as listener:
        session = Session(listener.getsockname()[1])
        server = make_server(account, session)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield Browser(session)
        finally:
            server.should_exit = True
            thread.join(10)
