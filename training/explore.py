"""Show the data: `python -m cytomask.training.explore SOURCE... --data DIR --out report.html`.

The report is one HTML file with its pictures inside: counts, confluence, cell sizes, intensities, duplicates,
overlays.
"""

import argparse
import base64
import hashlib
import io
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from cytomask import images, metrics
from cytomask.model import preprocess
from cytomask.training.sources import Sample, read_source
from cytomask.truths import names
from cytomask.truths.coco import read_coco

Areas = NDArray[np.int64]

TINY = 64  # square pixels: 8 x 8, a quarter of the smallest LIVECell cells' extent
SATURATED = 0.01  # share of the pixels from which the report names an image
PANELS = 4  # for each cell line
PANEL_WIDTH = 400  # pixels, of the image and of its overlay
CELL_SIZE_RANKS = (5, 50, 95)
PERCENTILES = {"1st percentile": "dark", "median": "middle", "99th percentile": "bright"}

# Okabe and Ito's palette for colour-blind readers; the markers differ for those who see no colours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPXp"


@dataclass(frozen=True)
class Seen:
    """The measurements of one image and its ground truth.

    Attributes:
        source: as given on the command line.
        sample: the image.
        shape: height and width in pixels.
        kind: type of the file's pixels, and `RGB` for colours.
        pixels_hash, cells_hash: equal for equal pixels and for equal masks.
        confluence: share of the pixels that are cell, 0..1.
        areas: of the mask's connected components, in pixels.
        dark, middle, bright: 1st, 50th and 99th percentile, as shares of the type's largest value,
            or for floats of the image's maximum.
        saturated: share of the pixels with the type's largest value.
    """

    source: str
    sample: Sample
    shape: tuple[int, int]
    kind: str
    pixels_hash: str
    cells_hash: str
    confluence: float
    areas: Areas
    dark: float
    middle: float
    bright: float
    saturated: float

    @property
    def line(self) -> str:
        """The cell line in words."""
        return self.sample.group or "not named"


def look(source: str, sample: Sample) -> Seen:
    """Read and measure one image; raise ValueError as `Sample.read` does."""
    read, cells = sample.read()
    page: NDArray[Any] = read
    with images.open_image(sample.image) as file:
        header = file.pages[0]
    whole = np.issubdtype(header.dtype, np.integer)
    ceiling = np.iinfo(header.dtype).max if whole else float(page.max()) or 1.0
    dark, middle, bright = np.percentile(page, (1, 50, 99)) / ceiling
    return Seen(
        source=source,
        sample=sample,
        shape=(header.height, header.width),
        kind=f"{header.dtype} RGB" if header.colour else header.dtype,
        pixels_hash=_hash(page),
        cells_hash=_hash(cells),
        confluence=metrics.confluence(cells),
        areas=component_areas(cells),
        dark=float(dark),
        middle=float(middle),
        bright=float(bright),
        saturated=float(np.mean(page > ceiling - 0.5)) if whole else 0.0,
    )


def _hash(array: NDArray[np.generic]) -> str:
    described = f"{array.shape} {array.dtype}".encode()
    return hashlib.sha256(described + np.ascontiguousarray(array).tobytes()).hexdigest()


def component_areas(cells: metrics.Mask) -> Areas:
    """Return areas in pixels of the connected components, diagonal neighbours included, of (H, W) bool."""
    _, _, statistics, _ = cv2.connectedComponentsWithStats(cells.astype(np.uint8), connectivity=8)
    return statistics[1:, cv2.CC_STAT_AREA].astype(np.int64)  # the first is the background


def annotated_areas(annotations: Path, lines: Mapping[str, str]) -> dict[str, Areas]:
    """Return the area in pixels of each of a COCO file's annotations, by cell line.

    Args:
        annotations: a file whose outlines were drawn before without an error.
        lines: the cell line of each image by its base name.
    """
    coco = read_coco(annotations.read_bytes(), annotations.name)
    areas: dict[str, list[int]] = defaultdict(list)
    for name in coco.entries:
        areas[lines[names.base(name)]] += coco.areas(name)
    return {line: np.array(found, np.int64) for line, found in areas.items()}


def cell_sizes(seen: Sequence[Seen], data: Path) -> dict[tuple[str, str], Areas]:
    """List areas by cell line and source: of a COCO file's annotations, or of the masks' components."""
    sizes: dict[tuple[str, str], Areas] = {}
    for source, looks in _grouped(seen, lambda one: one.source).items():
        if source.startswith("coco:"):
            lines = {names.base(one.sample.image.name): one.line for one in looks}
            by_line = annotated_areas(data / source.split(":")[1], lines)
        else:
            by_line = {
                line: np.concatenate([one.areas for one in of_line])
                for line, of_line in _grouped(looks, lambda one: one.line).items()
            }
        sizes |= {(line, source): areas for line, areas in by_line.items()}
    return sizes


