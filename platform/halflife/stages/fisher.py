"""Fisher: how much each weight of a checkpoint affects its predictions; the parent of elastic weight consolidation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

from halflife.data.mixture import Mixture
from halflife.data.tokenizers import vocabulary_of
from halflife.errors import Diverged, UserError
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint
from halflife.store.stage import Context, Cost, Stage


@dataclass(frozen=True, kw_only=True)
class Fisher(Stage):
    """The diagonal of the Fisher information at `subject`, per predicted token of `mixture` (`training.fisher`)."""

    kind: ClassVar[str] = "fisher"

    subject: Subject
    mixture: Mixture
    """The text to remember."""
    batches: int = 128
    """Each with its own draw of labels: the estimate's relative error is about sqrt(2 / batches) per weight."""
    rows: int = 4
    """Sequences per batch."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batches", "rows"):
            if getattr(self, name) < 1:
                raise UserError(f"a Fisher of {name} = {getattr(self, name)}: expected at least 1")
        if self.mixture.tokenizer != self.subject.codec:
            raise UserError(
                f"a Fisher on text tokenized by {self.mixture.tokenizer} of a model with the tokenizer "
                f"{self.subject.codec}: expected the same"
            )

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Whose Fisher information it is, if it is a checkpoint's own."""
        return self.subject.model if isinstance(self.subject.model, Checkpoint) and not self.subject.edits else None

    @property
    def architecture(self) -> Rung | Released:
        return self.subject.architecture

    @property
    def cost(self) -> Cost:
        model, vocabulary = self.architecture, vocabulary_of(self.mixture.tokenizer)
        tokens = self.batches * self.rows * self.mixture.sequence
        weights = 4.0 * (model.parameters + model.embedding_parameters(vocabulary))
        return Cost(
            tokens=tokens,
            flops=tokens * model.flops_per_token(self.mixture.sequence, vocabulary),
            # weights, gradients and their squares, and a batch
            memory_bytes=3 * weights + self.rows * self.mixture.sequence * model.activation_bytes(vocabulary),
            disk_bytes=weights,
            steps=self.batches,
        )

    @property
    def label(self) -> str:
        return f"Fisher of {self.architecture.size}"

    def run(self, context: Context) -> dict[str, Any]:
        # torch is imported only where a stage runs
        import torch

        from halflife.data.mixture import Batches
        from halflife.training import fisher

        started = time.perf_counter()
        batches = Batches(
            self.mixture,
            context.results,
            batch_tokens=self.rows * self.mixture.sequence,
            steps=self.batches,
            key=(self.seed, "fisher"),
        )
        model = self.subject.load(context)
        model.requires_grad_(True)
        each = self.rows * self.mixture.sequence

        def report(done: int) -> None:
            context.progress(done * each, self.batches * each, done * each / (time.perf_counter() - started))

        found = fisher.diagonal(model, batches, self.batches, self.seed, report)
        total = torch.stack([tensor.double().sum() for tensor in found.values()]).sum().item()
        if not 0 < total < float("inf"):
            raise Diverged(
                f"the Fisher information sums to {total}: the model's predictions are deterministic or not finite"
            )
        fisher.write(context.folder, found)
        seconds = time.perf_counter() - started
        context.computing(seconds)
        return {"tokens": self.batches * each, "seconds_training": seconds, "trace": total}
