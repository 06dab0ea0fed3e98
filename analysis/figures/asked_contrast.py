"""A contrast: the pairs of each seed, and their differences with interval and margin; by size where sizes differ."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.answers.questions import SEED, SETTING, Answer
from analysis.decay.design import value_label
from analysis.figures import points, style
from analysis.figures.asked_titles import difference_unit, title
from analysis.figures.scale import Scale, axis_of, plain, scale_of, value_axis
from analysis.runs.study import StudyData
from halflife.tracking.questions import Contrast
from halflife.tracking.schema import Declaration

CAPTION = (
    "Left: {quantity} in the two arms; a line joins the pair of one seed, large marks are means over seeds with 95% t "
    "intervals. Right: the difference, or ratio, of each pair (small) and its mean over seeds; the last row, over all "
    "pairs, is the answer with its interval. Shaded: within the margin. An arrow marks a value that is only bounded."
)
LABEL = 38
"""Characters of a line below the right panel."""
ALL = "all pairs"
SIZE = "parameters"
ARMS = ("low", "high")


def table(answer: Answer, data: StudyData) -> pl.DataFrame:
    """part arm: a value of one seed (or without a seed, their mean) in the arm `low` or `high`; part difference: of one
    seed's pairs, or over seeds; `size` and `parameters` where sizes differ, else size is ALL."""
    question, scale = answer.question, scale_of(answer.quantities[0])
    assert isinstance(question, Contrast)
    used = answer.used.with_columns(arm=_arm(answer.used, question)).drop_nulls("arm")
    split = SIZE in used.columns and used[SIZE].n_unique() > 1
    labels = (
        pl.col("size") if "size" in used.columns else pl.col(SIZE).map_elements(style.trimmed, return_dtype=pl.String)
    )
    used = used.with_columns(size=labels if split else pl.lit(ALL), parameters=pl.col(SIZE) if split else pl.lit(0))
    values = used.select(
        "arm", "size", "parameters", SETTING, pl.col(SEED).cast(pl.String).alias("seed"), "low", "high"
    )
    values = values.with_columns(kind=points.kind()).drop_nulls("kind").sort("parameters", "seed", "arm")
    sides = [values.filter(pl.col("arm") == arm).rename({"low": f"{arm}_low", "high": f"{arm}_high"}) for arm in ARMS]
    keys = ["size", "parameters", "seed", SETTING]
    pairs = sides[0].drop("arm", "kind").join(sides[1].drop("arm", "kind"), on=keys)
    pairs = pairs.with_columns(
        low=pl.col("high_low") - pl.col("low_high"), high=pl.col("high_high") - pl.col("low_low")
    )
    pairs = _per_seed(pairs.with_columns(kind=points.kind()).drop_nulls("kind"), [])
    arms = _per_seed(values, ["arm"])
    if pairs.is_empty():
        return pairs
    rows = [{"part": "difference", "size": ALL, **_answer(answer)}]
    for (size, n), part in pairs.group_by(["size", "parameters"], maintain_order=True) if split else ():
        rows.append({"part": "difference", "size": size, "parameters": n, **_over(part)})
    for (arm, size, n), part in arms.group_by(["arm", "size", "parameters"], maintain_order=True):
        rows.append({"part": "arm", "arm": arm, "size": size, "parameters": n, **_over(part)})
    of = {name: points.POINTS[name] for name in points.MEAN}
    means = pl.DataFrame(
        rows, schema={"part": pl.String, "arm": pl.String, "size": pl.String, "parameters": pl.Int64, **of}
    )
    if split:
        pairs = pl.concat(
            [pairs, _per_seed(pairs.with_columns(size=pl.lit(ALL), parameters=pl.lit(None, pl.Int64)), [])]
        )
    found = pl.concat([arms.with_columns(part=pl.lit("arm")), pairs.with_columns(part=pl.lit("difference")), means],
                      how="diagonal_relaxed")  # fmt: skip
    difference = pl.col("part") == "difference"
    shown = points.shown(found.filter(~difference), scale)
    return pl.concat([shown, points.shown(found.filter(difference), _differences(scale))])


def _differences(scale: Scale) -> Scale:
    """A difference of logarithms is the ln of a ratio; of others it stays what it is."""
    return Scale(label="ratio", log=True, back=scale.back) if scale.log else Scale(label="difference")


