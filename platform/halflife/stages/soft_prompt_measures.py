"""Stages that measure with soft prompts: the smallest k that reaches a loss, and how fragile fitted prompts are."""

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
from halflife.models.prompts import Direct, SoftPrompt
from halflife.models.released import Released
from halflife.stages.base import Context, Cost, Stage
from halflife.stages.soft_prompts import FitSoftPrompts
from halflife.stages.train import Checkpoint

if TYPE_CHECKING:
    from halflife.training.prompt_results import Fitted


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
    asked: int = 128
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
            asked=self.asked,
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
        from halflife.data.tokenizers import load
        from halflife.stages.soft_prompt_runs import Beginning, frozen, read_items
        from halflife.training.prompt_packs import Course
        from halflife.training.prompt_search import smallest

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
            course=Course(steps=self.steps, batch=self.batch, seed=self.seed),
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
class MeasureSoftPrompts(Stage):
    """Fragility and bits of prompts that a FitSoftPrompts ended with, or, with `matched`, of the same fits stopped at a
    common loss; and what prompts of few numbers come to.

    Points of each run: `numbers`, and where `fragile` is asked `f1`, `f2`, `f3`, `r50`, `curvature`
    (evaluation.fragility), `norm` and `loss` of the prompt measured, `noise` (the largest tolerated); for each of
    `bits`, `loss_<b>bits`, `hits_<b>bits`; for each of `subspaces`, `loss_<n>numbers`, `hits_<n>numbers`. What was not
    reached is left out.
    """

    kind: ClassVar[str] = "measure-soft-prompts"
    version: ClassVar[int] = 2  # 2: a matched loss is met, where it was passed by up to five steps

    fit: FitSoftPrompts
    prompts: tuple[str, ...]
    """Names of those of its prompts that are measured, with at least one token; direct ones."""
    matched: float | None = None
    """Nats a token on held-out examples at which the fit is stopped; a run that never reaches it is left out."""
    radius: float = 1.0
    """Of the noise, in norms of one token embedding."""
    draws: int = 16
    bits: tuple[int, ...] = ()
    subspaces: tuple[int, ...] = ()
    """Numbers that are trained instead of k x width, in random directions."""
    threshold: float | None = None
    """Nats a token up to which noise is tolerated; twice the prompt's own loss if None."""
    asked: int = 32
    """Held-out examples that fragility is measured on."""
    fragile: bool = True
    """Whether fragility is measured: it takes longer than bits."""

    def __post_init__(self) -> None:
        known = {prompt.name: prompt for prompt in self.fit.prompts}
        for name in self.prompts:
            if name not in known or not known[name].tokens or not isinstance(known[name].model, Direct):
                raise UserError(
                    f"soft prompt {name!r} to be measured: expected one of "
                    f"{', '.join(p.name for p in self.fit.prompts if p.tokens and isinstance(p.model, Direct))}"
                )
        if not self.prompts or not self.radius > 0 or self.draws < 1 or self.asked < 1 or min(self.bits, default=1) < 1:
            raise UserError(
                "measuring soft prompts: expected a prompt, a positive radius, and 1 or more draws and bits"
            )
        if not (self.fragile or self.bits or self.subspaces):
            raise UserError("soft prompts to be measured for nothing: expected fragility, bits or subspaces")

    @cached_property
    def inner_stages(self) -> tuple[Stage, ...]:
        """The fit, and the stage that its frozen model comes from, which is loaded again."""
        model = self.fit.model
        return (self.fit, model.stage) if isinstance(model, Checkpoint) else (self.fit,)

    @property
    def label(self) -> str:
        return "fragility of soft prompts"

    @property
    def cost(self) -> Cost:
        share = len(self.prompts) / max(1, len(self.fit.prompts))
        often = self.fragile + (self.matched is not None) + len(self.subspaces) + 0.05 * len(self.bits)
        return self.fit.cost.times(share * often)

    def run(self, context: Context) -> dict[str, Any]:
        from halflife.stages.prompt_fragility import measure

        return measure(self, context)


def _folder(stage: FitSoftPrompts, context: Context) -> Path | None:
    return context.parent(stage.model.stage) if isinstance(stage.model, Checkpoint) else None
