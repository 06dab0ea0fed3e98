"""How a law predicts held-out data: the last part of the decay, and the largest size.

The prediction error is shown with every fit: the law that describes best may predict worst.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from analysis.errors import UserError
from analysis.fitting.deletion import DENSE
from analysis.fitting.fit import alone, fit_many
from analysis.fitting.groups import never_had
from analysis.fitting.objectives import Gaussian, Objective, default_objective
from analysis.fitting.observations import Observations
from analysis.fitting.problem import in_units
from analysis.fitting.result import Fit
from analysis.laws.base import Law
from analysis.stats.arrays import Array
from analysis.stats.intervals import Interval, t_interval

SHARES = (0.5, 0.65, 0.8)
"""Shares of the clock's log span that a law is fitted to before it predicts the rest."""
STARTS = 32
CLOCKS = ("x", "k")
"""First inputs that are run through: predicting means going on."""
ROLLING = {
    "group": pl.String, "seen": pl.Float64, "points": pl.Int64, "error": pl.Float64, "log_likelihood": pl.Float64,
    "beyond": pl.Float64,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """How a fit to one part of the data predicts the rest."""

    points: int
    """Held-out points, without bounds."""
    error: float
    """Of these, root mean square prediction error: of rates, of y, or of ln y for log errors."""
    log_likelihood: float | None
    """Per held-out point; None for Huber's loss."""
    where: str = ""
    """Which points they are, in numbers: "x > 398"."""


def rolling(
    law: Law,
    data: Observations,
    objective: Objective | None = None,
    shares: tuple[float, ...] = SHARES,
    fixed: Mapping[str, float] | None = None,
) -> pl.DataFrame:
    """One row per group and share of the log span (of the first input) fitted, all solved together, with the parameters
    in `fixed` held.

    Columns: group, seen, points (held out), error, log_likelihood (per point), beyond (the input above which points are
    held out). Without cuts that leave fewer fitted
    points than parameters plus one, or nothing to predict.
    """
    x = data.x[:, 0]
    groups = np.zeros(data.n) if data.group is None or np.unique(data.group).size * data.n > DENSE else data.group
    places, shown = [], []
    for name in np.unique(groups):
        own = groups == name
        positive = x[own & (x > 0)]
        if positive.size < 2:
            continue
        for share in shares:
            cut = np.log(positive.min()) + share * np.log(positive.max() / positive.min())
            places.append((str(name), share, float(np.exp(cut))))
            shown.append(np.stack([own & (x <= np.exp(cut) * (1 + 1e-9)), own & (x > np.exp(cut) * (1 + 1e-9))]))
    found = _held_out(law, data, objective, shown, fixed)
    rows = [
        (*place[:2], each.points, each.error, each.log_likelihood, place[2])
        for place, each in zip(places, found, strict=True)
        if each is not None
    ]
    return pl.DataFrame(rows, schema=ROLLING, orient="row")


def largest(
    law: Law,
    data: Observations,
    name: str,
    objective: Objective | None = None,
    fixed: Mapping[str, float] | None = None,
) -> HeldOut | None:
    """Prediction of the largest value of the input `name` (such as the size) by the law fitted to all others.

    None if too few points are left to fit. Raises UserError if the law has no such input.
    """
    if name not in law.inputs:
        raise UserError(f"{law.name} has no input {name!r}; it has {', '.join(law.inputs)}")
    x = data.x[:, law.inputs.index(name)]
    return _held_out(law, data, objective, [np.stack([x < x.max(), x == x.max()])], fixed)[0]


def held_out(fit: Fit, name: str = "") -> dict[str, HeldOut]:
    """How the law of a fit predicts held-out parts of its own data, by what was held out. Empty if too few points are
    left to fit.

    Of a clock (x or k) the last part, from the first 80 % of its log span (mean over groups); the largest N; and the
    largest of the input `name`. Raises UserError if the law has no such input, or if the largest cannot be predicted.
    """
    law, data, found = fit.law, fit.observations, {}
    gone = np.unique(np.asarray(data.group))[never_had(fit)] if alone(fit) else np.zeros(0)  # as of means over groups
    if law.inputs[0] in CLOCKS:
        cut = rolling(law, data, fit.error, SHARES[-1:], fit.fixed).drop_nulls("error")
        cut = cut.filter(~pl.col("group").is_in(gone.astype(str)))
        if cut.height:
            likelihood = cut["log_likelihood"].mean()
            ends = dict.fromkeys(f"{end:.4g}" for end in (cut["beyond"].min(), cut["beyond"].max()))
            found[last_part(law)] = HeldOut(
                where=f"{law.inputs[0]} > {' to '.join(ends)}{' by group' * (len(ends) > 1)}",
                points=int(cut["points"].sum()), error=float(np.mean(cut["error"].to_numpy())),
                log_likelihood=float(likelihood) if isinstance(likelihood, float) else None,
            )  # fmt: skip
    data = data.take(~np.isin(np.asarray(data.group), gone)) if gone.size else data
    for each in [*(["N"] if "N" in law.inputs else []), *([name] if name not in ("", "N") else [])]:
        if (one := largest(law, data, each, fit.error, fit.fixed)) is not None:
            found[f"the largest {each}"] = replace(one, where=f"{each} = {data.x[:, law.inputs.index(each)].max():.4g}")
        elif each == name:
            x = data.x[:, law.inputs.index(name)]
            bounds = data.censored is not None and data.censored[x == x.max()].all()
            why = "all its values are bounds" if bounds else "too few points are left to fit"
            raise UserError(f"--hold-out {name}: the largest, {x.max():.4g}, cannot be predicted, as {why}")
    return found


def last_part(law: Law) -> str:
    """What `rolling` holds out, in words: the last part of the decay, of the curve, or of an input's range."""
    if law.inputs[0] in CLOCKS:
        return f"the last part of the {'decay' if law.decays else 'curve'}"
    return f"the upper part of {law.inputs[0]}"


def _held_out(
    law: Law,
    data: Observations,
    objective: Objective | None,
    parts: list[Array],
    fixed: Mapping[str, float] | None,
) -> list[HeldOut | None]:
    """`parts`: per cut the masks of fitted and held-out points, (2, n)."""
    objective, free = objective or default_objective(data), len(law.parameters) - len(fixed or {})
    least = free + (objective.own is not None) + 1
    usable = [i for i, (shown, held) in enumerate(parts) if shown.sum() >= least and held.any()]
    found: list[HeldOut | None] = [None] * len(parts)
    if not usable:
        return found
    weights = np.array([parts[i][0] for i in usable], dtype=float)
    if data.weights is not None:
        weights = weights * data.weights
    fits = fit_many(law, data, objective=objective, weights=weights, starts=STARTS, fixed=fixed)
    names = ("y", "hits", "trials", "low", "high")
    arrays = in_units(objective, {name: a for name in names if (a := getattr(data, name)) is not None})
    for row, i in enumerate(usable):
        shown, held = parts[i]
        own = None if fits.own is None else fits.own[row : row + 1, None]
        value = law.value(fits.theta[row], data.x)
        loss = objective.terms(value[None], arrays, own).loss[0]
        with np.errstate(all="ignore"):
            relative = objective.relative
            residual = np.log(value) - arrays["log_y"] if relative else _rate(objective, value) - data.response
        exact = held if data.low is None else held & (data.low == data.high)  # a bound is no value to miss
        residual = residual[exact & np.isfinite(residual)]
        likelihood = None
        if isinstance(objective, Gaussian):
            variance = 2 * fits.objective[row] / max(shown.sum() - free, 1)
            variance = max(variance, np.finfo(float).tiny)  # for a fit without residuals
            with np.errstate(over="ignore"):  # a fit without residuals gives other points a likelihood of 0
                likelihood = float(np.mean(-loss[held] / variance) - 0.5 * np.log(2 * np.pi * variance))
            if objective.log:
                likelihood -= float(np.mean(arrays["log_y"][held]))
        elif objective.log_likelihood(np.zeros(1), data) is not None:
            likelihood = float(-np.mean(loss[held]))
        if residual.size:
            found[i] = HeldOut(
                points=int(exact.sum()), error=float(np.sqrt(np.mean(residual**2))), log_likelihood=likelihood
            )
    return found


def _rate(objective: Objective, value: Array) -> Array:
    chance = getattr(objective, "chance", 0.0)
    return chance + (1 - chance) * value


def over_groups(table: pl.DataFrame) -> pl.DataFrame:
    """Mean of `rolling` over groups: seen, estimate, low, high (Student-t on the error), log_likelihood, groups."""
    rows = []
    for (seen,), part in table.sort("seen").group_by(["seen"], maintain_order=True):
        error = t_interval(part["error"])
        if error is not None:
            rows.append((seen, error.estimate, error.low, error.high, part["log_likelihood"].mean(), part.height))
    names = ("seen", "estimate", "low", "high", "log_likelihood")
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.Float64) | {"groups": pl.Int64}, orient="row")


def predict_largest(half_lives: pl.DataFrame) -> Interval | None:
    """Predicted over observed half-life at the largest size: one line per seed through the smaller sizes, t over seeds.

    `half_lives`: parameters, seed, estimate (null if censored: that seed is left out). None below three sizes.
    """
    seen = half_lives.filter(pl.col("estimate") > 0)
    sizes = seen["parameters"].unique().sort()
    if sizes.len() < 3:
        return None
    ratios = []
    for (_,), part in seen.sort("parameters").group_by(["seed"], maintain_order=True):
        if part["parameters"].to_list() == sizes.to_list():
            x, y = np.log(part["parameters"].to_numpy().astype(float)), np.log(part["estimate"].to_numpy())
            slope, level = np.polyfit(x[:-1], y[:-1], 1)
            ratios.append(level + slope * x[-1] - y[-1])
    mean = t_interval(ratios)
    return None if mean is None else mean.exp()
