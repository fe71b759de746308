"""Fuzz the readers of images, COCO files and plate maps: open files of every structure in child processes.

    python -m benchmarks.fuzz_files --seconds 3600 --out finds

A file is a find if it kills the child, raises anything but a refusal, is refused late or after taking much
memory, or is admitted and takes more than a job may. The same number always makes the same file.
"""

import argparse
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.fuzz_structure import COCO, JPEG_FILE, OUTLINES, PLATE_MAP, PNG_FILE, TIFF, Made, make_file
from cytomask import budget, images
from cytomask.errors import CytomaskError, NothingDrawn
from cytomask.functions.segment.pages import Source
from cytomask.images import Limits
from cytomask.model import preprocess
from cytomask.platemap import parse_plate_map
from cytomask.truths.coco import read_coco, read_part, require_few_images
from cytomask.truths.limits import require_coco_size

MEBI = 2**20
MOST_ADDRESSES = 6 * 2**30
LONGEST_SECONDS = 150
REFUSED_SECONDS, REFUSED_BYTES = 5, 500 * MEBI
ADMITTED_SECONDS, ADMITTED_BYTES = 100, 2500 * MEBI
OUTPUTS = ("mask", "probability", "overlay")
NAMES = {
    TIFF: "fuzz.tif",
    PNG_FILE: "fuzz.png",
    JPEG_FILE: "fuzz.jpg",
    COCO: "fuzz.json",
    OUTLINES: "fuzz.outlines",
    PLATE_MAP: "fuzz.csv",
}
ADMITTED, REFUSED, RAISED, KILLED = "admitted", "refused", "raised", "killed"


@dataclass(frozen=True)
class Tried:
    """The outcome of one file.

    Attributes:
        number: the number it is made from.
        kind: of the file.
        size: size of the file in bytes.
        outcome: admitted, refused, raised or killed.
        seconds: CPU seconds of the child; for admitted files plus the estimate for network and buckets.
        peak: peak memory in bytes.
        said: message of the refusal or error.
    """

    number: int
    kind: str
    size: int
    outcome: str
    seconds: float
    peak: int
    said: str

    @property
    def is_find(self) -> bool:
        """Whether it breaks a promise."""
        if self.outcome == REFUSED:
            return self.seconds > REFUSED_SECONDS or self.peak > REFUSED_BYTES + self.size
        if self.outcome == ADMITTED:
            return self.seconds > ADMITTED_SECONDS or self.peak > ADMITTED_BYTES
        return True


def read_whole(made: Made) -> tuple[str, float, str]:
    """Read a file as the functions do, without the network and the buckets.

    Returns:
        The outcome, the estimated seconds of network and buckets, and what the reader said.
    """
    try:
        waits, said = READERS.get(made.kind, _read_image)(made.data)
        return ADMITTED, waits, said
    except CytomaskError as error:
        return REFUSED, 0.0, f"{error.code}: {error}"
    except BaseException as error:
        return RAISED, 0.0, f"{type(error).__name__}: {error}"


def _read_image(data: bytes) -> tuple[float, str]:
    """Read all pages and times of an image, and encode every output."""
    limits = Limits.within(3008)
    with Source(lambda: data, NAMES[TIFF], limits) as source:
        image = source.open()
        wanted = range(len(image.pages))
        channel = 0 if any(page.channels > 1 and not page.colour for page in image.pages) else None
        images.check(image, wanted, channel, limits)
        tiles = sum(preprocess.plan_tiles(page.height, page.width).count for page in image.pages)
        reckoned = budget.require(image, wanted, channel, tiles=tiles, outputs=OUTPUTS)
        source.times()
        image.facts(0, channel)
        network = tiles * budget.TILE_SECONDS + len(wanted) * len(OUTPUTS) * budget.WRITE_SECONDS
        try:
            for page in images.read_pages(image, wanted, channel, limits):
                normalised = preprocess.normalise(page.pixels)
                images.encode_mask(normalised > 0)
                images.encode_probability(np.clip(normalised, 0, 1))
                images.encode_overlay(page.pixels, normalised > 0)
        except CytomaskError as error:  # only its pixels tell
            return network, f"reckoned {reckoned:.1f} s, {error.code}: {error}"
    return network, f"reckoned {reckoned:.1f} s"


def _index_coco(data: bytes) -> tuple[float, str]:
    """Split a COCO file into the parts of its images, as its upload does."""
    require_coco_size(len(data), NAMES[COCO])
    coco = read_coco(data, NAMES[COCO])
    require_few_images(coco)
    for base in coco.by_base:
        read_part(coco.part(base), NAMES[COCO]).assign({f"s3://bucket/{base}": [f"s3://bucket/{base}"]})
    return 0.0, f"{coco.images} images, {coco.annotations} annotations, {len(coco.faults)} faults"


