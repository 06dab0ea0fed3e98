"""Studies written under an older schema, read as if they were of today's: one small pure function a version.

`UPGRADES[v]` turns what was written under schema v into schema v + 1; they are applied one after the other. A newer
schema than this code knows is refused. Version 1 is the first that was released, so the registry begins empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from analysis.errors import UserError
from halflife.tracking import schema


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """What changed from one version to the next; each function returns a new value."""

    declaration: Callable[[dict[str, Any]], dict[str, Any]] = _same
    tags: Callable[[dict[str, str]], dict[str, str]] = _same
    """Of trial runs."""
    metric: Callable[[str], str] = _same
    """Name of a metric as logged, `<phase>/<task>/<measure>`."""


UPGRADES: dict[int, Upgrade] = {}


def path(version: int, upgrades: Mapping[int, Upgrade]) -> Upgrade:
    """One upgrade from `version` to today's. Raises UserError when there is none."""
    if version > schema.SCHEMA:
        raise UserError(
            f"the runs were written with schema {version}, this analysis reads up to {schema.SCHEMA}: upgrade halflife"
        )
    lacking = [step for step in range(version, schema.SCHEMA) if step not in upgrades]
    if lacking:
        raise UserError(
            f"the runs were written with schema {version}, and this analysis cannot read schema {lacking[0]}: "
            "expected a version that was released; run the study again"
        )
    steps = [upgrades[step] for step in range(version, schema.SCHEMA)]

    def declaration(value: dict[str, Any]) -> dict[str, Any]:
        for step in steps:
            value = step.declaration(value)
        return {**value, "schema": schema.SCHEMA}

    def tags(value: dict[str, str]) -> dict[str, str]:
        for step in steps:
            value = step.tags(value)
        return value

    def metric(value: str) -> str:
        for step in steps:
            value = step.metric(value)
        return value

    return Upgrade(declaration=declaration, tags=tags, metric=metric)
