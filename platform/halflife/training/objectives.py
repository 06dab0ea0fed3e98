"""The objectives that need no room above training: next-token prediction, and what keeps a model near its start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from halflife.data.tokenizers import vocabulary_of
from halflife.errors import UserError
from halflife.models.ladder import Rung
from halflife.store.execution import ENGINES
from halflife.training.memory import divergence_bytes, trained_parameters
from halflife.training.objective import Objective, ObjectiveSetting, Terms, Trained, check_strength
from halflife.training.parameters import LoRA


@dataclass(frozen=True, kw_only=True)
class NextToken(Objective):
    """Next-token cross-entropy in nats, a mean over the predicted tokens of the global batch, times `strength`. Logs it
    as train/loss, without the strength."""

    engines: ClassVar[tuple[str, ...]] = ENGINES
    once: ClassVar[bool] = True

    label_smoothing: float = 0.0
    strength: float = 1.0

    def __post_init__(self) -> None:
        check_strength("next token", self.strength)
        if not 0 <= self.label_smoothing <= 1:
            raise UserError(f"label smoothing {self.label_smoothing}: expected a fraction from 0 to 1, such as 0.1")

    @property
    def measures(self) -> tuple[str, ...]:
        return ("train/loss",)

    def prepare(self, setting: ObjectiveSetting) -> Terms:
        from halflife.training.terms import next_token  # imports torch

        masked = setting.stage.mixture.has_loss_mask
        return Terms(
            on_batch=next_token(
                self.label_smoothing, self.strength, masked=masked, compile=setting.context.execution.compile
            )
        )


@dataclass(frozen=True, kw_only=True)
class L2SP(Objective):
    """Pull towards the stage's initial weights, as the proximal step
    theta <- theta_0 + (theta - theta_0) / (1 + eta strength), with eta the learning rate (arXiv 1802.01483)."""

    engines: ClassVar[tuple[str, ...]] = ENGINES
    reads_batch: ClassVar[bool] = False

    strength: float

    def __post_init__(self) -> None:
        check_strength("l2sp", self.strength)

    def check(self, stage: Trained) -> None:
        check_whole("l2sp", stage)

    def prepare(self, setting: ObjectiveSetting) -> Terms:
        def pull(learning_rate: float) -> float:
            amount = learning_rate * self.strength
            return amount / (1 + amount)

        return Terms(pull=pull)


@dataclass(frozen=True, kw_only=True)
class EWC(Objective):
    """Elastic weight consolidation (arXiv 1612.00796): L2SP with a separate strength for every weight,
    strength F_i / mean F, with F the diagonal of the Fisher information at the start. So its mean strength over the
    weights is that of L2SP. Its step is proximal as well: no strength is too large."""

    once: ClassVar[bool] = True
    reads_batch: ClassVar[bool] = False

    strength: float
    fisher: Any
    """The stage (`stages.fisher.Fisher`) that estimates F at the checkpoint that the Train starts from."""

    def __post_init__(self) -> None:
        check_strength("ewc", self.strength)

    def check(self, stage: Trained) -> None:
        if getattr(self.fisher, "checkpoint", None) != stage.start:
            raise UserError("ewc needs the Fisher (stages.fisher) of the checkpoint that the stage starts from")
        check_whole("ewc", stage)

    def memory_bytes(self, stage: Trained) -> float:
        vocabulary = vocabulary_of(stage.mixture.tokenizer)
        return 4.0 * trained_parameters(stage.parameters, stage.architecture, vocabulary)

    def prepare(self, setting: ObjectiveSetting) -> Terms:
        from halflife.training.fisher import read_fisher  # imports torch
        from halflife.training.terms import elastic

        return Terms(
            pull=elastic(setting.model, read_fisher(setting.context.parent(self.fisher)), strength=self.strength)
        )


@dataclass(frozen=True, kw_only=True)
class KL(Objective):
    """Adds strength KL(p_0 || p) to the loss, a mean over the same tokens as the loss, with p_0 the prediction of the
    initial model on this batch (learning without forgetting at temperature 1, arXiv 1606.09282)."""

    once: ClassVar[bool] = True

    strength: float

    def __post_init__(self) -> None:
        check_strength("kl", self.strength)

    def check(self, stage: Trained) -> None:
        if isinstance(stage.start, Rung):
            raise UserError(
                "kl to the initial model of a fresh rung, which has learned nothing: start from a checkpoint"
            )

    def step_tokens(self, stage: Trained) -> float:
        return stage.batch_tokens / 3

    def memory_bytes(self, stage: Trained) -> float:
        model, vocabulary = stage.architecture, vocabulary_of(stage.mixture.tokenizer)
        return 4.0 * (model.parameters + model.embedding_parameters(vocabulary))

    def token_bytes(self, stage: Trained) -> float:
        return divergence_bytes(vocabulary_of(stage.mixture.tokenizer))

    def prepare(self, setting: ObjectiveSetting) -> Terms:
        from halflife.training.terms import frozen_copy, matching_logits  # imports torch

        return Terms(on_batch=matching_logits(frozen_copy(setting.model), self.strength) if self.strength else None)


def check_whole(name: str, stage: Trained) -> None:
    """Raises UserError when the stage trains a LoRA, which keeps the initial weights."""
    if isinstance(stage.parameters, LoRA):
        raise UserError(f"{name} with LoRA, which keeps the initial weights: use weight decay or kl")
