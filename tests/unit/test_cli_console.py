"""Output to a terminal, a closed pipe and a full disk."""

import io
import os
import pty
import re
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytomask.cli import console
from cytomask.cli.console import OutputClosed, OutputFailed, complain, printable, say, say_all
from cytomask.cli.main import main

COMMAND = [sys.executable, "-m", "cytomask.cli.main"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[31mRED\x1b[2J.tif", r"\x1b[31mRED\x1b[2J.tif"),
        ("a\nforged line", r"a\nforged line"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\u202egnp.tif", r"\u202egnp.tif"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u2028b", r"a\u2028b"),
        ("\udcff.tif", r"\udcff.tif"),
        ("ein Bild ü.tif", "ein Bild ü.tif"),
        ("細胞　１.tif", "細胞　１.tif"),
    ],
)
def test_a_terminal_gets_no_control_characters(name: str, shown: str) -> None:
    assert printable(name) == shown


@given(st.text())
def test_a_line_stays_one_line_of_printable_characters(text: str) -> None:
    shown = printable(text)
    assert all(character.isprintable() or character.isspace() for character in shown)
    assert not set(shown) & {chr(code) for code in [*range(32), *range(127, 160)]}
    assert len(shown.splitlines()) <= 1


def test_a_line_is_escaped_on_both_streams(capsys: pytest.CaptureFixture[str]) -> None:
    say("\x1b[2J")
    complain("\x1b[2J")
    say_all("one\ntwo\x07")
    captured = capsys.readouterr()
    assert captured.out == "\\x1b[2J\none\ntwo\\x07\n"
    assert captured.err == "\\x1b[2J\n"


class Broken(io.StringIO):
    """A stream that refuses every write."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, _: str) -> int:
        raise self._error


def test_a_closed_pipe_and_a_full_disk_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(BrokenPipeError(32, "Broken pipe")))
    with pytest.raises(OutputClosed):
        say("a")
    monkeypatch.setattr(sys, "stdout", Broken(OSError(28, "No space left on device")))
    with pytest.raises(OutputFailed, match="No space left on device"):
        say("a")
    monkeypatch.setattr(sys, "stderr", Broken(OSError(28, "No space left on device")))
    complain("nobody can be told")


def test_a_closed_pipe_ends_a_command_without_a_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*COMMAND, "--help"], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_full_device_is_reported_in_one_sentence() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr == b"the output cannot be written: No space left on device\n"


def test_a_stream_that_the_shell_closed_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputFailed, match="it is closed"):
        say("a")
    console.prepare_streams()
    console.flush_output()
    console.abandon_output()
    monkeypatch.setattr(sys, "stderr", None)
    complain("nobody can be told")
    assert list(console.with_progress(range(12), 12, "image")) == list(range(12))


def test_a_wrong_argument_is_printed_safely(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["failed", "\x1b[31m.tif"])
    assert exit_.value.code == 2
    assert "\\x1b[31m.tif" in capsys.readouterr().err


def test_lines_do_not_tear_the_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the bar is removed before a line is written, and drawn again after it."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 80))
    with os.fdopen(slave, "w", buffering=1) as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(sys, "stdout", terminal)
        for number in console.with_progress(range(12), 12, "image"):
            say(f"line {number}")
    written = read_all(master)
    lines = [line.rpartition("\r")[2] for line in written.replace("\r\n", "\n").split("\n")]
    assert [line for line in lines if line.startswith("line ")] == [f"line {number}" for number in range(12)]
    assert "0/12" in written
    assert "12/12" in written


def read_all(terminal: int) -> str:
    """Return what was written to a terminal after closing its other end."""
    chunks = []
    with os.fdopen(terminal, "rb", buffering=0) as file, suppress(OSError):  # Linux ends it with an error
        while chunk := file.read(65_536):
            chunks.append(chunk)
    return b"".join(chunks).decode()


def test_every_line_of_every_command_is_made_safe() -> None:
    """Only the console module prints, so that no name reaches the terminal unescaped."""
    folder = Path(console.__file__).parent
    printing = re.compile(r"(?<![\w.])print\(|std(out|err)\.write\(")
    found = {path.name for path in folder.glob("*.py") if printing.search(path.read_text(encoding="utf-8"))}
    assert found == set()


def test_a_few_items_need_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(console.with_progress(range(3), 3, "image")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
