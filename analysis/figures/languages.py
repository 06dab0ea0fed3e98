"""Retention of every language since the drop, on three clocks, family by family."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay.conditions import DROPPED, FAMILY, conditions
from analysis.decay.formulas import MIN_SUCCESS
from analysis.decay.retention import CLOCKS, wide_points
from analysis.figures import style
from analysis.runs.study import StudyData
from analysis.stats.intervals import t_interval
from halflife.tracking import schema

CAPTION = (
    "Retention of all that was learned, by success above chance: 1 as at the drop, 0 at chance, negative if other "
    "answers displace it. One row per family at the reference setting, one column per clock. Red: the dropped {skill} "
    "(which may differ between seeds), mean over seeds (sizes averaged within a seed) with its 95% t interval; pale "
    "red: translations from and into it; grey: what was kept; black: their mean. If the red curve falls while the "
    "grey ones stay, the model lost the dropped {skill} and not its abilities in general. What was not learned at the "
    "drop (success above chance below one half) is left out."
)
PREFIX = "language-"
SHOWN = ("tokens", "rate_sum", "displacement")
DROP_COLOUR = "#b3261e"
KINDS = ("kept", "translation", "dropped")


def languages_table(data: StudyData) -> pl.DataFrame:
    """One row per family, language and evaluation: kind (dropped | translation, from or into a dropped one | kept),
    the clocks (means over runs), mean retention over seeds, low and high (dropped languages only), seeds."""
    phase = data.declaration.outcomes[0].phase
    runs = conditions(data).filter((pl.col("role") == "treatment") & pl.col("plain"))
    if DROPPED not in runs.columns:
        runs = runs.with_columns(pl.lit("").alias(DROPPED))
    runs = runs.select("trial", "seed", "place", FAMILY, DROPPED)
    points = data.points.filter((pl.col("phase") == phase) & pl.col("name").str.starts_with(PREFIX))
    split = pl.col("name").str.strip_prefix(PREFIX).str.splitn("/", 2)
    points = points.with_columns(language=split.struct[0], measure=split.struct[1])
    if points.is_empty():
        return pl.DataFrame()
    wide = points.pivot(on="measure", index=["trial", "language", "step"], values="value").sort("trial", "step")
    chance = pl.col("chance") if "chance" in wide.columns else pl.lit(0.0)
    wide = wide.with_columns(rate=pl.col(schema.HITS) / pl.col(schema.TRIALS), chance=chance).drop_nulls("rate")
    first = wide.filter(pl.col("step") == 0).select("trial", "language", start="rate")
    wide = wide.join(first, on=["trial", "language"])
    wide = wide.filter(pl.col("start") - pl.col("chance") >= MIN_SUCCESS * (1 - pl.col("chance")))
    wide = wide.with_columns(retention=(pl.col("rate") - pl.col("chance")) / (pl.col("start") - pl.col("chance")))
    clocks = wide_points(data, phase)
    names = {"rate_sum": schema.CLOCK_RATE_SUM, "displacement": schema.CLOCK_DISPLACEMENT}
    clocks = clocks.select("trial", "step", **{name: pl.col(metric) for name, metric in names.items()})
    rows = wide.join(clocks, on=["trial", "step"]).join(runs, on="trial")
    kinds = [_kind(language, dropped.split("+")) for language, dropped in rows.select("language", DROPPED).iter_rows()]
    rows = rows.with_columns(pl.Series("kind", kinds, dtype=pl.String))
    # seeds may drop different languages: all of them are one line
    rows = rows.with_columns(language=pl.when(pl.col("kind") == "dropped").then(
        pl.col("language").filter(pl.col("kind") == "dropped").unique().sort().str.join(", ").over("place")
    ).otherwise("language"))  # fmt: skip
    found = []
    for key, part in rows.group_by("place", FAMILY, "language", "kind", "step"):
        place, family, language, kind, step = key
        seeds = part.group_by("seed").agg(pl.col("retention", *names).mean()).sort("seed")
        mean = t_interval(seeds["retention"]) if kind == "dropped" else None
        ends = (mean.low, mean.high) if mean else (None, None)
        middles = [float(seeds[name].to_numpy().mean()) for name in (*names, "retention")]
        found.append([place, str(family), language, kind, float(str(step)), *middles, *ends, seeds.height])
    columns = {
        "place": pl.Int64, "family": pl.String, "language": pl.String, "kind": pl.String, "tokens": pl.Float64,
        "rate_sum": pl.Float64, "displacement": pl.Float64, "retention": pl.Float64, "low": pl.Float64,
        "high": pl.Float64, "seeds": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(found, schema=columns, orient="row").sort("place", "language", "tokens")


def _kind(language: str, dropped: list[str]) -> str:
    if language in dropped:
        return "dropped"
    source, _, target = language.partition("-to-")
    return "translation" if target and {source, target} & set(dropped) else "kept"


def draw_languages(table: pl.DataFrame) -> Figure:
    families = table.partition_by("place", maintain_order=True)
    with style.styled():
        figure = style.new_figure(0.7 + 1.55 * len(families))
        grid = figure.subplots(len(families), len(SHOWN), sharey=True, sharex="col", squeeze=False)
        for row, part in zip(grid, families, strict=True):
            for axes, clock in zip(row, SHOWN, strict=True):
                _panel(axes, part, table, clock)
            name = part["family"][0]
            row[0].set_title(f"family {name}" if name else "")
            row[0].set_ylabel("retention")
        for axes, clock in zip(grid[-1], SHOWN, strict=True):
            axes.set_xlabel(CLOCKS[clock])
        style.despine(figure)
        colours = {"dropped": DROP_COLOUR, "kept": style.INK}
        labels = {"dropped": "dropped", "kept": "kept, and their mean"}
        handles = [Line2D([], [], color=colours[kind], lw=1.8, label=label) for kind, label in labels.items()]
        if (table["kind"] == "translation").any():
            translation = Line2D([], [], color=DROP_COLOUR, lw=0.7, alpha=0.45, label="its translations")
            handles.insert(1, translation)
        style.legend_above(figure, handles)
    return figure


def _panel(axes: Axes, part: pl.DataFrame, table: pl.DataFrame, clock: str) -> None:
    after = table.filter(pl.col(clock) > 0)[clock].to_numpy()
    if not after.size:
        style.nothing_here(axes, "evaluated at the drop only")
        return
    zero = style.log_axis_with_zero(axes, float(after.min()), float(after.max()))
    part = part.with_columns(x=pl.when(pl.col(clock) > 0).then(clock).otherwise(zero))
    for kind, colour, width, alpha in (
        ("kept", style.MUTED, 0.5, 0.5), ("translation", DROP_COLOUR, 0.6, 0.4), ("dropped", DROP_COLOUR, 1.8, 1.0),
    ):  # fmt: skip
        for line in part.filter(pl.col("kind") == kind).partition_by("language", maintain_order=True):
            axes.plot(line["x"], line["retention"], color=colour, lw=width, alpha=alpha, zorder=4 if width > 1 else 2)
            band = line.drop_nulls(["low", "high"])
            if band.height and (line["seeds"] > 2).all():  # two seeds: an uninformative band
                axes.fill_between(band["x"], band["low"], band["high"], color=colour, alpha=0.15, lw=0, zorder=3)
    kept = part.filter(pl.col("kind") == "kept").group_by("tokens").agg(pl.col("x", "retention").mean()).sort("tokens")
    axes.plot(kept["x"], kept["retention"], color=style.INK, lw=1.8, zorder=3)
    axes.set_ylim(-0.4, 1.25)
    axes.set_yticks([0, 0.5, 1], ["0", "½", "1"])
