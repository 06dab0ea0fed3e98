"""Which law the data prefer, if any: AICc and prediction of held-out data. Within ΔAICc 2 there is no winner.

Likelihoods are ranked only if they are of the same data. Those of errors of ln y or ln(1 + y) include the Jacobian, the
sum of -ln y or -ln(1 + y), so all are densities of y. Those of counts, binomial and beta-binomial, leave the binomial
coefficients out, which all laws share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from analysis.errors import UserError
from analysis.fitting.describe import half_life
from analysis.fitting.dispersion import SURE, VARIANCE, summed
from analysis.fitting.extrapolation import SHARES, last_part, over_groups, rolling
from analysis.fitting.fit import by_group, fits_alone
from analysis.fitting.groups import NEVER, never_had
from analysis.fitting.intervals import HalfLife, Intervals, half_life_of, intervals
from analysis.fitting.observations import Observations
from analysis.fitting.result import Fit
from analysis.stats.arrays import Array
from analysis.stats.format import listed, short

EQUAL = 2.0
"""Difference in AICc below which two laws explain data equally well (Burnham and Anderson 2002, 2.6)."""
AGREE = 1.25
"""Half-lives of laws within this factor of each other agree."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of one fit: what AICc is computed from."""

    group: str | None
    """None: of all points."""
    log_likelihood: float
    parameters: int
    """k: the law's that are not held, and those of the errors."""
    points: int
    """n."""

    @property
    def aicc(self) -> float:
        """2k - 2 log-likelihood + 2k (k + 1) / (n - k - 1); infinite with too few points."""
        k, left = self.parameters, self.points - self.parameters - 1
        return 2 * k - 2 * self.log_likelihood + 2 * k * (k + 1) / left if left > 0 else math.inf


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One law's place in the ranking."""

    fit: Fit
    scores: tuple[Score, ...]
    """One of all points, or one of each group's own fit if each can be fitted alone."""
    delta: float
    """AICc minus the best law's."""

    @property
    def rolling(self) -> pl.DataFrame:
        """Held-out errors by group, as returned by `extrapolation.rolling`. Computed once per fit."""
        fit = self.fit
        if "rolling" not in fit.derived:
            fit.derived["rolling"] = rolling(fit.law, fit.observations, fit.error, SHARES[-1:], fit.fixed)
        return fit.derived["rolling"]

    @property
    def held_out(self) -> float | None:
        """Root mean square error in the last part of the decay, predicted from the first 80 % of its log span."""
        return self._held_out("estimate")

    @property
    def held_out_log_likelihood(self) -> float | None:
        """Per point, of the same prediction."""
        return self._held_out("log_likelihood")

    def _held_out(self, name: str) -> float | None:
        own = [each.group for each in self.scores if each.group is not None]
        last = over_groups(self.rolling.filter(pl.col("group").is_in(own)) if own else self.rolling)
        return last[name][0] if last.height else None

    @property
    def aicc(self) -> float:
        """Summed over `scores`; infinite with too few points."""
        return sum(each.aicc for each in self.scores)

    @property
    def log_likelihood(self) -> float:
        return sum(each.log_likelihood for each in self.scores)

    @property
    def intervals(self) -> Intervals:
        return intervals(self.fit)

    @property
    def half_life(self) -> HalfLife | None:
        return half_life_of(self.fit)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All laws, best first."""

    ranked: tuple[Ranked, ...]

    @property
    def winner(self) -> Ranked | None:
        """The law that leads all others by at least EQUAL, if its likelihood is that of the data."""
        if len(self.ranked) < 2 or self.ranked[1].delta < EQUAL or self.paired or self.apart:
            return None
        return self.ranked[0]

    @property
    def apart(self) -> str:
        """That groups differ beyond the scatter within them, where one curve is fitted to all: AICc takes their points
        as independent, so that a wrong law may lead by far. Of the best law; "" if they do not."""
        first = self.ranked[0]
        return between_groups(first.fit) if first.scores[0].group is None else ""

    @property
    def paired(self) -> bool:
        """Whether counts scatter less around a law than a binomial's, as those of the same items at each point do."""
        found = (each.fit.dispersion for each in self.ranked)
        return any(each is not None and each.under for each in found)

    @property
    def half_name(self) -> str:
        """What `half_life` is under these laws: the half-life of decay, or the time to half recovery."""
        names = dict.fromkeys(each.fit.law.half_name for each in self.ranked if each.half_life is not None)
        return " or ".join(names) or "half-life"

    @property
    def half_lives(self) -> dict[str, float]:
        """By law, without those beyond the data."""
        found = {each.fit.law.name: each.half_life for each in self.ranked}
        return {name: half.estimate for name, half in found.items() if half is not None and half.estimate is not None}

    @property
    def agree(self) -> bool:
        """Whether the half-lives of all laws within EQUAL of the best lie within AGREE of each other."""
        near = [each.fit.law.name for each in self.ranked if each.delta < EQUAL]
        values = [self.half_lives[name] for name in near if name in self.half_lives]
        return len(values) == len(near) and max(values) <= AGREE * min(values)

    @property
    def text(self) -> str:
        """The winner, or the half-lives of the laws that tie; and which law predicted best."""
        near = [each.fit.law.name for each in self.ranked if each.delta < EQUAL]
        halves = self.half_lives
        if self.winner is not None:
            text = f"{near[0]} leads by ΔAICc {self.ranked[1].delta:.1f}"
        elif self.apart and self.ranked[1].delta >= EQUAL:
            text = f"no winner: {self.apart}"
        elif self.paired:
            text = "no winner: counts scatter less than a binomial's, so AICc cannot tell these laws apart"
        elif all(each.half_life is None for each in self.ranked if each.delta < EQUAL):
            text = f"no winner: {listed(near)} are within ΔAICc {EQUAL:g}"
        elif self.agree:
            text = f"no winner: {listed(near)} are within ΔAICc {EQUAL:g} and agree on the {self.half_name}"
        else:
            shown = [(each.fit.law.name, half_life(each.half_life)) for each in self.ranked if each.delta < EQUAL]
            values = [f"{name} {short(halves[name]) if name in halves else text}" for name, text in shown]
            text = f"no winner; {self.half_name} under the laws within ΔAICc {EQUAL:g}: {', '.join(values)}"
        errors = [(each.held_out, each.fit.law.name) for each in self.ranked if each.held_out is not None]
        if len(errors) > 1 and self.held_out_unit:
            error, name = min(errors)
            part = last_part(self.ranked[0].fit.law)
            text += f"; {name} predicts {part} best (error {short(error, 2)} in {self.held_out_unit})"
        return text

    @property
    def legend(self) -> str:
        """What AICc is computed from, for a reader who checks it."""
        first, errors = self.ranked[0], {each.fit.error.name for each in self.ranked}
        text = "AICc = 2k - 2 log-likelihood + 2k (k + 1) / (n - k - 1)"
        if len(first.scores) > 1:
            text += f", of each of {len(first.scores)} groups' own fits, summed"
            left = {*np.unique(np.asarray(first.fit.observations.group)).astype(str)} - {
                each.group for each in first.scores
            }
            what = first.fit.columns.get("group", "group")
            text += f" ({what} {', '.join(sorted(left))} left out, as in `fit`: it {NEVER})" if left else ""
        if first.fit.observations.hits is not None:
            text += "; likelihoods without the binomial coefficients, which all laws share"
        elif len(errors) > 1:
            text += "; likelihoods are densities of y: errors of ln y or ln(1 + y) include its Jacobian"
        return text

    @property
    def held_out_unit(self) -> str:
        """What the held-out errors are measured in: y, ln y or the rate; "" if not all in the same."""
        units = {each.fit.error.compared for each in self.ranked}
        return units.pop() if len(units) == 1 else ""


