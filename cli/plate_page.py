"""Render a plate's report as one self-contained HTML file: heat map, curves, film strips, tables."""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from markupsafe import Markup

from cytomask.cli.html import TEMPLATES, render
from cytomask.curves import Curve, Hours
from cytomask.plates import ConditionReport, PlateReport, WellReport
from cytomask.well_growth import Growth
from cytomask.wells import FORMATS

MOST_LEFT_OUT = 2000  # rows of the table of omitted pages


@dataclass(frozen=True)
class Frame:
    """A picture of a film strip: hours, confluence, size in pixels, and the picture as a data address."""

    hours: float
    confluence: float
    width: int
    height: int
    source: str


def render_plate(report: PlateReport, films: Mapping[str, Sequence[Frame]] | None = None) -> bytes:
    """Render the page in UTF-8.

    Args:
        report: the plate's report.
        films: pictures by well, in order of time; wells may be missing.
    """
    script = (TEMPLATES / "plate.js").read_text(encoding="utf-8")
    return render(
        "plate.html",
        report=report,
        facts=facts(report),
        show={"number": number, "hours": hours, "interval": interval, "goodness": goodness},
        span=f"{report.scans[-1] - report.scans[0]:g} h" if report.scans.size else "no time",
        left_out=report.left_out[:MOST_LEFT_OUT],
        more_left_out=max(len(report.left_out) - MOST_LEFT_OUT, 0),
        # Our own files, and JSON that cannot end the script element around it.
        style=Markup((TEMPLATES / "plate.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(_embedded(_data(report, films or {}))),
    )


def facts(report: PlateReport) -> list[tuple[str, str]]:
    """Return the facts at the top of the page, as (label, value)."""
    used = len(report.pages)
    told = [
        ("well with images" if len(report.wells) == 1 else "wells with images", str(len(report.wells))),
        ("scan" if report.scans.size == 1 else "scans", str(report.scans.size)),
        ("page used" if used == 1 else "pages used", f"{used:,}"),
        ("left out", f"{len(report.left_out):,}"),
    ]
    if report.scans.size:
        told.insert(2, ("time" if report.scans.size == 1 else "from first to last scan", span(report.scans)))
    if report.expected_pages:
        state = "complete" if report.complete else "not complete"
        told.append((f"of {report.expected_pages:,} expected pages", state))
    models = sorted({page.model for page in report.pages if page.model})
    if models:
        told.append(("model" if len(models) == 1 else "models", ", ".join(models)))
    if report.cost_usd:
        told.append(("estimated cost", f"US$ {report.cost_usd:.2g}"))
    return told


def span(scans: Hours) -> str:
    """Format the hours of the first and the last of at least one scan; of a single scan, its hour."""
    return f"{scans[0]:g} to {scans[-1]:g} h" if scans.size > 1 else f"{scans[0]:g} h"


def number(value: float | None) -> str:
    """Format a number to three digits, without an exponent; None becomes a dash."""
    return "–" if value is None or math.isnan(value) else f"{float(f'{value:.3g}'):.12g}"


def goodness(value: float | None) -> str:
    """Format R² with four decimals, so that 0.9996 is not shown as 1."""
    return "–" if value is None else f"{value:.4f}"


def hours(value: float | None) -> str:
    """Format hours to three digits."""
    return "–" if value is None else f"{number(value)} h"


def interval(growth: Growth) -> str:
    """Format the interval of a doubling time."""
    if growth.doubling_time_low_h is None:
        return "–"
    high = growth.doubling_time_high_h
    return f"{number(growth.doubling_time_low_h)} to {'∞' if high is None else number(high)} h"


def _data(report: PlateReport, films: Mapping[str, Sequence[Frame]]) -> dict[str, Any]:
    """Return the data for the page's script. Names are short, because 1,536 wells repeat them 1,536 times."""
    rows, columns = FORMATS[report.size]
    sites = _site_curves(report)
    return {
        "rows": rows,
        "columns": columns,
        "scans": report.scans.tolist(),
        "wells": {
            name: {
                "c": _on_scans(report.scans, well.curve),
                "g": _growth(well),
                "k": well.condition,
                "n": well.growth.notes,
                "p": well.pages,
                "s": {site: _on_scans(report.scans, curve) for site, curve in sites.get(name, {}).items()},
                "f": [
                    {
                        "h": frame.hours,
                        "c": frame.confluence,
                        "w": frame.width,
                        "t": frame.height,
                        "src": frame.source,
                    }
                    for frame in films.get(name, ())
                ],
            }
            for name, well in report.wells.items()
        },
        "conditions": [_condition(report.scans, each) for each in report.conditions],
    }


def _growth(well: WellReport) -> dict[str, float | None]:
    """Return a well's measures with the digits of the tables, so that the chart rounds as they do."""
    measures = msgspec.to_builtins(well.growth)
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in measures.items()
        if name != "notes"
    }


def _condition(scans: Hours, condition: ConditionReport) -> dict[str, Any]:
    return {
        "name": condition.name,
        "wells": condition.wells,
        "m": _on_scans(scans, Curve(condition.hours, condition.mean)),
        "e": _on_scans(scans, Curve(condition.hours, condition.error)),
    }


def _site_curves(report: PlateReport) -> dict[str, dict[str, Curve]]:
    """Return the curve of each site, for wells that have several."""
    several = {name for name, well in report.wells.items() if well.sites}
    points: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in several}
    for page in report.pages:
        if page.well in several and page.hours is not None and page.confluence is not None:
            points[page.well].setdefault(page.site, []).append((page.hours, page.confluence))
    return {
        well: {site: Curve(*np.array(sorted(own)).T) for site, own in sites.items()}
        for well, sites in points.items()
    }


def _on_scans(scans: Hours, curve: Curve) -> list[float | None]:
    """Return a curve's value at each of the plate's scans, or None."""
    values = np.full(scans.size, np.nan)
    values[np.searchsorted(scans, curve.hours)] = curve.confluence
    return [None if math.isnan(value) else round(value, 4) for value in values.tolist()]


def _embedded(data: object) -> str:
    """Encode JSON for a script element, without `<`, so that no name can end the element."""
    return msgspec.json.encode(data).decode().replace("<", "\\u003c").replace("\u2028", "\\u2028")