def _arm(used: pl.DataFrame, question: Contrast) -> pl.Expr:
    """low or high, as the values are logged."""
    at = pl.col(question.axis).cast(pl.String)
    found = dict(zip(used[question.axis].cast(pl.String), used[question.axis], strict=True))
    arms = tuple(zip(ARMS, (question.low, question.high), strict=True))
    names = {text: arm for text, value in found.items() for arm, given in arms if value == given or text == str(given)}
    return at.replace_strict(names, default=None, return_dtype=pl.String)


def _per_seed(values: pl.DataFrame, more: list[str]) -> pl.DataFrame:
    """Means over settings of one seed, size and arm, with their kind."""
    found = values.group_by("size", "parameters", "seed", *more, maintain_order=True).agg(pl.col("low", "high").mean())
    found = found.with_columns(kind=points.kind()).drop_nulls("kind")
    return found.with_columns(value=pl.when(pl.col("kind") == "known").then("low")).sort("parameters", "seed")


def _over(part: pl.DataFrame) -> dict[str, Any]:
    return points.over_seeds(part["low"].to_numpy(), part["high"].to_numpy())


def _answer(answer: Answer) -> dict[str, Any]:
    found = answer.verdict.interval if answer.verdict else None
    if found is None:
        return dict.fromkeys(points.MEAN)
    ends = [None if end is None or math.isinf(end) else end for end in (found.low, found.high)]
    side = "above" if found.high == math.inf else "below" if found.low == -math.inf else "known"
    return dict(zip(points.MEAN, (found.estimate, *ends, side, found.count), strict=True))


def draw(table: pl.DataFrame, answer: Answer, declaration: Declaration) -> Figure:
    question = answer.question
    assert isinstance(question, Contrast)
    sizes = (
        table.filter(pl.col("part") == "arm").select("size", "parameters").unique().sort("parameters")["size"].to_list()
    )
    with style.styled():
        figure = style.new_figure(1.6 + 0.32 * max(len(sizes), 3))
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
        names = _arm_names(question, declaration)
        _pairs(left, table.filter(pl.col("part") == "arm"), sizes, scale_of(answer.quantities[0]), names)
        _rows(right, table.filter(pl.col("part") == "difference"), sizes, answer, names)
        figure.suptitle(title(answer), x=0.01, ha="left", fontsize=8.5, fontweight="bold")
        style.despine(figure)
    return figure


def _arm_names(question: Contrast, declaration: Declaration) -> tuple[str, str]:
    if question.axis == "role":
        labels = {control.role: control.label for control in declaration.controls if control.role}
        low, high = (labels.get(str(value), str(value)) for value in (question.low, question.high))
    else:
        axis = axis_of(question.axis, declaration)
        low, high = (value_label(axis, value) for value in (question.low, question.high))
    return low, high


def _pairs(axes: Axes, table: pl.DataFrame, sizes: list[str], scale: Scale, names: tuple[str, str]) -> None:
    apart = 0.2
    at = {
        (size, arm): place + side * apart
        for place, size in enumerate(sizes)
        for side, arm in zip((-1, 1), ARMS, strict=True)
    }
    table = table.with_columns(at=pl.Series([at[row] for row in table.select("size", "arm").iter_rows()]))
    singles, means = table.drop_nulls("seed"), table.filter(pl.col("seed").is_null())
    known = singles.filter(pl.col("kind") == "known").sort("at").partition_by("size", "seed", maintain_order=True)
    axes.plot(*points.chained(known), "-", lw=0.6, alpha=0.6, color=style.MUTED, marker=".", ms=3, zorder=2)
    points.draw_bounds(axes, singles, style.MUTED)
    for arm, marker, fill in (("low", "o", "white"), ("high", "s", style.INK)):
        own = means.filter(pl.col("arm") == arm)
        spread = own.drop_nulls(["low", "high"])
        axes.vlines(spread["at"], spread["low"], spread["high"], color=style.INK, lw=1.3, zorder=3)
        known = own.filter(pl.col("kind") == "known")
        axes.plot(known["at"], known["value"], ls="", marker=marker, ms=5, mfc=fill, mec=style.INK, mew=1, zorder=4)
        points.draw_mean_bounds(axes, own)
    axes.set_xlim(-0.5, len(sizes) - 0.5)
    if sizes == [ALL]:
        axes.set_xticks([])
    else:
        axes.set_xticks(range(len(sizes)), sizes)
        axes.set_xlabel("non-embedding parameters")
    axes.tick_params(axis="x", length=0)
    axes.grid(visible=False, axis="x")
    shown = singles.with_columns(part=pl.lit("seed")), means.with_columns(part=pl.lit("mean"))
    value_axis(axes, scale, points.ends(pl.concat(shown), scale.log))
    handles = [Line2D([], [], ls="", marker=marker, ms=5, mfc=fill, mec=style.INK, label=_short(name))
               for marker, fill, name in zip("os", ("white", style.INK), names, strict=True)]  # fmt: skip
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderaxespad=0.2, labelspacing=0.3)


