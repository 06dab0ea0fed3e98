"""Fitting soft prompts: group after group, resumable.

A loop separate from `training.loop`: here many small sets of parameters are trained against one frozen model. There is
no fork, no snapshot and no displacement; each run has its own learning rate, gradient norm and end, and one that
diverges does not affect the others. Only the clock could be shared with the model's loop.
"""

from __future__ import annotations

import math
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from halflife.evaluation.probes import Cadence, Ends, due
from halflife.models.model import Model
from halflife.prompts import results as prompt_results
from halflife.prompts.batch import scale_of
from halflife.prompts.groups import PromptGroup, Run, Scored, grouped
from halflife.prompts.results import Fitted
from halflife.prompts.soft_prompt import FitConfig
from halflife.store.stage import Context
from halflife.training import checkpoints
from halflife.training.schedules import Schedule
from halflife.training.torch_engine import keep_memory

REPORT_SECONDS = 0.5


@dataclass
class _State:
    """State of the loop: with the parameters of the runs, all that resuming needs. Its fields are checkpoint keys."""

    pack: int = 0
    """Groups done; named as in stored checkpoints."""
    step: int = 0
    """Steps done of the current group."""
    tokens: int = 0
    """Of all groups."""
    seconds_training: float = 0.0
    seconds_evaluating: float = 0.0
    train_losses: list[float] = field(default_factory=list)
    """Of the current group, at the last evaluation."""


def fit(
    model: Model,
    runs: Sequence[Run],
    config: FitConfig,
    *,
    schedule: Schedule = Schedule(),
    at: Cadence = Ends(),
    context: Context | None = None,
    checkpoint_seconds: float = 20.0,
    clock: Callable[[], float] = time.monotonic,
    device: torch.device | str = "cpu",
) -> tuple[list[Fitted], dict[str, Any]]:
    """Fit every run to its target with the frozen `model` (see `frozen.freeze`). Returns the fitted prompts in the
    order of `runs`, and the seconds and tokens spent.

    With a context it records `<run>/loss`, `/hits`, `/trials`, `/logprob` and `/train_loss` at `at`, at the end
    `/chance` and the judged counts, and writes resumable checkpoints. Raises UserError when a prompt's position lies
    outside a text.
    """
    return _Loop(model, runs, config, schedule, at, context, clock, torch.device(device)).run(checkpoint_seconds)


