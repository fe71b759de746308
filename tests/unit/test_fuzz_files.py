"""The structural fuzzer: its files, its finds, and a minute of fuzzing."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiffs import tiff

from benchmarks.fuzz_files import ADMITTED, KILLED, MEBI, RAISED, REFUSED, Tried, read_whole
from benchmarks.fuzz_structure import make_file

ROOT = Path(__file__).parents[2]
SECONDS = 60


def tried(outcome: str, seconds: float = 1, peak: int = MEBI) -> Tried:
    return Tried(0, 1000, outcome, seconds, peak, "")


def test_a_number_makes_the_same_file_again() -> None:
    assert make_file(7) == make_file(7) != make_file(8)


@settings(max_examples=5)
@given(st.integers(0, 10**6))
def test_any_number_makes_a_file(number: int) -> None:
    assert make_file(number)


@pytest.mark.parametrize(
    ("one", "found"),
    [
        (tried(ADMITTED, 99), False),
        (tried(ADMITTED, 101), True),
        (tried(ADMITTED, peak=2501 * MEBI), True),
        (tried(REFUSED, 4.9), False),
        (tried(REFUSED, 5.1), True),
        (tried(REFUSED, peak=502 * MEBI), True),
        (tried(RAISED), True),
        (tried(KILLED), True),
    ],
)
def test_a_find_breaks_a_promise_of_the_reader(one: Tried, found: bool) -> None:
    assert one.is_find == found


def test_files_are_read_as_the_function_reads_them() -> None:
    outcome, network, _ = read_whole(tiff(np.zeros((500, 500), np.uint8), metadata=None))
    assert (outcome, network > 0) == (ADMITTED, True)
    outcome, _, said = read_whole(b"II*\0" + zlib.compress(b""))
    assert outcome == REFUSED
    assert said.startswith("UNREADABLE_IMAGE")


@pytest.mark.slow
def test_a_minute_of_fuzzing_finds_nothing(tmp_path: Path) -> None:
    first = int.from_bytes(os.urandom(4), "big")
    command = [
        sys.executable,
        "-m",
        "benchmarks.fuzz_files",
        "--seconds",
        str(SECONDS),
        "--first",
        str(first),
    ]
    run = subprocess.run(
        [*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
