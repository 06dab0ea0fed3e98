"""Training against soft prompts, described."""

from __future__ import annotations

from dataclasses import dataclass

from halflife.data.codecs import load
from halflife.data.tokenizers import Tokenizer
from halflife.errors import UserError
from halflife.evaluation.targets import TextTarget, items
from halflife.prompts.description import PromptFit
from halflife.store.stage import Context
from halflife.training.penalties import AddedLoss, Loss, check_strength


@dataclass(frozen=True, kw_only=True)
class PromptAttacks(AddedLoss):
    """Adds strength times the loss of right answers behind soft prompts that were fitted to bring wrong ones: in each
    step those of `batch` drawn examples, in nats a token, behind one drawn prompt. Adversarial training by continuous
    attacks (arXiv 2405.15589), with the prompts of whole fits instead of a few steps of each batch's own."""

    attacks: tuple[PromptFit, ...]
    """The stages (`prompts.stages.FitSoftPrompts`) whose prompts are trained against."""
    target: TextTarget
    """Its training examples are what is to be said."""
    examples: int = 128
    batch: int = 16

    def __post_init__(self) -> None:
        check_strength("prompt attacks", self.strength)
        if not self.attacks or self.examples < 1 or self.batch < 1:
            raise UserError(
                f"{len(self.attacks)} prompt attacks, {self.examples} examples and a batch of {self.batch} given: "
                "expected at least 1 of each"
            )

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
