"""Means and slopes over seeds with censored times: multiple imputation of the censored values, then Student-t.

Model: a seed's values at the K sizes (here: ln half-life) are normal and independent of other seeds'; their
orthonormal contrasts over sizes (level, slope, K - 2 others) are independent, the others with one common variance. A
seed can therefore shift and tilt all its sizes: sizes that share a seed are never treated as independent. Data
augmentation (Tanner and Wong 1987, JASA 82, 528) alternates draws of the censored values within their bounds, given
everything else, and of the parameters, given the completed values; given these the slope has a Student-t distribution
over seeds. The interval is that of the mixture. Without censoring it is exactly the t interval over one slope per seed.
Coverage: docs/validation.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.stats.arrays import Array
from analysis.stats.intervals import LEVEL, Interval

CHAINS, BURN, KEPT, THIN = 32, 40, 40, 2
SHARE = 0.02
"""During sampling the variances of level and slope are at least this share of the others' variance. Each includes that
noise, so the truth is at least 1. A bound of 1 covers too often (0.97 to 0.99); no bound covers too rarely (0.85 to
0.93 with 30 % censored), since variances over few seeds near 0 then draw values that vary too little. Chosen on
separate data, not those of docs/validation.md: with 3 sizes x 3 seeds, 25 % and 33 % censored, 0.1 covers 0.96 to 0.98,
0.02 0.95 to 0.97, 0.005 0.94 to 0.96."""
CENSORED, CENSORED_OF_SIZE = 1 / 3, 0.8
"""Largest share of censored values, overall and at any one size, for which a slope has an interval. docs/validation.md
has the coverage up to there; with half of a 3 x 3 design censored it was 0.928."""
PRIOR = 0.5
"""With one or two sizes there are no other contrasts; the prior then takes this many degrees of freedom from each
variance."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """For each of R data sets M Student-t distributions of equal weight, with `freedom` degrees of freedom."""

    centre: Array
    """(R, M)."""
    error: Array
    """(R, M)."""
    freedom: int

    def quantile(self, share: float) -> Array:
        """(R,), by bisection on the mean of the M distribution functions."""
        t = special.stdtrit(self.freedom, share)
        ends = self.centre + t * self.error
        low, high = ends.min(axis=1), ends.max(axis=1)
        while (high - low > 1e-9 * (np.abs(low) + np.abs(high)) + 1e-12).any():
            middle = (low + high) / 2
            below = special.stdtr(self.freedom, (middle[:, None] - self.centre) / self.error).mean(axis=1) < share
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return (low + high) / 2


def contrasts(x: Array) -> Array:
    """Orthonormal rows over the sizes x (K,): level, slope (if K > 1), and the others, (K, K)."""
    basis = np.column_stack([np.ones_like(x), x - x.mean(), *np.eye(x.size)])
    rows: list[Array] = []
    for column in basis.T:
        left = column - sum(((row @ column) * row for row in rows), np.zeros_like(x))
        if (size := np.linalg.norm(left)) > 1e-9 * np.linalg.norm(column):
            rows.append(left / size)
        if len(rows) == x.size:
            break
    return np.array(rows)


def augment(
    x: Array, low: Array, high: Array, *, contrast: int = 1, chains: int = CHAINS, kept: int = KEPT, seed: int = 0
) -> Mixture:
    """Posterior of the slope over x (`contrast` 1) or the mean over sizes (0), for R data sets of S seeds at K sizes.

    `low`, `high` (R, S, K): bounds of each value, equal if observed, infinite if unbounded. A missing value is -inf to
    inf.
    """
    rng = np.random.default_rng(seed)
    sets, seeds, sizes = low.shape
    rows = contrasts(x)
    unit = np.linalg.norm(x - x.mean()) if contrast else np.sqrt(sizes)
    low, high = (np.repeat(ends, chains, axis=0) for ends in (low, high))
    values = _first(low, high)
    unknown = [np.nonzero(low[:, :, i] != high[:, :, i]) for i in range(sizes)]
    rest = np.full(values.shape[0], 1e-18)
    centres, errors = [], []
    for turn in range(BURN + kept * THIN):
        parts = values @ rows.T
        mean = parts.mean(axis=1)
        spread = np.maximum(((parts - mean[:, None]) ** 2).sum(axis=1), 1e-18)
        if turn >= BURN and (turn - BURN) % THIN == 0:
            centres.append(mean[:, contrast] / unit)
            errors.append(np.sqrt(spread[:, contrast] / (seeds - 1) / seeds) / unit)
        variance, centre = _parameters(parts, mean, spread, rest, rng)
        _draw(values, low, high, unknown, rows, variance, centre, rng)
    shape = (sets, -1)
    return Mixture(
        centre=np.stack(centres, axis=1).reshape(shape), error=np.stack(errors, axis=1).reshape(shape),
        freedom=seeds - 1,
    )  # fmt: skip


def _first(low: Array, high: Array) -> Array:
    """Starting values: interval midpoints; just beyond a single bound; the mean of the known values if unbounded."""
    with np.errstate(invalid="ignore"):
        values = np.where(np.isfinite(low), np.where(np.isfinite(high), (low + high) / 2, low + 0.1), high - 0.1)
    known = np.isfinite(values)
    mean = np.where(known, values, 0).sum(axis=(1, 2)) / np.maximum(known.sum(axis=(1, 2)), 1)
    return np.where(known, values, mean[:, None, None])


def _parameters(parts: Array, mean: Array, spread: Array, rest: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Variances (B, K) and means (B, K) of the contrasts, drawn given completed values; updates `rest` (B,)."""
    count, seeds, sizes = parts.shape
    own = min(2, sizes)
    variance, centre = np.empty((count, sizes)), np.zeros((count, sizes))
    if sizes > 2:
        most = spread[:, :own] / (SHARE * rest[:, None])
        variance[:, :own] = spread[:, :own] / _chi_square(seeds - 1, np.zeros_like(most), most, rng)
        freedom = seeds * (sizes - 2)
        left = np.maximum((parts[:, :, 2:] ** 2).sum(axis=(1, 2)), 1e-18)
        least = left * SHARE / variance[:, :own].min(axis=1)
        rest[:] = left / _chi_square(freedom, least, np.full(count, np.inf), rng)
        variance[:, 2:] = rest[:, None]
    else:
        variance[:] = spread / rng.chisquare(max(seeds - 1 - PRIOR, PRIOR), (count, own))
    centre[:, :own] = mean[:, :own] + np.sqrt(variance[:, :own] / seeds) * rng.standard_normal((count, own))
    return variance, centre


