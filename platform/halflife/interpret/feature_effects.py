"""What features do to predictions: the change of logits when one is removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from halflife.evaluation import SCORED_TOKENS
from halflife.evaluation.scoring import evaluating
from halflife.interpret.autoencoder import Autoencoder
from halflife.interpret.feature_measures import agreements, standardised
from halflife.models.hooks import edited, tapped
from halflife.models.model import Model
from halflife.models.sites import Site


@dataclass(frozen=True)
class Effects:
    """Of features at sites, on the same texts."""

    change: Tensor
    """(sites, features, vocabulary): the mean change of the logits of the next token, over the tokens for which a
    feature fires, when it is removed"""
    fired: Tensor
    """(sites, features): for how many tokens"""


def effects(model: Model, texts: Tensor, at: Mapping[Site, Autoencoder], features: Tensor) -> Effects:
    """Remove each feature (features,) alone, at each site, everywhere in texts (count, length). What the dictionary
    does not explain stays."""
    with evaluating(model):
        with tapped(model, at) as taps:
            clean = model.logits(model.hidden(model.embed(texts))).float()
        streams = dict(taps)
        changes, fired = [], []
        each = max(1, SCORED_TOKENS // texts.numel())
        for site, autoencoder in at.items():
            codes, normal = autoencoder.codes(streams[site].float())
            for part in features.split(each):
                values = codes[..., part].permute(2, 0, 1)
                removed = (values[..., None] * autoencoder.decoder[part][:, None, None] * normal.scale).flatten(0, 1)
                with edited(model, {site: lambda x, positions, removed=removed: x - removed.to(x)}):
                    rows = texts.repeat(len(part), 1)
                    logits = model.logits(model.hidden(model.embed(rows))).float()
                change = logits.view(len(part), *clean.shape) - clean
                active = (values > 0).float()
                count = active.sum((1, 2))
                changes.append((change * active[..., None]).sum((1, 2)) / count[:, None].clamp(min=1))
                fired.append(count)
    shape = (len(at), len(features))
    return Effects(torch.cat(changes).view(*shape, -1), torch.cat(fired).view(shape))


def same_effects(found: Effects, least: int) -> tuple[float, float]:
    """The correlation over tokens of a feature's effects at two sites, over pairs of sites, and its permutation null;
    of features that fire at least so often at both, and change anything."""
    pairs, moved = [], found.change.norm(dim=-1) > 0
    for one, other in combinations(range(len(found.fired)), 2):
        both = (found.fired[[one, other]] >= least).all(0) & moved[[one, other]].all(0)
        similar = standardised(found.change[one][both]) @ standardised(found.change[other][both]).T
        pairs.append((similar, (found.fired[one] + found.fired[other])[both]))
    return agreements(pairs)
