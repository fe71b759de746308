"""Plates over HTTP: list them, show how the wells of one grow, page through its pages."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote, urlencode

import msgspec
import numpy as np

from cytomask.curves import Curve
from cytomask.errors import InvalidRequest, NoSuchPlate
from cytomask.plate_pages import Options, PlatePage, parse_flags
from cytomask.plate_places import is_date
from cytomask.plate_rows import Plates, PlateSummary
from cytomask.plate_tables import pages_csv_of
from cytomask.plates import ConditionReport, PlateReport, WellReport, build_report
from cytomask.wells import parse_well

from .desk import Cursors

JOBS_AT_ONCE = 500  # rows of the table in one answer: half a megabyte
MOST_LEFT_OUT = 1000
FIELDS_OF_A_PLATE = frozenset({"control", "leave_out", "interval", "channel"})
FIELDS_OF_PAGES = frozenset({"well", "cursor"})


@dataclass(frozen=True)
class SomePages:
    """Some of a plate's pages.

    Attributes:
        well: the well that was asked for.
        first: the plate's first scan, as its counts have it.
        cursor: where to go on; None at the end.
    """

    plate: str
    pages: list[PlatePage]
    cursor: str | None
    well: str | None
    first: float | str | None

    @property
    def link(self) -> str | None:
        """The query of the next part; None at the end."""
        named = {"well": self.well, "cursor": self.cursor}
        return (
            f"?{urlencode({name: value for name, value in named.items() if value})}" if self.cursor else None
        )

    def shown(self) -> dict[str, Any]:
        """Return them as JSON."""
        return {"pages": [msgspec.to_builtins(page) for page in self.pages], "cursor": self.cursor}

    def csv(self) -> str:
        """Write them as the tidy table; a page whose time is unknown has no hours."""
        first = datetime.fromisoformat(self.first) if is_date(self.first) else None
        return pages_csv_of(self.plate, (_with_hours(page, first) for page in self.pages))


class PlateDesk:
    """Everything that the routes of plates need."""

    def __init__(self, plates: Plates, table: str) -> None:
        self._plates = plates
        self._cursors = Cursors(table.encode(), ("job_id", "record", "plate", "place"))

    def list(self) -> dict[str, Any]:
        """List all plates with their counts."""
        return {"plates": [each.shown() for each in self._plates.summaries()]}

    def show(self, name: str, query: Mapping[str, str]) -> dict[str, Any]:
        """Return a plate's wells with their growth; raise NoSuchPlate, InvalidRequest."""
        options = parse_options(query)
        summary = self._find(name)
        stored = self._plates.map_of(summary.plate)
        options = msgspec.structs.replace(options, expected_pages=summary.expected_pages)
        report = build_report(
            summary.plate,
            self._plates.pages(summary.plate),
            stored.plate_map if stored else None,
            options,
        )
        told = _report(report)
        if stored and stored.error:
            told["notes"].append(f"the plate map {stored.uri} is not used: {stored.error}")
        return summary.shown() | told

    def pages(self, name: str, query: Mapping[str, str]) -> SomePages:
        """List some pages of a plate, by well and time; raise NoSuchPlate, InvalidRequest."""
        _require_known(query, FIELDS_OF_PAGES)
        well = None
        if "well" in query:
            well = parse_well(query["well"])
            if well is None:
                raise InvalidRequest("`well`: it takes a well such as B2 or B02")
        summary = self._find(name)
        plate = summary.plate
        asked = {"plate": plate, "well": well or ""}
        start = self._cursors.read(query["cursor"], asked) if "cursor" in query else None
        pages, end = self._plates.some_pages(plate, well=well, start=start, count=JOBS_AT_ONCE)
        cursor = self._cursors.write(dict(end), asked) if end else None
        return SomePages(plate, pages, cursor, well, summary.first)

    def _find(self, name: str) -> PlateSummary:
        """Find the plate of this name, as it came or percent-decoded: gateways differ."""
        for candidate in dict.fromkeys((name, unquote(name))):
            summary = self._plates.summary(candidate)
            if summary is not None:
                return summary
        raise NoSuchPlate(f"there is no plate {name[:150]}; GET /plates lists them")


def parse_options(query: Mapping[str, str]) -> Options:
    """Read what a caller chose; raise InvalidRequest."""
    _require_known(query, FIELDS_OF_A_PLATE)
    interval = None
    if "interval" in query:
        try:
            interval = float(query["interval"])
        except ValueError:
            interval = math.nan
        if not 0 < interval <= 10_000:
            raise InvalidRequest(
                "`interval`: it takes the hours between two scans, above 0 and at most 10,000"
            )
    flags = parse_flags(query.get("leave_out", "").split(","))
    return Options(
        leave_out=flags, interval_h=interval, channel=query.get("channel"), control=query.get("control")
    )


def _require_known(query: Mapping[str, str], known: frozenset[str]) -> None:
    unknown = sorted(query.keys() - known)
    if unknown:
        raise InvalidRequest(
            f"unknown field {', '.join(unknown)[:200]} in the query; it takes {', '.join(sorted(known))}"
        )


def _report(report: PlateReport) -> dict[str, Any]:
    return {
        "size": report.size,
        "scan_hours": report.scans.tolist(),
        "wells": [_well(well) for well in report.wells.values()],
        "conditions": [_condition(each) for each in report.conditions],
        "control": report.control,
        "notes": list(report.notes),
        "left_out": [msgspec.to_builtins(each) for each in report.left_out[:MOST_LEFT_OUT]],
        "left_out_count": len(report.left_out),
        "pages_used": len(report.pages),
    }


def _well(well: WellReport) -> dict[str, Any]:
    sites = {site: msgspec.to_builtins(growth) for site, growth in well.sites.items()}
    return {
        "well": well.well,
        "condition": well.condition,
        "pages": well.pages,
        "flagged": well.flagged,
        "growth": msgspec.to_builtins(well.growth),
        "sites": sites,
        **_curve(well.curve),
    }


def _condition(condition: ConditionReport) -> dict[str, Any]:
    return {
        "condition": condition.name,
        "wells": list(condition.wells),
        "measured": condition.measured,
        "compound": condition.compound,
        "dose": condition.dose,
        "unit": condition.unit,
        "doubling_time_h": condition.doubling_time_h,
        "rate_per_h": condition.rate,
        "rate_error": condition.rate_error,
        "relative_rate": condition.relative_rate,
        **_curve(Curve(condition.hours, condition.mean)),
        "standard_error": [None if np.isnan(value) else value for value in condition.error.tolist()],
    }


def _curve(curve: Curve) -> dict[str, list[float]]:
    return {
        "hours": curve.hours.tolist(),
        "confluence": [round(each, 6) for each in curve.confluence.tolist()],
    }


def _with_hours(page: PlatePage, first: datetime | None) -> PlatePage:
    """Set a page's hours: as its name tells them, or from the hour in which the first scan began."""
    if not isinstance(page.time, str):
        return msgspec.structs.replace(page, hours=page.time)
    if first is None:
        return page
    hours = (datetime.fromisoformat(page.time) - first).total_seconds() / 3600
    return msgspec.structs.replace(page, hours=hours)
