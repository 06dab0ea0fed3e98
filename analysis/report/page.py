"""The report of any study, made from its declaration: one self-contained HTML file, drawn from MLflow alone.

Its figures (SVG, PNG) and tables (CSV) are written next to it.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.checks.sweep import checks, failing
from analysis.decay.design import decaying, leading, vocabulary
from analysis.figures import SCALING
from analysis.report.asked import answered, asked, by_trial, meanings, quantity_values
from analysis.report.decay_section import ALWAYS, decay_section, figure_panel
from analysis.report.examples_section import examples_section
from analysis.report.prompts_section import SHOWN, prompts_section
from analysis.report.rendering import rendered_page
from analysis.report.rows import axis_rows, check_row, counted, efficiency_rows, progress, provenance, varied
from analysis.report.second_process import SecondProcess
from analysis.report.tables import csv_text, page_table
from analysis.report.triggers_section import triggers_section
from analysis.runs.study import StudyData, no_artifact


def report_page(data: StudyData, out: Path, tracking_uri: str, *, live: bool = False) -> str:
    """The HTML page; writes its figures and tables below `out`. `live`: what is drawn in a few seconds."""
    outcomes = () if live else decaying(data)
    view = leading(data, outcomes[0]) if outcomes and outcomes[0] != data.declaration.outcomes[0] else data
    with SecondProcess(decay_section, replace(view, artifact=no_artifact), out) if outcomes else nullcontext() as decay:
        return _page(data, view, decay, out, tracking_uri, live=live)


def _page(
    data: StudyData, view: StudyData, decay: SecondProcess | None, out: Path, tracking_uri: str, *, live: bool
) -> str:
    """`view`: the study with the outcome that is followed over time first. `decay`: that section, being made."""
    found, axes = checks(data), axis_rows(data)
    asks = bool(data.declaration.questions)
    sections: dict[str, Any] = {} if live else _descriptive(data, view, decay, out)
    return rendered_page(
        declaration=data.declaration,
        words=vocabulary(data),
        counts=counted(data),
        varied=varied(data),
        live=progress(data, brief=live) if live or data.unfinished else None,
        answered=answered(data) if asks else None,
        questions=asked(data, out, live=live),
        invalid=failing(data),
        unknown=[check.name for check in found if check.required and check.passed is None],
        checks=[check_row(check) for check in found],
        axes=[axis for axis in axes if axis["varies"]],
        fixed=[axis for axis in axes if not axis["varies"]],
        efficiency=efficiency_rows(data.totals),
        provenance=provenance(data, tracking_uri),
        **sections,
    )


def _descriptive(data: StudyData, view: StudyData, decay: SecondProcess | None, out: Path) -> dict[str, Any]:
    """What was measured besides the questions."""
    prompts = prompts_section(data, out)
    asked = {question.kind for question in data.declaration.questions}
    again = {"retention", "settings"} if "decay" in asked else set()  # its own figure shows the curves
    names = dict.fromkeys([*SCALING, *data.declaration.figures, *(ALWAYS if decay else ())])
    names |= dict.fromkeys(SHOWN if prompts and not data.declaration.figures else ())
    panels = [
        figure_panel(view, name, out, png=name in (SCALING[0], *data.declaration.figures))
        for name in names if name not in again
    ]  # fmt: skip
    return {
        "panels": [panel for panel in panels if panel.image or panel.name in data.declaration.figures],
        "decay": decay.result() if decay else None,
        "prompts": prompts,
        "examples": examples_section(data),
        "triggers": triggers_section(data),
        "values": _values(data, out),
    }


def _values(data: StudyData, out: Path) -> dict[str, Any] | None:
    every = quantity_values(data)
    if every.is_empty():
        return None
    (out / "tables" / "quantities.csv").write_text(csv_text(every), encoding="utf-8")
    return {
        "table": page_table(by_trial(data)), "csv": page_table(every, shown=0).csv, "count": every.height,
        "meanings": page_table(meanings(data), shown=None),
    }  # fmt: skip
