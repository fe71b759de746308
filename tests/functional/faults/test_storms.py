"""Storms of faults, kills and duplicates, after which every image has one final status and its mask."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError
from factories import INPUT, OUTPUT, page, s3_event, tiff
from functions_on_moto import FailuresFunction, SegmentStack

from benchmarks.reconcile import discrepancies

S3_CALLS = ("HeadObject", "GetObject", "ListObjectsV2", "PutObject", "DeleteObject")
CALLS = (*S3_CALLS, "UpdateItem", "GetItem", "PutItem", "DeleteItem", "Query")
# The calls to S3 and DynamoDB for one image without a ground truth, as in docs/costs.md.
CALLS_OF_ONE_IMAGE = 11
# Each process records a group once, so the next image of the same group makes one call less.
CALLS_OF_THE_NEXT = CALLS_OF_ONE_IMAGE - 1
TRIES = 5
KEY = "plate 1/a.tif"
PASSING = {
    "throttled": ("ThrottlingException", 400),
    "slow": ("SlowDown", 503),
    "failing": ("InternalError", 500),
}


@dataclass
class Storm:
    """Faults between the function and AWS, call by call; `strike` gets the call's number and name."""

    strike: Callable[[int, str], None]
    calls: int = 0

    def rage(self, stack: Any) -> None:
        for name in CALLS:
            stack.wire.before(name, lambda name=name: self._call(name), times=100_000)

    def _call(self, name: str) -> None:
        self.calls += 1
        self.strike(self.calls, name)


