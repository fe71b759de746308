"""The newest image wins: after any interleaving, its name has its own mask or none.

A state machine uploads, overwrites, deletes and expires, delivers late, twice or never, kills functions
at any call and lets other things happen in the middle of their work. Then all comes to rest, and it looks.
CYTOMASK_INTERLEAVINGS runs more of them than the few of `make test`.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from examples import examples
from factories import INPUT
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from moto_stack import ENVIRONMENT
from newest_world import (
    ATTACHED,
    CONTENTS,
    Content,
    Interruption,
    RememberingPredictor,
    World,
    a_world,
    place_of,
)

pytestmark = pytest.mark.long
INTERLEAVINGS = int(os.environ.get("CYTOMASK_INTERLEAVINGS") or examples(12))
KEYS = st.sampled_from(["a.tif", "a.tif.png", f"{ATTACHED}/a.tif"])
CONTENT = st.sampled_from(CONTENTS)
INDEX = st.integers(0, 7)
CALL = st.integers(1, 34)
counted = {"interleavings": 0, "steps": 0, "invocations": 0, "crashes": 0}


class NewestWins(RuleBasedStateMachine):
    """Two images with similar keys, one in an attached bucket, and everything that may happen to them."""

    predictor: RememberingPredictor
    versioned = False

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.world: World = self.stack.enter_context(a_world(self.predictor, versioned=self.versioned))
        counted["interleavings"] += 1

    @rule(key=KEYS, content=CONTENT)
    def upload(self, key: str, content: Content) -> None:
        self.world.upload(key, content)

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        self.world.delete(key)

    @rule(key=KEYS, which=st.integers(0, 3))
    def expire_outputs(self, key: str, which: int) -> None:
        self.world.expire_outputs(key, which)

    @rule(seconds=st.sampled_from([1, 30, 300]))
    def wait(self, seconds: int) -> None:
        self.world.now += seconds

    @rule(key=KEYS, threshold=st.sampled_from([None, 0.3]))
    def ask_by_message(self, key: str, threshold: float | None) -> None:
        image = {"image": "s3://{}/{}".format(*place_of(key))}
        self.world.copy_in(key, image if threshold is None else image | {"threshold": threshold})

    @precondition(lambda self: self.world.queue)
    @rule(index=INDEX)
    def duplicate(self, index: int) -> None:
        message = self.world.queue[index % len(self.world.queue)]
        self.world.queue.append(type(message)(message.body, message.change))

    @precondition(lambda self: self.world.queue)
    @rule(index=INDEX)
    def lose(self, index: int) -> None:
        self.world.lose(index)

    @precondition(lambda self: self.world.queue)
    @rule(first=INDEX, second=INDEX)
    def deliver(self, first: int, second: int) -> None:
        self.world.deliver(first, second)

    @precondition(lambda self: self.world.queue)
    @rule(index=INDEX, call=CALL, after=st.booleans())
    def deliver_and_kill(self, index: int, call: int, after: bool) -> None:
        with self.world.interrupted(Interruption(call, None, after)):
            self.world.deliver(index)

    @precondition(lambda self: self.world.queue)
    @rule(index=INDEX, call=CALL, after=st.booleans(), data=st.data())
    def deliver_around(self, index: int, call: int, after: bool, data: Any) -> None:
        with self.world.interrupted(Interruption(call, self._something(data), after)):
            self.world.deliver(index)

    @rule(key=KEYS)
    def ask(self, key: str) -> None:
        self.world.http(key)

    @rule(key=KEYS, call=CALL, after=st.booleans())
    def ask_and_kill(self, key: str, call: int, after: bool) -> None:
        with self.world.interrupted(Interruption(call, None, after)):
            self.world.http(key)

    @rule(key=KEYS, call=CALL, after=st.booleans(), data=st.data(), killed=st.integers(0, 8))
    def ask_around(self, key: str, call: int, after: bool, data: Any, killed: int) -> None:
        """Something happens during the call, which may be killed shortly afterwards."""
        something = self._something(data)

        def act() -> None:
            something()
            if killed:
                mine.at, mine.act = mine.calls + killed, None

        mine = Interruption(call, act, after)
        with self.world.interrupted(mine):
            self.world.http(key)

    @precondition(lambda self: self.world.dead)
    @rule(index=INDEX)
    def record_dead_letter(self, index: int) -> None:
        self.world.deliver_dead(index)

    @precondition(lambda self: self.world.dead)
    @rule(index=INDEX, call=st.integers(1, 14))
    def record_dead_letter_and_kill(self, index: int, call: int) -> None:
        with self.world.interrupted(Interruption(call, None)):
            self.world.deliver_dead(index)

    @rule()
    def redrive(self) -> None:
        self.world.redrive()

    def _something(self, data: Any) -> Callable[[], None]:
        """Draw what happens in the middle of other work: changes, and an invocation of another process."""
        changes = data.draw(st.lists(st.tuples(KEYS, st.one_of(CONTENT, st.none())), min_size=1, max_size=2))
        delivered = data.draw(st.one_of(st.none(), INDEX))

        def act() -> None:
            for key, content in changes:
                if content is None:
                    self.world.delete(key)
                else:
                    self.world.upload(key, content)
            if delivered is not None and self.world.queue:
                with self.world.interrupted(Interruption(-1, lambda: None)):
                    self.world.deliver(-1 - delivered)

        return act

    def teardown(self) -> None:
        try:
            self.look()
        finally:
            counted["invocations"] += self.world.invocations
            counted["crashes"] += self.world.crashes
            self.stack.close()

    def look(self) -> None:
        world = self.world
        world.come_to_rest()
        for row in world.jobs():
            # A killed call over HTTP leaves its job to the next request.
            dead = row["status"] == "RUNNING" and row["lease_until"] < world.now
            assert dead or row["status"] in ("SUCCEEDED", "REJECTED", "FAILED")
        for key in world.contents:
            if key not in world.unseen:
                expected, lying = world.expected(key), world.lying(key)
                assert {name: expected.get(name) for name in lying} == lying, f"not the newest's: {key}"
        for key, content in world.contents.items():
            world.now += 300
            answered = world.http(key)
            assert answered is not None
            code = answered[1].get("code")
            assert (answered[0], code) == (
                (200, None)
                if content and content.seeds
                else (422, "UNREADABLE_IMAGE" if content else "IMAGE_NOT_FOUND")
            )
            assert world.lying(key) == world.expected(key), f"not made when asked for: {key}"
        world.come_to_rest()
        for key in world.contents:
            assert world.lying(key) == world.expected(key), f"not kept: {key}"
        unfinished = {row["job_id"] for row in world.jobs() if row["status"] == "RUNNING"}
        for key in world.contents:
            assert not unfinished & world.announced(key), "its image was replaced, and nothing ended it"


@pytest.fixture(scope="module")
def remembering(predictor: Any) -> RememberingPredictor:
    return RememberingPredictor(predictor)


@pytest.mark.hypothesis  # `make test-slow` runs it at length
@pytest.mark.parametrize("versioned", [False, True], ids=["one version", "versions kept"])
def test_the_newest_image_wins(
    remembering: RememberingPredictor, versioned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (ENVIRONMENT | {"ALLOWED_BUCKETS": ATTACHED}).items():
        monkeypatch.setenv(name, value)
    counted.update(dict.fromkeys(counted, 0))
    machine = type("Machine", (NewestWins,), {"predictor": remembering, "versioned": versioned})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=INTERLEAVINGS,
            stateful_step_count=int(os.environ.get("CYTOMASK_STEPS", "25")),
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    print(f"{counted} versioned={versioned}")
    assert counted["interleavings"] >= INTERLEAVINGS


@pytest.mark.parametrize("killed", [False, True], ids=["all live", "the older is killed"])
def test_uploading_a_then_b_then_a_within_a_second_leaves_the_mask_of_a(
    remembering: RememberingPredictor, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (ENVIRONMENT | {"ALLOWED_BUCKETS": ATTACHED}).items():
        monkeypatch.setenv(name, value)
    first, second = CONTENTS[0], CONTENTS[1]
    with a_world(remembering, versioned=False) as world:
        world.upload("a.tif", first)
        world.deliver(0)
        world.upload("a.tif", second)
        world.queue.clear()

        def overwrite() -> None:
            world.upload("a.tif", first)
            with world.interrupted(Interruption(-1, lambda: None)):
                world.deliver(0)
            if killed:
                mine.at, mine.act = mine.calls + 3, None

        mine = Interruption(12, overwrite)
        with world.interrupted(mine):
            world.http("a.tif")
        world.come_to_rest()
        assert world.lying("a.tif") == world.expected("a.tif")
        assert INPUT in world.rows()[0]["image"] if "image" in world.rows()[0] else True
