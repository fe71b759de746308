"""Call the page's server over a deployed stack, like the page."""

import http.client
import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cytomask.cli.stack import Stack
from cytomask.cli.web import account_of
from cytomask.web.raster import TILE
from cytomask.web.security import Session
from cytomask.web.server import listen, make_server
from cytomask.web.truths import PLACE

ENDED = ("SUCCEEDED", "REJECTED", "FAILED")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class PageClient:
    """A browser's calls, without the browser."""

    session: Session
    cookie: str = ""

    def call(self, method: str, path: str, body: bytes = b"", kind: str = "application/json") -> Answer:
        """Call a route; fail unless it answers 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.session.port, timeout=60)
        headers = {"Origin": f"http://127.0.0.1:{self.session.port}", "Cookie": self.cookie}
        if body:
            headers["Content-Type"] = kind
        try:
            connection.request(method, f"/api/{path}", body, headers)
            answer = connection.getresponse()
            found = Answer(
                answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()
            )
        finally:
            connection.close()
        assert found.status == 200, (method, path, found.status, found.body)
        return found

    def post(self, path: str, content: Any) -> Answer:
        return self.call("POST", path, json.dumps(content).encode())

    def open(self) -> "PageClient":
        """Exchange the token for the cookie."""
        answer = self.post("session", {"token": self.session.token})
        self.cookie = answer.headers["set-cookie"].partition(";")[0]
        return self

    def upload(self, key: str, content: bytes) -> None:
        """Put an image to the address that the server signs."""
        url = self.post("uploads", {"key": key, "size": len(content), "replace": False}).json()["url"]
        with urllib.request.urlopen(urllib.request.Request(url, content, method="PUT"), timeout=60) as answer:
            assert answer.status == 200

    def finished(self, key: str) -> dict[str, Any] | None:
        """Find the job of an image once it has ended."""
        jobs = self.call("GET", "jobs?revision=0").json()["jobs"]
        return next((job for job in jobs if job.get("key") == key and job["status"] in ENDED), None)

    def tile(self, job: str, layer: str) -> NDArray[np.uint8]:
        """Read the first tile of the first page: (at most TILE, at most TILE) uint8."""
        answer = self.call("GET", f"jobs/{job}/pages/0/{layer}/0/0/0")
        size = int(answer.headers["x-height"]), int(answer.headers["x-width"])
        return np.frombuffer(answer.body, np.uint8).reshape(size).copy()

    def save(self, job: str, cells: NDArray[np.bool_]) -> dict[str, str]:
        """Save the first tile, painted, as ground truth."""
        tile = np.zeros((TILE, TILE), bool)
        tile[: cells.shape[0], : cells.shape[1]] = cells
        body = PLACE.pack(0, 0) + np.packbits(tile).tobytes()
        path = f"jobs/{job}/pages/0/truth?base=mask&seen="
        saved: dict[str, str] = self.call("POST", path, body, "application/octet-stream").json()
        return saved

    def score(self, job: str) -> float | None:
        """Look for the IoU of a job."""
        changed = self.post("scores", {"ids": [job]}).json()["jobs"]
        return next((float(each["iou"]) for each in changed if "iou" in each), None)


@contextmanager
def served_page(stack: str, endpoint: str) -> Iterator[PageClient]:
    """Serve the page over a stack within the context."""
    account = account_of(Stack.connect(stack, endpoint), endpoint)
    with listen(0) as listener:
        session = Session(listener.getsockname()[1])
        server = make_server(account, session)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield PageClient(session).open()
        finally:
            server.should_exit = True
            thread.join(10)
