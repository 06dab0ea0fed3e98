"""Write the report of a study: choose the sweep and the folder."""

from __future__ import annotations

import json
from pathlib import Path

from analysis.answers.of_trials import trial_numbers
from analysis.answers.write import FILES, replaced, write_answers
from analysis.errors import UserError
from analysis.figures import FIGURES
from analysis.report.asked import PREFIX
from analysis.report.kept import PAGE, own_folder, point_latest
from analysis.report.page import report_page
from analysis.report.panels import new_folders
from analysis.report.rows import slug
from analysis.runs.load import load_study

NUMBERS = "trials.json"
"""Of the numbers of each trial (`answers.of_trials`)"""
TABLES = (
    "numbers", "sizes", "fits", "fit_parameters", "fit_clocks", "outcomes", "outcome_effects", "outcome_time_ratios",
    "quantities",
)  # fmt: skip


def write_report(
    study: str, *, tracking_uri: str, out: Path, sweep: str | None = None, cache: Path | None = None,
    live: bool = False, kept: bool = False,
) -> Path:  # fmt: skip
    """Write the report of the newest sweep of `study` (or of `sweep`) into `out`, and the answers beside it; returns
    the HTML file, which is replaced at once. `cache`: folder that caches the points, as in `load_study`. `live`: only
    what is drawn in a few seconds, of a sweep that runs; files of an earlier page stay. `kept`: `out` keeps the reports
    of all sweeps of the study, each in a folder of its own, and `latest` leads to that of the newest.

    Raises UserError when the store, the study or its points are missing.
    """
    data = load_study(tracking_uri, study, sweep, cache)
    if data.points.is_empty():
        raise UserError(
            f"sweep {data.sweep.name!r} has no measured points yet: expected at least one completed trial; "
            "let the study continue, or repeat its command to publish the completed trials"
        )
    if kept:
        out = own_folder(out, data)
    other = [f"retention-{slug(outcome.name)}" for outcome in data.declaration.outcomes]
    new_folders(out, () if live else (*TABLES, *FIGURES, *other), "" if live else PREFIX)
    path = out / PAGE
    html = report_page(data, out, tracking_uri, live=live)
    if data.declaration.questions:
        write_answers(data, out)
    else:
        for name in FILES:  # of an earlier declaration
            (out / name).unlink(missing_ok=True)
    if not live:
        replaced(out / NUMBERS, json.dumps(trial_numbers(data), allow_nan=False))
    replaced(path, html)
    if kept and data.newest:
        point_latest(out)
    return path
