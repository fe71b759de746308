"""Growth of a well from its confluence over time: doubling time, lag, plateau, and what went wrong.

The doubling time is ln(2) over the growth rate while cells are few, from the curves of `curves.py`. A
straight line through the logarithms of a curve that slows says up to twice as much, and depends on where the
window ends; other programs report it, so it is given as well, as `plain_doubling_time_h`.

Lag is where the fitted curve, carried back, meets the first confluence (Zwietering et al. 1990,
doi:10.1128/aem.56.6.1875-1881.1990).

Confluence is area, not number: cells that spread, shrink or round up change it without dividing, and a full
well hides further divisions. Compare doubling times between wells of one plate; they are not cell counts.

Pure: NumPy alone.
"""

import math
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from cytomask.curves import (
    EVEN,
    FEWEST_POINTS,
    HIGHEST,
    LOWEST,
    Curve,
    Fit,
    Grid,
    Hours,
    Prior,
    Shares,
    best_fit,
    interval,
    learn_prior,
    noise_of,
    rise,
    running_median,
    usable,
)

LEAST_SHARE = 1e-4  # confluence that is added before a logarithm or a ratio
UNSEEN = LOWEST / 3  # confluence that debris may reach
SCATTERED = 0.8  # R²: with less, a rate that may be 0 is taken for 0
FALLEN = 0.9  # of its first confluence: a well that is lower when it grows has fallen; noise hardly does that
GONE = 0.75  # of its highest confluence: a well that ends below is falling
STEP, SPIKE = 0.35, 0.25  # logarithms: a change between scans, a scan off its neighbours
NOTICEABLE = 0.04  # confluence: smaller changes are not a jump
PLAIN_LOWEST, PLAIN_HIGHEST = 0.08, 0.6  # confluence between which a straight line is usual


