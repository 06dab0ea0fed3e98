"""Train: the stage that everything is made of. A trunk, a branch, relearning and every control are Trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from halflife.data.mixture import Mixture
from halflife.evaluation.probes import Evaluation, Reached
from halflife.models.ladder import Rung
from halflife.stages.base import Context, Cost, Outcome, Stage
from halflife.training.losses import CrossEntropy
from halflife.training.optimizers import Optimizer
from halflife.training.penalties import L2SP
from halflife.training.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Keep the weights at the first evaluation at which the condition holds."""

    name: str
    when: Reached


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a Train starts: another Train's final weights, or one of its snapshots."""

    stage: Train
    at: str = "final"


@dataclass(frozen=True, kw_only=True)
class Train(Stage):
    """Training from a fresh rung or from a checkpoint, with evaluations along the way.

    Batches are drawn from (mixture, seed, lineage depth, step): branches of one trunk see the same fresh
    text, which is never their trunk's.
    """

    kind: ClassVar[str] = "train"
    version: ClassVar[int] = 1

    start: Rung | Checkpoint
    mixture: Mixture
    tokens: int
    """Length of the stage; rounded up to whole steps."""
    batch_tokens: int = 4096
    optimizer: Optimizer
    optimizer_state: Literal["carry", "reset"] = "carry"
    """At a fork: keep the checkpoint's optimizer state, or begin anew. A fresh rung has none to carry."""
    schedule: Schedule = Schedule()
    loss: CrossEntropy = CrossEntropy()
    penalties: tuple[L2SP, ...] = ()
    dropout: float = 0.0
    clip: float = 1.0
    """Largest gradient norm."""
    precision: Literal["fp32", "bf16"] = "fp32"
    evaluations: tuple[Evaluation, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    until: Reached | None = None
    """Stop at the first evaluation at which this holds; `tokens` is then a cap."""
    seed: int = 0

    @property
    def depth(self) -> int:
        """Ancestors in the line of starts: 0 for a trunk, 1 for its branch, 2 for relearning."""
        return 1 + self.start.stage.depth if isinstance(self.start, Checkpoint) else 0

    @property
    def rung(self) -> Rung:
        return self.start if isinstance(self.start, Rung) else self.start.stage.rung

    @property
    def steps(self) -> int:
        return -(-self.tokens // self.batch_tokens)

    def unavailable(self, outcomes: dict[str, Outcome]) -> str | None:
        reason = super().unavailable(outcomes)
        if reason or isinstance(self.start, Rung) or self.start.at == "final":
            return reason
        if self.start.at not in outcomes[self.start.stage.key].summary["snapshots"]:
            return f"the trunk never reached snapshot {self.start.at!r}"
        return None

    @property
    def cost(self) -> Cost:
        rung = self.rung
        tokens = self.steps * self.batch_tokens
        weights = 4.0 * (rung.parameters + 2 * 320 * rung.width)
        return Cost(
            tokens=tokens,
            flops=tokens * rung.flops_per_token(self.mixture.sequence),
            memory_bytes=4 * weights + 34 * 4.0 * self.batch_tokens * rung.width * rung.depth,
            disk_bytes=3 * weights * (1 + len(self.snapshots)),
        )

    def run(self, context: Context) -> dict[str, Any]:
        # torch is imported only where a stage runs
        from halflife.data import tokenizers
        from halflife.data.mixture import Batches
        from halflife.evaluation.measure import prepare
        from halflife.training.loop import train

        tokenizer = tokenizers.load(self.mixture.tokenizer, context.results)
        batches = Batches(
            self.mixture,
            context.results,
            batch_tokens=self.batch_tokens,
            steps=self.steps,
            key=(self.seed, "batch", self.depth),
        )
        measures = {
            evaluation.name: prepare(
                evaluation.probe, tokenizer, context.results, self.mixture.sequence, context.device
            )
            for evaluation in self.evaluations
        }
        start = None
        if isinstance(self.start, Checkpoint):
            folder = context.parent(self.start.stage)
            start = folder / "final" if self.start.at == "final" else folder / "snapshots" / self.start.at
        return train(self, context, batches=batches, measures=measures, start=start)
