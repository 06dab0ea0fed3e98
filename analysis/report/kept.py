"""Where reports are kept: a folder for each sweep of a study, and `latest`, which leads to the newest.

A sweep's folder is named by its preset and its digest, not by a time: a sweep that is resumed, or published anew into
an empty store, draws its own again; other settings are another sweep. `analysis sweeps` lists digests with their times.
"""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

from analysis.answers.write import replaced
from analysis.report.rows import slug
from analysis.runs.study import StudyData
from halflife.tracking import schema

LATEST = "latest"
PAGE = "report.html"
_REDIRECT = (
    '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={to}"><a href="{to}">{to}</a>'
)
_WAITING = (
    '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="5"><title>Report</title>'
    "<p>The sweep has begun. Its report stands here when a first stage has ended; this page reloads itself.</p>\n"
)


def default_folder(results: Path, study: str) -> Path:
    """Of a study's reports: `<results>/reports/<study>`; slashes and dots in the name cannot lead out of it."""
    return results / "reports" / (slug(study) or "study")


def own_folder(reports: Path, data: StudyData) -> Path:
    """Of this sweep's report, in the folder of its study."""
    return folder_of(reports, data.declaration.preset, data.sweep.tags.get(schema.TAG_SWEEP, ""))


def folder_of(reports: Path, preset: str, sweep: str) -> Path:
    """Of the report of the sweep with this digest, in the folder of its study."""
    return reports / (slug(f"{preset}-{sweep[:12]}") or "sweep")


def begun(folder: Path) -> Path:
    """The page of a sweep that begins: until it is drawn first, one that waits for it."""
    path = folder / PAGE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        replaced(path, _WAITING)
    return path


def point_latest(folder: Path) -> None:
    """`latest` beside this folder leads to it: a relative link or, where none can be made, the page `latest.html`."""
    link, new = folder.with_name(LATEST), folder.with_name(f".{LATEST}-{os.getpid()}")
    try:
        new.unlink(missing_ok=True)
        new.symlink_to(folder.name, target_is_directory=True)
        new.replace(link)
    except OSError:
        new.unlink(missing_ok=True)
        replaced(folder.with_name(f"{LATEST}.html"), _REDIRECT.format(to=escape(f"{folder.name}/{PAGE}")))
