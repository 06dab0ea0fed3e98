"""The description of an adaptive search: its space, objectives, constraints and budget. Run by sweep/suggestions.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from halflife.errors import UserError
from halflife.store.store import Store
from halflife.sweep.report import seconds_in
from halflife.sweep.study import SEPARATOR, Trial
from halflife.tracking import schema

if TYPE_CHECKING:
    import numpy as np
    import optuna
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The budget and the sampler of a search. Raises UserError for invalid values."""

    trials: int
    """Settings to evaluate, failed ones included. A later run with a larger number continues the search."""
    timeout: str | None = None
    """Time (90, 30m, 2h) from the first suggestion after which no more are made. Running ones are finished."""
    sampler: Literal["tpe", "random"] = "tpe"
    """tpe: multivariate tree-structured Parzen estimators with the constant-liar strategy. random: random search."""
    startup: int = 10
    """Settings drawn at random before tpe starts to use the results."""
    at_once: int | None = None
    """Settings evaluated concurrently: 1 makes the search reproducible. By default as many as keep all slots busy."""
    finalists: int = 5
    """Number of best settings to evaluate again on fresh seeds, in addition to the first settings."""
    search_seed: int = 0
    """Seeds the suggestions; independent of the trials' seeds."""

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
        return None if self.timeout is None else seconds_in(self.timeout, "--timeout")


class Unfinished(Exception):
    """A measure needs a control that is not complete."""

    def __init__(self, control: Trial) -> None:
        super().__init__(control.name)
        self.control = control


@dataclass(frozen=True)
class Finished:
    """A trial whose stages are complete, as passed to measures."""

    trial: Trial
    store: Store
    controls: Mapping[str, Trial] = field(default_factory=dict)
    """By role."""
    complete: Callable[[Trial], bool] = lambda control: True
    """Whether a control is complete. Only those that a measure uses have to be."""

    def control(self, role: str) -> Finished:
        """The control of this role with the trial's seed. Raises Unfinished while it is not complete."""
        if role not in self.controls:
            has = ", ".join(sorted(self.controls)) or "none"
            raise UserError(f"trial {self.trial.name!r} has no control of role {role!r}: it has {has}")
        control = self.controls[role]
        if not self.complete(control):
            raise Unfinished(control)
        return replace(self, trial=control)

    def curve(self, phase: str, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps (n,) (tokens since the phase began, increasing) and values (n,) of the metric `<task>/<measure>`.

        Raises UserError when the phase has no such metric.
        """
        points = self.store.points(self.trial.stages[phase])
        chosen = points.filter(points["name"] == name)
        if chosen.is_empty():
            raise UserError(
                f"{phase} of trial {self.trial.name!r} has no metric {name!r}: it has {sorted(set(points['name']))}"
            )
        return chosen["step"].to_numpy(), chosen["value"].to_numpy()


Measure = Callable[[Finished], float]
"""A number from one finished trial. A setting fails if it is not finite."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A study whose settings are suggested one after another, based on the results so far.

    A setting is evaluated on all of `seeds`. The search uses the mean of each objective over seeds, and the worst seed
    of each constraint, as a mean within the bounds may hide a seed that is not. The best settings are evaluated again
    on `fresh_seeds`, which the search never sees, to avoid selection bias (winner's curse). Raises UserError when
    parts are missing or contradict one another.
    """

    declaration: schema.Declaration
    """With the `objectives` and `constraints`."""
    suggest: Callable[[optuna.trial.BaseTrial], Any]
    """A pure function from an Optuna trial (suggest_float, suggest_categorical, ..., also conditional) to a setting."""
    unfold: Callable[[Any, int], Trial]
    """From a setting and a seed to the trial that evaluates it."""
    measures: Mapping[str, Measure]
    """By name of objective or constraint. When a measure changes, the objective's formula must change too: it is part
    of the search's identity."""
    controls: Callable[[int], Sequence[Trial]]
    """The controls of a seed, which do not depend on the setting. If several have the same role, a trial uses the one
    that shares most parameters with it, the first if they are equal."""
    budget: Budget
    seeds: tuple[int, ...]
    fresh_seeds: tuple[int, ...] = ()
    first: tuple[dict[str, Any], ...] = ()
    """Parameters of settings to evaluate before any suggestion, such as the reference, which the best are compared
    with.
    """

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
                f"constraint, {sorted(wanted)}, with distinct names"
            )
        seeds = (*self.seeds, *self.fresh_seeds)
        if not self.seeds or len(set(seeds)) < len(seeds):
            raise UserError(
                f"search {name!r} has seeds {self.seeds} and fresh seeds {self.fresh_seeds}: expected at least one "
                "seed, and no duplicates"
            )

    @cached_property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        return ["maximize" if each.direction == "maximize" else "minimize" for each in self.declaration.objectives]

    def unfolded(self, number: int, setting: Any, *, held_out: bool = False) -> tuple[Trial, ...]:
        """The trials of suggestion `number`, one per seed."""
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
        """By constraint: how far one seed is outside the bounds; 0 or less when the constraint is met."""
        found: dict[str, float] = {}
        for constraint in self.declaration.constraints:
            value = measured[constraint.name]
            below = [] if constraint.at_least is None else [constraint.at_least - value]
            above = [] if constraint.at_most is None else [value - constraint.at_most]
            found[constraint.name] = max(below + above)
        return found


def _nearest(trial: Trial, controls: Sequence[Trial]) -> dict[str, Trial]:
    """By role: the control that shares most parameters with the trial."""

    def shared(control: Trial) -> int:
        return sum(control.parameters.get(name) == value for name, value in trial.parameters.items())

    found: dict[str, Trial] = {}
    for control in controls:
        if control.role not in found or shared(control) > shared(found[control.role]):
            found[control.role] = control
    return found
