"""Retention, half-life and mean retention of one trial's series: the formulas that reports and searches share.

Pure functions on arrays; numpy and polars alone, so a sweep can import them. A series is evaluations in order of
training: tokens (or any other clock) (n,), the drop first, and a value (n,) at each. NaN is a missing value.

Retention is R(t) = (m(t) - c(t)) / (m(0) - c(t)), m the trial's level and c its control's: 1 where the skill is what
it was at the drop, 0 where it meets the control, also when the control drifts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.stats.arrays import Array
from analysis.stats.censoring import Time

MIN_GAP = 0.5
"""Nats per token between the drop and the control; with less there is no retention of the log-probability."""
MIN_SUCCESS = 0.5
"""Share above chance at the drop below which a behaviour counts as never implanted, whatever its log-probability."""


def control_at(tokens: NDArray[Any], control_tokens: NDArray[Any], control_levels: Array) -> Array:
    """The control's level (n,) at the trial's `tokens` (n,): linear in ln(1 + t), constant beyond its ends."""
    return np.interp(np.log1p(tokens), np.log1p(control_tokens), control_levels)


def retention(levels: Array, control: Array | float, min_gap: float = MIN_GAP) -> Array:
    """R (n,) from `levels` (n,) and the control's, (n,) or one for all, in the same unit.

    NaN where m(0) - c(t) is below `min_gap`, and everywhere where m(0) - c(0) is. For success rates the control is
    chance and `min_gap` is MIN_SUCCESS * (1 - chance).
    """
    gap = np.broadcast_to(levels[0] - control, np.shape(levels))
    if not gap[0] >= min_gap:
        return np.full(gap.shape, np.nan)
    return (levels - control) / np.where(gap >= min_gap, gap, np.nan)


def crossing(clock: Array, values: Array, threshold: float = 0.5, sustained: bool = False) -> Time | None:
    """The first time `values` is below `threshold` (sustained: from which on it stays there). None without two points.

    Interpolates linearly in the value and in log time (in time from 0 to the first evaluation after it).
    """
    present = np.isfinite(clock) & np.isfinite(values)
    clock, values = clock[present], values[present]
    if clock.size < 2:
        return None
    above = np.flatnonzero(values >= threshold)
    if above.size == 0 or (not sustained and above[0] > 0):
        return Time(kind="at-start", low=float(clock[0]), high=float(clock[0]), estimate=None)
    if sustained:
        after = int(above[-1]) + 1
    else:
        below = np.flatnonzero(values < threshold)
        after = int(below[0]) if below.size else clock.size
    if after == clock.size:
        return Time(kind="censored", low=float(clock[-1]), high=None, estimate=None)
    low, high = float(clock[after - 1]), float(clock[after])
    share = float((values[after - 1] - threshold) / (values[after - 1] - values[after]))
    estimate = low * (high / low) ** share if low > 0 and high > 0 else low + share * (high - low)
    return Time(kind="observed", low=low, high=high, estimate=estimate)


def rising(clock: Array, values: Array, threshold: float) -> Time | None:
    """The first time `values` is at least `threshold`: `crossing`, upside down."""
    return crossing(clock, -values, float(np.nextafter(-threshold, 0)))  # the smallest step makes equality count


def area(tokens: NDArray[Any], retention: Array, start: float, horizon: float) -> float | None:
    """Mean retention over log time from `start` to `horizon` tokens; None when the curve does not span them."""
    present = np.isfinite(retention) & (tokens > 0)
    tokens, retention = tokens[present], retention[present]
    if tokens.size < 2 or not start < horizon or tokens[0] > start * 1.0001 or tokens[-1] < horizon * 0.9999:
        return None
    at, ends = np.log(tokens), np.log([start, horizon])
    inner = at[(at > ends[0]) & (at < ends[1])]
    grid = np.concatenate([ends[:1], inner, ends[1:]])
    return float(np.trapezoid(np.interp(grid, at, retention), grid) / (ends[1] - ends[0]))


def mean_retention(tokens: NDArray[Any], levels: Array, control_tokens: NDArray[Any], control_levels: Array) -> float:
    """`area` of one trial from its first evaluation after the drop to its last.

    `tokens`, `levels` (n,): of the trial; `control_tokens`, `control_levels` (m,): of its control, in nats per token.
    NaN where m(0) - c(t) is below MIN_GAP anywhere: an objective of a search must not skip points.
    """
    control = control_at(tokens, control_tokens, control_levels)
    if (levels[0] - control).min() < MIN_GAP:
        return float("nan")
    mean = area(tokens, retention(levels, control), float(tokens[tokens > 0][0]), float(tokens[-1]))
    return float("nan") if mean is None else mean


def final_retention(levels: Array, control_levels: Array) -> float:
    """R at a trial's last evaluation, the control taken at its own last one: for trials that stop at different times.

    `levels` (n,), `control_levels` (m,): nats per token. NaN where m(0) - c is below MIN_GAP.
    """
    return float(retention(levels, control_levels[-1])[-1])
