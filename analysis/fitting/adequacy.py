"""Warnings about data that are too few, too equal, or not what the law is for."""

from __future__ import annotations

import numpy as np
from scipy import stats

from analysis.fitting.problem import Problem
from analysis.fitting.result import Fit
from analysis.stats.format import plural

SURE = 1e-3
"""Probability of a lack of fit by chance below which rows at one x are taken to be repeated measurements."""
MANY = 100_000
"""Rows above which none is compared with the others."""
LEFT = 3
"""Degrees of freedom up to which intervals of a loss that is not a likelihood are too narrow."""
NARROW = 0.25
"""Fitted scatter, as a share of the width of most bounds, below which they lie too far apart to show it."""
RISING = 0.05
"""Probability of a rise by chance below which it is told of a law that can only fall."""


def doubts(fit: Fit, problem: Problem) -> list[str]:
    """One line each."""
    found = (_copies(fit), _repeated(fit, problem), _rising(fit), _below_chance(fit), _coarse(fit))
    return [line for line in found if line]


def freedom(fit: Fit) -> str | None:
    """That none are left, or too few for Huber's loss, if so: its nominal 95 % interval of an exponent covered 24 of 40
    with two left, 48 of 60 with three."""
    count = fit.observations.n if fit.observations.weights is None else int((fit.observations.weights > 0).sum())
    used = len(fit.law.parameters) - len(fit.fixed) + (fit.error.own is not None)
    if fit.observations.hits is not None or count > used + LEFT or (count > used and fit.log_likelihood is not None):
        return None
    if count > used:
        left = f"{plural(count, 'point')} leave {plural(count - used, 'degree')} of freedom"
        return f"{left}: intervals of Huber's loss are then too narrow, so use --error lognormal or gaussian"
    return (
        f"{plural(count, 'point')} and {plural(used, 'parameter')} leave no degrees of freedom: the curve passes "
        "through the points, so there are no intervals"
    )


def _copies(fit: Fit) -> str | None:
    """Rows that equal others in everything. Few values of y, such as 0 and 1, may well repeat; measured ones do not."""
    data = fit.observations
    if data.n > MANY or (data.trials is not None and data.trials.max() <= 1):
        return None
    names = [name for name in ("y", "high", "hits", "trials") if getattr(data, name) is not None]
    table = np.column_stack([data.x, *(getattr(data, name) for name in names)])
    if data.group is not None:
        table = np.column_stack([table, np.unique(data.group, return_inverse=True)[1]])
    _, counts = np.unique(table, axis=0, return_counts=True)
    copies = data.n - counts.size
    every = counts.min() > 1  # the whole table twice
    few = data.y is None or np.unique(data.response).size < 0.5 * counts.size or data.censored is not None
    if not copies or (few and not every):
        return None
    return f"{copies} of {data.n} rows are copies of others: they count as independent, so intervals are too narrow"


def _repeated(fit: Fit, problem: Problem) -> str | None:
    """The classical test of lack of fit: rows at one x against the law, by least squares."""
    data, constant = fit.observations, float(problem.constant)
    different, used = problem.x.shape[0], len(fit.law.parameters) - len(fit.fixed)
    alone = data.group is None or np.unique(data.group).size < 2
    if not alone or not fit.error.profiled or not constant > 0 or different <= used or data.weights is not None:
        return None
    whole = fit.objective / float(problem.total(np.ones(1))[0])
    ratio = ((whole - constant) / (different - used)) / (constant / (data.n - different))
    if stats.f.sf(ratio, different - used, data.n - different) > SURE:
        return None
    return (
        f"rows at the same {', '.join(fit.law.inputs)} agree far better with each other than with {fit.law.name} (lack "
        f"of fit F = {ratio:.3g}): repeated measurements of one run are not independent, so name the column of runs "
        "with --group; if they are not of one run, try another law"
    )


def _rising(fit: Fit) -> str | None:
    data, law = fit.observations, fit.law
    if not law.decays or law.names == ("a",) or data.n < 4:
        return None
    x, y = (stats.rankdata(values) for values in (data.x[:, 0], np.nan_to_num(data.response)))
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    correlation = float(np.corrcoef(x, y)[0, 1])
    t = correlation * np.sqrt((data.n - 2) / max(1 - correlation**2, 1e-12))
    if stats.t.sf(t, data.n - 2) > RISING:
        return None
    what = "the rate" if data.y is None else "y"
    return (
        f"{what} rises with {law.inputs[0]} (rank correlation {correlation:.2f}), but {law.name} can only fall: "
        "`python -m analysis laws recovery` lists laws that rise"
    )


def _coarse(fit: Fit) -> str | None:
    """Intervals so wide for the fitted scatter that any law through them fits: with sigma 0.003 and intervals of 0.36
    in ln T, gamma was 0.62 [0.59, 0.65], where 0.5 was planted."""
    data = fit.observations
    if data.low is None or data.high is None or not fit.own:
        return None
    inside = (data.low < data.high) & (data.low > (0 if fit.error.relative else -np.inf)) & np.isfinite(data.high)
    if inside.sum() <= data.n / 2:
        return None
    ends = [np.log(end[inside]) if fit.error.relative else end[inside] for end in (data.low, data.high)]
    width = float(np.median(ends[1] - ends[0]))
    if fit.own >= width * NARROW:
        return None
    return (
        f"half of the bounds lie {width:.2g} or more apart{' in ln y' if fit.error.relative else ''}, but sigma is "
        f"{fit.own:.2g}: any law between them fits, so intervals are too narrow; give --y where a value is known"
    )


def _below_chance(fit: Fit) -> str | None:
    data, chance = fit.observations, getattr(fit.error, "chance", 0.0)
    if not chance or data.hits is None or data.trials is None:
        return None
    rate = data.hits.sum() / data.trials.sum()
    if rate >= chance:
        return None
    return f"the rate over all counts is {rate:.3g}, below --chance {chance:g}: is that the rate of guessing?"
