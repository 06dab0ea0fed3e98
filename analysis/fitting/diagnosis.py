"""Warnings about a fit: parameters at bounds, flat profiles, short spans, empty terms, few seeds or starts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analysis.fitting.adequacy import doubts, freedom
from analysis.fitting.dispersion import POSSIBLE
from analysis.fitting.problem import Problem
from analysis.fitting.result import POOLED, Fit, Warned
from analysis.fitting.solver import minimise
from analysis.stats.arrays import Array
from analysis.stats.format import plural

ENOUGH = 8192
"""Points on which it is tried what the data determine."""
SEEDS = 5
SPAN = 1.5
"""Decades of the clock beyond the time scale needed for a tail or a floor (decay-and-backdoors, fitting practice)."""
FEW = 0.05
EMPTY = 1e-6
"""Share of the law's value below which a term counts as empty."""
FLAT = 1.92
"""Log-likelihood lost at the ends of a 95 % profile interval."""
FACTOR = 100.0


def diagnose(fit: Fit, problem: Problem, hessian: Array, z: Array) -> Fit:
    """The fit with its warnings, one line each."""
    bound = _at_bound(fit, problem, z)
    pooled = [
        *(f"{name} is at its bound {value:.4g}" for name, value in bound.items()),
        *_unidentified(fit, problem, hessian, z),
        *_short_span(fit),
        *(f"the term of {name} is 0 in this fit" for name in _empty_terms(fit) if name not in bound),
        *_above_one(fit),
    ]
    if fit.starts > 1 and fit.starts_at_optimum < FEW:
        reached = max(1, round(fit.starts_at_optimum * fit.starts))
        pooled.append(f"only {reached} of {fit.starts} starts reached the best objective: there may be a better one")
    few, group = [line for line in [freedom(fit)] if line], fit.observations.group
    if group is not None and (seeds := np.unique(group).size) < SEEDS:
        few.append(f"{plural(seeds, 'group')}: intervals over fewer than {SEEDS} groups are unreliable")
    model = [*_dispersed(fit), *missed(fit)]
    kinds = {"data": [*_constant_groups(fit), *doubts(fit, problem)], "model": model, POOLED: pooled, "intervals": few}
    return replace(fit, warnings=tuple(Warned(line, about) for about, lines in kinds.items() for line in lines))


def scattered(fit: Fit, instead: str = "") -> str:
    """That counts lie farther from a law than a binomial's, by scatter or because it misses their shape; `instead`: the
    errors that are fitted."""
    found, runs = fit.dispersion, fit.misfit
    assert found is not None
    fitted = f"the {instead} is fitted{' to each group' if found.groups else ''} instead" if instead else ""
    fitted += f", as wherever p < {POSSIBLE:g} (--error binomial keeps the binomial)" if fitted else ""
    if runs is not None and runs.few:
        where = f"counts lie farther from {fit.law.name} than a binomial's ({found.text}) and on one side for long"
        until = f"; until then {fitted}" if fitted else ""
        return f"{where} ({runs.text}): it misses their shape, so `compare` it with other laws{until}"
    may = "may " if instead and not found.over else ""
    wrong = "intervals over groups hold, but points weigh wrongly" if found.groups else "intervals are too narrow"
    return f"counts {may}scatter more than a binomial's ({found.text}): " + (
        fitted or f"{wrong}; use --error beta-binomial"
    )


def missed(fit: Fit) -> list[str]:
    """A law that misses the shape of the data, unless that is said with their scatter."""
    runs = fit.misfit
    if runs is None or not runs.few or (fit.dispersion is not None and fit.dispersion.over):
        return []
    return [
        f"residuals keep one sign for long ({runs.text}): {fit.law.name} misses the shape of the data, so `compare` it "
        "with other laws; or successive values of a run share noise"
    ]


def _dispersed(fit: Fit) -> list[str]:
    if fit.dispersion is None:
        return []
    if fit.dispersion.over:
        return [scattered(fit)]
    if fit.dispersion.under and fit.dispersion.groups:
        return [
            f"counts scatter less than a binomial's ({fit.dispersion.text}), as where a group is asked the same items "
            f"at each {fit.law.inputs[0]}: intervals over groups hold, but AICc cannot tell laws apart"
        ]
    if fit.dispersion.under:
        return [
            f"counts scatter less than a binomial's ({fit.dispersion.text}), as where the same items are asked at each "
            f"{fit.law.inputs[0]}: binomial intervals are too wide for these items, and AICc cannot tell laws apart; "
            "with a row per item and --group ITEM, intervals are over items"
        ]
    return []


def _at_bound(fit: Fit, problem: Problem, z: Array) -> dict[str, float]:
    low, high, found = problem.low[0], problem.high[0], {}
    for i, name in enumerate(problem.names):
        if low[i] < high[i]:
            near = 1e-6 * (high[i] - low[i]) if problem.log[i] else 1e-8 * problem.scale[i]
            for end in (low[i], high[i]):
                if abs(z[i] - end) <= near:
                    found[name] = float(problem.natural(np.where(np.arange(z.size) == i, end, z))[i])
    return found