def duplicates(seen: Sequence[Seen]) -> list[tuple[str, list[Seen]]]:
    """List images that occur twice, by pixels or by name, and in which way; leaks come first."""
    found = []
    for same in _grouped(seen, lambda one: one.pixels_hash).values():
        if len(same) > 1:
            differ = len({one.cells_hash for one in same}) > 1
            found.append(("same pixels, different masks" if differ else "same pixels, same mask", same))
    for same in _grouped(seen, lambda one: one.sample.name).values():
        if len({one.pixels_hash for one in same}) > 1:
            found.append(("same name, different pixels", same))
    return sorted(found, key=lambda group: len({one.source for one in group[1]}) == 1)


def _grouped(seen: Iterable[Seen], key: Callable[[Seen], str]) -> dict[str, list[Seen]]:
    """Group images by key, keys in the order of their first image."""
    groups = defaultdict(list)
    for one in seen:
        groups[key(one)].append(one)
    return dict(groups)


def report(seen: Sequence[Seen], data: Path) -> str:
    """Write the whole page as HTML that needs no other file."""
    sources, lines = (list(_grouped(seen, key)) for key in (_source, _line))
    sizes = cell_sizes(seen, data)
    copies = duplicates(seen)
    leaks = sum(len({one.source for one in same}) > 1 for _, same in copies)
    lede = (
        f"{_count(len(seen), 'image')} from {_count(len(sources), 'source')}, "
        f"{_count(len(lines), 'cell line')}, {sum(map(len, sizes.values())):,} outlined cells or groups of "
        f"cells. Median confluence {np.median([one.confluence for one in seen]):.0%}. "
        f"{_count(leaks, 'image')} in more than one source."
    )
    sections = (
        ("Images", _images_section(seen, sources, sorted(lines))),
        ("Confluence", _confluence_section(seen)),
        ("Cell sizes", _sizes_section(sizes)),
        ("Intensity", _intensity_section(seen)),
        ("Duplicates", _duplicates_section(copies)),
        ("Worth a look", _oddities_section(seen)),
        ("Overlays", _overlays_section(seen)),
    )
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>What is in the data</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f'<h1>What is in the data</h1><p class="lede">{lede}</p>{body}<footer>Made {made}.</footer>'
        "</body></html>\n"
    )


STYLE = """
body { max-width: 68rem; margin: 3rem auto; padding: 0 1.5rem; background: #fff; color: #1c1c1c;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .75rem; padding-top: .75rem; border-top: 1px solid #d5d5d5; }
h3 { font-size: 1rem; margin: 2rem 0 .5rem; }
p { max-width: 44rem; margin: .5rem 0 1rem; }
.lede { font-size: 1.1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0 1.5rem; font-size: .875rem;
        font-variant-numeric: tabular-nums; }
th, td { padding: .3rem 1.5rem .3rem 0; text-align: left; vertical-align: top;
         border-bottom: 1px solid #e6e6e6; }
th { border-bottom: 2px solid #888; font-weight: 600; vertical-align: bottom; }
th.n, td.n { text-align: right; }
tr.sum td { font-weight: 600; border-top: 2px solid #888; }
figure { margin: 1rem 0 2rem; }
figure img { max-width: 100%; height: auto; }
figcaption { font-size: .875rem; color: #555; max-width: 44rem; overflow-wrap: anywhere; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr)); gap: 1rem; }
.panels figure { margin: 0; }
.panels img { width: 100%; display: block; margin-bottom: .3rem; }
footer { margin: 4rem 0 2rem; color: #555; font-size: .875rem; }
"""


def _source(one: Seen) -> str:
    return one.source


def _line(one: Seen) -> str:
    return one.line


def _images_section(seen: Sequence[Seen], sources: Sequence[str], lines: Sequence[str]) -> str:
    counts = Counter((one.line, one.source) for one in seen)
    rows: list[Sequence[object]] = [
        (line, *(counts[line, source] for source in sources), sum(counts[line, source] for source in sources))
        for line in lines
    ]
    rows.append(("all", *(sum(one.source == source for one in seen) for source in sources), len(seen)))
    formats = Counter((one.source, "{} × {}".format(*one.shape), one.kind) for one in seen)
    return (
        "<h3>By cell line and source</h3>"
        + _table(("cell line", *sources, "all"), rows, summed=True)
        + "<h3>Size and type</h3>"
        + _table(
            ("source", "height × width", "type", "images"), [(*of, count) for of, count in formats.items()]
        )
    )


