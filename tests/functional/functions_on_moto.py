"""The functions on moto: tests invoke them with events and look at the stack's resources."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import ModuleType
from typing import Any
from wsgiref.util import setup_testing_defaults

import boto3
import msgspec
import numpy as np
from boto3.dynamodb.conditions import Key
from botocore.exceptions import ClientError
from factories import (
    GROUND_TRUTH,
    INPUT,
    OUTPUT,
    QUEUE_URL,
    SEGMENT_QUEUE_URL,
    LambdaContext,
    failed_messages,
    s3_event,
    sqs_batch,
)
from moto.s3.models import s3_backends
from numpy.typing import NDArray
from PIL import Image
from remembering import Remembering
from rights import Role

from cytomask.addresses import S3Object, is_coco
from cytomask.evaluations import awaited
from cytomask.mask_index import MaskIndex
from cytomask.records import JobRow
from cytomask.table import Table

Row = dict[str, Any]
WAITING_JOB = {"job_id", "status", "updated_at", "image", "mask", "group"}  # what tells of its wait


class CountingPredictor:
    """The real network; counts the pages it is asked for."""

    def __init__(self, predictor: Remembering) -> None:
        self._predictor = predictor
        self.manifests, self.wait = predictor.manifests, predictor.wait
        self.pages = 0

    def predict(self, *arguments: Any) -> Any:
        self.pages += 1
        return self._predictor.predict(*arguments)


@dataclass
class Rule:
    operation: str
    act: Callable[[], object]
    times: int
    skip: int
    key: str


@contextmanager
def listening(client: Any, event: str, handler: Callable[..., None]) -> Iterator[None]:
    """Call a handler at an event of a client, which other tests use too."""
    client.meta.events.register(event, handler)
    try:
        yield
    finally:
        client.meta.events.unregister(event, handler)


@dataclass
class Wire:
    """Sits between the handler's clients and AWS: fails calls, or acts before them."""

    rules: list[Rule] = field(default_factory=list)

    def before(
        self, operation: str, act: Callable[[], object], times: int = 1, skip: int = 0, key: str = ""
    ) -> None:
        """Act before calls of `operation` whose S3 key ends in `key`, after the first `skip`."""
        self.rules.append(Rule(operation, act, times, skip, key))

    def fail(
        self, operation: str, code: str, status: int, times: int = 1, skip: int = 0, key: str = ""
    ) -> None:
        def act() -> None:
            answer = {
                "Error": {"Code": code, "Message": "injected"},
                "ResponseMetadata": {"HTTPStatusCode": status},
            }
            raise ClientError(answer, operation)  # type: ignore[arg-type]

        self.before(operation, act, times, skip, key)

    def cut(self, operation: str, skip: int = 0, key: str = "") -> None:
        """Block all further calls, as if the invocation had been killed."""

        def act() -> None:
            for name in ("GetItem", "PutItem", "UpdateItem", "PutObject", "SendMessage"):
                self.fail(name, "Killed", 500, times=1000)
            raise ConnectionError("killed")

        self.before(operation, act, 1, skip, key)

    def mend(self) -> None:
        self.rules.clear()

    def on_call(self, params: dict[str, Any], model: Any, **_: Any) -> None:
        for rule in list(self.rules):
            if rule.operation != model.name or not str(params.get("Key", "")).endswith(rule.key):
                continue
            if rule.skip:
                rule.skip -= 1
                continue
            if rule.times:
                rule.times -= 1
                rule.act()


@contextmanager
def acting(session: boto3.Session | None) -> Iterator[None]:
    """Make clients that a function creates during a call use its own session."""
    kept = boto3.DEFAULT_SESSION
    boto3.DEFAULT_SESSION = session or kept
    try:
        yield
    finally:
        boto3.DEFAULT_SESSION = kept


