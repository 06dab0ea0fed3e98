"""Searches over regularizers: what is suggested, with two digits, so that nearby settings share stages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from halflife.tracking.questions import Contrast, Frontier, Quantity, Question
from halflife.tracking.schema import OBJECTIVE_PHASE, ROLE_HELD_OUT, SUGGESTION, Objective

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


@dataclass(frozen=True, kw_only=True)
class Margin:
    """The smallest effect of interest in an objective, in its unit, and why; of its logarithm with `log`."""

    subject: str
    """The objective as the subject of a sentence: "the clean loss"."""
    value: float
    reason: str
    log: bool = False


def asked(objectives: tuple[Objective, Objective], margins: tuple[Margin, Margin]) -> dict[str, Any]:
    """What a search for the best in two objectives declares: on the seeds that it never saw, the best setting in each
    against the reference, what it costs in the other, and the settings that none is better than in both."""
    places = ("first", "second")
    quantities = [
        Quantity(
            name=f"fresh_{objective.name}", label=margin.subject, derived=f"{place}_objective",
            unit=objective.unit, transform="log" if margin.log else "none",
        )
        for place, objective, margin in zip(places, objectives, margins, strict=True)
    ]  # fmt: skip
    found: list[Question] = []
    for place, objective, margin, quantity in zip(places, objectives, margins, quantities, strict=True):
        up, best = objective.direction == "maximize", f"best {place}"
        against: dict[str, Any] = {"axis": "chosen", "high": best, "low": "reference", "role": ROLE_HELD_OUT}
        found.append(
            Contrast(
                name=f"best_{objective.name}", quantity=quantity.name, primary=True, margin=margin.value,
                reason=margin.reason, prediction="positive" if up else "negative", **against,
                label=f"On fresh seeds, is {margin.subject} {'higher' if up else 'lower'} with the setting that was "
                "best for it than with the reference?",
            )
        )  # fmt: skip
        other = next(each for each in quantities if each is not quantity)
        label = f"Does the setting that was best for {margin.subject} change {other.label}?"
        found.append(Contrast(name=f"cost_of_{objective.name}", quantity=other.name, label=label, **against))
    one, two = (
        Quantity(name=each.name, label=margin.subject, measure=f"{OBJECTIVE_PHASE}/{each.name}", unit=each.unit)
        for each, margin in zip(objectives, margins, strict=True)
    )
    sides = ["high" if each.direction == "maximize" else "low" for each in objectives]
    label = "Which settings is none better than in both objectives?"
    front = Frontier(
        name="frontier", label=label, quantity=one.name, other=two.name, better=(sides[0], sides[1]), axis=SUGGESTION,
        role=ROLE_HELD_OUT,
    )  # fmt: skip
    found.sort(key=lambda question: not question.primary)
    return {"quantities": (*quantities, one, two), "questions": (*found, front), "looks": ()}
