"""Half-lives as survival times across runs: Kaplan-Meier curves and Weibull accelerated failure times (lifelines).

A half-life lies between two evaluations (interval-censored) or after the last one (right-censored); dropping censored
runs would select runs by their result. Kaplan and Meier 1958; Wei 1992 on accelerated failure times; Davidson-Pilon
2019 (JOSS 4(40), 1317) for lifelines, which is imported where it is used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import optimize, stats

from analysis.decay.design import reference, setting_axes, values_of
from analysis.decay.retention import half_lives, retention_curves
from analysis.errors import UserError
from analysis.runs.study import StudyData
from analysis.stats.censoring import AT_START, CENSORED, bounds
from analysis.stats.format import plural
from analysis.stats.intervals import LEVEL
from halflife.tracking.schema import Outcome

SURVIVAL = {
    "group": pl.String, "time": pl.Float64, "survival": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "at_risk": pl.Int64, "events": pl.Int64, "censored": pl.Int64,
}  # fmt: skip
EFFECTS = {
    "term": pl.String, "value": pl.String, "coefficient": pl.Float64, "low": pl.Float64, "high": pl.Float64,
    "ratio": pl.Float64, "ratio_low": pl.Float64, "ratio_high": pl.Float64, "model_low": pl.Float64,
    "model_high": pl.Float64,
}  # fmt: skip
MIN_CLUSTERS = 3
"""Seeds below which no interval over seeds is given: with two, Student's t is 12.7 and uninformative."""


def survival_table(
    data: StudyData, by: str = "size", outcome: Outcome | None = None, criterion: str = "logprob", clock: str = "tokens"
) -> pl.DataFrame:
    """Share of runs whose skill is still above one half, against the clock; columns as in `kaplan_meier`.

    `by` size: treatments at the reference setting, one curve per size, smallest first. `by` setting, or any parameter
    of the trials: all treatments, one curve per value.
    """
    times = _times(data, outcome, criterion, clock)
    if by == "size":
        return kaplan_meier(times.filter("is_reference").sort("parameters"), "size")
    return kaplan_meier(times.sort(pl.col(by).is_null(), by), by)


def _times(data: StudyData, outcome: Outcome | None, criterion: str, clock: str) -> pl.DataFrame:
    times = half_lives(retention_curves(data, outcome), (clock,)).filter(pl.col("criterion") == criterion)
    new = [name for name in data.trials.columns if name not in times.columns]
    return times.join(data.trials.select("trial", *new), on="trial")


def kaplan_meier(times: pl.DataFrame, group: str) -> pl.DataFrame:
    """Kaplan-Meier curves of `times` (columns of censoring.COLUMNS and `group`), in the order of their first rows.

    Columns: group, time, survival with its 95 % interval (Greenwood on the log-log scale), at_risk just before
    `time`, events and censored at it; the first row of a group is time 0 at survival 1. A time between two evaluations
    enters at its interpolated estimate: evaluations are close, at ratios of 1.25. The interval assumes independent
    runs: it holds for one run per seed, not for runs that share seeds.
    """
    from lifelines import KaplanMeierFitter

    parts = []
    ended = times.with_columns(time=pl.coalesce(pl.when(AT_START).then("high"), "estimate", "low"))
    for (name,), part in ended.filter(pl.col("time") > 0).group_by([group], maintain_order=True):
        fitted = KaplanMeierFitter(alpha=1 - LEVEL).fit(
            part["time"].to_numpy(), (part["kind"] != "censored").to_numpy()
        )
        interval = fitted.confidence_interval_survival_function_.to_numpy()
        events = fitted.event_table
        parts.append(
            pl.DataFrame(
                {
                    "group": [str(name)] * len(events), "time": events.index.to_numpy(),
                    "survival": fitted.survival_function_.to_numpy()[:, 0],
                    "low": interval[:, 0], "high": interval[:, 1], "at_risk": events["at_risk"].to_numpy(),
                    "events": events["observed"].to_numpy(), "censored": events["censored"].to_numpy(),
                },
                schema=SURVIVAL, nan_to_null=True,
            )
        )  # fmt: skip
    return pl.concat(parts) if parts else pl.DataFrame(schema=SURVIVAL)


@dataclass(frozen=True, kw_only=True)
class Covariate:
    """One column that may stretch the time. category: relative to `reference`, by default its first value."""

    name: str
    scale: str = "category"
    """category | linear | log (natural logarithm: the coefficient is an exponent)"""
    reference: Any = None


