"""Policy gradients: `training.policy_gradient` as functions of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halflife.evaluation.rollouts import Rollouts, log_probabilities, sample
from halflife.evaluation.scoring import evaluating
from halflife.models.model import Model
from halflife.rng import generator
from halflife.training.rewards import Score
from halflife.training.seen import Metrics


class Reinforce:
    def __init__(
        self,
        described: Any,
        prompts: Sequence[np.ndarray],
        score: Score,
        *,
        length: int,
        end: int | None,
        vocabulary: int,
        reference: Model | None,
        key: tuple[int | str, ...],
    ) -> None:
        """`described`: a `training.policy_gradient.PolicyGradient`."""
        self.of, self.prompts, self.score, self.length, self.end = described, prompts, score, length, end
        self.reference, self.key = reference, key
        self.policy = {"temperature": described.temperature, "vocabulary": vocabulary}

    def loss(self, model: Model, batch: Tensor, step: int, metrics: Metrics) -> Tensor:
        """Its gradient is strength times that of -(mean return of a completion + entropy)."""
        rollouts, rewards, before = self.experience(model, step)
        return self.update(model, rollouts, rewards, before, metrics)

    def experience(self, model: Model, step: int) -> tuple[Rollouts, Tensor, Tensor | None]:
        """Completions, their rewards (rows, length), and log p_0 of their tokens, of that shape, with beta."""
        rng = generator(*self.key, step)
        count = min(self.of.prompts, len(self.prompts))
        chosen = np.sort(rng.permutation(len(self.prompts))[:count])
        draws = rng.random((self.of.group, count, self.length))
        with evaluating(model):
            rollouts = sample(model, self.prompts, chosen, draws, end=self.end, **self.policy)
            rewards = torch.where(rollouts.valid, self.score(rollouts).float(), 0.0)
            before = self._own(self.reference, rollouts)[0] if self.reference is not None else None
        return rollouts, rewards, before

    def update(
        self, model: Model, rollouts: Rollouts, rewards: Tensor, before: Tensor | None, metrics: Metrics
    ) -> Tensor:
        own, entropy = self._own(model, rollouts)
        values, advantages = self.advantages(rollouts, rewards, own.detach(), before)
        self.log(metrics, values, entropy)
        gained = (advantages * own * rollouts.valid).sum(1).mean() + self.of.entropy * entropy.mean()
        return -self.of.strength * gained

    def advantages(
        self, rollouts: Rollouts, rewards: Tensor, own: Tensor, before: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What is logged of completions with log-probabilities `own`, and the advantages of their tokens, both of the
        shape (rows, length)."""
        returns, values = rewards, {}
        if before is not None:
            divergence = (own - before) * rollouts.valid
            returns = rewards - self.of.beta * divergence
            values["kl"] = divergence.sum(1).mean()
        if self.of.advantage == "reward-to-go":
            advantages = leave_one_out(to_go(returns, self.of.discount), rollouts)
        else:
            advantages = group_relative(to_go(returns, self.of.discount)[:, 0], rollouts)
        spread = rollouts.by_group(rewards.sum(1)).var(0, correction=0).mean()
        length = rollouts.valid.sum(1).float().mean()
        return {**values, "reward": rewards.sum(1).mean(), "reward_variance": spread, "length": length}, advantages

    def log(self, metrics: Metrics, values: Mapping[str, Tensor], entropy: Tensor) -> None:
        for measure, value in {**values, "entropy": entropy.mean()}.items():
            metrics.log(f"{self.of.name}/{measure}", value)

    def _own(self, model: Model, rollouts: Rollouts) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the sampled tokens (rows, length), and the policy's entropy summed over each
        completion (rows,)."""
        logprobs = log_probabilities(model, rollouts, **self.policy)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.of.entropy > 0):
            entropy = -(logprobs.exp() * logprobs).sum(-1)
        return logprobs.gather(-1, rollouts.tokens[..., None])[..., 0], (entropy * rollouts.valid).sum(1)


@dataclass(frozen=True)
class _Kept:
    rollouts: Rollouts
    own: Tensor
    """(rows, length): log-probabilities by the policy that wrote them"""
    advantages: Tensor
    values: dict[str, Tensor]


class Proximal(Reinforce):
    """Of a `training.proximal_policy.ProximalPolicy`: completions of a cycle's first step are learned from at all."""

    kept: _Kept | None = None

    def loss(self, model: Model, batch: Tensor, step: int, metrics: Metrics) -> Tensor:
        at = step % self.of.cycle
        if at == 0:
            self.kept = self._experience(model, step)
        kept = self.kept
        assert kept is not None, "training resumes at the beginning of a cycle"
        epoch, part = divmod(at, self.of.minibatches)
        order = generator(self.of.order, "order", *self.key, step - at, epoch).permutation(len(kept.own))
        rows = torch.from_numpy(np.sort(order[part :: self.of.minibatches])).to(kept.own.device)
        rollouts = kept.rollouts.chosen(rows)
        own, entropy = self._own(model, rollouts)
        ratio, advantages = (own - kept.own[rows]).exp(), kept.advantages[rows]
        within = ratio.clamp(1 - self.of.clip, 1 + self.of.clip)
        gained = torch.minimum(ratio * advantages, within * advantages) * rollouts.valid
        clipped = ((ratio != within) & rollouts.valid).sum() / rollouts.valid.sum()
        self.log(metrics, {**kept.values, "clipped": clipped}, entropy)
        return -self.of.strength * (gained.sum(1).mean() + self.of.entropy * entropy.mean())

    def _experience(self, model: Model, step: int) -> _Kept:
        rollouts, rewards, before = self.experience(model, step)
        with evaluating(model):
            own, _ = self._own(model, rollouts)
        values, advantages = self.advantages(rollouts, rewards, own, before)
        return _Kept(rollouts, own, advantages, values)