class Growth(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one well, or one site, grew. Hours count from the plate's first scan; confluence is 0..1.

    Attributes:
        doubling_time_h: hours in which the covered area doubles while cells are few; None if it does not.
        rate_per_h: growth rate, ln(2) over the doubling time; 0 if the well does not grow; None if unknown.
        plain_doubling_time_h: what a straight line through the logarithms of confluence 0.08 to 0.6 says.
        doubling_time_low_h, doubling_time_high_h: 95 % interval; high is None if growth may have stopped.
        r2: of the logarithm of confluence, within the window.
        from_h, to_h: the scans between which the fitted curve grows.
        lag_h: hours from the plate's first scan until growth began; None if the well lacks that scan and
            grows from its own first scan on, or begins below a confluence of 0.01.
        half_h, eighty_h: when confluence passed 0.5 and 0.8.
        plateau: confluence at which it stopped growing; None while it grows.
        area_h: area under the curve, in hours at full confluence.
        limit: where the fitted curve would end; None if growth does not slow.
        points: scans that were used.
        notes: what went wrong, a sentence each.
    """

    doubling_time_h: float | None = None
    rate_per_h: float | None = None
    plain_doubling_time_h: float | None = None
    doubling_time_low_h: float | None = None
    doubling_time_high_h: float | None = None
    r2: float | None = None
    from_h: float | None = None
    to_h: float | None = None
    lag_h: float | None = None
    half_h: float | None = None
    eighty_h: float | None = None
    plateau: float | None = None
    area_h: float | None = None
    limit: float | None = None
    points: int = 0
    notes: tuple[str, ...] = ()


def pool_sites(hours: Hours, cells: Grid, pixels: Grid) -> Curve:
    """Pool the sites of a well by area: cell pixels of all sites over their pixels.

    If a site lacks a scan between two of its own, it counts with its confluence interpolated between them.
    Before a site's first scan and after its last one, the others stand in for it: their share is scaled by
    the ratio of all sites to these at the nearest complete scans. Without both, a missing site looks like a
    jump.

    Args:
        hours: (T,) float64, increasing.
        cells: (S, T) float64, cell pixels of each site; NaN where it lacks the scan.
        pixels: (S, T) float64, the page's pixels; NaN likewise.
    """
    there = np.isfinite(cells)
    some = there.any(axis=0)
    hours, cells, pixels = hours[some], cells[:, some].copy(), pixels[:, some].copy()
    for own_cells, own_pixels in zip(cells, pixels, strict=True):
        _fill_gaps(hours, own_cells, own_pixels)
    there = np.isfinite(cells)
    share = np.nansum(cells, axis=0) / np.maximum(np.nansum(pixels, axis=0), 1)
    whole = np.flatnonzero(there.all(axis=0))
    if 0 < whole.size < hours.size:
        for index in np.flatnonzero(~there.all(axis=0)):
            seen = there[:, index]
            of_these = cells[np.ix_(seen, whole)].sum(0) / pixels[np.ix_(seen, whole)].sum(0)
            ratio = (share[whole] + LEAST_SHARE) / (of_these + LEAST_SHARE)
            share[index] *= float(np.interp(hours[index], hours[whole], ratio))
    return Curve(hours, np.minimum(share, 1.0))


def _fill_gaps(hours: Hours, cells: Shares, pixels: Shares) -> None:
    """Interpolate the logarithm of a site's confluence over scans that it lacks, in place.

    Args:
        hours: (T,) float64, increasing.
        cells: (T,) float64, cell pixels; NaN for lacking scans.
        pixels: (T,) float64, the page's pixels; NaN likewise.
    """
    seen = np.flatnonzero(np.isfinite(cells))
    gaps = np.setdiff1d(np.arange(*seen[[0, -1]]), seen)
    if gaps.size:
        log = np.log(cells[seen] / pixels[seen] + LEAST_SHARE)
        pixels[gaps] = np.median(pixels[seen])
        cells[gaps] = (np.exp(np.interp(hours[gaps], hours[seen], log)) - LEAST_SHARE) * pixels[gaps]


def measure_plate(curves: Mapping[str, Curve], scans: Hours | None = None) -> dict[str, Growth]:
    """Measure how every well of a plate grew.

    Whether growth slows before wells are full depends on the cells and the microscope. So wells of one plate
    learn from each other (empirical Bayes): a curve that hardly any well follows weighs less, which helps
    wells that were watched too briefly to tell.

    Args:
        curves: by well.
        scans: (M,) float64, hours at which the plate was scanned, to name scans that a well lacks.
    """
    prior = prior_of(curves.values())
    return {well: measure_growth(curve, scans, prior) for well, curve in curves.items()}


def prior_of(curves: Iterable[Curve]) -> Prior:
    """Return how likely each kind of curve is on a plate, from its wells."""
    return learn_prior([fit for curve in curves if (fit := best_fit(*_without_spikes(curve))) is not None])


def measure_growth(curve: Curve, scans: Hours | None = None, prior: Prior = EVEN) -> Growth:
    """Measure how a well grew.

    Args:
        curve: of the well.
        scans: (M,) float64, hours at which the plate was scanned, to name scans that the well lacks.
        prior: how likely each curve is; `learn_prior` knows more of a whole plate.

    Returns:
        The growth; without a doubling time if none can be told, and then the notes say why.
    """
    hours, confluence = curve.hours, curve.confluence
    notes = missing_scans(hours, scans)
    if hours.size == 0:
        return Growth(notes=(*notes, "no page of this well was measured"))
    spikes, jumps = find_jumps(hours, confluence)
    notes += jumps
    kept_hours, kept = hours[~spikes], confluence[~spikes]
    described = Growth(
        half_h=first_crossing(kept_hours, kept, 0.5),
        eighty_h=first_crossing(kept_hours, kept, 0.8),
        plateau=find_plateau(kept_hours, kept),
        area_h=float(np.trapezoid(kept, kept_hours)) if kept.size > 1 else None,
        points=int(kept.size),
    )
    fit = best_fit(kept_hours, kept, prior)
    notes += falling(kept_hours, kept)
    still = stands_still(kept_hours, kept, fit)
    if still is not None:
        return msgspec.structs.replace(described, rate_per_h=0.0, notes=(*notes, still))
    if fit is None or is_full(kept):
        return msgspec.structs.replace(described, notes=(*notes, unknown_growth(kept)))
    low, high = interval(fit)
    return msgspec.structs.replace(
        described,
        doubling_time_h=math.log(2) / fit.rate,
        rate_per_h=fit.rate,
        plain_doubling_time_h=plain_doubling_time(kept_hours, kept),
        doubling_time_low_h=math.log(2) / high,
        doubling_time_high_h=math.log(2) / low if low > 0 else None,
        r2=fit.r2,
        from_h=float(kept_hours[fit.first]),
        to_h=float(kept_hours[fit.last]),
        lag_h=lag(kept_hours, kept, fit, scans),
        limit=1 / fit.crowding if fit.crowding else None,
        notes=notes,
    )


def plain_doubling_time(hours: Hours, confluence: Shares) -> float | None:
    """Return what a straight line through the logarithms of 0.08 to 0.6 says; None if it falls."""
    inside = usable(confluence) & (confluence >= PLAIN_LOWEST) & (confluence <= PLAIN_HIGHEST)
    if np.count_nonzero(inside) < FEWEST_POINTS:
        return None
    slope = _slope(hours[inside], np.log(confluence[inside]))
    return math.log(2) / slope if slope > 0 else None


def find_jumps(hours: Hours, confluence: Shares) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Find scans that do not fit their neighbours, as a changed focus or a moved plate makes.

    Returns:
        (N,) bool, single scans off both neighbours, which are left out; and a sentence for each of these and
        for each step after which confluence stays changed.
    """
    count = hours.size
    spikes = np.zeros(count, np.bool_)
    if count < FEWEST_POINTS:
        return spikes, ()
    log = np.log(np.maximum(confluence, UNSEEN))
    noise = noise_of(hours, confluence)
    notes = []
    for index in range(1, count - 1):
        before, after = index - 1, index + 1
        share = (hours[index] - hours[before]) / (hours[after] - hours[before])
        expected = (1 - share) * log[before] + share * log[after]
        off = log[index] - expected
        steady = abs(log[after] - log[before]) < abs(off)
        seen = abs(confluence[index] - math.exp(expected)) > NOTICEABLE
        least = max(SPIKE, 5 * noise)
        if abs(off) > least and steady and seen and not spikes[before]:
            if any(abs(_off_line(hours, log, index, step)) < least / 2 for step in (-1, 1)):
                continue  # it goes on from the scans on one side: a jump, which lasts
            spikes[index] = True
            notes.append(
                f"the scan at {hours[index]:g} h is off its neighbours ({confluence[index]:.2f} between "
                f"{confluence[before]:.2f} and {confluence[after]:.2f}) and was left out: look at its focus"
            )
    kept = np.flatnonzero(~spikes)
    off, rates = _off_steps(hours[kept], log[kept])
    for number in np.flatnonzero(np.abs(off) > max(STEP, 6 * float(np.median(np.abs(off))) / 0.6745)):
        left, right = kept[number], kept[number + 1]
        stays = _stays(hours[kept], log[kept], int(number), float(rates[number]))
        if number == 0 and off[0] > 0:
            continue  # cells that were just sown spread
        if abs(confluence[right] - confluence[left]) > NOTICEABLE and stays:
            notes.append(
                f"confluence jumps from {confluence[left]:.2f} to {confluence[right]:.2f} between "
                f"{hours[left]:g} h and {hours[right]:g} h: a changed focus, a moved plate or a new medium?"
            )
    return spikes, tuple(notes)


def _off_line(hours: Hours, log: Shares, index: int, step: int) -> float:
    """Return how far a scan is off the line through the two scans before it, or after it; a logarithm.

    Args:
        hours: (N,) float64.
        log: (N,) float64, logarithm of confluence.
        index: the scan.
        step: -1 for the scans before, 1 for those after. Infinite if there are not two of them.
    """
    near, far = index + step, index + 2 * step
    if not 0 <= far < hours.size:
        return math.inf
    rate = (log[near] - log[far]) / (hours[near] - hours[far])
    return float(log[index] - log[near] - rate * (hours[index] - hours[near]))


def _off_steps(hours: Hours, log: Shares) -> tuple[Shares, Shares]:
    """Return how far each step is off the growth around it, and that growth's rate per hour.

    Both are (N - 1,) float64; the first are logarithms. Growth around it is the median rate of the two steps
    on each side. How fast the well grew while scans are missing is uncertain, so a longer step counts less,
    as a random walk's would.
    """
    time = np.diff(hours)
    rates = np.diff(log) / time
    around = np.array(
        [np.median(np.delete(rates[max(i - 2, 0) : i + 3], min(i, 2))) for i in range(rates.size)]
    )
    off: Shares = (rates - around) * time / np.sqrt(np.maximum(time / np.median(time), 1))
    return off, around


def _without_spikes(curve: Curve) -> tuple[Hours, Shares]:
    spikes, _ = find_jumps(curve.hours, curve.confluence)
    return curve.hours[~spikes], curve.confluence[~spikes]


def missing_scans(hours: Hours, scans: Hours | None) -> tuple[str, ...]:
    """Name how many of the plate's scans a well lacks."""
    if scans is None or scans.size == 0:
        return ()
    lacking = np.setdiff1d(np.round(scans, 4), np.round(hours, 4))
    if lacking.size == 0:
        return ()
    which = ", ".join(f"{hour:g} h" for hour in lacking[:5]) + (", …" if lacking.size > 5 else "")
    return (f"{lacking.size} of {scans.size} scans {'is' if lacking.size == 1 else 'are'} missing ({which})",)


def stands_still(hours: Hours, confluence: Shares, fit: Fit | None) -> str | None:
    """Say that the well does not grow; None if it grows, or if that cannot be told."""
    if confluence.size < FEWEST_POINTS or is_full(confluence):
        return None
    highest = float(confluence.max())
    if highest < LOWEST:
        return f"no growth: confluence never reaches {LOWEST:g} (highest {highest:.3f})"
    begins, ends = float(np.median(confluence[:3])), float(np.median(confluence[-3:]))
    span = float(hours[-1] - hours[0])
    no_growth = f"no growth: confluence goes from {begins:.2f} to {ends:.2f} in {span:g} h"
    # The first scan alone has no median: in a well that falls, it lies above the others.
    smooth = np.maximum(running_median(confluence)[1:], LOWEST)
    lowest, peak = rise(smooth)
    if smooth[peak] < 1.15 * smooth[lowest]:
        return no_growth
    if fit is None:
        return None
    low, _ = interval(fit)
    # A few scans are unsure even of a well that doubles; then its interval has no upper end.
    small = smooth[peak] < 2 * smooth[lowest] and ends < 1.3 * begins
    scattered = fit.rate <= 0 or fit.r2 < SCATTERED
    return no_growth if (low <= 0 and (small or scattered)) or math.log(2) / fit.rate > 4 * span else None


def is_full(confluence: Shares) -> bool:
    """Tell whether a well is full from its first scan to its last; noise may take single scans below."""
    if confluence.size < FEWEST_POINTS or float(np.median(confluence)) <= HIGHEST:
        return False
    return float(running_median(confluence)[1:-1].min()) > 0.95 * HIGHEST


def unknown_growth(confluence: Shares) -> str:
    """Say why nobody can tell whether the well grows."""
    if is_full(confluence):
        return f"full: confluence is about {HIGHEST:g} or more in every scan, where growth cannot be seen"
    inside = int(np.count_nonzero(usable(confluence)))
    return (
        f"too few scans: {inside} with a confluence of {LOWEST:g} to {HIGHEST:g} before the well is full or "
        f"falls; a doubling time needs {FEWEST_POINTS}"
    )


def falling(hours: Hours, confluence: Shares) -> tuple[str, ...]:
    """Name a well that ends well below its highest confluence.

    Ends and peaks are medians of three scans. The last scan alone has none, so it is not a peak: in a well
    that grows fast, it is far above the scans before it.
    """
    if confluence.size < FEWEST_POINTS:
        return ()
    smooth = running_median(confluence)[:-1]
    top = int(np.argmax(smooth))
    ends = float(smooth[-1])
    if ends < GONE * smooth[top] and smooth[top] - ends > NOTICEABLE:
        return (
            f"falling: from {smooth[top]:.2f} at {hours[top]:g} h to {ends:.2f} at {hours[-1]:g} h; "
            "do cells die or detach?",
        )
    return ()


def find_plateau(hours: Hours, confluence: Shares) -> float | None:
    """Return the confluence at which growth has stopped; None while it goes on, or if it never grew.

    It has stopped if the last quarter of the scans, at least four, rises less than a tenth as fast as the
    fastest quarter.
    """
    size = max(confluence.size // 4, 4)
    if confluence.size < 2 * size:
        return None
    slopes = [
        _slope(hours[i : i + size], confluence[i : i + size]) for i in range(confluence.size - size + 1)
    ]
    fastest = max(slopes)
    level = float(np.median(confluence[-size:]))
    grown = level - float(np.median(confluence[:3])) > NOTICEABLE
    return level if grown and abs(slopes[-1]) < 0.1 * fastest else None


def first_crossing(hours: Hours, confluence: Shares, level: float) -> float | None:
    """Return the hour at which confluence passes a level and stays there for two scans."""
    above = confluence >= level
    lasting = above & np.append(above[1:], True)
    index = int(np.argmax(lasting))
    if not lasting.any():
        return None
    if index == 0:
        return float(hours[0])
    low, high = confluence[index - 1], confluence[index]
    share = (level - low) / (high - low) if high > low else 0.0
    return float(hours[index - 1] + share * (hours[index] - hours[index - 1]))


def lag(hours: Hours, confluence: Shares, fit: Fit, scans: Hours | None = None) -> float | None:
    """Return the hours from the plate's first scan until the fitted curve leaves the first confluence.

    If the well falls before it grows, it leaves the confluence to which it fell.

    At least 0. None if growth began before the well's first scan, and the plate has earlier ones; and if the
    well begins with so few cells that they could grow unseen among debris.
    """
    first = hours[0] if scans is None or scans.size == 0 else scans[0]
    until = confluence[: fit.first + 1]
    early = until[:3]
    # The median errs less, but cells below LOWEST may be growing already.
    begins = float(np.median(early) if early.min() >= LOWEST else early.min())
    lowest = float(running_median(until).min())
    if lowest < FALLEN * begins:
        begins = lowest
    if begins < UNSEEN:
        return None
    room = 1 - fit.crowding * begins
    if room <= 0:
        return 0.0 if first == hours[0] else None
    # In ln(c/(1 - c/limit)) the curve is a straight line.
    entry = math.exp(fit.start)
    line = math.log(entry / max(1 - fit.crowding * entry, 1e-6))
    meets = hours[fit.first] + (math.log(begins / room) - line) / fit.rate
    if first < hours[0] and meets < (hours[0] + hours[1]) / 2:
        return None
    return max(float(meets - first), 0.0)


def _stays(hours: Hours, log: Shares, step: int, rate: float) -> bool:
    """Tell whether the level changes for good at a step, by the medians of three scans on each side.

    Args:
        hours: (N,) float64.
        log: (N,) float64, logarithm of confluence.
        step: the scan before it.
        rate: of the growth around it, which is no change, per hour.
    """
    level = log - rate * (hours - hours[step])
    before, after = level[max(step - 2, 0) : step + 1], level[step + 1 : step + 4]
    return abs(float(np.median(after)) - float(np.median(before))) > STEP


def _slope(hours: Hours, values: Shares) -> float:
    time = hours - hours.mean()
    return float(time @ values / max(float(time @ time), 1e-9))