def _unidentified(fit: Fit, problem: Problem, hessian: Array, z: Array) -> list[str]:
    """Log-scale parameters that the data let move a hundredfold both ways (or away from their bound), and directions in
    which the Hessian is singular."""
    low, high = problem.low[0], problem.high[0]
    some = problem.some(ENOUGH)  # what some of many points determine, all do
    base = fit.objective
    if some is not problem:
        base = float(
            problem.total(minimise(some.evaluate, z[None], low[None], high[None], tolerance=1e-9).objective)[0]
        )
    tested, starts, ends = [], [], []
    for i in np.flatnonzero(problem.log & (low < high)):
        for side in (-1, 1):
            moved = np.clip(z[i] + side * np.log(FACTOR), low[i], high[i])
            if abs(moved - z[i]) > 1e-3:
                start, held_low, held_high = z.copy(), low.copy(), high.copy()
                start[i] = held_low[i] = held_high[i] = moved
                tested.append((i, side))
                starts.append(start)
                ends.append((held_low, held_high))
    flat: dict[int, list[bool]] = {}
    if tested:
        rows = np.zeros(len(tested), dtype=np.intp)
        profile = minimise(
            lambda z, at: some.evaluate(z, rows[at]), np.array(starts), np.array([e[0] for e in ends]),
            np.array([e[1] for e in ends]), tolerance=1e-9,
        )  # fmt: skip
        lost = likelihood_ratio(fit, problem.total(profile.objective), base)
        for (i, _), loss in zip(tested, lost, strict=True):
            flat.setdefault(int(i), []).append(bool(loss < FLAT))
    names = [problem.names[i] for i, sides in flat.items() if all(sides)]
    if not names:
        free = (z > low) & (z < high)
        names = _singular([n for n, f in zip(problem.names, free, strict=True) if f], hessian[np.ix_(free, free)])
    if not names:
        return []
    verb = "is" if len(names) == 1 else "are"
    return [f"{', '.join(names)} {verb} not identified: other values fit these data as well"]


def likelihood_ratio(fit: Fit, objective: Array, base: float | None = None) -> Array:
    """Log-likelihood lost against the fit, or against the objective `base`. For a loss that is not a likelihood, that
    of Laplace errors of the same size."""
    base = fit.objective if base is None else base
    if fit.error.profiled == 0 and fit.log_likelihood is not None:
        return objective - base
    n = fit.observations.n if fit.observations.weights is None else fit.observations.weights.sum()
    power = 0.5 if fit.log_likelihood is not None else 1.0
    tiny = np.finfo(float).tiny
    return power * n * (np.log(np.maximum(objective, tiny)) - np.log(max(base, tiny)))


def _singular(names: list[str], hessian: Array) -> list[str]:
    if not names:
        return []
    scale = np.sqrt(np.abs(np.diagonal(hessian)))
    if (scale == 0).any():
        return [name for name, size in zip(names, scale, strict=True) if size == 0]
    values, vectors = np.linalg.eigh(hessian / np.outer(scale, scale))
    if values[0] > 1e-8:
        return []
    return [name for name, load in zip(names, vectors[:, 0], strict=True) if abs(load) > 0.1]


def _short_span(fit: Fit) -> list[str]:
    law, x = fit.law, fit.observations.x[:, 0]
    clocks = [p.name for p in law.parameters if p.unit == "x" and p.log]
    if not clocks or len(law.parameters) < 3 or not (law.decays or law.half):
        return []
    scale = min(fit.parameters[name] for name in clocks)
    decades = np.log10(max(x.max(), 1e-300) / scale)
    if decades >= SPAN:
        return []
    # Rounded down, so that what is shown falls short as the number does.
    where = f"{np.floor(100 * decades) / 100:.2f} decades after" if decades > 0 else "before"
    what = "a tail or floor" if law.decays else "the limit"
    return [f"{law.inputs[0]} ends {where} {clocks[0]} = {scale:.3g}; {what} needs {SPAN} decades"]


def _above_one(fit: Fit) -> list[str]:
    """A rate above 1 at x = 0, when the data begin later; otherwise a bound would prevent it."""
    if fit.observations.hits is None or not fit.law.decays or len(fit.law.inputs) != 1:
        return []
    start = float(fit.predict(np.zeros((1, 1)))[0])
    return [f"the fitted rate at {fit.law.inputs[0]} = 0 is {start:.4g}, above 1"] if start > 1 + 1e-9 else []


def _constant_groups(fit: Fit) -> list[str]:
    """Groups with a constant response, such as a run without any hits."""
    group, response = fit.observations.group, fit.observations.response
    if group is None or len(fit.law.parameters) < 2:
        return []
    seen = ~np.isnan(response)
    names, place = np.unique(group, return_inverse=True)
    least, most = np.full(names.size, np.inf), np.full(names.size, -np.inf)
    np.minimum.at(least, place[seen], response[seen])
    np.maximum.at(most, place[seen], response[seen])
    count = int(((least == most) & (np.bincount(place[seen], minlength=names.size) > 1)).sum())
    if not count:
        return []
    return [f"{count} of {names.size} groups have a constant response, which determines only a level of {fit.law.name}"]


def _empty_terms(fit: Fit) -> list[str]:
    """Linear parameters whose whole term is a negligible share of the value."""
    law, found = fit.law, []
    if len(law.linear) < 2:
        return []
    value = np.abs(fit.predict(fit.observations.x)).max()
    columns = law.gradient(fit.theta, fit.observations.x)
    for name in law.linear:
        i = law.names.index(name)
        if np.abs(columns[:, i] * fit.theta[i]).max() < EMPTY * value:
            found.append(name)
    return found
