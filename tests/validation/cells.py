"""One cell of the table: how often the 95 % interval of one quantity covers the planted truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.fitting.fit import fit_many
from analysis.fitting.objectives import Objective
from analysis.fitting.observations import Observations
from analysis.fitting.problem import Problem
from analysis.fitting.profile import Quantity, coordinate, log_half_life, profile
from analysis.laws.base import Law
from analysis.stats.arrays import Array

LEVEL, NOMINAL = 0.95, (0.93, 0.97)
CI = (0.90, 0.99)
FALSE_POSITIVES = 0.06
NULLS = 4
"""Factor of replicates where false positives are counted: 6 % is close to 5 %."""
OPEN = 0.05
"""Share of intervals with an open end above which the design does not identify a quantity."""


STREAM = 0
"""Selects the planted data: the table's, or others for a test."""


def generator(*key: int) -> np.random.Generator:
    """The random numbers of one cell; `key` has up to three integers."""
    return np.random.default_rng([*key, *[0] * (3 - len(key)), STREAM])


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`coverage` is over the replicates that have an interval, `given` their share."""

    part: str
    law: str
    design: str
    quantity: str
    replicates: int
    coverage: float
    below: float
    """Share of intervals entirely below the truth."""
    above: float
    open: float
    """Share of intervals with an end that the data do not bound."""
    given: float = 1.0
    null: bool = False
    """Whether the truth is 0 and a miss is a false positive."""
    why: str = ""
    """Why coverage differs from the promise, if known."""
    tested: bool = False
    """Whether the cell fails only where its rate is surely below 95 %: a wide interval is allowed, and marked."""

    @property
    def surely(self) -> tuple[float, float]:
        """The 99.9 % interval of the coverage (Clopper and Pearson 1934)."""
        given = round(self.replicates * self.given)
        ends = stats.binomtest(round(self.coverage * given), given).proportion_ci(0.999)
        return float(ends.low), float(ends.high)

    @property
    def conservative(self) -> bool:
        return self.tested and self.surely[0] > LEVEL

    @property
    def identified(self) -> bool:
        return self.open <= OPEN

    @property
    def holds(self) -> bool:
        """Whether the promise is kept; for a quantity that is not identified it is only to cover."""
        if self.tested:
            return self.surely[1] >= LEVEL
        if self.null:
            return 1 - self.coverage <= FALSE_POSITIVES
        return NOMINAL[0] <= self.coverage <= (NOMINAL[1] if self.identified else 1.0)


def cell(
    part: str, law: str, design: str, quantity: str, low: Array, high: Array, truth: float,
    given: NDArray[np.bool_] | None = None, null: bool = False, why: str = "", tested: bool = False,
) -> Cell:  # fmt: skip
    """Cell from intervals (R,); `given`: the replicates that have one."""
    given = np.ones(low.shape, dtype=bool) if given is None else given
    low, high = low[given], high[given]
    return Cell(
        part=part, law=law, design=design, quantity=quantity, replicates=int(given.size),
        coverage=float(((low <= truth) & (truth <= high)).mean()), below=float((high < truth).mean()),
        above=float((low > truth).mean()), open=float((~np.isfinite(low) | ~np.isfinite(high)).mean()),
        given=float(given.mean()), null=null, why=why, tested=tested,
    )  # fmt: skip


def profiled(
    part: str, law: Law, theta: tuple[float, ...], x: Array, objective: Objective, design: str, *,
    y: Array | None = None, hits: Array | None = None, trials: float = 0, starts: int = 12,
) -> list[Cell]:  # fmt: skip
    """Profile intervals of every parameter and the half-life; replicates `y` or `hits` (R, n)."""
    if hits is not None:
        data = Observations(x=x, hits=hits[0], trials=np.full(x.shape[0], trials))
        fits = fit_many(law, data, objective=objective, hits=hits, starts=starts)
        problem = Problem(law, objective, data, hits=hits)
    else:
        assert y is not None
        data = Observations(x=x, y=y[0])
        fits = fit_many(law, data, objective=objective, y=y, starts=starts)
        problem = Problem(law, objective, data, y=y)
    own = [] if fits.own is None else [fits.own[:, None]]
    z = problem.solved(np.concatenate([fits.theta, *own], axis=1))
    truth = np.array([theta])
    quantities: list[tuple[str, Quantity, float]] = []
    for i, (name, log) in enumerate(zip(law.names, law.log, strict=True)):
        value = float(np.log(theta[i])) if log else float(theta[i])
        quantities.append((f"ln {name}" if log else name, coordinate(problem, i), value))
    half = law.half_life(truth)
    if half is not None and np.isfinite(half[0]) and half[0] > 0:
        quantities.append(("ln half-life", log_half_life(law, problem), float(np.log(half[0]))))
    ends = profile(problem, z, [quantity for _, quantity, _ in quantities])
    lowest = [0.0 if p.low == 0 and not p.log else -np.inf for p in law.parameters] + [-np.inf]
    return [
        cell(part, law.name, design, name, np.maximum(end.low, least), end.high, value)
        for (name, _, value), end, least in zip(quantities, ends, lowest, strict=False)
    ]


def counts(rng: np.random.Generator, rate: Array, trials: int, replicates: int, concentration: float = np.inf) -> Array:
    """(replicates, n) hits; with a finite concentration each point's rate is drawn from a beta."""
    rate = np.clip(np.broadcast_to(rate, (replicates, rate.shape[-1])), 0, 1)
    if np.isfinite(concentration):
        inner = np.clip(rate, 1e-9, 1 - 1e-9)
        rate = rng.beta(inner * concentration, (1 - inner) * concentration)
    return rng.binomial(trials, rate).astype(float)