@dataclass
class SegmentStack:
    """The segment function and the stack's resources."""

    app: ModuleType
    predictor: CountingPredictor
    wire: Wire
    s3: Any
    sqs: Any
    table: Any
    session: boto3.Session | None = None
    invocations: int = 0

    def handle(self, event: Any) -> Any:
        """Invoke the function; pass its answer through JSON, as Lambda does."""
        self.invocations += 1
        with acting(self.session):
            answer = self.app.handler(event, LambdaContext(f"invocation-{self.invocations}"))
        return json.loads(json.dumps(answer))

    def deliver(self, *bodies: Any, waiting: str = "") -> list[int]:
        """Deliver a batch of messages; return the positions of those to deliver again."""
        return failed_messages(self.handle(sqs_batch(*bodies, waiting=waiting)))

    def segment(self, key: str, body: bytes) -> dict[str, Any]:
        """Upload an image, deliver its notification, return its result."""
        self.upload(key, body)
        (result,) = self.handle(s3_event(key))
        return dict(result)

    def upload(self, key: str, body: bytes, bucket: str = INPUT) -> str | None:
        """Upload an object; return its version if the bucket keeps versions.

        A ground truth is indexed as the evaluate function does when S3 announces it.
        """
        version: str | None = self.s3.put_object(Bucket=bucket, Key=key, Body=body).get("VersionId")
        if bucket == GROUND_TRUTH and not is_coco(key):
            MaskIndex(Table(boto3.client("dynamodb"), self.table.name)).name(S3Object(bucket, key), now=0)
        return version

    def age(self, key: str, hours: int) -> None:
        """Make an image this old; S3 gives upload times in whole seconds."""
        (backend,) = (backends["aws"] for backends in s3_backends.values())
        backend.buckets[INPUT].keys[key].last_modified -= timedelta(hours=hours)

    def output(self, key: str) -> bytes:
        content: bytes = self.s3.get_object(Bucket=OUTPUT, Key=key)["Body"].read()
        return content

    def outputs(self) -> set[str]:
        return {item["Key"] for item in self.s3.list_objects_v2(Bucket=OUTPUT).get("Contents", [])}

    def mask(self, key: str) -> NDArray[np.uint8]:
        """Read the mask at an output key; check that it is a PNG of 8 bits and one channel."""
        with Image.open(io.BytesIO(self.output(key)), formats=("PNG",)) as image:
            assert image.mode == "L"
            pixels = np.asarray(image)
        assert set(np.unique(pixels)) <= {0, 255}
        return pixels

    def result(self, key: str) -> dict[str, Any]:
        return dict(json.loads(self.output(key)))

    def pixels(self, key: str) -> NDArray[Any]:
        return np.asarray(Image.open(io.BytesIO(self.output(key)), formats=("PNG",)))

    def rows(self, record: str = "JOB") -> list[Row]:
        """List the rows whose record starts with this, oldest first; a wait for a ground truth counts."""
        items = self.table.scan()["Items"]
        rows = [row for row in items if row["record"].startswith(record)]
        if record.startswith("EVAL"):
            evaluated = {row["job_id"] for row in rows}
            jobs = [row for row in items if row["record"] == "JOB" and row["job_id"] not in evaluated]
            for job in jobs:
                told = {name: job[name] for name in WAITING_JOB & job.keys()}
                rows += map(msgspec.to_builtins, awaited(JobRow(**told)))
        return sorted(rows, key=lambda row: row.get("made_at", row.get("created_at", "")))

    def row(self) -> Row:
        """Return the row of the only job."""
        (row,) = self.rows()
        return row

    def job(self, job_id: str) -> Row:
        return dict(self.table.get_item(Key={"job_id": job_id, "record": "JOB"})["Item"])

    def indexed(self, index: str, name: str, value: str) -> list[Row]:
        answer = self.table.query(IndexName=index, KeyConditionExpression=Key(name).eq(value))
        return list(answer["Items"])

    def set_status(self, status: str, **fields: Any) -> None:
        """Change the row of the only job, as another function would."""
        row = self.row() | {"status": status} | fields
        self.table.put_item(Item=row)

    def expire_lease(self) -> None:
        self.set_status("RUNNING", lease_until=1)

    def evaluation_messages(self) -> list[dict[str, Any]]:
        return [json.loads(message["Body"]) for message in self.take_messages(QUEUE_URL)]

    def take_messages(self, queue_url: str = SEGMENT_QUEUE_URL) -> list[dict[str, Any]]:
        """Receive and delete a queue's messages."""
        answer = self.sqs.receive_message(
            QueueUrl=queue_url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]
        )
        messages = answer.get("Messages", [])
        for message in messages:
            self.sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
        return list(messages)


