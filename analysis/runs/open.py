"""Chooses the class that reads a kind of MLflow store."""

from __future__ import annotations

from analysis.runs.client import ClientStore
from analysis.runs.records import Store
from analysis.runs.sqlite import SqliteStore


def open_store(tracking_uri: str) -> Store:
    """Raises UserError if there is no store."""
    return SqliteStore(tracking_uri) if tracking_uri.startswith("sqlite:") else ClientStore(tracking_uri)
