"""The fitter: all starts of one fit, or all replicates of many, solved as one batched problem."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from analysis.errors import UserError
from analysis.fitting.diagnosis import diagnose, likelihood_ratio
from analysis.fitting.objectives import Objective, default_objective
from analysis.fitting.observations import Observations
from analysis.fitting.problem import Problem
from analysis.fitting.result import Fit, FitBatch
from analysis.fitting.solver import Minima, minimise
from analysis.fitting.starts import sobol
from analysis.laws.base import Law
from analysis.stats.arrays import Array

STARTS = 128
RIVALS, RIVAL_LOSS, DRAWS, WIDE = 3, 10.0, 3, 3.0
"""A replicate of a fit starts from at most RIVALS of its optima, those that lose less than RIVAL_LOSS in
log-likelihood, and from DRAWS points drawn around the best with WIDE times its standard errors."""
NEAR = 1e-2
"""Initial damping of these starts."""
COARSE, MANY = 48, 96
"""With at least MANY points and MANY starts, the starts are first minimised on COARSE random points."""


def fit(
    law: Law, data: Observations, *, objective: Objective | None = None, starts: int | Array = STARTS, seed: int = 0,
    fixed: Mapping[str, float] | None = None, diagnosed: bool = True,
) -> Fit:  # fmt: skip
    """The best of many local minima, polished, with warnings.

    `starts`: a number (Sobol and variable projection), or (S, P) on the natural scale. `objective`: by default binomial
    for counts and Gaussian for a response. `fixed`: parameters held at these values. Raises UserError on data that
    cannot be fitted.
    """
    objective = objective or default_objective(data)
    check(law, data, objective)
    problem = Problem(law, objective, data, fixed=fixed)
    first = sobol(law, data, starts, seed) if isinstance(starts, int) else np.atleast_2d(starts)
    z = problem.solved(_with_own(first, objective))
    z, multiplicity = _coarse(problem, law, objective, data, z, seed, fixed)
    found = _minimise(problem, z, np.zeros(z.shape[0], dtype=np.intp))
    if not np.isfinite(found.objective).any():
        raise UserError(
            f"{law.name} has no finite objective at any of {first.shape[0]} starts: check that it suits these data"
        )
    optima, share = _optima(problem, found, multiplicity)
    best, value = optima[0][1], optima[0][0]
    held = np.zeros(1, dtype=np.intp)
    hessian = problem.hessian(best[None], held)[0]
    _, gradient, _, _ = problem.evaluate(best[None], held)
    free = (best > problem.low[0]) & (best < problem.high[0])
    size = len(law.parameters)
    natural = tuple((f, problem.natural(z)[:size]) for f, z in optima)
    likelihood = objective.log_likelihood(np.array(value), data)
    made = Fit(
        law=law, observations=data, theta=natural[0][1], objective=float(value),
        own=float(problem.natural(best)[size]) if objective.own else None, error=objective,
        log_likelihood=None if likelihood is None else float(likelihood),
        extra=objective.profiled + (objective.own is not None),
        gradient_norm=float(np.abs(gradient[0] * free).max(initial=0.0)),
        covariance=_covariance(problem, hessian, best, free, float(value))[:size, :size],
        starts=int(first.shape[0]), starts_at_optimum=share, optima=natural, warnings=(),
    )  # fmt: skip
    if np.isnan(made.covariance if made.covariance is not None else 0).any():
        object.__setattr__(made, "covariance", None)
    return made if not diagnosed else diagnose(made, problem, hessian, best)


def fit_many(
    law: Law, data: Observations, *, objective: Objective | None = None, weights: Array | None = None,
    y: Array | None = None, hits: Array | None = None, trials: Array | None = None,
    fixed: Mapping[str, Array | float] | None = None, starts: int | Array = 16, around: Fit | None = None,
    seed: int = 0,
) -> FitBatch:  # fmt: skip
    """R fits that share x, solved together: each has its `weights`, `y`, `hits`, `trials` (R, n) or `fixed` (R,).

    For a bootstrap, `weights` are the counts of each case; for fits by group they are 0 and 1; for a profile use
    `fixed`. With `around` a fit, each replicate starts from its optima and a few points near the best, instead of from
    `starts`: a number, (S, P), or (R, S, P) on the natural scale.
    """
    objective = objective or (around.error if around else default_objective(data))
    problem = Problem(law, objective, data, weights=weights, y=y, hits=hits, trials=trials, fixed=fixed)
    count = problem.replicates
    if around is not None:
        first = _with_own(starts_around(around, seed), objective, around.own)
    else:
        given = sobol(law, data, starts, seed) if isinstance(starts, int) else np.asarray(starts, dtype=float)
        first = _with_own(given, objective)
    each = first.shape[-2]
    z = np.broadcast_to(problem.solved(first), (count, each, first.shape[-1])).reshape(count * each, -1)
    rows = np.repeat(np.arange(count), each)
    found = _minimise(problem, z, rows, damping=1.0 if around is None else NEAR)
    values = np.where(np.isfinite(found.objective), found.objective, np.inf).reshape(count, each)
    best = values.argmin(axis=1)
    at = np.arange(count) * each + best
    z, value, norm = found.z[at], found.objective[at], found.gradient_norm[at]
    theta = problem.natural(z)
    size = len(law.parameters)
    with np.errstate(invalid="ignore"):
        share = (values <= (value + _tolerance(value))[:, None]).mean(axis=1)
    return FitBatch(
        law=law, theta=theta[:, :size], own=theta[:, size] if objective.own else None, objective=value,
        gradient_norm=norm, starts_at_optimum=share,
    )  # fmt: skip


def starts_around(fit: Fit, seed: int = 0) -> Array:
    """Starts for replicates of a fit, (S, P): few, but a test holds that they find what many starts find."""
    losses = likelihood_ratio(fit, np.array([objective for objective, _ in fit.optima]))
    known = np.array([theta for (_, theta), loss in zip(fit.optima, losses, strict=True) if loss < RIVAL_LOSS][:RIVALS])
    log, (low, high) = fit.law.log, fit.law.bounds
    best = np.where(log, np.log(np.where(log, fit.theta, 1.0)), fit.theta)
    spread = np.diag(np.full(best.size, 0.1) ** 2) if fit.covariance is None else fit.covariance
    z = np.random.default_rng(seed).multivariate_normal(best, WIDE**2 * spread, size=DRAWS, method="eigh")
    drawn = np.where(log, np.exp(np.clip(np.where(log, z, 0.0), -700, 700)), z)
    return np.concatenate([known, np.clip(drawn, low, high)])


def check(law: Law, data: Observations, objective: Objective) -> None:
    """Raises UserError if the data cannot determine the law."""
    objective.check(data)
    if data.x.shape[1] != len(law.inputs):
        raise UserError(f"{law.name} takes {len(law.inputs)} inputs ({', '.join(law.inputs)}); got {data.x.shape[1]}")
    needed = len(law.parameters) + (objective.own is not None)
    used = data.n if data.weights is None else int((data.weights > 0).sum())
    if used < needed:
        raise UserError(f"{used} points cannot fit the {needed} parameters of {law.name} ({', '.join(law.names)})")
    for i, name in enumerate(law.inputs):
        if needed > 1 and np.ptp(data.x[:, i]) == 0:
            raise UserError(f"{name} is constant ({data.x[0, i]:g}): a law of it cannot be fitted")
    middle = np.array([p.start[0] if p.start and p.unit == "1" else max(p.low, 1.0) for p in law.parameters])
    if (wrong := ~np.isfinite(law.value(middle, data.x))).any():
        at = ", ".join(f"{name} = {v:g}" for name, v in zip(law.inputs, data.x[wrong][0], strict=True))
        raise UserError(
            f"{law.name} has no value at {int(wrong.sum())} of {data.n} points, such as {at}: leave them out"
        )


def _minimise(problem: Problem, z: Array, rows: NDArray[np.intp], damping: float = 1.0) -> Minima:
    return minimise(
        lambda z, at: problem.evaluate(z, rows[at]), z, problem.low[rows], problem.high[rows], damping=damping
    )


def _with_own(theta: Array, objective: Objective, own: float | None = None) -> Array:
    """`theta` (..., S, P) with a column for the objective's own parameter, spread over its starting range."""
    if objective.own is None:
        return theta
    low, high = objective.own.start or (objective.own.low, objective.own.high)
    spread = (
        np.geomspace(low, high, 3)[np.arange(theta.shape[-2]) % 3] if own is None else np.full(theta.shape[-2], own)
    )
    return np.concatenate([theta, np.broadcast_to(spread[:, None], (*theta.shape[:-1], 1))], axis=-1)


