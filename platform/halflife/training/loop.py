"""The one training loop. Differences between stages are arguments."""

from __future__ import annotations

import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halflife.data.streams import TokenStream
from halflife.errors import Diverged, UserError
from halflife.evaluation.examples import EXAMPLES, Completions
from halflife.evaluation.probe import Measurement
from halflife.evaluation.probes import Threshold, due
from halflife.evaluation.scoring import named
from halflife.models.ladder import Rung
from halflife.models.model import Model
from halflife.models.released import Released
from halflife.models.start import bare, fresh, record
from halflife.rng import seed_of
from halflife.store.stage import Context
from halflife.training import adapters, checkpoints
from halflife.training.attached import Attached
from halflife.training.engine import Engine, make_engine
from halflife.training.objective import Terms, prepare_all
from halflife.training.prefetch import Prefetcher
from halflife.training.recipe import Recipe
from halflife.training.torch_engine import load_weights

UNREAD_LOSSES = 64
"""Number of losses left on a GPU before they are read, since reading waits for the device."""
REPORT_SECONDS = 0.5
SNAPSHOTS = "snapshots"


@dataclass
class Progress:
    """State of the loop: with the weights and the optimizer's state, all that resuming needs. Its fields are checkpoint
    keys."""

    step: int = 0
    """Steps done."""
    lr_multiplier: float = 1.0
    """At the last step done."""
    rate_sum: float = 0.0
    """Learning rate summed over steps."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of what the objectives log, over the steps since the last evaluation."""
    notes: dict[str, str] = field(default_factory=dict)
    """The first of each objective, by its place."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """Rows of `evaluation.examples`."""
    evaluated_step: int = 0
    evaluated_seconds: float = 0.0
    values: dict[str, float] = field(default_factory=dict)
    """The latest value of each metric."""
    snapshots: dict[str, int] = field(default_factory=dict)
    """Tokens at which each was taken."""
    reached: int | None = None
    """Tokens at which `until` held."""
    seconds_training: float = 0.0
    seconds_evaluating: float = 0.0


def train(
    recipe: Recipe,
    context: Context,
    *,
    batches: TokenStream,
    measures: Mapping[str, Measurement],
    start: Path | None = None,
    examples: Completions | None = None,
    checkpoint_seconds: float = 20.0,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Train by `recipe`, from a fresh rung or the checkpoint in `start`. Returns the stage's summary.

    `measures` has a function of the model for each of the recipe's evaluations. `examples` are completed at the first
    step, half-way and at the last one.
    Writes `final/` and `snapshots/<name>/` in the context's folder, and while running `resume-<step>/` every
    `checkpoint_seconds` of `clock`. On one CPU thread a resumed run ends with the same bits as an uninterrupted one.

    Raises Diverged when a loss or the weights are no longer finite, UserError when the checkpoint does not fit.
    """
    device = torch.device(context.device)
    with Prefetcher(batches, device, recipe.steps) if device.type == "cuda" else nullcontext(batches) as stream:
        loop = _Loop(recipe, context, stream, measures, start, examples, clock)
        try:
            loop.run(checkpoint_seconds)
        finally:
            loop.engine.close()
        return loop.summary()


