"""Start child processes that never outlive their parent.

The parent holds a pipe to each child's standard input. When the parent ends, even by SIGKILL, the kernel
closes the pipe. The child notices this and exits.
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
# `python -m` puts this folder first on a child's path. In a checkout it is the repository, so that children
# find the handlers of tests and benchmarks. When installed, it is the folder above our package: the package's
# own `http` module would hide Python's.
FOLDER = ROOT if (ROOT / "pyproject.toml").exists() else ROOT.parent
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
    """A child process ended, or did not become ready in time."""


@dataclass(frozen=True)
class Child:
    """A running child process that serves HTTP on `port` and writes its output to `logs`."""

    name: str
    process: "subprocess.Popen[bytes]"
    port: int
    logs: Sequence[Path]

    def wait_until_ready(self, path: str, seconds: float) -> None:
        """Wait until GET `path` answers 200.

        Raises:
            ChildFailed: the child ended or `seconds` passed; the message holds the logs' last lines.
        """
        deadline = time.monotonic() + seconds
        while not _answers(self.port, path):
            if self.process.poll() is not None:
                raise ChildFailed(
                    f"{self.name} exited with status {self.process.returncode}:\n{_tail(self.logs)}"
                )
            if time.monotonic() > deadline:
                raise ChildFailed(f"{self.name} was not ready after {seconds:.0f} s:\n{_tail(self.logs)}")
            time.sleep(0.05)


def listening_socket(port: int = 0) -> socket.socket:
    """Open a listening socket on 127.0.0.1 for a child to inherit, so that no other process takes the port.

    Raises:
        ChildFailed: the port is in use.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ChildFailed(
            f"cannot listen on {LOOPBACK}:{port} ({error}); choose another port, or 0 for a free one"
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
    """Run `python -m module FD arguments…` while the context lasts; FD is the listener's file descriptor.

    The parent closes its own copy of the listener. The child sees `environment` and the variables in
    `PASSED_ON`, and none of the user's AWS or proxy settings.
    """
    inherited = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    with stdout.open("ab") as out, stderr.open("ab") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(listener.fileno()), *arguments],
            cwd=FOLDER,
            env=inherited | dict(environment),
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C reaches only the parent, which stops the child
        )
    try:
        port = listener.getsockname()[1]
        listener.close()
        yield Child(module, process, port, sorted({stdout, stderr}))
    finally:
        _end(process)


def end_with_parent() -> None:
    """Exit this child process as soon as its standard input closes."""
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(0)  # works from a thread; skips cleanup, because a child has nothing to save


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
