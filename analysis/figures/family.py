"""Half-life of the dropped language by family: does a language with more shared implementation last longer?"""

from __future__ import annotations

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.decay.conditions import ARM, FAMILY, conditions, is_family_study
from analysis.decay.design import reference, setting_axes, value_label, values_of
from analysis.decay.retention import half_lives, retention_curves
from analysis.figures import style
from analysis.runs.study import StudyData
from analysis.stats.scaling import by_size

CAPTION = (
    "Tokens since the drop until half of the dropped language's skill is lost for good, by family. Left: by success "
    "above chance; right: by the correct answer's log-probability above the model that never saw the language; one "
    "row per arm. [sizes: One colour per size, dark is small and light is large.] Small points are seeds, large "
    "points are geometric means with 95% t intervals from three seeds on. An arrow is a run that did not reach half "
    "within the branch, drawn at its last evaluation; its size has no mean. Below each family: the number of runs, "
    "the trunks that missed the criterion (no branch forked from them) and the runs without the skill at the drop "
    "(nothing to lose). If shared implementation protects, B, C and D lie above A."
)
CRITERIA = {"success": "by success", "logprob": "by log-probability"}


def family_table(data: StudyData) -> pl.DataFrame:
    """One row per run of a family (everything but the arm at the reference) and criterion: arm, size, parameters, seed,
    kind (of the half-life; missed: the trunk never reached the criterion; no skill: at the drop; not run), low,
    estimate (tokens)."""
    if not is_family_study(data) or data.points.is_empty():
        return pl.DataFrame()
    axes, chosen = setting_axes(data), reference(data)
    runs = conditions(data).filter(pl.col("role") == "treatment")
    same = [pl.col(a.name).eq_missing(pl.lit(chosen[a.name])) for a in axes if a.name not in (ARM, FAMILY)]
    arm = next((axis for axis in axes if axis.name == ARM), None)
    ended = f"outcome_{data.declaration.outcomes[0].phase}"
    outcome = pl.col(ended) if ended in runs.columns else pl.lit(None, dtype=pl.String)
    families = values_of(data, family) if (family := next((a for a in axes if a.name == FAMILY), None)) else [""]
    arms = [value_label(arm, value) for value in values_of(data, arm)] if arm else [""]
    label = pl.Series([value_label(arm, row) if arm else "" for row in runs[ARM]] if arm else [""] * runs.height)
    runs = runs.with_columns(label.cast(pl.String).alias("shown_arm")).filter(*same)
    times = half_lives(retention_curves(data), ("tokens",)).filter(pl.col("clock") == "tokens")
    parts = []
    for criterion in CRITERIA:
        found = times.filter(pl.col("criterion") == criterion).select("trial", "kind", "low", "high", "estimate")
        kind = (
            pl.when(outcome.str.contains("never reached").fill_null(False))
            .then(pl.lit("missed"))
            .when(pl.col("kind").is_null() & outcome.ne_missing("complete"))
            .then(pl.lit("not run"))
            .otherwise(pl.col("kind").fill_null("no skill"))
        )
        parts.append(
            runs.join(found, on="trial", how="left")
            .with_columns(kind=kind, criterion=pl.lit(criterion))
            .select(
                pl.col("shown_arm").alias("arm"), pl.col(FAMILY).cast(pl.String).alias("family"), "criterion", "size",
                "parameters", "seed", "kind", "low", "high", "estimate",
            )
        )  # fmt: skip
    order = {value: place for place, value in enumerate(map(str, families))}
    ranks = {value: place for place, value in enumerate(arms)}
    return pl.concat(parts).sort(
        pl.col("arm").replace_strict(ranks, default=0), "criterion",
        pl.col("family").replace_strict(order, default=0), "parameters", "seed",
    )  # fmt: skip


def draw_family(table: pl.DataFrame) -> Figure:
    sizes = style.by_size(table)
    arms = table.partition_by("arm", maintain_order=True)
    families = table["family"].unique(maintain_order=True).to_list()
    seen = table.filter(pl.col("kind").is_in(["observed", "censored"]))
    values = [*seen["estimate"].drop_nulls(), *seen.filter(pl.col("kind") == "censored")["low"]]
    with style.styled():
        figure = style.new_figure(0.5 + 2.75 * len(arms))
        grid = figure.subplots(len(arms), len(CRITERIA), squeeze=False)
        for row, part in zip(grid, arms, strict=True):
            for axes, (criterion, name) in zip(row, CRITERIA.items(), strict=True):
                own = part.filter(pl.col("criterion") == criterion)
                _panel(axes, own, families, sizes)
                arm = part["arm"][0]
                axes.set_title(f"{arm}, {name}" if arm else name)
                if values:
                    low, high = min(values) / 1.4, max(values) * 1.9
                    axes.set_yscale("log")
                    axes.set_ylim(low, high)
                    style.log_ticks(axes.yaxis, low, high)
            row[0].set_ylabel("half-life: tokens since the drop")
        style.despine(figure)
        handles = [Line2D([], [], color=c, lw=1.6, marker="o", ms=4, label=size) for size, _, c in sizes]
        style.legend_above(figure, handles)
    return figure


def _panel(axes: Axes, part: pl.DataFrame, families: list[str], sizes: list) -> None:
    labels = []
    for at, family in enumerate(families):
        own = part.filter(pl.col("family") == family)
        for rank, (size, _, colour) in enumerate(sizes):
            x = at + 0.5 * (rank - (len(sizes) - 1) / 2) / max(len(sizes), 2)
            _runs(axes, own.filter(pl.col("size") == size), x, colour)
        missed, without, waiting = ((own["kind"] == kind).sum() for kind in ("missed", "no skill", "not run"))
        lines = [f"{family or 'all'} ({own.height})"]
        lines += [f"{missed} missed"] if missed else []
        lines += [f"{without} not learned"] if without else []
        lines += [f"{waiting} not run"] if waiting else []
        labels.append("\n".join(lines))
    axes.set_xticks(range(len(families)), labels)
    axes.set_xlim(-0.5, len(families) - 0.5)
    axes.grid(visible=False, axis="x")
    if part.filter(pl.col("kind").is_in(["observed", "censored"])).is_empty():
        style.nothing_here(axes, "no run has a half-life")


def _runs(axes: Axes, own: pl.DataFrame, x: float, colour: object) -> None:
    seen, late = own.filter(pl.col("kind") == "observed"), own.filter(pl.col("kind") == "censored")
    axes.plot([x + 0.05] * seen.height, seen["estimate"], "o", ms=2, color=colour, alpha=0.6, zorder=3)
    axes.plot(
        [x] * late.height, late["low"], ls="", marker=style.BEYOND, ms=11, mfc="none", mew=1, color=colour, zorder=3
    )
    for row in by_size(pl.concat([seen, late])).drop_nulls("estimate").iter_rows(named=True):
        if row["low"] is not None and row["seeds"] > 2:
            axes.plot([x, x], [row["low"], row["high"]], color=colour, lw=1.3, solid_capstyle="butt", zorder=3)
        axes.plot([x], [row["estimate"]], "o", ms=5, color=colour, mec="white", mew=0.5, zorder=4)
