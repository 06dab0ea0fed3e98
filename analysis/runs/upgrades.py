"""Studies written under an older schema are read as if they had the current one: one small pure function per version.

`UPGRADES[v]` converts schema v to v + 1; upgrades are applied in sequence. A newer schema than this code's is refused.
Version 1 was the first released.
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
    """Converts the tags of trial runs."""
    metric: Callable[[str], str] = _same
    """Converts the name of a metric as logged, `<phase>/<task>/<measure>`."""


_MEASURED = ("payload", "family", "subject")
"""Axes of schema 1 that said what was measured."""


def _with_roles(value: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 added the roles of axes; those that the name does not tell have `schema.Axis`'s default. It has
    questions too, of which schema 1 had none."""
    axes = [{"role": "measured", **axis} if axis["name"] in _MEASURED else axis for axis in value["axes"]]
    return {**value, "axes": axes}


UPGRADES: dict[int, Upgrade] = {1: Upgrade(declaration=_with_roles)}


def path(version: int, upgrades: Mapping[int, Upgrade]) -> Upgrade:
    """One upgrade from `version` to the current schema. Raises UserError if there is none."""
    if version > schema.SCHEMA:
        raise UserError(
            f"the runs were written with schema {version}; this analysis reads up to {schema.SCHEMA}: upgrade halflife"
        )
    lacking = [step for step in range(version, schema.SCHEMA) if step not in upgrades]
    if lacking:
        raise UserError(
            f"the runs were written with schema {version}, but this analysis cannot read schema {lacking[0]}: "
            "expected a released version; run the study again"
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
