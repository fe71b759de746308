"""Fixtures of the functional tests: the functions on moto, fresh for every test."""

import importlib
from collections.abc import Callable, Iterator
from functools import cache
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
    lines_of,
)
from http_api import http_api
from moto import mock_aws
from moto_stack import ENVIRONMENT, make_buckets, make_queues, make_table
from remembering import Remembering
from rights import Role, read_policy, read_roles

from cytomask.cli.stack import Stack
from cytomask.model.predictor import Predictor


@pytest.fixture(scope="session")
def predictor() -> Remembering:
    return Remembering(Predictor(threads=1))  # as many tests run side by side as there are cores


@pytest.fixture(scope="session")
def sessions() -> Sessions:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        wire, own = Wire(), boto3.Session()
        rights = [*read_policy("operator").rights, *read_policy("bucket").rights]
        roles = read_roles() | {"command": Role(rights)}
        of_function = {name: boto3.Session() for name in roles}
        for name, session in of_function.items():
            session.events.register("provide-client-params", wire.on_call)
            session.events.register("provide-client-params", roles[name].on_call)
            session.client = cache(session.client)  # type: ignore[method-assign]
        s3, sqs, dynamodb = own.client("s3"), own.client("sqs"), own.resource("dynamodb")
        return Sessions(s3, sqs, dynamodb, of_function, wire, roles)


@pytest.fixture
def roles(sessions: Sessions) -> Iterator[dict[str, Role]]:
    """What each function may do; the test fails if one did what its role in template.yaml does not allow."""
    for role in sessions.roles.values():
        role.denied.clear()
    yield sessions.roles
    functions = {name: role for name, role in sessions.roles.items() if name != "command"}
    assert {name: role.denied for name, role in functions.items() if role.denied} == {}


@pytest.fixture
def stack(
    predictor: Remembering, sessions: Sessions, roles: dict[str, Role], monkeypatch: pytest.MonkeyPatch
) -> Iterator[SegmentStack]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with mock_aws():
        make_buckets()
        make_queues()
        make_table()
        sessions.wire.mend()
        app = importlib.import_module("cytomask.functions.segment.app")
        counting = CountingPredictor(predictor)
        monkeypatch.setattr(
            boto3, "DEFAULT_SESSION", sessions.of_function["segment"]
        )  # moto put another there
        monkeypatch.setattr(app, "Predictor", lambda **_: counting)
        segmenter, processor = app.connect()
        monkeypatch.setattr(app, "segmenter", segmenter)
        monkeypatch.setattr(app, "processor", processor)
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", sessions.of_function["command"])
        table = sessions.dynamodb.Table(TABLE)
        own = sessions.of_function["segment"]
        yield SegmentStack(app, counting, sessions.wire, sessions.s3, sessions.sqs, table, own)


@pytest.fixture
def connected(
    stack: SegmentStack, roles: dict[str, Role], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    """The stack's resources, as every command finds them.

    The test fails if a command did what the policies of operator and bucket do not allow.
    """
    make: Any = boto3.client  # typed for literal names only
    clients = {name: make(name) for name in ("s3", "sqs", "dynamodb", "logs")}
    found = Stack(
        "cytomask", INPUT, OUTPUT, GROUND_TRUTH, SEGMENT_QUEUE_URL, QUEUE_URL, TABLE, None, **clients
    )
    monkeypatch.setattr(Stack, "connect", classmethod(lambda *_: found))
    yield found
    assert roles["command"].denied == set()


@pytest.fixture
def evaluate(stack: SegmentStack, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> EvaluateFunction:
    app = importlib.import_module("cytomask.functions.evaluate.app")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", sessions.of_function["evaluate"])
    evaluator, processor = app.connect()
    monkeypatch.setattr(app, "evaluator", evaluator)
    monkeypatch.setattr(app, "processor", processor)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", sessions.of_function["command"])
    return EvaluateFunction(app, stack)


@pytest.fixture
def api(stack: SegmentStack, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> ApiFunction:
    app = importlib.import_module("cytomask.functions.api.app")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", sessions.of_function["api"])
    desk, plate_desk = app.connect()
    monkeypatch.setattr(app, "desk", desk)
    monkeypatch.setattr(app, "plate_desk", plate_desk)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", sessions.of_function["command"])
    return ApiFunction(app)


@pytest.fixture
def http(stack: SegmentStack, api: ApiFunction) -> HttpDoor:
    return HttpDoor(http_api({"SegmentFunction": stack.handle, "ApiFunction": api}), stack, api)


@pytest.fixture
def failures(stack: SegmentStack, sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> FailuresFunction:
    app = importlib.import_module("cytomask.functions.failures.app")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", sessions.of_function["failures"])
    monkeypatch.setattr(app, "recorder", app.connect())
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", sessions.of_function["command"])
    return FailuresFunction(app, sessions.of_function["failures"])


@pytest.fixture
def log_lines(stack: SegmentStack) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Return a function that reads the log lines of one event."""
    with lines_of(stack.app) as lines:
        yield lambda event: [line for line in lines() if line["message"] == event]
