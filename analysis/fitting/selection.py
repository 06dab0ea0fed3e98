"""Which law the data prefer, if any: AICc and prediction of held-out data. Within ΔAICc 2 there is no winner."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.errors import UserError
from analysis.fitting.describe import half_life
from analysis.fitting.extrapolation import SHARES, last_part, over_groups, rolling
from analysis.fitting.intervals import HalfLife, Intervals, by_group, fits_alone, intervals
from analysis.fitting.observations import Observations
from analysis.fitting.result import Fit
from analysis.stats.arrays import Array
from analysis.stats.format import listed, short

EQUAL = 2.0
"""Difference in AICc below which two laws explain data equally well (Burnham and Anderson 2002, 2.6)."""
AGREE = 1.25
"""Half-lives of laws within this factor of each other agree."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One law's place in the ranking."""

    fit: Fit
    intervals: Intervals
    aicc: float
    """Summed over the groups' own fits if each can be fitted alone; infinite with too few points."""
    delta: float
    """AICc minus the best law's."""
    held_out: float | None
    """Root mean square error in the last part of the decay, predicted from the first 80 % of its log span."""
    held_out_log_likelihood: float | None
    """Per point, of the same prediction."""
    rolling: pl.DataFrame
    """The same by group, as returned by `extrapolation.rolling`."""

    @property
    def half_life(self) -> HalfLife | None:
        return self.intervals.half_life


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All laws, best first."""

    ranked: tuple[Ranked, ...]

    @property
    def winner(self) -> Ranked | None:
        """The law that leads all others by at least EQUAL, if its likelihood is that of the data."""
        if len(self.ranked) < 2 or self.ranked[1].delta < EQUAL or self.paired:
            return None
        return self.ranked[0]

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
        if len(errors) > 1:
            error, name = min(errors)
            text += f"; {name} predicts {last_part(self.ranked[0].fit.law)} best (error {short(error, 2)})"
        return text


def compare(fits: Sequence[Fit]) -> Comparison:
    """Ranks fits of the same observations and errors. Raises UserError for Huber's loss, which has no likelihood."""
    if any(fit.log_likelihood is None for fit in fits):
        raise UserError("AICc needs a likelihood, which Huber's loss is not: use --error lognormal")
    grouped = fits[0].observations.group is not None and all(fits_alone(fit) for fit in fits)
    scores = [_grouped_aicc(fit) if grouped else fit.aicc for fit in fits]
    scores = [math.inf if score is None else score for score in scores]
    best = min(scores)
    ranked = []
    for fit, score in zip(fits, scores, strict=True):
        cut = rolling(fit.law, fit.observations, fit.error, SHARES[-1:], fit.fixed)
        last = over_groups(cut)
        error, likelihood = (last["estimate"][0], last["log_likelihood"][0]) if last.height else (None, None)
        ranked.append(
            Ranked(
                fit=fit, intervals=intervals(fit), aicc=score, delta=score - best if math.isfinite(best) else math.nan,
                held_out=error, held_out_log_likelihood=likelihood, rolling=cut,
            )
        )  # fmt: skip
    return Comparison(ranked=tuple(sorted(ranked, key=lambda each: each.aicc)))


def _grouped_aicc(fit: Fit) -> float:
    """AICc with separate parameters for every group, so that differences between groups do not pass for curvature."""
    data = fit.observations
    assert data.group is not None
    each = by_group(fit)
    total, count = 0.0, len(fit.law.parameters) + fit.extra
    for name, objective in zip(np.unique(data.group), each.objective, strict=True):
        own: Observations = data.take(data.group == name)
        likelihood: Array | None = fit.error.log_likelihood(np.array(objective), own)
        if likelihood is None or own.n <= count + 1:
            return math.inf
        total += 2 * count - 2 * float(likelihood) + 2 * count * (count + 1) / (own.n - count - 1)
    return total
