"""Show the data: `python -m cytomask.training.explore SOURCE... --data DIR --out report.html`.

The report is one HTML file with its pictures inside: counts, confluence, cell sizes, intensities, duplicates,
overlays.
"""

import argparse
import io
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from cytomask import images
from cytomask.model import preprocess
from cytomask.training.report_parts import (
    STYLE,
    boxes,
    count_of,
    figure_of,
    picture,
    short,
    strips,
    table,
)
from cytomask.training.sources import read_source
from cytomask.training.survey import (
    TINY,
    Areas,
    Seen,
    cell_sizes,
    duplicates,
    grouped,
    line_of,
    look,
    source_of,
)

SATURATED = 0.01  # share of the pixels from which the report names an image
PANELS = 4  # for each cell line
PANEL_WIDTH = 400  # pixels, of the image and of its overlay
CELL_SIZE_RANKS = (5, 50, 95)
PERCENTILES = {"1st percentile": "dark", "median": "middle", "99th percentile": "bright"}


def report(seen: Sequence[Seen], data: Path) -> str:
    """Write the whole page as HTML that needs no other file."""
    sources, lines = (list(grouped(seen, key)) for key in (source_of, line_of))
    sizes = cell_sizes(seen, data)
    copies = duplicates(seen)
    leaks = sum(len({one.source for one in same}) > 1 for _, same in copies)
    lede = (
        f"{count_of(len(seen), 'image')} from {count_of(len(sources), 'source')}, "
        f"{count_of(len(lines), 'cell line')}, {sum(map(len, sizes.values())):,} outlined cells or groups of "
        f"cells. Median confluence {np.median([one.confluence for one in seen]):.0%}. "
        f"{count_of(leaks, 'image')} in more than one source."
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
        + table(("cell line", *sources, "all"), rows, summed=True)
        + "<h3>Size and type</h3>"
        + table(
            ("source", "height × width", "type", "images"), [(*of, count) for of, count in formats.items()]
        )
    )


def _confluence_section(seen: Sequence[Seen]) -> str:
    lines = sorted(grouped(seen, line_of).items())
    marks = {
        line: {
            source: [one.confluence for one in found] for source, found in grouped(of_line, source_of).items()
        }
        for line, of_line in lines
    }
    rows = []
    for line, of_line in lines:
        shares = [one.confluence for one in of_line]
        rows.append((line, len(shares), *(f"{rank:.1%}" for rank in np.percentile(shares, (0, 50, 100)))))
    return figure_of(
        strips(marks, list(grouped(seen, source_of)), "share of the image that is cell"),
        "Confluence by cell line",
        "A mark for each image.",
    ) + table(("cell line", "images", "least", "median", "most"), rows)


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
    return figure_of(
        boxes({f"{line}  ({short(source)})": areas for (line, source), areas in found.items()}),
        "Cell sizes by cell line and source",
        "Areas in square pixels: box from the first to the third quartile with the median, whiskers from "
        "the 5th to the 95th percentile. For sources that begin with coco: every annotation is one cell, "
        "measured by itself. For all other sources they are the masks' connected components: touching "
        "cells count as one, so dense cultures show the areas of groups.",
    ) + table(heads, rows)


def _intensity_section(seen: Sequence[Seen]) -> str:
    rows = {
        short(source): {name: [getattr(one, share) for one in looks] for name, share in PERCENTILES.items()}
        for source, looks in grouped(seen, source_of).items()
    }
    return figure_of(
        strips(rows, PERCENTILES, "share of the largest value that the pixel type holds"),
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
        "<p>Compared by name and by a hash of the decoded pixels. An image in more than one source "
        "leaks if one of these sources is trained on and another is validated on.</p>"
    ) + table(("what", "where", "images"), rows)


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
    return table(("source", "image", "why"), rows)


def _overlays_section(seen: Sequence[Seen]) -> str:
    parts = [
        "<p>From the emptiest to the fullest image of each cell line, plain and with its ground truth.</p>"
    ]
    for line, of_line in sorted(grouped(seen, line_of).items()):
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
    return picture(buffer.getvalue(), f"{one.sample.name} and its ground truth", caption)


def main() -> None:
    """Run the command line of the exploration."""
    parser = argparse.ArgumentParser(description="Show the data.")
    parser.add_argument(
        "sources", nargs="+", help="SOURCE/SPLIT of index.csv, coco:JSON:IMAGES or pairs:IMAGES:MASKS"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that the sources are relative to")
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
