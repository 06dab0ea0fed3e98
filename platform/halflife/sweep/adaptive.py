"""An adaptive search: what may be suggested, by what it is judged, and how much may be spent on it.

A description, as a Study is. Optuna is imported where a search runs (sweep/suggestions.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from halflife.errors import UserError
from halflife.store.store import Store
from halflife.sweep.study import SEPARATOR, Trial
from halflife.tracking import schema

if TYPE_CHECKING:
    import numpy as np
    import optuna
    from numpy.typing import NDArray

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a search may spend, and how it chooses. Raises UserError on what cannot be."""

    trials: int
    """Settings tried, those that fail included; the same command with more goes on from there."""
    timeout: str | None = None
    """Suggest nothing more so long (90, 30m, 2h) after the first; what is under way is finished, the best evaluated."""
    sampler: Literal["tpe", "random"] = "tpe"
    """tpe: multivariate tree-structured Parzen estimators, what is under way taken for poor. random: without memory."""
    startup: int = 10
    """Settings drawn at random before tpe looks at what was found."""
    at_once: int | None = None
    """Settings under way at once: 1 makes the search the same each time. By default what keeps every slot busy."""
    finalists: int = 5
    """Of the best settings at most so many are evaluated again on fresh seeds, the first ones tried beside them."""
    search_seed: int = 0
    """Draws the suggestions; the trials' own seeds are apart from it."""

    def __post_init__(self) -> None:
        for flag in ("trials", "startup", "at_once"):
            value = getattr(self, flag)
            if value is not None and value < 1:
                raise UserError(f"--{flag.replace('_', '-')} {value}: expected at least 1")
        if self.finalists < 0:
            raise UserError(f"--finalists {self.finalists}: expected 0 or more")
        _ = self.seconds

    @property
    def seconds(self) -> float | None:
        """The timeout, or None."""
        if self.timeout is None:
            return None
        parts = re.fullmatch(r"(\d+\.?\d*|\.\d+)([smhd]?)", self.timeout)
        if parts is None or float(parts[1]) == 0:
            raise UserError(f"--timeout {self.timeout}: expected a time such as 90 (seconds), 30m or 2h")
        return float(parts[1]) * _UNITS[parts[2]]


class Unfinished(Exception):
    """A measure has asked for a control that is not complete."""

    def __init__(self, control: Trial) -> None:
        super().__init__(control.name)
        self.control = control


