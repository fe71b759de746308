"""A stack whose queues, clock and crashes a test decides: every message is delivered when the test says so.

The functions are the real ones, on moto. Only the adapter (`find`, `connected`) knows where this version of
cytomask keeps them, so that the same machine runs on version 0.1.
"""

import importlib
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from types import ModuleType
from typing import Any

import boto3
import numpy as np
import tifffile
from factories import (
    INPUT,
    OUTPUT,
    REGION,
    SEGMENT_QUEUE_URL,
    TABLE,
    event_file,
    failed_messages,
    page,
    s3_record,
    sqs_batch,
)
from moto import mock_aws
from moto.s3.models import s3_backends
from moto_stack import make_buckets, make_queues, make_table
from PIL import Image
from remembering import Remembering

ATTACHED = "lab-images"  # images have the name under which their masks lie; those of this bucket begin so
TRIES = 5
LEASE = 200  # seconds after which whoever worked is dead
START = 1_800_000_000
PICTURE = re.compile(r"(\.p\d{4,6})?\.(mask|probability|overlay)\.png")


class Killed(BaseException):
    """The process was killed; the function's own handlers must not catch this."""


@dataclass(frozen=True)
class Content:
    """An upload: seeds of its pages; empty for a file that is not an image."""

    seeds: tuple[int, ...]

    @property
    def body(self) -> bytes:
        if not self.seeds:
            return b"no image"
        stream = io.BytesIO()
        pixels = np.stack([page(seed) for seed in self.seeds]) if len(self.seeds) > 1 else page(self.seeds[0])
        tifffile.imwrite(stream, pixels, photometric="minisblack")
        return stream.getvalue()


CONTENTS = (Content((0,)), Content((1,)), Content((0, 1, 2)), Content((2, 0)), Content(()))


class RememberingPredictor(Remembering):
    """The real networks, and their masks of each content."""

    def masks(self, content: Content) -> dict[str, bytes]:
        """Return the outputs that an image with this content must have under its name: suffix -> pixels."""
        masks = {}
        for number, seed in enumerate(content.seeds):
            suffix = f".p{number:04d}.mask.png" if len(content.seeds) > 1 else ".mask.png"
            mask = self.predict(page(seed), "native", self.manifests["native"].threshold).mask
            masks[suffix] = (mask * np.uint8(255)).tobytes()
        return masks


def place_of(name: str) -> tuple[str, str]:
    """The bucket and the key of an image by its name."""
    if name.startswith(f"{ATTACHED}/"):
        return ATTACHED, name.removeprefix(f"{ATTACHED}/")
    return INPUT, name


@dataclass
class Message:
    """A queued message. `change`: the key and which of its changes it announces."""

    body: str
    change: tuple[str, int] | None
    waiting: str = ""
    tries: int = 0


@dataclass
class Interruption:
    """Something that happens at one of an invocation's calls."""

    at: int
    act: Callable[[], None] | None  # None: the process is killed
    after: bool = False  # the call itself is done first
    calls: int = 0
    dead: bool = False

    def before(self, **_: Any) -> None:
        if self.dead:
            raise Killed
        self.calls += 1
        if self.calls == self.at and not self.after:
            self._strike()

    def done(self, **_: Any) -> None:
        if self.calls == self.at and self.after:
            self.at = -1
            self._strike()

    def _strike(self) -> None:
        if self.act is None:
            self.dead = True
            raise Killed
        self.act()


