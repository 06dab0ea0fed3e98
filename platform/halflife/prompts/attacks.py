"""Training against soft prompts, described."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from halflife.data.codecs import load
from halflife.errors import UserError
from halflife.evaluation.targets import TextTarget, items
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.store.stage import Outcome, ParentResult
from halflife.training.objective import Objective, ObjectiveSetting, Terms, Trained, check_strength


@dataclass(frozen=True, kw_only=True)
class PromptAttacks(Objective, ParentResult):
    """Adds strength times the loss of right answers behind soft prompts that were fitted to elicit wrong ones: each
    step draws `batch` examples and one prompt; the loss is in nats per token. Adversarial training by continuous
    attacks (arXiv 2405.15589), with the prompts of whole fits in place of a few steps for each batch."""

    reads_batch: ClassVar[bool] = False

    strength: float
    attacks: tuple[FitSoftPrompts, ...]
    """The stages whose prompts are trained against."""
    target: TextTarget
    """Its training examples have the right answers."""
    examples: int = 128
    batch: int = 16

    def __post_init__(self) -> None:
        check_strength("prompt attacks", self.strength)
        prompts = sum(prompt.tokens > 0 for stage in self.attacks for prompt in stage.prompts)
        if not prompts or self.examples < 1 or self.batch < 1:
            raise UserError(
                f"{prompts} prompt attacks, {self.examples} examples and a batch of {self.batch} given: expected at "
                "least 1 of each"
            )

    def unreached(self, outcomes: Mapping[str, Outcome]) -> str | None:
        runs = [run for stage in self.attacks for run in outcomes[stage.key].summary["runs"].values()]
        if any(run["tokens"] and run["norm"] for run in runs):
            return None
        return "every soft prompt to train against diverged"

    def check_texts(self, stage: Trained, results: Path) -> None:
        items(self.target, "train", self.examples, load(stage.mixture.tokenizer, results), results)

    def step_tokens(self, stage: Trained) -> float:
        return float(self.batch * self.target.characters)  # a character is taken for a token

    def prepare(self, setting: ObjectiveSetting) -> Terms:
        # torch is imported only where a stage runs
        from halflife.prompts.attack_loss import PromptLoss, attacks

        context, stage = setting.context, setting.stage
        prompts, position = attacks([context.parent(fit) for fit in self.attacks])
        codec = load(stage.mixture.tokenizer, context.results)
        loss = PromptLoss(
            prompts,
            items(self.target, "train", self.examples, codec, context.results),
            position,
            strength=self.strength,
            batch=self.batch,
            key=(stage.seed, "prompt attack", stage.depth, setting.number),
            device=context.device,
        )
        return Terms(on_step=lambda model, batch, step, metrics: loss(model, step))
