"""Training under attacks on the activations, described."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

from halflife.data.codecs import load
from halflife.data.tokenizers import vocabulary_of
from halflife.errors import UserError, check_choice
from halflife.evaluation.targets import Item, TextTarget, items
from halflife.models.sites import Site
from halflife.training.objective import Objective, ObjectiveSetting, Terms, Trained, check_length, check_strength

Start = Literal["zero", "random"]


@dataclass(frozen=True, kw_only=True)
class LatentAttack(Objective):
    """Adds strength times the loss of right answers under an attack on the activations: latent adversarial training
    (arXiv 2403.05030), targeted if `toward` is given (arXiv 2407.15549).

    Each step draws `batch` examples and perturbs their activations at `sites`, at the tokens of the prompt. A token's
    perturbation d (width,) is found by projected gradient descent (arXiv 1706.06083) on the attacker's loss J:

        d <- P(d - step_size r g / |g|),   g = dJ/dd,   r = radius x mean |activation|

    with |.| the L2 norm, P the projection onto |d| <= r, and the mean over the attacked tokens of that site, in the
    step's first pass. J is the loss of the wrong answers, or without them minus that of the right ones. The attacker's
    passes are without dropout. The model then takes its gradient with d held fixed. At radius 0 it trains on the right
    answers as they are.

    Logs, in nats per token: `latent-attack/loss`, of the right answers under the attack; and where there is an attack,
    the loss that the attacker lowers or raises, `/start_loss` before its first step and `/end_loss` after its last.
    """

    once: ClassVar[bool] = True
    reads_batch: ClassVar[bool] = False

    strength: float = 1.0
    target: TextTarget
    """Its training examples have the right answers."""
    toward: TextTarget | None = None
    """The wrong answers that the attacker wants, to the same prompts, in any order"""
    sites: tuple[Site, ...]
    radius: float
    """Of each token's ball, in units of the site's mean norm"""
    steps: int = 4
    step_size: float = 0.5
    """In units of the ball's radius"""
    start: Start = "zero"
    """random: in a random direction, at a distance that is uniform up to the ball's radius"""
    examples: int = 128
    batch: int = 16

    def __post_init__(self) -> None:
        check_strength("latent attack", self.strength)
        check_choice("start of a latent attack", self.start, get_args(Start))
        for name in ("radius", "step_size"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"latent attack of {name} {getattr(self, name)}: expected 0 or a positive number")
        for name in ("steps", "examples", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"latent attack of {name} = {getattr(self, name)}: expected at least 1")
        if not self.sites or len(set(self.sites)) < len(self.sites):
            raise UserError(
                f"latent attack at {[site.name for site in self.sites]}: expected at least one site, and each once"
            )
        if self.toward == self.target:
            raise UserError("latent attack toward the right answers given: expected a target with wrong ones, or None")

    def check(self, stage: Trained) -> None:
        for site in self.sites:
            site.check(stage.architecture)

    def check_texts(self, stage: Trained, results: Path) -> None:
        self._texts(stage, results)

    def _texts(self, stage: Trained, results: Path) -> tuple[list[Item], list[Item] | None]:
        """The right answers, and the wrong ones in their order. Raises UserError when an example is too long, or a
        prompt has no wrong answer."""
        codec = load(stage.mixture.tokenizer, results)
        right = items(self.target, "train", self.examples, codec, results)
        wrong = None
        if self.toward is not None:
            wrong = _paired(right, items(self.toward, "train", self.examples, codec, results), self.toward.name)
        longest = max(len(item.tokens) for item in [*right, *(wrong or ())])
        check_length("latent attack on examples", longest, stage)
        return right, wrong

    @property
    def measures(self) -> tuple[str, ...]:
        attacker = ("start_loss", "end_loss") if self.radius else ()
        return tuple(f"latent-attack/{measure}" for measure in ("loss", *attacker))

    def step_tokens(self, stage: Trained) -> float:
        """An inner step takes two thirds of a training pass, as it needs no gradients of weights."""
        passes = 2 * self.steps + (self.toward is not None) if self.radius else 0
        return self._tokens * (1 + passes / 3)

    def memory_bytes(self, stage: Trained) -> float:
        """Activations of a pass; and of each perturbation itself, its gradient, the next one and its direction."""
        model, vocabulary = stage.architecture, vocabulary_of(stage.mixture.tokenizer)
        return self._tokens * (model.activation_bytes(vocabulary) + 4 * 4.0 * len(self.sites) * model.width)

    @property
    def _tokens(self) -> float:
        """Per pass; a character is taken for a token."""
        targets = [self.target] if self.toward is None else [self.target, self.toward]
        return float(self.batch * max(target.characters for target in targets))

    def prepare(self, setting: ObjectiveSetting) -> Terms:
        """Raises UserError when the model has no such site or cannot be attacked there as it is executed."""
        from halflife.training.perturbation import AttackLoss  # imports torch

        context, stage, model = setting.context, setting.stage, setting.model
        for site in self.sites:
            model.hook_point(site)
            if site.part != "residual" and context.execution.activation_checkpointing:
                raise UserError(
                    f"latent attack at {site.name} with activation checkpointing, which computes the inside of a block "
                    "again without the attack: expected the part 'residual', or no activation checkpointing"
                )
        right, wrong = self._texts(stage, context.results)
        loss = AttackLoss(
            right,
            wrong,
            sites=self.sites,
            radius=self.radius,
            steps=self.steps,
            step_size=self.step_size,
            random=self.start == "random",
            strength=self.strength,
            batch=self.batch,
            key=(stage.seed, "latent attack", stage.depth),
            device=context.device,
        )
        return Terms(on_step=lambda model, batch, step, metrics: loss(model, step, metrics))


def _paired(right: Sequence[Item], wrong: Sequence[Item], name: str) -> list[Item]:
    """For each item the wrong one with its prompt."""
    by_prompt = {item.tokens[: item.answer].tobytes(): item for item in wrong}
    prompts = [item.tokens[: item.answer].tobytes() for item in right]
    if missing := sum(prompt not in by_prompt for prompt in prompts):
        raise UserError(
            f"latent attack toward {name}: {missing} of {len(right)} prompts are not among its {len(wrong)} examples; "
            "expected the same prompts in both targets"
        )
    return [by_prompt[prompt] for prompt in prompts]
