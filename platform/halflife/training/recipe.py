"""How a stage trains: all that the loop and the engines read of it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from halflife.data.mixture import Mixture
from halflife.errors import UserError
from halflife.evaluation.probes import Evaluation, Threshold
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.training.companion import Companion
from halflife.training.objective import Objective, check_objectives
from halflife.training.objectives import NextToken
from halflife.training.optimizers import Optimizer
from halflife.training.parameters import All, Parameters
from halflife.training.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Keeps the weights at the first evaluation at which the condition holds."""

    name: str
    when: Threshold


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The fields of `stages.train.Train` other than its start."""

    mixture: Mixture
    """Of its text nothing is read where no objective reads batches (`Objective.reads_batch`) and there is no companion:
    then only its tokenizer and its sequence count."""
    tokens: int
    """Length of the stage; rounded up to whole steps."""
    batch_tokens: int = 4096
    optimizer: Optimizer
    optimizer_state: Literal["carry", "reset"] = "carry"
    """At a fork: keep the checkpoint's optimizer state, or reset it. A fresh rung has none to carry."""
    schedule: Schedule = Schedule()
    objectives: tuple[Objective, ...] = (NextToken(),)
    """Their losses are added up."""
    companions: tuple[Companion, ...] = ()
    """Modules that train beside the model, in the same checkpoints."""
    parameters: Parameters = All()
    dropout: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    gradient_noise: float = 0.0
    """Standard deviation of Gaussian noise added to each tensor's clipped gradient, over the gradient's root mean
    square: relative, so that it is the same at every size and learning rate, and constant, since a branch continues its
    trunk's training (arXiv 1511.06807 anneals an absolute one)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    evaluations: tuple[Evaluation, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    until: Threshold | None = None
    """Stop at the first evaluation at which this holds; `tokens` is then a maximum."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError when the fields contradict one another."""
        check_objectives(self.objectives)
        if self.tokens < 1:
            raise UserError(f"a stage of {self.tokens} tokens: expected at least 1")
        if self.batch_tokens % self.mixture.sequence:
            whole = -(-self.batch_tokens // self.mixture.sequence) * self.mixture.sequence
            raise UserError(
                f"batches of {self.batch_tokens} tokens do not divide into sequences of {self.mixture.sequence}: "
                f"make batch_tokens a multiple, such as {whole}"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout {self.dropout}: expected a probability from 0 to below 1")
        if not self.max_grad_norm > 0:
            raise UserError(f"max_grad_norm {self.max_grad_norm}: expected a positive gradient norm")
        if not 0 <= self.gradient_noise < math.inf:
            raise UserError(f"gradient noise {self.gradient_noise}: expected 0 or a positive number, such as 0.5")
        measured = {evaluation.name for evaluation in self.evaluations}
        logged = {metric.split("/")[0] for objective in self.objectives for metric in objective.measures}
        names = [*(companion.name for companion in self.companions), *measured, *(logged - {"train"})]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(
                f"the name {twice!r} given twice: expected another for each evaluation, companion and objective"
            )
        logged |= {"clock", "train", *names}
        conditions = [snapshot.when for snapshot in self.snapshots] + ([self.until] if self.until else [])
        for metric in (condition.metric for condition in conditions):
            if metric.split("/")[0] not in logged:
                raise UserError(
                    f"a snapshot or `until` waits for {metric!r}, and the stage's evaluations are {sorted(measured)}: "
                    "add one"
                )
        for snapshot in self.snapshots:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", snapshot.name):
                raise UserError(f"snapshot {snapshot.name!r}: expected a name of letters, digits, '.', '_' and '-'")

    @property
    def steps(self) -> int:
        return -(-self.tokens // self.batch_tokens)

    @property
    def has_loss_mask(self) -> bool:
        """Whether batches have tokens that are not predicted."""
        return self.mixture.has_loss_mask

    @property
    def architecture(self) -> Rung | Released:
        """The model that the chain of starts begins with."""
        raise NotImplementedError(f"{type(self).__name__} has no start")

    @property
    def depth(self) -> int:
        """Ancestors in the chain of starts: 0 for a trunk, 1 for its branch, 2 for relearning."""
        raise NotImplementedError(f"{type(self).__name__} has no start")