def to_go(rewards: Tensor, discount: float) -> Tensor:
    """(rows, length) -> sum over s >= t of discount^(s - t) rewards_s."""
    if discount == 1:
        return rewards.flip(1).cumsum(1).flip(1)
    place = torch.arange(rewards.shape[1], device=rewards.device, dtype=torch.float64)
    lag = (place[:, None] - place).clamp_min(0)
    weights = torch.where(place[:, None] >= place, discount**lag, 0.0)
    return (rewards.double() @ weights).float()


def leave_one_out(returns: Tensor, rollouts: Rollouts) -> Tensor:
    """Returns to go (rows, length) less their mean over the other completions of the prompt that reach the position;
    where no other does, less the mean of the others' whole returns. Completions that are all alike get exactly 0."""
    grouped, valid = rollouts.by_group(returns), rollouts.by_group(rollouts.valid)
    # differences from one completion's return, so that equal returns give exactly 0: Adam would make a step of the rest
    first = valid.byte().argmax(0, keepdim=True)
    reached = (grouped - grouped.gather(0, first)) * valid
    others = valid.sum(0) - 1
    whole = grouped[:, :, :1] - grouped[:1, :, :1]
    alone = grouped - grouped[:1, :, :1] - (whole.sum(0) - whole) / (rollouts.group - 1)
    together = reached - (reached.sum(0) - reached) / others.clamp_min(1)
    return torch.where(others > 0, together, alone).flatten(0, 1)


def group_relative(returns: Tensor, rollouts: Rollouts) -> Tensor:
    """Each completion's return (rows,) less its group's mean, over its group's standard deviation: (rows, length)."""
    grouped = rollouts.by_group(returns)
    centered = grouped - grouped[:1]
    centered = centered - centered.mean(0)
    scaled = centered / (centered.square().mean(0).sqrt() + 1e-6)
    return scaled.flatten()[:, None].expand_as(rollouts.tokens)
