"""Run several environments of one function, as Lambda does: processes that share a socket.

A front that is told to serve `benchmarks.environments:…` starts fronts of another handler and serves nothing
itself. It replaces a front that a signal killed, as Lambda replaces an environment that died.
"""

import os
import signal
import subprocess
import sys
from typing import NoReturn

SEPARATOR = "/"


def environments(count: int, handler: str) -> str:
    """Return the name of a handler that starts `count` processes of `handler`."""
    return f"{__name__}:{count}{SEPARATOR}{handler.replace(':', SEPARATOR)}"


def __getattr__(name: str) -> NoReturn:
    """Start the processes that a name from `environments` asks for; never return."""
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
        print(f"{handler} was killed by {signal.Signals(os.WTERMSIG(status)).name}", file=sys.stderr)
        share = running.pop(ended)
        running[_start(handler, share)] = share


def _start(handler: str, cores: list[int]) -> int:
    """Start a front on our socket and these cores; it inherits our parent's pipe and ends with it."""
    descriptor = sys.argv[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "cytomask.infra.front", descriptor, handler], pass_fds=[int(descriptor)]
    )
    os.sched_setaffinity(process.pid, cores)
    return process.pid