def compare(fits: Sequence[Fit]) -> Comparison:
    """Ranks fits of the same observations. Raises UserError for Huber's loss, which has no likelihood, and for
    likelihoods of different data."""
    if any(fit.log_likelihood is None for fit in fits):
        raise UserError("AICc needs a likelihood, which Huber's loss is not: use --error lognormal")
    for other in fits[1:]:
        if (differs := _difference(fits[0].observations, other.observations)) is not None:
            raise UserError(
                f"{fits[0].law.name} and {other.law.name} were fitted to different {differs}: likelihoods of different "
                "data cannot be ranked; expected fits of the same rows and the same response"
            )
    groups = [fit.observations.group for fit in fits]
    grouped = all(group is not None for group in groups) and all(fits_alone(fit) for fit in fits)
    points = min(fit.observations.n for fit in fits)
    gone = np.any([never_had(fit) for fit in fits], axis=0) if grouped else np.zeros(0, dtype=bool)
    scores = [_by_group(fit, gone) if grouped else (_score(fit, points),) for fit in fits]
    values = [sum(part.aicc for part in each) for each in scores]
    best = min(values)
    ranked = [
        Ranked(fit=fit, scores=each, delta=value - best if math.isfinite(best) else math.nan)
        for fit, each, value in zip(fits, scores, values, strict=True)
    ]
    return Comparison(ranked=tuple(sorted(ranked, key=lambda each: each.aicc)))