class _Loop:
    def __init__(
        self,
        model: Model,
        runs: Sequence[Run],
        config: FitConfig,
        schedule: Schedule,
        at: Cadence,
        context: Context | None,
        clock: Callable[[], float],
        device: torch.device,
    ) -> None:
        self.model, self.runs, self.config, self.schedule = model, runs, config, schedule
        self.context, self.clock, self.device = context, clock, device
        self.scale = scale_of(model.embed)
        self.groups = grouped(runs, config, model.architecture, model.vocabulary, device)
        self.due = {trained: set(due(at, config.steps if trained else 0)) for trained in (False, True)}
        self.state = _State()
        self.done: dict[str, Fitted] = {}
        self.reported_seconds = 0.0
        self.resume_folder: Path | None = None
        if device.type == "cpu":
            keep_memory()

    def run(self, checkpoint_seconds: float) -> tuple[list[Fitted], dict[str, Any]]:
        restore = self._resume()
        state = self.state
        reported = checkpointed = self.clock()
        while state.pack < len(self.groups):
            group = PromptGroup(self.model, self.groups[state.pack], self.config, self.scale, self.device)
            steps = self.config.steps if group.trained else 0
            if restore is not None:
                restore(group)
                restore = None
            elif 0 in self.due[group.trained] and steps:
                self._evaluate(group)
            while state.step < steps:
                started = time.perf_counter()
                group.step(state.step, self.schedule.lr_multiplier(state.step, steps))
                state.step += 1
                state.tokens += sum(self._tokens(run, 1) for run in group.runs)
                state.seconds_training += time.perf_counter() - started
                if state.step in self.due[True] and state.step < steps:
                    self._evaluate(group)
                if state.step == steps - group.final_steps:
                    group.mean_losses()
                now = self.clock()
                if now - reported >= REPORT_SECONDS:
                    self._report()
                    reported = now
                if self.context and now - checkpointed >= checkpoint_seconds and state.step < steps:
                    self._checkpoint(group)
                    checkpointed = self.clock()
            self._finish(group)
            state.pack, state.step, state.train_losses = state.pack + 1, 0, []
        self._report()
        return [self.done[run.name] for run in self.runs], {
            "tokens": state.tokens,
            "seconds_training": state.seconds_training,
            "seconds_evaluating": state.seconds_evaluating,
        }

    def _tokens(self, run: Run, steps: int) -> int:
        """Tokens of text that a run has seen after `steps` steps, padded to the longest."""
        return steps * self.config.batch * run.target.longest

    def _evaluate(self, group: PromptGroup) -> list[Scored]:
        started = time.perf_counter()
        scores = group.scores()
        if group.counted:
            self.state.train_losses = group.mean_losses()
        for index, (run, scored) in enumerate(zip(group.runs, scores, strict=True) if self.context else ()):
            values = {"loss": scored.loss, "logprob": -scored.loss}
            values |= {"hits": float(scored.correct.sum()), "trials": float(len(scored.correct))}
            if self.state.train_losses:
                values["train_loss"] = self.state.train_losses[index]
            finite = {f"{run.name}/{name}": value for name, value in values.items() if math.isfinite(value)}
            assert self.context is not None
            self.context.record(self._tokens(run, self.state.step), finite)
        self.state.seconds_evaluating += time.perf_counter() - started
        return scores

    def _finish(self, group: PromptGroup) -> None:
        scores, norms = self._evaluate(group), group.norms()
        train_losses = self.state.train_losses
        started = time.perf_counter()
        generated = group.generated()
        self.state.seconds_evaluating += time.perf_counter() - started
        for index, (run, scored) in enumerate(zip(group.runs, scores, strict=True)):
            self._record_final(run, generated[index])
            self.done[run.name] = Fitted(
                name=run.name,
                target=run.target.name,
                tokens=run.prompt.tokens,
                position=run.prompt.position,
                scale=self.scale,
                parameters=group.batch.of(index),
                nats=scored.nats,
                correct=scored.correct,
                num_targets=scored.num_targets,
                train_loss=_finite(train_losses[index]) if train_losses else None,
                norm=_finite(norms[index]) if run.prompt.tokens else None,
                generated=generated[index],
            )

    def _record_final(self, run: Run, generated: dict[str, int]) -> None:
        values = {f"{run.name}/generated_{name}": float(count) for name, count in generated.items()}
        if run.target.chance is not None:
            values[f"{run.name}/chance"] = run.target.chance
        if self.context is not None:
            self.context.record(self._tokens(run, self.state.step), values)

    def _report(self) -> None:
        if self.context is None:
            return
        state = self.state
        total = sum(self._tokens(run, self.config.steps) for run in self.runs if run.prompt.tokens)
        tokens_per_second = state.tokens / state.seconds_training if state.seconds_training else 0.0
        self.context.progress(state.tokens, total, tokens_per_second)
        seconds = state.seconds_training + state.seconds_evaluating
        self.context.computing(seconds - self.reported_seconds)
        self.reported_seconds = seconds

    # Checkpoints.

    def _checkpoint(self, group: PromptGroup) -> None:
        """Write `resume-<group>-<step>/`: the finished runs, and parameters and moments of the current group."""
        assert self.context is not None
        state = self.state
        folder = self.context.folder / f"resume-{state.pack}-{state.step}"
        digests = checkpoints.write_whole(folder, weights=group.batch.parameters, optimizer=group.optimizer.state())
        prompt_results.write(folder, list(self.done.values()))
        names = (prompt_results.PROMPTS, prompt_results.ITEMS, prompt_results.RUNS)
        digests |= {name: checkpoints.sha256(folder / name) for name in names}
        fitting = {**asdict(state), "losses": group.losses.tolist(), "counted": group.counted}
        checkpoints.write_state(folder, {"fitting": fitting}, digests)
        self.context.checkpointed(state.tokens, folder)
        if self.resume_folder is not None:
            shutil.rmtree(self.resume_folder)
        self.resume_folder = folder

    def _resume(self) -> Callable[[PromptGroup], None] | None:
        """Continue from the context's checkpoint if there is a valid one. Returns a function that restores the current
        group."""
        folder = self.context.resume if self.context else None
        if folder is None:
            return None
        try:
            fitting = checkpoints.read_state(folder)["fitting"]
        except checkpoints.CorruptCheckpoint as error:
            warnings.warn(f"fitting starts over: {error}", stacklevel=2)
            return None
        losses, counted = torch.tensor(fitting.pop("losses"), device=self.device), fitting.pop("counted")
        self.state = _State(**fitting)
        self.reported_seconds = self.state.seconds_training + self.state.seconds_evaluating
        self.done = prompt_results.read(folder)

        def restore(group: PromptGroup) -> None:
            for name, value in checkpoints.read_weights(folder).items():
                group.batch.parameters[name].data.copy_(value)
            group.optimizer.load(checkpoints.read_optimizer(folder), self.state.step)
            group.losses, group.counted = losses, counted

        return restore


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