def _short(text: str, most: int = 44) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _rows(axes: Axes, table: pl.DataFrame, sizes: list[str], answer: Answer, names: tuple[str, str]) -> None:
    """One row per size and one over all pairs, the answer's."""
    scale = _differences(scale_of(answer.quantities[0]))
    places = {size: place for place, size in enumerate([*(sizes if sizes != [ALL] else []), ALL])}
    margin = answer.question.margin
    if margin is not None:
        low, high = scale.back(np.array([-margin, margin]))
        axes.axvspan(low, high, color=style.FAINT, alpha=0.55, lw=0, zorder=0)
    axes.axvline(1.0 if scale.log else 0.0, color=style.INK, lw=0.8, zorder=1)
    singles, means = table.drop_nulls("seed"), table.filter(pl.col("seed").is_null())
    aside = 0.16 * (2 * pl.int_range(pl.len()).over("size") / (pl.len().over("size") - 1).clip(1) - 1)
    rows = singles.with_columns(at=pl.col("size").replace_strict(places, return_dtype=pl.Float64) + aside)
    known = rows.filter(pl.col("kind") == "known")
    look = {"ls": "", "color": style.MUTED, "zorder": 2}
    axes.plot(known["value"], known["at"], marker="o", ms=3, mew=0, alpha=0.6, **look)
    for side, end, arrow in (("above", "low", style.RIGHT), ("below", "high", style.LEFT)):
        part = rows.filter(pl.col("kind") == side)
        axes.plot(part[end], part["at"], marker=arrow, ms=11, mew=0.8, mfc="none", **look)
    part = rows.filter(pl.col("kind") == "between")
    axes.hlines(part["at"], part["low"], part["high"], color=style.MUTED, lw=0.8, ls=":", zorder=2)
    for row in means.drop_nulls("value").iter_rows(named=True):
        place, last = places[row["size"]], row["size"] == ALL
        ends = [row["value"] if row[end] is None else row[end] for end in ("low", "high")]
        if ends[0] < ends[1]:
            axes.plot(ends, [place] * 2, color=style.INK, lw=2.2 if last else 1.3, zorder=3)
        if row["kind"] == "known":
            look = {"marker": "D" if last else "o", "ms": 6 if last else 5, "mec": "white", "mew": 0.6}
        else:
            look = {
                "marker": style.RIGHT if row["kind"] == "above" else style.LEFT,
                "ms": 15,
                "mew": 1.5,
                "mfc": "none",
            }
        axes.plot([row["value"]], [place], color=style.INK, zorder=4, **look)
    axes.set_yticks(list(places.values()), [str(size) for size in places])
    axes.set_ylim(len(places) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    shown = pl.concat([singles.with_columns(part=pl.lit("seed")), means.with_columns(part=pl.lit("mean"))])
    found = points.ends(shown, scale.log)
    found += [] if margin is None else scale.back(np.array([-margin, margin])).tolist()
    unit, (first, second) = difference_unit(answer.quantities[0]), names
    if scale.log:
        style.ratio_axis(axes, found)
        axes.set_xlabel(textwrap.fill(f"ratio: {second} / {first}", LABEL, break_on_hyphens=False))
        return
    low, high = min([0.0, *found]), max([0.0, *found])
    pad = 0.08 * (high - low) or 1.0
    axes.set_xlim(low - pad, high + pad)
    axes.xaxis.set_major_formatter(lambda value, _: plain(value))
    label = f"{second} − {first}{f' ({unit[1:]})' if unit else ''}"
    axes.set_xlabel(textwrap.fill(label, LABEL, break_on_hyphens=False))