class _Loop:
    def __init__(
        self,
        recipe: Recipe,
        context: Context,
        batches: TokenStream | Prefetcher,
        measures: Mapping[str, Measurement],
        start: Path | None,
        examples: Completions | None,
        clock: Callable[[], float],
    ) -> None:
        self.examples = examples
        self.recipe, self.context, self.batches, self.measures, self.clock = recipe, context, batches, measures, clock
        device = torch.device(context.device)
        self.model, self.engine, self.terms, self.carried = fork(recipe, batches.vocabulary, start, context)
        self.cycle = math.lcm(*(term.cycle for term in self.terms))
        self.ranks = self.engine.ranks
        self.due = {evaluation.name: set(due(evaluation.at, recipe.steps)) for evaluation in recipe.evaluations}
        self.progress = Progress(lr_multiplier=self.carried)
        self.unread: list[dict[str, Tensor]] = []
        """What the objectives log of the latest steps, not yet read from the device."""
        self.unread_limit = UNREAD_LOSSES if device.type == "cuda" else 1
        self.reported_seconds = 0.0
        self.resume_folder: Path | None = None
        self._resume()

    def run(self, checkpoint_seconds: float) -> None:
        progress, steps = self.progress, self.recipe.steps
        if progress.step == 0:
            self._evaluate(None)
            self._complete_examples()
        reported = checkpointed = self.clock()
        while progress.step < steps and progress.reached is None:
            started = time.perf_counter()
            norm = self._step()
            evaluate = progress.step == steps or any(progress.step in at for at in self.due.values())
            now = self.clock()
            report = now - reported >= REPORT_SECONDS
            # the ranks' clocks differ, and all write the checkpoint
            checkpoint = self.ranks.broadcast(
                progress.step % self.cycle == 0
                and now - checkpointed >= max(checkpoint_seconds, self.context.min_checkpoint_seconds)
            )
            if evaluate or report or checkpoint or len(self.unread) >= self.unread_limit:
                self._read_losses()
            progress.seconds_training += time.perf_counter() - started
            if evaluate:
                self._evaluate(norm)
            if progress.step == steps // 2:
                self._complete_examples()
            if report:
                self._report()
                reported = now
            if checkpoint and progress.step < steps:
                self._checkpoint()
                checkpointed = self.clock()
        self._complete_examples()
        self._write(self.context.folder / "final")
        self._report()

    def summary(self) -> dict[str, Any]:
        """JSON data. Seconds include those of the attempt that was resumed."""
        progress, tokens = self.progress, self._tokens
        return {
            "tokens": tokens,
            "steps": progress.step,
            "seconds_training": progress.seconds_training,
            "seconds_evaluating": progress.seconds_evaluating,
            "tokens_per_second": tokens / progress.seconds_training if progress.step else None,
            "parameters": self.model.architecture.parameters,
            "parameters_total": self.engine.parameters_total,
            "snapshots": progress.snapshots,
            "reached": progress.reached,
            "final": progress.values,
            **({"notes": list(progress.notes.values())} if progress.notes else {}),
            **({EXAMPLES: progress.examples} if progress.examples else {}),
        }

    @property
    def _tokens(self) -> int:
        return self.progress.step * self.recipe.batch_tokens

    def _step(self) -> Tensor:
        """One step; returns the gradient norm, on the device."""
        recipe, progress = self.recipe, self.progress
        step = progress.step
        batch = self.batches.batch(step)
        if recipe.dropout:
            rank = (self.ranks.rank,) if self.ranks.rank else ()  # other rows, other masks; rank 0 as a single process
            torch.manual_seed(seed_of(recipe.seed, "dropout", recipe.depth, step, *rank))
        progress.lr_multiplier = recipe.schedule.lr_multiplier(step, recipe.steps, self.carried)
        self.unread.append(self.engine.gradients(batch, step))
        if recipe.gradient_noise:
            torch.manual_seed(seed_of(recipe.seed, "gradient noise", recipe.depth, step))
        try:
            norm = self.engine.step(progress.lr_multiplier)
        except Diverged as error:
            raise Diverged(f"{error} at step {step}, after {self._tokens:,} tokens") from error
        progress.rate_sum += recipe.optimizer.learning_rate * progress.lr_multiplier
        progress.step += 1
        return norm

    def _read_losses(self) -> None:
        first, sums = self.progress.step - len(self.unread), self.progress.sums
        scalars = [value for metrics in self.unread for value in metrics.values()]
        values = iter(torch.stack(scalars).tolist() if scalars else [])
        for step, metrics in enumerate(self.unread, start=first):
            for metric, value in zip(metrics, values, strict=False):
                if not math.isfinite(value):
                    name = "the training loss" if metric == "train/loss" else metric
                    tokens = step * self.recipe.batch_tokens
                    raise Diverged(f"{name} became {value} at step {step}, after {tokens:,} tokens")
                sums[metric] = sums.get(metric, 0.0) + value
        self.unread.clear()

    def _evaluate(self, norm: Tensor | None) -> None:
        """Run and record the evaluations that are due; take snapshots; check `until`."""
        started = time.perf_counter()
        progress = self.progress
        displacement = self.engine.displacement()
        if not math.isfinite(displacement):
            raise Diverged(f"the weights are no longer finite at step {progress.step}, after {self._tokens:,} tokens")
        values = {
            "clock/steps": float(progress.step),
            "clock/learning_rate_sum": progress.rate_sum,
            "clock/displacement": displacement,
        }
        steps = progress.step - progress.evaluated_step
        if norm is not None:
            seconds = progress.seconds_training - progress.evaluated_seconds
            values |= {metric: total / steps for metric, total in sorted(progress.sums.items())}  # as after a resume
            values["train/gradient_norm"] = norm.item()
            values["train/tokens_per_second"] = steps * self.recipe.batch_tokens / seconds
        with self.engine.measuring():
            for name, steps_due in self.due.items():
                if progress.step in steps_due:
                    measured = self.measures[name](self.engine.model)
                    values |= {named(name, measure): value for measure, value in measured.items()}
        values = self.ranks.broadcast(values)  # a condition holds on all ranks or on none
        self.context.record(self._tokens, values)
        progress.values |= values
        for place, term in enumerate(self.terms):
            if str(place) not in progress.notes and (note := term.note(values, steps)):
                progress.notes[str(place)] = note
        progress.sums, progress.evaluated_step = {}, progress.step
        progress.evaluated_seconds = progress.seconds_training
        for snapshot in self.recipe.snapshots:
            if snapshot.name not in progress.snapshots and holds(snapshot.when, values):
                progress.snapshots[snapshot.name] = self._tokens
                self._write(self.context.folder / SNAPSHOTS / snapshot.name)
        if self.recipe.until is not None and holds(self.recipe.until, values):
            progress.reached = self._tokens
        progress.seconds_evaluating += time.perf_counter() - started

    def _complete_examples(self) -> None:
        """Once at a step, although half-way may be the end."""
        progress = self.progress
        if not self.examples or any(row["tokens"] == self._tokens for row in progress.examples):
            return
        started = time.perf_counter()
        with self.engine.measuring():
            progress.examples += self.examples.rows(self.engine.model, self._tokens)
        progress.seconds_evaluating += time.perf_counter() - started

    def _report(self) -> None:
        progress = self.progress
        tokens_per_second = self._tokens / progress.seconds_training if progress.seconds_training else 0.0
        self.context.progress(self._tokens, self.recipe.steps * self.recipe.batch_tokens, tokens_per_second)
        seconds = progress.seconds_training + progress.seconds_evaluating
        self.context.computing(seconds - self.reported_seconds)
        self.reported_seconds = seconds

    def _write(self, folder: Path) -> None:
        """Write a checkpoint to fork from: whole tensors, with LoRA merged into the weights. Rank 0 writes it."""
        weights, optimizer = self.engine.full_weights(), self.engine.optimizer_state()
        if self.ranks.rank == 0:
            weights = adapters.merged(weights, self.model)
            checkpoints.write(folder, weights=weights, optimizer=optimizer, state=self._state())

    def _state(self) -> dict[str, Any]:
        optimizer = type(self.recipe.optimizer).__name__
        return {**record(self.model), "optimizer": optimizer, "progress": asdict(self.progress)}

    def _checkpoint(self) -> None:
        """Write `resume-<step>/`: each rank's part, with LoRA unmerged, and the snapshots taken so far, since the
        attempt that resumes has its own folder."""
        folder = self.context.folder / f"resume-{self.progress.step}"
        if self.ranks.rank == 0:
            link_tree(self.context.folder / SNAPSHOTS, folder / SNAPSHOTS)
        self.ranks.broadcast(None)  # the folder exists
        own = self.engine.save(folder)
        self.context.wrote(folder, own)
        digests = {name: digest for of in self.ranks.all_gather(own) for name, digest in of.items()}
        if self.ranks.rank == 0:
            checkpoints.write_state(folder, self._state(), digests)
            self.context.checkpointed(self._tokens, folder)
            if self.resume_folder is not None:
                shutil.rmtree(self.resume_folder)
        self.resume_folder = folder

    def _resume(self) -> None:
        """Continue from the context's checkpoint if there is a valid one."""
        folder = self.context.resume
        if folder is None:
            return
        try:
            state = checkpoints.read_state(folder)
        except checkpoints.CorruptCheckpoint as error:
            warnings.warn(f"training starts over: {error}", stacklevel=2)
            return
        if set(state["progress"]) != set(vars(Progress())):
            warnings.warn("training starts over: its checkpoint is of another version of halflife", stacklevel=2)
            return
        self.engine.load(checkpoints.read_weights(folder), checkpoints.read_optimizer(folder))
        self.progress = Progress(**state["progress"])
        self.reported_seconds = self.progress.seconds_training + self.progress.seconds_evaluating
        link_tree(folder / SNAPSHOTS, self.context.folder / SNAPSHOTS)


