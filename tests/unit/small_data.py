"""Small data sets with an index, and the measures of a good page, for tests of reports and of quality."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from cytomask.model.quality import Measures
from cytomask.training.sources import read_source
from cytomask.training.survey import Seen, look

COLUMNS = ("source", "split", "image", "mask", "cell")
GOOD = Measures(
    confluence_low=0.3,
    confluence_high=0.32,
    sharpness=0.7,
    saturated=0.0,
    levels=100,
    unevenness=0.02,
    unusualness=0.8,
    doubt=0.05,
    squashed=False,
    shrinkage=1,
)


def picture(seed: int, dtype: str = "uint8", shape: tuple[int, int] = (30, 40)) -> NDArray[Any]:
    high = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, high, shape, dtype)


def square(side: int, shape: tuple[int, int] = (30, 40)) -> NDArray[np.bool_]:
    mask = np.zeros(shape, np.bool_)
    mask[3 : 3 + side, 3 : 3 + side] = True
    return mask


def add(
    folder: Path, source: str, name: str, pixels: NDArray[Any], cells: NDArray[np.bool_], line: str = ""
) -> None:
    """Add a row to the index, with its image as a TIFF and its mask as a PNG."""
    paths = folder / source / f"{name}.tif", folder / source / f"{name}.png"
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(paths[0], pixels)
    Image.fromarray(cells.astype(np.uint8) * 255).save(paths[1])
    index = folder / "index.csv"
    begun = index.is_file()
    with index.open("a", newline="") as file:
        rows = csv.writer(file)
        if not begun:
            rows.writerow(COLUMNS)
        rows.writerow([*source.split("/"), *(str(path.relative_to(folder)) for path in paths), line])


def look_at(folder: Path, *sources: str) -> list[Seen]:
    return [look(source, sample) for source in sources for sample in read_source(folder, source)]
