"""Dictionaries (sparse autoencoders), described: how large, how sparse, and for which sites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from halflife.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sparsity:
    """Base of the rules that choose a dictionary's active latents: frozen dataclasses. One of your own is a class in a
    module that your study imports."""

    label: ClassVar[str]
    """In names, before k"""
    needs_threshold: ClassVar[bool] = False
    """Whether `threshold` sets one; else the k largest are active"""
    learns_threshold: ClassVar[bool] = False
    """Whether each latent's threshold is a weight, as in `JumpReLU`, with its fields `bandwidth` and `penalty`"""

    k: int
    """Active latents per vector, or their mean"""

    def chosen(self, pre: Any) -> Any:
        """While it is trained: pre-activations (dictionaries, vectors, latents) -> the places of the active ones in the
        flattened tensor, ascending by vector, int64."""
        raise NotImplementedError(f"{type(self).__name__} chooses no latents")

    def threshold(self, pre: Any) -> Any:
        """Once it is trained, so that a vector's latents do not depend on the others': above which pre-activation a
        latent is active, (dictionaries,), from pre-activations like those above."""
        raise NotImplementedError(f"{type(self).__name__} sets no threshold")


@dataclass(frozen=True, kw_only=True)
class TopK(Sparsity):
    """The k latents with the largest pre-activations of each vector (arXiv 2406.04093)."""

    label: ClassVar[str] = "top"

    def chosen(self, pre: Any) -> Any:
        import torch  # descriptions import none

        dictionaries, vectors, latents = pre.shape
        first = latents * torch.arange(dictionaries * vectors, device=pre.device).view(dictionaries, vectors, 1)
        return (pre.topk(self.k, sorted=False).indices + first).flatten()


@dataclass(frozen=True, kw_only=True)
class BatchTopK(Sparsity):
    """The k * vectors largest pre-activations of a batch (arXiv 2412.06410); then those above the threshold that leaves
    k per held-out vector."""

    label: ClassVar[str] = "batch"
    needs_threshold: ClassVar[bool] = True

    def chosen(self, pre: Any) -> Any:
        import torch

        dictionaries, vectors, latents = pre.shape
        first = vectors * latents * torch.arange(dictionaries, device=pre.device)[:, None]
        return (pre.flatten(1).topk(self.k * vectors, sorted=False).indices + first).sort().values.flatten()

    def threshold(self, pre: Any) -> Any:
        flat = pre.flatten(1)
        inactive = (pre.shape[2] - self.k) * pre.shape[1]
        below, above = (flat.kthvalue(max(1, inactive + more), dim=1).values for more in (0, 1))
        return ((below + above) / 2).clamp(min=0)  # on neither of them: another order of sums may not flip it


@dataclass(frozen=True, kw_only=True)
class JumpReLU(Sparsity):
    """Latents whose pre-activation is above a threshold, which each learns (arXiv 2407.14435): its gradient is that of
    values within a window around it. Their number is drawn to k by penalty * (mean / k - 1)^2."""

    label: ClassVar[str] = "jump"
    learns_threshold: ClassVar[bool] = True

    bandwidth: float = 0.3
    """Width of the window, where pre-activations of random rows have a standard deviation of 1"""
    penalty: float = 0.1
    """Beside the fraction of variance unexplained"""

    def __post_init__(self) -> None:
        """Raises UserError when the fields are not above 0."""
        for name in ("bandwidth", "penalty"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} {getattr(self, name)} of a JumpReLU given: expected above 0")

    def chosen(self, pre: Any) -> Any:
        """Of pre-activations less their thresholds: those above the lower end of the window."""
        return (pre.flatten() > -self.bandwidth / 2).nonzero().flatten()


@dataclass(frozen=True, kw_only=True)
class Dictionary:
    """u = x / rms(x) of each vector; u' = decoder(active latents) + bias; x' = rms(x) u'.

    A token's scale grows with depth and is not for the dictionary to learn: so one dictionary can serve all sites.
    """

    latents: int
    sparsity: Sparsity
    shared: bool = False
    """One dictionary for all sites, in place of one for each"""
    seed: int = 0
    """Of the initial weights"""

    def __post_init__(self) -> None:
        """Raises UserError when k is not from 1 to the number of latents."""
        if not 1 <= self.sparsity.k <= self.latents:
            raise UserError(
                f"k = {self.sparsity.k} of a dictionary of {self.latents} latents given: expected 1 to {self.latents}"
            )

    @property
    def name(self) -> str:
        """In points and folders, such as `1024-top16-shared-s0`."""
        shared = "-shared" if self.shared else ""
        return f"{self.latents}-{self.sparsity.label}{self.sparsity.k}{shared}-s{self.seed}"

    def count(self, sites: int) -> int:
        """Dictionaries trained for so many sites."""
        return 1 if self.shared else sites

    def parameters(self, width: int) -> int:
        """Of one dictionary."""
        return 2 * self.latents * width + self.latents + width

    def flops_per_vector(self, width: int) -> float:
        """Of a training step: the encoder's product is dense; everything after it touches k latents only."""
        return 2.0 * self.latents * width + 12.0 * self.sparsity.k * width
