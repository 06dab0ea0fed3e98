"""Searches over regularizers: what is suggested, with two digits, so that nearby settings share stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Range = tuple[float, float, bool]
"""Lowest and highest value, and whether it is drawn log-uniformly."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One model size, and the seeds of its search."""

    size: str
    """Model size, by non-embedding parameters."""
    seeds: int
    """Number of seeds; every setting is tried on the same ones."""
    fresh_seeds: int
    """Number of further seeds, on which the best settings are evaluated again."""


def number(trial: BaseTrial, name: str, drawn: Range) -> float:
    low, high, log = drawn
    return float(f"{trial.suggest_float(name, low, high, log=log):.2g}")


def regularizer(
    trial: BaseTrial, phase: str, kinds: tuple[str, ...], strengths: Mapping[str, Range]
) -> tuple[str, float]:
    """One of `kinds` for a phase, and its strength; none has strength 0."""
    kind = trial.suggest_categorical(phase, kinds)
    return kind, 0.0 if kind == "none" else number(trial, f"{phase}_{kind}", strengths[kind])


def first(reference: Any) -> dict[str, Any]:
    """The reference as a search's first suggestion: strengths are drawn with a regularizer only."""
    fields = dataclasses.asdict(reference)
    return {name: value for name, value in fields.items() if not name.endswith("_strength")}


def declared(settings: Any) -> dict[str, Any]:
    """Settings with those of their budget among them."""
    given = dataclasses.asdict(settings)
    return {**{name: value for name, value in given.items() if name != "budget"}, **given["budget"]}


def seeds_note(settings: Settings) -> str:
    return (
        f"settings were chosen on seeds 0 to {settings.seeds - 1}; the numbers of the best are from the "
        f"{settings.fresh_seeds} seeds after them, which the search never saw"
    )


def named(kind: str, strength: float, decay: float | None = None) -> str:
    """The name of a regularizer that was drawn, added to a weight decay."""
    parts = [f"weight-decay-{decay:g}"] if decay is not None else []
    if kind != "none":
        parts.append(f"{kind}-{strength:g}")
    return "+".join(parts) or "none"
