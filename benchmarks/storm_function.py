"""The functions as the storm runs them: one AWS call in twenty goes wrong, and now and then all is killed.

`benchmarks.storm_function:segment` is the segment function's handler, and likewise for the others.
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
KILLED = 0.0003  # of all calls: about one image in 100
SLOWEST_SECONDS = 0.5
REFUSALS = {"throttled": ("ThrottlingException", 400), "failing": ("InternalError", 500)}
# `lost`: AWS did as it was told, and its answer never came.
KINDS = (*REFUSALS, "slow", "lost")


def __getattr__(name: str) -> Callable[[Any, Any], Any]:
    """The handler of `cytomask.functions.<name>.app`, behind clients that are struck."""
    if name.startswith("_"):
        raise AttributeError(name)
    boto3.setup_default_session()
    events = boto3.DEFAULT_SESSION.events  # type: ignore[union-attr]  # it was just made
    storm = Storm()
    events.register("provide-client-params", storm.before)
    events.register("after-call", storm.after)
    handler: Callable[[Any, Any], Any] = importlib.import_module(f"cytomask.functions.{name}.app").handler
    return handler


class Storm:
    """What comes between a function's clients and AWS; the SDK's own retries lie beyond it."""

    def __init__(self) -> None:
        self._loses_answer = False

    def before(self, model: Any, **_: Any) -> None:
        """Decides what becomes of a call that is about to be made."""
        self._loses_answer = False
        fate = random.random()
        if fate < KILLED:
            _say("killed", model.name)
            os.kill(os.getpid(), signal.SIGKILL)
        if fate < KILLED + STRUCK:
            self._strike(random.choice(KINDS), model.name)

    def after(self, model: Any, **_: Any) -> None:
        """Loses the answer of a call that was made."""
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
            raise ClientError(answer, operation)  # type: ignore[arg-type]  # no more is read of it


def _say(kind: str, operation: str) -> None:
    sys.stdout.write(json.dumps({"message": "fault_injected", "kind": kind, "operation": operation}) + "\n")
