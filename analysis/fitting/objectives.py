"""The minimised objectives: Huber on log residuals, Gaussian, binomial, beta-binomial.

Each returns, elementwise and for any number of replicates at once, the loss of a law's value and its derivatives with
respect to that value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.errors import UserError
from analysis.fitting.observations import Observations
from analysis.laws.base import Parameter
from analysis.stats.arrays import Array

EDGE = 1e-6
"""A rate below EDGE (or above 1 - EDGE) that contradicts observed successes (failures) is penalised by the parabola
that continues the likelihood there: a law may leave [0, 1] on the way to its optimum."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Each point's loss, (b, n), and its derivatives with respect to the law's value v and, if there is one, to the
    logarithm u of the objective's own parameter."""

    loss: Array
    slope: Array
    curvature: Array
    """Second derivative in v."""
    metric: Array
    """A positive curvature that replaces the second derivative where that is zero or unreliable."""
    own_slope: Array | None = None
    own_cross: Array | None = None
    own_curvature: Array | None = None


class Objective:
    """`data` holds y, log_y, low, high, hits or trials as (n,) or (b, n). One of its own is a subclass."""

    name: str = ""
    own: Parameter | None = None
    """An error parameter fitted together with the law's."""
    profiled: int = 0
    """Number of error parameters solved in closed form, which count in AICc."""
    sufficient: str = ""
    """What suffices at each x: "counts" (summed hits and trials), "means" (of `response`), or "" (the rows)."""
    response: str = "y"
    relative: bool = False
    """Whether errors are of the logarithm of y, which data then hold as log_y."""
    unit: str = "y"
    """What y is measured in: "y", a unit of its own that may change, or "1", an absolute one."""
    counted: bool = False
    """Whether it takes hits and trials."""

    @property
    def compared(self) -> str:
        """What the error of a prediction is measured in."""
        return "the rate" if self.counted else "ln y" if self.relative else "y"

    def check(self, data: Observations) -> None:
        """Raises UserError for data that it does not take."""
        raise NotImplementedError(f"{type(self).__name__} checks no data")

    def terms(self, value: Array, data: dict[str, Array], own: Array | None) -> Terms:
        raise NotImplementedError(f"{type(self).__name__} has no loss")

    def log_likelihood(self, objective: Array, data: Observations) -> Array | None:
        """(R,) from the minimised objective; None for a loss that is not a likelihood."""
        raise NotImplementedError(f"{type(self).__name__} does not say whether it is a likelihood")

    def size(self, y: Array) -> float:
        """The size of a response, in units of which it is fitted."""
        return float(np.exp(np.log(y).mean()) if self.relative else np.abs(y).max(initial=0.0))

    def rescaled(self, objective: Array, scale: float, data: dict[str, Array]) -> Array:
        """The objective (R,) of `data` times `scale`, from that of `data`."""
        return objective


@dataclass(frozen=True, kw_only=True)
class Huber(Objective):
    """Summed Huber loss of ln(value) - ln(y): quadratic below `delta`, linear above (Hoffmann et al. 2022).

    Summed, not averaged: with an averaged loss this small, optimizers stop early.
    """

    delta: float = 1e-3
    name: str = "huber"
    relative: bool = True

    def check(self, data: Observations) -> None:
        if not self.delta > 0:
            raise UserError(f"delta is {self.delta}; expected above 0, such as 1e-3")
        if data.y is None:
            raise UserError("huber is for a response: pass y, not hits and trials")
        if (data.y <= 0).any():
            raise UserError("huber works on logarithms, but y has values of 0 or below: use --error gaussian")
        _whole(data, self.name)

    def terms(self, value: Array, data: dict[str, Array], own: Array | None) -> Terms:
        with np.errstate(all="ignore"):
            residual = np.log(value) - data["log_y"]
            size = np.abs(residual)
            clipped = np.clip(residual, -self.delta, self.delta)
            inverse = 1 / value
            square = inverse * inverse
            inside = size <= self.delta
            weight = self.delta / np.maximum(size, self.delta)
            # Inside delta r^2 / 2; outside delta (|r| - delta / 2).
            loss = np.abs(clipped) * (size - 0.5 * np.abs(clipped))
        loss = np.where(value > 0, loss, np.inf)
        return Terms(
            loss=loss, slope=clipped * inverse, curvature=(inside - clipped) * square, metric=weight * square
        )  # fmt: skip

    def log_likelihood(self, objective: Array, data: Observations) -> Array | None:
        return None


