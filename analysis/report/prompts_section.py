"""What the report says of soft prompts, and a page for anyone's table of prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from analysis.errors import UserError
from analysis.figures import FIGURES
from analysis.figures.distances import NO_C, OWN_THRESHOLD, by_both
from analysis.figures.soft_prompts import SEED_BY_SEED
from analysis.prompts import amounts, elicitation, fragility, information
from analysis.prompts.published import read_prompts
from analysis.report.panels import draw_panel, new_folders
from analysis.report.rendering import rendered_page
from analysis.report.tables import csv_text, page_table
from analysis.runs.study import StudyData
from analysis.stats.format import listed, plural
from halflife.tracking import schema

SHOWN = ("soft_prompts", "distances", "restarts")


def prompts_section(data: StudyData, out: Path) -> dict[str, Any] | None:
    """Tables of a study's prompts, also written as CSV below `out`; None if no prompt was fitted."""
    prompts = elicitation.runs(data)
    if prompts.is_empty():
        return None
    return {"tables": _tables(prompts, out) + _measured(data, out), "threshold": None}


def write_prompts(path: Path, out: Path, threshold: float | None = None) -> Path:
    """Write a page about the prompts in a CSV (see `published.read_prompts`); returns the HTML file.

    `threshold`: T in nats per token, by default one per seed that closes half of its gap.
    Raises UserError when the table cannot be read or has no prompts.
    """
    prompts = read_prompts(path)
    if prompts.is_empty():
        raise UserError(f"{path} holds no prompts: expected at least one row with a loss")
    new_folders(out, SHOWN)
    scored = information.reached(prompts, "loss", threshold)
    restarts = information.restart_table(scored) if prompts["restart"].n_unique() > 1 else pl.DataFrame()
    tables = {
        "soft_prompts": elicitation.curves(prompts, threshold),
        "distances": by_both(prompts, threshold),
        "restarts": restarts,
    }
    panels = [draw_panel(FIGURES[name], table, out, {}) for name, table in tables.items() if table.height]
    if threshold is not None:
        panels = [replace(panel, caption=_with_given_threshold(panel.caption, threshold)) for panel in panels]
    declaration = schema.Declaration(
        study=path.name, title=f"Soft prompts of {path.name}", preset="", axes=(), outcomes=(), controls=(),
        figures=(), question="How many tokens does it take to elicit a behaviour?", reading="",
    )  # fmt: skip
    page = out / "prompts.html"
    page.write_text(
        rendered_page(
            declaration=declaration, panels=panels,
            opening=tokens_needed(information.distance_table(prompts, threshold=threshold), threshold),
            counts=f"{plural(prompts.height, 'prompt')} of {plural(prompts['behaviour'].n_unique(), 'behaviour')}",
            prompts={"tables": _tables(prompts, out, threshold), "threshold": threshold},
        ),
        encoding="utf-8",
    )  # fmt: skip
    return page


def tokens_needed(table: pl.DataFrame, threshold: float | None = None) -> list[str]:
    """C of every behaviour that has one, in one sentence per series. `table`: as returned by
    `information.distance_table`; `threshold`: its T in nats per token, if it was given."""
    shown = table.filter((pl.col("model") == "present") & pl.col("c").is_not_null()) if table.height else table
    if shown.is_empty():
        return ["No prompt reduced the loss of any behaviour."]
    goal = "close half of the gap" if threshold is None else f"bring the loss to {threshold:g} nats per token"
    texts = []
    shown = shown.sort(elicitation.by_series(shown), maintain_order=True)
    for (series,), part in shown.group_by(["series"], maintain_order=True):
        each = []
        for row in part.iter_rows(named=True):
            count = f"{row['c']:g}" if np.isfinite(row["c"]) else f"not by {row['last_k']}"
            seeds = row["seeds"] + row["no_gain"]
            left = f" ({elicitation.left_out(seeds, row['seeds'])})" if row["no_gain"] else ""
            each.append(f"{row['behaviour']} {count}{left}")
        texts.append(f"Tokens that {goal} (C){f' at {series}' if series else ''}: {listed(each)}.")
    return texts


def _with_given_threshold(caption: str, threshold: float) -> str:
    """The caption of a figure whose T was given instead of computed for each seed."""
    goal = f"brings the loss to {threshold:g} nats per token"
    caption = caption.replace(elicitation.HALF_CLOSED, goal).replace(SEED_BY_SEED, "it was given.")
    return caption.replace(OWN_THRESHOLD, "").replace(NO_C, "")


def _tables(prompts: pl.DataFrame, out: Path, threshold: float | None = None) -> list[dict[str, Any]]:
    """The tables of the page, also written as CSV; empty ones are left out."""
    scored = prompts.drop_nulls(["hits", "trials"]) if "hits" in prompts.columns else prompts.clear()
    frames = {
        "C and S by held-out loss": ("distance_by_loss", information.distance_table(prompts, "loss", threshold)),
        "C by success": ("distance_by_success", information.distance_table(scored, "success")),
        "C(absent) − C(present), by loss": (
            "difference_by_loss",
            information.difference_table(prompts, "loss", threshold),
        ),
        "C(absent) − C(present), by success": (
            "difference_by_success",
            information.difference_table(scored, "success"),
        ),
        "Every prompt": ("prompts", prompts),
    }
    return _shown(frames, out)


def _measured(data: StudyData, out: Path) -> list[dict[str, Any]]:
    """Tables of judged generations, C by search, bits, random directions and fragility, if the study measured them."""
    found, searched = fragility.measured(data), amounts.searched(data)
    frames = {
        "Generated answers, judged by the task": ("judged", elicitation.judged(data)),
        "C to within one token, by bisection": ("search", amounts.search_table(searched, data.declaration.settings)),
        "Fewest bits that reach the target": ("bits", amounts.bits_table(amounts.quantised(data))),
        "Fewest numbers in random directions": ("directions", amounts.directions_table(amounts.in_subspaces(data))),
        "Correlation of fragility with C": ("fragility_correlations", fragility.correlations(data, found)),
        "Fragility of every prompt": ("fragility_of_prompts", found),
    }
    return _shown(frames, out)


def _shown(frames: dict[str, tuple[str, pl.DataFrame]], out: Path) -> list[dict[str, Any]]:
    found = []
    for title, (name, frame) in frames.items():
        if frame.height:
            (out / "tables" / f"{name}.csv").write_text(csv_text(frame), encoding="utf-8")
            kept = [column.name for column in frame if column.null_count() < frame.height]
            found.append({"title": title, "name": name, "table": page_table(frame.select(kept))})
    return found
