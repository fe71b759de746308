"""Child processes that never outlive us, whatever ends us: their standard input is a pipe that we hold open.

When we end, even by SIGKILL, the kernel closes the pipe, and the child, which waits for that, ends too.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[1]
PASSED_ON = (
    "DYLD_LIBRARY_PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "PATH",
    "PYTHONPATH",
    "TMPDIR",
)


class ChildFailed(RuntimeError):
    """A child process ended or stayed silent while it was waited for."""


@dataclass(frozen=True)
class Child:
    """A running child process that serves HTTP on `port`; its output is in `logs`."""

    name: str
    process: "subprocess.Popen[bytes]"
    port: int
    logs: Sequence[Path]

    def wait_until_ready(self, path: str, seconds: float) -> None:
        """Waits until GET `path` answers 200.

        Raises:
            ChildFailed: with the logs' last lines, when the child ends or `seconds` pass first.
        """
        deadline = time.monotonic() + seconds
        while not _answers(self.port, path):
            if self.process.poll() is not None:
                raise ChildFailed(f"{self.name} ended with {self.process.returncode}:\n{_tail(self.logs)}")
            if time.monotonic() > deadline:
                raise ChildFailed(f"{self.name} is not ready after {seconds:.0f} s:\n{_tail(self.logs)}")
            time.sleep(0.05)


def listening_socket(port: int = 0) -> socket.socket:
    """A listening socket on 127.0.0.1, to be inherited by a child: nobody else gets the port meanwhile."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ChildFailed(
            f"port {port} of {LOOPBACK} cannot be used ({error}); choose another, or 0"
        ) from error
    return listener


@contextmanager
def child(
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    listener: socket.socket,
    stdout: Path,
    stderr: Path,
) -> Iterator[Child]:
    """Runs `python -m module FD arguments…`, where FD is the listener's, which is closed on our side.

    Its environment is what a Python needs and `environment`; nothing of the user's AWS settings or proxies.
    """
    inherited = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    with stdout.open("ab") as out, stderr.open("ab") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(listener.fileno()), *arguments],
            cwd=ROOT,
            env=inherited | dict(environment),
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C reaches us alone; we stop the child
        )
    try:
        port = listener.getsockname()[1]
        listener.close()
        yield Child(module, process, port, sorted({stdout, stderr}))
    finally:
        _end(process)


def end_with_parent() -> None:
    """For the child: ends this process as soon as its standard input is closed."""
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(0)  # from a thread, and at once: nothing in a child is worth saving


def _answers(port: int, path: str) -> bool:
    with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=5)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        process.stdin.close()


def _tail(logs: Sequence[Path], lines: int = 20) -> str:
    kept = [line for log in logs for line in log.read_text(errors="replace").splitlines()[-lines:]]
    return "\n".join(kept) or "(its log is empty)"
