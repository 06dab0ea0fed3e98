"""Bad questions, found in the plan: each in one line. Standard library only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from halflife.tracking import questions
from halflife.tracking.derived import DERIVED
from halflife.tracking.names import accepted, renamed
from halflife.tracking.questions import Last, Quantity, Question
from halflife.tracking.schema import (
    CONSTRAINT_PHASE,
    OBJECTIVE_PHASE,
    ROLE_HELD_OUT,
    SUGGESTION,
    TAG_ANSWER_PREFIX,
    Declaration,
)

PRIMARIES = 3
FIRST_LOOK = 5
"""Fewest seeds of a first look: with fewer, Student-t intervals are too wide to stop on."""
CHOICES = {
    "scale": ("log", "linear"), "direction": ("below", "above"), "transform": questions.TRANSFORMS,
    "how": ("difference", "ratio", "retention"), "prediction": ("", "positive", "negative", "equivalent"),
}  # fmt: skip
"""Words that fields of quantities and questions may have."""
ROLES = ("replicate", "treatment", "dose", "measured")
_TRAINING = ("train", "clock")
"""Tasks of every training stage."""


class Planned(Protocol):
    """A trial of a plan, as far as questions see it."""

    @property
    def parameters(self) -> Mapping[str, Any]: ...
    @property
    def role(self) -> str: ...
    @property
    def stages(self) -> Mapping[str, Any]:
        """By phase; of a stage only its `tasks` and `key` are read."""
        ...


def check(declaration: Declaration, trials: Sequence[Planned], *, adaptive: bool = False) -> list[str]:
    """What is wrong with the declared quantities and questions, one line each; empty if nothing is.

    `adaptive`: of a search, whose `trials` are its controls. What it will suggest is not known, so of axes and `where`
    only the names are checked.
    """
    problems = [*_whole(declaration), *([] if adaptive else _criteria(declaration, trials))]
    if not declaration.questions and not declaration.quantities:
        return problems
    for quantity in declaration.quantities:
        problems += [f"the quantity {quantity.name!r}: {text}" for text in _quantity(quantity, declaration, trials)]
    for question in declaration.questions:
        lines = _question(question, declaration, trials, adaptive=adaptive)
        problems += [f"the question {question.name!r}: {text}" for text in lines]
    return problems


def _whole(declaration: Declaration) -> Iterator[str]:
    for axis in declaration.axes:
        if axis.role not in ROLES:
            yield f"the axis {axis.name!r} has the role {axis.role!r}: expected one of {', '.join(ROLES)}"
    for what, group in (("quantities", declaration.quantities), ("questions", declaration.questions)):
        for name, count in Counter(each.name for each in group).items():
            if count > 1:
                yield f"{count} {what} are named {name!r}: expected unique names"
            if not accepted(f"{TAG_ANSWER_PREFIX}{name}"):
                yield f"{what} have the name {name!r}, which MLflow does not store: give another, as {renamed(name)!r}"
    primary = [question.name for question in declaration.questions if question.primary]
    if len(primary) > PRIMARIES:
        yield (
            f"{len(primary)} questions are primary ({', '.join(primary)}): expected at most {PRIMARIES}; "
            "ask the others without primary=True"
        )
    looks = declaration.looks
    if looks and (looks[0] < FIRST_LOOK or list(looks) != sorted(set(looks))):
        yield f"looks {looks}: expected growing numbers of seeds, the first {FIRST_LOOK} or more"


def _criteria(declaration: Declaration, trials: Sequence[Planned]) -> Iterator[str]:
    phases = dict.fromkeys(phase for trial in trials for phase in trial.stages)
    treated = [trial.parameters for trial in trials if trial.role == "treatment"]
    for criterion in declaration.criteria:
        start = f"the criterion of {criterion.what!r}:"
        if not 0 < criterion.least <= 1:
            yield f"{start} least {criterion.least:g}: expected a rate above 0 and at most 1"
        if criterion.phase not in phases:
            yield f"{start} no trial has the phase {criterion.phase!r}: expected one of {', '.join(phases)}"
        if not any(criterion.where.items() <= parameters.items() for parameters in treated):
            yield f"{start} no treatment has {', '.join(f'{name} = {v!r}' for name, v in criterion.where.items())}"


def _quantity(quantity: Quantity, declaration: Declaration, trials: Sequence[Planned]) -> Iterator[str]:
    if bool(quantity.measure) == bool(quantity.derived):
        given = (
            "both a measure and a derived reading" if quantity.derived else "neither a measure nor a derived reading"
        )
        yield f"{given}: expected one of them"
        return
    if quantity.derived:
        yield from _derived(quantity, declaration, trials)
    elif quantity.phase in (OBJECTIVE_PHASE, CONSTRAINT_PHASE):
        known = [each.name for each in (*declaration.objectives, *declaration.constraints)]
        if (name := quantity.measure.partition("/")[2]) not in known:
            yield f"no objective or constraint is named {name!r}: expected one of {', '.join(known) or '(none)'}"
    else:
        yield from _measured(quantity, trials)
    for part in (quantity, quantity.moment, quantity.against):
        yield from _words(part)
    if quantity.against is not None:
        roles = sorted({trial.role for trial in trials})
        if quantity.against.role not in roles:
            yield f"no trial has the role {quantity.against.role!r}: expected one of {', '.join(roles)}"


def _derived(quantity: Quantity, declaration: Declaration, trials: Sequence[Planned]) -> Iterator[str]:
    if quantity.derived not in DERIVED:
        yield f"no reading {quantity.derived!r} is known: expected one of {', '.join(DERIVED)}"
        return
    needed, phases = DERIVED[quantity.derived].phase, dict.fromkeys(phase for trial in trials for phase in trial.stages)
    if needed and not any(phase.startswith(needed) for phase in phases):
        yield f"{quantity.derived!r} is read from a phase {needed!r}, which no trial has: there are {', '.join(phases)}"
    if quantity.derived.endswith("_objective") and not declaration.objectives:
        yield f"{quantity.derived!r} is a search's: this study declares no objectives"
    if quantity.moment != Last():
        yield f"the derived reading {quantity.derived!r} has its own moment: leave out `moment`"
    if quantity.against is not None and quantity.against.how == "retention":
        yield f"the derived reading {quantity.derived!r} is no curve: expected how='difference' or 'ratio'"


def _measured(quantity: Quantity, trials: Sequence[Planned]) -> Iterator[str]:
    if not (quantity.phase and quantity.task and quantity.measure.rpartition("/")[2]):
        yield f"measure {quantity.measure!r}: expected <phase>/<task>/<measure>"
        return
    phases = {phase: None for trial in trials for phase in trial.stages}
    if quantity.phase not in phases:
        yield f"no trial has the phase {quantity.phase!r}: expected one of {', '.join(phases)}"
        return
    stages = [trial.stages[quantity.phase] for trial in trials if quantity.phase in trial.stages]
    tasks = dict.fromkeys(task for stage in stages for task in stage.tasks)
    # an evaluation may log several, such as layer-3 of `layer`
    found = (*tasks, *_TRAINING)
    logged = any(quantity.task == task or quantity.task.startswith((f"{task}-", f"{task}.")) for task in found)
    if all(stage.tasks for stage in stages) and not logged:
        yield f"nobody measures {quantity.task!r} in {quantity.phase!r}: expected one of {', '.join(found)}"


def _words(part: Any) -> Iterator[str]:
    for name, known in CHOICES.items():
        if getattr(part, name, known[0]) not in known:
            yield f"{name} {getattr(part, name)!r}: expected one of {', '.join(word for word in known if word)}"


def _question(
    question: Question, declaration: Declaration, trials: Sequence[Planned], *, adaptive: bool
) -> Iterator[str]:
    declared = [quantity.name for quantity in declaration.quantities]
    for name in question.quantities:
        if name not in declared:
            yield f"no quantity {name!r} is declared: expected one of {', '.join(declared) or '(none)'}"
    outcomes = [outcome.name for outcome in declaration.outcomes]
    for name in question.outcomes:
        if name not in outcomes:
            yield f"no outcome {name!r} is declared: expected one of {', '.join(outcomes)}"
    yield from _judged(question)
    items = {name for each in declaration.quantities if each.name in question.quantities for name in _items(each)}
    parameters = dict.fromkeys(name for trial in trials for name in trial.parameters)
    parameters |= {SUGGESTION: None} if adaptive else {}
    for what, names in (("where: ", question.where), ("", question.axes)):
        if unknown := [name for name in names if name not in (*parameters, *items)]:
            yield f"{what}no trial has {unknown[0]!r}: expected one of {', '.join((*parameters, *sorted(items)))}"
            return
    selected = [trial for trial in trials if trial.parameters.get("seed") not in declaration.pilot_seeds]
    if trials and not selected:
        yield "every seed is a pilot seed: nothing is left to answer it with"
        return
    roles = {trial.role for trial in selected} | ({"treatment", ROLE_HELD_OUT} if adaptive else set())
    if lacking := [role for role in question.roles if role not in roles]:
        yield f"no trial has the role {lacking[0]!r}: expected one of {', '.join(sorted(roles))}"
        return
    if not adaptive:
        yield from _chosen(question, [trial for trial in selected if trial.role in question.roles], items)


def _chosen(question: Question, selected: Sequence[Planned], items: Collection[str]) -> Iterator[str]:
    """Whether the trials that the question is about have the values of its `where` and its axes. Those of `items` are
    known only from the readings."""
    for name, value in question.where.items():
        if name in items:
            continue
        selected = [trial for trial in selected if trial.parameters.get(name) == value]
        for role in question.roles:
            if not any(trial.role == role for trial in selected):
                of = f" of the role {role!r}" if len(question.roles) > 1 else ""
                yield f"where: no trial{of} has {name} = {value!r}"
                return
    for name, needed in question.axes.items():
        if name not in items:
            yield from _axis(question, name, needed, selected)
    for name, values in question.values.items():
        if name not in items:
            yield from _arms(name, values, selected)


def _arms(name: str, values: Collection[Any], selected: Sequence[Planned]) -> Iterator[str]:
    """Two arms of the same stages would differ by 0 in every seed, and pass for equivalent."""
    arms = {
        value: {stage.key for trial in selected if _value(trial, name) == value for stage in trial.stages.values()}
        for value in values
    }
    if len(arms) > 1 and len({frozenset(keys) for keys in arms.values()}) == 1 and all(arms.values()):
        shown = " and ".join(repr(value) for value in arms)
        yield f"trials with {name} = {shown} are of the same stages: no field of a stage differs between them"


def _value(trial: Planned, name: str) -> Any:
    return trial.role if name == "role" else trial.parameters.get(name)


def _items(quantity: Quantity) -> tuple[str, ...]:
    return DERIVED[quantity.derived].items if quantity.derived in DERIVED else ()


def _judged(question: Question) -> Iterator[str]:
    """Margin, reason and prediction."""
    if question.margin is not None and not (question.margin > 0 and math.isfinite(question.margin)):
        yield f"margin {question.margin:g}: expected a number above 0, the smallest effect of interest either way"
    if question.margin is not None and not question.reason.strip():
        yield "a margin without a reason: say in `reason` why it is the smallest effect of interest"
    yield from _words(question)
    if question.prediction == "equivalent" and question.margin is None:
        yield "it predicts equivalence without a margin: give margin and reason"
    if question.primary and not question.has_verdict:
        yield "it has no verdict, so it cannot be primary"
    if len(set(question.quantities)) < len(question.quantities):
        yield f"it compares {question.quantity!r} with itself"


def _axis(question: Question, name: str, needed: int, selected: Sequence[Planned]) -> Iterator[str]:
    values = dict.fromkeys(trial.parameters[name] for trial in selected if trial.parameters.get(name) is not None)
    if len(values) < needed:
        shown = ", ".join(str(value) for value in values) or "none"
        count = f"{len(values)} value{'s' * (len(values) != 1)}"
        yield f"the axis {name!r} has {count} ({shown}): expected at least {needed}"
        return
    for value in question.values.get(name, ()):
        if value not in values:
            yield f"no trial has {name} = {value!r}: expected one of {', '.join(str(each) for each in values)}"
    numeric = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in values]
    if name in question.amounts and not all(numeric):
        yield f"the axis {name!r} is no number ({next(iter(values))!r}): expected an amount, such as parameters"
    elif name in question.amounts and getattr(question, "scale", "linear") == "log" and min(values) <= 0:
        yield f"the axis {name!r} has {min(values):g}, which has no logarithm: ask with scale='linear'"
