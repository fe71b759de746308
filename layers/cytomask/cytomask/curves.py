"""The curves that confluence follows over time, fitted to the window of scans that fits best.

Least squares on the logarithm of confluence, as is usual for growth curves (Hall et al. 2014, "Growth rates
made easy", doi:10.1093/molbev/mst187). Two kinds of curve are tried: the exponential, and the logistic curve
(Verhulst 1838; Tsoularis & Wallace 2002, doi:10.1016/S0025-5564(02)00096-2), which slows as cells run out of
room:

    d ln(c)/dt = rate * (1 - c / limit)

Both have the same `rate` while cells are few, and both may be level until growth begins, because a lag before
a curve that slows looks like slow exponential growth. How strongly the data speak for each curve decides its
weight (Bayesian model averaging: Hoeting et al. 1999, doi:10.1214/ss/1009212519), so that the interval covers
the choice too. Pure: NumPy alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Hours = NDArray[np.float64]
Shares = NDArray[np.float64]
Grid = NDArray[np.float64]
# (2, K), probability of each curve of CROWDING if growth begins at the first scan, or later; sums to 1
Prior = NDArray[np.float64]
Indices = NDArray[np.intp]

LOWEST, HIGHEST = 0.03, 0.8  # confluence: below, debris counts as much as cells; above, wells are full
FEWEST_POINTS = 5
# 1/limit of the curves that are tried; 0 is the exponential. Wells that fill up end at 0.7 to 1.1.
CROWDING = np.array([0, 0.9, 0.95, 1, 1.05, 1.1, 1.15, 1.2, 1.25, 1.3, 1.4, 1.5, 1.7, 2, 2.4, 3, 4])
MOST_BEGINNINGS = 9  # scans at which growth may begin, spread over the first half of a window
# Before any well is looked at: a curve that slows is as likely as one that does not, and most grow at once.
EVEN = np.outer([0.7, 0.3], np.where(CROWDING > 0, 0.5 / (CROWDING.size - 1), 0.5))
EVEN_SHARE = 0.03  # weight of the even prior, as a share of the plate's wells
UNLIKELY = 0.02  # of the likeliest curve's prior probability; less likely curves choose no window
NEGLIGIBLE = 1e-3  # of the likeliest curve's weight; lighter curves are left out of the mean
SMALLEST_NOISE = 0.02  # of a logarithm: masks err by 2 %, and in the same way from scan to scan
HARDLY_BENT = 8.0  # hours in which the curve of cells that double in 12 h is straight within 2 %
MOST_ALIKE = 0.9  # correlation of the errors of neighbouring scans; a few scans can show no higher one
CURVED = 2.0  # standard errors; a window with a larger bend is not straight


@dataclass(frozen=True)
class Curve:
    """Confluence over time of one well or site.

    Attributes:
        hours: (N,) float64, increasing, since the plate's first scan.
        confluence: (N,) float64, 0..1.
    """

    hours: Hours
    confluence: Shares


@dataclass(frozen=True)
class Fit:
    """A window's fitted curve.

    Attributes:
        rate, error: growth rate per hour and its standard error.
        freedom: degrees of freedom of the error.
        start: logarithm of confluence at time 0, and the crowding (1/limit) of the likeliest curve.
        misfit: sum of squares of the logarithm off the likeliest curve.
        r2: share of the logarithm's variance that the curve explains.
        first, last: the scans between which the likeliest curve grows, as indices.
        evidence: (2, K) logarithm of each curve's likelihood, arranged like `Prior`.
    """

    rate: float
    error: float
    freedom: int
    start: float
    crowding: float
    misfit: float
    r2: float
    first: int
    last: int
    evidence: Grid


def best_fit(hours: Hours, confluence: Shares, prior: Prior = EVEN) -> Fit | None:
    """Return the fit of the best window; None if fewer than five scans can be used.

    Of the windows that follow a curve without a bend, the one whose rate is the most precise wins, so that a
    long window is preferred to a lucky short one. If every window bends, precision alone decides; misfit
    counts as noise. The scans before the window join it if a curve that begins later fits them too: they tell
    the level at which growth begins.
    """
    where = np.flatnonzero(usable(confluence))
    if where.size < FEWEST_POINTS:
        return None
    time, share = hours[where], confluence[where]
    of_curve = prior.sum(axis=0)
    likely = CROWDING[of_curve >= UNLIKELY * of_curve.max()]
    noise = lasting_noise(time, share)
    scores = score_windows(time, share, noise, likely)
    if not np.isfinite(scores).any():
        return None
    first, last = (int(index) for index in np.unravel_index(int(np.argmin(scores)), scores.shape))
    joined, window = slice(last + 1), slice(first, last + 1)
    fit = fit_window(time[joined], share[joined], where[joined], noise, prior)
    if first == 0 or fit.misfit <= _most_misfit(noise, last + 1):
        return fit
    return fit_window(time[window], share[window], where[window], noise, prior)


def learn_prior(fits: Sequence[Fit]) -> Prior:
    """Return how likely each curve is on a plate, from the fits of its wells.

    A few rounds of expectation and maximisation; the even prior counts as one well in thirty, at least two,
    so that a few that differ from the rest are not overruled.
    """
    told = [fit for fit in fits if fit.rate - 2 * fit.error > 0 and fit.r2 > 0.8]
    prior = EVEN
    for _ in range(20):
        seen = max(2.0, EVEN_SHARE * len(told)) * EVEN
        for fit in told:
            weights = prior * np.exp(fit.evidence - fit.evidence.max())
            seen = seen + weights / weights.sum()
        prior = seen / seen.sum()
    return prior


def score_windows(hours: Hours, confluence: Shares, noise: float, curves: Shares) -> Grid:
    """Score every window of at least five scans; lower is better, infinite marks an invalid window.

    Args:
        hours: (N,) float64.
        confluence: (N,) float64, within 0.03..0.8.
        noise: standard deviation of the logarithm of a scan.
        curves: (L,) float64, the values of `CROWDING` to try.

    Returns:
        (N, N) float64: for the window from row to column, the relative standard error of its rate, plus 10
        if the window bends.
    """
    count = hours.size
    time = hours - hours.mean()
    scores = np.full((count, count), np.inf)
    points = np.arange(count)[None, :] - np.arange(count)[:, None] + 1
    for crowding in curves:
        room = 1 - crowding * confluence
        if (room < 0.05).any():
            continue  # this curve ends below the data
        straight = np.log(confluence / room)
        moments = _window_moments(time, straight, room**2)
        with np.errstate(all="ignore"):
            slope, spread, misfit, bend = _line(moments)
            variance = np.maximum(misfit / np.maximum(points - 2, 1), noise**2)
            error = np.sqrt(variance / spread)
            score = error / slope
            bent = (np.abs(bend[0]) > CURVED * np.sqrt(variance) * bend[1]) & (points > FEWEST_POINTS)
            loose = misfit > _most_misfit(noise, points)
        score = np.where(bent | loose, 10 + score, score)
        fits = (points >= FEWEST_POINTS) & (slope > 0) & np.isfinite(score)
        scores = np.where(fits & (score < scores), score, scores)
    return scores


def fit_window(hours: Hours, confluence: Shares, scans: Indices, noise: float, prior: Prior) -> Fit:
    """Fit all curves to a window by least squares on the logarithm, and average them by their likelihood.

    Args:
        hours: (N,) float64, of the window.
        confluence: (N,) float64.
        scans: (N,) int, the window's indices in the whole curve.
        noise: standard deviation of the logarithm of a scan.
        prior: how likely each curve is.
    """
    count, log = hours.size, np.log(confluence)
    begins = beginnings(count)
    rates, errors, starts, misfits = fit_curves(hours, begins, log, noise)
    closest = np.unravel_index(int(np.argmin(misfits)), misfits.shape)
    time = np.maximum(hours - hours[begins[closest[0]]], 0)
    curve, _, _ = _curves(time[None], CROWDING[closest[1], None], starts[closest][None], rates[closest][None])
    alike = scans_alike(log - np.log(curve[0]))
    likelihood = -0.5 * count / alike * np.log(misfits + count * SMALLEST_NOISE**2)
    highest = likelihood.max()
    ratio = np.exp(likelihood - highest)
    later = ratio[1:]
    evidence = highest + np.log(np.maximum([ratio[0], later.mean(0) if later.size else ratio[0]], 1e-300))
    weights = np.concatenate([prior[:1] * ratio[:1], prior[1] * later / max(len(later), 1)])
    weights[weights < NEGLIGIBLE * weights.max()] = 0
    weights /= weights.sum()
    mean = float((weights * rates).sum())
    likeliest = np.unravel_index(int(np.argmax(weights)), weights.shape)
    misfit = float(misfits[likeliest])
    spread = float(np.sum((log - log.mean()) ** 2))
    return Fit(
        rate=mean,
        error=math.sqrt(float((weights * (alike * errors**2 + (rates - mean) ** 2)).sum())),
        freedom=max(count - 3, 1),
        start=float(starts[likeliest]),
        crowding=float(CROWDING[likeliest[1]]),
        misfit=misfit,
        r2=1 - misfit / spread if spread else 0.0,
        first=int(scans[begins[likeliest[0]]]),
        last=int(scans[-1]),
        evidence=evidence,
    )


def beginnings(count: int) -> Indices:
    """Return the scans of a window at which growth may begin, (B,) int: the first, and later ones."""
    latest = min(count - FEWEST_POINTS, count // 2)
    return np.unique(np.linspace(0, latest, min(latest + 1, MOST_BEGINNINGS)).round().astype(np.intp))


def fit_curves(hours: Hours, begins: Indices, log: Shares, noise: float) -> tuple[Grid, Grid, Grid, Grid]:
    """Fit each curve of `CROWDING`, from each beginning, to one window by Gauss-Newton steps.

    Args:
        hours: (N,) float64.
        begins: (B,) int, scans at which growth may begin; until then the curve is level.
        log: (N,) float64, logarithm of confluence.
        noise: its least standard deviation, as the whole curve shows it; a window may be lucky.

    Returns:
        Rate, its standard error, logarithm at the beginning and sum of squares, each (B, K) float64.
    """
    shape = begins.size, CROWDING.size
    crowding = np.tile(CROWDING, begins.size)  # (B * K,)
    time = np.repeat(np.maximum(hours - hours[begins, None], 0), CROWDING.size, axis=0)  # (B * K, N)
    # A curve that ends below the data leaves no room, so room is bounded from below.
    room = np.maximum(1 - crowding[:, None] * np.exp(log), 0.03)
    straight, weight = log - np.log(room), room**2
    total = weight.sum(axis=1)
    middle = (weight * time).sum(axis=1) / total
    level = (weight * straight).sum(axis=1) / total
    off = time - middle[:, None]
    rate = (weight * off * straight).sum(axis=1) / (weight * off**2).sum(axis=1)
    line = level - rate * middle
    start = line - np.log1p(crowding * np.exp(np.minimum(line, 50)))
    for _ in range(6):
        share, by_start, by_rate = _curves(time, crowding, start, rate)
        residual = log - np.log(share)
        (aa, ab, bb), (ra, rb) = _normal(by_start, by_rate, residual)
        both = np.maximum(aa * bb - ab**2, 1e-18)
        start = np.clip(start + (bb * ra - ab * rb) / both, -12, -np.log(np.maximum(crowding, 0.5)) - 1e-3)
        rate = np.clip(rate + (aa * rb - ab * ra) / both, -2, 2)
    share, by_start, by_rate = _curves(time, crowding, start, rate)
    residual = log - np.log(share)
    (aa, ab, bb), _ = _normal(by_start, by_rate, residual)
    misfit = (residual**2).sum(axis=1)
    freedom = np.maximum(log.size - np.where(crowding > 0, 3, 2), 1)
    variance = np.maximum(misfit / freedom, noise**2)
    error = np.sqrt(variance * aa / np.maximum(aa * bb - ab**2, 1e-18))
    return rate.reshape(shape), error.reshape(shape), start.reshape(shape), misfit.reshape(shape)


def scans_alike(residual: Shares) -> float:
    """Return how many scans tell as much as one independent scan would; at least 1.

    A focus that drifts, or a model that errs alike on the same cells, makes errors that last over several
    scans. The effective number of scans is n (1 - r) / (1 + r), with the correlation r of neighbours (Zwiers
    & von Storch 1995, J. Climate 8, 336). A fitted curve follows its scans, which lowers r by about 3 / n.

    Args:
        residual: (N,) float64, logarithm of confluence minus that of the curve.
    """
    squares = float(residual @ residual)
    products = float(residual[1:] @ residual[:-1]) + 3 / residual.size * squares
    correlation = products / max(squares, residual.size * SMALLEST_NOISE**2)
    correlation = min(max(correlation, 0.0), MOST_ALIKE)
    return (1 + correlation) / (1 - correlation)


def interval(fit: Fit) -> tuple[float, float]:
    """Return the 95 % interval of the rate."""
    reach = student(fit.freedom) * fit.error
    return fit.rate - reach, fit.rate + reach


def student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t; to 1 % from three degrees of freedom on (Fisher)."""
    z = 1.959964
    if freedom < 3:
        return 12.706 if freedom == 1 else 4.303
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))