@dataclass
class World:
    """The stack, and the test's model of it."""

    s3: Any
    sqs: Any
    table: Any
    segment: ModuleType
    failures: ModuleType
    predictor: RememberingPredictor
    versioned: bool
    now: float = START
    queue: list[Message] = field(default_factory=list)
    dead: list[Message] = field(default_factory=list)
    changes: dict[str, int] = field(default_factory=dict)
    contents: dict[str, Content | None] = field(default_factory=dict)
    unseen: set[str] = field(default_factory=set)  # the last change was lost
    expired: set[str] = field(default_factory=set)  # outputs were taken away by their retention
    interruptions: list[Interruption] = field(default_factory=list)
    invocations: int = 0
    crashes: int = 0

    # What users and S3 do

    def upload(self, key: str, content: Content) -> None:
        bucket, place = place_of(key)
        version = self.s3.put_object(Bucket=bucket, Key=place, Body=content.body).get("VersionId")
        self._set_time(key)
        self._changed(key, content, "ObjectCreated:Put", version)

    def delete(self, key: str) -> None:
        """Delete an image if it exists."""
        if self.contents.get(key) is None:
            return
        bucket, place = place_of(key)
        self.s3.delete_object(Bucket=bucket, Key=place)
        kind = "ObjectRemoved:DeleteMarkerCreated" if self.versioned else "ObjectRemoved:Delete"
        self._changed(key, None, kind, None)

    def copy_in(self, key: str, body: dict[str, Any]) -> None:
        self.queue.append(Message(json.dumps(body), (key, self.changes.get(key, 0))))

    def expire_outputs(self, key: str, which: int) -> None:
        """Delete one output of an image, or all, like retention."""
        lying = sorted(self.lying(key))
        for name in lying if which == 0 else lying[which % len(lying) :][:1] if lying else []:
            self.s3.delete_object(Bucket=OUTPUT, Key=name)
        self.expired.add(key)

    def _changed(self, key: str, content: Content | None, kind: str, version: str | None) -> None:
        self.contents[key] = content
        self.changes[key] = self.changes.get(key, 0) + 1
        self.unseen.discard(key)
        bucket, place = place_of(key)
        record = s3_record(place, bucket, version=version if self.versioned else None)
        record["eventName"] = kind
        self.queue.append(Message(json.dumps({"Records": [record]}), (key, self.changes[key])))

    def _set_time(self, key: str) -> None:
        """Set an upload's time in whole seconds, like S3."""
        (backend,) = (backends["aws"] for backends in s3_backends.values())
        bucket, place = place_of(key)
        backend.buckets[bucket].keys[place].last_modified = datetime.fromtimestamp(
            int(self.now), UTC
        ).replace(tzinfo=None)

    # What queues do

    def lose(self, index: int) -> None:
        message = self.queue.pop(index % len(self.queue))
        if message.change and message.change[1] == self.changes.get(message.change[0]):
            self.unseen.add(message.change[0])

    def deliver(self, *indices: int) -> None:
        """Deliver a batch to the segment function; failed messages return, and die after five attempts."""
        places = sorted({index % len(self.queue) for index in indices}, reverse=True)
        batch = [self.queue.pop(place) for place in places]
        for message in batch:
            message.tries += 1
        failed = self._invoke(self.segment, batch, "cytomask-segment")
        for message in (batch[place] for place in failed):
            (self.dead if message.tries >= TRIES else self.queue).append(message)

    def deliver_dead(self, index: int) -> None:
        message = self.dead.pop(index % len(self.dead))
        if self._invoke(self.failures, [message], "cytomask-segment-dlq"):
            self.dead.append(message)

    def redrive(self) -> None:
        """Send the jobs that failed again, as `cytomask redrive` does."""
        for row in self.jobs():
            if row.get("status") != "FAILED" or "image" not in row:
                continue
            values = {"status": "QUEUED", "attempt": row.get("attempt", 1) + 1}
            gone = ("error", "error_code")
            self.table.put_item(
                Item={name: value for name, value in row.items() if name not in gone} | values
            )
            self.queue.append(Message(row["message"], None, waiting=row["job_id"]))

    def http(self, key: str) -> tuple[int, Any] | None:
        """Request a mask over HTTP; None if the process was killed."""
        event = event_file("http-seg-mask") | {
            "body": json.dumps({"image": "s3://{}/{}".format(*place_of(key))}),
            "isBase64Encoded": False,
        }
        answer = self._handle(self.segment, event)
        return None if answer is None else (answer["statusCode"], json.loads(answer["body"]))

    def _invoke(self, app: ModuleType, batch: list[Message], queue: str) -> list[int]:
        records = []
        for message in batch:
            records += sqs_batch(message.body, queue=queue, waiting=message.waiting)["Records"]
        for place, record in enumerate(records):
            record["messageId"] = f"m{place}"
        answer = self._handle(app, {"Records": records})
        return [*range(len(batch))] if answer is None else failed_messages(answer)

    def _handle(self, app: ModuleType, event: Any) -> Any:
        self.invocations += 1
        try:
            return json.loads(json.dumps(app.handler(event, Context(f"invocation-{self.invocations}"))))
        except Killed:
            self.crashes += 1
            return None
        finally:
            self._collect()

    def _collect(self) -> None:
        """Move what the functions sent to themselves into the queue."""
        while messages := self.sqs.receive_message(
            QueueUrl=SEGMENT_QUEUE_URL, MaxNumberOfMessages=10, WaitTimeSeconds=0
        ).get("Messages", []):
            for message in messages:
                self.queue.append(Message(message["Body"], None))
                self.sqs.delete_message(QueueUrl=SEGMENT_QUEUE_URL, ReceiptHandle=message["ReceiptHandle"])

    @contextmanager
    def interrupted(self, interruption: Interruption) -> Iterator[None]:
        self.interruptions.append(interruption)
        try:
            yield
        finally:
            self.interruptions.remove(interruption)

    # Looking

    def rows(self) -> list[dict[str, Any]]:
        return list(self.table.scan()["Items"])

    def jobs(self) -> list[dict[str, Any]]:
        return [row for row in self.rows() if row["record"] == "JOB"]

    def announced(self, key: str) -> set[str]:
        """Return the jobs that announced themselves as writers of an image's name and were not forgotten."""
        image = "s3://{}/{}".format(*place_of(key))
        rows = [row for row in self.rows() if row["record"].startswith("TRUTH_OF#") and row["image"] == image]
        return {writer for row in rows for writer in row if isinstance(row[writer], dict)}

    def lying(self, key: str) -> dict[str, bytes]:
        """Return the pictures under an image's name: key -> pixels."""
        listed = self.s3.list_objects_v2(Bucket=OUTPUT, Prefix=f"{key}.").get("Contents", [])
        names = [each["Key"] for each in listed if PICTURE.fullmatch(each["Key"].removeprefix(key))]
        return {name: self._pixels(name) for name in names}

    def _pixels(self, name: str) -> bytes:
        body = self.s3.get_object(Bucket=OUTPUT, Key=name)["Body"].read()
        with Image.open(io.BytesIO(body)) as image:
            return np.asarray(image).tobytes()

    def expected(self, key: str) -> dict[str, bytes]:
        content = self.contents.get(key)
        masks = self.predictor.masks(content) if content else {}
        return {f"{key}{suffix}": pixels for suffix, pixels in masks.items()}

    def come_to_rest(self) -> None:
        """Let all time pass and deliver all messages, until no invocation runs and no message waits."""
        for _ in range(400):
            self.now += LEASE
            if self.queue:
                self.deliver(0)
            elif self.dead:
                self.deliver_dead(0)
            else:
                return
        raise AssertionError(
            f"messages that never end: {[message.body for message in self.queue + self.dead]}"
        )


