"""A study as frames: what every reader of runs returns, and the input of everything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from analysis.errors import UserError
from analysis.runs import upgrades
from analysis.runs.records import Run
from halflife.tracking.schema import Declaration


def no_artifact(trial: str, name: str) -> None:
    """For studies whose store cannot be asked, such as one that was sent to another process."""


POINTS = {"trial": pl.String, "phase": pl.String, "step": pl.Int64, "name": pl.String, "value": pl.Float64}


@dataclass(frozen=True, kw_only=True, repr=False)
class StudyData:
    """One sweep of one study; printed as a few lines: its trials, what varies between them, and the frames."""

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
    newest: bool = True
    """Whether no sweep of the study is newer."""
    artifact: Callable[[str, str], str | None] = field(default=no_artifact, repr=False, compare=False)
    """Text of a trial's artifact of that name, None if there is none: read when it is asked for."""
    derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Cache of results computed from this data and shared by figures; a modified copy starts empty."""

    def __repr__(self) -> str:
        roles = ", ".join(f"{count} {role or 'without a role'}" for role, count in _counted(self.trials))
        lines = [f"{self.sweep.name}, {self.sweep.status.lower()}: {self.trials.height} trials ({roles})"]
        varied = {name: self.trials[name].drop_nulls().unique(maintain_order=True) for name in self.parameters}
        lines += [f"  {name}: {_some(values.to_list())}" for name, values in varied.items()
                  if values.len() > 1 or name in ("size", "seed")]  # fmt: skip
        for name in ("trials", "points"):
            frame: pl.DataFrame = getattr(self, name)
            lines.append(f".{name}: {frame.height:,} rows of {_some(frame.columns, 12)}")
        return "\n".join(lines)

    @property
    def running(self) -> bool:
        return self.sweep.status == "RUNNING"

    @property
    def unfinished(self) -> bool:
        """It runs, or was interrupted and can be resumed: what is missing is not known to fail."""
        return self.sweep.status in ("RUNNING", "KILLED")


def _counted(trials: pl.DataFrame) -> list[tuple[str | None, int]]:
    """The roles, with their numbers of trials."""
    return trials.group_by("role", maintain_order=True).len().rows()


def _some(values: list[Any], most: int = 8) -> str:
    """The first of them, and how many there are."""
    more = f", ... ({len(values)})" if len(values) > most else ""
    return ", ".join(str(value) for value in values[:most]) + more


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
