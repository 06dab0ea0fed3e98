"""The one template, filled in: sections that a page lacks are left out."""

from __future__ import annotations

from typing import Any

from analysis.report.glossary import explained
from analysis.report.panels import pages
from analysis.stats.format import short
from halflife.secrets import masked

NOTHING: dict[str, Any] = {
    "live": None, "varied": "", "opening": [], "answered": None, "invalid": [], "unknown": [], "checks": [], "axes": [],
    "fixed": [],
    "questions": [], "panels": [], "decay": None, "prompts": None, "examples": [], "triggers": None, "values": None,
    "efficiency": [], "provenance": None,
    "words": {"skill": "skill", "answer": "answer", "success": "success"},
}  # fmt: skip


def rendered_page(**sections: Any) -> str:
    """The HTML page of `declaration`, `counts` and the sections of NOTHING. Every text from the runs is escaped, and
    secrets are masked: the store, the command, settings and notes may contain URIs. Terms are explained at hover."""
    page = pages().get_template("report.html").render(**{**NOTHING, **sections}, short=short)
    return explained(masked(page))
