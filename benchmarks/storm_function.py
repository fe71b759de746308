"""The handlers for the storm: one AWS call in twenty fails, and sometimes the process is killed.

`benchmarks.storm_function:segment` is the segment function's handler; the other functions' work the same way.
"""

import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import boto3
from botocore.exceptions import ClientError, ConnectionClosedError

STRUCK = 0.05
KILLED = 0.0003  # share of all calls; about one image in 100
SLOWEST_SECONDS = 0.5
REFUSALS = {"throttled": ("ThrottlingException", 400), "failing": ("InternalError", 500)}
# `lost`: AWS carried out the call, but the answer never arrived.
KINDS = (*REFUSALS, "slow", "lost")


def __getattr__(name: str) -> Callable[[Any, Any], Any]:
    """Return the handler of `cytomask.functions.<name>.app` with failing clients."""
    if name.startswith("_"):
        raise AttributeError(name)
    boto3.setup_default_session()
    events = boto3.DEFAULT_SESSION.events  # type: ignore[union-attr]  # set by the line above
    storm = Storm()
    events.register("provide-client-params", storm.before)
    events.register("after-call", storm.after)
    handler: Callable[[Any, Any], Any] = importlib.import_module(f"cytomask.functions.{name}.app").handler
    return handler


class Storm:
    """Faults between a function's clients and AWS, before the SDK's own retries."""

    def __init__(self) -> None:
        self._loses_answer = False

    def before(self, model: Any, **_: Any) -> None:
        """Decide before a call whether it fails."""
        self._loses_answer = False
        fate = random.random()
        if fate < KILLED:
            _say("killed", model.name)
            os.kill(os.getpid(), signal.SIGKILL)
        if fate < KILLED + STRUCK:
            self._strike(random.choice(KINDS), model.name)

    def after(self, model: Any, **_: Any) -> None:
        """Lose the answer of a completed call."""
        if self._loses_answer:
            raise ConnectionClosedError(endpoint_url=model.service_model.service_name)

    def _strike(self, kind: str, operation: str) -> None:
        _say(kind, operation)
        if kind == "slow":
            time.sleep(random.uniform(0, SLOWEST_SECONDS))
        elif kind == "lost":
            self._loses_answer = True
        else:
            code, status = REFUSALS[kind]
            answer = {
                "Error": {"Code": code, "Message": "injected"},
                "ResponseMetadata": {"HTTPStatusCode": status},
            }
            raise ClientError(answer, operation)  # type: ignore[arg-type]  # callers read only these fields


def _say(kind: str, operation: str) -> None:
    sys.stdout.write(json.dumps({"message": "fault_injected", "kind": kind, "operation": operation}) + "\n")
