"""Training against soft prompts, described."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from halflife.data.codecs import load
from halflife.data.tokenizers import Tokenizer
from halflife.errors import UserError
from halflife.evaluation.targets import TextTarget, items
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.store.stage import Context, Outcome, ParentResult
from halflife.training.penalties import AddedLoss, Loss, check_strength


@dataclass(frozen=True, kw_only=True)
class PromptAttacks(AddedLoss, ParentResult):
    """Adds strength times the loss of right answers behind soft prompts that were fitted to elicit wrong ones: each
    step draws `batch` examples and one prompt; the loss is in nats per token. Adversarial training by continuous
    attacks (arXiv 2405.15589), with the prompts of whole fits in place of a few steps for each batch."""

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

    @property
    def step_tokens(self) -> float:
        return float(self.batch * self.target.characters)  # a character is taken for a token

    def prepare(self, context: Context, tokenizer: Tokenizer, key: tuple[int | str, ...]) -> Loss:
        # torch is imported only where a stage runs
        from halflife.prompts.attack_loss import PromptLoss, attacks

        prompts, position = attacks([context.parent(stage) for stage in self.attacks])
        codec = load(tokenizer, context.results)
        return PromptLoss(
            prompts,
            items(self.target, "train", self.examples, codec, context.results),
            position,
            strength=self.strength,
            batch=self.batch,
            key=key,
            device=context.device,
        )
