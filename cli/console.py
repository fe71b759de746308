"""Print lines for people, without characters that a terminal would obey.

Every line of every command goes through `say` or `complain`, so that a name with an escape code
cannot colour the terminal or forge a line. A closed pipe or a full disk ends the command with a sentence.
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

MANY = 10  # items from which on a progress bar is worth its line


class OutputClosed(Exception):
    """Whoever read the output has closed it, as `| head` does."""


class OutputFailed(Exception):
    """The output cannot be written, as on a full disk."""


def say(line: str = "") -> None:
    """Write one line to standard output.

    Raises:
        OutputClosed, OutputFailed: the line did not get there.
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
    """Write one line to standard error; there is nobody to tell if that fails."""
    with suppress(OSError):
        _write(sys.stderr, line)


def printable(text: str) -> str:
    """Return the text with its control, formatting and broken characters written as escapes."""
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")


def _write(stream: TextIO | None, line: str) -> None:
    if stream is None:  # as Python has it if the shell closed the stream, by `>&-`
        raise OSError(errno.EBADF, "it is closed")
    with _beside_the_bar(stream):
        stream.write(f"{printable(line)}\n")
        stream.flush()


_bars: list[Any] = []


@contextmanager
def _beside_the_bar(stream: TextIO) -> Iterator[None]:
    """Take the progress bar away while a line is written to the same terminal."""
    if not _bars or not stream.isatty():
        yield
        return
    with _bars[-1].external_write_mode(file=stream):
        yield


def with_progress(items: Iterable[Item], count: int, unit: str) -> Iterator[Item]:
    """Pass the items on, with a bar on the terminal where there are many and tqdm is installed."""
    if count < MANY or sys.stderr is None or not sys.stderr.isatty():
        yield from items
        return
    try:
        from tqdm import tqdm  # in the extra `local`; serving does without
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
    """Let no character be refused by a terminal that does not have it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_output() -> None:
    """Write what standard output still holds; raises OutputClosed, OutputFailed."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise OutputClosed from error
    except OSError as error:
        raise OutputFailed(error.strerror or str(error)) from error


def abandon_output() -> None:
    """Let nothing more be written to standard output, not even by Python when it ends."""
    with suppress(OSError, ValueError, AttributeError):  # a stream that is closed, or has no file
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
