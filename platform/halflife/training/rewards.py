"""Rewards of completions, for policy gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from halflife.data.tokenizers import Codec
from halflife.errors import UserError, check_choice
from halflife.evaluation.targets import Item
from halflife.store.stage import Context

Score = Callable[[Any], Any]
"""`evaluation.rollouts.Rollouts` -> rewards (rows, length), float: of each token; 0 where it is not valid."""


@dataclass(frozen=True, kw_only=True)
class RewardSetting:
    """Where a reward is prepared."""

    items: Sequence[Item]
    """Prompts with their right answers; `Rollouts.items` counts them."""
    codec: Codec
    end: int | None
    """The token that ends a completion"""
    context: Context


@dataclass(frozen=True, kw_only=True)
class Reward:
    """Base of rewards: frozen dataclasses in a PolicyGradient, whose own fields may be stages.

    A reward of your own is one such class, in a module that your study imports.
    """

    def check(self, items: Sequence[Item], *, length: int, end: int | None) -> None:
        """Raises UserError when completions of at most `length` tokens, which `end` ends, cannot be rewarded."""

    def prepare(self, setting: RewardSetting) -> Score:
        raise NotImplementedError(f"{type(self).__name__} scores nothing")


@dataclass(frozen=True, kw_only=True)
class AnswerReward(Reward):
    """How right a completion is. "exact": 1 at its end if it is the item's answer, terminator included. "tokens": each
    right token gets 1 over the answer's length, at once."""

    count: Literal["exact", "tokens"] = "exact"

    def __post_init__(self) -> None:
        check_choice("count of an answer reward", self.count, get_args(Literal["exact", "tokens"]))

    def check(self, items: Sequence[Item], *, length: int, end: int | None) -> None:
        lengths = [len(item.targets) for item in items]
        never = sum(
            count > length or (count < length and item.targets[-1] != end)
            for count, item in zip(lengths, items, strict=True)
        )
        if self.count == "exact" and never:
            raise UserError(
                f"reward of exact answers given: {never} of {len(items)} are longer than a completion of {length} "
                "tokens, or shorter without the token that ends one; expected length=0 with stops=True and answers "
                "that end in it, or count='tokens'"
            )

    def prepare(self, setting: RewardSetting) -> Score:
        import torch  # only where a stage runs

        longest = max(len(item.targets) for item in setting.items)
        answers = torch.full((len(setting.items), longest), -1)
        for row, item in enumerate(setting.items):
            answers[row, : len(item.targets)] = torch.from_numpy(item.targets)

        lengths = (answers >= 0).sum(1)

        def score(rollouts: Any) -> Any:
            count = rollouts.tokens.shape[1]
            wanted = torch.nn.functional.pad(answers, (0, max(0, count - longest)), value=-1)[:, :count]
            right = (rollouts.tokens == wanted.to(rollouts.tokens.device)[rollouts.items]) & rollouts.valid
            needed = lengths.to(rollouts.tokens.device)[rollouts.items]
            if self.count == "tokens":
                return right / needed[:, None]
            return rollouts.at_end((right.sum(1) == needed) & (rollouts.valid.sum(1) == needed))

        return score
