"""Scores of features by what fine-tuning did, against what each feature stands for: fine-tuning and its controls."""

from __future__ import annotations

import textwrap

import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.decay.design import described
from analysis.figures import style
from analysis.figures.common import control_labels
from analysis.interpret.attribution import latents
from analysis.runs.study import StudyData

CAPTION = (
    "Each dot is a feature of the first dictionary. Across: the correlation of its activation with the exact log-odds "
    "of the attribute that fine-tuning was for. Up: its score, the cosine of its effect on the logits with what "
    "fine-tuning did, less the null. Where fine-tuning used features for what they stand for, dots lie on a rising "
    "line. One panel for fine-tuning and for each control, at the reference setting, of the first run of the smallest "
    "size; the colour is the seed."
)
TREATMENT = "treatment"


def feature_scores_table(data: StudyData) -> pl.DataFrame:
    """panel (its label), place (its order), algorithm, seed, latent, score, truth."""
    found = latents(data)
    if found.is_empty():
        return pl.DataFrame()
    labels = {TREATMENT: "fine-tuning", **control_labels(data)}
    order = pl.DataFrame([(role, label, place) for place, (role, label) in enumerate(labels.items())],
                         schema={"role": pl.String, "panel": pl.String, "place": pl.Int64}, orient="row")  # fmt: skip
    trials = described(data)
    first = [pl.col(name) == pl.col(name).min() for name in ("parameters", "run") if name in trials.columns]
    shown = trials.filter(pl.col("is_reference"), *first).select("trial", "role", "seed")
    table = found.join(shown, on="trial").join(order, on="role")
    return table.select("panel", "place", "seed", "latent", "score", "truth").sort("place", "seed", "latent")


def draw_feature_scores(table: pl.DataFrame) -> Figure:
    panels = table.partition_by("place", maintain_order=True)
    seeds = table["seed"].unique().sort().to_list()
    colours = dict(zip(seeds, style.colours(len(seeds)), strict=True))
    with style.styled():
        figure = style.new_figure(3.0, width=style.WIDTH if len(panels) > 1 else 4.0)
        grid = list(figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False).flat)
        for axes, part in zip(grid, panels, strict=True):
            _panel(axes, part, colours)
        figure.supxlabel("correlation with the log-odds of the attribute", fontsize=8)
        grid[0].set_ylabel("score")
        style.despine(figure)
    return figure


def _panel(axes: Axes, part: pl.DataFrame, colours: dict) -> None:
    axes.axhline(0, color=style.MUTED, lw=0.6, zorder=1)
    axes.axvline(0, color=style.MUTED, lw=0.6, zorder=1)
    for (seed,), own in part.group_by(["seed"], maintain_order=True):
        axes.scatter(own["truth"], own["score"], s=9, color=colours[seed], alpha=0.7, lw=0, zorder=3)
    axes.set_title(textwrap.fill(part["panel"][0], 26))
