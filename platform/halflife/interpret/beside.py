"""The module of a `DictionaryCompanion`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from halflife.interpret.autoencoder import Autoencoders, Normal
from halflife.interpret.dictionary import Dictionary
from halflife.models.sites import Site
from halflife.rng import seed_of
from halflife.training.seen import Metrics


class Beside(Autoencoders):
    """One dictionary for all sites, or one for each, in the order of the sites."""

    def __init__(
        self,
        dictionary: Dictionary,
        sites: Sequence[Site],
        width: int,
        seed: int,
        *,
        dead_after: int,
        auxiliary: float,
        variance_gradient: bool,
        frozen: bool = False,
    ) -> None:
        parts = ["all"] if dictionary.shared else [site.name for site in sites]
        super().__init__(
            width,
            dictionary.latents,
            dictionary.sparsity,
            [seed_of(seed, dictionary.seed, part) for part in parts],
            dead_after=dead_after,
            variance_gradient=variance_gradient,
        )
        self.shared, self.sites, self.auxiliary = dictionary.shared, sites, auxiliary
        self.requires_grad_(not frozen)

    def forward(self, activations: Mapping[Site, Tensor], metrics: Metrics) -> Tensor:
        """Activations by site, each (rows, length, width) -> the loss."""
        normal = Normal.of(torch.stack([activations[site].flatten(0, 1) for site in self.sites]))
        u = normal.values
        fvu, auxiliary, penalty = self.losses(u[None] if self.shared else u[:, None])
        self._log(fvu.detach().flatten(), normal, metrics)
        return fvu.mean() + self.auxiliary * auxiliary.mean() + penalty.mean()

    def _log(self, fvu: Tensor, normal: Normal, metrics: Metrics) -> None:
        metrics.log("fvu", fvu.mean())
        metrics.log("alive", self.alive.mean())
        assert isinstance(normal.scale, Tensor)
        for number, site in enumerate(self.sites):
            metrics.log(f"fvu-{site.name}", fvu[number])
            metrics.log(f"rms-{site.name}", normal.scale[number].detach().square().mean().sqrt())
        if len(fvu) > 1:
            u = normal.values.detach()
            metrics.log("adjacent_cosine", (u[1:] * u[:-1]).sum(-1).mean() / u.shape[-1])
