"""Compute-optimal sizes from runs at a few compute budgets: Hoffmann et al. 2022 (arXiv 2203.15556), approach 2.

At each budget the loss over ln N is a parabola; its minimum is the optimal size. Then ln N is a line over ln C. The
minima of the budgets are the data of that line, with Student's t over them: what separates them from it, noise of runs
or a bend, counts. With several seeds the line is fitted once per seed, with Student's t over seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.errors import UserError
from analysis.laws.allocation import FLOPS
from analysis.stats.arrays import Array
from analysis.stats.format import plural
from analysis.stats.intervals import LEVEL, Interval, t_interval

SAME = 0.1
"""Budgets within this share of each other are one."""
SIZES = 4
"""Different sizes at a budget below which its parabola is not fitted: three determine it, the fourth tests it."""


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """The optimum at one budget."""

    compute: float
    """FLOPs."""
    size: float
    tokens: float
    loss: float
    sizes: int
    """Different sizes tried."""
    low: float | None
    high: float | None
    """95 % interval of the size, Fieller's of the parabola's vertex; None where the runs do not bound it."""
    inside: bool
    """Whether it lies between the smallest and the largest of them: otherwise it is extrapolated."""


@dataclass(frozen=True, kw_only=True)
class IsoFlop:
    """Minima by budget, and how they grow: optimal parameters as C^a, tokens as C^b, b = 1 - a."""

    minima: tuple[Minimum, ...]
    """Of all runs together."""
    lines: tuple[tuple[Array, Array], ...]
    """ln C and ln N of the minima, of all runs or of each seed."""
    seeds: int
    """0: one line through the minima of all runs."""
    warnings: tuple[str, ...]

    @property
    def a(self) -> Interval:
        return self._interval(lambda c, n: np.polyfit(c, n, 1)[0], slope=True)

    @property
    def b(self) -> Interval:
        a = self.a
        low, high = (None if end is None else 1 - end for end in (a.high, a.low))
        return Interval(estimate=1 - a.estimate, low=low, high=high, count=a.count)

    def size(self, compute: float) -> Interval:
        """Optimal parameters at `compute` FLOPs, by the line; tokens are compute / (6 N)."""
        at = np.log(compute)
        return self._interval(lambda c, n: np.polyval(np.polyfit(c - at, n, 1), 0.0), away=at).exp()

    @property
    def method(self) -> str:
        if self.seeds:
            return f"one line per seed, Student-t over {len(self.lines)} of {self.seeds} seeds"
        if len(self.minima) < 3:
            return (
                "none (?): the line through 2 budgets leaves no degrees of freedom; expected 3 budgets or more, or "
                "several seeds with --group"
            )
        return f"Student-t over the minima of {len(self.minima)} budgets"

    def _interval(self, of: Callable[[Array, Array], float], away: float = 0.0, slope: bool = False) -> Interval:
        """`of` the line of each seed with t over seeds; of one line its least-squares interval (at ln C = `away`)."""
        values = [float(of(*line)) for line in self.lines]
        if self.seeds and (found := t_interval(values)) is not None:
            return found
        c, n = self.lines[0]
        left = c.size - 2
        if self.seeds or left < 1:
            return Interval(estimate=values[0], low=None, high=None, count=c.size)
        spread = ((c - c.mean()) ** 2).sum()
        variance = ((n - np.polyval(np.polyfit(c - c.mean(), n, 1), c - c.mean())) ** 2).sum() / left
        share = 1 / spread if slope else 1 / c.size + (away - c.mean()) ** 2 / spread
        half = float(stats.t.ppf(0.5 + LEVEL / 2, left) * np.sqrt(variance * share))
        return Interval(estimate=values[0], low=values[0] - half, high=values[0] + half, count=c.size)


def isoflop(size: Array, compute: Array, loss: Array, seed: Array | None = None) -> IsoFlop:
    """`size` parameters, `compute` FLOPs and `loss` of each run, (n,); `seed` (n,) names its seed.

    Raises UserError where fewer than two budgets have SIZES sizes and a parabola with a minimum.
    """
    for name, values in (("size", size), ("compute", compute)):
        if (values <= 0).any():
            raise UserError(f"{name} has {int((values <= 0).sum())} values of 0 or below; expected above 0")
    budgets = _budgets(compute)
    minima, few, flat = _minima(size, compute, loss, budgets)
    warnings = _swapped(size, compute, loss)
    warnings += [f"{plural(few, 'budget')} with fewer than {SIZES} sizes left out"] * (few > 0)
    warnings += [f"{plural(flat, 'budget')} left out: the loss has no minimum over the sizes"] * (flat > 0)
    if len(minima) < 2:
        reasons = "; ".join(warnings) or "all runs have one budget"
        raise UserError(
            f"{len(minima)} of {budgets.max() + 1} budgets can be used ({reasons}): expected two or more, each with "
            f"{SIZES} sizes or more; budgets within {SAME:.0%} of each other count as one"
        )
    if outside := sum(not each.inside for each in minima):
        warnings.append(f"the minimum lies outside the sizes tried at {outside} of {len(minima)} budgets")
    names = [] if seed is None else np.unique(seed).tolist()
    parts = [minima]
    if len(names) > 1:
        owns = [seed == name for name in names]
        parts = [_minima(size[own], compute[own], loss[own], budgets[own])[0] for own in owns]
        parts = [part for part in parts if len(part) > 1]
        if len(parts) < 2:
            raise UserError(
                f"{len(parts)} of {len(names)} seeds have two budgets with {SIZES} sizes: leave --group out"
            )
    lines = tuple(
        (np.log([each.compute for each in part]), np.log([each.size for each in part])) for part in parts
    )  # fmt: skip
    return IsoFlop(
        minima=tuple(minima), lines=lines, seeds=len(names) if len(names) > 1 else 0, warnings=tuple(warnings)
    )


def _swapped(size: Array, compute: Array, loss: Array) -> list[str]:
    """What says that columns were taken for one another."""
    if (loss > 0).all() and loss.max() / loss.min() > 2 * size.max() / size.min():
        spans = f"the sizes span a factor of {size.max() / size.min():.2g}, the losses {loss.max() / loss.min():.2g}"
        return [f"{spans}: are --size and --loss swapped?"]
    if (below := int((compute < FLOPS * size).sum())) > compute.size / 2:
        return [f"the compute is below 6 N, one token a run, in {plural(below, 'row')}: is --size the parameters, and "
                "--budget FLOPs?"]  # fmt: skip
    return []


def _vertex(u: Array, loss: Array) -> tuple[float | None, float | None]:
    """Fieller's 95 % interval of a parabola's vertex (Fieller 1954, JRSS B 16, 175): the u at which its slope, which is
    linear in the coefficients, may be 0."""
    design = np.stack([u**2, u, np.ones_like(u)], axis=1)
    left = u.size - 3
    if left < 1:
        return None, None
    found = np.linalg.lstsq(design, loss, rcond=None)[0]
    variance = ((loss - design @ found) ** 2).sum() / left * np.linalg.inv(design.T @ design)
    t = stats.t.ppf(0.5 + LEVEL / 2, left) ** 2
    a = 4 * (found[0] ** 2 - t * variance[0, 0])
    b = 4 * (found[0] * found[1] - t * variance[0, 1])
    c = found[1] ** 2 - t * variance[1, 1]
    root = b * b - 4 * a * c
    if a <= 0 or root < 0:
        return None, None
    return float((-b - np.sqrt(root)) / (2 * a)), float((-b + np.sqrt(root)) / (2 * a))


def _budgets(compute: Array) -> Array:
    """Index of each run's budget (n,), ascending: a new one begins where ln C jumps by more than SAME."""
    order = np.argsort(compute, kind="stable")
    found = np.empty(compute.size, dtype=int)
    found[order] = np.concatenate([[0], np.cumsum(np.diff(np.log(compute[order])) > SAME)])
    return found


def _minima(size: Array, compute: Array, loss: Array, budgets: Array) -> tuple[list[Minimum], int, int]:
    """Minima by budget, and how many budgets have too few sizes or no minimum."""
    found, few, flat = [], 0, 0
    for which in np.unique(budgets):
        own = budgets == which
        u = np.log(size[own])
        sizes = np.unique(u).size
        if sizes < SIZES:
            few += 1
            continue
        middle = u.mean()
        bend, tilt, base = np.polyfit(u - middle, loss[own], 2)
        if bend <= 0:
            flat += 1
            continue
        place = -tilt / (2 * bend)
        best, budget = float(np.exp(middle + place)), float(np.exp(np.log(compute[own]).mean()))
        low, high = (None if end is None else float(np.exp(middle + end)) for end in _vertex(u - middle, loss[own]))
        found.append(
            Minimum(
                compute=budget, size=best, low=low, high=high, tokens=budget / FLOPS / best, sizes=sizes,
                loss=float(base - tilt**2 / (4 * bend)), inside=bool(u.min() <= middle + place <= u.max()),
            )
        )  # fmt: skip
    return found, few, flat
