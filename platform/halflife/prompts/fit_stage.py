"""The stage that fits soft prompts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from halflife.data.codecs import load
from halflife.data.tokenizers import Codec, vocabulary_of
from halflife.errors import UserError
from halflife.evaluation.probes import Cadence, Ends, due
from halflife.evaluation.targets import (
    JudgingTarget,
    Target,
    TargetItems,
    chance_of,
    check_position,
    items,
    to_judge,
)
from halflife.prompts.soft_prompt import FitConfig, SoftPrompt, WarmStart, Words, words_of
from halflife.stages.subject import Subject
from halflife.store.stage import Context, Cost, Stage
from halflife.training.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class FitSoftPrompts(Stage):
    """Fits every prompt to every target on one frozen model, then evaluates it on the target's held-out examples.

    A run is a target and a prompt, named `<target>.<prompt>`. All runs of a target see the same examples at the same
    step and are evaluated on the same held-out ones, so differences between them are paired. Runs fitted together do
    not affect one another. Points are at the tokens of text that a run has seen. At the end there are `chance` and,
    with `judged`, `generated_hits`, `generated_trials` and the target's other counts.
    """

    kind: ClassVar[str] = "fit-soft-prompts"
    version: ClassVar[int] = 2  # 2: train_loss, by which restarts are selected, is of the last steps, no longer of all

    subject: Subject
    """The frozen model."""
    targets: tuple[Target, ...]
    prompts: tuple[SoftPrompt, ...]
    examples: int = 256
    """Training examples of each target. A target that has fewer is refused, since the number is an axis."""
    num_eval: int = 128
    """Maximum number of held-out examples of each target."""
    steps: int = 300
    """0: initial prompts are evaluated untrained."""
    batch: int = 8
    """Examples per step, for each run."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Each prompt's gradient is clipped to this norm."""
    schedule: Schedule = Schedule()
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the frozen model; prompts are fp32."""
    at: Cadence = Ends()
    """When runs are evaluated."""
    judged: bool = False
    """At the end also generate from the held-out prompts, and let the targets, which accept several answers, judge the
    completions."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError when the fields contradict one another."""
        for name, least in (("examples", 1), ("num_eval", 1), ("batch", 1), ("steps", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} = {getattr(self, name)} for soft prompts: expected at least {least}")
        if not self.prompts or not self.targets:
            raise UserError("soft prompts without a prompt or without a target: expected at least one of each")
        for what, names in (("targets", [t.name for t in self.targets]), ("prompts", [p.name for p in self.prompts])):
            again = [name for name, count in Counter(names).items() if count > 1]
            if again:
                raise UserError(
                    f"several {what} named {again[0]!r}: expected each once; restarts differ by their number"
                )
        for target in self.targets if self.judged else ():
            if not (isinstance(target, JudgingTarget) and target.open_ended):
                raise UserError(f"judged completions of {target.name}: it has one right answer, which is scored")
        if not self.weight_decay >= 0 or not self.max_grad_norm > 0:
            raise UserError(
                f"weight decay {self.weight_decay} and max_grad_norm {self.max_grad_norm} of soft prompts: expected 0 "
                "or more, and a positive norm"
            )
        self._check_context()
        for prompt in self.prompts:
            if isinstance(prompt.initial, WarmStart):
                _check_warm_start(prompt, prompt.initial)

    def _check_context(self) -> None:
        longest = max(prompt.tokens for prompt in self.prompts)
        context = self.subject.context_length
        if context is not None and longest >= context:
            raise UserError(
                f"a soft prompt of {longest} tokens given: {self.subject.size} reads at most {context}, including the "
                "text; expected fewer"
            )

    @property
    def config(self) -> FitConfig:
        return FitConfig(
            steps=self.steps,
            batch=self.batch,
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            seed=self.seed,
        )

    @property
    def label(self) -> str:
        return f"soft prompts k = {', '.join(str(k) for k in sorted({prompt.tokens for prompt in self.prompts}))}"

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.run_name(target, prompt) for target in self.targets for prompt in self.prompts)

    def run_name(self, target: Target, prompt: SoftPrompt) -> str:
        """The name of a run in points, summary and files."""
        return f"{target.name}.{prompt.name}"

    def check(self, results: Path) -> None:
        """Read every target as `run` will. Raises the same UserErrors, before any compute."""
        codec = load(self.subject.codec, results)
        for target in self.targets:
            found = self.read_items(target, codec, results)
            for initial in {prompt.initial for prompt in self.prompts if isinstance(prompt.initial, Words)}:
                words_of(found, initial, codec)

    def read_items(self, target: Target, codec: Codec, results: Path) -> TargetItems:
        """A target's texts in tokens. Raises UserError when it has too few, their conditions differ in number, the
        tokenizer cannot encode them, a prompt lies outside them, or they leave it no room."""
        train = items(target, "train", self.examples, codec, results)
        held_out = items(target, "held-out", self.num_eval, codec, results)
        every = (*train, *held_out)
        if len(train) < self.examples:
            raise UserError(
                f"{self.examples} training examples of {target.name} given: it has {len(train)}; reduce examples"
            )
        if len({len(item.conditions) for item in every}) > 1:
            raise UserError(
                f"target {target.name} has examples with different numbers of conditions: expected one number"
            )
        largest = max(int(max(item.tokens.max(), item.targets.max())) for item in every)
        if largest >= codec.size:
            raise UserError(f"target {target.name} has token {largest}: the tokenizer {codec.name} has {codec.size}")
        judged = to_judge(target, held_out, codec) if self.judged and isinstance(target, JudgingTarget) else None
        context = self.subject.context_length
        longest, most = max(len(item.tokens) for item in every), max(prompt.tokens for prompt in self.prompts)
        if judged is not None:
            longest = max(longest, max(map(len, judged.prompts)) + judged.max_tokens)
        if context is not None and longest + most > context:
            raise UserError(
                f"soft prompts of up to {most} tokens given: with the {longest} tokens of {target.name}'s longest text "
                f"they exceed the {context} that {self.subject.size} reads; expected at most "
                f"{max(0, context - longest)}"
            )
        for prompt in self.prompts:
            check_position(every, prompt.position)
        return TargetItems(target.name, train, held_out, chance_of(target, held_out), judged)

    @property
    def cost(self) -> Cost:
        """Forward and backward pass of the frozen model, two thirds of training's; a character is taken for a token."""
        model, vocabulary = self.subject.architecture, vocabulary_of(self.subject.codec)
        trained = evaluated = 0.0
        for target in self.targets:
            for prompt in self.prompts:
                length = target.characters + prompt.tokens
                evaluations = len(due(self.at, self.steps)) if prompt.tokens else 1
                evaluated += self.num_eval * length * evaluations
                trained += self.steps * self.batch * length if prompt.tokens else 0
        longest = max(prompt.tokens for prompt in self.prompts) + max(target.characters for target in self.targets)
        weights = 4.0 * (model.parameters + model.embedding_parameters(vocabulary))
        numbers = sum(prompt.num_parameters(model.width, 2) for prompt in self.prompts) * len(self.targets)
        return Cost(
            tokens=trained,
            flops=(2 * trained / 3 + evaluated / 3) * model.flops_per_token(longest, vocabulary),
            memory_bytes=weights + 2 * self.batch * longest * model.activation_bytes(vocabulary),
            disk_bytes=4.0 * 4 * numbers + 64.0 * self.num_eval * len(self.prompts) * len(self.targets),
            steps=self.steps,
        )

    def run(self, context: Context) -> dict[str, Any]:
        """Fit, write `final/`, and return the summary. Raises UserError for invalid texts, before any step."""
        # torch is imported only where a stage runs
        from halflife.prompts import results as prompt_results
        from halflife.prompts.batch import scale_of
        from halflife.prompts.fitting import fit
        from halflife.prompts.groups import Run
        from halflife.prompts.initialization import Initializer

        codec = load(self.subject.codec, context.results)
        targets = {target.name: self.read_items(target, codec, context.results) for target in self.targets}
        model = self.subject.load(context, self.precision)
        earlier, runs = self.earlier_runs(context), []
        for target in self.targets:
            initializer = Initializer(model, codec, targets[target.name], self.seed, earlier)
            runs += [
                Run(self.run_name(target, prompt), targets[target.name], prompt, initializer.vectors(prompt))
                for prompt in self.prompts
            ]
        fitted, spent = fit(
            model,
            runs,
            self.config,
            schedule=self.schedule,
            at=self.at,
            context=context,
            checkpoint_seconds=context.checkpoint_seconds,
            device=context.device,
        )
        prompt_results.write(context.folder / "final", fitted)
        return {
            **spent,
            "steps": self.steps,
            "parameters": self.subject.architecture.parameters,
            "scale": scale_of(model.embed),
            "num_examples": {name: len(target.train) for name, target in targets.items()},
            "runs": {run.name: run.summary() for run in fitted},
        }

    def earlier_runs(self, context: Context) -> dict[str, dict[str, Any]]:
        """By stage key and run name, the fitted runs (`prompts.results.Fitted`) that warm starts begin with."""
        from halflife.prompts.results import read

        stages = [prompt.initial.stage for prompt in self.prompts if isinstance(prompt.initial, WarmStart)]
        return {stage.key: read(context.parent(stage) / "final") for stage in stages}


def _check_warm_start(prompt: SoftPrompt, start: WarmStart) -> None:
    if not isinstance(start.stage, FitSoftPrompts):
        raise UserError(f"soft prompt {prompt.name} initialized from {start.stage!r}: expected a FitSoftPrompts")
    known = {earlier.name: earlier for earlier in start.stage.prompts}
    for name in start.prompts:
        if name not in known:
            raise UserError(
                f"soft prompt {prompt.name} initialized from {name!r}: that stage has {', '.join(sorted(known))}"
            )
        if not 1 <= known[name].tokens <= prompt.tokens:
            raise UserError(
                f"soft prompt of {prompt.tokens} tokens initialized from one of {known[name].tokens}: expected 1 to as "
                "many"
            )
