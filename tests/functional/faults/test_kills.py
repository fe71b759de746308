"""SIGKILL ends the function's process at each step of an image; another process finishes the work."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from factories import page
from killed_function import STEPS

from benchmarks.environments import environments
from benchmarks.reconcile import discrepancies
from benchmarks.storm import drain, job_rows, log_lines, outputs, upload
from cytomask.infra import emulator
from cytomask.infra.emulator import EmulatedStack, emulated_stack

pytestmark = pytest.mark.slow

QUIET = "quiet.tif"
KEYS = [f"plate 1/{step}.tif" for step in STEPS]
# A lease lasts five seconds longer than an invocation may; the message returns after that.
PARAMETERS = {"SegmentTimeout": "3", "VisibilityTimeout": "9", "RetryDelay": "1", "MaxReceiveCount": "50"}
HANDLERS = dict.fromkeys(emulator.HANDLERS, "tests.functional.recording_handler:handler") | {
    "SegmentFunction": environments(1, "tests.functional.faults.killed_function:handler")
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Run a stack in which a process is killed at every step, until all jobs have ended."""
    with emulated_stack(
        tmp_path_factory.mktemp("killed"), parameters=PARAMETERS, handlers=HANDLERS
    ) as running:
        upload(running, {QUIET: page()})
        drain(running)
        for count, key in enumerate(KEYS, start=1):
            until(lambda living=count: len(said(running, "started")) == living)
            upload(running, {key: page()})
            until(lambda dead=count: len(said(running, "killed")) == dead)
        drain(running)
        yield running


def until(look: Any, seconds: int = 60) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def said(stack: EmulatedStack, message: Any) -> Any:
    """Return the process id of each log line with this message."""
    return [line["process"] for line in log_lines(stack.log) if line.get("message") == message]


def test_every_step_ran_as_the_last_of_its_own_process(stack: EmulatedStack) -> None:
    assert len(set(said(stack, "killed"))) == len(STEPS)


def test_all_stacks_are_complete_and_equal_the_undisturbed_one(
    stack: EmulatedStack,
) -> None:
    written = outputs(stack)
    quiet = written[f"{QUIET}.mask.png"]
    masks = {key: quiet for key in [QUIET, *KEYS]}
    assert discrepancies(job_rows(stack), written, masks, final=("SUCCEEDED",)) == []
