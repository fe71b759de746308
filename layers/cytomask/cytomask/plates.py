"""Report on a plate over time: place pages into wells and scans, pool them into curves, measure and compare.

The report lists what was left out, with reasons. Pure: pages in, a report out; other modules read pages from
a table, a folder or a web page.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from cytomask.curves import Curve, Hours, Shares
from cytomask.errors import InvalidPlateMap
from cytomask.plate_pages import LeftOut, Options, PlatePage, Sieve
from cytomask.platemap import PlateMap, require_fit
from cytomask.well_growth import Growth, measure_growth, pool_sites, prior_of
from cytomask.wells import smallest_format, well_position

NO_PAGE = "no page of this well can be used"


@dataclass(frozen=True)
class WellReport:
    """A well: its condition, pages, pooled curve and growth, and the growth of each site."""

    well: str
    condition: str
    pages: int
    curve: Curve
    growth: Growth
    sites: Mapping[str, Growth]
    flagged: int


@dataclass(frozen=True)
class ConditionReport:
    """Wells of one condition together.

    Attributes:
        hours, mean, error, count: (N,) float64 over scans: mean confluence of the wells, its standard error
            (NaN for a single well) and the number of wells.
        doubling_time_h: from the mean growth rate.
        rate, rate_error: mean growth rate per hour and its standard error, over wells whose rate is known.
        measured: wells whose rate is known, so that it counts.
        relative_rate: growth rate divided by the control's; 1 is as fast as the control.
        compound, dose, unit: the condition's, if the map gives the same compound and dose to all its wells.
    """

    name: str
    wells: tuple[str, ...]
    hours: Hours
    mean: Shares
    error: Shares
    count: NDArray[np.float64]
    doubling_time_h: float | None
    rate: float | None
    rate_error: float | None
    measured: int
    relative_rate: float | None
    compound: str | None = None
    dose: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class PlateReport:
    """A plate over time.

    Attributes:
        size: number of wells of the plate's format.
        scans: (N,) float64, hours of the scans.
        pages: pages that the curves use, with their hours, ordered by well, site and time.
        left_out: the other pages.
        notes: sentences about the plate as a whole.
        complete: whether every expected page has a mask or was refused; None if their number is unknown.
    """

    plate: str
    size: int
    scans: Hours
    wells: Mapping[str, WellReport]
    conditions: Sequence[ConditionReport]
    pages: Sequence[PlatePage]
    left_out: Sequence[LeftOut]
    notes: Sequence[str]
    control: str | None = None
    expected_pages: int | None = None
    complete: bool | None = None
    failures: int = 0
    cost_usd: float = 0.0


def build_report(
    plate: str, pages: Iterable[PlatePage], plate_map: PlateMap | None = None, options: Options | None = None
) -> PlateReport:
    """Place, pool and measure the pages of a plate.

    Args:
        plate: name of the plate.
        pages: all its pages, in any order, including refused pages and repeats.
        plate_map: the content of its wells.
        options: the user's choices.
    """
    options = options or Options()
    given = list(pages)
    sieve = Sieve(given)
    sieve.drop_failures()
    sieve.keep_one_channel(options.channel)
    sieve.set_hours(options.interval_h)  # before pages are left out, so that the others keep their hours
    sieve.drop_flagged(options.leave_out)
    sieve.keep_latest()
    kept = sorted(sieve.kept, key=lambda page: (*well_position(page.well), page.site, page.hours or 0))
    scans = np.array(sorted({page.hours for page in kept if page.hours is not None}))
    wells = _measure_wells(kept, scans, plate_map, sieve)
    if plate_map is not None:
        try:
            require_fit(plate_map, wells, "the plate map")
        except InvalidPlateMap as error:
            sieve.notes.append(f"{error} It is not used.")
            plate_map = None
            wells = _measure_wells(kept, scans, None, sieve)
    control = options.control or (plate_map.control if plate_map else None)
    conditions = compare_conditions(wells, scans, control, plate_map)
    if control and control not in {each.name for each in conditions}:
        names = ", ".join(each.name for each in conditions[:10]) or "none"
        sieve.notes.append(f"no well has the condition {control!r}, the control; conditions are: {names}")
    elif control and all(each.relative_rate is None for each in conditions):
        sieve.notes.append(
            f"the control {control!r} does not grow, or not measurably: no rate is relative to it"
        )
    expected = options.expected_pages or (plate_map.expected_pages if plate_map else None)
    return PlateReport(
        plate=plate,
        size=max(smallest_format(wells), plate_map.size if plate_map else 0),
        scans=scans,
        wells=wells,
        conditions=conditions,
        pages=kept,
        left_out=sieve.left_out,
        notes=sieve.notes,
        control=control,
        expected_pages=expected,
        complete=None if expected is None else sieve.ended >= expected,
        failures=sieve.failures,
        cost_usd=math.fsum(page.cost_usd or 0 for page in given),
    )


def compare_conditions(
    wells: Mapping[str, WellReport], scans: Hours, control: str | None, plate_map: PlateMap | None
) -> list[ConditionReport]:
    """Compare wells by their condition: mean curve, growth rate, and the rate relative to the control's."""
    groups: dict[str, list[WellReport]] = defaultdict(list)
    for well in wells.values():
        if well.condition:
            groups[well.condition].append(well)
    reports = [_condition(name, group, scans, plate_map) for name, group in groups.items()]
    reference = next((each.rate for each in reports if each.name == control), None)
    if not reference:
        return reports
    return [
        replace(each, relative_rate=each.rate / reference if each.rate is not None else None)
        for each in reports
    ]