def _draw_outlines(data: bytes) -> tuple[float, str]:
    """Draw and encode the first image of a COCO file, as scoring does with its part."""
    coco = read_coco(data, NAMES[OUTLINES])
    name, [entry, *_] = next(iter(coco.entries.items()))
    sides = (
        (entry.height, entry.width) if entry.height * entry.width <= images.LIMITS.page_pixels else (16, 16)
    )
    try:
        images.encode_mask(coco.draw(name, [sides]))
    except NothingDrawn as error:  # only drawing tells
        return 0.0, f"{error.code}: {error}"
    return 0.0, f"{entry.width} x {entry.height} pixels, {coco.annotations} annotations"


def _read_plate_map(data: bytes) -> tuple[float, str]:
    """Read a plate map as its upload does."""
    return 0.0, f"{len(parse_plate_map(data, NAMES[PLATE_MAP]).wells)} wells"


READERS = {COCO: _index_coco, OUTLINES: _draw_outlines, PLATE_MAP: _read_plate_map}
AT_REST = 100 * 2**20  # bytes; memory of a process that has read a small file


def try_file(number: int, made: Made) -> Tried:
    """Read a file in a child process of limited memory and time."""
    reader, writer = os.pipe()
    held = _resident()
    child = os.fork()
    if child == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
        resource.setrlimit(resource.RLIMIT_CPU, (LONGEST_SECONDS, LONGEST_SECONDS))
        outcome, waits, said = read_whole(made)
        os.write(writer, f"{outcome}\n{waits}\n{said[:400]}".encode(errors="replace"))
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        told = pipe.read().decode(errors="replace")
    _, status, usage = os.wait4(child, 0)
    outcome, spent, said = told.split("\n", 2) if told else (KILLED, "0", _cause(status))
    seconds = usage.ru_utime + usage.ru_stime + float(spent)
    # A child's peak includes this process's memory at the fork, for example a large file made earlier.
    peak = usage.ru_maxrss * 1024 - max(held - AT_REST, 0)
    return Tried(number, made.kind, len(made.data), outcome, seconds, peak, said)


def _resident() -> int:
    """Return this process's resident memory now, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _cause(status: int) -> str:
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {status}"


def try_files(seconds: float, first: int) -> Iterator[Tried]:
    """Try one file after another until the time is up."""
    end, number = time.monotonic() + seconds, first
    while time.monotonic() < end:
        yield try_file(number, make_file(number))
        number += 1


def main() -> int:
    """Try files, print their time and memory, and keep the finds; return 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--out", type=Path, help="folder for the finds")
    parser.add_argument("files", nargs="*", type=Path, help="try these files instead")
    arguments = parser.parse_args()
    if arguments.files:
        kinds = {Path(name).suffix: kind for kind, name in NAMES.items()}
        tried = [
            try_file(0, Made(kinds.get(path.suffix, TIFF), path.read_bytes())) for path in arguments.files
        ]
        for path, one in zip(arguments.files, tried, strict=True):
            print(f"{path.name:32}{_line(one)}")
        return int(any(one.is_find for one in tried))
    seen: list[Tried] = []
    try:
        for one in try_files(arguments.seconds, arguments.first):
            seen.append(one)
            if one.is_find:
                keep(one, arguments.out)
    finally:
        report(seen)
    return int(any(one.is_find for one in seen))


def keep(one: Tried, folder: Path | None) -> None:
    """Print a find, and write its file into the folder."""
    print(f"FIND {one.number}: {_line(one)}", flush=True)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / NAMES[one.kind]
        path.with_stem(str(one.number)).write_bytes(make_file(one.number).data)


def report(seen: list[Tried]) -> None:
    """Print the number of files, and the files that took the most time and memory."""
    if not seen:
        return
    outcomes = {outcome: sum(one.outcome == outcome for one in seen) for outcome in (ADMITTED, REFUSED)}
    print(f"{len(seen)} files, {outcomes}, {sum(one.is_find for one in seen)} finds")
    for kind in NAMES:
        of_kind = [one for one in seen if one.kind == kind]
        admitted = sum(one.outcome == ADMITTED for one in of_kind)
        print(
            f"{kind}: {len(of_kind)} files, {admitted} admitted, {sum(one.is_find for one in of_kind)} finds"
        )
    for outcome in (ADMITTED, REFUSED):
        of_these = [one for one in seen if one.outcome == outcome]
        for what, key in (("slowest", lambda one: one.seconds), ("most memory", lambda one: one.peak)):
            for one in sorted(of_these, key=key, reverse=True)[:3]:
                print(f"{outcome}, {what}: {one.number}: {_line(one)}")


def _line(one: Tried) -> str:
    took = f"{one.kind:10}{one.size / 1e6:8.2f} MB{one.seconds:7.1f} s{one.peak / MEBI:7.0f} MiB"
    return f"{took}  {one.outcome:9}{one.said[:150]}"


if __name__ == "__main__":
    sys.exit(main())
