"""The fitter: all starts of one fit, or all replicates of many, solved as one batched problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from analysis.errors import UserError
from analysis.fitting.censored import Censored
from analysis.fitting.deletion import many
from analysis.fitting.diagnosis import diagnose, likelihood_ratio, missed, scattered
from analysis.fitting.dispersion import dispersion, summed
from analysis.fitting.misfit import residual_runs
from analysis.fitting.objectives import BetaBinomial, Binomial, Gaussian, Objective, default_objective
from analysis.fitting.observations import Observations
from analysis.fitting.problem import Problem
from analysis.fitting.progress import part
from analysis.fitting.result import Fit, FitBatch, Warned, in_order
from analysis.fitting.solver import Minima, minimise
from analysis.fitting.starts import sobol
from analysis.fitting.units import scalable
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
MANY_ROWS = 100_000
"""Rows above which the number of different inputs is not counted."""
FEW_POINTS, BEST, ENOUGH = 2048, 6, 200
"""With many more than FEW_POINTS, the BEST of these are then minimised on so many; replicates, if ENOUGH of theirs are
among them."""


def fit(
    law: Law, data: Observations, *, objective: Objective | None = None, starts: int | Array = STARTS, seed: int = 0,
    fixed: Mapping[str, float] | None = None, diagnosed: bool = True,
) -> Fit:  # fmt: skip
    """The best of many local minima, polished, with warnings.

    `starts`: a number (Sobol and variable projection), or (S, P) on the natural scale. `objective`: by default Gaussian
    for a response and binomial for counts, or beta-binomial if they scatter more. `fixed`: parameters held at these
    values. Raises UserError on data that cannot be fitted.
    """
    objective, law = bounded(objective or default_objective(data), data), law if data.hits is None else law.of_counts
    check(law, data, objective, fixed)
    problem = Problem(law, objective, data, fixed=fixed)
    z = _starts(problem, starts, seed)
    count = z.shape[0]
    with part(f"{law.name}, {count} starts"):
        z, multiplicity = _coarse(problem, z, seed)
        found = _minimise(problem, z, np.zeros(z.shape[0], dtype=np.intp))
    if not np.isfinite(found.objective).any():
        raise UserError(f"{law.name} has no finite objective at any of {count} starts: check that it suits these data")
    optima, share = _optima(problem, found, multiplicity)
    best, value = optima[0][1], optima[0][0]
    held = np.zeros(1, dtype=np.intp)
    hessian = problem.hessian(best[None], held)[0]
    _, gradient, _, _ = problem.evaluate(best[None], held)
    free = (best > problem.low[0]) & (best < problem.high[0])
    size = len(law.parameters)
    natural = tuple((float(problem.total(np.array(f))), problem.natural(z)[:size]) for f, z in optima)
    value = float(problem.total(np.array(value)))
    likelihood = objective.log_likelihood(np.array(value), data)
    made = Fit(
        law=law, observations=data, theta=natural[0][1], objective=float(value),
        own=float(problem.natural(best)[size]) if objective.own else None, error=objective,
        log_likelihood=None if likelihood is None else float(likelihood),
        extra=objective.profiled + (objective.own is not None),
        gradient_norm=float(np.abs(gradient[0] * free).max(initial=0.0)),
        covariance=_covariance(problem, hessian, best, free, optima[0][0])[:size, :size],
        starts=count, starts_at_optimum=share, optima=natural, warnings=(), fixed=dict(fixed or {}),
    )  # fmt: skip
    if np.isnan(made.covariance if made.covariance is not None else 0).any():
        object.__setattr__(made, "covariance", None)
    if not diagnosed and not isinstance(objective, Binomial):
        return made
    together, around, groups = _curves(made)
    if around is not None:
        chance = getattr(objective, "chance", 0.0)
        object.__setattr__(made, "misfit", residual_runs(together, around, chance))
        if isinstance(objective, Binomial):
            rate, freed = chance + (1 - chance) * np.clip(around, 0.0, 1.0), size - len(made.fixed)
            found = dispersion(together, rate, freed * max(groups, 1), groups)
            object.__setattr__(made, "dispersion", found)
            if objective.adapts and found is not None and found.possible and _fewest(together) > size + 1:
                wider = fit(law, together, objective=BetaBinomial(chance=chance), starts=starts, seed=seed,
                            fixed=fixed, diagnosed=diagnosed)  # fmt: skip
                twice = missed(wider) if made.misfit is not None and made.misfit.few else []
                others = [line for line in wider.warnings if line not in twice]
                first = Warned(scattered(made, wider.error.name), "model")
                told = replace(wider, dispersion=found, warnings=tuple(in_order([first, *others])))
                told.derived.update(wider.derived)
                return told
    if diagnosed:
        told = diagnose(made, problem, hessian, best)
        told.derived.update(made.derived)
        return told
    return made


def _curves(made: Fit) -> tuple[Observations, Array | None, int]:
    """The data with the values of the curve, or of each group's own of so many; None for groups without curves, whose
    differences from one curve are no scatter."""
    data = made.observations
    groups = 0 if data.group is None else np.unique(data.group).size
    if groups < 2:
        together = data if data.hits is None else summed(data)
        return together, made.predict(together.x), 0
    if not fits_alone(made):
        return data, None, groups
    place = np.unique(np.asarray(data.group), return_inverse=True)[1]
    return data, made.law.value(by_group(made).theta, data.x)[place, np.arange(data.n)], groups


def _fewest(data: Observations) -> int:
    """Points of the smallest group."""
    return data.n if data.group is None else int(np.unique(data.group, return_counts=True)[1].min())


def alone(fit: Fit) -> bool:
    """Whether there are several groups with fits of their own, so that estimates are means over them."""
    group = fit.observations.group
    return group is not None and np.unique(group).size > 1 and fits_alone(fit)


def fits_alone(fit: Fit) -> bool:
    """Whether every group has more points than parameters and covers most of the range of every input. Groups with one
    trial a point are items: none has a curve of its own."""
    return each_alone(fit.law, fit.observations)


def each_alone(law: Law, data: Observations) -> bool:
    """`fits_alone` of data before a fit."""
    assert data.group is not None
    if many(data) or data.censored is not None or (data.trials is not None and data.trials.max() <= 1):
        return False
    least = len(law.parameters) + 1
    ranks = np.column_stack([rankdata(column, method="dense") for column in data.x.T])
    spread = np.ptp(ranks, axis=0)
    for name in np.unique(data.group):
        own = data.group == name
        if np.unique(data.x[own], axis=0).shape[0] < least or (np.ptp(ranks[own], axis=0) < 0.5 * spread).any():
            return False
    return True


def replicates_by_group(data: Observations) -> tuple[Observations, dict[str, Array]]:
    """Each group alone as a replicate of one problem, in the order of np.unique(group): by weights (groups, n); counts
    of groups that share their x, as (groups, m) of m points."""
    names, place = np.unique(np.asarray(data.group), return_inverse=True)
    order, size = np.lexsort((*data.x.T, place)), data.n // names.size
    x = data.x[order].reshape(names.size, size, -1) if (np.bincount(place) == size).all() else None
    if x is not None and (x == x[0]).all() and data.hits is not None and data.trials is not None:
        given = {"hits": data.hits, "trials": data.trials, "weights": data.weights}
        parts = {name: a[order].reshape(names.size, size) for name, a in given.items() if a is not None}
        return Observations(x=x[0], hits=parts["hits"].sum(axis=0), trials=parts["trials"].sum(axis=0)), parts
    own = (place == np.arange(names.size)[:, None]).astype(float)
    return data, {"weights": own if data.weights is None else own * data.weights}


def by_group(fit: Fit) -> FitBatch:
    """The law fitted to each group alone, in the order of np.unique(group). Computed once per fit."""
    if "by_group" not in fit.derived:
        data, parts = replicates_by_group(fit.observations)
        weights, hits, trials = (parts.get(name) for name in ("weights", "hits", "trials"))
        fit.derived["by_group"] = fit_many(
            fit.law, data, weights=weights, hits=hits, trials=trials, around=fit, fixed=fit.fixed
        )
    return fit.derived["by_group"]


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
    objective = bounded(objective or (around.error if around else default_objective(data)), data)
    fixed = fixed if around is None else {**around.fixed, **(fixed or {})}
    law = law if data.hits is None else law.of_counts
    problem = Problem(law, objective, data, weights=weights, y=y, hits=hits, trials=trials, fixed=fixed)
    count = problem.replicates
    first = _starts(problem, starts if around is None else starts_around(around, seed), seed, around)
    each = first.shape[-2]
    z = np.broadcast_to(first, (count, each, first.shape[-1])).reshape(count * each, -1)
    rows = np.repeat(np.arange(count), each)
    some = problem.some(FEW_POINTS, seed)
    if problem.x.shape[0] > 4 * FEW_POINTS and (some.arrays.get("weights", np.ones(1)) > 0).sum(axis=-1).min() > ENOUGH:
        found = _minimise(some, z, rows, tolerance=1e-8)
        order = np.argsort(np.where(np.isfinite(found.objective), found.objective, np.inf).reshape(count, each))
        each = min(each, 2)
        at = (np.arange(count)[:, None] * found.objective.size // count + order[:, :each]).ravel()
        z, rows = found.z[at], rows[at]
    with part(f"{law.name}, {count} replicates"):
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
        law=law, theta=theta[:, :size], own=theta[:, size] if objective.own else None, objective=problem.total(value),
        gradient_norm=norm, starts_at_optimum=share,
    )  # fmt: skip


def starts_around(fit: Fit, seed: int = 0) -> Array:
    """Starts for replicates of a fit, (S, P): few, but a test holds that they find what many starts find."""
    losses = likelihood_ratio(fit, np.array([objective for objective, _ in fit.optima]))
    known = np.array([theta for (_, theta), loss in zip(fit.optima, losses, strict=True) if loss < RIVAL_LOSS][:RIVALS])
    log, (low, high) = fit.law.log, fit.law.bounds
    best = np.where(log, np.log(np.where(log, fit.theta, 1.0)), fit.theta)
    if fit.covariance is None:
        error, shape = 0.1 * np.where(log, 1.0, np.maximum(np.abs(best), 1e-2)), np.eye(best.size)
    else:
        error = np.sqrt(np.diagonal(fit.covariance))
        shape = fit.covariance / np.where(error > 0, error, 1.0) / np.where(error > 0, error, 1.0)[:, None]
    draws = np.random.default_rng(seed).multivariate_normal(np.zeros(best.size), shape, size=DRAWS, method="eigh")
    z = best + WIDE * error * draws
    drawn = np.where(log, np.exp(np.clip(np.where(log, z, 0.0), -700, 700)), z)
    return np.concatenate([known, np.clip(drawn, low, high)])


def check(law: Law, data: Observations, objective: Objective, fixed: Mapping[str, float] | None = None) -> None:
    """Raises UserError if the data cannot determine the law."""
    objective.check(data)
    if data.x.shape[1] != len(law.inputs):
        raise UserError(f"{law.name} takes {len(law.inputs)} inputs ({', '.join(law.inputs)}); got {data.x.shape[1]}")
    free = len(law.parameters) - len(fixed or {})
    needed = free + (objective.own is not None)
    used = data.n if data.weights is None else int((data.weights > 0).sum())
    if used < needed:
        raise UserError(f"{used} points cannot fit the {needed} parameters of {law.name} ({', '.join(law.names)})")
    if data.y is not None and not data.y.any():
        raise UserError(f"y is 0 in all {data.n} rows: there is nothing to fit")
    for i, name in enumerate(law.inputs):
        if needed > 1 and np.ptp(data.x[:, i]) == 0:
            raise UserError(f"{name} is constant ({data.x[0, i]:g}): a law of it cannot be fitted")
    if (different := np.unique(data.x[:MANY_ROWS], axis=0).shape[0]) < free and data.n <= MANY_ROWS:
        raise UserError(
            f"{', '.join(law.inputs)} has {different} different values, but {law.name} has {free} parameters: expected "
            f"{free} or more"
        )
    middle = np.array([p.start[0] if p.start and p.unit == "1" else max(p.low, 1.0) for p in law.parameters])
    sizes = np.abs(data.x).max(axis=0)
    wrong = ~np.isfinite(law.value(middle, data.x / np.where([n in scalable(law) for n in law.inputs], sizes, 1.0)))
    wrong |= data.x[:, 0] < (-np.inf if law.least is None else law.least)
    if wrong.any():
        at = ", ".join(f"{name} = {v:g}" for name, v in zip(law.inputs, data.x[wrong][0], strict=True))
        least = "" if law.least is None else f"; {law.inputs[0]} must be {law.least:g} or more"
        raise UserError(
            f"{law.name} has no value at {int(wrong.sum())} of {data.n} points, such as {at}: leave them out{least}"
        )


def _minimise(
    problem: Problem, z: Array, rows: NDArray[np.intp], damping: float = 1.0, tolerance: float = 1e-11
) -> Minima:
    return minimise(
        lambda z, at: problem.evaluate(z, rows[at]), z, problem.low[rows], problem.high[rows], damping=damping,
        tolerance=tolerance,
    )  # fmt: skip


def bounded(objective: Objective, data: Observations) -> Objective:
    """The objective that takes bounds for values, where some of the data are bounds."""
    if data.censored is not None and isinstance(objective, Gaussian):
        return Censored(log=objective.log)
    return objective


def _starts(problem: Problem, starts: int | Array, seed: int, around: Fit | None = None) -> Array:
    """z (..., S, Q) of a number of starts, or of given ones on the natural scale; the objective's own parameter is
    spread over its starting range, or that of the fit `around`."""
    own = problem.objective.own
    if isinstance(starts, int):
        # Many points place starts no better than some of them.
        theta = sobol(problem.law, problem.some(FEW_POINTS, seed).observations(), starts, seed)
        to_z = problem.started
    else:
        theta, to_z = np.atleast_2d(np.asarray(starts, dtype=float)), problem.solved
    if own is None:
        return to_z(theta)
    low, high = own.start or (own.low, own.high)
    column = np.geomspace(low, high, 3)[np.arange(theta.shape[-2]) % 3]
    z = to_z(np.concatenate([theta, np.broadcast_to(column[:, None], (*theta.shape[:-1], 1))], axis=-1))
    held = np.log(column) if around is None else np.log(around.own or 1.0) - problem.offset[-1]
    z[..., -1] = np.clip(held, problem.low[0, -1], problem.high[0, -1])
    return z


def _coarse(problem: Problem, z: Array, seed: int) -> tuple[Array, NDArray[np.intp]]:
    """Starts after minimisation on parts of the points. Starts that converged together become one, with a count; of
    what a larger part separates, the best go on."""
    multiplicity = np.ones(z.shape[0], dtype=np.intp)
    if problem.x.shape[0] < MANY or z.shape[0] < MANY:
        return z, multiplicity
    for points, most in ((max(COARSE, 8 * z.shape[1]), z.shape[0]), (FEW_POINTS, BEST)):
        if problem.x.shape[0] <= 4 * points and points > COARSE and most == BEST:
            break
        found = _minimise(problem.some(points, seed), z, np.zeros(z.shape[0], dtype=np.intp), tolerance=1e-8)
        usable = np.where(np.isfinite(found.objective)[:, None], found.z, z)
        _, first, place = np.unique(np.round(usable, 3), axis=0, return_index=True, return_inverse=True)
        counts = np.bincount(place.ravel(), multiplicity).astype(np.intp)
        order = np.argsort(found.objective[first], kind="stable")[:most]
        z, multiplicity = usable[first][order], counts[order]
    return z, multiplicity


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
    n = float(problem.points)
    if problem.objective.profiled:
        inverse *= 2 * value / max(n - int(free.sum()), 1)
    elif problem.objective.name == "huber":
        scores = problem.scores(z)[:, free]
        inverse = inverse @ (scores.T @ scores) @ inverse * n / max(n - int(free.sum()), 1)
    out[np.ix_(free, free)] = inverse
    return problem.matrix @ out @ problem.matrix.T
