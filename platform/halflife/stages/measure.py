"""Measure: any probe on any subject."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from halflife.errors import UserError
from halflife.evaluation.probe import Evaluation, Setting
from halflife.stages.subject import Precision, Subject
from halflife.store.execution import CPU_ACTIVATION_BYTES, Execution, Memory
from halflife.store.stage import Context, Cost, Stage


@dataclass(frozen=True, kw_only=True)
class Measure(Stage):
    """Evaluates a subject once. Points are at step 0, named as an evaluation of a training stage names them."""

    kind: ClassVar[str] = "measure"

    subject: Subject
    evaluations: tuple[Evaluation, ...]
    """There is one moment, so when they are due has no effect."""
    sequence: int | None = None
    """The longest text of a probe, in tokens; by default what the subject reads, or 256 where it has no limit."""
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        """Raises UserError when the fields contradict one another."""
        if not self.evaluations:
            raise UserError("nothing to measure given: expected at least one evaluation")
        again = [name for name, count in Counter(e.name for e in self.evaluations).items() if count > 1]
        if again:
            raise UserError(f"several evaluations named {again[0]!r}: expected each name once")
        longest = self.subject.context_length
        if self.sequence is not None and longest is not None and self.sequence > longest:
            raise UserError(
                f"texts of {self.sequence} tokens given: {self.subject.size} reads at most {longest}; shorten them"
            )

    @cached_property
    def length(self) -> int:
        return self.sequence or self.subject.context_length or 256

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return tuple(evaluation.name for evaluation in self.evaluations)

    @property
    def label(self) -> str:
        return f"measures of {self.subject.size}"

    @property
    def cost(self) -> Cost:
        scored = sum(evaluation.probe.tokens_scored(self.length) for evaluation in self.evaluations)
        return replace(self.subject.reading(scored, self.length), memory_bytes=self.memory(Execution()).total)

    def memory(self, execution: Execution, activation_budget: float = CPU_ACTIVATION_BYTES) -> Memory:
        held = self.subject.memory(max(evaluation.probe.tokens_scored(self.length) for evaluation in self.evaluations))
        probes = sum(evaluation.probe.memory_bytes() for evaluation in self.evaluations)
        return replace(held, evaluation=held.evaluation + probes)

    def run(self, context: Context) -> dict[str, Any]:
        # torch is imported only where a stage runs
        from halflife.evaluation.scoring import named

        started = time.perf_counter()
        setting = Setting(
            tokenizer=self.subject.codec,
            results=context.results,
            sequence=self.length,
            device=context.device,
            parents=context,
        )
        measures = {evaluation.name: evaluation.probe.prepare(setting) for evaluation in self.evaluations}
        model = self.subject.load(context, self.precision)
        for name, measure in measures.items():
            context.record(0, {named(name, measured): value for measured, value in measure(model).items()})
        seconds = time.perf_counter() - started
        context.computing(seconds)
        return {"tokens": self.cost.tokens, "seconds_training": seconds}