def fork(
    recipe: Recipe, vocabulary: int, start: Path | None, context: Context
) -> tuple[Model, Engine, list[Terms], float]:
    """The model, the engine and the prepared objectives at the stage's first step, and the learning-rate multiplier
    that the start ended with.

    Raises UserError when the checkpoint is corrupt or of another shape, or its optimizer state cannot be carried.
    """
    architecture, multiplier, optimizer = recipe.architecture, 1.0, ""
    if start is None:
        model = fresh(architecture, vocabulary, recipe.dropout, seed_of(recipe.seed, "model"))
    else:
        model, state = model_at(start, architecture, vocabulary, recipe.dropout)
        multiplier, optimizer = state["progress"]["lr_multiplier"], state["optimizer"]
    adapters.apply(recipe.parameters, model, seed_of(recipe.seed, "adapter", recipe.depth))
    model.to(torch.device(context.device))
    terms = prepare_all(recipe, model, context)
    companions = [Attached(companion, model, recipe.seed) for companion in recipe.companions]
    engine = make_engine(model, recipe, context.execution, terms, companions)
    carry = recipe.optimizer_state == "carry"
    if start is not None and companions:
        state = checkpoints.read_optimizer(start) if carry else None
        for companion in companions:
            companion.load(checkpoints.read_weights(start), state)
    if start is not None and carry:
        if optimizer != type(recipe.optimizer).__name__:
            raise UserError(
                f"cannot carry the state of {optimizer} into {type(recipe.optimizer).__name__}: "
                "use the same optimizer or optimizer_state='reset'"
            )
        engine.load(None, checkpoints.read_optimizer(start))
    return model, engine, terms, multiplier