def _coarse(
    problem: Problem, law: Law, objective: Objective, data: Observations, z: Array, seed: int,
    fixed: Mapping[str, float] | None,
) -> tuple[Array, NDArray[np.intp]]:  # fmt: skip
    """Starts after minimisation on a subset of the points. Starts that converged together become one, with a count."""
    if data.n < MANY or z.shape[0] < MANY:
        return z, np.ones(z.shape[0], dtype=np.intp)
    part = np.sort(np.random.default_rng(seed).permutation(data.n)[: max(COARSE, 8 * z.shape[1])])
    coarse = Problem(law, objective, data.take(part), fixed=fixed)
    rows = np.zeros(z.shape[0], dtype=np.intp)
    found = minimise(lambda z, at: coarse.evaluate(z, rows[at]), z, coarse.low[rows], coarse.high[rows], tolerance=1e-8)
    usable = np.where(np.isfinite(found.objective)[:, None], found.z, z)
    _, first, counts = np.unique(np.round(usable, 3), axis=0, return_index=True, return_counts=True)
    return usable[first], counts


def _tolerance(value: Array | float) -> Array:
    """A start within this of the best objective has reached it."""
    return 1e-7 * np.abs(np.asarray(value)) + 1e-10


def _optima(problem: Problem, found: Minima, multiplicity: NDArray[np.intp]) -> tuple[list[tuple[float, Array]], float]:
    """Distinct local minima (objective, z), polished, best first; and the share of starts that reached the best."""
    order = np.argsort(found.objective)
    distinct: list[int] = []
    for i in order[: 8 * 64]:
        if not np.isfinite(found.objective[i]) or len(distinct) == 8:
            break
        near = [np.allclose(found.z[i], found.z[j], rtol=1e-3, atol=1e-3) for j in distinct]
        if not any(near):
            distinct.append(int(i))
    rows = np.zeros(len(distinct), dtype=np.intp)
    fine = minimise(
        lambda z, at: problem.newton(z, rows[at]), found.z[distinct], problem.low[rows], problem.high[rows],
        tolerance=1e-15, iterations=40,
    )  # fmt: skip
    better = fine.objective <= found.objective[distinct]
    z = np.where(better[:, None], fine.z, found.z[distinct])
    value = np.where(better, fine.objective, found.objective[distinct])
    rank: list[int] = []
    for i in np.argsort(value, kind="stable").tolist():
        if all(value[i] - value[j] > _tolerance(value[j]) for j in rank):
            rank.append(i)
    reached = found.objective <= value[rank[0]] + _tolerance(value[rank[0]])
    share = max(multiplicity[reached].sum(), 1) / multiplicity.sum()
    return [(float(value[i]), z[i]) for i in rank], float(share)


def _covariance(problem: Problem, hessian: Array, z: Array, free: NDArray[np.bool_], value: float) -> Array:
    """Inverse Hessian (sandwich for Huber's loss) of the free parameters; 0 for those at a bound; NaN if singular."""
    out = np.zeros_like(hessian)
    inner = hessian[np.ix_(free, free)]
    if not (np.diagonal(inner) > 0).all():
        return np.full_like(hessian, np.nan)
    scale = np.sqrt(np.diagonal(inner))
    values = np.linalg.eigvalsh(inner / np.outer(scale, scale)) if inner.size else np.ones(1)
    if values[0] <= 1e-10:
        return np.full_like(hessian, np.nan)
    inverse = np.linalg.inv(inner / np.outer(scale, scale)) / np.outer(scale, scale)
    n = problem.x.shape[0]
    if problem.objective.profiled:
        inverse *= 2 * value / max(n - int(free.sum()), 1)
    elif problem.objective.name == "huber":
        scores = problem.scores(z)[:, free]
        inverse = inverse @ (scores.T @ scores) @ inverse * n / max(n - int(free.sum()), 1)
    out[np.ix_(free, free)] = inverse
    return out
