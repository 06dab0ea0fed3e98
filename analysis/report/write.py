"""Draw the report of a study: which page, where to, and from which sweep."""

from __future__ import annotations

from pathlib import Path

from analysis.errors import UserError
from analysis.figures import FIGURES
from analysis.report.decay_page import page
from analysis.report.panels import new_folders
from analysis.report.prompts_page import information_page, is_information
from analysis.report.rows import slug
from analysis.runs.load import load_study

TABLES = (
    "numbers", "sizes", "fits", "fit_parameters", "fit_clocks", "outcomes", "outcome_effects", "outcome_time_ratios",
)  # fmt: skip


def write_report(
    study: str, *, tracking_uri: str, out: Path, sweep: str | None = None, cache: Path | None = None
) -> Path:
    """Draw the report of the newest sweep of `study` (or of the one named) into `out`; returns the HTML file.
    `cache` keeps the points read, as for `load_study`.

    Raises UserError when the store, the study or its points are missing.
    """
    data = load_study(tracking_uri, study, sweep, cache)
    if data.points.is_empty():
        raise UserError(
            f"sweep {data.sweep.name!r} has no measured points yet: expected at least one completed trial; "
            "let the study run on, or give its command again to publish what is done"
        )
    again = [f"retention-{slug(outcome.name)}" for outcome in data.declaration.outcomes]
    new_folders(out, (*TABLES, *FIGURES, *again))
    path = out / "report.html"
    drawn = information_page if is_information(data) else page
    path.write_text(drawn(data, out, tracking_uri), encoding="utf-8")
    return path


def default_folder(results: Path, study: str) -> Path:
    """`<results>/reports/<study>`; a name with slashes or dots cannot lead out of it."""
    return results / "reports" / (slug(study) or "study")