def _chi_square(freedom: int, low: Array, high: Array, rng: np.random.Generator) -> Array:
    """Chi-square draws between low and high; low where the distribution function cannot resolve the ends."""
    below, above = special.chdtr(freedom, low), special.chdtr(freedom, high)
    drawn = 2 * special.gammaincinv(freedom / 2, below + rng.random(low.shape) * (above - below))
    return np.maximum(np.where(np.isfinite(drawn), drawn, low), 1e-12)


def _draw(
    values: Array, low: Array, high: Array, unknown: list, rows: Array, variance: Array, centre: Array,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    """Draws each unknown value in turn, given its seed's others: a normal truncated to its bounds."""
    precision = (rows.T * (1 / variance)[:, None, :]) @ rows
    expected = centre @ rows
    for i, (sets, seeds) in enumerate(unknown):
        if sets.size:
            own = precision[sets, i, i]
            away = values[sets, seeds] - expected[sets]
            others = (precision[sets, i] * away).sum(axis=1) - own * away[:, i]
            mean = expected[sets, i] - others / own
            values[sets, seeds, i] = truncated_normal(mean, own**-0.5, low[sets, seeds, i], high[sets, seeds, i], rng)


def truncated_normal(mean: Array, deviation: Array, low: Array, high: Array, rng: np.random.Generator) -> Array:
    """Normal draws between low and high, through the inverse distribution function in the tail where it is precise."""
    a, b = (low - mean) / deviation, (high - mean) / deviation
    mirrored = a > 0
    a, b = np.where(mirrored, -b, a), np.where(mirrored, -a, b)
    below, above = special.ndtr(a), special.ndtr(b)
    z = special.ndtri(below + rng.random(mean.shape) * (above - below))
    # Where both are 0, so far out: the nearer bound.
    z = np.clip(np.where(np.isfinite(z), z, np.where(np.isfinite(b), b, a)), a, b)
    return mean + deviation * np.where(mirrored, -z, z)


def slopes_over_seeds(
    x: Array, low: Array, high: Array, *, level: float = LEVEL, chains: int = 4, kept: int = 25, seed: int = 0
) -> tuple[Array, Array, Array]:
    """Estimate, low and high (R,) of the slopes over x (K,) of R data sets with bounds low, high (R, S, K).

    Data sets without censoring get the t interval over one slope per seed. Those with more censoring than
    `few_censored` allows get nan, -inf and inf.
    """
    away = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    exact, allowed = (low == high).all(axis=(1, 2)), few_censored(low != high)
    found = np.full((3, low.shape[0]), np.nan)
    found[1], found[2] = -np.inf, np.inf
    slopes = low[exact] @ away
    half_width = special.stdtrit(low.shape[1] - 1, 0.5 + level / 2) * slopes.std(axis=1, ddof=1) / np.sqrt(low.shape[1])
    found[:, exact] = slopes.mean(axis=1) + np.array([[0], [-1], [1]]) * half_width
    rest = allowed & ~exact
    if rest.any():
        mixture = augment(x, low[rest], high[rest], chains=chains, kept=kept, seed=seed)
        found[:, rest] = [mixture.quantile(share) for share in (0.5, 0.5 - level / 2, 0.5 + level / 2)]
    return found[0], found[1], found[2]


def few_censored(late: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether few enough of the values (..., S, K) are censored for an interval with its nominal coverage."""
    return (late.mean(axis=(-2, -1)) <= CENSORED) & (late.mean(axis=-2) <= CENSORED_OF_SIZE).all(axis=-1)


def interval_over_seeds(
    x: Array, low: Array, high: Array, *, contrast: int = 1, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Slope over x (K,), or mean (contrast 0), of values between low and high (S, K), S > 1 seeds."""
    mixture = augment(x, low[None], high[None], contrast=contrast, seed=seed)
    ends = (float(mixture.quantile(share)[0]) for share in (0.5, 0.5 - level / 2, 0.5 + level / 2))
    estimate, lower, upper = ends
    return Interval(estimate=estimate, low=lower, high=upper, count=low.shape[0])


def mean_over_seeds(low: Array, high: Array, level: float = LEVEL) -> Interval:
    """Mean of S > 1 values, some of them only bounded: low, high (S,)."""
    return interval_over_seeds(np.zeros(1), low[:, None], high[:, None], contrast=0, level=level)
