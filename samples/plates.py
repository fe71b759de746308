"""Simulate plates with known doubling times: curves for the statistics, small pages for the demo.

The project ships no data of others: everything is computed from a seed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import tifffile
from numpy.typing import NDArray

from cytomask.samples.fields import CULTURES, MARGIN, Dish, Field, blur, render, settle

Kind = Literal["exponential", "logistic"]
Shares = NDArray[np.float64]
Range = tuple[float, float]

FULL = 0.97  # confluence at which an exponential well stops


@dataclass(frozen=True)
class Well:
    """How a simulated well grows.

    Attributes:
        kind: `logistic` growth slows as the well fills up, `exponential` growth does not.
        doubling_time_h: doubling time while cells are few.
        begins: confluence when growth begins.
        limit: final confluence of a logistic well.
        lag_h: hours before growth begins.
    """

    kind: Kind = "logistic"
    doubling_time_h: float = 20.0
    begins: float = 0.06
    limit: float = 0.95
    lag_h: float = 0.0

    def confluence(self, hours: Shares) -> Shares:
        """Return the true confluence at these hours: (N,) float64."""
        grown = np.exp(math.log(2) / self.doubling_time_h * np.maximum(hours - self.lag_h, 0))
        if self.kind == "exponential":
            return np.minimum(self.begins * grown, FULL)
        share: Shares = self.limit / (1 + (self.limit / self.begins - 1) / grown)
        return share


def random_well(
    rng: np.random.Generator,
    kind: Kind,
    *,
    doubling: Range = (14, 40),
    limit: Range = (0.85, 1.0),
    lag: Range = (0, 0),
) -> Well:
    """Make a typical well, with 2 to 10 % confluence at the start.

    Args:
        rng: random generator.
        kind: how growth ends.
        doubling: range of the doubling time in hours.
        limit: range of the final confluence of a logistic well.
        lag: range of the hours before growth begins.
    """
    return Well(kind, rng.uniform(*doubling), rng.uniform(0.02, 0.1), rng.uniform(*limit), rng.uniform(*lag))


def measured(
    rng: np.random.Generator,
    well: Well,
    hours: Shares,
    *,
    noise: float = 0.05,
    missing: float = 0.1,
    alike: float = 0.0,
) -> tuple[Shares, Shares]:
    """Return hours and confluence as a microscope would measure them.

    Args:
        rng: random generator.
        well: the well to measure.
        hours: (N,) float64, when the plate is scanned.
        noise: relative standard deviation of a measurement.
        missing: share of scans that fail.
        alike: correlation of the errors of neighbouring scans, as a drifting focus makes them.

    Returns:
        Two (M,) float64 with M <= N.
    """
    kept = rng.random(hours.size) >= missing
    errors = rng.standard_normal(hours.size)
    for scan in range(1, hours.size if alike else 0):
        errors[scan] = alike * errors[scan - 1] + math.sqrt(1 - alike**2) * errors[scan]
    seen = well.confluence(hours) * (1 + noise * errors)
    return hours[kept], np.clip(seen, 0, 1)[kept]


@dataclass(frozen=True)
class SampleWell:
    """A well of the demo's plate.

    Attributes:
        truth: how it grows; None for a dead well, where nothing grows.
        condition: its condition in the plate map.
        out_of_focus: whether its pages are blurred.
    """

    truth: Well | None
    condition: str
    out_of_focus: bool = False


DEMO_PLATE = "demo plate"
DEMO_HOURS = tuple(range(0, 64, 8))
DEMO_WELLS: Mapping[str, SampleWell] = MappingProxyType(
    {
        "A01": SampleWell(Well(doubling_time_h=12, begins=0.05), "control"),
        "A02": SampleWell(Well(doubling_time_h=13, begins=0.06), "control"),
        "A03": SampleWell(Well(doubling_time_h=17, begins=0.07), "drug"),
        "B01": SampleWell(Well(doubling_time_h=20, begins=0.06), "drug"),
        "B02": SampleWell(None, "dead"),
        "B03": SampleWell(Well(doubling_time_h=12, begins=0.05), "control", out_of_focus=True),
    }
)
PAGE = (224, 224)  # pixels: one tile of the network, so a page takes a tenth of a second
BLURRED = 6.0  # pixels
HALF_A_CELL = 0.006  # share of such a page: a field exceeds its confluence by up to one cell


@dataclass(frozen=True)
class SamplePage:
    """One page of the demo's plate: its key, its file, and its true confluence."""

    key: str
    image: Path
    confluence: float


def write_plate(folder: Path) -> list[SamplePage]:
    """Write the demo's plate and its plate map: 6 wells at 8 times, with an IncuCyte's file names."""
    pages = []
    for name, well in DEMO_WELLS.items():
        for hour, field in zip(DEMO_HOURS, growing_fields(_seed(name), _shares(well)), strict=True):
            day, rest = divmod(hour, 24)
            key = f"{DEMO_PLATE}/{DEMO_PLATE}_Phase_{name}_1_{day:02d}d{rest:02d}h00m.tif"
            pixels = field.pixels
            if well.out_of_focus:
                pixels = blur(pixels.astype(np.float32), BLURRED).astype(np.uint16)
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, pixels, compression="lzw")
            pages.append(SamplePage(key, path, float(field.cells.mean())))
    rows = [f"{name},{well.condition}" for name, well in DEMO_WELLS.items()]
    head = [f"# expected pages: {len(pages)}", "# control: control", "well,condition"]
    (folder / DEMO_PLATE / "platemap.csv").write_text("\n".join([*head, *rows]) + "\n")
    return pages


def growing_fields(seed: int, shares: Sequence[float]) -> Iterator[Field]:
    """Compute the fields of one place over time: cells stay in place, and new ones settle.

    Args:
        seed: chooses the culture and everything that is random, as in `phase_contrast_field`.
        shares: confluence at each time, 0..0.9, not falling.

    Yields:
        For each share, a field of (H, W) `PAGE` pixels that exceeds the share by less than one cell.
    """
    rng, culture = np.random.default_rng(seed), CULTURES[seed % len(CULTURES)]
    dish = Dish(PAGE[0] + 2 * MARGIN, PAGE[1] + 2 * MARGIN)
    page = np.s_[MARGIN : MARGIN + PAGE[0], MARGIN : MARGIN + PAGE[1]]
    for share in shares:
        while np.count_nonzero(dish.nearest[page] < 1) < share * PAGE[0] * PAGE[1]:
            settle(rng, culture, dish)
        yield render(rng, dish, page)


def _shares(well: SampleWell) -> list[float]:
    """Return the confluence to draw at each hour; a dead well keeps its few first cells."""
    hours = np.array(DEMO_HOURS, np.float64)
    truth = np.full(hours.size, 0.08) if well.truth is None else well.truth.confluence(hours)
    return [float(share) for share in np.clip(truth - HALF_A_CELL, 0, 0.85)]


def _seed(name: str) -> int:
    """Return a well's seed, one with round cells: enough of them fit on a small page."""
    return 4 * (ord(name[0]) * 100 + int(name[1:])) + 1
