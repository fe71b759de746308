"""Several environments of one function, as Lambda would start them: processes that serve the same socket.

A front that is told to serve `benchmarks.environments:…` starts fronts of another handler and serves nothing
itself. One that a signal ends is replaced, as Lambda replaces an environment that died.
"""

import os
import signal
import subprocess
import sys
from typing import NoReturn

SEPARATOR = "/"


def environments(count: int, handler: str) -> str:
    """What to name as a function's handler, so that `count` processes of `handler` serve it."""
    return f"{__name__}:{count}{SEPARATOR}{handler.replace(':', SEPARATOR)}"


def __getattr__(name: str) -> NoReturn:
    """What `environments` has named: asked for before the process serves, it never comes back."""
    count, _, handler = name.partition(SEPARATOR)
    if not count.isdecimal():
        raise AttributeError(name)
    _run(int(count), handler.replace(SEPARATOR, ":"))


def _run(count: int, handler: str) -> NoReturn:
    cores = sorted(os.sched_getaffinity(0))
    shares = [cores[number::count] or cores for number in range(count)]
    running = {_start(handler, share): share for share in shares}
    while True:
        ended, status = os.wait()
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))
        print(f"{handler} was ended by {signal.Signals(os.WTERMSIG(status)).name}", file=sys.stderr)
        share = running.pop(ended)
        running[_start(handler, share)] = share


def _start(handler: str, cores: list[int]) -> int:
    """Starts a front on our socket and these cores; it ends with our parent, whose pipe it inherits."""
    descriptor = sys.argv[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "cytomask.infra.front", descriptor, handler], pass_fds=[int(descriptor)]
    )
    os.sched_setaffinity(process.pid, cores)
    return process.pid
