"""Values over an amount, as every such figure shows them: single seeds behind, means over seeds in front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes

from analysis.answers.questions import SEED, cells
from analysis.figures import style
from analysis.figures.scale import Scale
from analysis.stats.arrays import Array
from analysis.stats.imputation import few_censored, mean_over_seeds
from analysis.stats.intervals import t_interval

POINTS = {
    "part": pl.String, "series": pl.String, "place": pl.Int64, "seed": pl.String, "x": pl.Float64,
    "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "kind": pl.String, "seeds": pl.Int64,
}  # fmt: skip
"""Rows of three parts. seed: one value of a seed, `kind` known, above (it lies above `low`), below or between. mean:
over seeds with its 95% t interval; with many censored seeds `kind` is above or below, and `value` the bound. line: two
or more points of a fitted line, of one seed or, without a seed, of their mean."""


def kind() -> pl.Expr:
    """Of a value between `low` and `high`; null where nothing is known."""
    low, high = pl.col("low"), pl.col("high")
    return (
        pl.when(low == high).then(pl.lit("known"))
        .when(low.is_finite() & high.is_finite()).then(pl.lit("between"))
        .when(low.is_finite()).then(pl.lit("above"))
        .when(high.is_finite()).then(pl.lit("below"))
    )  # fmt: skip


def over(used: pl.DataFrame, x: str, *, series: str = "", place: int = 0) -> pl.DataFrame:
    """POINTS of the rows of `quantities.values` that `used` holds, as analysed: means over the settings of a cell, then
    over seeds."""
    seeds = cells(used, [SEED, x]).with_columns(kind=kind()).drop_nulls("kind").sort(SEED, x)
    seeds = seeds.with_columns(value=pl.when(pl.col("kind") == "known").then("value"))
    parts = [seeds.select(part=pl.lit("seed"), seed=pl.col(SEED).cast(pl.String), x=pl.col(x).cast(pl.Float64),
                          value="value", low="low", high="high", kind="kind")]  # fmt: skip
    rows = [
        {"part": "mean", "x": float(amount), **over_seeds(part["low"].to_numpy(), part["high"].to_numpy())}
        for (amount,), part in seeds.sort(x).group_by([x], maintain_order=True)
    ]
    parts.append(pl.DataFrame(rows, schema={name: POINTS[name] for name in ("part", "x", *MEAN)}))
    found = pl.concat(parts, how="diagonal").with_columns(series=pl.lit(series), place=pl.lit(place, pl.Int64))
    return framed(found)


ASIDE = 0.012
"""Of the width of the panel."""
MEAN = ("value", "low", "high", "kind", "seeds")


def framed(rows: pl.DataFrame) -> pl.DataFrame:
    """With the columns of POINTS; those that `rows` lacks are null."""
    return pl.concat([pl.DataFrame(schema=POINTS), rows.cast({n: POINTS[n] for n in rows.columns})], how="diagonal")


def over_seeds(low: Array, high: Array) -> dict[str, Any]:
    """Mean of values between low and high (S,) with its t interval: few censored ones are imputed
    (analysis.stats.imputation), with many the mean of their bounds is a bound."""
    known = low == high
    found = t_interval(low) if known.all() else None
    if found is None and low.size > 1 and few_censored(~known[:, None]):
        found = mean_over_seeds(low, high)
    if found is not None:
        return dict(zip(MEAN, (found.estimate, found.low, found.high, "known", low.size), strict=True))
    for ends, word in ((low, "above"), (high, "below")):
        if np.isfinite(ends).all():
            return dict(zip(MEAN, (float(ends.mean()), None, None, word, low.size), strict=True))
    return dict(zip(MEAN, (None, None, None, None, low.size), strict=True))


def draw_points(
    axes: Axes, table: pl.DataFrame, at: Array, *, colour: Any = style.INK, faint: Any = style.MUTED, marker: str = "o",
    joined: bool = True,
) -> None:  # fmt: skip
    """The parts seed and mean of `table`, at x positions `at` (n,); `joined`: seeds and means by lines."""
    table = table.with_columns(at=pl.Series(at))
    singles = table.filter(pl.col("part") == "seed")
    if not joined:  # unjoined points of a seed stand a little aside, so that none hides behind another
        place = singles["seed"].rank("dense").to_numpy() - 1.0
        step = ASIDE * (2 * place / max(place.max(initial=0), 1) - 1) if place.any() else np.zeros(place.size)
        singles = singles.with_columns(at=pl.Series(_moved(axes, singles["at"].to_numpy(), step)))
    x, y = chained(singles.filter(pl.col("kind") == "known").partition_by("seed", maintain_order=True))
    axes.plot(x, y, ls="-" if joined else "", lw=0.6, alpha=0.5, color=faint, marker=marker, ms=2.4 if joined else 3.2,
              mew=0, zorder=3)  # fmt: skip
    draw_bounds(axes, singles, faint)
    means = table.filter(pl.col("part") == "mean").sort("x")
    known = means.filter(pl.col("kind") == "known")
    spread = known.drop_nulls(["low", "high"])
    axes.vlines(spread["at"], spread["low"], spread["high"], color=colour, lw=1.3, zorder=4)
    axes.plot(known["at"], known["value"], ls="-" if joined else "", lw=1.6, color=colour, marker=marker, ms=5,
              mec="white", mew=0.6, zorder=5)  # fmt: skip
    draw_mean_bounds(axes, means, colour)


def chained(parts: Sequence[pl.DataFrame], x: str = "at", y: str = "value") -> tuple[Array, Array]:
    """Lines with gaps between them as one, which is drawn several times faster."""
    gap = np.array([np.nan])
    columns = [[array for part in parts for array in (part[name].to_numpy(), gap)] for name in (x, y)]
    at, values = (np.concatenate([gap, *arrays]).astype(float) for arrays in columns)
    return at, values


def draw_mean_bounds(axes: Axes, means: pl.DataFrame, colour: Any = style.INK) -> None:
    """Arrows towards where a mean lies of which only a bound is known."""
    look = {"ls": "", "ms": 15, "mew": 1.5, "mfc": "none", "color": colour, "zorder": 5}
    for side, arrow in (("above", style.BEYOND), ("below", style.BELOW)):
        bound = means.filter(pl.col("kind") == side)
        if bound.height:
            axes.plot(bound["at"], bound["value"], marker=arrow, **look)


def _moved(axes: Axes, at: Array, step: Array) -> Array:
    """By shares of the axis."""
    left, right = axes.get_xlim()
    return at * (right / left) ** step if axes.get_xscale() == "log" else at + step * (right - left)


def draw_bounds(axes: Axes, own: pl.DataFrame, colour: Any) -> None:
    """Censored seeds: an arrow towards where the value lies, or a bar between its bounds."""
    look = {"ls": "", "ms": 11, "mew": 0.8, "alpha": 0.8, "mfc": "none", "color": colour, "zorder": 3}
    for side, end, arrow in (("above", "low", style.BEYOND), ("below", "high", style.BELOW)):
        part = own.filter(pl.col("kind") == side)
        if part.height:
            axes.plot(part["at"], part[end], marker=arrow, **look)
    part = own.filter(pl.col("kind") == "between")
    if part.height:
        axes.vlines(part["at"], part["low"], part["high"], color=colour, lw=0.8, ls=":", zorder=3)


def ends(table: pl.DataFrame, log: bool = False) -> list[float]:
    """What the axis of values has to hold: all seeds and means, and as much of intervals as leaves these readable."""
    at, back = (np.log, np.exp) if log else (np.asarray, np.asarray)
    core = finite(table.filter(pl.col("part") != "mean"), "value", "low", "high") + finite(table, "value")
    core = [value for value in core if value > 0 or not log]
    if not core:
        return []
    low, high = float(at(min(core))), float(at(max(core)))
    room = 0.7 * (high - low) or 1.0
    wide = [value for value in finite(table.filter(pl.col("part") == "mean"), "low", "high") if value > 0 or not log]
    return [*core, *back(np.clip(at(np.array(wide, dtype=float)), low - room, high + room)).tolist()]


def finite(table: pl.DataFrame, *names: str) -> list[float]:
    return [value for name in names for value in table[name].drop_nulls() if np.isfinite(value)]


def shown(table: pl.DataFrame, scale: Scale) -> pl.DataFrame:
    """As shown on the quantity's axis."""
    return scale.shown(table, "value", "low", "high")
