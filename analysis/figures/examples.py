"""How few examples recover the dropped language, compared with a model that never saw it."""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay.conditions import conditions, is_family_study
from analysis.decay.design import controls
from analysis.decay.erasure import RELEARN, examples_of, success_curves
from analysis.figures import style
from analysis.runs.study import StudyData
from analysis.stats.intervals import t_interval

CAPTION = (
    "Success after relearning the {skill} from a given number of examples, at the same token budget; one panel per "
    "condition. Filled: models that learned it before the drop; open: models of the same size and seed that never did, "
    "after the same branch. Small points are seeds (sizes averaged within a seed), large "
    "points are means with 95% t intervals, the horizontal line is chance. Where there is a rule, test items "
    "are not among the examples, so a few examples suffice only if the rule is still there."
)
PANELS, COLUMNS = 9, 3


def examples_table(data: StudyData) -> pl.DataFrame:
    """One row per relearning run (treatment, or its control that never saw the language) and number of examples:
    condition, place, kind (knew | never), examples, order, size, seed, success (at the end of the budget), chance."""
    if not is_family_study(data):
        return pl.DataFrame()
    about = conditions(data)
    known = {row["trial"]: row for row in about.iter_rows(named=True)}
    rows = []
    for order, phase in enumerate(examples_of(data)):
        curves = success_curves(data, phase)
        of = controls(data, "absent", among=set(curves))
        for trial, (_, rates, chance) in curves.items():
            run = known[trial]
            if run["role"] != "treatment":
                continue
            for kind, own in (("knew", trial), ("never", of.get(trial))):
                if own is not None:
                    last = float(curves[own][1][-1]) if kind == "never" else float(rates[-1])
                    rows.append([
                        run["condition"], run["place"], kind, phase.removeprefix(RELEARN), order, run["size"],
                        run["seed"], last, chance,
                    ])  # fmt: skip
    names = {
        "condition": pl.String, "place": pl.Int64, "kind": pl.String, "examples": pl.String, "order": pl.Int64,
        "size": pl.String, "seed": pl.Int64, "success": pl.Float64, "chance": pl.Float64,
    }  # fmt: skip
    further = pl.col("condition").str.contains(",")  # the families themselves come first
    return pl.DataFrame(rows, schema=names, orient="row").sort(further, "place", "order", "kind", "seed", "size")


def draw_examples(table: pl.DataFrame) -> Figure:
    parts = table.partition_by("place", maintain_order=True)[:PANELS]
    columns = min(COLUMNS, len(parts))
    rows = -(-len(parts) // columns)
    with style.styled():
        figure = style.new_figure(0.55 + 1.95 * rows)
        grid = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
        for axes, part in zip(grid, parts, strict=False):
            _panel(axes, part)
        style.small_multiples(grid, len(parts), columns)
        for axes in grid[::columns]:
            axes.set_ylabel("success")
        for axes in grid[max(0, len(parts) - columns) : len(parts)]:
            axes.set_xlabel("examples to relearn from")
        style.despine(figure)
        style.legend_above(figure, [
            Line2D([], [], color=style.INK, marker="o", ms=4.5, lw=1.4, label="trained on it before"),
            Line2D([], [], color=style.INK, marker="o", mfc="white", ms=4.5, lw=1.0, ls="--", label="never saw it"),
        ])  # fmt: skip
    return figure


def _panel(axes: Axes, part: pl.DataFrame) -> None:
    names = part.select("order", "examples").unique().sort("order")
    axes.set_xticks(names["order"].to_list(), names["examples"].to_list())
    axes.set_xlim(names["order"][0] - 0.4, names["order"][-1] + 0.4)
    axes.set_title(part["condition"][0])
    axes.set_ylim(-0.03, 1.05)
    axes.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    axes.axhline(float(part["chance"].to_numpy().mean()), color=style.MUTED, lw=0.9, zorder=1)
    for kind, shift, fill, line in (("knew", -0.06, style.INK, "-"), ("never", 0.06, "white", "--")):
        seeds = part.filter(pl.col("kind") == kind).group_by("order", "seed").agg(pl.col("success").mean())
        middles = []
        for (order,), own in seeds.sort("order").group_by(["order"], maintain_order=True):
            at = float(str(order)) + shift
            axes.plot([at] * own.height, own["success"], "o", ms=1.8, color=style.MUTED, alpha=0.7, zorder=2)
            mean = t_interval(own["success"])
            if mean is None:
                continue
            if mean.low is not None and mean.high is not None and own.height > 2:
                axes.plot([at, at], [mean.low, mean.high], color=style.INK, lw=1.2, solid_capstyle="butt", zorder=3)
            middles.append((at, mean.estimate))
        if middles:
            axes.plot(
                *zip(*middles, strict=True), color=style.INK, ls=line, lw=1.2, marker="o", ms=4.5, mfc=fill, zorder=4
            )
