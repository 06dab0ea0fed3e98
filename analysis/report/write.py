"""Write the report of a study: choose the sweep, the page and the folder."""

from __future__ import annotations

from pathlib import Path

from analysis.errors import UserError
from analysis.figures import FIGURES
from analysis.prompts.elicitation import is_elicited
from analysis.report.decay_page import decay_page
from analysis.report.panels import new_folders
from analysis.report.prompts_page import prompts_page
from analysis.report.rows import slug
from analysis.runs.load import load_study

TABLES = (
    "numbers", "sizes", "fits", "fit_parameters", "fit_clocks", "outcomes", "outcome_effects", "outcome_time_ratios",
)  # fmt: skip


def write_report(
    study: str, *, tracking_uri: str, out: Path, sweep: str | None = None, cache: Path | None = None
) -> Path:
    """Write the report of the newest sweep of `study` (or of `sweep`) into `out`; returns the HTML file.
    `cache`: folder that caches the points, as in `load_study`.

    Raises UserError when the store, the study or its points are missing.
    """
    data = load_study(tracking_uri, study, sweep, cache)
    if data.points.is_empty():
        raise UserError(
            f"sweep {data.sweep.name!r} has no measured points yet: expected at least one completed trial; "
            "let the study continue, or repeat its command to publish the completed trials"
        )
    other = [f"retention-{slug(outcome.name)}" for outcome in data.declaration.outcomes]
    new_folders(out, (*TABLES, *FIGURES, *other))
    path = out / "report.html"
    page = prompts_page if is_elicited(data) else decay_page
    path.write_text(page(data, out, tracking_uri), encoding="utf-8")
    return path


def default_folder(results: Path, study: str) -> Path:
    """`<results>/reports/<study>`; slashes and dots in the name cannot lead out of it."""
    return results / "reports" / (slug(study) or "study")
