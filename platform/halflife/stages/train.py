"""Train: the stage that everything is made of. A trunk, a branch, relearning and every control are Trains."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from halflife.data.mixture import Mixture
from halflife.data.tokenizers import Pretrained, vocabulary_of
from halflife.errors import UserError
from halflife.evaluation.probes import (
    BehaviourProbe,
    Evaluation,
    LayerProbe,
    LossProbe,
    Probe,
    TaskProbe,
    Threshold,
    due,
)
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.store.execution import CPU_ACTIVATION_BYTES, Execution, Memory
from halflife.store.stage import Context, Cost, Outcome, ParentResult, Stage
from halflife.tasks.synthetic import PARTS, SyntheticTask
from halflife.training.losses import CrossEntropy
from halflife.training.memory import of_training, rows_within, trained_parameters
from halflife.training.optimizers import Optimizer
from halflife.training.parameters import All, Frozen, LoRA, Parameters
from halflife.training.penalties import EWC, KL, L2SP, AddedLoss, Penalty
from halflife.training.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Keep the weights at the first evaluation at which the condition holds."""

    name: str
    when: Threshold


@dataclass(frozen=True, kw_only=True)
class Checkpoint(ParentResult):
    """Where a Train starts: another Train's final weights, or one of its snapshots."""

    stage: Train
    at: str = "final"

    def folder(self, stage_folder: Path) -> Path:
        """Where the weights lie in the folder of the stage's completed attempt."""
        return stage_folder / "final" if self.at == "final" else stage_folder / "snapshots" / self.at

    def unreached(self, outcomes: Mapping[str, Outcome]) -> str | None:
        if self.at == "final" or self.at in outcomes[self.stage.key].summary["snapshots"]:
            return None
        return f"the trunk never reached snapshot {self.at!r}"


