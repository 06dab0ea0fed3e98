"""Every run of the reference setting in its own panel: sizes down, seeds across."""

from __future__ import annotations

import itertools

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay.retention import half_lives, retention_curves
from analysis.figures import style
from analysis.runs.study import StudyData

CAPTION = (
    "Each panel is one run at the reference setting. Points: {success} with its binomial interval; line: retention of "
    "the {answer}'s log-probability; vertical line: its half-life; shading: the two evaluations between which it "
    "lies. No half-life is marked if half was not reached. If rows differ more than columns, size has an effect; if "
    "columns differ as much as rows, the differences are between seeds."
)
ROWS, COLUMNS = 6, 8


def seeds_table(data: StudyData) -> pl.DataFrame:
    """One row per evaluation of the treatments at the reference setting, with their half-lives; at most ROWS sizes
    (smallest and largest included)."""
    curves = retention_curves(data)
    curves = curves.filter((pl.col("role") == "treatment") & pl.col("is_reference")).drop_nulls(["parameters", "seed"])
    sizes = curves["parameters"].unique().sort().to_list()
    kept = {sizes[round(i * (len(sizes) - 1) / (ROWS - 1))] for i in range(ROWS)} if len(sizes) > ROWS else sizes
    times = half_lives(curves, ("tokens",)).filter((pl.col("criterion") == "logprob") & (pl.col("clock") == "tokens"))
    times = times.select("trial", "kind", half_low="low", half_high="high", half_life="estimate")
    return (
        curves.filter(pl.col("parameters").is_in(list(kept)))
        .join(times, on="trial", how="left")
        .select(
            "size", "parameters", "seed", "tokens", "hits", "trials", "success", "success_low", "success_high",
            "retention_logprob", "implanted", "kind", "half_low", "half_high", "half_life",
        )
        .sort("parameters", "seed", "tokens")
    )  # fmt: skip


def draw_seeds(table: pl.DataFrame) -> Figure:
    sizes = style.by_size(table)
    seeds = table["seed"].unique().sort().to_list()
    later = table.filter(pl.col("tokens") > 0)["tokens"].to_numpy()
    with style.styled():
        bands = -(-len(seeds) // COLUMNS)
        columns = -(-len(seeds) // bands)
        figure = style.new_figure(0.8 + 0.95 * len(sizes) * bands)
        grid = figure.subplots(len(sizes) * bands, columns, sharex=True, sharey=True, squeeze=False)
        # All panels share them; set once, as each setting visits every panel that shares.
        grid[0, 0].set_xscale("log")
        grid[0, 0].set_xlim(later.min() / 1.3, later.max() * 1.3)
        style.log_ticks(grid[0, 0].xaxis, later.min(), later.max(), minor=False)
        grid[0, 0].set_yticks([0, 0.5, 1], ["0", "½", "1"])
        for place, (seed, (size, _, colour)) in enumerate(itertools.product(seeds, sizes)):
            band, column = divmod(place // len(sizes), columns)
            row = band * len(sizes) + place % len(sizes)
            part = table.filter((pl.col("size") == size) & (pl.col("seed") == seed) & (pl.col("tokens") > 0))
            _run(grid[row, column], part, colour)
            if row % len(sizes) == 0:
                grid[row, column].set_title(f"seed {seed}")
            if column == 0:
                grid[row, 0].set_ylabel(size)
        used = len(seeds) - (bands - 1) * columns  # in the last band
        for row, column in itertools.product(range(len(sizes)), range(used, columns)):
            grid[row - len(sizes), column].set_visible(False)
            if bands > 1:
                grid[-len(sizes) - 1, column].tick_params(axis="x", labelbottom=True)
        grid[0, 0].set_ylim(-0.12, 1.12)
        figure.supxlabel("tokens since the drop", fontsize=8)
        style.despine(figure)
        handles = [
            Line2D([], [], color=style.INK, marker="o", ms=2.5, ls="", label="success"),
            Line2D([], [], color=style.INK, lw=1.4, label="retention of the log-probability"),
            Line2D([], [], color=style.INK, lw=0.8, ls=(0, (4, 2)), label="half-life"),
        ]
        style.legend_above(figure, handles)
    return figure


def _run(axes: Axes, part: pl.DataFrame, colour: object) -> None:
    if part.is_empty():
        return
    seen = part.drop_nulls("success")
    axes.vlines(seen["tokens"], seen["success_low"], seen["success_high"], color=colour, lw=0.8, alpha=0.45)
    axes.plot(seen["tokens"], seen["success"], "o", ms=1.8, color=colour)
    known = part.drop_nulls("retention_logprob")
    axes.plot(known["tokens"], known["retention_logprob"], color=colour, lw=1.2)
    head = part.row(0, named=True)
    if head["half_life"] is not None:
        axes.axvspan(head["half_low"], head["half_high"], color=style.FAINT, alpha=0.6, lw=0)
        axes.axvline(head["half_life"], color=style.INK, lw=0.8, ls=(0, (4, 2)))
    elif not head["implanted"]:
        style.note(axes, "never had it")
    elif head["kind"] == "censored":
        style.note(axes, "not reached")
