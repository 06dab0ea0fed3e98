"""Half-lives under each law on every clock: tokens, steps, summed learning rate, weight displacement.

Weight displacement grows as a power of tokens, so a law of one is a different law of the other, and is fitted again.
Where a clock is proportional to tokens, as steps and the summed rate are at one batch size and a constant rate, the fit
is the same and its half-life is converted.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from analysis.decay.fits import MIN_POINTS, STARTS, comparisons, observations, reference_curves, supported
from analysis.decay.retention import CLOCKS
from analysis.errors import UserError
from analysis.fitting.fit import fit
from analysis.fitting.intervals import HalfLife
from analysis.fitting.result import Fit
from analysis.fitting.selection import compare
from analysis.laws import Law
from analysis.runs.study import StudyData

BY_CLOCK = {
    "size": pl.String, "law": pl.String, "clock": pl.String, "half_life": pl.Float64, "low": pl.Float64,
    "high": pl.Float64, "censored": pl.Boolean, "starts_at_optimum": pl.Float64, "warnings": pl.String,
}  # fmt: skip
SAME = 1e-6
"""Relative deviation from proportionality below which a clock counts tokens in other units."""


def half_lives_by_clock(data: StudyData) -> pl.DataFrame:
    """One row per size, clock and law with support on that clock, smallest size and best law first: half-life with 95 %
    interval over seeds, null if beyond the data; share of starts at the optimum; warnings. Clocks that the runs did not
    log have no rows. Computed once per `data`."""
    if "fits/clocks" not in data.derived:
        data.derived["fits/clocks"] = _half_lives_by_clock(data)
    return data.derived["fits/clocks"]


def _half_lives_by_clock(data: StudyData) -> pl.DataFrame:
    rows, curves = [], reference_curves(data)
    for size, found in comparisons(data).items():
        own = curves.filter(pl.col("size") == size)
        for clock in CLOCKS:
            part = own.drop_nulls(clock).filter(pl.len().over("seed") >= MIN_POINTS)
            if part.is_empty():
                continue
            unit = _unit(part, clock) if part.height == own.height else None
            own_fits = {each.fit.law.name: each.fit for each in found.ranked}
            carried = {name for name, made in own_fits.items() if unit is not None and _carries(made, unit)}
            fits = [made if name in carried else _on_clock(made.law, part, clock) for name, made in own_fits.items()]
            for each in filter(supported, compare([made for made in fits if made is not None]).ranked):
                made, half = each.fit, each.half_life
                if unit is not None and made.law.name in carried:
                    half = _times(half, unit)
                if half is not None:
                    ends = (half.estimate, half.low, half.high, half.censored)
                    rows.append((size, made.law.name, clock, *ends, made.starts_at_optimum, "; ".join(made.warnings)))
    return pl.DataFrame(rows, schema=BY_CLOCK, orient="row")


def _on_clock(law: Law, part: pl.DataFrame, clock: str) -> Fit | None:
    """None for a law without a value on this clock."""
    try:
        return fit(law, observations(part, clock), starts=STARTS)
    except UserError:
        return None


def _unit(part: pl.DataFrame, clock: str) -> float | None:
    """One token in units of this clock; None if that is not one number over all runs."""
    tokens, at = part["tokens"].to_numpy(), part[clock].to_numpy()
    later = tokens > 0
    ratio = at[later] / tokens[later]
    middle = float(np.median(ratio))
    same = np.abs(ratio - middle).max() <= SAME * abs(middle) and not at[~later].any()
    return middle if same and middle > 0 else None


def _carries(made: Fit, unit: float) -> bool:
    """Whether the law in the other unit is the same curve with its time scales converted."""
    scales = np.array([parameter.unit == "x" for parameter in made.law.parameters])
    moved, x = np.where(scales, made.theta * unit, made.theta), made.observations.x
    return np.allclose(made.law.value(moved, x * unit), made.law.value(made.theta, x), rtol=1e-9, atol=1e-12)


def _times(half: HalfLife | None, unit: float) -> HalfLife | None:
    if half is None:
        return None
    ends = (half.estimate, half.low, half.high, half.bound)
    estimate, low, high, bound = (None if end is None else unit * end for end in ends)
    return HalfLife(estimate=estimate, low=low, high=high, censored=half.censored, bound=bound)