@dataclass(frozen=True, kw_only=True)
class Train(Stage):
    """Training from a fresh rung, a released model or a checkpoint, with evaluations along the way.

    Batches are drawn from (mixture, seed, lineage depth, step): branches of one trunk see the same fresh
    text, which is never their trunk's.
    """

    kind: ClassVar[str] = "train"
    version: ClassVar[int] = 4  # 4: checkpoints name lr_multiplier; 3: dropout masks are drawn by 16 bits

    start: Rung | Released | Checkpoint
    mixture: Mixture
    tokens: int
    """Length of the stage; rounded up to whole steps."""
    batch_tokens: int = 4096
    optimizer: Optimizer
    optimizer_state: Literal["carry", "reset"] = "carry"
    """At a fork: keep the checkpoint's optimizer state, or begin anew. A fresh rung has none to carry."""
    schedule: Schedule = Schedule()
    loss: CrossEntropy = CrossEntropy()
    penalties: tuple[Penalty, ...] = ()
    parameters: Parameters = All()
    dropout: float = 0.0
    max_grad_norm: float = 1.0
    """Largest gradient norm."""
    gradient_noise: float = 0.0
    """To each tensor's clipped gradient Gaussian noise is added, of this times its root mean square: as much as the
    gradient at every size and rate, and constant, since a branch goes on with its trunk's training (arXiv 1511.06807
    anneals an absolute one)."""
    precision: Literal["fp32", "bf16"] = "fp32"
    evaluations: tuple[Evaluation, ...] = ()
    snapshots: tuple[Snapshot, ...] = ()
    until: Threshold | None = None
    """Stop at the first evaluation at which this holds; `tokens` is then a cap."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError when the fields contradict one another."""
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
        conditions = [snapshot.when for snapshot in self.snapshots] + ([self.until] if self.until else [])
        for metric in (condition.metric for condition in conditions):
            if metric.split("/")[0] not in measured | {"clock", "train"}:
                raise UserError(
                    f"{metric!r} is waited for, and the stage's evaluations are {sorted(measured)}: add one"
                )
        for snapshot in self.snapshots:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", snapshot.name):
                raise UserError(f"snapshot {snapshot.name!r}: expected a name of letters, digits, '.', '_' and '-'")
        if isinstance(self.start, Checkpoint):
            self._check_fork(self.start)
        elif self.schedule.shape == "continue":
            raise UserError("schedule 'continue' needs a checkpoint to continue from: a fresh rung has no rate yet")
        self._check_model()
        self._check_penalties()

    def _check_penalties(self) -> None:
        sorts = [type(penalty) for penalty in self.penalties]
        for sort in (EWC, KL):
            if sorts.count(sort) > 1:
                raise UserError(f"{sort.__name__} given {sorts.count(sort)} times: expected it once")
        for penalty in self.penalties:
            if not isinstance(penalty, Penalty):
                raise UserError(f"penalty {penalty!r} given: expected an L2SP, an EWC, a KL or an AddedLoss")
            if isinstance(penalty, KL) and isinstance(self.start, Rung):
                raise UserError("kl to the model at the start of a fresh rung, which has learned nothing: fork it")
            if isinstance(penalty, EWC) and getattr(penalty.fisher, "model", None) != self.start:
                raise UserError("ewc needs the Fisher (stages.fisher) of the checkpoint that the stage starts from")

    def _check_model(self) -> None:
        model, mixture, parameters = self.architecture, self.mixture, self.parameters
        if isinstance(model, Released):
            check_released(model, mixture, self.dropout)
        if isinstance(parameters, LoRA):
            for penalty in self.penalties:
                if isinstance(penalty, L2SP | EWC):
                    raise UserError(
                        f"{type(penalty).__name__.lower()} with LoRA: LoRA keeps the starting weights and changes a "
                        "part; use weight decay or kl"
                    )
            known = model.matrices
            unknown = [name for name in parameters.targets if known and name not in known]
            if unknown:
                raise UserError(f"LoRA of {unknown[0]!r}: the matrices of {model.size} are {', '.join(known)}")
        if isinstance(parameters, Frozen) and parameters.layers > model.depth:
            raise UserError(f"the first {parameters.layers} layers frozen: {model.size} has {model.depth}")

    def _check_fork(self, start: Checkpoint) -> None:
        parent = start.stage
        if start.at != "final" and start.at not in {snapshot.name for snapshot in parent.snapshots}:
            raise UserError(
                f"start at snapshot {start.at!r}: the stage that it belongs to keeps "
                f"{sorted(snapshot.name for snapshot in parent.snapshots) or 'none'} and 'final'"
            )
        if parent.mixture.tokenizer != self.mixture.tokenizer:
            raise UserError(
                f"the tokenizer is {self.mixture.tokenizer} and the starting checkpoint's {parent.mixture.tokenizer}: "
                "expected the same"
            )
        if self.optimizer_state == "carry" and type(parent.optimizer) is not type(self.optimizer):
            raise UserError(
                f"cannot carry the state of {type(parent.optimizer).__name__} into {type(self.optimizer).__name__}: "
                "use the same optimizer or optimizer_state='reset'"
            )
        if self.optimizer_state == "carry" and (
            parent.parameters != self.parameters or isinstance(self.parameters, LoRA)
        ):
            raise UserError(
                "cannot carry the optimizer's state from a stage that trained other parameters, or a LoRA that has "
                "been merged: use optimizer_state='reset'"
            )

    @cached_property
    def _lineage(self) -> tuple[Train, ...]:
        """This stage, the one that it starts from, and so on to the one that starts from a rung."""
        line: list[Train] = [self]
        while isinstance(line[-1].start, Checkpoint):
            line.append(line[-1].start.stage)
        return tuple(line)

    @property
    def depth(self) -> int:
        """Ancestors in the line of starts: 0 for a trunk, 1 for its branch, 2 for relearning."""
        return len(self._lineage) - 1

    @property
    def architecture(self) -> Rung | Released:
        """What the line of starts began with."""
        return cast("Rung | Released", self._lineage[-1].start)

    @property
    def steps(self) -> int:
        return -(-self.tokens // self.batch_tokens)

    @property
    def has_loss_mask(self) -> bool:
        """Whether batches hold tokens that are not predicted."""
        return self.mixture.has_loss_mask

    @property
    def cost(self) -> Cost:
        """Training, and the forward passes of the evaluations (a third of the FLOPs a token); of a stage that may
        stop early, the most it can take."""
        model, sequence = self.architecture, self.mixture.sequence
        vocabulary = vocabulary_of(self.mixture.tokenizer)
        tokens = self.steps * self.batch_tokens
        scored = sum(tokens_scored(e.probe, sequence) * len(due(e.at, self.steps)) for e in self.evaluations)
        guided = tokens if any(isinstance(penalty, KL) for penalty in self.penalties) else 0
        guided += 3 * self.steps * sum(p.step_tokens for p in self.penalties if isinstance(p, AddedLoss))
        weights = 4.0 * (model.parameters + model.embedding_parameters(vocabulary))
        return Cost(
            tokens=tokens,
            flops=(tokens + (scored + guided) / 3) * model.flops_per_token(sequence, vocabulary),
            memory_bytes=self.memory(Execution()).total,
            # weights and moments: at the end, in each snapshot, and in a resumable checkpoint and its successor
            disk_bytes=3 * weights * (3 + len(self.snapshots)),
            steps=self.steps,
        )

    def memory(self, execution: Execution, activation_budget: float = CPU_ACTIVATION_BYTES) -> Memory:
        model, vocabulary = self.architecture, vocabulary_of(self.mixture.tokenizer)
        whole = model.parameters + model.embedding_parameters(vocabulary)
        trained = trained_parameters(self.parameters, model, vocabulary)
        sizes = {EWC: trained, KL: whole}  # importances; the model at the start
        held = of_training(
            model,
            self.optimizer,
            execution,
            vocabulary=vocabulary,
            rows=self.batch_tokens // self.mixture.sequence,
            sequence=self.mixture.sequence,
            precision=self.precision,
            trained=trained,
            scored=max((tokens_scored(e.probe, self.mixture.sequence) for e in self.evaluations), default=0.0),
            activation_budget=activation_budget,
        )
        return replace(
            held, init_weights=held.init_weights + 4.0 * sum(sizes.get(type(penalty), 0) for penalty in self.penalties)
        )

    def rows_within(self, budget: float) -> int:
        """Sequences whose activations stay within `budget` bytes, at least 1."""
        return rows_within(self.architecture, vocabulary_of(self.mixture.tokenizer), self.mixture.sequence, budget)

    def run(self, context: Context) -> dict[str, Any]:
        # torch is imported only where a stage runs
        from halflife.data.mixture import Batches
        from halflife.evaluation.measure import prepare
        from halflife.training.loop import train

        mixture, results = self.mixture, context.results
        start = None
        if isinstance(self.start, Checkpoint):
            start = self.start.folder(context.parent(self.start.stage))
        return train(
            self,
            context,
            batches=Batches(
                mixture,
                results,
                batch_tokens=self.batch_tokens,
                steps=self.steps,
                key=(self.seed, "batch", self.depth),
            ),
            measures={
                evaluation.name: prepare(evaluation.probe, mixture.tokenizer, results, mixture.sequence, context.device)
                for evaluation in self.evaluations
            },
            start=start,
            losses=[
                penalty.prepare(context, mixture.tokenizer, (self.seed, "prompt attack", self.depth, at))
                for at, penalty in enumerate(self.penalties)
                if isinstance(penalty, AddedLoss)
            ],
            checkpoint_seconds=context.checkpoint_seconds,
        )


def tokens_scored(probe: Probe, sequence: int) -> float:
    """Estimate of the tokens in one evaluation; a character of a prompt is taken for a token."""
    if isinstance(probe, LossProbe):
        return probe.sequences * sequence
    if isinstance(probe, TaskProbe):
        return sum(_asked(probe, language, sequence) for language in probe.languages)
    if isinstance(probe, LayerProbe):
        items = (example for language in probe.languages for part in PARTS for example in language.examples(part))
        return float(sum(min(sequence, len(example.prompt)) for example in items))
    if isinstance(probe, BehaviourProbe):
        return float(probe.trials * sequence)
    longest = probe.context + len(probe.backdoor.trigger) + len(probe.backdoor.longest_payload)
    return probe.trials * min(sequence, longest)


def check_released(model: Released, mixture: Mixture, dropout: float) -> None:
    """Raises UserError for what a released model cannot be asked."""
    if not isinstance(mixture.tokenizer, Pretrained):
        raise UserError(f"the released model {model.name} reads text by its own tokenizer: expected data.pretrained's")
    if mixture.tokenizer.vocabulary > model.shape.vocabulary:
        raise UserError(
            f"the tokenizer has {mixture.tokenizer.vocabulary} tokens and {model.name} {model.shape.vocabulary}: "
            "expected the model's own tokenizer"
        )
    if model.shape.context is not None and mixture.sequence > model.shape.context:
        raise UserError(
            f"sequence of {mixture.sequence} tokens given: {model.name} reads at most {model.shape.context}; "
            "shorten the sequence"
        )
    if dropout and model.shape.dropout is None:
        raise UserError(
            f"dropout {dropout} given: models of {model.name}'s family, {model.shape.family}, have none on the "
            "residual stream; use weight decay or label smoothing, or a model of the GPT-NeoX or GPT-2 family"
        )


@lru_cache(maxsize=1024)
def _asked(probe: TaskProbe, language: SyntheticTask, sequence: int) -> float:
    examples = language.examples(probe.part)
    longest = max((len(e.prompt) + len(e.answer) for e in examples), default=0)
    rows = min(probe.trials, len(examples)) * (len(language.symbols) if probe.choice else 1)
    return rows * min(sequence, longest * (1 + probe.shots))