def _confluence_section(seen: Sequence[Seen]) -> str:
    lines = sorted(_grouped(seen, _line).items())
    marks = {
        line: {
            source: [one.confluence for one in found] for source, found in _grouped(of_line, _source).items()
        }
        for line, of_line in lines
    }
    rows = []
    for line, of_line in lines:
        shares = [one.confluence for one in of_line]
        rows.append((line, len(shares), *(f"{rank:.1%}" for rank in np.percentile(shares, (0, 50, 100)))))
    return _figure(
        _strips(marks, list(_grouped(seen, _source)), "share of the image that is cell"),
        "Confluence by cell line",
        "A mark for each image.",
    ) + _table(("cell line", "images", "least", "median", "most"), rows)


def _sizes_section(sizes: Mapping[tuple[str, str], Areas]) -> str:
    found = {of: areas for of, areas in sorted(sizes.items()) if len(areas)}
    if not found:
        return "<p>No image has a cell.</p>"
    rows = [
        (
            line,
            source,
            len(areas),
            *(round(rank) for rank in np.percentile(areas, CELL_SIZE_RANKS)),
            int(np.count_nonzero(areas < TINY)),
        )
        for (line, source), areas in found.items()
    ]
    heads = (
        "cell line",
        "source",
        "outlines",
        *(f"{rank}th percentile" for rank in CELL_SIZE_RANKS),
        f"under {TINY}",
    )
    return _figure(
        _boxes({f"{line}  ({_short(source)})": areas for (line, source), areas in found.items()}),
        "Cell sizes by cell line and source",
        "Areas in square pixels: box from the first to the third quartile with the median, whiskers from "
        "the 5th to the 95th percentile. For sources that begin with coco: every annotation is one cell, "
        "measured by itself. For all other sources they are the masks' connected components: touching "
        "cells count as one, so dense cultures show the areas of groups.",
    ) + _table(heads, rows)


def _intensity_section(seen: Sequence[Seen]) -> str:
    rows = {
        _short(source): {name: [getattr(one, share) for one in looks] for name, share in PERCENTILES.items()}
        for source, looks in _grouped(seen, _source).items()
    }
    return _figure(
        _strips(rows, PERCENTILES, "share of the largest value that the pixel type holds"),
        "Intensity by source",
        "Three marks for each image. 12-bit pixels in a 16-bit file end at 6%; floating-point pixels are "
        "shown over their image's own maximum. Training and serving normalise each page by its mean and "
        "deviation, so a different level does no harm; clipped values are lost.",
    )


def _duplicates_section(copies: Sequence[tuple[str, Sequence[Seen]]]) -> str:
    if not copies:
        return "<p>None: no two images share their name or their pixels.</p>"
    rows = [
        (
            how,
            "across sources" if len({one.source for one in same}) > 1 else "within one source",
            _places(same),
        )
        for how, same in copies
    ]
    return (
        "<p>Compared by name and by a hash of the decoded pixels. What lies in more than one source leaks "
        "as soon as one of them is trained on and another is validated on.</p>"
    ) + _table(("what", "where", "images"), rows)


def _places(same: Sequence[Seen]) -> str:
    return "; ".join(f"{one.source}: {one.sample.name}" for one in same)


def _oddities_section(seen: Sequence[Seen]) -> str:
    rows: list[Sequence[object]] = []
    for one in seen:
        if not one.confluence:
            rows.append((one.source, one.sample.name, "no cell in the ground truth"))
        if one.saturated > SATURATED:
            rows.append((one.source, one.sample.name, f"{one.saturated:.1%} of the pixels are saturated"))
        if one.dark == one.bright:
            rows.append((one.source, one.sample.name, "hardly any contrast"))
    if not rows:
        return "<p>Nothing: every image has cells and contrast, and hardly a pixel is saturated.</p>"
    return _table(("source", "image", "why"), rows)


def _overlays_section(seen: Sequence[Seen]) -> str:
    parts = [
        "<p>From the emptiest to the fullest image of each cell line, plain and with its ground truth.</p>"
    ]
    for line, of_line in sorted(_grouped(seen, _line).items()):
        distinct = {one.pixels_hash: one for one in of_line}.values()
        ranked = sorted(distinct, key=lambda one: one.confluence)
        chosen = sorted({round(at) for at in np.linspace(0, len(ranked) - 1, PANELS)})
        panels = "".join(_panel(ranked[at]) for at in chosen)
        parts.append(f'<h3>{escape(line)}</h3><div class="panels">{panels}</div>')
    return "".join(parts)


