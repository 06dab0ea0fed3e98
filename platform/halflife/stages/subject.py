"""A model as it is looked at: its weights, and the edits made to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from halflife.data.tokenizers import Pretrained, Tokenizer, vocabulary_of
from halflife.errors import UserError
from halflife.models.edit import Edit, Parents
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.rng import seed_of
from halflife.stages.train import Checkpoint
from halflife.store.execution import Memory
from halflife.store.stage import Cost
from halflife.training.memory import scoring_bytes

if TYPE_CHECKING:
    from halflife.models.model import Model

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Any probe measures any subject. Its weights never change: it is frozen and in evaluation mode."""

    model: Checkpoint | Rung | Released
    """A rung is untrained: its weights are the initial ones at `seed`."""
    edits: tuple[Edit, ...] = ()
    """In the order in which they are made"""
    tokenizer: Tokenizer | None = None
    """A checkpoint has its own; a rung and a released model need theirs here."""
    seed: int = 0
    """Of a rung's initial weights"""

    def __post_init__(self) -> None:
        """Raises UserError when the fields contradict one another."""
        if isinstance(self.model, Checkpoint):
            if self.tokenizer not in (None, self.model.stage.mixture.tokenizer):
                raise UserError("a checkpoint with another tokenizer given: leave it out, it has its own")
        elif self.tokenizer is None:
            raise UserError(f"{self.model.size} without a tokenizer given: give the model's own")
        if self.seed and not isinstance(self.model, Rung):
            raise UserError(f"seed {self.seed} of a model with trained weights given: leave it out")
        model, tokens = self.architecture, vocabulary_of(self.codec)
        if isinstance(model, Released) and isinstance(self.codec, Pretrained) and tokens > model.shape.vocabulary:
            raise UserError(
                f"the tokenizer has {tokens} tokens and {model.name} {model.shape.vocabulary}: expected the model's own"
            )
        for edit in self.edits:
            if not isinstance(edit, Edit):
                raise UserError(f"edit {edit!r} given: expected a class that derives from `models.edit.Edit`")
            edit.check(model)

    @property
    def codec(self) -> Tokenizer:
        """The tokenizer of all texts."""
        found = self.model.stage.mixture.tokenizer if isinstance(self.model, Checkpoint) else self.tokenizer
        assert found is not None
        return found

    @property
    def architecture(self) -> Rung | Released:
        return self.model.stage.architecture if isinstance(self.model, Checkpoint) else self.model

    @property
    def context_length(self) -> int | None:
        """The longest text that it reads, in tokens: a released model's limit, or what a checkpoint was trained on,
        less what edits take of it."""
        model = self.architecture
        limit = model.shape.context if isinstance(model, Released) else None
        trained = self.model.stage.mixture.sequence if isinstance(self.model, Checkpoint) else None
        longest = min((length for length in (limit, trained) if length is not None), default=None)
        return None if longest is None else longest - self.tokens_before

    @property
    def tokens_before(self) -> int:
        """Tokens that edits put before every text."""
        return sum(edit.tokens for edit in self.edits)

    @property
    def size(self) -> str:
        return self.architecture.size

    def memory(self, tokens: float) -> Memory:
        """Of a pass over texts with so many tokens."""
        model, vocabulary = self.architecture, vocabulary_of(self.codec)
        return Memory(
            parameters=4.0 * (model.parameters + model.embedding_parameters(vocabulary)),
            evaluation=scoring_bytes(model, vocabulary, tokens) + sum(edit.memory_bytes(model) for edit in self.edits),
        )

    def reading(self, tokens: float, sequence: int) -> Cost:
        """The cost of reading so many tokens, in texts of up to `sequence`: a third of training's FLOPs. The memory is
        of the model alone."""
        return Cost(
            tokens=tokens,
            flops=tokens / 3 * self.architecture.flops_per_token(sequence, vocabulary_of(self.codec)),
            memory_bytes=self.memory(0).total,
            disk_bytes=0.0,
        )

    def load(self, parents: Parents, precision: Precision = "fp32") -> Model:
        """The model with its edits, frozen, on the parents' device. Raises UserError when a checkpoint is corrupt."""
        import torch  # only where a stage runs

        from halflife.models.start import freeze, fresh
        from halflife.training.loop import model_at

        vocabulary = vocabulary_of(self.codec)
        if isinstance(self.model, Checkpoint):
            model, _ = model_at(self.model.folder(parents.parent(self.model.stage)), self.architecture, vocabulary)
        else:
            model = fresh(self.model, vocabulary, 0.0, seed_of(self.seed, "model"))
        model = freeze(model, precision).to(torch.device(parents.device))
        for edit in self.edits:
            model = edit.prepare(parents)(model)
        return model
