"""The one place that knows which class reads which kind of MLflow store."""

from __future__ import annotations

from analysis.runs.client import ClientStore
from analysis.runs.records import Store
from analysis.runs.sqlite import SqliteStore


def open_store(tracking_uri: str) -> Store:
    """Raises UserError when nothing is there."""
    return SqliteStore(tracking_uri) if tracking_uri.startswith("sqlite:") else ClientStore(tracking_uri)
