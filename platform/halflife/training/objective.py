"""What training minimizes: the base of every objective, and what one is prepared to."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from halflife.data.mixture import Mixture
from halflife.errors import UserError
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.models.sites import Site
from halflife.store.stage import Context
from halflife.training.optimizers import Optimizer
from halflife.training.parameters import Parameters

Loss = Callable[[Any, Any, int, Any], Any]
"""(model, batch, step, seen) -> a scalar tensor; see `Terms`. Untyped, as descriptions import no torch."""
Pull = Callable[[float], Any]
"""From a step's learning rate to the fraction of the way back to the stage's initial weights, from 0 to 1: one number,
or a tensor for each trained parameter, in their order."""


class Trained(Protocol):
    """What an objective may read of the stage that it belongs to: a `stages.train.Train`."""

    @property
    def start(self) -> Any: ...
    @property
    def architecture(self) -> Rung | Released: ...
    @property
    def mixture(self) -> Mixture: ...
    @property
    def parameters(self) -> Parameters: ...
    @property
    def optimizer(self) -> Optimizer: ...
    @property
    def dropout(self) -> float: ...
    @property
    def batch_tokens(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def objectives(self) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Terms:
    """An objective, prepared once for a run of its stage. It has at least one of the first three."""

    on_batch: Loss | None = None
    """Called with every microbatch: tokens (rows, sequence + 1) with `data.loss_mask`'s marks, and the one forward pass
    over them (`training.seen.Seen`). Returns their share of a mean over the predicted tokens of the global batch."""
    on_step: Loss | None = None
    """Called once a step with the global batch and `training.seen.Metrics`; makes forward passes of its own."""
    pull: Pull | None = None
    sites: tuple[Site, ...] = ()
    """Whose activations `on_batch` reads"""
    cycle: int = 1
    """Steps that share what is in memory: a checkpoint is made between cycles only."""
    note: Callable[[Mapping[str, float], int], str | None] = lambda values, steps: None
    """From the values of an evaluation, and the number of steps since the last one, to a sentence for the stage's
    summary, such as a warning, or None"""


@dataclass(frozen=True, kw_only=True)
class ObjectiveSetting:
    """Where an objective is prepared."""

    stage: Trained
    model: Any
    """At the stage's initial weights (`models.model.Model`)"""
    context: Context
    number: int = 0
    """Among the stage's objectives of its class"""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Base of objectives: frozen dataclasses in the `objectives` of a Train, whose own fields may be stages.

    An objective of your own is one such class, in a module that your study imports.
    """

    engines: ClassVar[tuple[str, ...]] = ("torch",)
    """That can train with it"""
    once: ClassVar[bool] = False
    """Whether a stage has it at most once"""
    reads_batch: ClassVar[bool] = True
    """Whether it needs the forward pass over the batch"""

    def check(self, stage: Trained) -> None:
        """Raises UserError when the stage cannot have this objective."""

    def check_texts(self, stage: Trained, results: Path) -> None:
        """Reads its texts as `prepare` will. Raises the same UserErrors, before any compute."""

    def step_tokens(self, stage: Trained) -> float:
        """Tokens of a forward and a backward pass per step, beyond those of the batch; a forward pass alone counts as a
        third. An estimate, for the plan."""
        return 0.0

    def memory_bytes(self, stage: Trained) -> float:
        """What it holds on the device during the whole stage."""
        return 0.0

    def token_bytes(self, stage: Trained) -> float:
        """Held per token of a microbatch between the forward and the backward pass, beyond what the model holds."""
        return 0.0

    @property
    def measures(self) -> tuple[str, ...]:
        """Metrics `<task>/<measure>` that it logs at each evaluation, as means over the steps since the last one."""
        return ()

    def prepare(self, setting: ObjectiveSetting) -> Terms:
        """Reads its data. What it draws depends on the stage's seed and depth, its `number` and the step alone."""
        raise NotImplementedError(f"{type(self).__name__} cannot be prepared")


def prepare_all(stage: Any, model: Any, context: Context) -> list[Terms]:
    """The terms of all objectives of a stage, in their order. Raises UserError when none of them has a loss."""
    kinds = [type(objective) for objective in stage.objectives]
    terms = [
        objective.prepare(
            ObjectiveSetting(stage=stage, model=model, context=context, number=kinds[:at].count(type(objective)))
        )
        for at, objective in enumerate(stage.objectives)
    ]
    if not any(term.on_batch or term.on_step for term in terms):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise UserError(f"objectives without a loss given: {names}; add one to learn from, such as NextToken()")
    return terms


def check_objectives(objectives: Sequence[Any]) -> None:
    """Raises UserError for what is no objective, for none at all, and for one given twice that must not be."""
    for objective in objectives:
        if not isinstance(objective, Objective):
            raise UserError(
                f"objective {objective!r} given: expected one of `training.objectives`, such as NextToken() or "
                "L2SP(strength=1), or a class of your own that derives from `training.objective.Objective`"
            )
    if not objectives:
        raise UserError("no objective given: expected at least one, such as NextToken()")
    kinds = [type(objective) for objective in objectives]
    for kind in kinds:
        if kind.once and kinds.count(kind) > 1:
            raise UserError(f"{kind.__name__} given {kinds.count(kind)} times: expected it once")


def check_name(kind: str, name: str) -> None:
    """Raises UserError for a name that points and checkpoints cannot have."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or name in ("train", "clock"):
        raise UserError(
            f"{kind} {name!r}: expected a name of lower-case letters, digits and '-', other than train and clock"
        )


def check_length(what: str, longest: int, stage: Trained) -> None:
    """Raises UserError when texts of up to so many tokens are longer than what a released model reads."""
    model = stage.architecture
    limit = model.shape.context if isinstance(model, Released) else None
    if limit is not None and longest > limit:
        raise UserError(f"{what} of up to {longest} tokens: {model.size} reads at most {limit}; shorten them")


def check_strength(name: str, strength: float) -> None:
    """Raises UserError when the strength is negative or not finite."""
    if not 0 <= strength < math.inf:
        raise UserError(f"{name} of strength {strength}: expected 0 or a positive number, such as 1")
