"""What a dictionary's features mean, and whether they mean the same at several sites: functions of latents and labels.

`fires` (vectors, latents) is 0 or 1; `labels` (vectors, concepts) too. Sites are the first axis where there are
several. Firing mass, not the number of features, weighs what is averaged over features: dead and rare ones would rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

LEVELS = (0.0, 0.2, 0.4, 0.6)
"""Thresholds that are tried, as shares of a latent's largest activation"""
RIDGE = 1e-3
"""Of linear probes, in units of the variance of a stream's elements"""
PRESENT = 0.5
"""F1 of a linear probe, half-way from always saying yes to perfect, from which on a concept counts as present at a
site. Its AUC would not tell: of a pair of symbols it is 0.94 by the second one alone, whose F1 is 0.2."""
FEWEST = 20
"""Examples and counterexamples that a concept needs in both parts of the text"""


def f1(active: Tensor, labels: Tensor) -> Tensor:
    """(latents, concepts): the F1 of each latent's firing as a sign of each concept, above that of always saying yes
    and over what is left, so that frequent concepts are not easy: 0 says nothing, 1 is the concept."""
    return _above_always(active.T @ labels, active.sum(0)[:, None], labels)


def f1_of(active: Tensor, labels: Tensor) -> Tensor:
    """(concepts,): the same of one sign for each concept, (rows, concepts)."""
    return _above_always((active * labels).sum(0), active.sum(0), labels)


def _above_always(both: Tensor, active: Tensor, labels: Tensor) -> Tensor:
    found = 2 * both / (active + labels.sum(0)).clamp(min=1)
    share = labels.mean(0)
    always = 2 * share / (1 + share)
    return (found - always) / (1 - always).clamp(min=1e-12)


@dataclass(frozen=True)
class Detectors:
    """For each concept, the latent and the threshold that are its best sign."""

    latents: Tensor
    """(concepts,)"""
    thresholds: Tensor
    """(concepts,)"""

    @classmethod
    def chosen(cls, codes: Tensor, labels: Tensor) -> Detectors:
        """From latents' activations (vectors, latents)."""
        tried = torch.tensor(LEVELS, device=codes.device)[:, None] * codes.amax(0)
        found = torch.stack([f1((codes > level).float(), labels) for level in tried])
        best, latent = found.amax(0).max(0)
        level = (found[:, latent, torch.arange(len(latent), device=codes.device)] == best).float().argmax(0)
        return cls(latent, tried[level, latent])

    def specificity(self, codes: Tensor, labels: Tensor) -> Tensor:
        """(concepts,): their F1 on other text than that which chose them; else more latents would seem better."""
        active = (codes[:, self.latents] > self.thresholds).float()
        return f1_of(active, labels)


def countable(*parts: Tensor) -> Tensor:
    """(concepts,): which concepts have enough examples in all these labels."""
    enough = [(part.sum(0) >= FEWEST) & ((1 - part).sum(0) >= FEWEST) for part in parts]
    return torch.stack(enough).all(0)


def probed(u: Tensor, labels: Tensor, other: Tensor, other_labels: Tensor) -> Tensor:
    """(concepts,): F1 on other vectors, as of features, of linear probes: ridge regressions, all concepts at once, each
    with the threshold that was best where it was fitted."""
    mean, target = u.mean(0), labels.mean(0)
    x = u - mean
    ridge = RIDGE * len(x) * x.square().mean() * torch.eye(x.shape[1], device=x.device)
    weights = torch.linalg.solve(x.T @ x + ridge, x.T @ (labels - target))
    scores, order = (x @ weights).sort(0, descending=True)
    found = labels.gather(0, order).cumsum(0)
    taken = torch.arange(1, len(x) + 1, device=x.device)[:, None]
    best = (found / (taken + labels.sum(0))).argmax(0)
    active = ((other - mean) @ weights >= scores.gather(0, best[None])).float()
    return f1_of(active, other_labels)


