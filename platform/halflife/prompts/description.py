"""What is fitted and what is measured of it: the fields of the stages in `prompts.stages`, what they refuse and cost.

Apart from the stages, so that what computes them can name them without importing them.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from halflife.data.codecs import load
from halflife.data.tokenizers import Codec, Pretrained, Tokenizer, vocabulary_of
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
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.prompts.describe import Direct, SoftPrompt, WarmStart, Words
from halflife.stages.train import Checkpoint
from halflife.store.stage import Cost, Stage
from halflife.training.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class PromptFit(Stage):
    """The fields of a FitSoftPrompts."""

    model: Checkpoint | Rung | Released
    """What is frozen. A rung is untrained: its weights are those that training would begin with at this seed."""
    targets: tuple[Target, ...]
    prompts: tuple[SoftPrompt, ...]
    tokenizer: Tokenizer | None = None
    """A checkpoint has its own; of a released model its own is expected."""
    examples: int = 256
    """Training examples of each target. A target that has fewer is refused, as the number is an axis."""
    num_eval: int = 128
    """Held-out examples of each target, at most."""
    steps: int = 300
    """0: prompts are asked as they begin."""
    batch: int = 8
    """Examples a step, for each run."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Largest gradient norm of each prompt."""
    schedule: Schedule = Schedule()
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the frozen model; prompts are fp32."""
    at: Cadence = Ends()
    """When runs are asked."""
    judged: bool = False
    """At the end have the model also go on from the held-out prompts by itself, and the targets, of which several
    answers are right, judge what it says."""
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
            if not (isinstance(target, JudgingTarget) and target.several):
                raise UserError(f"what is said to be judged by {target.name}: it has one right answer, which is scored")
        if not self.weight_decay >= 0 or not self.max_grad_norm > 0:
            raise UserError(
                f"weight decay {self.weight_decay} and max_grad_norm {self.max_grad_norm} of soft prompts: expected 0 "
                "or more, and a positive norm"
            )
        if isinstance(self.model, Checkpoint):
            if self.tokenizer not in (None, self.model.stage.mixture.tokenizer):
                raise UserError("soft prompts on a checkpoint with another tokenizer: leave it out, it has its own")
        elif self.tokenizer is None:
            raise UserError(
                f"soft prompts on {self.model.size} without a tokenizer: name the one that it reads text by"
            )
        model = self.architecture
        tokens = vocabulary_of(self.codec)
        if isinstance(model, Released) and isinstance(self.codec, Pretrained) and tokens > model.shape.vocabulary:
            raise UserError(
                f"the tokenizer has {tokens} tokens and {model.name} {model.shape.vocabulary}: expected the model's own"
            )
        longest = max(prompt.tokens for prompt in self.prompts)
        if self.context_length is not None and longest >= self.context_length:
            raise UserError(
                f"a soft prompt of {longest} tokens given: {model.size} reads at most {self.context_length}, the text "
                "among them; expected fewer"
            )
        for prompt in self.prompts:
            if isinstance(prompt.initial, WarmStart):
                self._check_smaller(prompt, prompt.initial)

    def _check_smaller(self, prompt: SoftPrompt, smaller: WarmStart) -> None:
        earlier = smaller.stage
        if not isinstance(earlier, PromptFit):
            raise UserError(f"soft prompt {prompt.name} begun from {earlier!r}: expected a FitSoftPrompts")
        known = {run.name: run for run in earlier.prompts}
        for name in smaller.prompts:
            if name not in known:
                raise UserError(
                    f"soft prompt {prompt.name} begun from {name!r}: that stage has {', '.join(sorted(known))}"
                )
            if not 1 <= known[name].tokens <= prompt.tokens:
                raise UserError(
                    f"soft prompt of {prompt.tokens} tokens begun from one of {known[name].tokens}: expected 1 to as "
                    "many"
                )

    @property
    def codec(self) -> Tokenizer:
        """The tokenizer that texts are read by."""
        found = self.model.stage.mixture.tokenizer if isinstance(self.model, Checkpoint) else self.tokenizer
        assert found is not None
        return found

    @property
    def architecture(self) -> Rung | Released:
        return self.model.stage.architecture if isinstance(self.model, Checkpoint) else self.model

    @property
    def context_length(self) -> int | None:
        """The longest sequence that the model reads: a released one's limit, or what a checkpoint was trained on."""
        model = self.architecture
        limit = model.shape.context if isinstance(model, Released) else None
        trained = self.model.stage.mixture.sequence if isinstance(self.model, Checkpoint) else None
        return min((length for length in (limit, trained) if length is not None), default=None)

    @property
    def label(self) -> str:
        return f"soft prompts k = {', '.join(str(k) for k in sorted({prompt.tokens for prompt in self.prompts}))}"

    def run_name(self, target: Target, prompt: SoftPrompt) -> str:
        """What a run is called in points, summary and files."""
        return f"{target.name}.{prompt.name}"

    def check(self, results: Path) -> None:
        """Read every target as `run` will. Raises UserError for all that it would trip over, before any compute."""
        codec = load(self.codec, results)
        for target in self.targets:
            found = read_items(self, target, codec, results)
            for initial in {prompt.initial for prompt in self.prompts if isinstance(prompt.initial, Words)}:
                words_of(found, initial, codec)

    @property
    def cost(self) -> Cost:
        """Forward and backward pass of the frozen model, two thirds of training's; a character is taken for a token."""
        model, vocabulary = self.architecture, vocabulary_of(self.codec)
        trained = asked = 0.0
        for target in self.targets:
            for prompt in self.prompts:
                length = target.characters + prompt.tokens
                evaluations = len(due(self.at, self.steps)) if prompt.tokens else 1
                asked += self.num_eval * length * evaluations
                trained += self.steps * self.batch * length if prompt.tokens else 0
        longest = max(prompt.tokens for prompt in self.prompts) + max(target.characters for target in self.targets)
        weights = 4.0 * (model.parameters + model.embedding_parameters(vocabulary))
        numbers = sum(prompt.trained(model.width, 2) for prompt in self.prompts) * len(self.targets)
        return Cost(
            tokens=trained,
            flops=(2 * trained / 3 + asked / 3) * model.flops_per_token(longest, vocabulary),
            memory_bytes=weights + 2 * self.batch * longest * model.activation_bytes(vocabulary),
            disk_bytes=4.0 * 4 * numbers + 64.0 * self.num_eval * len(self.prompts) * len(self.targets),
            steps=self.steps,
        )


