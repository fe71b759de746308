"""The parts of a report in HTML: figures, pictures, tables and their style."""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

# Okabe and Ito's palette for colour-blind readers; the markers differ for those who see no colours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPXp"


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


def strips(rows: Mapping[str, Mapping[str, Sequence[float]]], series: Iterable[str], label: str) -> Figure:
    """Draw a line of marks for each row, with a colour and marker for each series; values 0..1."""
    figure, axes = _axes(len(rows), label)
    looks = dict(zip(series, zip(cycle(COLOURS), cycle(MARKERS), strict=False), strict=False))
    for at, row in enumerate(rows.values()):
        for name, values in row.items():
            spread = np.arange(len(values)) * 0.618 % 1  # evenly, and the same every time
            colour, marker = looks[name]
            heights = at + 0.5 * (spread - spread.mean())
            axes.plot(values, heights, marker, color=colour, markersize=5, alpha=0.7, linewidth=0)
    for name, (colour, marker) in looks.items():
        axes.plot([], [], marker, color=colour, label=short(name), linewidth=0)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_xlim(-0.02, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize="small")
    return figure


def boxes(rows: Mapping[str, NDArray[np.int64]]) -> Figure:
    """Draw a box for each row of areas in square pixels, on a logarithmic axis."""
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
    """Make axes for this many rows, the first on top."""
    figure = Figure(figsize=(9, 1.4 + 0.34 * rows), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(label)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.3)
    return figure, axes


def short(source: str) -> str:
    """Shorten a source for a figure: leave out the folder of a COCO file's images."""
    return source.rpartition(":")[0] if source.startswith("coco:") else source


def figure_of(figure: Figure, name: str, caption: str) -> str:
    """Write a figure with its caption; `name` is the text for readers who cannot see it."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=130)
    return picture(buffer.getvalue(), name, caption)


def picture(png: bytes, name: str, caption: str) -> str:
    """Write a PNG as `figure_of` does a figure."""
    data = base64.b64encode(png).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(name)}">'
        f"<figcaption>{breakable(caption)}</figcaption></figure>"
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], summed: bool = False) -> str:
    """Write a table: numbers to the right; the last row stands out if it is the sum of the others."""
    numeric = [_is_number(value) for value in rows[0]]
    head = "".join(
        f"<th{' class=n' * number}>{breakable(text)}</th>"
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
    return f"<td{' class=n' * _is_number(value)}>{breakable(str(value))}</td>"


def breakable(text: str) -> str:
    """Write text as HTML that may break its line behind the separators of a path."""
    return escape(text).replace("/", "/<wbr>").replace(":", ":<wbr>")


def count_of(number: int, thing: str) -> str:
    """Write a number with its noun, such as 1 image and 2,000 images."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
