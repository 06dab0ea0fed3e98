"""Losses between the predictions of a model and of a fine-tuned one, whose gradients are attributed to features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class ChangeLoss:
    """Base of losses L between two models' logits: frozen dataclasses. One of your own is a class in a module that your
    study imports.

    A loss has a metric in which changes of logits have a length. It is the covariance of `noise`, so that the mean
    square of <noise, change> is the squared length.
    """

    name: ClassVar[str]

    def value(self, logits: Any, tuned: Any) -> Any:
        """Logits (..., vocabulary) of both -> the loss (...). Its gradient is that with respect to `logits`."""
        raise NotImplementedError(f"{type(self).__name__} has no value")

    def noise(self, logits: Any, random: Any) -> Any:
        """A random direction in logits, from a torch generator."""
        import torch  # descriptions import none

        return centred(torch.randn(logits.shape, generator=random).to(logits))

    def size(self, logits: Any, direction: Any) -> Any:
        """The squared length of u = -dL/dlogits as a functional: the most of <u, change>^2 among changes of length 1,
        summed over positions."""
        return direction.square().sum()


@dataclass(frozen=True, kw_only=True)
class DotProduct(ChangeLoss):
    """-<b, logits> with b = tuned - logits held fixed, both centred, as a common shift predicts nothing."""

    name: ClassVar[str] = "dot"

    def value(self, logits: Any, tuned: Any) -> Any:
        return -(centred(tuned - logits).detach() * centred(logits)).sum(-1)


@dataclass(frozen=True, kw_only=True)
class SquaredError(ChangeLoss):
    """|tuned - logits|^2 / 2, centred. Its gradient is that of `DotProduct`, so that both give the same scores."""

    name: ClassVar[str] = "mse"

    def value(self, logits: Any, tuned: Any) -> Any:
        return centred(tuned - logits).square().sum(-1) / 2


@dataclass(frozen=True, kw_only=True)
class Divergence(ChangeLoss):
    """KL(tuned || model) in nats. Its metric is the model's Fisher information, so that a change counts by how much
    it moves the predictions."""

    name: ClassVar[str] = "kl"

    def value(self, logits: Any, tuned: Any) -> Any:
        target = tuned.detach().log_softmax(-1)
        return (target.exp() * (target - logits.log_softmax(-1))).sum(-1)

    def noise(self, logits: Any, random: Any) -> Any:
        """onehot(y) - p with y drawn from p: of covariance diag(p) - p p^T."""
        import torch

        p = logits.softmax(-1)
        drawn = torch.multinomial(p.flatten(0, -2).cpu(), 1, generator=random).to(p.device).view(*p.shape[:-1], 1)
        return -p.scatter_add(-1, drawn, -torch.ones_like(p[..., :1]))

    def size(self, logits: Any, direction: Any) -> Any:
        return (direction.square() / logits.softmax(-1).clamp(min=1e-12)).sum()


def centred(logits: Any) -> Any:
    return logits - logits.mean(-1, keepdim=True)
