"""Sparse autoencoders: many of one shape trained side by side, and one as it is used.

A training step has one dense product, the encoder's; the rest reads and writes the active latents only, forwards and
backwards, as sums of rows (`embedding_bag`). The gradients are exact: an inactive latent has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from halflife.interpret.dictionary import Sparsity
from halflife.rng import generator

Scale = Literal["rms", "layer norm", "none"]
LEAST_RMS = 1e-12
LEAST_THRESHOLD = 0.01
"""With which thresholds that are learned start, at the least"""


@dataclass(frozen=True)
class Normal:
    """Vectors in units of their own scale: values * scale + shift is what they were."""

    values: Tensor
    """(..., width)"""
    scale: Tensor | float
    """(..., 1)"""
    shift: Tensor | float = 0.0

    @classmethod
    def of(cls, x: Tensor, scale: Scale = "rms") -> Normal:
        if scale == "none":
            return cls(x, 1.0)
        shift: Tensor | float = 0.0
        if scale == "rms":
            divisor = size = (torch.linalg.vector_norm(x, dim=-1, keepdim=True) / x.shape[-1] ** 0.5).clamp(LEAST_RMS)
        else:  # as SAELens does: not divided and multiplied by quite the same
            shift, size = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
            divisor = size + 1e-5
        return cls((x - shift) / divisor, size, shift)

    def restored(self, values: Tensor) -> Tensor:
        return values * self.scale + self.shift


class Support:
    """Which latents are active: the places of (dictionaries, vectors, latents) that a `Sparsity` chose."""

    def __init__(self, places: Tensor, shape: torch.Size) -> None:
        """`places`: ascending by vector."""
        dictionaries, vectors, latents = shape
        self.places, self._latents = places, dictionaries * latents
        self._vector = places.div(latents, rounding_mode="floor")
        self.latent = places - self._vector * latents
        """(active,): of all dictionaries' latents, one after the other"""
        if dictionaries > 1:
            self.latent += self._vector.div(vectors, rounding_mode="floor") * latents
        self._starts = torch.searchsorted(self._vector, torch.arange(dictionaries * vectors, device=places.device))

    def combined(self, rows: Tensor, values: Tensor) -> Tensor:
        """Rows (latents of all, width) and values (active,) -> each vector's sum of its latents' rows times values."""
        return embedding_bag(self.latent, rows, self._starts, mode="sum", per_sample_weights=values)

    def collected(self, vectors: Tensor, values: Tensor) -> Tensor:
        """The transposed product: each latent's sum of the vectors in which it is active, times values."""
        order, starts = self._by_latent
        return embedding_bag(self._vector[order], vectors, starts, mode="sum", per_sample_weights=values[order])

    @cached_property
    def _by_latent(self) -> tuple[Tensor, Tensor]:
        ordered, order = self.latent.sort(stable=True)
        return order, torch.searchsorted(ordered, torch.arange(self._latents, device=ordered.device))