@dataclass(frozen=True, kw_only=True)
class TimeRatios:
    """A Weibull accelerated-failure-time fit: ln T = b0 + sum b x + (1/shape) ln E, E standard exponential."""

    effects: pl.DataFrame
    """term, value (of a category), coefficient with its interval over seeds (`low`, `high`; null below 3 seeds),
    ratio = exp of these, and model_low, model_high: the coefficient's interval if all runs were independent, which runs
    that share a seed are not."""
    median: float
    """Median time at the reference values and, for numbers, at their means."""
    shape: float
    log_likelihood: float
    runs: int
    censored: int
    clusters: int
    notes: tuple[str, ...] = ()


def time_ratios(times: pl.DataFrame, covariates: Sequence[Covariate], cluster: str = "seed") -> TimeRatios:
    """Fit how covariates stretch the times (columns of censoring.COLUMNS, the covariates, `cluster`).

    The likelihood is that of interval-censored times (lifelines, WeibullAFTFitter). lifelines has no clusters there,
    so the interval is the delete-one-cluster jackknife with Student-t over clusters (CR3; MacKinnon and Webb 2023).
    Raises UserError if there are too few runs for the coefficients, or none that reached its time.
    """
    used = times.drop_nulls([covariate.name for covariate in covariates])
    low, high = bounds()
    used = used.with_columns(_low=low, _high=high).filter((pl.col("_high") > 0) & (pl.col("_low") < pl.col("_high")))
    names, x = _design(used, covariates)
    if used.filter(~CENSORED).height <= len(names) + 1:
        raise UserError(
            f"{used.filter(~CENSORED).height} of {plural(used.height, 'run')} reached their time: expected more than "
            f"the {len(names) + 2} coefficients; use fewer covariates or more runs"
        )
    ends = used.select("_low", "_high").to_numpy()
    unit = math.exp(float(np.log(ends[(ends > 0) & np.isfinite(ends)]).mean()))
    fitted = _weibull(x, ends / unit)
    estimate, errors = _coefficients(fitted, x.shape[1])
    z = float(stats.norm.ppf(0.5 + LEVEL / 2))
    intercept, log_shape = (float(fitted.params_[name]["Intercept"]) for name in ("lambda_", "rho_"))
    whole = np.array([*estimate, intercept, log_shape])
    clusters, spread, notes = _jackknife(x, ends / unit, used[cluster].to_numpy(), whole)
    half_width = np.full(len(names), np.nan)
    if spread is not None:
        half_width = spread * stats.t.ppf(0.5 + LEVEL / 2, clusters - 1)
    effects = pl.DataFrame(
        [
            (term, value, b, b - r, b + r, *np.exp([b, b - r, b + r]), b - z * e, b + z * e)
            for (term, value), b, e, r in zip(names, estimate, errors, half_width, strict=True)
        ],
        schema=EFFECTS, orient="row",
    ).fill_nan(None)  # fmt: skip
    shape = math.exp(log_shape)
    return TimeRatios(
        effects=effects, median=unit * math.exp(intercept) * math.log(2) ** (1 / shape), shape=shape,
        log_likelihood=float(fitted.log_likelihood_), runs=used.height, censored=used.filter(CENSORED).height,
        clusters=clusters, notes=notes,
    )  # fmt: skip


def study_time_ratios(
    data: StudyData, outcome: Outcome | None = None, criterion: str = "logprob", clock: str = "tokens"
) -> TimeRatios:
    """`time_ratios` over size (its coefficient is the exponent of N) and every axis that differs between treatments.

    Computed once per `data`, outcome, criterion and clock.
    """
    outcome = outcome or data.declaration.outcomes[0]
    key = f"time_ratios/{outcome.name}/{criterion}/{clock}"
    if key not in data.derived:
        times = _times(data, outcome, criterion, clock)
        data.derived[key] = time_ratios(times, _covariates(data, times))
    return data.derived[key]


def _covariates(data: StudyData, times: pl.DataFrame) -> list[Covariate]:
    chosen = reference(data)
    covariates = [Covariate(name="parameters", scale="log")] if times["parameters"].n_unique() > 1 else []
    for axis in setting_axes(data):
        numbers = all(isinstance(value, (int, float)) and value > 0 for value in values_of(data, axis))
        scale = axis.scale if axis.scale == "linear" or (axis.scale == "log" and numbers) else "category"
        if times[axis.name].n_unique() > 1:
            covariates.append(Covariate(name=axis.name, scale=scale, reference=chosen[axis.name]))
    if not covariates:
        raise UserError(
            f"no axis varies between the treatments of {data.declaration.study!r} that had the skill at the drop: "
            "expected several sizes or an axis of settings"
        )
    return covariates


