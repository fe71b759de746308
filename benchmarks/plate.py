"""`python -m benchmarks.plate`: a plate of 96 wells, 4 sites and 84 scans, and the table of simulated plates.

It measures time and memory of placing, growth and the HTML page for 32,256 rows as DynamoDB returns them, and
the error of the doubling times that it finds on simulated plates. With `--table` it also writes the rows into
the emulated table and reads them back through the index. On a busy machine, only CPU times mean something.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cytomask.acquisition import read_acquisition
from cytomask.cli.plate_page import render_plate
from cytomask.curves import Curve
from cytomask.infra.emulator import emulated_stack
from cytomask.plate_places import columns_of, pages_of_row, plain
from cytomask.plate_rows import INDEX, Plates
from cytomask.plates import build_report
from cytomask.samples.plates import Kind, Range, measured, random_well
from cytomask.well_growth import measure_plate
from cytomask.wells import well_name

ROWS, COLUMNS, SITES, SCANS, EVERY_HOURS = 8, 12, 4, 84, 2
MOST_SECONDS, MOST_MB, MOST_PAGE_MB = 10.0, 500.0, 8.0
MEDIAN, NINE_OF_TEN, COVERAGE = 0.03, 0.08, 0.9
TABLE = "benchmark"
Item = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A kind of simulated plate: when it is scanned, and the ranges of its wells' properties.

    Attributes:
        alike: correlation of the errors of neighbouring scans.
        bound: whether the doubling times must be within the bounds; on other plates, the scans tell less.
    """

    kind: Kind
    name: str
    every_h: float = 4
    days: float = 3.5
    doubling: Range = (12, 48)
    limit: Range = (0.75, 1.0)
    lag: Range = (0, 0)
    alike: float = 0.0
    bound: bool = True


CASES = (
    Case("exponential", "every 2 h for 5 days", 2, 5, doubling=(14, 40)),
    Case("logistic", "every 2 h for 5 days", 2, 5, doubling=(14, 40), limit=(0.85, 1.0)),
    Case("exponential", "every 4 h for 3.5 days"),
    Case("logistic", "every 4 h for 3.5 days"),
    Case("exponential", "every 6 h for 3.5 days", 6),
    Case("logistic", "every 6 h for 3.5 days", 6, bound=False),
    Case("logistic", "every 4 h, full at 0.6 to 0.7", limit=(0.6, 0.7)),
    Case("exponential", "every 4 h, growth begins after 6 to 24 h", lag=(6, 24), bound=False),
    Case("logistic", "every 4 h, growth begins after 6 to 24 h", lag=(6, 24), bound=False),
    Case("exponential", "every 4 h, doubling in 30 to 60 h", doubling=(30, 60)),
    Case("logistic", "every 4 h, doubling in 30 to 60 h", doubling=(30, 60), bound=False),
    Case("exponential", "every 4 h, errors alike by 0.5", alike=0.5, bound=False),
    Case("logistic", "every 4 h, errors alike by 0.5", alike=0.5, bound=False),
    Case("exponential", "every 4 h, errors alike by 0.8", alike=0.8, bound=False),
    Case("logistic", "every 4 h, errors alike by 0.8", alike=0.8, bound=False),
    Case("exponential", "every 1 h, errors alike by 0.8", 1, alike=0.8, bound=False),
    Case("logistic", "every 1 h, errors alike by 0.8", 1, alike=0.8, bound=False),
)


