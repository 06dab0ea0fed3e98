"""A study: trials made of stages, and the declaration of what varies and what is controlled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from halflife.errors import UserError
from halflife.store.identity import key_of
from halflife.store.stage import Stage
from halflife.tracking.check import check
from halflife.tracking.names import EXPECTED, accepted, is_folder, renamed
from halflife.tracking.schema import TAG_SUMMARY_PREFIX, Declaration

Scalar = str | int | float | bool
CONTROLS = ("positive", "absent", "null")
"""Kinds of control that every study must declare."""
SEPARATOR = " · "
"""Between the parts of a trial's name."""
_MEASURE = 50
"""Characters that the name of a measure may have, after its phase and task."""
_TAG = len(TAG_SUMMARY_PREFIX)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial of a study: its parameters, and the stage of each phase."""

    name: str
    """Readable and unique in the study. Parts are separated by " · "; those that several trials share come first."""
    parameters: dict[str, Scalar]
    stages: Mapping[str, Stage]
    """By phase, in chronological order."""
    role: str = "treatment"
    """treatment, or this trial's role as a control."""
    facts: dict[str, str] = field(default_factory=dict)
    """Further tags of the run, such as the architecture of a size; not part of the trial's identity."""

    def __post_init__(self) -> None:
        """Raises UserError for names that MLflow does not store."""
        wrong = {f"the parameter {name!r}": name for name in self.parameters if not accepted(name)}
        wrong |= {f"the tag {name!r}": name for name in self.facts if not accepted(name)}
        for phase, stage in self.stages.items():
            if "/" in phase or not accepted(phase, room=_TAG):
                wrong[f"the phase {phase!r}"] = phase
            wrong |= {
                f"the evaluation {task!r}": task
                for task in stage.tasks
                if not accepted(f"{phase}/{task}", room=_MEASURE)
            }
        _check_names(f"trial {self.name!r}", wrong)

    @cached_property
    def key(self) -> str:
        return key_of(
            {
                "name": self.name,
                "role": self.role,
                "parameters": {name: str(value) for name, value in self.parameters.items()},
                "stages": {phase: stage.key for phase, stage in self.stages.items()},
            }
        )


