"""A companion as it trains beside a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from halflife.models.model import Model
from halflife.rng import seed_of
from halflife.training.companion import PREFIX, Companion
from halflife.training.seen import Metrics, Seen


class Attached:
    """The module, its optimizer and its part of the checkpoints."""

    def __init__(self, companion: Companion, model: Model, seed: int) -> None:
        self.companion = companion
        self.module: nn.Module = companion.build(
            model.architecture.width, seed_of(seed, "companion", companion.name)
        ).to(next(model.parameters()).device)
        self.sites = companion.sites
        self.prefix = f"{PREFIX}{companion.name}."
        described = companion.optimizer
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(),
            lr=described.learning_rate,
            betas=(described.beta1, described.beta2),
            eps=described.epsilon,
            weight_decay=described.weight_decay,
            fused=True,
        )

    def loss(self, seen: Seen) -> Tensor:
        """Its share of the mean over the global batch. The model's gradient of it is `strength` times its own."""
        strength = self.companion.strength
        activations = {site: seen.activations[site].float() for site in self.sites}  # parts of blocks may be bf16
        activations = {
            site: _Scaled.apply(found, strength) if strength else found.detach() for site, found in activations.items()
        }
        metrics = Metrics()
        loss = self.module(activations, metrics)
        for name, value in {"loss": loss, **metrics.values}.items():
            seen.log(f"{self.companion.name}/{name}", value.detach() * seen.share)
        return loss * seen.share

    def clear(self) -> None:
        self.optimizer.zero_grad()

    def step(self, lr_multiplier: float) -> None:
        nn.utils.clip_grad_norm_(self.module.parameters(), self.companion.max_grad_norm, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self.companion.optimizer.learning_rate * lr_multiplier
        self.optimizer.step()
        after: Any = getattr(self.module, "after_step", None)
        if after is not None:
            with torch.no_grad():
                after()

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return chain(self.module.named_parameters(), self.module.named_buffers())

    def weights(self) -> dict[str, Tensor]:
        return {self.prefix + name: tensor.detach() for name, tensor in self._tensors()}

    def optimizer_state(self) -> dict[str, Tensor]:
        """By `<slot>.companion.<name>.<parameter>`."""
        return {
            f"{slot}.{self.prefix}{name}": value
            for name, parameter in self.module.named_parameters()
            for slot, value in self.optimizer.state.get(parameter, {}).items()
        }

    def load(self, weights: Mapping[str, Tensor] | None, optimizer: Mapping[str, Tensor] | None) -> None:
        """Continue from a checkpoint, as far as it has this companion."""
        for name, tensor in self._tensors():
            if weights is not None and self.prefix + name in weights:
                with torch.no_grad():
                    tensor.copy_(weights[self.prefix + name])
        for name, parameter in self.module.named_parameters():
            slots = {
                key.split(".", 1)[0]: value
                for key, value in (optimizer or {}).items()
                if key.split(".", 1)[1] == self.prefix + name
            }
            if slots:
                self.optimizer.state[parameter] = {slot: value.to(parameter.device) for slot, value in slots.items()}


class _Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.factor * gradient, None
