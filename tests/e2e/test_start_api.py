"""`sam local start-api`: the HTTP routes, served by the container and the zip function."""

import io
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from account import LOOPBACK
from tools import PATIENCE_SECONDS, left_running, mask_of_command_line, pixels

from cytomask.http import LARGEST_BODY

JSON, PNG, PROBLEM = "application/json", "image/png", "application/problem+json"


@dataclass(frozen=True)
class Answer:
    status: int
    kind: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Door:
    """Serve the routes on a port of this machine."""

    port: int

    def call(self, method: Any, path: Path, body: Any = None, accept: Any = JSON) -> Any:
        request = urllib.request.Request(
            f"http://{LOOPBACK}:{self.port}{path}",
            data=body,
            method=method,
            headers={"Content-Type": JSON, "Accept": accept} if body else {},
        )
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
                return Answer(answer.status, answer.headers["Content-Type"], answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers["Content-Type"], error.read())

    def post(self, path: Path, fields: Any, accept: Any = JSON) -> Any:
        return self.call("POST", path, json.dumps(fields).encode(), accept)


@pytest.fixture(scope="module")
def door(built: Any, environment_file: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    log = tmp_path_factory.mktemp("start-api") / "log"
    with left_running("start-api", environment_file, log) as port:
        yield Door(port)


@pytest.fixture(scope="module")
def picture(pictures: Any) -> Any:
    return next(iter(pictures.values()))


def messages(store: Any) -> Iterator[Any]:
    """Receive the messages that HTTP calls sent, with their job ids; upload notices share the queue."""
    sqs, queue = store.account.client("sqs"), store.outputs["SegmentQueueUrl"]
    wanted = {"QueueUrl": queue, "MaxNumberOfMessages": 10, "MessageAttributeNames": ["All"]}
    while received := sqs.receive_message(**wanted).get("Messages"):
        for message in received:
            if "MessageAttributes" in message:
                yield json.loads(message["Body"]) | {
                    name: value["StringValue"] for name, value in message["MessageAttributes"].items()
                }


def assert_problem(answer: Any, status: int, code: Any) -> None:
    assert (answer.status, answer.kind) == (status, PROBLEM)
    assert (answer.json["status"], answer.json["code"]) == (status, code)


def test_the_answer_gives_the_address_of_the_mask(
    door: Any, store: Any, picture: Any, tmp_path: Path
) -> None:
    answer = door.post("/seg_mask", {"image_path": store.upload("start-api/first.tif", picture)})
    assert (answer.status, answer.kind) == (200, JSON)
    np.testing.assert_array_equal(store.mask(answer.json["mask"]), mask_of_command_line(picture, tmp_path))


def test_a_png_is_the_mask_itself(door: Any, store: Any, picture: Any, tmp_path: Path) -> None:
    image = store.upload("start-api/png.tif", picture)
    answer = door.post("/seg_mask", {"image": image, "threshold": 0.4}, accept=PNG)
    assert (answer.status, answer.kind) == (200, PNG)
    expected = mask_of_command_line(picture, tmp_path, ["--threshold", "0.4"])
    np.testing.assert_array_equal(pixels(io.BytesIO(answer.body)), expected)


def test_a_job_is_queued_reported_and_listed(door: Any, store: Any, picture: Any) -> None:
    image = store.upload("start-api/queued.tif", picture)
    queued = door.post("/jobs", {"image": image, "group": "start api"})
    job_id = queued.json["job_id"]
    assert (queued.status, queued.json["status"]) == (202, "QUEUED")
    told = door.call("GET", f"/jobs/{job_id}").json
    assert (told["status"], told["image"], told["evaluations"]) == ("QUEUED", image, [])
    for search in ("status=QUEUED", "group=start%20api", "status=QUEUED&group=start+api"):
        listed = door.call("GET", f"/jobs?{search}").json
        assert job_id in [job["job_id"] for job in listed["jobs"]]
    message = next(each for each in messages(store) if each["job_id"] == job_id)
    assert (message["image"], message["group"]) == (image, "start api")
    done = door.post("/seg_mask", {"image": image}).json
    assert (done["job_id"], door.call("GET", f"/jobs/{job_id}").json["status"]) == (job_id, "SUCCEEDED")


def test_bad_input_is_answered_with_its_code(door: Any, store: Any, tmp_path: Path) -> None:
    large = tmp_path / "large.tif"
    tifffile.imwrite(large, np.zeros((4000, 4000), np.uint8), compression="zlib")
    image = store.upload("start-api/large.tif", large)
    assert_problem(door.call("POST", "/seg_mask", b"not json"), 400, "INVALID_REQUEST")
    assert_problem(door.post("/seg_mask", {"image_path": "/test_image/a.tif"}), 400, "INVALID_REQUEST")
    assert_problem(door.call("POST", "/jobs", b" " * (LARGEST_BODY + 1)), 413, "BODY_TOO_LARGE")
    assert_problem(door.post("/seg_mask", {"image": image}), 422, "IMAGE_TOO_LARGE")
    assert_problem(door.call("GET", f"/jobs/{'0' * 32}"), 404, "NO_SUCH_JOB")
    assert_problem(door.call("GET", "/jobs?status=QUEUED&cursor=tampered"), 400, "INVALID_REQUEST")
