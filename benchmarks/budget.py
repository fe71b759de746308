"""Measure the rates by which cytomask.budget estimates a job, and name those that are too low.

    python -m benchmarks.budget

Each codec is measured on noise, flat pixels, and a picture between the two; the slowest counts. A rate is in
CPU seconds of one core, so that other work on the machine matters less, and from the fastest of several runs.
"""

import argparse
import io
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from cytomask import budget, images
from cytomask.model import preprocess
from cytomask.model.predictor import Predictor

SIDE = 1024
RUNS = 3


@dataclass(frozen=True)
class Measured:
    """One rate as measured and as in the budget, both in seconds."""

    what: str
    measured: float
    reckoned: float


def contents() -> dict[str, NDArray[np.uint8]]:
    """Make pages of (SIDE, SIDE) uint8 that compress best, worst and in between."""
    chance = np.random.default_rng(0)
    noise = chance.integers(0, 256, (SIDE, SIDE), np.uint8)
    smooth = np.kron(chance.integers(0, 256, (SIDE // 16, SIDE // 16), np.uint8), np.ones((16, 16), np.uint8))
    return {"noise": noise, "flat": np.zeros((SIDE, SIDE), np.uint8), "picture": smooth // 2 + noise // 8}


def packed() -> Iterator[tuple[str, str, bytes]]:
    """Yield codec, content and file bytes of each compression to measure."""
    tiffs = ("none", "lzw", "zlib", "zstd", "lzma", "packbits", "jpeg", "jpeg2000", "webp", "png")
    for content, page in contents().items():
        for codec in tiffs:
            if codec == "packbits" and content == "flat":
                continue  # its encoder takes minutes for long runs
            stored = np.repeat(page[..., None], 3, axis=-1) if codec == "webp" else page
            stream = io.BytesIO()
            compression = None if codec == "none" else codec
            tifffile.imwrite(stream, stored, compression=compression, metadata=None)
            yield codec, content, stream.getvalue()
        yield "PNG file", content, bytes(imagecodecs.png_encode(page, level=6))
        yield "JPEG file", content, bytes(imagecodecs.jpeg8_encode(page, level=95))


def least(run: Callable[[], Any]) -> float:
    """Return the CPU seconds of the fastest of several runs."""
    times = []
    for _ in range(RUNS):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def read(data: bytes) -> None:
    """Decode every page of a file."""
    with images.open_image(data, "measured") as image:
        for _ in images.read_pages(image):
            pass


def measure_codecs() -> Iterator[Measured]:
    """Yield each codec's longest time over all contents."""
    worst: dict[str, Measured] = {}
    for codec, content, data in packed():
        with images.open_image(data, "measured") as image:
            reckoned = budget.decoding_seconds(images.work_of(image, [0], None))
        seconds = least(partial(read, data))
        found = Measured(f"{codec}, {content}", seconds, reckoned)
        if codec not in worst or seconds / reckoned > worst[codec].measured / worst[codec].reckoned:
            worst[codec] = found
    yield from worst.values()


def measure_structure() -> Iterator[Measured]:
    """Measure files of many pages, and of many small strips and tiles."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as file:
        for _ in range(2000):
            file.write(np.zeros((8, 8), np.uint8), metadata=None, contiguous=False)
    data = stream.getvalue()
    with images.open_image(data, "measured") as image:
        work = images.work_of(image, range(2000), None)
    yield Measured(
        "2,000 pages", least(lambda: read(data)), budget.decoding_seconds(work) + 2000 * budget.PAGE_SECONDS
    )
    page = contents()["picture"]
    for what, options in (("64 x 64 tiles", {"tile": (16, 16)}), ("1,024 strips", {"rowsperstrip": 1})):
        for codec in ("zlib", "jpeg"):
            stream = io.BytesIO()
            tifffile.imwrite(stream, page, compression=codec, metadata=None, **options)
            data = stream.getvalue()
            with images.open_image(data, "measured") as image:
                work = images.work_of(image, [0], None)
            yield Measured(
                f"{what}, {codec}",
                least(partial(read, data)),
                budget.decoding_seconds(work),
            )


def measure_network() -> Iterator[Measured]:
    """Time a page through the network and into each output."""
    predictor = Predictor()
    predictor.wait()
    page = contents()["picture"]
    tiles = preprocess.plan_tiles(*page.shape).count
    prediction = predictor.predict(page)
    yield Measured(
        f"{tiles} tiles of the network, on two cores",
        (least(lambda: predictor.predict(page)) - least(lambda: preprocess.normalise(page))) / 2,
        tiles * budget.TILE_SECONDS,
    )
    outputs: dict[str, Callable[[], Any]] = {
        "page": lambda: preprocess.normalise(page),
        "mask": lambda: images.encode_mask(prediction.mask),
        "probability": lambda: images.encode_probability(prediction.probability),
        "overlay": lambda: images.encode_overlay(page, prediction.mask),
    }
    for output, run in outputs.items():
        yield Measured(output, least(run), page.size * budget.PIXEL_SECONDS[output])


def main() -> None:
    """Print a table of measured rates beside the budget's."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    print(f"{'':44}{'measured':>12}{'reckoned':>12}{'share':>8}")
    for measure in (measure_codecs, measure_structure, measure_network):
        for one in measure():
            print(
                f"{one.what:44}{1000 * one.measured:9.1f} ms{1000 * one.reckoned:9.1f} ms"
                f"{one.measured / one.reckoned:8.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
