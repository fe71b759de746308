"""Print lines for people, without control characters.

Every line of every command goes through `say` or `complain`, so that an escape code in a name cannot colour
the terminal or forge a line. If a pipe is closed or a disk is full, the command ends with a clear message.
"""

import errno
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from typing import Any, TextIO, TypeVar

Item = TypeVar("Item")

MANY = 10  # show a progress bar for at least this many items


class OutputClosed(Exception):
    """The reader of the output has closed it, as `| head` does."""


class OutputFailed(Exception):
    """The output cannot be written, for example because the disk is full."""


def say(line: str = "") -> None:
    """Write one line to standard output.

    Raises:
        OutputClosed, OutputFailed: the line could not be written.
    """
    try:
        _write(sys.stdout, line)
    except BrokenPipeError as error:
        raise OutputClosed from error
    except OSError as error:
        raise OutputFailed(error.strerror or str(error)) from error


def say_all(text: str) -> None:
    """Write each line of a text to standard output."""
    for line in text.split("\n"):
        say(line)


def complain(line: str) -> None:
    """Write one line to standard error; ignore failures, since there is nowhere to report them."""
    with suppress(OSError):
        _write(sys.stderr, line)


def printable(text: str) -> str:
    """Return the text with control, formatting and broken characters written as escapes."""
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")


def _write(stream: TextIO | None, line: str) -> None:
    if stream is None:  # the shell closed the stream with `>&-`
        raise OSError(errno.EBADF, "it is closed")
    with _beside_the_bar(stream):
        stream.write(f"{printable(line)}\n")
        stream.flush()


_bars: list[Any] = []


@contextmanager
def _beside_the_bar(stream: TextIO) -> Iterator[None]:
    """Hide the progress bar while a line is written to the same terminal."""
    if not _bars or not stream.isatty():
        yield
        return
    with _bars[-1].external_write_mode(file=stream):
        yield


def with_progress(items: Iterable[Item], count: int, unit: str) -> Iterator[Item]:
    """Yield the items, with a progress bar on the terminal if there are many and tqdm is installed."""
    if count < MANY or sys.stderr is None or not sys.stderr.isatty():
        yield from items
        return
    try:
        from tqdm import tqdm  # in the extra `local`; serving does not need it
    except ImportError:
        yield from items
        return
    with tqdm(items, total=count, unit=unit, file=sys.stderr) as bar:
        _bars.append(bar)
        try:
            yield from bar
        finally:
            _bars.remove(bar)


def prepare_streams() -> None:
    """Escape characters that the terminal's encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_output() -> None:
    """Flush standard output; raise OutputClosed or OutputFailed."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise OutputClosed from error
    except OSError as error:
        raise OutputFailed(error.strerror or str(error)) from error


def abandon_output() -> None:
    """Discard all further output to standard output, including Python's own flush at exit."""
    with suppress(OSError, ValueError, AttributeError):  # the stream is closed or has no file
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
