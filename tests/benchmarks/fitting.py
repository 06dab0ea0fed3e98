"""Chinchilla's approach 3: 4,500 starts and 4,000 case bootstraps of 240 points, beside scipy one fit at a time.

scipy minimises the same objective (log-sum-exp form, analytic gradient, L-BFGS-B, float64) from the same starts: the
4,500, and for each bootstrap the optimum of all points with three points drawn around it. It is measured on a part of
them, interleaved with ours, and scaled.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

from analysis.fitting.fit import fit, fit_many, starts_around
from analysis.fitting.objectives import Huber
from analysis.fitting.observations import Observations
from analysis.fitting.result import Fit
from analysis.laws import LAWS
from analysis.stats.arrays import Array
from tests.analysis.chinchilla import chinchilla_grid
from tests.benchmarks.figure import Figure
from tests.benchmarks.interleaved import ratio, rounds

POINTS, BOOTSTRAPS, SAMPLE, DELTA = 240, 4000, 40, 1e-3
SECONDS, TIMES, EQUAL = 10.0, 50.0, 1e-8
EXACT = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 3000}
"""With its default ftol scipy stops 1e-7 to 4e-5 above the optimum in every bootstrap: not at equal objective."""
LAW = LAWS["chinchilla"]


def planted(seed: int = 0) -> Observations:
    """Losses of 240 models as in Hoffmann et al. 2022, figure A7, with heavy-tailed errors."""
    rng = np.random.default_rng(seed)
    inputs = np.exp(rng.uniform(np.log([4e7, 1e9]), np.log([1.6e10, 4e11]), (POINTS, 2)))
    loss = LAW.value(np.array([1.69, 406.4, 410.7, 0.34, 0.28]), inputs)
    return Observations(x=inputs, y=loss * np.exp(0.006 * rng.standard_t(3, POINTS)))


class Scipy:
    """The objective over (ln E, ln A, ln B, alpha, beta), in the form of the paper and its replications."""

    def __init__(self, data: Observations) -> None:
        self.log_n, self.log_d = np.log(data.x).T
        self.log_y = np.log(data.response)

    def value(self, z: Array, weights: Array) -> tuple[float, Array]:
        e, a, b, alpha, beta = z
        terms = np.stack([np.full(POINTS, e), a - alpha * self.log_n, b - beta * self.log_d])
        top = terms.max(axis=0)
        shares = np.exp(terms - top)
        total = shares.sum(axis=0)
        residual = top + np.log(total) - self.log_y
        clipped = np.clip(residual, -DELTA, DELTA)
        loss = np.where(np.abs(residual) <= DELTA, 0.5 * residual**2, DELTA * (np.abs(residual) - 0.5 * DELTA))
        slope = weights * clipped * shares / total
        of_e, of_a, of_b = slope.sum(axis=1)
        return float(weights @ loss), np.array(
            [of_e, of_a, of_b, -(slope[1] @ self.log_n), -(slope[2] @ self.log_d)]
        )  # fmt: skip

    def fit(self, start: Array, weights: Array) -> float:
        found = minimize(self.value, start, args=(weights,), jac=True, method="L-BFGS-B", options=EXACT)
        return float(found.fun)


def bootstraps(data: Observations, count: int = BOOTSTRAPS) -> Array:
    return np.random.default_rng(1).multinomial(data.n, np.full(data.n, 1 / data.n), size=count).astype(float)


def solved(theta: Array) -> Array:
    return np.where(LAW.log, np.log(np.where(LAW.log, theta, 1.0)), theta)


def ours(data: Observations, weights: Array) -> tuple[Fit, Array]:
    made = fit(LAW, data, objective=Huber(delta=DELTA), starts=chinchilla_grid())
    return made, fit_many(LAW, data, weights=weights, around=made).objective


def figures(count: int) -> list[Figure]:
    """Seconds of ours; how many times scipy's; the largest objective of ours above scipy's best."""
    data, one = planted(), np.ones(POINTS)
    weights, other = bootstraps(data), Scipy(data)
    made, objectives = ours(data, weights)
    grid, near = solved(chinchilla_grid()), solved(starts_around(made))
    rng = np.random.default_rng(2)
    spent: dict[str, list[float]] = {"ours": [], "scipy": []}
    worst = -np.inf

    def timed_ours() -> float:
        began = time.perf_counter()
        ours(data, weights)
        spent["ours"].append(time.perf_counter() - began)
        return 1 / spent["ours"][-1]

    def timed_scipy() -> float:
        nonlocal worst
        starts = grid[rng.choice(len(grid), SAMPLE, replace=False)]
        drawn = rng.choice(len(weights), SAMPLE // len(near), replace=False)
        began = time.perf_counter()
        reached = [other.fit(start, one) for start in starts]
        middle = time.perf_counter()
        again = [min(other.fit(start, weights[at]) for start in near) for at in drawn]
        end = time.perf_counter()
        worst = max(worst, made.objective - min(reached), *(objectives[drawn] - again))
        spent["scipy"].append((middle - began) / len(starts) * len(grid) + (end - middle) / len(drawn) * len(weights))
        return 1 / spent["scipy"][-1]

    contenders: dict[str, Callable[[], float]] = {"ours": timed_ours, "scipy": timed_scipy}
    speeds = list(rounds(contenders, count))
    times = ratio([s["ours"] for s in speeds], [s["scipy"] for s in speeds])
    seconds = statistics.median(1 / s["ours"] for s in speeds)
    return [
        Figure(name="4,500 starts and 4,000 bootstraps", value=seconds, unit="s", target=f"under {SECONDS:g}",
               reached=bool(seconds < SECONDS)),
        Figure(name="times faster than scipy one fit at a time", value=times.median, unit="x", low=times.low,
               high=times.high, target=f"at least {TIMES:g}", reached=bool(times.median >= TIMES)),
        Figure(name="most that an objective of ours lies above scipy's", value=float(worst), unit="",
               target=f"at most {EQUAL:g}", reached=bool(worst <= EQUAL)),
    ]  # fmt: skip
