"""Fitting soft prompts: pack after pack, resumable.

A loop of its own beside `training.loop`: what is trained here are many small sets of numbers that share a model which
never changes. There is no fork, no snapshot and no displacement, each run has its own rate, gradient norm and end, and
one that diverges leaves the others as they are; of the loop for models only the clock would be left.
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
from halflife.models.start import Model
from halflife.prompts import results as prompt_results
from halflife.prompts.batch import scale_of
from halflife.prompts.groups import FitConfig, PromptGroup, Run, Scored, packed
from halflife.prompts.results import Fitted
from halflife.store.stage import Context
from halflife.training import checkpoints
from halflife.training.schedules import Schedule
from halflife.training.torch_engine import keep_memory

REPORT_SECONDS = 0.5


@dataclass
class _State:
    """Where the loop stands: with the numbers of the runs all that a resumed one needs."""

    pack: int = 0
    """Packs done."""
    step: int = 0
    """Steps done of the pack under way."""
    tokens: int = 0
    """Of all packs."""
    seconds_training: float = 0.0
    seconds_evaluating: float = 0.0
    train_losses: list[float] = field(default_factory=list)
    """Of the pack under way, when last looked at."""


def freeze(model: Model, precision: str = "fp32") -> Model:
    """The model as it is asked behind prompts: in evaluation mode, without gradients, in fp32 or bf16."""
    model.requires_grad_(False)
    return model.eval().to(torch.bfloat16 if precision == "bf16" else torch.float32)


def fit(
    model: Model,
    runs: Sequence[Run],
    course: FitConfig,
    *,
    schedule: Schedule = Schedule(),
    at: Cadence = Ends(),
    context: Context | None = None,
    checkpoint_seconds: float = 20.0,
    clock: Callable[[], float] = time.monotonic,
    device: torch.device | str = "cpu",
) -> tuple[list[Fitted], dict[str, Any]]:
    """Fit every run to its target behind the frozen `model` (see `freeze`): what each came to, in the order of `runs`,
    and the seconds and tokens that it took.

    With a context it records `<run>/loss`, `/hits`, `/trials`, `/logprob` and `/train_loss` at `at`, at the end
    `/chance` and what was judged, and leaves resumable checkpoints. Raises UserError when a prompt's position lies
    outside a text.
    """
    return _Loop(model, runs, course, schedule, at, context, clock, torch.device(device)).run(checkpoint_seconds)


class _Loop:
    def __init__(
        self,
        model: Model,
        runs: Sequence[Run],
        course: FitConfig,
        schedule: Schedule,
        at: Cadence,
        context: Context | None,
        clock: Callable[[], float],
        device: torch.device,
    ) -> None:
        self.model, self.runs, self.course, self.schedule = model, runs, course, schedule
        self.context, self.clock, self.device = context, clock, device
        self.scale = scale_of(model.embed)
        self.packs = packed(runs, course, model.architecture, model.vocabulary, device)
        self.due = {kind: set(due(at, course.steps if kind else 0)) for kind in (False, True)}
        self.standing = _State()
        self.done: dict[str, Fitted] = {}
        self.told_seconds = 0.0
        self.resume_folder: Path | None = None
        if device.type == "cpu":
            keep_memory()

    def run(self, checkpoint_seconds: float) -> tuple[list[Fitted], dict[str, Any]]:
        restore = self._resume()
        standing = self.standing
        reported = checkpointed = self.clock()
        while standing.pack < len(self.packs):
            pack = PromptGroup(self.model, self.packs[standing.pack], self.course, self.scale, self.device)
            steps = self.course.steps if pack.trained else 0
            if restore is not None:
                restore(pack)
                restore = None
            elif 0 in self.due[pack.trained] and steps:
                self._evaluate(pack)
            while standing.step < steps:
                started = time.perf_counter()
                pack.step(standing.step, self.schedule.lr_multiplier(standing.step, steps))
                standing.step += 1
                standing.tokens += sum(self._tokens(run, 1) for run in pack.runs)
                standing.seconds_training += time.perf_counter() - started
                if standing.step in self.due[True] and standing.step < steps:
                    self._evaluate(pack)
                if standing.step == steps - pack.settled:
                    pack.mean_losses()
                now = self.clock()
                if now - reported >= REPORT_SECONDS:
                    self._report()
                    reported = now
                if self.context and now - checkpointed >= checkpoint_seconds and standing.step < steps:
                    self._checkpoint(pack)
                    checkpointed = self.clock()
            self._finish(pack)
            standing.pack, standing.step, standing.train_losses = standing.pack + 1, 0, []
        self._report()
        return [self.done[run.name] for run in self.runs], {
            "tokens": standing.tokens,
            "seconds_training": standing.seconds_training,
            "seconds_evaluating": standing.seconds_evaluating,
        }

    def _tokens(self, run: Run, steps: int) -> int:
        """Tokens of text that a run has seen after so many steps, padded to the longest."""
        return steps * self.course.batch * run.target.longest

    def _evaluate(self, pack: PromptGroup) -> list[Scored]:
        started = time.perf_counter()
        scores = pack.scores()
        if pack.counted:
            self.standing.train_losses = pack.mean_losses()
        for index, (run, scored) in enumerate(zip(pack.runs, scores, strict=True) if self.context else ()):
            values = {"loss": scored.loss, "logprob": -scored.loss}
            values |= {"hits": float(scored.correct.sum()), "trials": float(len(scored.correct))}
            if self.standing.train_losses:
                values["train_loss"] = self.standing.train_losses[index]
            finite = {f"{run.name}/{name}": value for name, value in values.items() if math.isfinite(value)}
            assert self.context is not None
            self.context.record(self._tokens(run, self.standing.step), finite)
        self.standing.seconds_evaluating += time.perf_counter() - started
        return scores

    def _finish(self, pack: PromptGroup) -> None:
        scores, norms = self._evaluate(pack), pack.norms()
        trained = self.standing.train_losses
        started = time.perf_counter()
        generated = pack.generated()
        self.standing.seconds_evaluating += time.perf_counter() - started
        for index, (run, scored) in enumerate(zip(pack.runs, scores, strict=True)):
            self._told_at_the_end(run, generated[index])
            self.done[run.name] = Fitted(
                name=run.name,
                target=run.target.name,
                tokens=run.prompt.tokens,
                position=run.prompt.position,
                scale=self.scale,
                numbers=pack.bank.of(index),
                nats=scored.nats,
                correct=scored.correct,
                asked=scored.asked,
                train_loss=_finite(trained[index]) if trained else None,
                norm=_finite(norms[index]) if run.prompt.tokens else None,
                generated=generated[index],
            )

    def _told_at_the_end(self, run: Run, generated: dict[str, int]) -> None:
        values = {f"{run.name}/generated_{name}": float(count) for name, count in generated.items()}
        if run.target.chance is not None:
            values[f"{run.name}/chance"] = run.target.chance
        if self.context is not None:
            self.context.record(self._tokens(run, self.standing.step), values)

    def _report(self) -> None:
        if self.context is None:
            return
        standing = self.standing
        total = sum(self._tokens(run, self.course.steps) for run in self.runs if run.prompt.tokens)
        rate = standing.tokens / standing.seconds_training if standing.seconds_training else 0.0
        self.context.progress(standing.tokens, total, rate)
        seconds = standing.seconds_training + standing.seconds_evaluating
        self.context.computing(seconds - self.told_seconds)
        self.told_seconds = seconds

    # Checkpoints.

    def _checkpoint(self, pack: PromptGroup) -> None:
        """Write `resume-<pack>-<step>/`: the runs done, and the numbers and moments of those under way."""
        assert self.context is not None
        standing = self.standing
        folder = self.context.folder / f"resume-{standing.pack}-{standing.step}"
        digests = checkpoints.write_whole(folder, weights=pack.bank.parameters, optimizer=pack.optimizer.state())
        prompt_results.write(folder, list(self.done.values()))
        names = (prompt_results.PROMPTS, prompt_results.ITEMS, prompt_results.RUNS)
        digests |= {name: checkpoints.sha256(folder / name) for name in names}
        state = {**asdict(standing), "losses": pack.losses.tolist(), "counted": pack.counted}
        checkpoints.write_state(folder, {"fitting": state}, digests)
        self.context.checkpointed(standing.tokens, folder)
        if self.resume_folder is not None:
            shutil.rmtree(self.resume_folder)
        self.resume_folder = folder

    def _resume(self) -> Callable[[PromptGroup], None] | None:
        """Continue from the context's checkpoint, if it has one and it is whole: what puts the pack under way back."""
        folder = self.context.resume if self.context else None
        if folder is None:
            return None
        try:
            state = checkpoints.read_state(folder)["fitting"]
        except checkpoints.CorruptCheckpoint as error:
            warnings.warn(f"fitting starts over: {error}", stacklevel=2)
            return None
        losses, counted = torch.tensor(state.pop("losses"), device=self.device), state.pop("counted")
        self.standing = _State(**state)
        self.told_seconds = self.standing.seconds_training + self.standing.seconds_evaluating
        self.done = prompt_results.read(folder)

        def restore(pack: PromptGroup) -> None:
            for name, value in checkpoints.read_weights(folder).items():
                pack.bank.parameters[name].data.copy_(value)
            pack.optimizer.load(checkpoints.read_optimizer(folder), self.standing.step)
            pack.losses, pack.counted = losses, counted

        return restore


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