@dataclass
class EvaluateFunction:
    """The evaluate function, on the same resources as the segment function."""

    app: ModuleType
    stack: SegmentStack

    def deliver(self, *bodies: Any) -> list[int]:
        """Deliver a batch of messages; return the positions of those to deliver again."""
        return failed_messages(self.app.handler(sqs_batch(*bodies), LambdaContext("evaluation")))

    def deliver_queued(self) -> list[int]:
        """Deliver the queued evaluations."""
        messages = self.stack.evaluation_messages()
        return self.deliver(*messages) if messages else []

    def upload(self, key: str, body: bytes) -> list[int]:
        """Upload a ground truth and deliver its notification."""
        self.stack.upload(key, body, bucket=GROUND_TRUTH)
        return self.deliver(s3_event(key, bucket=GROUND_TRUTH))

    def row(self) -> Row:
        """Return the only evaluation."""
        (row,) = self.stack.rows("EVAL")
        return row


@dataclass
class FailuresFunction:
    """The failures function, on the same resources as the segment function."""

    app: ModuleType
    session: boto3.Session | None = None

    def deliver(self, *bodies: Any, queue: str = "cytomask-segment-dlq", waiting: str = "") -> list[int]:
        """Deliver dead letters; return the positions of those that remain in their queue."""
        batch = sqs_batch(*bodies, queue=queue, waiting=waiting)
        with acting(self.session):
            return failed_messages(self.app.handler(batch, LambdaContext("failures")))

    def deliver_evaluations(self, *bodies: Any) -> list[int]:
        return self.deliver(*bodies, queue="cytomask-evaluation-dlq")


@dataclass(frozen=True)
class Sessions:
    """Clients of the tests and a session for each function, made once because that is slow."""

    s3: Any
    sqs: Any
    dynamodb: Any
    of_function: dict[str, boto3.Session]  # and one for the commands, whose rights are their user's
    wire: Wire
    roles: dict[str, Role]


@dataclass(frozen=True)
class ApiFunction:
    """The api function, on the same resources as the segment function."""

    app: ModuleType

    def __call__(self, event: Any) -> Any:
        return json.loads(json.dumps(self.app.handler(event, LambdaContext("api"))))


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, as the caller gets it."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        return self.headers["Content-Type"]


@dataclass
class HttpDoor:
    """The HTTP routes of template.yaml, served by the functions."""

    application: Any
    stack: SegmentStack
    api: ApiFunction

    def call(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json", accept: str = ""
    ) -> Answer:
        path, _, query = path.partition("?")
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": kind if body else "",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
        }
        setup_testing_defaults(environ)
        if accept:
            environ["HTTP_ACCEPT"] = accept
        started: list[Any] = []
        content = b"".join(self.application(environ, lambda *given: started.append(given)))
        ((status, headers),) = started
        return Answer(int(status.split()[0]), dict(headers), content)

    def post(self, path: str, fields: Any, accept: str = "") -> Answer:
        return self.call("POST", path, json.dumps(fields).encode(), accept=accept)

    def get(self, path: str) -> Answer:
        return self.call("GET", path)

    def deliver_queued(self) -> list[int]:
        """Deliver the segment queue's messages, with their attributes, to the segment function."""
        queued = self.stack.take_messages()
        batch = sqs_batch(*(message["Body"] for message in queued))
        for record, message in zip(batch["Records"], queued, strict=True):
            record["messageAttributes"] = {
                name: {"stringValue": value["StringValue"], "dataType": value["DataType"]}
                for name, value in message.get("MessageAttributes", {}).items()
            }
        return failed_messages(self.stack.handle(batch))


@contextmanager
def lines_of(*apps: Any) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Collect the log lines of functions. A message may hold U+0085, which ends no line of a log."""
    written = io.StringIO()
    handlers = [app.logger.registered_handler for app in apps]
    streams = [handler.stream for handler in handlers]
    for handler in handlers:
        handler.stream = written
    try:
        yield lambda: [json.loads(line) for line in written.getvalue().split("\n") if line]
    finally:
        for handler, stream in zip(handlers, streams, strict=True):
            handler.stream = stream
