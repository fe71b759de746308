"""The structural fuzzer: its files, its finds, and a minute of fuzzing."""

import contextlib
import os
import random
import subprocess
import sys
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as pycocotools
from tiffs import tiff

from benchmarks.fuzz_files import ADMITTED, KILLED, MEBI, RAISED, REFUSED, Tried, read_whole
from benchmarks.fuzz_streams import make_jpeg2000
from benchmarks.fuzz_structure import COCO, OUTLINES, PLATE_MAP, TIFF, Made, make_file
from benchmarks.fuzz_texts import compressed

ROOT = Path(__file__).parents[2]
SECONDS = 60
GOOD_COCO = (
    b'{"images":[{"id":1,"file_name":"a.tif","width":20,"height":16}],"annotations":[{"id":1,"image_id":1,'
    b'"segmentation":{"size":[16,20],"counts":[100,200,20]}}]}'
)


def tried(outcome: str, seconds: float = 1, peak: int = MEBI) -> Tried:
    return Tried(0, TIFF, 1000, outcome, seconds, peak, "")


def test_a_number_makes_the_same_file_again() -> None:
    assert make_file(7) == make_file(7) != make_file(8)


@settings(max_examples=5)
@given(st.integers(0, 10**6))
def test_any_number_makes_a_file(number: int) -> None:
    assert make_file(number).data


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


def test_images_are_read_as_the_function_reads_them() -> None:
    outcome, network, _ = read_whole(Made(TIFF, tiff(np.zeros((500, 500), np.uint8), metadata=None)))
    assert (outcome, network > 0) == (ADMITTED, True)
    outcome, _, said = read_whole(Made(TIFF, b"II*\0" + zlib.compress(b"")))
    assert outcome == REFUSED
    assert said.startswith("UNREADABLE_IMAGE")


@pytest.mark.parametrize(
    ("made", "outcome", "said"),
    [
        (Made(COCO, GOOD_COCO), ADMITTED, "1 images, 1 annotations, 0 faults"),
        (Made(OUTLINES, GOOD_COCO), ADMITTED, "20 x 16 pixels, 1 annotations"),
        (Made(OUTLINES, GOOD_COCO.replace(b'"width":20', b'"width":21')), REFUSED, "UNREADABLE_COCO"),
        (Made(PLATE_MAP, b"well,condition\nA1,x\n"), ADMITTED, "1 wells"),
        (Made(PLATE_MAP, b"well,condition\nA99,x\n"), REFUSED, "INVALID_PLATE_MAP"),
    ],
)
def test_coco_files_and_plate_maps_are_read_as_the_functions_read_them(
    made: Made, outcome: str, said: str
) -> None:
    found = read_whole(made)
    assert found[0] == outcome
    assert found[2].startswith(said)


def test_compressed_run_lengths_are_those_of_pycocotools() -> None:
    mask = np.asfortranarray(np.random.default_rng(0).random((90, 40)) < 0.02, np.uint8)
    flat = np.diff(np.flatnonzero(np.diff(mask.ravel("F"), prepend=0, append=2)), prepend=0).tolist()
    differences = [run - flat[at - 2] if at > 2 else run for at, run in enumerate(flat)]
    assert compressed(differences).encode() == pycocotools.encode(mask)["counts"]


def test_hand_made_jpeg_2000_are_decoded() -> None:
    decoded = set()
    for seed in range(40):
        with contextlib.suppress(Exception):
            decoded.add(imagecodecs.jpeg2k_decode(make_jpeg2000((64, 64, 1), 8, random.Random(seed))).shape)
    assert (64, 64) in decoded


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