def _design(frame: pl.DataFrame, covariates: Sequence[Covariate]) -> tuple[list[tuple[str, str | None]], NDArray[Any]]:
    """(term, value) of each column, and the columns (n, p): centred numbers, 0/1 of every other category."""
    names: list[tuple[str, str | None]] = []
    columns = []
    for covariate in covariates:
        values = frame[covariate.name]
        if covariate.scale == "category":
            levels = values.unique(maintain_order=True).to_list()
            base = covariate.reference if covariate.reference in levels else levels[0]
            for level in sorted((level for level in levels if level != base), key=str):
                names.append((covariate.name, str(level)))
                columns.append((values == level).to_numpy().astype(float))
        else:
            numbers = values.log() if covariate.scale == "log" else values.cast(pl.Float64)
            names.append((covariate.name, None))
            columns.append((numbers - float(numbers.to_numpy().mean())).to_numpy())
    x = np.column_stack(columns) if columns else np.empty((frame.height, 0))
    if x.shape[1] and np.linalg.matrix_rank(np.column_stack([np.ones(len(x)), x])) <= x.shape[1]:
        terms = ", ".join(dict.fromkeys(term for term, _ in names))
        raise UserError(f"the effects of {terms} are confounded: expected covariates that vary independently")
    return names, x


def _weibull(x: NDArray[Any], ends: NDArray[Any]) -> Any:
    import pandas as pd
    from lifelines import WeibullAFTFitter

    frame = pd.DataFrame({f"x{i}": column for i, column in enumerate(x.T)})
    frame["low"], frame["high"] = ends[:, 0], ends[:, 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas and autograd warnings about lifelines' own code
        return WeibullAFTFitter(alpha=1 - LEVEL).fit_interval_censoring(frame, "low", "high")


def _coefficients(fitted: Any, count: int) -> tuple[NDArray[Any], NDArray[Any]]:
    terms = [("lambda_", f"x{i}") for i in range(count)]
    return fitted.params_.loc[terms].to_numpy(), fitted.standard_errors_.loc[terms].to_numpy()


def _jackknife(
    x: NDArray[Any], ends: NDArray[Any], cluster: NDArray[Any], whole: NDArray[Any]
) -> tuple[int, NDArray[Any] | None, tuple[str, ...]]:
    """Number of clusters, standard errors of the coefficients from leaving out one cluster at a time, and notes if
    there are none.

    `whole`: the fit to all runs (coefficients, intercept, ln shape), the start of every fit without a cluster. These
    maximise the same likelihood as lifelines, a hundred times faster.
    """
    groups = np.unique(cluster)
    if groups.size < MIN_CLUSTERS:
        return (
            groups.size,
            None,
            (f"{plural(groups.size, 'seed')}: an interval over seeds takes {MIN_CLUSTERS} or more",),
        )
    columns, found = np.column_stack([x, np.ones(len(x))]), []
    with np.errstate(divide="ignore"):  # a time before the first evaluation is bounded by 0
        ends = np.log(ends)
    for group in groups:
        kept = cluster != group
        if np.linalg.matrix_rank(columns[kept]) < columns.shape[1]:
            return (
                groups.size,
                None,
                (f"without seed {group} the effects are confounded: no interval over seeds",),
            )
        fitted = optimize.minimize(_loss, whole, args=(columns[kept], ends[kept]), jac=True, method="BFGS")
        if np.abs(fitted.jac).max() > 1e-3:
            return groups.size, None, (f"without seed {group} the fit does not converge: no interval over seeds",)
        found.append(fitted.x[: x.shape[1]])
    values = np.array(found)
    variance = (groups.size - 1) / groups.size * ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    return groups.size, np.sqrt(variance), ()


def _loss(theta: NDArray[Any], x: NDArray[Any], ends: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """Negative log-likelihood of `time_ratios` and its gradient, in (coefficients, intercept, ln shape).

    The last column of x (n, p + 1) is the intercept; `ends` (n, 2) are ln of the bounds. S(t) = exp(-exp(z)) with
    z = shape (ln t - x b)."""
    shape = np.exp(theta[-1])
    z = np.clip(shape * (ends - (x @ theta[:-1])[:, None]), -500, 6)  # beyond, S(t) is 1 and 0
    survival = np.where(np.isposinf(ends), 0.0, np.exp(-np.exp(z)))
    slope = np.where(np.isfinite(ends), survival * np.exp(z), 0.0)  # -dS/dz
    share = np.maximum(survival[:, 0] - survival[:, 1], 1e-300)
    by_location = shape * (slope[:, 0] - slope[:, 1]) / share
    by_shape = (slope[:, 1] * z[:, 1] - slope[:, 0] * z[:, 0]) / share
    return -float(np.log(share).sum()), -np.append(by_location @ x, by_shape.sum())
