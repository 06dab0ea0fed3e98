"""A law fitted to any table: the data and the curve, in axes of one's own or a figure."""

from __future__ import annotations

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.fitting.result import Fit
from analysis.stats.format import short
from analysis.stats.intervals import binomial_interval

FITTED = {"kind": pl.String, "line": pl.String, "x": pl.Float64, "y": pl.Float64, "low": pl.Float64,
          "high": pl.Float64}  # fmt: skip
LINES, POINTS = 8, 200
"""Values of a law's further inputs for which a curve is drawn, and points of a curve."""


def fitted_table(fit: Fit) -> pl.DataFrame:
    """kind (data, bound: a value known to be larger or smaller, or law), line (values of the further inputs), x (the
    first input), y, and for counts the 95 % interval of the rate, low and high. Rates include chance."""
    data = fit.observations
    x, others = data.x[:, 0], data.x[:, 1:]
    low = high = np.full(data.n, np.nan)
    if data.hits is not None and data.trials is not None:
        low, high = binomial_interval(data.hits, data.trials)
    kind = np.full(data.n, "data") if data.censored is None else np.where(data.censored, "bound", "data")
    points = pl.DataFrame(
        {"kind": kind, "line": [_label(fit, row) for row in others], "x": x, "y": data.response, "low": low,
         "high": high}, schema=FITTED, nan_to_null=True,
    )  # fmt: skip
    curves = [points]
    chance = getattr(fit.error, "chance", 0.0)
    for row in np.unique(others, axis=0):
        at = _grid(x[(others == row).all(axis=1)])
        value = fit.predict(np.column_stack([at, np.tile(row, (at.size, 1))]))
        label = _label(fit, row)
        curves.append(
            pl.DataFrame({"kind": "law", "line": label, "x": at, "y": chance + (1 - chance) * value, "low": None,
                          "high": None}, schema=FITTED)
        )  # fmt: skip
    return pl.concat(curves)


def _label(fit: Fit, others: np.ndarray) -> str:
    return ", ".join(f"{name} = {short(float(v))}" for name, v in zip(fit.law.inputs[1:], others, strict=True))


def _grid(x: np.ndarray) -> np.ndarray:
    """From the first to the last x, evenly in its logarithm where it spans a decade, with 0 if the data have it."""
    positive = x[x > 0]
    if positive.size > 1 and positive.min() > 0 and positive.max() >= 10 * positive.min() and x.min() >= 0:
        return np.concatenate([[0.0] * bool(x.min() == 0), np.geomspace(positive.min(), positive.max(), POINTS)])
    return np.linspace(x.min(), x.max(), POINTS)


def draw_fitted(table: pl.DataFrame, axes: Axes, *, x_label: str = "", y_label: str = "", log_y: bool = False) -> None:
    """Draws `fitted_table` into `axes`: points, bounds as arrows, one curve per value of the further inputs."""
    x = table["x"].to_numpy()
    positive = x[x > 0]
    if x.min() > 0 and x.max() >= 10 * x.min():
        axes.set_xscale("log")
        style.log_ticks(axes.xaxis, x.min(), x.max())
    elif x.min() == 0 and positive.size and positive.max() >= 30 * positive.min():
        zero = style.log_axis_with_zero(axes, float(positive.min()), float(x.max()))
        table = table.with_columns(x=pl.when(pl.col("x") > 0).then("x").otherwise(zero))
    lines = table.filter(pl.col("kind") == "law")["line"].unique(maintain_order=True).to_list()
    shown = [lines[i] for i in np.unique(np.linspace(0, len(lines) - 1, min(LINES, len(lines))).astype(int))]
    handles = []
    for line, colour in zip(shown, style.colours(len(shown)), strict=True):
        own = table.filter(pl.col("line") == line).sort("x")
        law, seen, bound = (own.filter(pl.col("kind") == kind) for kind in ("law", "data", "bound"))
        axes.plot(law["x"], law["y"], color=colour, lw=1.5, zorder=3)
        known = seen.drop_nulls(["low", "high"])
        axes.vlines(known["x"], known["low"], known["high"], color=colour, lw=0.8, alpha=0.5, zorder=1)
        axes.plot(seen["x"], seen["y"], ls="", marker="o", ms=3, color=colour, alpha=0.7, zorder=2)
        axes.plot(bound["x"], bound["y"], ls="", marker=style.BEYOND, ms=10, mfc="none", color=colour, zorder=2)
        handles.append(Line2D([], [], color=colour, lw=1.5, marker="o", ms=3, label=line))
    if log_y:
        y = table["y"].to_numpy()
        axes.set_yscale("log")
        style.log_ticks(axes.yaxis, y.min(), y.max())
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    if shown != [""]:
        axes.legend(handles=handles, frameon=False, fontsize="small")


def fitted_figure(fit: Fit) -> Figure:
    """A figure of its own."""
    with style.styled():
        figure = style.new_figure(3.4, style.WIDTH * 0.7)
        axes = figure.subplots()
        y = fit.law.formula.partition(" = ")[0].removeprefix("ln ")
        draw_fitted(fitted_table(fit), axes, x_label=fit.law.inputs[0], y_label=y, log_y=fit.error.relative)
        axes.set_title(f"{fit.law.name}: {fit.law.formula}", fontsize="small", loc="left")
        style.despine(figure)
    return figure
