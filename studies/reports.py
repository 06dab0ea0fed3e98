"""The report that every study draws when its sweep is done."""

from __future__ import annotations

from pathlib import Path

from halflife.errors import UserError
from halflife.sweep.site import ExecutionSite


def report(study: str, site: ExecutionSite, sweep: str) -> Path:
    """Draws the report of the sweep with this digest. Raises UserError when that is not possible."""
    from analysis import errors
    from analysis.report.write import default_folder, write_report

    folder = default_folder(site.results, study)
    try:
        return write_report(study, tracking_uri=site.actual_tracking_uri, out=folder, sweep=sweep)
    except errors.UserError as error:
        raise UserError(str(error)) from error
