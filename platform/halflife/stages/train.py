"""Train: the stage of trunks, branches, relearning and every control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, cast

from halflife.data.mixture import Mixture
from halflife.data.mixture import check as check_batches
from halflife.data.tokenizers import Pretrained, vocabulary_of
from halflife.errors import UserError
from halflife.evaluation.probes import Setting, due
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.store.execution import CPU_ACTIVATION_BYTES, Execution, Memory
from halflife.store.stage import Context, Cost, EngineStage, Outcome, ParentResult
from halflife.training.memory import of_training, rows_within, trained_parameters
from halflife.training.optimizers import Optimizer
from halflife.training.parameters import Frozen, LoRA
from halflife.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Checkpoint(ParentResult):
    """Weights of a Train: its final ones, or those of a snapshot."""

    stage: Train
    at: str = "final"

    def __post_init__(self) -> None:
        kept = sorted(snapshot.name for snapshot in self.stage.snapshots)
        if self.at != "final" and self.at not in kept:
            raise UserError(f"checkpoint at snapshot {self.at!r}: its stage keeps {kept or 'none'} and 'final'")

    def folder(self, stage_folder: Path) -> Path:
        """The folder of the weights, below that of the stage's completed attempt."""
        return stage_folder / "final" if self.at == "final" else stage_folder / "snapshots" / self.at

    def unreached(self, outcomes: Mapping[str, Outcome]) -> str | None:
        if self.at == "final" or self.at in outcomes[self.stage.key].summary["snapshots"]:
            return None
        return f"the trunk never reached snapshot {self.at!r}"


