"""Looks at growing numbers of seeds: boundaries of Student's t that keep one error rate over all of them.

The error spent by a look at n seeds is alpha ln(1 + (e - 1) n / n_last) (Lan and DeMets 1983, Biometrika 70, 659: the
spending that resembles Pocock's boundaries). The boundaries come from the joint distribution of the sequential t
statistics themselves, by recursive integration as in Armitage, McPherson and Rowe (1969, JRSS A 132, 235): those of the
normal distribution are too narrow for 5 seeds.

The recursion is in one dimension. With U = sum(x) / sqrt(n sum(x^2)), t = U sqrt((n - 1) / (1 - U^2)). Without an
effect x / |x| is uniform on the sphere. So U is independent of sum(x^2), and the next value, divided by
sqrt(sum(x^2) / n), has Student's t distribution with n degrees of freedom, independent of U. As sqrt(n) tan(theta) it
makes the next U (U sqrt(n) cos(theta) + sin(theta)) / sqrt(n + 1). The law of U^2 is carried from seed to seed by its
Chebyshev moments. `tests/analysis/stats/test_sequential.py` compares the boundaries with simulations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy import optimize, special

from analysis.errors import UserError
from analysis.stats.arrays import Array

ALPHA = 0.05
FIRST = 5
"""Seeds that the first of several looks needs: with fewer the deviation is known too badly to stop on."""
ORDERS, GRID, POINTS = 32, 256, 32
"""Chebyshev moments, points of a law, points of an integral over the next seed. Boundaries differ by less than 6e-4
from those of three times as many orders and eight times as many points."""
LEAST_P, MOST_P = 1e-8, 0.9


@dataclass(frozen=True)
class Looks:
    """Numbers of seeds at which a study is judged. Raises UserError if they do not ascend, or several start below 5."""

    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        shown = ",".join(map(str, self.seeds))
        if not self.seeds or min(self.seeds) < 2 or list(self.seeds) != sorted(set(self.seeds)):
            raise UserError(f"looks are {shown or 'missing'}; expected ascending numbers of seeds from 2, as 5,8,12")
        if len(self.seeds) > 1 and self.seeds[0] < FIRST:
            raise UserError(f"looks are {shown}; the first of several needs {FIRST} seeds or more")

    def spent(self, alpha: float) -> tuple[float, ...]:
        """The error spent by each look."""
        return tuple(alpha * math.log1p((math.e - 1) * n / self.seeds[-1]) for n in self.seeds)

    def boundaries(self, alpha: float, counts: Sequence[int] = ()) -> tuple[float, ...]:
        """The |t| that counts as an effect at each look; at `counts` if some seeds have no estimate."""
        counts = (*counts, *self.seeds[len(counts) :])
        return boundaries(counts, self.spent(alpha))

    def p_value(self, statistics: Sequence[float], counts: Sequence[int]) -> float:
        """The smallest error rate at which one of the looks so far shows an effect, from its t statistics: valid at
        every look (Jennison and Turnbull 2000, section 9.2; as a p-value of Holm's: Liu and Anderson 2008, JASA 103,
        1737). Between 1e-8 and 1.
        """
        return min((self._p_value(abs(t), i, counts) for i, t in enumerate(statistics)), default=1.0)

    def _p_value(self, t: float, look: int, counts: Sequence[int]) -> float:
        if math.isnan(t) or counts[look] < 2:
            return 1.0
        if len(self.seeds) == 1:
            return float(2 * special.stdtr(counts[0] - 1, -t))

        def excess(log_alpha: float) -> float:
            return _boundaries(tuple(counts[: look + 1]), self.spent(math.exp(log_alpha))[: look + 1])[look] - t

        ends = math.log(LEAST_P), math.log(MOST_P)
        if excess(ends[0]) <= 0:
            return LEAST_P
        if excess(ends[1]) > 0:
            return 1.0
        return math.exp(cast(float, optimize.brentq(excess, *ends, xtol=1e-3)))


def boundaries(counts: tuple[int, ...], spent: tuple[float, ...]) -> tuple[float, ...]:
    """|t| at each look of `counts` seeds such that without an effect the probability of having reached one by then is
    `spent`. A look with fewer than two seeds has none (inf), one without new seeds that before it.
    """
    return _cached(tuple(int(n) for n in counts), tuple(spent))


def _boundaries(counts: tuple[int, ...], spent: tuple[float, ...]) -> tuple[float, ...]:
    found: list[float] = []
    n = 0
    u = mass = np.empty(0)
    for count, error in zip(counts, spent, strict=True):
        if count < 2 or count == n:
            found.append(found[-1] if found else math.inf)
            continue
        if not n:
            found.append(-float(special.stdtrit(count - 1, error / 2)))
            u, mass = _first(count, _cut(found[-1], count))
        else:
            for between in range(n, count - 1):
                u, mass = _step(u, mass, between, 1.0)
            found.append(_solved(u, mass, count, error))
            if count < counts[-1]:
                u, mass = _step(u, mass, count - 1, _cut(found[-1], count))
        n = count
    return tuple(found)


_cached = functools.lru_cache(maxsize=4096)(_boundaries)


def _solved(u: Array, mass: Array, count: int, spent: float) -> float:
    """The |t| at `count` seeds that leaves 1 - spent inside, from the law of U one seed earlier."""

    def excess(t: float) -> float:
        ends = np.stack(_panels(u, count - 1, _cut(t, count)))
        below = special.stdtr(count - 1, math.sqrt(count - 1) * np.tan(ends))
        return float(mass @ (below[1] - below[0]).sum(axis=0)) - (1 - spent)

    return cast(float, optimize.brentq(excess, 1e-6, 1e6, xtol=1e-9))


def _cut(t: float, n: int) -> float:
    return t / math.sqrt(n - 1 + t * t)


@functools.cache
def _rules() -> tuple[Array, Array, Array, Array, Array, Array]:
    """Gauss-Legendre points and weights of integrals and of the first law, angles of the Chebyshev points, and what
    makes masses there from moments."""
    angles = (2 * np.arange(GRID) + 1) * np.pi / (2 * GRID)
    series = np.cos(np.outer(np.arange(ORDERS), angles)) * 2 / GRID
    series[0] /= 2
    return *np.polynomial.legendre.leggauss(POINTS), *np.polynomial.legendre.leggauss(GRID), angles, series


def _first(n: int, cut: float) -> tuple[Array, Array]:
    """|U| and mass of its law at n seeds, within the cut."""
    points, weights = _rules()[2:4]
    u = cut * (points + 1) / 2
    return u, cut * weights * (1 - u * u) ** ((n - 3) / 2) / special.beta(0.5, (n - 1) / 2)


def _panels(u: Array, n: int, cut: float) -> tuple[Array, Array]:
    """The two ranges of theta, ends (2, G), in which the next |U| is within the cut; empty ones have equal ends."""
    shift = np.arctan(u * math.sqrt(n))
    ascent = np.arcsin(np.minimum(1.0, cut / np.sqrt((1 + n * u * u) / (n + 1))))
    low = np.stack([np.maximum(-ascent - shift, -np.pi / 2), np.minimum(np.pi - ascent - shift, np.pi / 2)])
    return low, np.stack([ascent - shift, np.full_like(u, np.pi / 2)])


def _step(u: Array, mass: Array, n: int, cut: float) -> tuple[Array, Array]:
    """The law of |U| one seed later, within the cut: points and masses."""
    points, weights, _, _, angles, series = _rules()
    low, high = _panels(u, n, cut)
    half = (high - low) / 2
    theta = (low + half)[..., None] + half[..., None] * points
    density = half[..., None] * weights * np.cos(theta) ** (n - 1) * mass[:, None] / special.beta(n / 2, 0.5)
    later = (u[:, None] * math.sqrt(n) * np.cos(theta) + np.sin(theta)) / math.sqrt(n + 1)
    x, before = np.clip(2 * (later / cut) ** 2 - 1, -1, 1).ravel(), density.ravel()
    now, moments = x * before, np.empty(ORDERS)
    moments[0] = before.sum()
    for order in range(1, ORDERS):  # T(k + 1) = 2 x T(k) - T(k - 1)
        moments[order] = now.sum()
        before, now = now, 2 * x * now - before
    return cut * np.cos(angles / 2), moments @ series
