"""A law fitted to any table: the data and the curve, in axes of one's own or a figure.

Drawn is what the fit's table says: where its parameters are means over groups, their curve before each group's own.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.fitting.fit import by_group, fits_alone
from analysis.fitting.intervals import intervals
from analysis.fitting.result import Fit
from analysis.stats.format import short
from analysis.stats.intervals import binomial_interval

FITTED = {"kind": pl.String, "line": pl.String, "group": pl.String, "x": pl.Float64, "y": pl.Float64,
          "low": pl.Float64, "high": pl.Float64}  # fmt: skip
LINES, POINTS, NAMED = 8, 200, 8
"""Values of a law's further inputs for which a curve is drawn, points of a curve, and groups that the legend names."""


def fitted_table(fit: Fit) -> pl.DataFrame:
    """kind (data; bound: a value known to be larger or smaller; group: the law fitted to one group; law: with the
    parameters of the fit's table, absent where a mean over groups has none), line (values of the further inputs), group
    (null without curves of groups), x (the first input), y, and for counts the 95 % interval of the rate, low and high.
    Rates include chance."""
    data = fit.observations
    x, others = data.x[:, 0], data.x[:, 1:]
    low = high = np.full(data.n, np.nan)
    if data.hits is not None and data.trials is not None:
        low, high = binomial_interval(data.hits, data.trials)
    kind = np.full(data.n, "data") if data.censored is None else np.where(data.censored, "bound", "data")
    curves = {None: fit.theta}
    names: np.ndarray | list[None] = [None] * data.n
    if data.group is not None and np.unique(data.group).size > 1 and fits_alone(fit):
        names = np.array([str(name) for name in data.group])
        mean = np.array([each.estimate for each in intervals(fit).parameters.values()])
        curves = dict(zip([str(name) for name in np.unique(data.group)], by_group(fit).theta, strict=True))
        curves |= {None: mean} if np.isfinite(mean).all() else {}
    points = pl.DataFrame(
        {"kind": kind, "line": [_label(fit, row) for row in others], "group": names, "x": x, "y": data.response,
         "low": low, "high": high}, schema=FITTED, nan_to_null=True,
    )  # fmt: skip
    parts = [points]
    chance = getattr(fit.error, "chance", 0.0)
    for row in np.unique(others, axis=0):
        here = (others == row).all(axis=1)
        for group, theta in curves.items():
            at = _grid(x[here & (names == group if group else True)])
            value = fit.law.value(theta, np.column_stack([at, np.tile(row, (at.size, 1))]))
            parts.append(pl.DataFrame(
                {"kind": "group" if group else "law", "line": _label(fit, row), "group": group, "x": at,
                 "y": chance + (1 - chance) * value, "low": None, "high": None}, schema=FITTED
            ))  # fmt: skip
    return pl.concat(parts)


def _label(fit: Fit, others: np.ndarray) -> str:
    return ", ".join(f"{name} = {short(float(v))}" for name, v in zip(fit.law.inputs[1:], others, strict=True))


def _grid(x: np.ndarray) -> np.ndarray:
    """From the first to the last x, evenly in its logarithm where it spans a decade, with 0 if the data have it."""
    positive = x[x > 0]
    if positive.size > 1 and positive.min() > 0 and positive.max() >= 10 * positive.min() and x.min() >= 0:
        return np.concatenate([[0.0] * bool(x.min() == 0), np.geomspace(positive.min(), positive.max(), POINTS)])
    return np.linspace(x.min(), x.max(), POINTS)