@dataclass(frozen=True, kw_only=True)
class Train(EngineStage, Recipe):
    """Training from a fresh rung, a released model or a checkpoint, with evaluations along the way.

    All fields but `start` are those of `training.recipe.Recipe`. Batches are drawn from (mixture, seed, lineage depth,
    step): branches of one trunk see the same fresh text, which is never their trunk's.
    """

    kind: ClassVar[str] = "train"
    version: ClassVar[int] = 4  # 4: checkpoints name lr_multiplier; 3: dropout masks are drawn by 16 bits

    start: Rung | Released | Checkpoint

    def __post_init__(self) -> None:
        """Raises UserError when the fields contradict one another."""
        super().__post_init__()
        if not isinstance(self.optimizer, Optimizer):
            raise UserError(f"optimizer {self.optimizer!r} given: expected an AdamW, an SGD or a Muon")
        if isinstance(self.start, Checkpoint):
            self._check_fork(self.start)
        elif self.schedule.shape == "continue":
            raise UserError("schedule 'continue' without a checkpoint: a fresh rung has no learning rate to continue")
        self._check_model()
        for part in (*self.objectives, *self.companions):
            part.check(self)
        if self.mixture.plantings and not self._reads_batch:
            named = ", ".join(type(objective).__name__ for objective in self.objectives)
            raise UserError(
                f"poisoned documents in a mixture that no objective reads ({named}): add NextToken() to train on them, "
                "or leave them out"
            )

    def _check_model(self) -> None:
        model, mixture, parameters = self.architecture, self.mixture, self.parameters
        if isinstance(model, Released):
            check_released(model, mixture, self.dropout)
        if isinstance(parameters, LoRA):
            known = model.matrices
            unknown = [name for name in parameters.targets if known and name not in known]
            if unknown:
                raise UserError(f"LoRA of {unknown[0]!r}: the matrices of {model.size} are {', '.join(known)}")
        if isinstance(parameters, Frozen) and parameters.layers > model.layers:
            raise UserError(f"the first {parameters.layers} layers frozen: {model.size} has {model.layers}")

    def _check_fork(self, start: Checkpoint) -> None:
        parent = start.stage
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
    def tasks(self) -> tuple[str, ...]:
        logged = (metric.split("/")[0] for objective in self.objectives for metric in objective.measures)
        names = [*(part.name for part in (*self.evaluations, *self.companions)), *logged]
        return tuple(dict.fromkeys(name for name in names if name != "train"))

    @cached_property
    def _lineage(self) -> tuple[Train, ...]:
        """This stage, the one that it starts from, and so on to the one that starts from no checkpoint."""
        chain: list[Train] = [self]
        while isinstance(chain[-1].start, Checkpoint):
            chain.append(chain[-1].start.stage)
        return tuple(chain)

    @property
    def depth(self) -> int:
        return len(self._lineage) - 1

    @property
    def architecture(self) -> Rung | Released:
        return cast("Rung | Released", self._lineage[-1].start)

    @property
    def cost(self) -> Cost:
        """Training, and the forward passes of the evaluations (a third of the FLOPs per token). For a stage that may
        stop early, the maximum."""
        model, sequence = self.architecture, self.mixture.sequence
        vocabulary = vocabulary_of(self.mixture.tokenizer)
        tokens = self.steps * self.batch_tokens
        scored = sum(e.probe.tokens_scored(sequence) * len(due(e.at, self.steps)) for e in self.evaluations)
        guided = 3 * self.steps * sum(objective.step_tokens(self) for objective in self.objectives)
        trained = tokens if self._reads_batch else 0
        beside = tokens * sum(companion.flops_per_token(model.width) for companion in self.companions)
        weights = 4.0 * (model.parameters + model.embedding_parameters(vocabulary))
        return Cost(
            tokens=tokens,
            flops=(trained + (scored + guided) / 3) * model.flops_per_token(sequence, vocabulary) + beside,
            memory_bytes=self.memory(Execution()).total,
            # weights and moments: at the end, in each snapshot, and in a resumable checkpoint and its successor
            disk_bytes=3 * (weights + 4.0 * self._companion_parameters) * (3 + len(self.snapshots)),
            steps=self.steps,
        )

    def memory(self, execution: Execution, activation_budget: float = CPU_ACTIVATION_BYTES) -> Memory:
        model, vocabulary = self.architecture, vocabulary_of(self.mixture.tokenizer)
        trained = trained_parameters(self.parameters, model, vocabulary)
        held = of_training(
            model,
            self.optimizer,
            execution,
            vocabulary=vocabulary,
            rows=self.rows,
            sequence=self.mixture.sequence,
            precision=self.precision,
            trained=trained,
            scored=max((e.probe.tokens_scored(self.mixture.sequence) for e in self.evaluations), default=0.0),
            activation_budget=activation_budget,
        )
        objectives = sum(objective.memory_bytes(self) for objective in self.objectives)
        probes = sum(evaluation.probe.memory_bytes() for evaluation in self.evaluations)
        companions = 4.0 * self._companion_parameters
        own = sum(companion.activation_bytes(model.width) for companion in self.companions)
        own += sum(objective.token_bytes(self) for objective in self.objectives)
        rows = min(self.rows, execution.micro_rows or self.rows_within(activation_budget))
        return replace(
            held,
            init_weights=held.init_weights + objectives,
            evaluation=held.evaluation + probes,
            parameters=held.parameters + companions,
            gradients=held.gradients + companions,
            optimizer=held.optimizer + 2 * companions,
            activations=held.activations + rows * self.row_tokens * own,
        )

    def check(self, results: Path) -> None:
        _check_mixture(self.mixture, results, self.batch_tokens, self.steps)
        for objective in self.objectives:
            objective.check_texts(self, results)

    def check_execution(self, execution: Execution) -> None:
        if self.rows % execution.workers:
            raise UserError(
                f"batches of {self.rows} sequences do not divide among {execution.workers} workers: "
                f"choose a number of workers that divides {self.rows}, or another batch size"
            )
        parts = [*self.objectives, *self.companions, *(evaluation.probe for evaluation in self.evaluations)]
        unsupported = [type(part).__name__ for part in parts if execution.engine not in part.engines]
        if execution.engine != "torch":
            unsupported += ["gradient noise"] if self.gradient_noise else []
            unsupported += ["a scalar tag"] if self.mixture.lines else []
        if unsupported:
            raise UserError(f"{unsupported[0]} is not supported by the engine {execution.engine!r}: use --engine torch")
        if execution.zero == 3 and isinstance(self.parameters, LoRA):
            raise UserError("LoRA under ZeRO stage 3: merging it needs whole weights; use --zero 2")

    @property
    def _reads_batch(self) -> bool:
        return bool(self.companions) or any(objective.reads_batch for objective in self.objectives)

    @property
    def _companion_parameters(self) -> int:
        return sum(companion.parameters(self.architecture.width) for companion in self.companions)

    @property
    def rows(self) -> int:
        return self.batch_tokens // self.mixture.sequence

    @property
    def row_tokens(self) -> int:
        return self.mixture.sequence

    @property
    def model_parameters(self) -> int:
        return self.architecture.parameters

    @property
    def size(self) -> str:
        return self.architecture.size

    def in_half(self) -> Train | None:
        return replace(self, precision="bf16") if self.precision == "fp32" else None

    def rows_within(self, budget: float) -> int:
        return rows_within(self.architecture, vocabulary_of(self.mixture.tokenizer), self.mixture.sequence, budget)

    def run(self, context: Context) -> dict[str, Any]:
        # torch is imported only where a stage runs
        from halflife.data.mixture import Batches
        from halflife.evaluation.examples import EXAMPLES, Completions, documents
        from halflife.training.loop import train

        mixture, results = self.mixture, context.results
        setting = Setting(
            tokenizer=mixture.tokenizer,
            results=results,
            sequence=mixture.sequence,
            device=context.device,
            parents=context,
        )
        start = None
        if isinstance(self.start, Checkpoint):
            start = self.start.folder(context.parent(self.start.stage))
        summary = train(
            self,
            context,
            batches=Batches(
                mixture,
                results,
                batch_tokens=self.batch_tokens,
                steps=self.steps,
                key=(self.seed, "batch", self.depth),
            ),
            measures={evaluation.name: evaluation.probe.prepare(setting) for evaluation in self.evaluations},
            start=start,
            examples=Completions(self.evaluations if self.seed == 0 else (), setting),  # for people: one seed will do
            checkpoint_seconds=context.checkpoint_seconds,
        )
        if EXAMPLES in summary:
            summary[EXAMPLES] = documents(mixture, results) + summary[EXAMPLES]
        return summary


@lru_cache(maxsize=4096)  # stages of a study share their mixtures
def _check_mixture(mixture: Mixture, results: Path, batch_tokens: int, steps: int) -> None:
    check_batches(mixture, results, batch_tokens=batch_tokens, steps=steps)


def check_released(model: Released, mixture: Mixture, dropout: float) -> None:
    """Raises UserError when a released model cannot train on the mixture or with the dropout."""
    if not isinstance(mixture.tokenizer, Pretrained):
        raise UserError(f"the released model {model.name} has its own tokenizer: expected that of data.pretrained")
    tokens, spare = vocabulary_of(mixture.tokenizer), model.shape.vocabulary - mixture.tokenizer.vocabulary
    if tokens > model.shape.vocabulary:
        raise UserError(
            f"the tokenizer has {tokens} tokens and {model.name} {model.shape.vocabulary}: expected the model's own "
            f"tokenizer, with at most {max(0, spare)} special tokens, as many as its embedding has unused rows"
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
