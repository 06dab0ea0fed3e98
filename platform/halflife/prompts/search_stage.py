"""The stage that searches for the smallest number of tokens that reaches a loss."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from halflife.data.codecs import load
from halflife.errors import UserError
from halflife.evaluation.targets import Target
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.soft_prompt import SoftPrompt, WarmStart
from halflife.stages.subject import Subject
from halflife.store.stage import Context, Cost, Stage


@dataclass(frozen=True, kw_only=True)
class FindDistance(Stage):
    """C by search: the smallest k whose best prompt has a held-out loss of at most `threshold`, exact to one token.

    Points `<target>.k<k>/loss`, `/hits`, `/trials` for each k tried, at the prompt steps so far. The summary has
    `distance` (None: not reached by `largest`), `losses` by k, and `prompt_steps`.
    """

    kind: ClassVar[str] = "find-distance"
    version: ClassVar[int] = 2  # 2: the best at each k has the lowest training loss of the last steps, no longer of all

    subject: Subject
    target: Target
    prompt: SoftPrompt
    """Position, initialization, input model and learning rate; its tokens are the largest k."""
    threshold: float
    """Nats per token."""
    restarts: int = 2
    """Fresh restarts at each k, in addition to one warm start from the next smaller k tried."""
    examples: int = 256
    num_eval: int = 128
    steps: int = 300
    batch: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        if self.prompt.tokens < 1:
            raise UserError("a search for the smallest k with a prompt of 0 tokens: expected the largest k to try")
        if not self.threshold > 0 or self.restarts < 1:
            raise UserError(
                f"threshold {self.threshold} with {self.restarts} restarts of a search for the smallest k: expected a "
                "positive loss, and at least 1"
            )
        if isinstance(self.prompt.initial, WarmStart):
            raise UserError(
                "a search for the smallest k with a warm start, which has one k: expected noise, vocabulary, words or "
                "a text"
            )
        _ = self.fit  # refuses what cannot be fitted

    @cached_property
    def fit(self) -> FitSoftPrompts:
        """One of the fits of the search, at the largest k."""
        return FitSoftPrompts(
            subject=self.subject,
            targets=(self.target,),
            prompts=(self.prompt,),
            examples=self.examples,
            num_eval=self.num_eval,
            steps=self.steps,
            batch=self.batch,
            seed=self.seed,
        )

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return (self.target.name,)

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
        # torch is imported only where a stage runs
        from halflife.prompts.initialization import Initializer
        from halflife.prompts.results import Fitted
        from halflife.prompts.search import smallest_k

        fit, target, started = self.fit, self.target, time.monotonic()
        codec = load(self.subject.codec, context.results)
        model = self.subject.load(context, fit.precision)
        items = fit.read_items(target, codec, context.results)

        def record(k: int, fitted: Fitted, steps: int) -> None:
            counts = {"loss": fitted.loss, "hits": float(fitted.correct.sum()), "trials": float(len(fitted.correct))}
            finite = {name: value for name, value in counts.items() if math.isfinite(value)}
            context.record(steps, {f"{target.name}.k{k}/{name}": value for name, value in finite.items()})

        found = smallest_k(
            model,
            items,
            self.prompt,
            Initializer(model, codec, items, self.seed).vectors,
            threshold=self.threshold,
            largest=self.prompt.tokens,
            restarts=self.restarts,
            config=fit.config,
            on_fitted=record,
        )
        seconds = time.monotonic() - started
        context.computing(seconds)
        return {
            "tokens": self.cost.tokens * found.steps / (self.most_fits * self.steps),
            "seconds_training": seconds,
            "distance": found.distance,
            "losses": {str(k): fitted.loss for k, fitted in sorted(found.best.items()) if math.isfinite(fitted.loss)},
            "prompt_steps": found.steps,
        }
