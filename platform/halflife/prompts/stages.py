"""The stages of soft prompts: fit them, find the smallest k that reaches a loss, measure how fragile they are."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from halflife.data.tokenizers import Tokenizer
from halflife.errors import UserError
from halflife.evaluation.targets import Target
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.prompts.describe import SoftPrompt
from halflife.prompts.description import PromptFit, PromptMeasurement
from halflife.stages.train import Checkpoint
from halflife.store.stage import Context, Cost, Stage

if TYPE_CHECKING:
    from halflife.prompts.results import Fitted


@dataclass(frozen=True, kw_only=True)
class FitSoftPrompts(PromptFit):
    """Every prompt fitted to every target behind one frozen model, then asked on the target's held-out examples.

    A run is a target and a prompt, named `<target>.<prompt>`. All runs of a target see the same examples at the same
    step and are asked the same held-out ones, so differences between them are paired; runs fitted together change
    nothing of one another. Points are at tokens of text that a run has seen. At the end there are `chance` and, with
    `judged`, `generated_hits`, `generated_trials` and what else the target counts.
    """

    kind: ClassVar[str] = "fit-soft-prompts"
    version: ClassVar[int] = 2  # 2: train_loss, by which restarts are chosen, is of the last steps, where it was of all

    def run(self, context: Context) -> dict[str, Any]:
        # torch is imported only where a stage runs
        from halflife.prompts.runs import compute

        return compute(self, context)


@dataclass(frozen=True, kw_only=True)
class FindDistance(Stage):
    """C by search: the smallest k whose best prompt has a held-out loss of at most `threshold`, to one token.

    Points `<target>.k<k>/loss`, `/hits`, `/trials` of each k tried, at steps of prompts so far. The summary has
    `distance` (None: not reached by `largest`), `losses` by k, and `prompt_steps`.
    """

    kind: ClassVar[str] = "find-distance"
    version: ClassVar[int] = 2  # 2: the best at each k is chosen by the last steps' training loss, where it was by all

    model: Checkpoint | Rung | Released
    target: Target
    prompt: SoftPrompt
    """Position, beginning, input model and rate; its tokens are the largest k."""
    threshold: float
    """Nats a token."""
    restarts: int = 2
    """Fresh ones at each k, beside one begun from the next smaller k tried."""
    tokenizer: Tokenizer | None = None
    examples: int = 256
    num_eval: int = 128
    steps: int = 300
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.prompt.tokens < 1:
            raise UserError("a search for the smallest k with a prompt of 0 tokens: expected the largest k to be tried")
        if not self.threshold > 0 or self.restarts < 1:
            raise UserError(
                f"threshold {self.threshold} with {self.restarts} restarts of a search for the smallest k: expected a "
                "positive loss, and at least 1"
            )
        _ = self.fit  # which refuses what cannot be fitted

    @cached_property
    def fit(self) -> FitSoftPrompts:
        """One of the fits that the search is made of, at the largest k."""
        return FitSoftPrompts(
            model=self.model,
            targets=(self.target,),
            prompts=(self.prompt,),
            tokenizer=self.tokenizer,
            examples=self.examples,
            num_eval=self.num_eval,
            steps=self.steps,
            batch=self.batch,
            seed=self.seed,
        )

    @property
    def label(self) -> str:
        return f"smallest k to {self.prompt.tokens}"

    @property
    def cost(self) -> Cost:
        """Of the most fits that doubling and bisecting take."""
        return self.fit.cost.times(self.most_fits)

    @property
    def most_fits(self) -> int:
        return 2 * self.prompt.tokens.bit_length() * (self.restarts + 1)

    def run(self, context: Context) -> dict[str, Any]:
        from halflife.data.codecs import load
        from halflife.prompts.description import read_items
        from halflife.prompts.groups import FitConfig
        from halflife.prompts.runs import Beginning, frozen
        from halflife.prompts.search import smallest

        stage, target, prompt, began = self.fit, self.target, self.prompt, time.monotonic()
        codec = load(stage.codec, context.results)
        model = frozen(stage, codec.size, _folder(stage, context), context.device)
        items = read_items(stage, target, codec, context.results)

        def begin(kind: SoftPrompt) -> Any:
            key = (stage.seed, "soft prompt", target.name, kind.tokens, kind.restart)
            return Beginning(model, codec, items, key, {}).vectors(kind)

        def told(k: int, fitted: Fitted, steps: int) -> None:
            counts = {"loss": fitted.loss, "hits": float(fitted.correct.sum()), "trials": float(len(fitted.correct))}
            finite = {name: value for name, value in counts.items() if math.isfinite(value)}
            context.record(steps, {f"{target.name}.k{k}/{name}": value for name, value in finite.items()})

        found = smallest(
            model,
            items,
            prompt,
            begin,
            threshold=self.threshold,
            largest=prompt.tokens,
            restarts=self.restarts,
            course=FitConfig(steps=self.steps, batch=self.batch, seed=self.seed),
            told=told,
        )
        seconds = time.monotonic() - began
        context.computing(seconds)
        return {
            "tokens": self.cost.tokens * found.steps / (self.most_fits * self.steps),
            "seconds_training": seconds,
            "distance": found.distance,
            "losses": {str(k): fitted.loss for k, fitted in sorted(found.best.items()) if math.isfinite(fitted.loss)},
            "prompt_steps": found.steps,
        }


@dataclass(frozen=True, kw_only=True)
class MeasureSoftPrompts(PromptMeasurement):
    """Fragility and bits of prompts that a FitSoftPrompts ended with, or, with `matched`, of the same fits stopped at a
    common loss; and what prompts of few numbers come to.

    Points of each run: `numbers`, and where `fragile` is asked `f1`, `f2`, `f3`, `r50`, `curvature`
    (prompts.fragility), `norm` and `loss` of the prompt measured, `noise` (the largest tolerated); for each of
    `bits`, `loss_<b>bits`, `hits_<b>bits`; for each of `subspaces`, `loss_<n>numbers`, `hits_<n>numbers`. What was not
    reached is left out.
    """

    kind: ClassVar[str] = "measure-soft-prompts"
    version: ClassVar[int] = 2  # 2: a matched loss is met, where it was passed by up to five steps

    def run(self, context: Context) -> dict[str, Any]:
        from halflife.prompts.measurement import measure

        return measure(self, context)


def _folder(stage: FitSoftPrompts, context: Context) -> Path | None:
    return context.parent(stage.model.stage) if isinstance(stage.model, Checkpoint) else None
