"""Training by a reward on the model's own completions, described."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from halflife.data.codecs import load
from halflife.data.tokenizers import Codec, vocabulary_of, without_special
from halflife.errors import UserError, check_choice
from halflife.evaluation.targets import Item, Target, items
from halflife.tasks.synthetic import END
from halflife.training.objective import (
    Objective,
    ObjectiveSetting,
    Terms,
    Trained,
    check_length,
    check_name,
    check_strength,
)
from halflife.training.rewards import Reward, RewardSetting

Advantage = Literal["reward-to-go", "group-relative"]
NO_SIGNAL = 1e-3
"""Variance of returns within groups below which a policy gradient has nothing to learn from"""
NO_SIGNAL_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(Objective):
    """REINFORCE (Williams 1992) on completions of a target's training prompts.

    A step samples `group` completions of each of `prompts` prompts from the model at `temperature`, drawn from
    (weights, seed, step), and minimizes -mean over completions of sum_t A_t log p(token t). With "reward-to-go", A_t is
    the discounted sum of the rewards from t on, less its mean over the other completions of the prompt that reach t
    (the leave-one-out baseline of Kool et al. 2019, arXiv 2402.14740). With "group-relative", A is the completion's
    discounted return less its group's mean, over its group's standard deviation (arXiv 2402.03300).

    The reward of a token is the `reward`'s less beta (log p - log p_0), with p_0 the stage's initial model: with
    discount 1, the best policy of a terminal reward r is p_0 exp(r / beta) over its sum (arXiv 2205.11275).
    """

    reads_batch: ClassVar[bool] = False

    target: Target
    """The prompts to complete, with their right answers"""
    reward: Reward
    name: str = "policy"
    """Of what it logs: `<name>/reward` and the like"""
    advantage: Advantage = "reward-to-go"
    prompts: int = 8
    """Of a step"""
    group: int = 8
    length: int = 0
    """Most tokens of a completion; 0: as many as the longest answer has"""
    stops: bool = True
    """Whether a completion ends with the terminator of answers, where that is one token"""
    temperature: float = 1.0
    beta: float = 0.0
    discount: float = 1.0
    entropy: float = 0.0
    """Of the policy, added to the objective at this strength, in nats summed over a completion. Its gradient is of each
    token's distribution, with the tokens before it held fixed."""
    strength: float = 1.0
    examples: int = 512
    """Of the target, that prompts are drawn from"""

    def __post_init__(self) -> None:
        check_name("policy gradient", self.name)
        check_choice("advantage", self.advantage, get_args(Advantage))
        for name in ("strength", "beta", "entropy"):
            check_strength(f"policy gradient's {name}", getattr(self, name))
        if self.prompts < 1 or self.group < 2 or self.examples < 1 or self.length < 0:
            raise UserError(
                f"policy gradient with {self.prompts} prompts, groups of {self.group}, {self.examples} examples and "
                f"length {self.length}: expected at least 1 prompt, groups of at least 2, which give the baseline, at "
                "least 1 example and a length of 0 or more"
            )
        if not 0 < self.temperature < math.inf or not 0 <= self.discount <= 1:
            raise UserError(
                f"policy gradient at temperature {self.temperature} with discount {self.discount}: expected a positive "
                "temperature and a discount from 0 to 1"
            )

    def check(self, stage: Trained) -> None:
        if stage.dropout:
            raise UserError(
                f"policy gradient with dropout {stage.dropout}: completions are sampled without it, so their "
                "probabilities would be another policy's; use dropout 0"
            )
        if [getattr(other, "name", None) for other in stage.objectives].count(self.name) > 1:
            raise UserError(f"two objectives are named {self.name!r}: give each policy gradient a name of its own")

    def check_texts(self, stage: Trained, results: Path) -> None:
        self._texts(stage, load(stage.mixture.tokenizer, results), results)

    def _texts(self, stage: Trained, codec: Codec, results: Path) -> tuple[list[Item], int, int | None]:
        """The prompts with their answers, the most tokens of a completion, and the token that ends one. Raises
        UserError when they are too long for the model, or the reward cannot be had."""
        pool = items(self.target, "train", self.examples, codec, results)
        length = self.length or max(len(item.targets) for item in pool)
        check_length("policy gradient on texts", max(item.answer for item in pool) + length - 1, stage)
        terminator = codec.encode(END) if self.stops else ()
        end = int(terminator[0]) if len(terminator) == 1 else None
        self.reward.check(pool, length=length, end=end)
        return pool, length, end

    @property
    def _tokens(self) -> float:
        """Of a step, with a character counted as a token"""
        return float(self.prompts * self.group * (self.target.characters + self.length))

    def step_tokens(self, stage: Trained) -> float:
        # sampling reads every token once, the initial model as well
        return self._tokens * (4 / 3 + (1 / 3 if self.beta else 0))

    def memory_bytes(self, stage: Trained) -> float:
        model, vocabulary = stage.architecture, vocabulary_of(stage.mixture.tokenizer)
        initial = 4.0 * (model.parameters + model.embedding_parameters(vocabulary)) if self.beta else 0.0
        return initial + self._tokens * model.activation_bytes(vocabulary)

    @property
    def measures(self) -> tuple[str, ...]:
        return tuple(f"{self.name}/{measure}" for measure in ("reward", "reward_variance", "kl", "entropy", "length"))

    def prepare(self, setting: ObjectiveSetting) -> Terms:
        from halflife.training.terms import frozen_copy  # imports torch

        stage, context = setting.stage, setting.context
        codec = load(stage.mixture.tokenizer, context.results)
        pool, length, end = self._texts(stage, codec, context.results)
        reinforce = self._learner()(
            self,
            [item.tokens[: item.answer] for item in pool],
            self.reward.prepare(RewardSetting(items=pool, codec=codec, end=end, context=context)),
            length=length,
            end=end,
            vocabulary=vocabulary_of(without_special(stage.mixture.tokenizer)),
            reference=frozen_copy(setting.model) if self.beta else None,
            key=(stage.seed, "rollouts", stage.depth, setting.number),
        )

        def note(values: Mapping[str, float], steps: int) -> str | None:
            variance = values.get(f"{self.name}/reward_variance", math.inf)
            if steps < NO_SIGNAL_STEPS or variance >= NO_SIGNAL:
                return None
            return (
                f"{self.name}: no signal over {steps} steps: the variance of the reward within groups was "
                f"{variance:.1g}, so all completions of a prompt were rewarded alike; sample at a higher temperature, "
                "reward parts of an answer, or train on some right answers first"
            )

        return Terms(on_step=reinforce.loss, note=note, cycle=self.cycle)

    @property
    def cycle(self) -> int:
        """Steps that learn from the same completions"""
        return 1

    def _learner(self) -> Callable[..., Any]:
        from halflife.training.reinforce import Reinforce  # imports torch

        return Reinforce
