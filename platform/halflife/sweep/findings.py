"""What a search has come to, in words for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from halflife.sweep.adaptive import Search

Measured = list[dict[str, float]]
"""What each seed measured, by name of objective or constraint."""


def means(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(each[name] for each in measured) / len(measured) for name in measured[0]}


def findings(
    search: Search,
    settings: Mapping[int, Mapping[str, Any]],
    chosen: Mapping[int, Measured | None],
    found: Mapping[int, tuple[str, Measured | None]],
) -> list[str]:
    """The result, a line a setting: what fresh seeds measured (or why not), beside what had chosen it.

    `settings` are the parameters by number, `chosen` what the search's seeds measured, `found` what fresh ones did.
    """
    if not any(chosen.values()):
        return ["no setting could be measured"]
    if not found:
        return ["no setting meets the constraints" if search.fresh_seeds else "nothing was evaluated on fresh seeds"]
    count = len(search.fresh_seeds)
    lines = [
        f"on {count} fresh {'seed' if count == 1 else 'seeds'}: mean [least, most]; in round brackets what chose the "
        "setting, too good by the winner's curse"
    ]
    for number, (problem, measured) in found.items():
        what = ", ".join(f"{name} {_short(value)}" for name, value in settings[number].items())
        first = ", tried first" if number < len(search.first) else ""
        if measured is None:
            lines.append(f"#{number} ({what}{first}): failed: {problem}")
            continue
        searched, told = means(chosen.get(number) or [{}]), []
        for objective in search.declaration.objectives:
            label = objective.label.lower()
            values = [each[objective.name] for each in measured if math.isfinite(each[objective.name])]
            if not values:
                told.append(f"{label} could not be measured")
                continue
            mean = sum(values) / len(values)
            fewer = "" if len(values) == count else f" on {len(values)} of {count} seeds"
            was = f" ({searched[objective.name]:.4g})" if objective.name in searched else ""
            told.append(f"{label} {mean:.4g} [{min(values):.4g}, {max(values):.4g}]{fewer}{was}")
        lines.append(f"#{number} ({what}{first}): {'; '.join([*told, *_broken(search, measured)])}")
    return lines


def _broken(search: Search, measured: Measured) -> list[str]:
    """Of each constraint that did not hold on every seed: on how many it did."""
    violations = [search.violations(each) for each in measured]
    told = []
    for constraint in search.declaration.constraints:
        held = sum(each[constraint.name] <= 0 for each in violations)  # what is not a number does not hold
        if held < len(measured):
            told.append(f"the constraint '{constraint.words}' held on {held} of {len(measured)} seeds")
    return told


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
