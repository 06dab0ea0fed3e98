"""A study as frames: what every reader of runs returns, and the input of everything else."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from analysis.errors import UserError
from analysis.runs import upgrades
from analysis.runs.records import Run
from halflife.tracking.schema import Declaration

POINTS = {"trial": pl.String, "phase": pl.String, "step": pl.Int64, "name": pl.String, "value": pl.Float64}


@dataclass(frozen=True, kw_only=True)
class StudyData:
    """One sweep of one study."""

    declaration: Declaration
    sweep: Run
    """The parent run; its tags record how the sweep was run."""
    totals: dict[str, float]
    """The parent run's own metrics by name: sweep/efficiency, sweep/wall_seconds, ..."""
    trials: pl.DataFrame
    """trial, name, role, the trial's parameters (typed), and per phase outcome_, summary_ (JSON), stage_ (folder)."""
    points: pl.DataFrame
    """trial, phase, step (tokens since the phase began), name (`task/measure`), value."""
    parameters: tuple[str, ...]
    """Names of the parameter columns of `trials`."""
    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Cache of results computed from this data and shared by figures; a modified copy starts empty."""

    @property
    def running(self) -> bool:
        return self.sweep.status == "RUNNING"


def declared(text: str, what: str) -> tuple[Declaration, upgrades.Upgrade]:
    """The declaration in the current schema, and the upgrade for everything else written under its own schema.

    Raises UserError, which names it as `what`, if it cannot be read or has a newer schema.
    """
    try:
        fields = json.loads(text)
        upgrade = upgrades.path(int(fields["schema"]), upgrades.UPGRADES)
        return Declaration.from_json(json.dumps(upgrade.declaration(fields))), upgrade
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{what} cannot be read: {error}") from error
