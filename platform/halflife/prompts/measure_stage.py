"""The stage that measures fitted soft prompts: how fragile they are, and how few bits and parameters they need."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from halflife.data.codecs import load
from halflife.errors import UserError
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.soft_prompt import Direct
from halflife.store.stage import Context, Cost, Stage


@dataclass(frozen=True, kw_only=True)
class MeasureSoftPrompts(Stage):
    """Fragility and bits of the prompts that a FitSoftPrompts ended with, or, with `matched`, of the same fits stopped
    at a common loss; and the losses of prompts with few parameters.

    Points of each run: `numbers`, and with `fragile` `f1`, `f2`, `f3`, `r50`, `curvature` (prompts.fragility), `norm`
    and `loss` of the prompt measured, `noise` (the largest tolerated); for each of `bits`, `loss_<b>bits`,
    `hits_<b>bits`; for each of `subspaces`, `loss_<n>numbers`, `hits_<n>numbers`. Values that were not reached are left
    out.
    """

    kind: ClassVar[str] = "measure-soft-prompts"
    version: ClassVar[int] = 2  # 2: a matched loss is met, where it was exceeded by up to five steps

    fit: FitSoftPrompts
    prompts: tuple[str, ...]
    """Names of the prompts to measure: direct ones with at least one token."""
    matched: float | None = None
    """Nats per token on held-out examples at which the fit is stopped; a run that never reaches it is left out."""
    radius: float = 1.0
    """Of the noise, in norms of one token embedding."""
    draws: int = 16
    bits: tuple[int, ...] = ()
    subspaces: tuple[int, ...] = ()
    """Numbers of parameters to train in place of k x width, in random directions."""
    threshold: float | None = None
    """Nats per token up to which noise is tolerated; twice the prompt's own loss if None."""
    num_eval: int = 32
    """Held-out examples for fragility."""
    fragile: bool = True
    """Whether to measure fragility, which takes longer than bits."""

    def __post_init__(self) -> None:
        measurable = [p.name for p in self.fit.prompts if p.tokens and isinstance(p.model, Direct)]
        for name in self.prompts:
            if name not in measurable:
                raise UserError(f"soft prompt {name!r} to measure: expected one of {', '.join(measurable)}")
        if (
            not self.prompts
            or not self.radius > 0
            or self.draws < 1
            or self.num_eval < 1
            or min(self.bits, default=1) < 1
        ):
            raise UserError(
                "measuring soft prompts: expected a prompt, a positive radius, and 1 or more draws and bits"
            )
        if not (self.fragile or self.bits or self.subspaces):
            raise UserError("nothing to measure of soft prompts: expected fragility, bits or subspaces")

    @cached_property
    def inner_stages(self) -> tuple[Stage, ...]:
        """The fit and its own parents, whose results are read again: the frozen model's stage, and warm starts."""
        return (self.fit, *self.fit.inner_stages)

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return self.fit.tasks

    @property
    def label(self) -> str:
        return "fragility of soft prompts"

    @property
    def cost(self) -> Cost:
        share = len(self.prompts) / max(1, len(self.fit.prompts))
        fits = self.fragile + (self.matched is not None) + len(self.subspaces) + 0.05 * len(self.bits)
        return self.fit.cost.times(share * fits)

    def run(self, context: Context) -> dict[str, Any]:
        """Measure every run, one after another; the summary has each run's numbers."""
        # torch is imported only where a stage runs
        from halflife.prompts import measurement
        from halflife.prompts import results as prompt_results
        from halflife.prompts.batch import scale_of
        from halflife.prompts.groups import Run
        from halflife.prompts.initialization import Initializer
        from halflife.prompts.search import fit_to_loss

        fit, started = self.fit, time.monotonic()
        codec = load(fit.subject.codec, context.results)
        model = fit.subject.load(context, fit.precision)
        fitted, earlier = prompt_results.read(context.parent(fit) / "final"), fit.earlier_runs(context)
        prompts = {prompt.name: prompt for prompt in fit.prompts}
        runs: dict[str, dict[str, float]] = {}
        for target in fit.targets:
            items = fit.read_items(target, codec, context.results)
            initializer = Initializer(model, codec, items, fit.seed, earlier)
            for prompt in (prompts[name] for name in self.prompts):
                run = Run(fit.run_name(target, prompt), items, prompt, initializer.vectors(prompt))
                vectors, steps = fitted[run.name].vectors().to(context.device), fit.steps
                if self.matched is not None:
                    reached = fit_to_loss(model, run, fit.config, self.matched)
                    if reached is None:
                        continue
                    vectors, steps = reached
                if not vectors.isfinite().all():  # it diverged
                    continue
                found = {"matched_steps": float(steps), "numbers": float(vectors.numel())}
                if self.fragile:
                    found |= measurement.fragility_of(
                        model, items, prompt, vectors,
                        radius=self.radius, draws=self.draws, threshold=self.threshold, num_eval=self.num_eval,
                        seed=fit.seed,
                    )  # fmt: skip
                found |= measurement.quantized_scores(model, items, prompt, vectors, self.bits)
                if self.subspaces:
                    start = scale_of(model.embed) * run.start
                    found |= measurement.subspace_scores(model, items, prompt, start, self.subspaces, fit.config)
                runs[run.name] = {name: value for name, value in found.items() if math.isfinite(value)}
        context.record(0, {f"{run}/{name}": value for run, found in runs.items() for name, value in found.items()})
        seconds = time.monotonic() - started
        context.computing(seconds)
        return {"runs": runs, "tokens": self.cost.tokens, "seconds_training": seconds}
