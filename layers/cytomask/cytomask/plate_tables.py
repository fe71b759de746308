"""Write a plate's report as tables: a row per page, well and condition, and a grid for GraphPad Prism.

The tables are CSV, for R, pandas or a spreadsheet; the grid has tabs, to paste into Prism. A cell that begins
like a formula is marked as text, because keys come from users.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from cytomask.lengths import UM2_A_MM2
from cytomask.plate_pages import PlatePage
from cytomask.plates import PlateReport, WellReport
from cytomask.spreadsheets import csv_line
from cytomask.well_growth import Growth

PAGE_COLUMNS = (
    *("plate", "well", "site", "time", "hours", "confluence", "confluence_low", "confluence_high", "quality"),
    *("iou", "model", "mode", "threshold", "cost_usd", "image", "mask", "cell_area_um2", "cell_area_mm2"),
    "pixels",
)
WELL_COLUMNS = (
    *(
        "plate",
        "well",
        "condition",
        "pages",
        "doubling_time_h",
        "doubling_time_low_h",
        "doubling_time_high_h",
    ),
    *("rate_per_h", "r2", "from_h", "to_h", "lag_h", "half_h", "plateau", "note"),
)
CONDITION_COLUMNS = (
    *("condition", "compound", "dose", "unit", "wells", "measured", "doubling_time_h", "rate_per_h"),
    *("rate_error", "relative_rate"),
)


def pages_csv(report: PlateReport) -> str:
    """Write one row for each page that the curves use."""
    return pages_csv_of(report.plate, report.pages)


def pages_csv_of(plate: str, pages: Iterable[PlatePage]) -> str:
    """Write one row for each of these pages."""
    return _csv(PAGE_COLUMNS, (page_row(plate, page) for page in pages))


def page_row(plate: str, page: PlatePage) -> list[object]:
    """Return a page's cells in the order of `PAGE_COLUMNS`."""
    return [
        plate,
        page.well,
        page.site,
        page.time if page.time is not None else page.frame,
        _number(page.hours),
        _number(page.confluence),
        _number(page.confluence_low),
        _number(page.confluence_high),
        " ".join(page.quality),
        _number(page.iou),
        page.model,
        page.mode,
        _number(page.threshold),
        _number(page.cost_usd, 9),
        page.image,
        page.mask,
        _number(None if page.cell_area_mm2 is None else page.cell_area_mm2 * UM2_A_MM2, 12),
        _number(page.cell_area_mm2, 12),
        page.pixels,
    ]


def wells_csv(report: PlateReport) -> str:
    """Write one row for each well; an unknown value is empty, and the note says why."""
    return _csv(WELL_COLUMNS, (_well_row(report, well) for well in report.wells.values()))


def _well_row(report: PlateReport, well: WellReport) -> list[object]:
    growth = well.growth
    measures = [_number(value) for value in _measures(growth)]
    return [report.plate, well.well, well.condition, well.pages, *measures, "; ".join(growth.notes)]


def _measures(growth: Growth) -> Sequence[float | None]:
    return (
        growth.doubling_time_h,
        growth.doubling_time_low_h,
        growth.doubling_time_high_h,
        growth.rate_per_h,
        growth.r2,
        growth.from_h,
        growth.to_h,
        growth.lag_h,
        growth.half_h,
        growth.plateau,
    )


def conditions_csv(report: PlateReport) -> str:
    """Write one row for each condition: doses and growth rates relative to the control."""
    rows = (
        [
            each.name,
            each.compound,
            _number(each.dose),
            each.unit,
            len(each.wells),
            each.measured,
            _number(each.doubling_time_h),
            _number(each.rate),
            _number(each.rate_error),
            _number(each.relative_rate),
        ]
        for each in report.conditions
    )
    return _csv(CONDITION_COLUMNS, rows)


def prism_grid(report: PlateReport) -> str:
    """Write confluence with time down and wells across, replicates of a condition side by side.

    The first line names each column by its condition, or by its well if there is no plate map, as Prism's
    XY tables with replicates expect.
    """
    wells = list(report.wells.values())
    if report.conditions:
        order = {name: number for number, name in enumerate(each.name for each in report.conditions)}
        wells = sorted((well for well in wells if well.condition), key=lambda well: order[well.condition])
    grid = np.full((report.scans.size, len(wells)), np.nan)
    for column, well in enumerate(wells):
        grid[np.searchsorted(report.scans, well.curve.hours), column] = well.curve.confluence
    header = ["Time (h)", *(well.condition or well.well for well in wells)]
    rows = (
        [f"{hour:g}", *("" if np.isnan(value) else f"{value:.6g}" for value in line)]
        for hour, line in zip(report.scans.tolist(), grid, strict=True)
    )
    return _csv(header, rows, delimiter="\t")


def _csv(header: Sequence[str], rows: Iterable[Sequence[object]], delimiter: str = ",") -> str:
    """Write a table as text, with the line ends that spreadsheets expect."""
    return "".join(csv_line(row, delimiter, end="\n") for row in [header, *rows])


def _number(value: float | None, digits: int = 6) -> str | None:
    """Format a number without noise in its last digits; None stays None."""
    return None if value is None else f"{value:.{digits}g}"
