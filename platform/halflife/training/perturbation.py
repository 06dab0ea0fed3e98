"""Attacks on activations: perturbations inside a ball, found by projected gradient descent, and the loss under them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from halflife.evaluation.targets import Item
from halflife.models.hooks import edited
from halflife.models.model import Model
from halflife.models.sites import Site
from halflife.rng import generator
from halflife.training.seen import Metrics

LEAST_NORM = 1e-20
"""Of a gradient or a perturbation that is divided by its norm: squares of smaller numbers are 0 in float32."""


class AttackLoss:
    """Loss of the right answers under the attack found, as a function of the model and the step. See
    `training.latent_attack.LatentAttack` for the equations."""

    def __init__(
        self,
        right: Sequence[Item],
        wrong: Sequence[Item] | None,
        *,
        sites: Sequence[Site],
        radius: float,
        steps: int,
        step_size: float,
        random: bool,
        strength: float,
        batch: int,
        key: tuple[int | str, ...],
        device: torch.device | str,
    ) -> None:
        """`wrong` has the prompts of `right`, in their order; `key` draws each step's items and random start."""
        self.right, self.wrong = Padded.of(right), None if wrong is None else Padded.of(wrong)
        self.sites, self.radius, self.steps, self.step_size, self.random = sites, radius, steps, step_size, random
        self.strength, self.batch, self.key, self.device = strength, batch, key, device

    def __call__(self, model: Model, step: int, metrics: Metrics) -> Tensor:
        """strength x nats per answer token."""
        index = generator(*self.key, step).permutation(len(self.right.tokens))[: self.batch]
        right = self.right.take(index, self.device)
        found = self.attack(model, index, step, metrics) if self.radius else {}
        with edited(model, found):
            loss = right.loss(model)
        metrics.log("latent-attack/loss", loss)
        if found and self.wrong is None:
            metrics.log("latent-attack/end_loss", loss)
        return loss if self.strength == 1 else self.strength * loss

    def attack(self, model: Model, index: np.ndarray, step: int, metrics: Metrics) -> dict[Site, Perturbation]:
        """The perturbations that the attacker ends with, for the items at `index`. Changes no gradient of a weight."""
        texts = (self.right if self.wrong is None else self.wrong).take(index, self.device)
        descent = -self.step_size if self.wrong is None else self.step_size
        found = {
            site: Perturbation(
                texts.prompt, self.radius, generator(*self.key, step, site.name) if self.random else None
            )
            for site in self.sites
        }
        with _held(model), edited(model, found):
            for number in range(self.steps):
                loss = texts.loss(model)
                if number == 0:
                    metrics.log("latent-attack/start_loss", loss)
                with torch.autocast(texts.tokens.device.type, enabled=False):  # a backward pass has its own types
                    gradients = torch.autograd.grad(loss, [each.value for each in found.values()])
                for each, gradient in zip(found.values(), gradients, strict=True):
                    each.step(gradient, descent)
            if self.wrong is not None:
                with torch.no_grad():
                    metrics.log("latent-attack/end_loss", texts.loss(model))
        for each in found.values():
            each.value = each.value.detach()
        return found


class Perturbation:
    """What is added to the activations of one site: a change for `models.hooks.edited`."""

    bound: Tensor
    """Scalar: the radius of each token's ball, measured in the first forward pass"""
    value: Tensor
    """(rows, longest prompt, width), from the first forward pass on; 0 where no prompt is"""

    def __init__(self, prompt: Tensor, radius: float, rng: np.random.Generator | None) -> None:
        """`prompt` (rows, longest prompt) bool: the tokens to attack. `rng` draws the start; None: it is 0."""
        self.prompt, self.radius, self.rng = prompt, radius, rng

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        longest = self.prompt.shape[1]
        if not hasattr(self, "value"):
            norms = torch.linalg.vector_norm(x.detach()[:, :longest].float(), dim=-1)
            self.bound = self.radius * (norms * self.prompt).sum() / self.prompt.sum()
            self.value = self._start(x.shape[-1]).requires_grad_()
        return x + F.pad(self.value, (0, 0, 0, x.shape[1] - longest)).to(x)

    def step(self, gradient: Tensor, size: float) -> None:
        """Down the gradient by `size` balls' radii, or up where it is negative, and back into the ball."""
        with torch.no_grad():
            moved = self.value - size * self.bound * gradient / _norms(gradient)
            inside = (self.bound / _norms(moved)).clamp(max=1) * self.prompt[..., None]
            self.value = (moved * inside).requires_grad_()

    def _start(self, width: int) -> Tensor:
        shape, device = (*self.prompt.shape, width), self.prompt.device
        if self.rng is None:
            return torch.zeros(shape, device=device)
        normal = torch.from_numpy(self.rng.standard_normal(shape, dtype=np.float32)).to(device)
        distance = torch.from_numpy(self.rng.random((*shape[:-1], 1), dtype=np.float32)).to(device)
        return self.bound * distance * self.prompt[..., None] * normal / _norms(normal)


@dataclass(frozen=True)
class Padded:
    """Items as right-padded rows, on the CPU."""

    tokens: np.ndarray
    """(items, longest) int64"""
    targets: np.ndarray
    """(items, longest) int64: the token to predict there; -1 where none is"""
    lengths: np.ndarray
    """(items,)"""
    prompts: np.ndarray
    """(items,) tokens before the answer"""

    @classmethod
    def of(cls, items: Sequence[Item]) -> Padded:
        lengths = np.array([len(item.tokens) for item in items])
        tokens = np.zeros((len(items), lengths.max()), dtype=np.int64)
        targets = np.full_like(tokens, -1)
        for row, item in enumerate(items):
            tokens[row, : len(item.tokens)] = item.tokens
            targets[row, item.after - 1] = item.targets
        return cls(tokens, targets, lengths, np.array([item.answer for item in items]))

    def take(self, index: np.ndarray, device: torch.device | str) -> Texts:
        """The items at `index`, cut to the longest among them."""
        longest, prompts = self.lengths[index].max(), self.prompts[index]
        targets = self.targets[index, :longest].reshape(-1)
        (scored,) = (targets >= 0).nonzero()
        prompt = np.arange(prompts.max()) < prompts[:, None]
        return Texts(
            *(
                torch.from_numpy(part).to(device)
                for part in (self.tokens[index, :longest], scored, targets[scored], prompt)
            )
        )


@dataclass(frozen=True)
class Texts:
    """A step's prompts and answers, on the device."""

    tokens: Tensor
    """(rows, longest) int64, right-padded"""
    scored: Tensor
    """(targets,) int64: places in the flattened rows"""
    targets: Tensor
    """(targets,) int64: the tokens to predict there"""
    prompt: Tensor
    """(rows, longest prompt) bool"""

    def loss(self, model: Model) -> Tensor:
        """Nats per target, differentiable."""
        hidden = model.hidden(model.embed(self.tokens)).flatten(0, 1).index_select(0, self.scored)
        return F.cross_entropy(model.logits(hidden).float(), self.targets)


def _norms(vectors: Tensor) -> Tensor:
    """(..., width) -> (..., 1), never 0."""
    return torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp(min=LEAST_NORM)


@contextmanager
def _held(model: Model) -> Iterator[None]:
    """In evaluation mode, with no gradient for any weight, which halves a backward pass; as before afterwards."""
    training, trained = model.training, [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter in trained:
            parameter.requires_grad_(True)
