"""Do behaviours that need little information break easily? Rank correlations, with or without controls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from analysis.errors import UserError
from analysis.stats.intervals import Interval, Z

MIN_BEHAVIOURS = 4
"""Behaviours, beyond 3 and the number of controls, that an interval needs."""
RANKS = 1.06
"""Variance of Fisher's z of a rank correlation, times n - 3 (Fieller, Hartley and Pearson 1957)."""


def rank_correlation(
    table: pl.DataFrame, x: str, y: str, controls: Sequence[str] = (), unit: str = "behaviour"
) -> Interval:
    """Spearman's correlation of `x` and `y` over units (means over seeds), given the `controls`: the correlation of the
    residuals of the ranks after a linear fit on the controls' ranks.

    The interval is Fisher's, with variance 1.06 / (n - 3 - controls). Seeds of one behaviour are averaged first: they
    are not further behaviours. Raises UserError with too few behaviours, or if a column is constant.
    """
    columns = [x, y, *controls]
    means = table.group_by(unit).agg(pl.col(name).cast(pl.Float64).mean() for name in columns).drop_nulls()
    means = means.filter(pl.all_horizontal(pl.col(name).is_finite() for name in columns))
    count = means.height
    if count < (needed := 3 + len(controls) + MIN_BEHAVIOURS):
        raise UserError(f"{count} behaviours have {', '.join(columns)}; expected at least {needed}")
    ranks = {name: stats.rankdata(means[name].to_numpy()) for name in columns}
    constant = [name for name, values in ranks.items() if np.ptp(values) == 0]
    if constant:
        raise UserError(f"{constant[0]} is the same for all behaviours: no correlation with it is defined")
    design = np.column_stack([np.ones(count), *(ranks[name] for name in controls)])
    left, right = _residual(ranks[x], design), _residual(ranks[y], design)
    size = float(np.linalg.norm(left) * np.linalg.norm(right))
    value = float(np.clip(left @ right / size, -1, 1)) if size > 1e-9 * count else 0.0
    half_width = Z * np.sqrt(RANKS / (count - 3 - len(controls)))
    middle = np.arctanh(np.clip(value, -1 + 1e-12, 1 - 1e-12))
    return Interval(
        estimate=value, low=float(np.tanh(middle - half_width)), high=float(np.tanh(middle + half_width)), count=count
    )


def _residual(values: NDArray[np.float64], design: NDArray[np.float64]) -> NDArray[np.float64]:
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