def refuse(name: str, fault: str) -> None:
    code, status = PASSING[fault]
    answer = {"Error": {"Code": code, "Message": "injected"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    raise ClientError(answer, name)  # type: ignore[arg-type]


def deliver_until_acknowledged(stack: SegmentStack, failures: FailuresFunction, key: str) -> None:
    """Act like the queue: deliver a message until acknowledged, or five times, then as a dead letter."""
    for _ in range(TRIES):
        if stack.deliver(s3_event(key)) == []:
            return
        expire_leases(stack)
    while failures.deliver(s3_event(key)):
        expire_leases(stack)


def expire_leases(stack: SegmentStack) -> None:
    """Advance the time beyond every lease, until the message is delivered again."""
    for row in stack.rows():
        if row["status"] == "RUNNING":
            stack.table.put_item(Item=row | {"lease_until": 1})


def quiet_masks(stack: SegmentStack, images: Any) -> Any:
    """Return each image's mask from a run without faults."""
    for key, body in images.items():
        stack.upload(f"quiet/{key}", body)
        assert stack.deliver(s3_event(f"quiet/{key}")) == []
    return {key: stack.output(f"quiet/{key}.mask.png") for key in images}


def reconcile(stack: SegmentStack, masks: Any, succeeded: bool = True) -> Any:
    """Assert that every image has one row with a final status, and finished ones the quiet run's mask."""
    written = {name: stack.output(name) for name in stack.outputs() if not name.startswith("quiet/")}
    rows = [row for row in stack.rows() if not row["image"].startswith(f"s3://{INPUT}/quiet/")]
    final = ("SUCCEEDED",) if succeeded else ("SUCCEEDED", "FAILED")
    assert discrepancies(rows, written, masks, final) == []
    for row in rows:
        if row["status"] == "FAILED":
            assert json.loads(row["message"]) == s3_event(row["image"].removeprefix(f"s3://{INPUT}/"))
    return {row["image"]: row["status"] for row in rows}


def test_an_image_makes_as_many_calls_as_the_kill_tests_cover(stack: SegmentStack) -> None:
    storm = Storm(lambda call, name: None)
    stack.upload(KEY, tiff())
    storm.rage(stack)
    assert stack.deliver(s3_event(KEY)) == []
    assert storm.calls == CALLS_OF_ONE_IMAGE


@pytest.mark.slow
@pytest.mark.parametrize("struck", range(1, CALLS_OF_THE_NEXT + 1))
def test_a_single_refused_call_is_recovered(
    stack: SegmentStack, failures: FailuresFunction, struck: int
) -> None:
    fault = [*PASSING][struck % len(PASSING)]
    masks = quiet_masks(stack, {KEY: tiff()})
    stack.upload(KEY, tiff())
    Storm(lambda call, name: refuse(name, fault) if call == struck else None).rage(stack)
    deliver_until_acknowledged(stack, failures, KEY)
    reconcile(stack, masks)
    assert stack.predictor.pages <= 3  # the quiet one, and one on each side of the fault


@pytest.mark.slow
@pytest.mark.parametrize("struck", range(1, CALLS_OF_THE_NEXT + 1))
def test_a_process_killed_at_any_call_leaves_a_job_that_its_successor_finishes(
    stack: SegmentStack, failures: FailuresFunction, struck: int
) -> None:
    def kill(call: int, name: str) -> None:
        if call >= struck:
            raise ConnectionError("killed")

    masks = quiet_masks(stack, {KEY: tiff()})
    stack.upload(KEY, tiff())
    Storm(kill).rage(stack)
    assert stack.deliver(s3_event(KEY)) == [0]
    stack.wire.mend()
    expire_leases(stack)
    deliver_until_acknowledged(stack, failures, KEY)
    assert stack.deliver(s3_event(KEY), s3_event(KEY)) == []
    reconcile(stack, masks)


@pytest.mark.slow
@pytest.mark.parametrize("struck", range(1, CALLS_OF_THE_NEXT + 1))
def test_a_job_killed_on_every_attempt_is_failed_and_finished_by_a_redrive(
    stack: SegmentStack, failures: FailuresFunction, struck: int
) -> None:
    def kill(call: int, name: str) -> None:
        if call >= struck:
            raise ConnectionError("killed")

    masks = quiet_masks(stack, {KEY: tiff()})
    stack.upload(KEY, tiff())
    for _ in range(TRIES):
        Storm(kill).rage(stack)
        stack.deliver(s3_event(KEY))
        stack.wire.mend()
        expire_leases(stack)
    assert failures.deliver(s3_event(KEY)) == []
    reconcile(stack, masks, succeeded=False)
    assert stack.deliver(s3_event(KEY)) == []
    reconcile(stack, masks)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_plate_in_a_storm_of_faults_duplicates_and_disorder_is_whole_in_the_end(
    stack: SegmentStack, failures: FailuresFunction, seed: int
) -> None:
    rng = random.Random(seed)
    images = {f"plate 1/{number}.tif": tiff(page(number)) for number in range(4)}
    masks = quiet_masks(stack, images)
    for key, body in images.items():
        stack.upload(key, body)
    queue = [(key, 1) for key in images for _ in range(rng.randint(1, 3))]
    dead = []
    Storm(lambda call, name: refuse(name, rng.choice([*PASSING])) if rng.random() < 0.05 else None).rage(
        stack
    )
    while queue:
        rng.shuffle(queue)
        batch, queue = queue[:4], queue[4:]
        again = [batch[place] for place in stack.deliver(*(s3_event(key) for key, _ in batch))]
        queue += [(key, tries + 1) for key, tries in again if tries < TRIES]
        dead += [key for key, tries in again if tries == TRIES]
        expire_leases(stack)
    for key in dead:
        while failures.deliver(s3_event(key)):
            expire_leases(stack)
    stack.wire.mend()
    for image, status in reconcile(stack, masks, succeeded=False).items():
        if status == "FAILED":
            assert stack.deliver(s3_event(image.removeprefix(f"s3://{INPUT}/"))) == []
    reconcile(stack, masks)


def test_without_an_output_bucket_every_image_fails_and_a_redrive_finishes_them(
    stack: SegmentStack, failures: FailuresFunction
) -> None:
    images = {f"{number}.tif": tiff(page(number)) for number in range(2)}
    masks = quiet_masks(stack, images)
    for name in stack.outputs():
        stack.s3.delete_object(Bucket=OUTPUT, Key=name)
    stack.s3.delete_bucket(Bucket=OUTPUT)
    for key, body in images.items():
        stack.upload(key, body)
        deliver_until_acknowledged(stack, failures, key)
    rows = [row for row in stack.rows() if "/quiet/" not in row["image"]]
    assert [row["status"] for row in rows] == ["FAILED", "FAILED"]
    assert all("NoSuchBucket" in row["error"] for row in rows)
    region = {"LocationConstraint": "eu-central-1"}
    stack.s3.create_bucket(Bucket=OUTPUT, CreateBucketConfiguration=region)
    assert stack.deliver(*(row["message"] for row in rows)) == []
    reconcile(stack, masks)
