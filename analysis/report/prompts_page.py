"""The report of a study of soft prompts, and a page for anyone's table of prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from analysis.checks.prompts import prompt_checks
from analysis.decay.design import vocabulary
from analysis.errors import UserError
from analysis.figures import FIGURES
from analysis.figures.distances import NO_C, OWN_THRESHOLD, by_both
from analysis.figures.soft_prompts import SEED_BY_SEED
from analysis.prompts import amounts, elicitation, fragility, information
from analysis.prompts.published import read_prompts
from analysis.report.panels import draw_panel, new_folders, pages
from analysis.report.rows import axis_rows, check_row, counted, efficiency_rows, provenance
from analysis.report.sentences.prompts import prompt_answer, tokens_needed
from analysis.report.tables import csv_text, page_table
from analysis.runs.study import StudyData
from analysis.stats.format import plural
from halflife.secrets import masked
from halflife.tracking import schema

SHOWN = ("soft_prompts", "distances", "restarts")


def prompts_page(data: StudyData, out: Path, tracking_uri: str) -> str:
    """The HTML page; writes its figures and tables below `out`."""
    prompts, found = elicitation.runs(data), prompt_checks(data)
    axes = axis_rows(data)
    names = [name for name in data.declaration.figures if name in FIGURES] or list(SHOWN)
    html = (
        pages()
        .get_template("prompts.html")
        .render(
            declaration=data.declaration,
            sentences=prompt_answer(data, prompts),
            invalid=[check.name for check in found if check.required and check.passed is False],
            checks=[check_row(check) for check in found],
            axes=[axis for axis in axes if axis["varies"]],
            fixed=[axis for axis in axes if not axis["varies"]],
            counts=counted(data),
            panels=[draw_panel(FIGURES[name], FIGURES[name].table(data), out, vocabulary(data)) for name in names],
            tables=_tables(prompts, out) + _measured(data, out),
            efficiency=efficiency_rows(data.totals),
            provenance=provenance(data, tracking_uri),
            threshold=None,
        )
    )
    return masked(html)


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
    html = (
        pages()
        .get_template("prompts.html")
        .render(
            declaration=schema.Declaration(
                study=path.name, title=f"Soft prompts of {path.name}", preset="", axes=(), outcomes=(), controls=(),
                figures=(), question="How many tokens does it take to elicit a behaviour?", reading="",
            ),
            sentences=tokens_needed(information.distance_table(prompts, threshold=threshold), threshold),
            invalid=[], checks=[], axes=[], fixed=[],
            counts=f"{plural(prompts.height, 'prompt')} of {plural(prompts['behaviour'].n_unique(), 'behaviour')}",
            panels=panels, tables=_tables(prompts, out, threshold), efficiency=[], provenance=None, threshold=threshold,
        )
    )  # fmt: skip
    page = out / "prompts.html"
    page.write_text(masked(html), encoding="utf-8")
    return page


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