class _Encode(torch.autograd.Function):
    """The pre-activations of active latents, computed before among all: rows of x times rows of the encoder + bias."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, encoder: Tensor, bias: Tensor, values: Tensor, support: Support) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x, encoder)
        ctx.support = support
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, encoder = ctx.saved_tensors
        support: Support = ctx.support
        to_x = support.combined(encoder, gradient) if ctx.needs_input_grad[0] else None
        to_bias = gradient.new_zeros(len(encoder)).index_add_(0, support.latent, gradient)
        return to_x, support.collected(x, gradient), to_bias, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, decoder: Tensor, support: Support) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(values, decoder)
        ctx.support = support
        return support.combined(decoder, values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, decoder = ctx.saved_tensors
        support: Support = ctx.support
        with torch.enable_grad():  # torch's own kernel for the products of pairs of rows
            weights = values.detach().requires_grad_()
            (to_values,) = torch.autograd.grad(support.combined(decoder.detach(), weights), weights, gradient)
        return to_values, support.collected(gradient, values), None


class _Jump(torch.autograd.Function):
    """values, where they are above their latents' thresholds, and whether they are. Straight-through estimates of the
    thresholds' gradients by a rectangular kernel (arXiv 2407.14435, equations 11 and 12)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        active = (values > threshold).to(values)
        ctx.save_for_backward(values, threshold, active)
        ctx.bandwidth = bandwidth
        return values * active, active

    @staticmethod
    def backward(ctx: Any, to_values: Tensor, to_active: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        values, threshold, active = ctx.saved_tensors
        kernel = ((values - threshold).abs() < ctx.bandwidth / 2).to(values) / ctx.bandwidth
        return to_values * active, -kernel * (threshold * to_values + to_active), None


class Autoencoders(nn.Module):
    """Sparse autoencoders of one shape, which do not affect one another."""

    def __init__(
        self,
        width: int,
        latents: int,
        sparsity: Sparsity,
        seeds: Sequence[int],
        *,
        dead_after: int,
        variance_gradient: bool = True,
    ) -> None:
        """One for each seed. `dead_after`: vectors without firing after which a latent counts as dead."""
        super().__init__()
        self.sparsity, self.dead_after, self.variance_gradient = sparsity, dead_after, variance_gradient
        drawn = [generator(seed, "dictionary").standard_normal((latents, width), dtype=np.float32) for seed in seeds]
        decoder = torch.from_numpy(np.stack(drawn))
        self.decoder = nn.Parameter(decoder / decoder.norm(dim=-1, keepdim=True))
        self.encoder = nn.Parameter(self.decoder.detach().clone())
        self.encoder_bias = nn.Parameter(torch.zeros(len(seeds), latents))
        self.decoder_bias = nn.Parameter(torch.zeros(len(seeds), width))
        self.log_threshold: nn.Parameter | None = None
        if sparsity.learns_threshold:  # at which k of the first pre-activations, of random rows, are active
            above = NormalDist().inv_cdf(1 - sparsity.k / (latents + 1))
            started = torch.full((len(seeds), latents), max(above, LEAST_THRESHOLD))
            self.log_threshold = nn.Parameter(started.log())
        self.register_buffer("since", torch.zeros(len(seeds), latents))  # vectors since each latent last fired
        self.since: Tensor
        self.decoder.register_hook(self._tangential)

    def _tangential(self, gradient: Tensor) -> Tensor:
        """Without the part along the decoder's rows: their norm is fixed (arXiv 2309.08600)."""
        rows = self.decoder.detach()
        return gradient - (gradient * rows).sum(-1, keepdim=True) * rows

    def after_step(self) -> None:
        with torch.no_grad():
            self.decoder /= self.decoder.norm(dim=-1, keepdim=True)

    @property
    def alive(self) -> Tensor:
        """(dictionaries,): the share of latents that have fired lately."""
        return (self.since < self.dead_after).float().mean(1)

    def losses(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised vectors (dictionaries, sites, vectors, width) -> the fraction of variance unexplained
        (dictionaries, sites), the auxiliary loss of dead latents (dictionaries,), and the penalty of thresholds that
        are learned (dictionaries,). Counts who fired."""
        flat = u.flatten(1, 2)
        with torch.no_grad():
            pre = self._pre(flat)
            margin = pre if self.log_threshold is None else pre - self.log_threshold.exp()[:, None]
            support = Support(self.sparsity.chosen(margin), pre.shape)
        values, penalty = self._active(self._values(flat, pre, support), support, flat)
        error = u - self._decoded(values, support, flat.shape).view_as(u)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.variance_gradient):
            variance = (u - u.mean(2, keepdim=True)).square().sum((2, 3))
        # The variance's gradient flows: else a model gains by one huge constant vector, after which every normalised
        # stream is alike and the error vanishes (`analysis.checks.dictionaries` tells it).
        unexplained = error.square().sum((2, 3)) / variance
        auxiliary = self._auxiliary(flat.detach(), pre, error.detach().flatten(1, 2), unexplained)
        with torch.no_grad():
            fired = torch.zeros_like(self.since, dtype=torch.bool)
            fired.view(-1)[support.latent[values > 0]] = True
            self.since += u.shape[2]
            self.since.masked_fill_(fired, 0)
        return unexplained, auxiliary, penalty

    def inference(self, number: int, held_out: Tensor) -> Autoencoder:
        """One of them, as it is used. `held_out`: normalised vectors (rows, width), from which a threshold is set."""
        one = [part[number].detach() for part in self._parts]
        threshold = None
        if self.sparsity.needs_threshold:
            with torch.no_grad():
                pre = (held_out - one[3]) @ one[0].T + one[1]
                threshold = self.sparsity.threshold(pre[None])
        elif self.log_threshold is not None:
            threshold = self.log_threshold.detach()[number].exp()
        return Autoencoder(*one, k=self.sparsity.k, threshold=threshold)

    @property
    def _parts(self) -> tuple[Tensor, ...]:
        return self.encoder, self.encoder_bias, self.decoder, self.decoder_bias

    def _bias(self) -> Tensor:
        """(dictionaries, latents): the decoder's bias is taken off the input."""
        return self.encoder_bias - (self.encoder @ self.decoder_bias[..., None]).squeeze(-1)

    def _pre(self, u: Tensor) -> Tensor:
        return torch.baddbmm(self._bias()[:, None], u, self.encoder.mT)

    def _values(self, u: Tensor, pre: Tensor, support: Support) -> Tensor:
        values = pre.view(-1).index_select(0, support.places)
        rows, encoder = u.reshape(-1, u.shape[-1]), self.encoder.flatten(0, 1)
        return _Encode.apply(rows, encoder, self._bias().flatten(), values, support)  # pyright: ignore[reportReturnType]

    def _active(self, values: Tensor, support: Support, like: Tensor) -> tuple[Tensor, Tensor]:
        """Pre-activations of the support as activations, and the penalty of each dictionary."""
        none = like.new_zeros(len(like))
        if self.log_threshold is None:
            return values.relu(), none
        rule: Any = self.sparsity
        jumped: Any = _Jump.apply(values, self.log_threshold.exp().flatten()[support.latent], rule.bandwidth)
        which = support.latent.div(self.decoder.shape[1], rounding_mode="floor")
        mean = none.index_add(0, which, jumped[1]) / like.shape[1]
        return jumped[0], rule.penalty * (mean / rule.k - 1).square()

    def _decoded(self, values: Tensor, support: Support, shape: torch.Size) -> Tensor:
        decoded: Any = _Decode.apply(values, self.decoder.flatten(0, 1), support)
        return decoded.view(shape) + self.decoder_bias[:, None]

    def _auxiliary(self, u: Tensor, pre: Tensor, error: Tensor, like: Tensor) -> Tensor:
        """How well the dead latents that come nearest to firing would explain the error (AuxK, arXiv 2406.04093), in
        units of the error. Without the rectifier, as SAELens does: a latent far below 0 is revived too."""
        dead = self.since >= self.dead_after
        counts = dead.sum(1)
        if not counts.any():
            return like.new_zeros(len(like))
        with torch.no_grad():
            k = min(u.shape[-1] // 2, pre.shape[2])
            masked = pre.masked_fill(~dead[:, None], -torch.inf)
            places = masked.topk(k, sorted=False).indices + (
                torch.arange(pre[..., 0].numel(), device=pre.device).view(*pre.shape[:2], 1) * pre.shape[2]
            )
            places = places.flatten()
            support = Support(places[masked.view(-1)[places] > -torch.inf], pre.shape)
        values = self._values(u, pre, support)
        explained = self._decoded(values, support, error.shape) - self.decoder_bias[:, None]
        found = (explained - error).square().sum((1, 2)) / error.square().sum((1, 2)).clamp(min=1e-12)
        return torch.where(counts > 0, found * (counts / k).clamp(max=1), 0.0)


@dataclass(frozen=True)
class Autoencoder:
    """One sparse autoencoder, trained: x -> codes -> reconstruction. No gradient is kept for its weights."""

    encoder: Tensor
    """(latents, width)"""
    encoder_bias: Tensor
    """(latents,)"""
    decoder: Tensor
    """(latents, width)"""
    decoder_bias: Tensor
    """(width,)"""
    k: int | None = None
    """The k largest pre-activations of a vector are active, where there is no threshold."""
    threshold: Tensor | None = None
    """(latents,) or (1,): a latent is active above it, and above 0."""
    scale: Scale = "rms"
    centred: bool = True
    """Whether the decoder's bias is taken off the input"""

    def codes(self, x: Tensor) -> tuple[Tensor, Normal]:
        """Vectors (..., width) -> their latents (..., latents), most of them 0, and the vectors as they were scaled."""
        normal = Normal.of(x, self.scale)
        u = normal.values - self.decoder_bias if self.centred else normal.values
        pre = u @ self.encoder.T + self.encoder_bias
        if self.threshold is not None:
            return pre.relu() * (pre > self.threshold), normal
        assert self.k is not None
        top = pre.topk(self.k, sorted=False)
        return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu()), normal

    def decoded(self, codes: Tensor, normal: Normal) -> Tensor:
        return normal.restored(codes @ self.decoder + self.decoder_bias)

    def __call__(self, x: Tensor) -> Tensor:
        """The reconstruction of vectors (..., width), of their type."""
        return self.decoded(*self.codes(x.float())).to(x)

    def to(self, device: torch.device | str) -> Autoencoder:
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Autoencoder(**{**vars(self), **moved})


@dataclass(frozen=True)
class ScaledFeatures:
    """A change for `models.hooks.edited`: some features times a factor, and all else of x as it is."""

    autoencoder: Autoencoder
    features: Sequence[int]
    factor: float

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        codes, normal = self.autoencoder.codes(x.float())
        chosen = list(self.features)
        part = codes[..., chosen] @ self.autoencoder.decoder[chosen]
        return x + ((self.factor - 1) * part * normal.scale).to(x)
