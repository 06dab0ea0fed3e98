"""The pair of languages between which no translation was trained: how much generalised, and how long it lasts."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay.conditions import FAMILY, conditions
from analysis.decay.retention import wide_points
from analysis.figures import style
from analysis.figures.common import KINDS, control_labels
from analysis.runs.study import StudyData
from analysis.stats.intervals import t_interval
from halflife.tracking import schema

CAPTION = (
    "Success in translating between the two languages whose pair was left out of training, in both directions: every "
    "correct answer was generalised. Left: at the drop, by size; small points are seeds, large points are means with "
    "95% t intervals, the horizontal line is chance. Right: since the drop of another language, as means over seeds, "
    "one colour per size; grey: controls, averaged over sizes. A curve that falls along with the dropped language "
    "shows that the generalisation depended on it."
)
TASK = "untrained"


def generalisation_table(data: StudyData) -> pl.DataFrame:
    """One row per run at the reference setting and evaluation: role, label, family, size, parameters, seed, tokens,
    hits, trials, success, chance."""
    wide = wide_points(data, data.declaration.outcomes[0].phase)
    hits, trials, guess = (f"{TASK}/{name}" for name in (schema.HITS, schema.TRIALS, "chance"))
    if hits not in wide.columns:
        return pl.DataFrame()
    chance = pl.col(guess) if guess in wide.columns else pl.lit(None, dtype=pl.Float64)
    labels = control_labels(data)
    return (
        wide.select(
            "trial", tokens=pl.col("step").cast(pl.Float64), hits=hits, trials=trials,
            success=pl.col(hits) / pl.col(trials), chance=chance,
        )
        .drop_nulls("success")
        .join(conditions(data).filter("plain"), on="trial")
        .with_columns(label=pl.col("role").replace(labels))
        .select(
            "role", "label", pl.col(FAMILY).cast(pl.String), "size", "parameters", "seed", "tokens", "hits", "trials",
            "success", "chance",
        )
        .sort(pl.col("role") != "treatment", "role", "parameters", "seed", "tokens")
    )  # fmt: skip


def draw_generalisation(table: pl.DataFrame) -> Figure:
    sizes = style.by_size(table)
    with style.styled():
        figure = style.new_figure(2.9)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.6), sharey=True)
        _at_drop(left, table.filter((pl.col("role") == "treatment") & (pl.col("tokens") == 0)), sizes)
        _since(right, table, sizes)
        guessed = table["chance"].drop_nulls()
        for axes in (left, right):
            if guessed.len():
                axes.axhline(float(guessed.to_numpy().mean()), color=style.MUTED, lw=0.9, ls=(0, (4, 2)), zorder=1)
            axes.set_ylim(-0.03, 1.03)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
        left.set_ylabel("success on the untrained pair")
        style.despine(figure)
        handles = [Line2D([], [], color=colour, lw=1.8, label=size) for size, _, colour in sizes]
        others = table.filter(pl.col("role") != "treatment").select("role", "label").unique().sort("role")
        handles += [
            Line2D([], [], color=style.MUTED, lw=1.1, ls=KINDS.get(role, "-."), label=label)
            for role, label in others.iter_rows()
        ]
        style.legend_above(figure, handles)
    return figure


def _at_drop(axes: Axes, table: pl.DataFrame, sizes: list) -> None:
    style.size_axis(axes, sizes)
    for size, n, colour in sizes:
        own = table.filter(pl.col("size") == size)
        axes.plot(own["parameters"], own["success"], "o", ms=2.2, color=colour, alpha=0.6)
        mean = t_interval(own["success"])
        if mean is None:
            continue
        if mean.low is not None and mean.high is not None and own.height > 2:
            axes.plot([n, n], [max(mean.low, 0), min(mean.high, 1)], color=colour, lw=1.3, solid_capstyle="butt")
        axes.plot([n], [mean.estimate], "o", ms=5, color=colour, mec="white", mew=0.5)
    axes.set_title("at the drop")
    axes.set_xlabel("non-embedding parameters")


def _since(axes: Axes, table: pl.DataFrame, sizes: list) -> None:
    after = table.filter(pl.col("tokens") > 0)["tokens"].to_numpy()
    axes.set_title("since the drop")
    axes.set_xlabel("tokens since the drop")
    if not after.size:
        return
    zero = style.log_axis_with_zero(axes, float(after.min()), float(after.max()))

    def curve(own: pl.DataFrame, **look) -> None:
        mean = own.group_by("tokens").agg(pl.col("success").mean()).sort("tokens")
        at = mean.select(pl.when(pl.col("tokens") > 0).then("tokens").otherwise(zero))["tokens"]
        axes.plot(at, mean["success"], **look)

    for role in table.filter(pl.col("role") != "treatment")["role"].unique(maintain_order=True):
        curve(table.filter(pl.col("role") == role), color=style.MUTED, lw=1.1, ls=KINDS.get(role, "-."), zorder=3)
    for size, _, colour in sizes:
        curve(table.filter((pl.col("role") == "treatment") & (pl.col("size") == size)), color=colour, lw=1.8, zorder=4)
