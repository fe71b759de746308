"""Write the measurements as Markdown and JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from statistics import fmean
from typing import Any

from benchmarks.figures import Figure
from benchmarks.timing import Spread


def plain(value: object) -> object:
    """Convert values that `json.dumps` cannot write; round the numbers of a spread."""
    if isinstance(value, Spread):
        return {name: round(number, 3) for name, number in asdict(value).items()}
    if is_dataclass(value) and not isinstance(value, type):
        return vars(value)
    raise TypeError(f"{value!r} cannot be written to a report")


def markdown(results: Mapping[str, Any]) -> str:
    """Format every measurement as a table."""
    about = "; ".join(f"{name} {value}" for name, value in results["machine"].items())
    networks = "; ".join(
        f"`{mode}` {network['nodes']} nodes, {network['flop'] / 1e9:.3f} GFLOP a tile"
        for mode, network in results["graphs"].items()
    )
    sections = [
        "# Benchmarks",
        "Made by `make bench`. Medians with quartiles in brackets; reference and ours took turns. The page "
        "is 704x520, 8 bit, LZW; files are in the page cache. The reference is the network that "
        "cytomask replaces in torch eager, the whole page squashed to 224x224, one image at a time "
        "(`benchmarks/reference.py`).",
        f"Machine: {about}.",
        "## Against the reference",
        figure_table(results["figures"]),
        "## Networks",
        f"{networks}. The limit is the time of as many operations in a product of two 2048x2048 float32 "
        "matrices in ONNX Runtime on the same threads.",
        "## Cold start, dissected",
        cold_table(results["cold"]),
        "## Runtimes",
        "The network alone on one tile: milliseconds, and MB of 10^6 bytes. Memory is the process's peak "
        "after its first run; disk is what the runtime and all that it needs take, without the weights.",
        runtime_table(results["runtimes"]),
        "## Lambda's memory sizes, by formula",
        "Not measured on Lambda: one vCPU for each 1,769 MB; a function with less gets its share of one "
        "thread's time, and between one and two the rate grows evenly. `native`, file to PNG bytes, warm, "
        "Lambda alone; the endpoint is an ml.g4dn.xlarge that never rests. docs/costs.md has the prices.",
        lambda_table(results["lambda"]),
    ]
    if results["front"]:
        sections += ["## IoU against time", front_table(results["front"]), "![IoU against time](front.png)"]
    return "\n\n".join(sections) + "\n"


def figure_table(figures: Sequence[Figure]) -> str:
    """Format the table of figures and goals."""
    titles = ["figure", "reference", "ours", "ratio", "goal", "met"]
    verdicts = {True: "yes", False: "no", None: "-"}
    return table(
        titles,
        [
            [
                figure.name,
                f"{spread(figure.reference)} {figure.unit}".strip(),
                f"{spread(figure.ours)} {figure.unit}".strip(),
                spread(figure.ratio),
                figure.goal or "reported",
                verdicts[figure.met],
            ]
            for figure in figures
        ],
    )


def cold_table(cold: Mapping[str, Mapping[str, float]]) -> str:
    """Format a cold start's steps and modules."""
    rows = [
        [what, ", ".join(f"{name} {spent:g}" for name, spent in parts.items())]
        for what, parts in cold.items()
    ]
    return table(["what", "ms"], rows)


def runtime_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the comparison of runtimes."""
    titles = ["runtime", "threads", "import", "load", "first", "warm", "memory", "disk"]
    keys = ("import_ms", "load_ms", "first_ms")
    return table(
        titles,
        [
            [
                row["runtime"],
                str(row["threads"]),
                *(f"{row[key]:.0f}" for key in keys),
                spread(row["warm_ms"]),
                f"{row['peak_mb']:.0f}",
                f"{row['disk_mb']:.0f}",
            ]
            for row in rows
        ],
    )


def lambda_table(rows: Sequence[Mapping[str, float]]) -> str:
    """Format the computed times and prices of Lambda's memory sizes."""
    return table(
        [
            "memory, MB",
            "vCPUs",
            "ms an image",
            "US$ for 1,000 images",
            "a GPU endpoint's price in images an hour",
        ],
        [
            [
                f"{row['memory_mb']:,.0f}",
                f"{row['vcpus']:.2f}",
                f"{row['ms']:.0f}",
                f"{row['usd_per_1000']:.4f}",
                f"{row['break_even_per_hour']:,.0f}",
            ]
            for row in rows
        ],
    )


def front_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the time and the mean IoU by source of every way."""
    sources = list(rows[0]["iou"])
    return table(
        ["way", "ms per megapixel", *(f"mean IoU, {source}" for source in sources)],
        [
            [
                row["way"],
                spread(row["ms_per_megapixel"]),
                *(f"{fmean(row['iou'][one]):.3f}" for one in sources),
            ]
            for row in rows
        ],
    )


def spread(values: Spread | None) -> str:
    """Format the median, with quartiles if there were several measurements."""
    if values is None:
        return "-"
    digits = 0 if values.median >= 100 else 1 if values.median >= 10 else 2
    shown = f"{values.median:.{digits}f}"
    return f"{shown} ({values.low:.{digits}f}-{values.high:.{digits}f})" if values.count > 1 else shown


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
