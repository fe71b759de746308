"""Measure which share of a page's time the quality checks take: `python -m benchmarks.quality`.

With and without the checks take turns on one page in one process, in each mode, with one thread and two.
It prints the medians of CPU time and wall time, and the median share that the checks take.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks.page import write_page
from cytomask import images
from cytomask.model import quality
from cytomask.model.predictor import MODES, Mode, Predictor

PAIRS = {"resize": 200, "native": 30}
UNMEASURED = quality.Appearance(sharpness=1, saturated=0, levels=1, unevenness=0, unusualness=0)


@contextmanager
def unchecked() -> Iterator[None]:
    """Check nothing within the context."""
    with (
        patch.object(quality, "look_at", lambda *_: UNMEASURED),
        patch.object(quality, "check", lambda *_, **__: ()),
    ):
        yield


def spent(predictor: Predictor, page: NDArray[np.generic], mode: Mode) -> tuple[float, float]:
    """Segment the page once; return CPU time and wall time in ms."""
    cpu, wall = time.process_time(), time.perf_counter()
    predictor.predict(page, mode)
    return 1000 * (time.process_time() - cpu), 1000 * (time.perf_counter() - wall)


def main() -> None:
    """Print a table in Markdown."""
    print("| mode | threads | CPU time | share | wall time | share |\n|---|---|---|---|---|---|")
    with TemporaryDirectory(prefix="cytomask-") as folder:
        page = images.read_page(write_page(Path(folder) / "page.tif")).pixels
    for mode, threads in product(MODES, (1, 2)):
        predictor = Predictor(threads=threads, modes=[mode])
        rows = []
        for _ in range(PAIRS[mode]):
            checked = spent(predictor, page, mode)
            with unchecked():
                rows.append((checked, spent(predictor, page, mode)))
        cells = []
        for clock in (0, 1):
            share = median(1 - without[clock] / checked[clock] for checked, without in rows)
            cells.append(f"{median(checked[clock] for checked, _ in rows):.1f} ms | {share:.1%}")
        print(f"| `{mode}` | {threads} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