def _condition(
    name: str, group: Sequence[WellReport], scans: Hours, plate_map: PlateMap | None
) -> ConditionReport:
    grid = np.full((len(group), scans.size), np.nan)
    for row, well in enumerate(group):
        grid[row, np.searchsorted(scans, well.curve.hours)] = well.curve.confluence
    count = np.isfinite(grid).sum(axis=0).astype(np.float64)
    seen = count > 0
    mean = np.divide(np.nansum(grid, axis=0), count, out=np.full(scans.size, np.nan), where=seen)
    squares = np.nansum((grid - mean) ** 2, axis=0)
    error = np.sqrt(
        np.divide(squares, np.maximum(count - 1, 1) * count, out=np.full(scans.size, np.nan), where=count > 1)
    )
    # A well that does not grow counts with the rate 0. Without it, a deadly drug would look harmless.
    rates = np.array([well.growth.rate_per_h for well in group if well.growth.rate_per_h is not None])
    rate = float(rates.mean()) if rates.size else None
    spread = float(rates.std(ddof=1) / math.sqrt(rates.size)) if rates.size > 1 else None
    told = [plate_map.wells[well.well].compounds for well in group] if plate_map else [()]
    alike = len({tuple(compound.label for compound in compounds) for compounds in told}) == 1
    only = told[0][0] if alike and len(told[0]) == 1 else None
    return ConditionReport(
        name=name,
        wells=tuple(well.well for well in group),
        hours=scans[seen],
        mean=mean[seen],
        error=error[seen],
        count=count[seen],
        doubling_time_h=math.log(2) / rate if rate else None,
        rate=rate,
        rate_error=spread,
        measured=rates.size,
        relative_rate=None,
        compound=only.name if only else None,
        dose=only.dose if only else None,
        unit=only.unit if only else "",
    )


def _measure_wells(
    pages: Sequence[PlatePage], scans: Hours, plate_map: PlateMap | None, sieve: Sieve
) -> dict[str, WellReport]:
    """Pool the sites of each well and measure its growth, including wells without a usable page."""
    by_well: dict[str, list[PlatePage]] = defaultdict(list)
    for page in pages:
        by_well[page.well].append(page)
    curves, sites = {}, {}
    for well, own in by_well.items():
        hours, cells, pixels, names = _grid(own)
        curves[well] = pool_sites(hours, cells, pixels)
        for row, name in enumerate(names):
            there = np.isfinite(cells[row])
            sites[well, name] = Curve(hours[there], cells[row, there] / pixels[row, there])
    prior = prior_of(curves.values())
    site_growths: dict[str, dict[str, Growth]] = defaultdict(dict)
    counts = Counter(well for well, _ in sites)
    for (well, site), curve in sites.items():
        if counts[well] > 1:
            site_growths[well][site] = measure_growth(curve, scans, prior)
    lost = {each.well for each in sieve.left_out} - by_well.keys()
    empty = Curve(np.array([]), np.array([]))
    reports = {}
    for well in sorted(by_well.keys() | lost, key=well_position):
        mapped = plate_map.wells.get(well) if plate_map else None
        own = by_well.get(well, [])
        flagged = sum(bool(page.quality) for page in own)
        growth = measure_growth(curves[well], scans, prior) if well in curves else Growth(notes=(NO_PAGE,))
        reports[well] = WellReport(
            well=well,
            condition=mapped.condition if mapped else "",
            pages=len(own),
            curve=curves.get(well, empty),
            growth=msgspec.structs.replace(growth, notes=(*growth.notes, *_doubts(own, flagged))),
            sites=site_growths[well],
            flagged=flagged,
        )
    return reports


def _doubts(pages: Sequence[PlatePage], flagged: int) -> Iterator[str]:
    """Say how many of a well's pages are flagged, and with which flags."""
    flags = Counter(flag for page in pages for flag in page.quality)
    if flags:
        named = ", ".join(flag for flag, _ in flags.most_common())
        yield f"{flagged} of {len(pages)} pages {'is' if flagged == 1 else 'are'} flagged: {named}"


def _grid(
    pages: Sequence[PlatePage],
) -> tuple[Hours, NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Return cell pixels and pixels of a well's pages as (sites, scans) float64, NaN for missing pages."""
    names = sorted({page.site for page in pages})
    hours = np.array(sorted({page.hours or 0.0 for page in pages}))
    rows = {name: row for row, name in enumerate(names)}
    columns = {hour: column for column, hour in enumerate(hours.tolist())}
    cells = np.full((len(names), hours.size), np.nan)
    pixels = cells.copy()
    for page in pages:
        at = rows[page.site], columns[page.hours or 0.0]
        area = float(page.pixels or 1)
        cells[at], pixels[at] = (page.confluence or 0.0) * area, area
    return hours, cells, pixels, names