def between_groups(fit: Fit) -> str:
    """In words, that residuals of one curve through all groups differ between groups: a one-way analysis of variance of
    residuals over their standard errors, below SURE. "" otherwise; for items, of one trial a point; and for bounds."""
    data, value = fit.observations, fit.predict(fit.observations.x)
    if data.group is None or data.censored is not None or (data.trials is not None and data.trials.max() <= 1):
        return ""
    with np.errstate(all="ignore"):
        if data.trials is not None:
            chance = getattr(fit.error, "chance", 0.0)
            rate = chance + (1 - chance) * np.clip(value, 0.0, 1.0)
            variance = data.trials * rate * (1 - rate)
            residual = np.where(variance >= VARIANCE, (data.response - rate) * data.trials / np.sqrt(variance), np.nan)
        else:
            residual = np.log(data.response / value) if fit.error.relative else data.response - value
            residual = residual * np.sqrt(1.0 if data.weights is None else data.weights)
    used = np.isfinite(residual)
    parts = [residual[used & (data.group == name)] for name in np.unique(data.group[used])]
    if len(parts) < 2 or sum(map(len, parts)) <= len(parts):
        return ""
    with np.errstate(all="ignore"):
        ratio, chance = stats.f_oneway(*parts)
    if not chance < SURE:
        return ""
    column = fit.columns.get("group", "group")
    return (
        f"residuals of {fit.law.name} differ between groups of {column} beyond the scatter within them (analysis of "
        f"variance, F = {ratio:.3g}, p {'< 1e-4' if chance < 1e-4 else f'= {chance:.2g}'}), and AICc takes points of a "
        "group as independent: name a column with --group whose groups can be fitted alone, such as the seed"
    )


def _score(fit: Fit, points: int) -> Score:
    """`points`: the fewest of all fits, as counts at the same x are summed for the beta-binomial."""
    return Score(group=None, log_likelihood=float(fit.log_likelihood or 0.0), parameters=_count(fit), points=points)


def _by_group(fit: Fit, gone: NDArray[np.bool_]) -> tuple[Score, ...]:
    """Separate parameters for every group, so that differences between groups do not pass for curvature; without those
    that are `gone`, as they never had what decays."""
    data, found = fit.observations, []
    for name, objective in zip(np.unique(np.asarray(data.group))[~gone], by_group(fit).objective[~gone], strict=True):
        own = data.take(np.asarray(data.group) == name)
        [likelihood] = np.asarray(fit.error.log_likelihood(np.array([objective]), own))
        found.append(Score(group=str(name), log_likelihood=float(likelihood), parameters=_count(fit), points=own.n))
    return tuple(found)


def _count(fit: Fit) -> int:
    return len(fit.law.parameters) - len(fit.fixed) + fit.extra


def _difference(first: Observations, other: Observations) -> str | None:
    """What differs between the responses of two fits; counts at the same x may be summed."""
    if (first.hits is None) != (other.hits is None):
        return "responses, counts and measurements"
    if first.hits is not None and other.hits is not None and first.n != other.n:
        first, other = summed(first), summed(other)
    if first.n != other.n:
        return "rows"
    names = ("y", "low", "high", "hits", "trials", "weights")
    same = all(_equal(getattr(first, name), getattr(other, name)) for name in names)
    return None if same else "values of the response"


def _equal(first: Array | None, other: Array | None) -> bool:
    return first is other or (first is not None and other is not None and np.array_equal(first, other, equal_nan=True))