def noise_of(hours: Hours, confluence: Shares, apart: int = 1) -> float:
    """Return the deviation of a scan's logarithm, from how far it lies off the scans `apart` from it."""
    if hours.size <= 2 * apart:
        return SMALLEST_NOISE
    log = np.log(np.maximum(confluence, 1e-3))
    before, middle, after = slice(-2 * apart), slice(apart, -apart), slice(2 * apart, None)
    share = (hours[middle] - hours[before]) / np.maximum(hours[after] - hours[before], 1e-9)
    off = log[middle] - (1 - share) * log[before] - share * log[after]
    off = off / np.sqrt(1 + share**2 + (1 - share) ** 2)
    return max(float(np.median(np.abs(off))) / 0.6745, SMALLEST_NOISE)


def lasting_noise(hours: Hours, confluence: Shares) -> float:
    """Return the deviation of a scan's logarithm, errors included that last over several scans.

    Such errors hardly show between neighbouring scans. So it is the largest of `noise_of` between scans that
    are up to `HARDLY_BENT` apart.
    """
    step = float(np.median(np.diff(hours)))
    most = min(int(HARDLY_BENT / max(step, 1e-9)), (hours.size - 5) // 2)
    return max(noise_of(hours, confluence, apart) for apart in (1, 2, 4, 8, 16) if apart <= max(most, 1))


def usable(confluence: Shares) -> NDArray[np.bool_]:
    """Find the scans within the limits until the well is full or its rise ends: a later fall is no growth."""
    inside = (confluence >= LOWEST) & (confluence <= HIGHEST)
    smooth = running_median(confluence)
    lowest, highest = rise(smooth)
    full = lowest + np.flatnonzero(smooth[lowest:] > HIGHEST)
    # The highest scan may come after the highest median.
    end = highest + 1 + int(np.argmax(confluence[highest : highest + 2]))
    inside[int(full[0]) if full.size else end :] = False
    return inside


def rise(smooth: Shares) -> tuple[int, int]:
    """Return the scans between which the logarithm of confluence rises most, (0, 0) if it never does.

    A well may fall before it grows, as after a change of medium. Confluence below `LOWEST` counts as that,
    because debris comes and goes there.

    Args:
        smooth: (N,) float64, from `running_median`; N > 0.
    """
    log = np.log(np.maximum(smooth, LOWEST))
    highest = int(np.argmax(log - np.minimum.accumulate(log)))
    return int(np.argmin(log[: highest + 1])), highest


def _most_misfit(noise: float, points: Indices | int) -> Grid:
    """Return the sum of squares that noise alone hardly exceeds: four standard deviations above the mean."""
    most: Grid = noise**2 * (points + 4 * np.sqrt(2.0 * points))
    return most


def _window_moments(time: Hours, value: Shares, weight: Shares) -> NDArray[np.float64]:
    """Sum t^0..4, y, ty, yy and t²y by weight over each window from row to column: (9, N, N) float64."""
    terms = np.stack(
        [
            weight,
            weight * time,
            weight * time**2,
            weight * time**3,
            weight * time**4,
            weight * value,
            weight * time * value,
            weight * value**2,
            weight * time**2 * value,
        ]
    )
    sums = np.concatenate([np.zeros((len(terms), 1)), np.cumsum(terms, axis=1)], axis=1)
    windows: NDArray[np.float64] = sums[:, None, 1:] - sums[:, :-1, None]
    return windows


def _line(moments: Grid) -> tuple[Grid, Grid, Grid, tuple[Grid, Grid]]:
    """Fit a line, and the bend that is left, to each window.

    Returns:
        Slope, weighted spread of the times, misfit (sum of squares), and the bend with its standard error for
        noise of 1, each (N, N).
    """
    s0, s1, s2, s3, s4, y0, y1, yy, y2 = moments
    mean, level = s1 / s0, y0 / s0
    spread = s2 - mean * s1
    along = y1 - mean * y0
    slope = along / spread
    misfit = np.maximum(yy - level * y0 - slope * along, 0)
    # The square of time, freed of its constant and its line.
    curve_along = s3 - mean * s2
    turn = curve_along / spread
    curve = s4 - s2**2 / s0 - turn * curve_along
    left = (y2 - level * s2) - turn * along
    curve = np.maximum(curve, 1e-12)
    return slope, spread, misfit, (left / curve, 1 / np.sqrt(curve))


def _curves(time: Grid, crowding: Shares, start: Shares, rate: Shares) -> tuple[Grid, Grid, Grid]:
    """Compute each curve's confluence, and its logarithm's derivatives by start and by rate, each (G, N).

    Args:
        time: (G, N) float64, hours since growth began.
        crowding: (G,) float64, 1/limit.
        start: (G,) float64, logarithm of confluence at time 0.
        rate: (G,) float64, per hour.
    """
    decay = np.exp(np.clip(-rate[:, None] * time, -50, 50))
    entry = np.exp(-start)[:, None]
    rest = (entry - crowding[:, None]) * decay
    share = 1 / np.maximum(crowding[:, None] + rest, 1e-6)
    return share, entry * decay * share, time * rest * share


def _normal(
    by_start: Grid, by_rate: Grid, residual: Grid
) -> tuple[tuple[Shares, Shares, Shares], tuple[Shares, Shares]]:
    """Compute the sums of the normal equations, each (G,)."""
    products = (by_start**2).sum(1), (by_start * by_rate).sum(1), (by_rate**2).sum(1)
    return products, ((by_start * residual).sum(1), (by_rate * residual).sum(1))


def running_median(values: Shares) -> Shares:
    """Return each value's median with its two neighbours, (N,) float64; the ends stay as they are."""
    if values.size < 3:
        return values.copy()
    middle = np.median(np.stack([values[:-2], values[1:-1], values[2:]]), axis=0)
    return np.concatenate([values[:1], middle, values[-1:]])
