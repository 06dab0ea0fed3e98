"""Equal exposure versus equal strength: does the slope over size come from stronger implants?"""

from __future__ import annotations

import polars as pl
from matplotlib.figure import Figure

from analysis.decay.design import described, reference, setting_axes, value_label, values_of
from analysis.decay.numbers import at_drop
from analysis.decay.retention import half_lives, retention_curves
from analysis.figures import style
from analysis.figures.half_life import size_axis_lines
from analysis.runs.study import StudyData

CAPTION = (
    "Left: strength of the {skill} at the drop, as the {answer}'s log-probability (0 is certainty), if every size "
    "gets the same training (equal exposure) and if every size is forked at the first checkpoint with the same "
    "log-probability (equal strength). Right: half-lives in both arms, with γ over the seeds that have every size. A "
    "slope that is present at equal exposure and vanishes at equal strength is consistent with stronger implants at "
    "larger sizes rather than slower forgetting; overlapping intervals support neither. The equal-strength branches "
    "also fork earlier in training."
)


def strength_table(data: StudyData) -> pl.DataFrame:
    """One row per trial of each arm, otherwise at the reference setting: state at the drop, half-life in tokens."""
    axis = next((axis for axis in setting_axes(data) if axis.name == "arm"), None)
    if axis is None:
        return pl.DataFrame()
    chosen = reference(data)
    trials = described(data).filter(pl.col("role") == "treatment")
    for name, value in chosen.items():
        if name != "arm":
            trials = trials.filter(pl.col(name).eq_missing(pl.lit(value)))
    arms = values_of(data, axis)
    labels = pl.DataFrame(
        {"arm": arms, "facet": [value_label(axis, arm) for arm in arms], "place": list(range(len(arms)))}
    )
    curves = retention_curves(data)
    times = half_lives(curves, ("tokens",)).filter((pl.col("criterion") == "logprob") & (pl.col("clock") == "tokens"))
    drop = at_drop(curves).select("trial", "success", "logprob", "margin", "loss")
    return (
        trials.select("trial", "arm", "size", "parameters", "seed")
        .join(labels, on="arm")
        .join(drop, on="trial")
        .join(times.select("trial", "kind", "low", "high", "estimate"), on="trial", how="left")
        .drop("trial", "arm")
        .sort("place", "parameters", "seed")
    )


def draw_strength(table: pl.DataFrame) -> Figure:
    sizes = style.by_size(table)
    groups = [(part["facet"][0], part) for part in table.partition_by("place", maintain_order=True)]
    with style.styled():
        figure = style.new_figure(2.7)
        left, right = figure.subplots(1, 2)
        style.size_axis(left, sizes)
        for (_, part), colour, marker in zip(
            groups, style.colours(len(groups), "cividis"), style.MARKERS, strict=False
        ):
            for seed in part.partition_by("seed", maintain_order=True):
                left.plot(seed["parameters"], seed["logprob"], color=colour, lw=0.6, alpha=0.55, marker=marker, ms=2.2)
            means = part.group_by("parameters").agg(pl.col("logprob").mean()).drop_nulls().sort("parameters")
            left.plot(
                means["parameters"], means["logprob"], color=colour, lw=1.7, marker=marker, ms=4.5, mec="white", mew=0.5
            )
        left.set_ylabel("the answer's log-probability at the drop\n(nats per token)")
        size_axis_lines(right, [(label, part.drop_nulls("kind")) for label, part in groups], sizes)
        right.set_ylabel("half-life: tokens since the drop")
        for axes in (left, right):
            axes.set_xlabel("non-embedding parameters")
        style.despine(figure)
    return figure
