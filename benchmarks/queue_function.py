"""The segment function as the queue's benchmark runs it: in several processes that say what memory they hold.

`benchmarks.queue_function:environments_2` is the handler in two. The name is asked for before the process
serves, so that each process made then serves the same socket: as many environments as Lambda would start.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.children import end_with_parent

Handler = Callable[[Any, Any], Any]


def __getattr__(name: str) -> Handler:
    """`environments_N`: becomes N processes, each with its share of the cores, and returns the handler."""
    kind, _, count = name.partition("_")
    if kind != "environments" or not count.isdecimal():
        raise AttributeError(name)
    _become_several(int(count))
    return _measured()


def _become_several(count: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    for number in range(1, count):
        if os.fork() == 0:
            end_with_parent()
            os.sched_setaffinity(0, cores[number::count] or cores)
            return
    os.sched_setaffinity(0, cores[::count])


def _measured() -> Handler:
    # Not before the fork, which the runtime's threads would not survive.
    from functions.segment.app import handler  # noqa: PLC0415

    def measured(event: Any, context: Any) -> Any:
        started = time.time()
        answer = handler(event, context)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        line = {
            "message": "invocation_measured",
            "process": os.getpid(),
            "started": started,
            "ended": time.time(),
            "images": sum("s3:TestEvent" not in record["body"] for record in event["Records"]),
            "resident_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        }
        sys.stdout.write(json.dumps(line) + "\n")
        return answer

    return measured