@dataclass(frozen=True)
class Context:
    """The context that Lambda passes with the event."""

    aws_request_id: str
    function_name: str = "cytomask-segment"
    memory_limit_in_mb: int = 3008
    invoked_function_arn: str = "arn:aws:lambda:eu-central-1:000000000000:function:cytomask-segment"

    def get_remaining_time_in_millis(self) -> int:
        return 120_000


@contextmanager
def a_world(predictor: Any, *, versioned: bool) -> Iterator[World]:
    """Make a fresh stack on moto."""
    with mock_aws():
        made = connected(predictor)
        make_buckets()
        made.s3.create_bucket(Bucket=ATTACHED, CreateBucketConfiguration={"LocationConstraint": REGION})
        make_queues()
        make_table()
        if versioned:
            for bucket in (INPUT, ATTACHED):
                made.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        table = made.dynamodb.Table(TABLE)
        world = World(made.s3, made.sqs, table, made.segment, made.failures, predictor, versioned)
        present.append(world)
        kept = made.segment.segmenter, made.segment.processor, made.failures.recorder
        made.segment.segmenter, made.segment.processor, made.failures.recorder = made.parts
        try:
            yield world
        finally:
            present.remove(world)
            made.segment.segmenter, made.segment.processor, made.failures.recorder = kept


present: list[World] = []  # the one that clocks and calls belong to


@dataclass(frozen=True)
class Connected:
    """Clients and functions, created once because that is slow."""

    s3: Any
    sqs: Any
    dynamodb: Any
    segment: Any
    failures: Any
    parts: tuple[Any, Any, Any]


def find(function: str) -> Any:
    """Return the entry point of a function, in 0.2 or in 0.1."""
    try:
        return importlib.import_module(f"cytomask.functions.{function}.app")
    except ModuleNotFoundError:
        return importlib.import_module(f"functions.{function}.app")


@cache
def connected(predictor: Any) -> Connected:
    """Connect both functions to the clock and the interruptions of the current world."""
    own, session = boto3.Session(), boto3.Session()
    session.events.register("provide-client-params", lambda **_: strike("before"))
    session.events.register("after-call", lambda **_: strike("done"))
    segment, failures = find("segment"), find("failures")
    kept = boto3.DEFAULT_SESSION, segment.Predictor
    boto3.DEFAULT_SESSION, segment.Predictor = session, lambda: predictor
    try:
        segmenter, processor = segment.connect()
        recorder = failures.connect()
    finally:
        boto3.DEFAULT_SESSION, segment.Predictor = kept
    for holder in holders(segmenter) + holders(recorder):
        if hasattr(holder, "_clock"):
            holder._clock = lambda: present[-1].now
    parts = segmenter, processor, recorder
    return Connected(own.client("s3"), own.client("sqs"), own.resource("dynamodb"), segment, failures, parts)


def holders(root: Any) -> list[Any]:
    """Yield an object and its attributes, two levels deep."""
    parts = [part for part in vars(root).values() if hasattr(part, "__dict__")]
    return [root, *parts, *(inner for part in parts for inner in vars(part).values())]


def strike(moment: str) -> None:
    """Pass a call to the innermost interruption."""
    if present and present[-1].interruptions:
        getattr(present[-1].interruptions[-1], moment)()
