"""How a declared quantity is shown: on its own scale, whatever the transform that it is analysed in."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from matplotlib import ticker
from matplotlib.axes import Axes
from scipy import special

from analysis.figures import style
from analysis.stats.arrays import Array
from analysis.stats.format import short
from halflife.tracking.questions import Quantity
from halflife.tracking.schema import Axis, Declaration

ITEMS = (Axis(name="k", label="Soft-prompt tokens", values=(), scale="log"),)
"""Axes that derived readings add (halflife.tracking.questions.DERIVED)."""
LINE = 30
"""Characters of a y label that fit the height of a low panel."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A quantity's axis."""

    label: str
    log: bool = False
    back: Callable[[Array], Array] = np.asarray
    """From the numbers that are averaged and compared to those that are shown."""
    straight: bool = True
    """Whether a straight line stays one."""

    def shown(self, frame: pl.DataFrame, *names: str) -> pl.DataFrame:
        """`frame` with these columns as they are shown; missing stays missing."""
        back = self.back
        return frame.with_columns(pl.Series(name, back(frame[name].cast(pl.Float64).to_numpy()), nan_to_null=True)
                                  for name in names)  # fmt: skip


def scale_of(quantity: Quantity) -> Scale:
    """Logarithms are shown as what they are the logarithm of, logits as rates; a difference of either as a ratio."""
    label, unit = capital(quantity.label.removeprefix("the ")), quantity.unit
    compared = quantity.against is not None and quantity.against.how != "retention"
    if compared and quantity.transform in ("log", "logit"):
        what = "ratio" if quantity.transform == "log" else "odds ratio"
        return Scale(label=f"{label} ({what})", log=True, back=_exp)
    if compared and quantity.against is not None and quantity.against.how == "ratio":
        return Scale(label=f"{label} (ratio)")
    label = f"{label} ({unit})" if unit else label
    if quantity.transform == "log":
        return Scale(label=label, log=True, back=_exp)
    if quantity.transform == "logit":
        return Scale(label=label, back=special.expit, straight=False)
    return Scale(label=label)


def _exp(values: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.exp(values)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def axis_of(name: str, declaration: Declaration) -> Axis:
    """The declared axis of a trial parameter, that of an item of a derived reading, or one with its name."""
    found = {axis.name: axis for axis in (*ITEMS, *declaration.axes)}
    return found.get(name) or Axis(name=name, label=capital(name.replace("_", " ")), values=())


def axis_label(axis: Axis) -> str:
    return f"{axis.label} ({axis.unit})" if axis.unit else axis.label


def amount_axis(axes: Axes, amounts: list[float], log: bool) -> None:
    """An x axis of few amounts, a tick at each that has room; 0 is set apart on a log axis."""
    positive = [at for at in amounts if at > 0]
    if log and len(positive) > 1:
        low, high = min(positive), max(positive)
        ticks, at = positive, np.log10
        if len(positive) < len(amounts):
            ticks = [low / style.GAP, *positive]
        axes.set_xscale("log")
        pad = (high / ticks[0]) ** 0.06
        axes.set_xlim(ticks[0] / pad, high * pad)
    else:
        ticks, at = amounts, np.asarray
        pad = 0.06 * (max(amounts) - min(amounts)) or 1.0
        axes.set_xlim(min(amounts) - pad, max(amounts) + pad)
    room = (at(ticks[-1]) - at(ticks[0])) / 9 if len(ticks) > 1 else 0
    kept = [ticks[0]]
    for tick in ticks[1:]:
        if at(tick) - at(kept[-1]) >= room:
            kept.append(tick)
    zero = log and ticks[0] not in amounts
    axes.set_xticks(kept, ["0" if zero and tick == ticks[0] else style.trimmed(tick) for tick in kept])
    axes.set_xticks([tick for tick in ticks if tick not in kept], minor=True)
    axes.xaxis.set_minor_formatter(lambda value, _: "")


def placed(amounts: pl.Series, all_amounts: list[float], log: bool) -> Array:
    """Where `amount_axis` shows them."""
    positive = [at for at in all_amounts if at > 0]
    values = amounts.cast(pl.Float64).to_numpy()
    return np.where(values > 0, values, min(positive) / style.GAP) if log and len(positive) > 1 else values


def value_axis(axes: Axes, scale: Scale, values: list[float], *, room: float = 0.08) -> None:
    """A y axis over finite `values`, with a share of `room` above and below for arrows."""
    axes.set_ylabel(textwrap.fill(scale.label, LINE))
    found = np.array([value for value in values if value is not None and np.isfinite(value)])
    if scale.log:
        found = found[found > 0]
    if not found.size:
        style.nothing_here(axes, "no seed has a number")
        return
    low, high = float(found.min()), float(found.max())
    if scale.log:
        pad = max(high / low, 1.2) ** room
        axes.set_yscale("log")
        axes.set_ylim(low / pad, high * pad)
        style.log_ticks(axes.yaxis, low / pad, high * pad)
        return
    pad = (high - low) * room or 0.1 * abs(high) or 1.0
    axes.set_ylim(low - pad, high + pad)
    axes.yaxis.set_major_locator(ticker.MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(lambda value, _: plain(value))


def plain(value: float) -> str:
    """A tick label: 0.5, 20k, without trailing zeros."""
    text = short(value)
    text = style.trimmed(value) if text[-1] in "TBMk" or ("." in text and "e" not in text) else text
    return text.replace("-", "−")
