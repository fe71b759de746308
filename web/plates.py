"""List plates for the page, and shorten one plate's report as the layer measures it."""

import math
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from cytomask.plate_pages import Options, PlatePage
from cytomask.plate_rows import Plates
from cytomask.plates import ConditionReport, PlateReport, WellReport, build_report
from cytomask.web.account import Account
from cytomask.web.answers import Refusal
from cytomask.web.cache import Cache
from cytomask.wells import FORMATS, well_position

FRESH_SECONDS = 10.0
MOST_LEFT_OUT = 1000  # reasons that a page lists
MOST_REPORTS = 8


@dataclass(frozen=True)
class Kept:
    """A report that was measured a moment ago."""

    report: dict[str, Any]
    nbytes: ClassVar[int] = 1


class PlateShelf:
    """Plates, read with the account's rights and measured."""

    def __init__(self, account: Account) -> None:
        """Begin without any."""
        self._plates = Plates(account.dynamodb, account.table)
        self._kept = Cache(MOST_REPORTS)

    def listed(self) -> list[dict[str, Any]]:
        """List every plate with its counts."""
        return [msgspec.to_builtins(each) | {"complete": each.complete} for each in self._plates.summaries()]

    def report(self, plate: str, options: Options) -> dict[str, Any]:
        """Measure a plate over time; raise Refusal for an unknown plate."""
        key: Hashable = (plate, options, time.monotonic() // FRESH_SECONDS)
        return self._kept.get(key, lambda: Kept(self._measure(plate, options))).report

    def _measure(self, plate: str, options: Options) -> dict[str, Any]:
        pages = list(self._plates.pages(plate))
        if not pages:
            raise Refusal(HTTPStatus.NOT_FOUND, "NO_SUCH_PLATE", f"there is no plate {plate[:200]}")
        stored, summary = self._plates.map_of(plate), self._plates.summary(plate)
        expected = summary.expected_pages if summary else None
        options = msgspec.structs.replace(options, expected_pages=expected)
        report = build_report(plate, pages, stored.plate_map if stored else None, options)
        notes = [f"The plate map {stored.uri} is not used: {stored.error}"] if stored and stored.error else []
        return described(report, [*notes, *map(_without_option, report.notes)])


def described(report: PlateReport, notes: Sequence[str]) -> dict[str, Any]:
    """Shorten a report to what the page draws. Missing numbers are null."""
    return {
        "plate": report.plate,
        "rows": FORMATS[report.size][0],
        "columns": FORMATS[report.size][1],
        "scans": _numbers(report.scans),
        "wells": {name: _well(well) for name, well in report.wells.items()},
        "conditions": [_condition(each) for each in report.conditions],
        "control": report.control,
        "pages": [_page(page) for page in report.pages],
        "left_out": [msgspec.to_builtins(each) for each in report.left_out[:MOST_LEFT_OUT]],
        "left_out_count": len(report.left_out),
        "notes": list(notes),
        "expected_pages": report.expected_pages,
        "complete": report.complete,
        "failures": report.failures,
        "cost_usd": report.cost_usd,
    }


def _without_option(note: str) -> str:
    """Cut off a note's hint at an option of the command line: the page has a box for it."""
    return note.partition("; --")[0]


def _well(well: WellReport) -> dict[str, Any]:
    return {
        "place": well_position(well.well),
        "condition": well.condition,
        "pages": well.pages,
        "flagged": well.flagged,
        "hours": _numbers(well.curve.hours),
        "confluence": _numbers(well.curve.confluence),
        "growth": msgspec.to_builtins(well.growth),
        "sites": {name: msgspec.to_builtins(growth) for name, growth in well.sites.items()},
    }


def _condition(condition: ConditionReport) -> dict[str, Any]:
    return {
        "name": condition.name,
        "wells": list(condition.wells),
        "measured": condition.measured,
        "hours": _numbers(condition.hours),
        "mean": _numbers(condition.mean),
        "error": _numbers(condition.error),
        "doubling_time_h": condition.doubling_time_h,
        "rate": condition.rate,
        "relative_rate": condition.relative_rate,
    }


def _page(page: PlatePage) -> dict[str, Any]:
    return {
        "well": page.well,
        "site": page.site,
        "hours": page.hours,
        "confluence": page.confluence,
        "quality": list(page.quality),
        "job": page.job_id,
        "page": page.page,
    }


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [round(float(value), 5) if math.isfinite(value) else None for value in values]