@dataclass(frozen=True)
class Finished:
    """A trial whose stages are complete, for measuring."""

    trial: Trial
    store: Store
    controls: Mapping[str, Trial] = field(default_factory=dict)
    """By role."""
    complete: Callable[[Trial], bool] = lambda control: True
    """Whether a control is: only those that a measure asks for have to be."""

    def control(self, role: str) -> Finished:
        """The control of this role at the trial's seed. Raises Unfinished while it is not complete."""
        if role not in self.controls:
            has = ", ".join(sorted(self.controls)) or "none"
            raise UserError(f"trial {self.trial.name!r} has no control of role {role!r}: it has {has}")
        control = self.controls[role]
        if not self.complete(control):
            raise Unfinished(control)
        return replace(self, trial=control)

    def curve(self, phase: str, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps (n,) (tokens since the phase began, rising) and values (n,) of the metric `<task>/<measure>`.

        Raises UserError when the phase has no such metric.
        """
        points = self.store.points(self.trial.stages[phase])
        chosen = points.filter(points["name"] == name)
        if chosen.is_empty():
            raise UserError(
                f"{phase} of trial {self.trial.name!r} measured no {name!r}: it has {sorted(set(points['name']))}"
            )
        return chosen["step"].to_numpy(), chosen["value"].to_numpy()


Measure = Callable[[Finished], float]
"""A number from one finished trial. What is not finite fails the setting."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A study whose settings are suggested one after another, by what the earlier ones came to.

    A setting is tried on all of `seeds`; the search is told the means of its objectives, and of each constraint the
    seed that is worst off: a mean within the bounds may hide a seed that is not. The best are evaluated again on
    `fresh_seeds`, which the search never sees: what chose a setting is too good for it. Raises UserError when parts
    are missing or contradict one another.
    """

    declaration: schema.Declaration
    """Its `objectives` and `constraints` say what is sought."""
    suggest: Callable[[optuna.trial.BaseTrial], Any]
    """From Optuna's trial (suggest_float, suggest_categorical, ..., conditionals allowed) to a setting. Pure."""
    unfold: Callable[[Any, int], Trial]
    """From a setting and a seed to the trial that tries it."""
    measures: Mapping[str, Measure]
    """By name: how each objective and constraint is measured. When a measure changes, so must the objective's formula:
    searches are told apart by it."""
    controls: Callable[[int], Sequence[Trial]]
    """The controls of a seed, which no suggestion changes. Of several of one role a trial has that which it shares most
    parameters with, the first of equals."""
    budget: Budget
    seeds: tuple[int, ...]
    fresh_seeds: tuple[int, ...] = ()
    first: tuple[dict[str, Any], ...] = ()
    """Parameters of settings tried before any suggestion, such as the reference; the best are compared with them."""

    def __post_init__(self) -> None:
        declared, name = self.declaration, self.declaration.study
        if not declared.objectives:
            raise UserError(f"search {name!r} declares no objective: expected at least one (see schema.Objective)")
        for objective in declared.objectives:
            if objective.direction not in ("maximize", "minimize"):
                raise UserError(
                    f"objective {objective.name!r} has the direction {objective.direction!r}: "
                    "expected maximize or minimize"
                )
        for constraint in declared.constraints:
            if constraint.at_least is None and constraint.at_most is None:
                raise UserError(f"constraint {constraint.name!r} has no bound: give at_least or at_most")
        wanted = [each.name for each in (*declared.objectives, *declared.constraints)]
        if sorted(wanted) != sorted(self.measures):
            raise UserError(
                f"search {name!r} has measures {sorted(self.measures)}: expected one for each objective and "
                f"constraint, {sorted(wanted)}, their names all different"
            )
        seeds = (*self.seeds, *self.fresh_seeds)
        if not self.seeds or len(set(seeds)) < len(seeds):
            raise UserError(
                f"search {name!r} has seeds {self.seeds} and fresh seeds {self.fresh_seeds}: expected at least one "
                "seed, and none twice"
            )

    @cached_property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        return ["maximize" if each.direction == "maximize" else "minimize" for each in self.declaration.objectives]

    def unfolded(self, number: int, setting: Any, *, held_out: bool = False) -> tuple[Trial, ...]:
        """The trials of suggestion `number`: one a seed."""
        label, role = f"#{number}", "treatment"
        if held_out:
            label, role = f"{label} held out", schema.ROLE_HELD_OUT
        trials = [self.unfold(setting, seed) for seed in (self.fresh_seeds if held_out else self.seeds)]
        return tuple(
            replace(
                trial,
                name=SEPARATOR.join([label, trial.name]),
                parameters={schema.SUGGESTION: number, **trial.parameters},
                role=role,
            )
            for trial in trials
        )

    def controls_of(self, seeds: Sequence[int]) -> tuple[Trial, ...]:
        return tuple(control for seed in seeds for control in self.controls(seed))

    def measured(
        self, trial: Trial, seed: int, store: Store, complete: Callable[[Trial], bool] = lambda control: True
    ) -> dict[str, float]:
        """Every objective and constraint of one finished trial, by name. Raises Unfinished when a measure needs a
        control that is not `complete`."""
        finished = Finished(trial, store, _nearest(trial, self.controls(seed)), complete)
        return {name: float(measure(finished)) for name, measure in self.measures.items()}

    def violations(self, measured: Mapping[str, float]) -> dict[str, float]:
        """By constraint: how far what one seed measured is beyond its bounds; at most 0 when it is met."""
        found: dict[str, float] = {}
        for constraint in self.declaration.constraints:
            value = measured[constraint.name]
            below = [] if constraint.at_least is None else [constraint.at_least - value]
            above = [] if constraint.at_most is None else [value - constraint.at_most]
            found[constraint.name] = max(below + above)
        return found


def _nearest(trial: Trial, controls: Sequence[Trial]) -> dict[str, Trial]:
    """By role the control that shares most parameters with the trial."""

    def shared(control: Trial) -> int:
        return sum(control.parameters.get(name) == value for name, value in trial.parameters.items())

    found: dict[str, Trial] = {}
    for control in controls:
        if control.role not in found or shared(control) > shared(found[control.role]):
            found[control.role] = control
    return found