def participation(u: Tensor) -> float:
    """The participation ratio of vectors (rows, width): how many dimensions hold their variance."""
    values = torch.linalg.eigvalsh(torch.cov(u.T.double())).clamp(min=0)
    return float(values.sum() ** 2 / values.square().sum())


def persistence(fires: Tensor) -> tuple[float, float]:
    """Fires (sites, vectors, latents), in the order of the sites -> of a feature that fires at a site, the probability
    that it fires for the same token at the next one; and the same with the tokens of the next one permuted."""
    now, then = fires[:-1], fires[1:]
    mass = now.sum()
    return float((now * then).sum() / mass), float((now.sum(1) * then.mean(1)).sum() / mass)


@dataclass(frozen=True)
class Spread:
    """Over which sites features fire, from activations (sites, vectors, latents)."""

    share: Tensor
    """(latents, sites): of each feature's firings; 0 of one that never fires"""
    mass: Tensor
    """(latents,): of all firings"""
    within: float
    """Variance of the site within a token, over that within and between tokens (arXiv 2409.04185)"""

    @classmethod
    def of(cls, codes: Tensor) -> Spread:
        counts = (codes > 0).double().sum(1).T
        place = torch.arange(len(codes), device=codes.device, dtype=torch.float64)
        size = codes.double().sum(0)
        first, second = (torch.einsum("svl,s->vl", codes.double(), place**power) for power in (1, 2))
        inside = (second - first.square() / size.clamp(min=1e-12)).sum()
        whole = (second.sum(0) - first.sum(0).square() / size.sum(0).clamp(min=1e-12)).sum()
        total = counts.sum(1)
        return cls(
            counts / total[:, None].clamp(min=1),
            total / total.sum().clamp(min=1),
            float(inside / whole.clamp(min=1e-12)),
        )

    @property
    def entropy(self) -> float:
        """Of the site at which a feature fires, over that of all sites alike."""
        each = -torch.xlogy(self.share, self.share).sum(1)
        return float((self.mass * each).sum() / torch.tensor(float(self.share.shape[1])).log())

    @property
    def single(self) -> float:
        """The mass of features of which more than 0.9 of the firings are at one site."""
        return float(self.mass[self.share.amax(1) > 0.9].sum())


def agreement(similar: Tensor, mass: Tensor) -> tuple[float, float]:
    """Similarities of features at one site to features at another (features, features) -> the mean of each with itself,
    and with the others: exactly what permutations of the features between the sites give."""
    weight = mass / mass.sum()
    return float(weight @ similar.diagonal()), float(weight @ similar.mean(1))


def agreements(similar: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """The mean over pairs of sites; not a number where no feature can be compared at any."""
    found = [agreement(each, mass) for each, mass in similar if len(mass) > 1]
    if not found:
        return float("nan"), float("nan")
    own, null = (sum(part) / len(found) for part in zip(*found, strict=True))
    return own, null


def meanings(fires: Tensor, labels: Tensor, least: int) -> dict[str, tuple[float, float]]:
    """Do features that fire at least so often at two sites mean the same there? By name, over pairs of sites, the share
    of firing mass with the same best concept and the correlation of their F1 over concepts, each with its permutation
    null. `fires` (sites, vectors, latents), `labels` (vectors, concepts)."""
    scores = [f1(each, labels) for each in fires]
    counts = fires.sum(1)
    best: list[tuple[Tensor, Tensor]] = []
    correlated: list[tuple[Tensor, Tensor]] = []
    for one, other in combinations(range(len(fires)), 2):
        both = (counts[one] >= least) & (counts[other] >= least)
        mass = (counts[one] + counts[other])[both]
        first, second = scores[one][both], scores[other][both]
        best.append(((first.argmax(1)[:, None] == second.argmax(1)).float(), mass))
        correlated.append((standardised(first) @ standardised(second).T, mass))
    return {"concept": agreements(best), "trigger": agreements(correlated)}


def standardised(rows: Tensor) -> Tensor:
    """Rows of mean 0 and norm 1, so that their products are correlations."""
    centred = rows - rows.mean(1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-12)