@dataclass(frozen=True, kw_only=True)
class Gaussian(Objective):
    """Half the summed squares of value - y (of their logarithms with `log`); the variance is profiled out."""

    log: bool = False
    profiled: int = 1
    sufficient: str = "means"

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "lognormal" if self.log else "gaussian"

    @property
    def relative(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.log

    @property
    def response(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return "log_y" if self.log else "y"

    def check(self, data: Observations) -> None:
        measured(data, self.name, 0.0 if self.log else -np.inf)
        _whole(data, self.name)

    def terms(self, value: Array, data: dict[str, Array], own: Array | None) -> Terms:
        if not self.log:
            residual = value - data["y"]
            one = np.ones_like(residual)
            return Terms(loss=0.5 * residual * residual, slope=residual, curvature=one, metric=one)
        with np.errstate(all="ignore"):
            residual = np.log(value) - data["log_y"]
            square = 1 / (value * value)
        loss = np.where(value > 0, 0.5 * residual * residual, np.inf)
        return Terms(loss=loss, slope=residual / value, curvature=(1 - residual) * square, metric=square)

    def rescaled(self, objective: Array, scale: float, data: dict[str, Array]) -> Array:
        return objective if self.log else objective * scale**2

    def log_likelihood(self, objective: Array, data: Observations) -> Array | None:
        """With the maximum-likelihood variance, SSR / n for unweighted data."""
        n = data.n if data.weights is None else data.weights.sum()
        tiny = np.finfo(float).tiny
        found = -0.5 * n * (np.log(2 * np.pi * np.maximum(2 * np.asarray(objective), tiny) / n) + 1)
        if self.log and data.y is not None:
            found = found - (np.log(data.y) * (1 if data.weights is None else data.weights)).sum()
        return found


def measured(data: Observations, name: str, least: float = 0.0) -> None:
    if data.y is None:
        raise UserError(f"{name} is for a response: pass y, not hits and trials")
    if (wrong := data.y <= least).any():
        raise UserError(
            f"{name} errors need y above {least:g}, but {int(wrong.sum())} of {data.n} values are not, such as "
            f"{data.y[wrong][0]:g}: use --error gaussian"
        )


def _whole(data: Observations, name: str) -> None:
    if data.censored is not None:
        raise UserError(f"{name} cannot take censored values: use --error gaussian or lognormal")


def _counts(data: Observations, name: str, chance: float) -> None:
    if data.hits is None or data.trials is None:
        raise UserError(f"{name} is for counts: pass hits and trials")
    if data.trials.sum() == 0:
        raise UserError("trials are all 0: nothing was counted")
    if not 0 <= chance < 1:
        raise UserError(f"chance is {chance}; expected 0 or more, and below 1")
    rates = data.response
    if chance and not (rates > chance).any():
        raise UserError(
            f"no rate is above --chance {chance:g}: the highest is {np.nanmax(rates):.3g}, so no skill is left to fit; "
            "chance is the rate of guessing, between 0 and 1"
        )


@dataclass(frozen=True, kw_only=True)
class Binomial(Objective):
    """Negative log-likelihood of hits out of trials at rate chance + (1 - chance) value.

    The binomial coefficients are left out, as in Myung 2003; AICc differences do not depend on them. With `adapts`,
    fit() takes the beta-binomial instead where the counts scatter more than a binomial's.
    """

    chance: float = 0.0
    adapts: bool = False
    name: str = "binomial"
    sufficient: str = "counts"
    counted: bool = True

    def check(self, data: Observations) -> None:
        _counts(data, self.name, self.chance)

    def terms(self, value: Array, data: dict[str, Array], own: Array | None) -> Terms:
        hits, trials = data["hits"], data["trials"]
        skill = 1 - self.chance
        rate = self.chance + skill * value
        up, up1, up2 = _log_loss(rate, hits)
        down, down1, down2 = _log_loss(1 - rate, trials - hits)
        inner = np.clip(rate, 1e-4, 1 - 1e-4)
        curvature = up2 + down2
        # Fisher information inside; beyond the edge the parabola's own curvature.
        metric = np.where((rate < EDGE) | (rate > 1 - EDGE), curvature, trials / (inner * (1 - inner)))
        return Terms(
            loss=up + down, slope=(up1 - down1) * skill, curvature=curvature * skill**2, metric=metric * skill**2
        )

    def log_likelihood(self, objective: Array, data: Observations) -> Array | None:
        return -np.asarray(objective)


def _log_loss(rate: Array, count: Array) -> tuple[Array, Array, Array]:
    """-count ln(rate) with two derivatives, continued by its parabola below EDGE; 0 if count is 0. Also 0 for rates
    above 1: if all trials hit, nothing contradicts such a rate, but a positive logarithm would reward it."""
    at = np.clip(rate, EDGE, 1.0)
    below = np.minimum(rate - EDGE, 0.0)
    count = np.where(rate > 1, 0.0, count)
    first, second = -count / at, count / (at * at)
    return -count * np.log(at) + first * below + 0.5 * second * below * below, first + second * below, second


def _trigamma(x: Array) -> Array:
    """Asymptotic series at x + 10 (Abramowitz and Stegun 1964, 6.4.12), to 1e-12 and five times as fast as scipy."""
    y = x + 10
    found = 1 / y
    square = found * found
    found = found * (1 + square * (1 / 6 - square * (1 / 30 - square * (1 / 42 - square / 30)))) + square / 2
    for shift in range(10):
        y = x + shift
        found += 1 / (y * y)
    return found


CONCENTRATION = Parameter(
    name="concentration", low=1e-2, high=1e7, log=True, start=(1, 1e3), meaning="a + b of the beta distribution"
)


@dataclass(frozen=True, kw_only=True)
class BetaBinomial(Objective):
    """Negative log-likelihood of counts whose rate varies between clusters with a beta distribution.

    Mean chance + (1 - chance) value; `concentration` is a + b of the beta: its correlation within a cluster of trials
    is 1 / (1 + concentration). Infinite concentration is the binomial.
    """

    chance: float = 0.0
    name: str = "beta-binomial"
    counted: bool = True
    own: Parameter | None = CONCENTRATION

    def check(self, data: Observations) -> None:
        _counts(data, self.name, self.chance)

    def terms(self, value: Array, data: dict[str, Array], own: Array | None) -> Terms:
        assert own is not None
        hits, trials = data["hits"], data["trials"]
        skill, total = 1 - self.chance, own
        raw = self.chance + skill * value
        rate = np.clip(raw, EDGE, 1 - EDGE)
        outside = raw - np.clip(raw, 0.0, 1.0)
        a, b = rate * total, (1 - rate) * total
        ln = special.gammaln
        loss = ln(a) + ln(b) - ln(total) - ln(hits + a) - ln(trials - hits + b) + ln(trials + total)
        of_a = special.psi(a) - special.psi(hits + a)
        of_b = special.psi(b) - special.psi(trials - hits + b)
        of_total = special.psi(trials + total) - special.psi(total)
        curved_a = _trigamma(a) - _trigamma(hits + a)
        curved_b = _trigamma(b) - _trigamma(trials - hits + b)
        curved_total = _trigamma(trials + total) - _trigamma(total)
        slope = total * (of_a - of_b)
        curvature = total**2 * (curved_a + curved_b)
        # Straight within EDGE of 0 and 1; beyond, a parabola pulls inward where the counts contradict the rate.
        wall = np.where(slope * outside > 0, 1.0, 0.0)
        loss = loss + slope * (raw - outside - rate) + wall * (slope * outside + 0.5 * curvature * outside**2)
        slope = np.where(outside == 0, slope, wall * (slope + curvature * outside))
        own_slope = rate * of_a + (1 - rate) * of_b + of_total
        own_second = rate**2 * curved_a + (1 - rate) ** 2 * curved_b + curved_total
        cross = of_a - of_b + total * (rate * curved_a - (1 - rate) * curved_b)
        inner = np.clip(rate, 1e-4, 1 - 1e-4)
        inflation = 1 + (trials - 1) / (1 + total)
        return Terms(
            loss=loss,
            slope=slope * skill,
            curvature=curvature * skill**2,
            metric=trials / (inner * (1 - inner) * np.maximum(inflation, 1.0)) * skill**2,
            own_slope=own_slope * total,
            own_cross=np.where(outside == 0, cross * total * skill, 0.0),
            own_curvature=own_second * total**2 + own_slope * total,
        )

    def log_likelihood(self, objective: Array, data: Observations) -> Array | None:
        return -np.asarray(objective)


def default_objective(data: Observations) -> Objective:
    """Binomial for counts, which adapts to their scatter; Gaussian otherwise."""
    return Gaussian() if data.y is not None else Binomial(adapts=True)