class Cell(Protocol):
    """What the trials of one size and seed have in common."""

    @property
    def size(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def model(self) -> Any:
        """With `parameters`, without embeddings, and `describe()`."""
        ...


def trial(
    cell: Cell,
    values: Mapping[str, Scalar],
    stages: Mapping[str, Stage],
    *words: str,
    role: str = "treatment",
    before: Iterable[str] = (),
    **facts: str,
) -> Trial:
    """A trial of a cell: named by its size, seed and `words` (after those of `before`); its parameters are size and
    seed, and the `values` of what else the study varies."""
    sized = {"size": cell.size, "parameters": cell.model.parameters, "seed": cell.seed}
    return Trial(
        name=SEPARATOR.join([*before, cell.size, f"seed {cell.seed}", *words]),
        parameters={**sized, **values},
        stages=stages,
        role=role,
        facts={"rung": cell.model.describe(), **facts},
    )


def _check_names(what: str, wrong: dict[str, str]) -> None:
    if wrong:
        listed = ", ".join(f"{text} (such as {renamed(name)!r})" for text, name in list(wrong.items())[:5])
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UserError(f"{what} has names that MLflow does not store: rename {listed}{more}; expected {EXPECTED}")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a sweep computes and publishes.

    Raises UserError when it has no trials, when trials share a name, when a control is missing, or when a name cannot
    be stored.
    """

    declaration: Declaration
    trials: tuple[Trial, ...]
    identity: str = ""
    """Digest of a search, whose trials are not known in advance; otherwise empty."""
    warnings: tuple[str, ...] = ()
    """What is doubtful about its settings, one line each: shown before it runs."""

    def __post_init__(self) -> None:
        name = self.declaration.study
        if not is_folder(name):
            raise UserError(f"study {name!r}: expected a name that can be a folder's, such as {renamed(name)!r}")
        declared = {"axis": self.declaration.axes, "objective": self.declaration.objectives}
        declared |= {"constraint": self.declaration.constraints}
        wrong = {
            f"the {what} {each.name!r}": each.name
            for what, group in declared.items()
            for each in group
            if "/" in each.name or not accepted(f"{what}/{each.name}")
        }
        wrong |= {
            f"the setting {each!r}": each for each in self.declaration.settings if not accepted(f"settings/{each}")
        }
        _check_names(f"study {name!r}", wrong)
        if not self.trials:
            raise UserError(f"study {name!r} has no trials: every axis needs at least one value")
        repeated = [trial for trial, count in Counter(trial.name for trial in self.trials).items() if count > 1]
        if repeated:
            raise UserError(f"study {name!r} has several trials named {repeated[0]!r}: expected unique names")
        declared = {control.kind for control in self.declaration.controls}
        missing = [kind for kind in CONTROLS if kind not in declared]
        if missing:
            raise UserError(
                f"study {name!r} declares no {' and no '.join(missing)} control: every study declares "
                f"{', '.join(CONTROLS)} (see schema.Control)"
            )
        roles = {trial.role for trial in self.trials}
        for control in self.declaration.controls:
            if control.role and control.role not in roles:
                raise UserError(
                    f"study {name!r} declares the control {control.label!r} of role {control.role!r}, "
                    f"but no trial has that role (there are {', '.join(sorted(roles))})"
                )
        parameters = {parameter for trial in self.trials for parameter in trial.parameters}
        for axis in self.declaration.axes:
            if axis.name not in parameters:
                raise UserError(f"study {name!r} declares the axis {axis.name!r}, which no trial has as a parameter")
        if problems := check(self.declaration, self.trials, adaptive=bool(self.identity)):
            raise UserError(f"study {name!r}: {problems[0]}")

    @cached_property
    def key(self) -> str:
        """Digest of the sweep, by which a later run of the same command finds its MLflow runs."""
        if self.identity:
            return self.identity
        parts: dict[str, Any] = {
            "study": self.declaration.study,
            "preset": self.declaration.preset,
            "trials": sorted(trial.key for trial in self.trials),
        }
        return key_of(parts)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Every stage of the trials, without duplicates."""
        return tuple({stage.key: stage for _, _, stage in self.uses()}.values())

    def uses(self) -> Iterator[tuple[Trial, str, Stage]]:
        """Every (trial, phase, stage)."""
        for trial in self.trials:
            for phase, stage in trial.stages.items():
                yield trial, phase, stage

    @cached_property
    def users(self) -> dict[str, tuple[tuple[Trial, str], ...]]:
        """By stage key: the trials and phases that use it."""
        found: dict[str, list[tuple[Trial, str]]] = {}
        for trial, phase, stage in self.uses():
            found.setdefault(stage.key, []).append((trial, phase))
        return {key: tuple(users) for key, users in found.items()}

    def check(self, results: Path, **like: Scalar) -> Study:
        """The study itself. Raises UserError for what would stop a stage of the trials with these parameters: a trigger
        that occurs in the text, too little text for the poison, an item longer than a sequence."""
        for each, _, stage in self.uses():
            if like.items() <= each.parameters.items():
                stage.check(results)
        return self

    def title(self, stage: Stage) -> str:
        """A readable title: the common parts of its trials' names, and its phase ("1m · seed 0 · trunk")."""
        users = self.users.get(stage.key)
        if not users:
            return stage.label
        first, *others = [trial.name.split(SEPARATOR) for trial, _ in users]
        common = [part for index, part in enumerate(first) if all(name[index : index + 1] == [part] for name in others)]
        return SEPARATOR.join([*(common or [stage.label]), users[0][1]])

    def shared(self, stage: Stage) -> bool:
        """Whether several trials or phases use the stage. Its points are then in a run of their own."""
        return len(self.users[stage.key]) > 1
