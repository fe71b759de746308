"""The functions among faked AWS resources, fresh for every test."""

import importlib
import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from factories import (
    GROUND_TRUTH,
    INPUT,
    OUTPUT,
    QUEUE_URL,
    SEGMENT_QUEUE_URL,
    TABLE,
)
from functions_on_moto import (
    ApiFunction,
    CountingPredictor,
    EvaluateFunction,
    FailuresFunction,
    HttpDoor,
    SegmentStack,
    Sessions,
    Wire,
)
from http_api import http_api
from moto import mock_aws
from moto_stack import ENVIRONMENT, make_buckets, make_table

from cytomask.cli.stack import Stack
from cytomask.model.predictor import Predictor


@pytest.fixture(scope="session")
def predictor() -> Predictor:
    return Predictor()


@pytest.fixture(scope="session")
def sessions() -> Sessions:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        wire, of_the_function, own = Wire(), boto3.Session(), boto3.Session()
        of_the_function.events.register("provide-client-params", wire.on_call)
        return Sessions(own.client("s3"), own.client("sqs"), own.resource("dynamodb"), of_the_function, wire)


@pytest.fixture
def stack(
    predictor: Predictor, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SegmentStack]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        make_buckets(sessions.s3)
        make_table(sessions.dynamodb)
        sessions.sqs.create_queue(QueueName="cytomask-evaluation")
        sessions.sqs.create_queue(QueueName="cytomask-segment")
        sessions.wire.mend()
        app = importlib.import_module("cytomask.functions.segment.app")
        counting = CountingPredictor(predictor)
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", sessions.of_the_function)  # moto has put another there
        monkeypatch.setattr(app, "Predictor", lambda: counting)
        segmenter, processor = app.connect()
        monkeypatch.setattr(app, "segmenter", segmenter)
        monkeypatch.setattr(app, "processor", processor)
        table = sessions.dynamodb.Table(TABLE)
        yield SegmentStack(app, counting, sessions.wire, sessions.s3, sessions.sqs, table)


@pytest.fixture
def connected(stack: SegmentStack, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """The stack's resources, as every command finds them."""
    make: Any = boto3.client  # typed for literal names only
    clients = {name: make(name) for name in ("s3", "sqs", "dynamodb", "logs")}
    found = Stack(
        "cytomask", INPUT, OUTPUT, GROUND_TRUTH, SEGMENT_QUEUE_URL, QUEUE_URL, TABLE, None, **clients
    )
    monkeypatch.setattr(Stack, "connect", classmethod(lambda *_: found))
    return found


@pytest.fixture
def evaluate(stack: SegmentStack, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> EvaluateFunction:
    app = importlib.import_module("cytomask.functions.evaluate.app")
    evaluator, processor = app.connect()
    monkeypatch.setattr(app, "evaluator", evaluator)
    monkeypatch.setattr(app, "processor", processor)
    return EvaluateFunction(app, stack)


@pytest.fixture
def api(stack: SegmentStack, monkeypatch: pytest.MonkeyPatch) -> ApiFunction:
    app = importlib.import_module("cytomask.functions.api.app")
    monkeypatch.setattr(app, "desk", app.connect())
    return ApiFunction(app)


@pytest.fixture
def http(stack: SegmentStack, api: ApiFunction) -> HttpDoor:
    return HttpDoor(http_api({"SegmentFunction": stack.handle, "ApiFunction": api}), stack, api)


@pytest.fixture
def failures(stack: SegmentStack, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> FailuresFunction:
    app = importlib.import_module("cytomask.functions.failures.app")
    monkeypatch.setattr(app, "recorder", app.connect())
    return FailuresFunction(app)


@pytest.fixture
def log_lines(stack: SegmentStack) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """The JSON lines of one event that the function wrote."""
    handler, written = stack.app.logger.registered_handler, io.StringIO()
    standard_output, handler.stream = handler.stream, written

    def lines(event: str) -> list[dict[str, Any]]:
        parsed = map(json.loads, written.getvalue().splitlines())
        return [line for line in parsed if line["message"] == event]

    yield lines
    handler.stream = standard_output
