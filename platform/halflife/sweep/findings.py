"""The result of a search as text for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from halflife.sweep.adaptive import Search

Measured = list[dict[str, float]]
"""One dict per seed, by name of objective or constraint."""


def means(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(each[name] for each in measured) / len(measured) for name in measured[0]}


def findings(
    search: Search,
    settings: Mapping[int, Mapping[str, Any]],
    chosen: Mapping[int, Measured | None],
    found: Mapping[int, tuple[str, Measured | None]],
) -> list[str]:
    """One line per setting: its result on fresh seeds (or why there is none), compared with that on the search's seeds.

    All three mappings are by suggestion number: `settings` has the parameters, `chosen` the results on the search's
    seeds, `found` a problem or the results on fresh seeds.
    """
    if not any(chosen.values()):
        return ["no setting could be evaluated"]
    if not found:
        return ["no setting meets the constraints" if search.fresh_seeds else "nothing was evaluated on fresh seeds"]
    count = len(search.fresh_seeds)
    lines = [
        f"on {count} fresh {'seed' if count == 1 else 'seeds'}: mean [min, max]; in parentheses the mean in the "
        "search, which has selection bias (winner's curse)"
    ]
    for number, (problem, measured) in found.items():
        what = ", ".join(f"{name} {_short(value)}" for name, value in settings[number].items())
        first = ", evaluated first" if number < len(search.first) else ""
        if measured is None:
            lines.append(f"#{number} ({what}{first}): failed: {problem}")
            continue
        searched, parts = means(chosen.get(number) or [{}]), []
        for objective in search.declaration.objectives:
            label = objective.label.lower()
            values = [each[objective.name] for each in measured if math.isfinite(each[objective.name])]
            if not values:
                parts.append(f"{label} could not be measured")
                continue
            mean = sum(values) / len(values)
            fewer = "" if len(values) == count else f" on {len(values)} of {count} seeds"
            was = f" ({searched[objective.name]:.4g})" if objective.name in searched else ""
            parts.append(f"{label} {mean:.4g} [{min(values):.4g}, {max(values):.4g}]{fewer}{was}")
        lines.append(f"#{number} ({what}{first}): {'; '.join([*parts, *_violated(search, measured)])}")
    return lines


def _violated(search: Search, measured: Measured) -> list[str]:
    """For each constraint that is not met on every seed: on how many it is."""
    violations = [search.violations(each) for each in measured]
    lines = []
    for constraint in search.declaration.constraints:
        held = sum(each[constraint.name] <= 0 for each in violations)  # NaN counts as violated
        if held < len(measured):
            lines.append(f"the constraint '{constraint.text}' is met on {held} of {len(measured)} seeds")
    return lines


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