def main() -> None:
    """Print both tables; exit with 1 if a bound is not met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--html", type=Path, metavar="FILE", help="keep the page")
    parser.add_argument("--table", action="store_true", help="read the rows from the emulated table too")
    parser.add_argument("--plates", type=int, default=2, metavar="N", help="simulated plates of each kind")
    arguments = parser.parse_args()
    met = measure_report(arguments.html)
    if arguments.table:
        measure_table()
    met &= print_simulations(arguments.plates)
    raise SystemExit(0 if met else 1)


def measure_report(html: Path | None) -> bool:
    """Measure a plate from rows to HTML page; return whether it is within bounds."""
    items = list(plate_items())
    before = _peak_mb()
    started, cpu = time.perf_counter(), time.process_time()
    pages = [page for item in items for page in pages_of_row(plain(item))]
    placed = time.perf_counter()
    report = build_report("benchmark", pages)
    measured_at = time.perf_counter()
    page = render_plate(report)
    finished, cpu = time.perf_counter(), time.process_time() - cpu
    seconds, memory, size = finished - started, _peak_mb() - before, len(page) / 1e6
    if html:
        html.write_bytes(page)
    names = time.process_time()
    for item in items[:10_000]:
        read_acquisition(item["image"]["S"])
    microseconds = (time.process_time() - names) * 100
    print(f"{len(items):,} rows, {len(report.wells)} wells, {report.scans.size} scans")
    print(f"  rows into pages     {placed - started:6.2f} s")
    print(f"  placing and growth  {measured_at - placed:6.2f} s")
    print(f"  HTML                {finished - measured_at:6.2f} s")
    print(f"  together            {seconds:6.2f} s     bound {MOST_SECONDS:g} s; {cpu:.2f} s of CPU")
    print(f"  memory beside rows  {memory:6.0f} MB    bound {MOST_MB:g} MB")
    print(f"  the page            {size:6.2f} MB    bound {MOST_PAGE_MB:g} MB")
    print(f"  one name is parsed in {microseconds:.1f} µs")
    return cpu <= MOST_SECONDS and memory <= MOST_MB and size <= MOST_PAGE_MB


def plate_items() -> Iterator[Item]:
    """Yield the rows of a plate as DynamoDB returns them, in the order of the index."""
    rng = np.random.default_rng(0)
    hours = np.arange(SCANS, dtype=np.float64) * EVERY_HOURS
    for row in range(ROWS):
        for column in range(COLUMNS):
            well, truth = well_name(row, column), random_well(rng, "logistic")
            sites = [
                np.clip(truth.confluence(hours) * scale * (1 + 0.05 * rng.standard_normal(SCANS)), 0, 1)
                for scale in rng.uniform(0.85, 1.15, SITES)
            ]
            for scan in range(SCANS):
                for site in range(SITES):
                    yield item_of(well, site + 1, int(hours[scan]), float(sites[site][scan]))


def item_of(well: str, site: int, hour: int, confluence: float) -> Item:
    """Return one job's row in DynamoDB's types."""
    day, rest = divmod(hour, 24)
    key = f"benchmark/BENCH_Phase_{well}_{site}_{day:02d}d{rest:02d}h00m.tif"
    placed = columns_of(read_acquisition(key)) or {}
    row = {
        **{"job_id": f"{well}{site}{hour:04d}".rjust(32, "0"), "record": "JOB", "status": "SUCCEEDED"},
        **{"created_at": "2026-11-25T13:20:00.000Z", "updated_at": "2026-11-25T13:20:05.000Z"},
        **{"image": f"s3://cytomask-input-000000000000-eu-central-1/{key}", "group": "BENCH"},
        **{"mask": f"s3://cytomask-output-000000000000-eu-central-1/{key}.mask.png"},
        **{"result": f"s3://cytomask-output-000000000000-eu-central-1/{key}.result.json"},
        **{"confluence": confluence, "confluence_low": confluence * 0.9},
        **{"confluence_high": confluence * 1.1},
        **{"model": "swin-unet-0.6", "model_sha256": "ab" * 32, "mode": "native", "threshold": 0.5},
        **{"milliseconds": 812.5, "estimated_cost_usd": 0.0000398, "pages": 1, "pixels": 366_080},
        **{"uploaded_at": "2026-11-25T13:19:58+00:00", "attempt": 1, **placed},
    }
    return {
        name: {"S": value} if isinstance(value, str) else {"N": str(value)} for name, value in row.items()
    }


def measure_table() -> None:
    """Write the rows into the emulated table and read them through the index, as the command does."""
    with tempfile.TemporaryDirectory(prefix="cytomask-") as folder, emulated_stack(Path(folder)) as stack:
        dynamodb, table = stack.client("dynamodb"), stack.outputs["JobsTableName"]
        items = list(plate_items())
        started = time.perf_counter()
        for first in range(0, len(items), 25):
            batch = [{"PutRequest": {"Item": item}} for item in items[first : first + 25]]
            dynamodb.batch_write_item(RequestItems={table: batch})
        written = time.perf_counter()
        pages = list(Plates(dynamodb, table).pages("BENCH"))
        read = time.perf_counter()
        print(
            f"emulated table: {len(items):,} rows written in {written - started:.0f} s; {len(pages):,} "
            f"pages read through {INDEX} in {read - written:.1f} s"
        )


def print_simulations(plates: int) -> bool:
    """Print the errors of the doubling times; return whether every bounded case is within bounds."""
    print()
    print(f"{plates * 96} wells of each kind, 5 % noise, one scan in ten missing")
    print(f"{'growth':12}{'scans':41}  median error   9 of 10 wells   intervals that cover")
    met = True
    for case in CASES:
        errors, coverage = simulate(case, plates)
        median, ninth = float(np.median(errors)), float(np.quantile(errors, 0.9))
        mark = "" if case.bound else "   no bound"
        print(f"{case.kind:12}{case.name:41}  {median:12.1%}   {ninth:13.1%}   {coverage:20.1%}{mark}")
        met &= not case.bound or (median <= MEDIAN and ninth <= NINE_OF_TEN and coverage >= COVERAGE)
    print(f"{'bound':53}  {MEDIAN:12.1%}   {NINE_OF_TEN:13.1%}   {COVERAGE:20.1%}")
    return met


def simulate(case: Case, plates: int) -> tuple[Sequence[float], float]:
    """Return the doubling times' relative errors, and the share of intervals that hold the true value."""
    rng = np.random.default_rng(7)
    hours = np.arange(0, case.days * 24, case.every_h)
    errors, covered = [], []
    for _ in range(plates):
        wells = {
            well_name(row, column): random_well(
                rng, case.kind, doubling=case.doubling, limit=case.limit, lag=case.lag
            )
            for row in range(8)
            for column in range(12)
        }
        curves = {name: Curve(*measured(rng, well, hours, alike=case.alike)) for name, well in wells.items()}
        for name, growth in measure_plate(curves, hours).items():
            true, found = wells[name].doubling_time_h, growth.doubling_time_h
            if found is None or growth.doubling_time_low_h is None:
                errors.append(1.0)
                covered.append(False)
                continue
            errors.append(abs(found / true - 1))
            covered.append(growth.doubling_time_low_h <= true <= (growth.doubling_time_high_h or np.inf))
    return errors, float(np.mean(covered))


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