def model_at(
    start: Path, architecture: Rung | Released, vocabulary: int, dropout: float = 0.0
) -> tuple[Model, dict[str, Any]]:
    """The model of the checkpoint in `start`, on the CPU, and the checkpoint's state.

    Raises UserError when it is corrupt or of another shape.
    """
    try:
        state = checkpoints.read_state(start)
    except checkpoints.CorruptCheckpoint as error:
        raise UserError(f"cannot start from {start}: {error}; delete the stage's folder to compute it again") from error
    model = bare(architecture, vocabulary, dropout, state)
    given, expected = (state["size"], state["vocabulary"]), (architecture.identity, model.vocabulary)
    if given != expected:
        raise UserError(f"cannot start from {start}: its (size, vocabulary) is {given}, this stage has {expected}")
    load_weights(model, checkpoints.read_weights(start))
    return model, state


def holds(condition: Threshold, values: Mapping[str, float]) -> bool:
    """Whether `condition` holds on the values of one evaluation; False if its metric was not measured."""
    if condition.metric not in values:
        return False
    value = values[condition.metric]
    if condition.share:
        value /= values[condition.metric.rsplit("/", 1)[0] + "/trials"]
    return value <= condition.threshold if condition.at_most else value >= condition.threshold


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder, by hard links where the file system supports them, since the files are never modified."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        return
    except OSError:
        shutil.copy2(source, target)