@dataclass(frozen=True, kw_only=True)
class PromptMeasurement(Stage):
    """The fields of a MeasureSoftPrompts."""

    fit: PromptFit
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
    num_eval: int = 32
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


def read_items(stage: PromptFit, target: Target, codec: Codec, results: Path) -> TargetItems:
    """A target's texts in tokens. Raises UserError when it has too few, their conditions differ in number, the
    tokenizer cannot encode them, a prompt lies outside them, or they leave it no room."""
    train = items(target, "train", stage.examples, codec, results)
    held_out = items(target, "held-out", stage.num_eval, codec, results)
    every = (*train, *held_out)
    if len(train) < stage.examples:
        raise UserError(
            f"{stage.examples} training examples of {target.name} given: it has {len(train)}; ask for fewer"
        )
    if len({len(item.conditions) for item in every}) > 1:
        raise UserError(f"target {target.name} has examples with different numbers of conditions: expected one number")
    largest = max(int(max(item.tokens.max(), item.targets.max())) for item in every)
    if largest >= codec.size:
        raise UserError(f"target {target.name} has token {largest}: the tokenizer {codec.name} has {codec.size}")
    judged = to_judge(target, held_out, codec) if stage.judged and isinstance(target, JudgingTarget) else None
    longest, most = max(len(item.tokens) for item in every), max(prompt.tokens for prompt in stage.prompts)
    if judged is not None:
        longest = max(longest, max(map(len, judged.prompts)) + judged.most)
    if stage.context_length is not None and longest + most > stage.context_length:
        raise UserError(
            f"soft prompts of up to {most} tokens given: with the {longest} tokens of {target.name}'s longest text "
            f"they exceed the {stage.context_length} that {stage.architecture.size} reads; expected at most "
            f"{max(0, stage.context_length - longest)}"
        )
    for prompt in stage.prompts:
        check_position(every, prompt.position)
    return TargetItems(target.name, train, held_out, chance_of(target, held_out), judged)


def words_of(target: TargetItems, initial: Words, codec: Codec) -> list[str]:
    """What prompts of this beginning are drawn from, sorted. Raises UserError when its texts have no such word."""
    texts = [codec.decode(np.append(item.tokens, item.targets[-1])) for item in target.train]
    words = sorted({word for text in texts for word in re.findall(rf"[^\W\d_]{{{initial.letters},}}", text)})
    if not words:
        raise UserError(
            f"soft prompts begun from the words of {target.name}: its texts have none of {initial.letters} letters; "
            "expected another beginning, such as vocabulary"
        )
    return words
