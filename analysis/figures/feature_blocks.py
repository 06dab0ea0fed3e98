"""Features of a dictionary that all blocks share: in which blocks they fire, and the text that excites them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from analysis.decay.design import described
from analysis.figures import style
from analysis.interpret.dictionaries import PHASE
from analysis.runs.study import StudyData

CAPTION = (
    "The features of the largest firing mass of a fresh dictionary that all blocks share, in one model: the reference "
    "setting at the smallest size and the first seed. Left: the share of a feature's firings by block, sorted by its "
    "mean block; a row that is dark in one cell belongs to one block, an even row is used by all. Right: its best "
    "concept with its specificity (1: it fires, in any block, exactly where the concept holds) and texts that excite "
    "it most, where it fires on the token in brackets."
)
SHOWN, TEXTS = 24, 2


def feature_blocks_table(data: StudyData) -> pl.DataFrame:
    """place, latent, block (from 1), share, mass, concept, specificity, text: a row for each feature and block."""
    column = f"summary_{PHASE}"
    if column not in data.trials.columns:
        return pl.DataFrame()
    trials = described(data).filter((pl.col("role") == "treatment") & pl.col("is_reference")).drop_nulls(column)
    for text in trials.sort("parameters", "seed")[column]:
        if features := json.loads(text).get("features"):
            return pl.DataFrame([row for place, each in enumerate(features[:SHOWN]) for row in _rows(place, each)])
    return pl.DataFrame()


def _rows(place: int, feature: dict[str, Any]) -> list[dict[str, Any]]:
    about = {name: feature[name] for name in ("latent", "mass", "concept", "specificity")}
    text = "   ".join(feature["texts"][:TEXTS])
    return [
        {"place": place, "block": block, "share": share, "text": text, **about}
        for block, share in enumerate(feature["share"], 1)
    ]


def draw_feature_blocks(table: pl.DataFrame) -> Figure:
    rows = table.unique("place", maintain_order=True).sort("place")
    shares = table.pivot(on="block", index="place", values="share").sort("place").drop("place").to_numpy()
    count, blocks = shares.shape
    with style.styled():
        figure = style.new_figure(0.9 + 0.19 * count)
        axes, texts = figure.subplots(1, 2, width_ratios=[1, 2.6])
        image = axes.imshow(shares, aspect="auto", cmap="Greys", vmin=0, vmax=1)
        axes.set_xticks(range(blocks), [str(block) for block in range(1, blocks + 1)])
        axes.set_yticks(range(count), [f"feature {latent}" for latent in rows["latent"]])
        axes.set_xlabel("block")
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.set_title("share of firings")
        texts.set_ylim(axes.get_ylim())
        texts.set_xlim(0, 1)
        texts.set_axis_off()
        texts.set_title("best concept, and text that excites it")
        for place, row in enumerate(rows.iter_rows(named=True)):
            texts.text(0, place, f"{row['concept']} ({row['specificity']:.2f})", va="center", fontsize=7)
            texts.text(0.3, place, row["text"], va="center", fontsize=7, family="monospace", color=style.MUTED)
        bar = figure.colorbar(image, ax=axes, location="bottom", aspect=18, ticks=np.array([0, 0.5, 1]))
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure
