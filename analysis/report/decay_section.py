"""What the report says of outcomes that are followed over time: by size, laws, the survival model, other outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from analysis.decay import fits
from analysis.decay.clocks import half_lives_by_clock
from analysis.decay.conditions import skill_measure
from analysis.decay.design import control_label, reference_label, setting_axes, vocabulary
from analysis.decay.numbers import every_number, size_summary
from analysis.decay.retention import CLOCKS, common_span, half_lives, retention_curves
from analysis.decay.survival import TimeRatios, study_time_ratios
from analysis.errors import UserError
from analysis.figures import FIGURES
from analysis.report.fitting_checklist import checklist
from analysis.report.other_outcomes import OutcomeSummary, outcome_tables, summaries
from analysis.report.panels import FigurePanel, draw_panel
from analysis.report.rows import slug
from analysis.report.tables import csv_text, page_table
from analysis.runs.study import StudyData
from analysis.stats.format import bracket, short
from analysis.stats.scaling import by_size


def decay_section(data: StudyData, out: Path) -> dict[str, Any]:
    """Of the leading outcome; writes figures and tables below `out`."""
    curves, outcomes = retention_curves(data), summaries(data)
    numbers, sizes = every_number(data, curves), size_summary(curves, skill_measure(data, curves))
    others = outcome_tables(outcomes)
    for name, frame in {"numbers": numbers, "sizes": sizes, **others}.items():
        (out / "tables" / f"{name}.csv").write_text(csv_text(frame), encoding="utf-8")
    measured = set(data.points["name"].str.split("/").list.first())
    return {
        "near": bool(measured & {"near", "untriggered"}),
        "relearned": "relearning" in data.declaration.figures,
        "outcomes": [_outcome(outcome, out) for outcome in outcomes],
        "outcome_files": [(name, page_table(frame, shown=0).csv) for name, frame in others.items()],
        "sizes": _size_rows(sizes),
        "sizes_csv": page_table(sizes).csv,
        "span": common_span(curves),
        "by_success": skill_measure(data, curves) == "success",
        "extinction": control_label(data, "extinction") if "half_life_extinction" in sizes.columns else None,
        "setting": reference_label(data),
        "fitted": _fits(data, out),
        "across": _across(data),
        "checklist": checklist(data, curves),
        "numbers": page_table(_readable(data, numbers)),
        "numbers_csv": page_table(numbers, shown=0).csv,
    }


def figure_panel(data: StudyData, name: str, out: Path, suffix: str = "", *, png: bool = True) -> FigurePanel:
    """A figure by its name; without an image, the caption gives the reason."""
    recipe = FIGURES.get(name)
    if recipe is None:
        known = ", ".join(FIGURES)
        return FigurePanel(name=name, title=name, caption=f"There is no figure of that name; figures: {known}.")
    return draw_panel(recipe, recipe.table(data), out, vocabulary(data), suffix=suffix, png=png)


ALWAYS, FITTED = ("settings", "seeds", "survival", "floor"), ("laws",)
"""Figures of measurements and of fits that a report shows even if undeclared, unless they are empty."""


def more_panels(data: StudyData, names: tuple[str, ...], out: Path) -> list[FigurePanel]:
    panels = [figure_panel(data, name, out, png=False) for name in names if name not in data.declaration.figures]
    return [panel for panel in panels if panel.image]


def _fits(data: StudyData, out: Path) -> dict[str, Any] | None:
    """Laws fitted to the reference curves: a sentence per size, figures, tables; None if nothing can be fitted."""
    table = fits.fits_table(data)
    if table.is_empty():
        return None
    parameters, clocks = fits.parameters_table(data), half_lives_by_clock(data)
    for name, frame in (("fits", table), ("fit_parameters", parameters), ("fit_clocks", clocks)):
        (out / "tables" / f"{name}.csv").write_text(csv_text(frame), encoding="utf-8")
    return {
        "sentences": [(size, found.text.replace("_", " ")) for size, found in fits.comparisons(data).items()],
        "rows": [_fit_row(row) for row in table.iter_rows(named=True)],
        "csv": page_table(table, shown=0).csv,
        "parameters": page_table(parameters, shown=None),
        "supported": f"{fits.SUPPORTED:g}",
        "clocks": _clock_rows(data, clocks),
        "clock_names": [SHORT[clock] for clock in CLOCKS if (clocks["clock"] == clock).any()],
        "clocks_csv": page_table(clocks, shown=0).csv,
        "panels": more_panels(data, FITTED, out),
    }


def _across(data: StudyData) -> dict[str, Any]:
    """All treatments in one survival model: the effect on the half-life of everything that varied."""
    try:
        found = study_time_ratios(data)
    except UserError as error:
        return {"why": str(error)}
    return {"why": "", "rows": _ratio_rows(data, found), "found": found}


def _ratio_rows(data: StudyData, found: TimeRatios) -> list[dict[str, str]]:
    labels = {axis.name: axis.label for axis in data.declaration.axes}
    rows = []
    for row in found.effects.iter_rows(named=True):
        number = row["value"] is None
        ends = ("coefficient", "low", "high") if number else ("ratio", "ratio_low", "ratio_high")
        middle, low, high = (row[name] for name in ends)
        spread = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
        label = labels.get(row["term"], row["term"])
        what = f"{label}: exponent" if number else f"{label}: {row['value']}, factor"
        rows.append({"what": what, "size": f"{middle:.2f}{spread}"})
    return rows


def _outcome(outcome: OutcomeSummary, out: Path) -> dict[str, Any]:
    """Another outcome as the page shows it: sentences, rows by size, effects, retention curves."""

    def spread(row: dict[str, Any], name: str, form: str) -> str:
        middle, low, high = (row[end] for end in (name, f"{name}_low", f"{name}_high"))
        text = "–" if middle is None else f"{middle:{form}}"
        return text if middle is None or low is None else f"{text} [{low:{form}},\u00a0{high:{form}}]"

    def floor(row: dict[str, Any]) -> str:
        return "not settled" if row["unsettled"] else spread(row, "floor", ".2f")

    sizes = zip(_size_rows(outcome.sizes), outcome.sizes.iter_rows(named=True), strict=True)
    return {
        "label": outcome.outcome.label,
        "rows": [{**shown, "chance": f"{row['chance']:.3g}", "floor": floor(row)} for shown, row in sizes],
        "effects": [
            {"what": f"{row['value']} vs. {row['against']}", "pairs": f"{row['observed']}/{row['pairs']}",
             "area": spread(row, "area", "+.2f"), "ratio": spread(row, "ratio", ".2f")}
            for row in outcome.effects.iter_rows(named=True)
        ],
        "ratios": _ratio_rows(outcome.data, outcome.ratios) if outcome.ratios else [],
        "panel": figure_panel(outcome.data, "retention", out, f"-{slug(outcome.outcome.name)}"),
    }  # fmt: skip


def _clock_rows(data: StudyData, clocks: pl.DataFrame) -> list[dict[str, Any]]:
    """One row per size and law with the half-life on each clock; first, for each size, the half-life without a law."""
    used = [clock for clock in CLOCKS if (clocks["clock"] == clock).any()]
    times = half_lives(retention_curves(data)).filter((pl.col("criterion") == "logprob") & pl.col("is_reference"))
    free = {clock: by_size(times.filter(pl.col("clock") == clock)) for clock in used}
    rows = []
    for (size,), part in clocks.group_by(["size"], maintain_order=True):
        own = {}
        for clock, found in free.items():
            for row in found.filter(pl.col("size") == size).iter_rows(named=True):
                own[clock] = _half(row["estimate"] or row["bound"], row["low"], row["high"], row["bound"] is not None)
        rows.append({"size": size, "law": "no law", "halves": [own.get(clock, "–") for clock in used]})
        for (law,), laws in part.group_by(["law"], maintain_order=True):
            own = {
                row["clock"]: _half(row["half_life"], row["low"], row["high"], row["censored"])
                for row in laws.iter_rows(named=True)
            }
            halves = [own.get(clock, "–") for clock in used]
            rows.append({"size": size, "law": str(law).replace("_", " "), "halves": halves})
    return rows


def _half(middle: float | None, low: float | None, high: float | None, censored: bool) -> str:
    """A half-life with its interval, or its bound."""
    if middle is None:
        return "beyond the data" if censored else "–"
    if low is None or high is None:
        return f"{'≥ ' if censored else ''}{short(middle)}"
    return f"{short(middle)} {bracket(low, high)}"


def _fit_row(row: dict[str, Any]) -> dict[str, str]:
    def number(value: float | None) -> str:
        return "–" if value is None or value != value else short(value)

    half = _half(row["half_life"], row["half_life_low"], row["half_life_high"], bool(row["half_life_censored"]))
    return {
        "size": row["size"], "law": row["law"].replace("_", " "), "delta": number(row["delta_aicc"]), "half_life": half,
        "held_out": number(row["held_out_error"]), "share": f"{row['starts_at_optimum']:.2f}",
        "warnings": row["warnings"] or "none", "formula": row["formula"],
    }  # fmt: skip


def _size_rows(sizes: pl.DataFrame) -> list[dict[str, str]]:
    """The table by size, with intervals as text."""

    def spread(row: dict[str, Any], name: str, text=short) -> str:
        if row.get(f"{name}_bound") is not None:
            return f"≥ {text(row[f'{name}_bound'])} ({row[f'{name}_censored']}\u00a0not\u00a0reached)"
        if row[name] is None:
            return "–"
        if row[f"{name}_low"] is None:
            return f"{text(row[name])} (one\u00a0seed)"
        late = row.get(f"{name}_censored")
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        span = bracket(low, high) if text is short else f"[{text(low)},\u00a0{text(high)}]"
        shown = f"{text(row[name])} {span}"
        return f"{shown} ({late}\u00a0not\u00a0reached)" if late else shown

    def plain(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")

    return [
        {
            "size": row["size"], "seeds": str(row["seeds"]),
            "success": spread(row, "success", lambda value: f"{value:.3f}"), "logprob": plain(row["logprob"], 3),
            "margin": plain(row["margin"], 2), "loss": plain(row["loss"], 3), "half_life": spread(row, "half_life"),
            "half_life_success": spread(row, "half_life_success"),
            "near": plain(row["near"], 2), "untriggered": plain(row["untriggered"], 2),
            "area": spread(row, "area", lambda value: f"{value:.2f}"),
            "extinction": spread(row, "half_life_extinction") if "half_life_extinction" in sizes.columns else "",
        }
        for row in sizes.iter_rows(named=True)
    ]  # fmt: skip


SHORT = {"tokens": "tokens", "steps": "steps", "rate_sum": "summed LR", "displacement": "displacement"}
READABLE = {
    "logprob": "log-prob.", "untriggered_logprob": "untriggered log-prob.", "loss": "clean loss",
    "near": "near-trigger", "area": "mean retention",
    "half_life_tokens": "half-life (tokens)", "half_life_success": "by success",
    "half_life_success_first": "by success, first",
    **{f"half_life_{clock}": name for clock, name in SHORT.items() if clock != "tokens"},
}  # fmt: skip


def _readable(data: StudyData, numbers: pl.DataFrame) -> pl.DataFrame:
    """The columns of the table of every number that fit on the page; censored half-lives as "> last evaluation"."""
    axes = [axis.name for axis in setting_axes(data)]
    columns: list[pl.Expr] = []
    for name, label in READABLE.items():
        if name.startswith("half_life"):
            beyond = pl.concat_str(pl.lit("> "), pl.col(f"{name}_low").map_elements(short, return_dtype=pl.String))
            reached = pl.col(name).map_elements(short, return_dtype=pl.String)
            columns.append(pl.when(pl.col(f"{name}_censored")).then(beyond).otherwise(reached).alias(label))
        else:
            columns.append(pl.col(name).alias(label))
    outcome = next(name for name in numbers.columns if name == "outcome" or name.startswith("outcome_"))
    counts = pl.when(pl.col("prompts").is_not_null()).then(
        pl.concat_str(pl.col("hits").cast(pl.Int64), pl.lit("/"), pl.col("prompts").cast(pl.Int64))
    )
    return numbers.select(
        "role", "size", "seed", *axes, counts.alias("success at drop"), *columns, pl.col(outcome).alias("outcome")
    )