def draw_fitted(table: pl.DataFrame, axes: Axes, *, x_label: str = "", y_label: str = "", log_y: bool = False) -> None:
    """Draws `fitted_table` into `axes`: points, bounds as arrows, one curve per value of the further inputs. The x axis
    is logarithmic over a decade or more, and where `axes` had it so; then 0 is set apart, which its label says."""
    x = table["x"].to_numpy()
    positive = x[x > 0]
    log = axes.get_xscale() == "log"  # the caller's wish
    if x.min() > 0 and (log or x.max() >= 10 * x.min()):
        axes.set_xscale("log")
        style.log_ticks(axes.xaxis, x.min(), x.max())
    elif x.min() == 0 and positive.size and (log or positive.max() >= 30 * positive.min()):
        zero = style.log_axis_with_zero(axes, float(positive.min()), float(x.max()))
        table = table.with_columns(x=pl.when(pl.col("x") > 0).then("x").otherwise(zero))
        x_label = f"{x_label or 'x'} (logarithmic; 0 is set apart at the left)"
    else:
        style.linear_ticks(axes.xaxis, x.min(), x.max())
    lines = table.filter(pl.col("kind").is_in(["law", "group"]))["line"].unique(maintain_order=True).to_list()
    shown = [lines[i] for i in np.unique(np.linspace(0, len(lines) - 1, min(LINES, len(lines))).astype(int))]
    handles = []
    groups = table["group"].drop_nulls().unique(maintain_order=True).to_list()
    apart = bool(groups) and len(lines) == 1  # colours tell groups apart, and the mean is in ink
    for line, colour in zip(shown, style.colours(len(shown)), strict=True):
        own = table.filter(pl.col("line") == line).sort("x")
        law = own.filter(pl.col("kind") == "law")
        axes.plot(law["x"], law["y"], color=style.INK if apart else colour, lw=2.0 if groups else 1.5, zorder=4)
        shades = style.colours(len(groups)) if apart else [colour] * max(len(groups), 1)
        for group, shade in zip(groups or [None], shades, strict=True):
            part = own.filter(pl.col("group").eq_missing(group))
            fitted, seen, bound = (part.filter(pl.col("kind") == kind) for kind in ("group", "data", "bound"))
            axes.plot(fitted["x"], fitted["y"], color=shade, lw=0.8, alpha=0.8, zorder=3)
            known = seen.drop_nulls(["low", "high"])
            axes.vlines(known["x"], known["low"], known["high"], color=shade, lw=0.8, alpha=0.5, zorder=1)
            axes.plot(seen["x"], seen["y"], ls="", marker="o", ms=3, color=shade, alpha=0.7, zorder=2)
            axes.plot(bound["x"], bound["y"], ls="", marker=style.BEYOND, ms=10, mfc="none", color=shade, zorder=2)
        if not apart:
            handles.append(Line2D([], [], color=colour, lw=1.5, marker="o", ms=3, label=line))
    if groups:
        named = apart and len(groups) <= NAMED
        labels = [f"group {name}" for name in groups] if named else [f"each of {len(groups)} groups"]
        shades = style.colours(len(groups)) if apart else [style.MUTED]
        handles += [Line2D([], [], color=shade, lw=0.8, marker="o", ms=3, label=label)
                    for label, shade in zip(labels, shades, strict=False)]  # fmt: skip
        mean = (
            "mean over groups, as in the table" if "law" in table["kind"] else "no mean: not identified in all groups"
        )
        handles.append(Line2D([], [], color=style.INK, lw=2.0 * ("law" in table["kind"]), label=mean))
    if log_y:
        y = table["y"].to_numpy()
        axes.set_yscale("log")
        style.log_ticks(axes.yaxis, y.min(), y.max())
    else:
        style.linear_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if shown != [""] or groups:
        axes.legend(handles=handles, frameon=False, fontsize="small")


def names(fit: Fit) -> tuple[str, str]:
    """What is on the axes: the columns of the fit's table, otherwise the law's names."""
    y = "rate" if fit.observations.hits is not None else fit.law.formula.partition(" = ")[0].removeprefix("ln ")
    return fit.columns.get(fit.law.inputs[0], fit.law.inputs[0]), fit.columns.get("rate", fit.columns.get("y", y))


def fitted_figure(fit: Fit) -> Figure:
    """A figure of its own."""
    with style.styled():
        figure = style.new_figure(3.4, style.WIDTH * 0.7)
        axes = figure.subplots()
        x, y = names(fit)
        draw_fitted(fitted_table(fit), axes, x_label=x, y_label=y, log_y=fit.error.relative)
        axes.set_title(f"{fit.law.name}: {fit.law.formula}", fontsize="small", loc="left")
        style.despine(figure)
    return figure