def _panel(one: Seen) -> str:
    """Draw the image, and beside it the same with its ground truth."""
    page, cells = one.sample.read()
    width = min(PANEL_WIDTH, one.shape[1])
    height = max(round(one.shape[0] * width / one.shape[1]), 1)
    small = preprocess.resize(page.astype(np.float32), height, width)
    covered = preprocess.resize(cells.astype(np.float32), height, width) >= 0.5
    views = [
        np.asarray(Image.open(io.BytesIO(images.encode_overlay(small, mask))))
        for mask in (np.zeros_like(covered), covered)
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.hstack(views)).save(buffer, "png")
    caption = f"{one.sample.name}, {one.confluence:.0%} cell. {one.source}"
    return _picture(buffer.getvalue(), f"{one.sample.name} and its ground truth", caption)


def _strips(rows: Mapping[str, Mapping[str, Sequence[float]]], series: Iterable[str], label: str) -> Figure:
    """A line of marks for each row, a colour and marker for each series within it; values 0..1."""
    figure, axes = _axes(len(rows), label)
    looks = dict(zip(series, zip(cycle(COLOURS), cycle(MARKERS), strict=False), strict=False))
    for at, row in enumerate(rows.values()):
        for name, values in row.items():
            spread = np.arange(len(values)) * 0.618 % 1  # evenly, and the same every time
            colour, marker = looks[name]
            heights = at + 0.5 * (spread - spread.mean())
            axes.plot(values, heights, marker, color=colour, markersize=5, alpha=0.7, linewidth=0)
    for name, (colour, marker) in looks.items():
        axes.plot([], [], marker, color=colour, label=_short(name), linewidth=0)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize="small")
    return figure


def _boxes(rows: Mapping[str, Areas]) -> Figure:
    figure, axes = _axes(len(rows), "area in square pixels")
    axes.boxplot(
        list(rows.values()),
        positions=range(len(rows)),
        orientation="horizontal",
        whis=(5, 95),
        showfliers=False,
        widths=0.6,
        medianprops={"color": COLOURS[1], "linewidth": 2},
    )
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_xscale("log")
    return figure


def _axes(rows: int, label: str) -> tuple[Figure, Axes]:
    """Make axes for so many rows, the first on top."""
    figure = Figure(figsize=(9, 1.4 + 0.34 * rows), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(label)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    return figure, axes


def _short(source: str) -> str:
    """A source as it fits into a figure: without the folder of a COCO file's images."""
    return source.rpartition(":")[0] if source.startswith("coco:") else source


def _figure(figure: Figure, name: str, caption: str) -> str:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=130)
    return _picture(buffer.getvalue(), name, caption)


def _picture(png: bytes, name: str, caption: str) -> str:
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(name)}">'
        f"<figcaption>{_breakable(caption)}</figcaption></figure>"
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]], summed: bool = False) -> str:
    """Numbers to the right; the last row stands out when it is the sum of the others."""
    numeric = [_is_number(value) for value in rows[0]]
    head = "".join(
        f"<th{' class=n' * number}>{_breakable(text)}</th>"
        for text, number in zip(heads, numeric, strict=True)
    )
    lines = []
    for at, row in enumerate(rows):
        last = summed and at == len(rows) - 1
        lines.append(f"<tr{' class=sum' * last}>{''.join(_cell(value) for value in row)}</tr>")
    body = "".join(lines)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _is_number(value: object) -> bool:
    return isinstance(value, int) or str(value).endswith("%")


def _cell(value: object) -> str:
    if isinstance(value, int):
        value = f"{value:,}" if value else "·"
        return f"<td class=n>{value}</td>"
    return f"<td{' class=n' * _is_number(value)}>{_breakable(str(value))}</td>"


def _breakable(text: str) -> str:
    """Text as HTML, with leave to break the line behind what separates a path's parts."""
    return escape(text).replace("/", "/<wbr>").replace(":", ":<wbr>")


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def main() -> None:
    """Command line of the exploration."""
    parser = argparse.ArgumentParser(description="Show the data.")
    parser.add_argument(
        "sources", nargs="+", help="SOURCE/SPLIT of index.csv, coco:JSON:IMAGES or pairs:IMAGES:MASKS"
    )
    parser.add_argument("--data", type=Path, required=True, help="what the sources are relative to")
    parser.add_argument("--out", type=Path, required=True, help="the HTML file to write")
    arguments = parser.parse_args()
    try:
        found = [
            (source, sample)
            for source in dict.fromkeys(arguments.sources)
            for sample in read_source(arguments.data, source)
        ]
        seen = [look(source, sample) for source, sample in tqdm(found, unit="image", disable=None)]
        page = report(seen, arguments.data)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(page, encoding="utf-8")
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    print(f"{arguments.out}: {len(seen)} images, {len(page) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
