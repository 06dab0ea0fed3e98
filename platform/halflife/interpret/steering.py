"""Vectors that imitate a condition: differences of means, and vectors fitted by gradient, at many sites at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halflife.evaluation import SCORED_TOKENS
from halflife.evaluation.scoring import evaluating
from halflife.interpret.distributions import chunks, divergences
from halflife.models.changes import Add, At, From
from halflife.models.hooks import Change, edited, tapped
from halflife.models.model import Model
from halflife.models.sites import Site
from halflife.rng import generator


@dataclass(frozen=True)
class Paired:
    """The same texts under a condition and under none."""

    conditioned: Tensor
    """(pairs, length) int64"""
    neutral: Tensor
    """(pairs, length) int64"""
    shared: int
    """Tokens at the end that both have"""
    before: int = 0
    """Tokens that the model's own edits put before every text"""

    @classmethod
    def of(cls, rows: tuple[NDArray[np.int64], NDArray[np.int64]], shared: int, device: str, before: int = 0) -> Paired:
        return cls(torch.from_numpy(rows[0]).to(device), torch.from_numpy(rows[1]).to(device), shared, before)

    @property
    def first(self) -> int:
        """Position of the first shared token in a neutral text, as edits count positions."""
        return self.before + self.neutral.shape[1] - self.shared

    def take(self, index: Tensor | slice) -> Paired:
        return Paired(self.conditioned[index], self.neutral[index], self.shared, self.before)

    def __len__(self) -> int:
        return len(self.neutral)


def differences(model: Model, pairs: Paired, sites: Sequence[Site], *, first_only: bool = False) -> dict[Site, Tensor]:
    """By site, the mean activation behind the condition less the mean neutral one, over pairs and shared positions, or
    over the first of them: (width,)."""
    totals: dict[Site, Tensor] = {}
    count = 0
    for part in chunks(len(pairs), pairs.conditioned.shape[1]):
        chunk = pairs.take(part)
        one, other = (_shared(model, tokens, pairs.shared, sites) for tokens in (chunk.conditioned, chunk.neutral))
        places = 1 if first_only else pairs.shared
        for site in sites:
            total = (one[site] - other[site])[:, :places].double().sum((0, 1))
            totals[site] = totals[site] + total if site in totals else total
        count += len(chunk) * places
    return {site: (total / count).float() for site, total in totals.items()}


def _shared(model: Model, tokens: Tensor, shared: int, sites: Sequence[Site]) -> dict[Site, Tensor]:
    with evaluating(model), tapped(model, sites) as taps:
        model.hidden(model.embed(tokens))
    return {site: taps[site][:, -shared:] for site in sites}


def predictions(model: Model, tokens: Tensor, shared: int) -> Tensor:
    """Log-probabilities (rows, shared, vocabulary), float32, after each of the last `shared` tokens."""
    columns = torch.arange(tokens.shape[1] - shared, tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
    return model.logits(model.hidden_at(model.embed(tokens), columns)).float().log_softmax(-1)


def fitted(
    model: Model,
    pairs: Paired,
    sites: Sequence[Site],
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    first_only: bool = False,
    on_step: Callable[[int], None] = lambda done: None,
) -> dict[Site, Tensor]:
    """By site, the vector (width,) with the least KL(behind the condition || neutral with the vector), by Adam from 0,
    at a rate that falls to 0.

    Sites are fitted in one pass, each in rows of its own, so they see the same pairs and do not affect one another.
    """
    device = pairs.neutral.device
    neutral = _shared(model, pairs.neutral[: chunks(len(pairs), pairs.neutral.shape[1])[0].stop], pairs.shared, sites)
    scales = {site: float(found.float().square().mean().sqrt()) for site, found in neutral.items()}
    group = max(1, SCORED_TOKENS // (batch * pairs.neutral.shape[1]))
    result: dict[Site, Tensor] = {}
    groups = [sites[start : start + group] for start in range(0, len(sites), group)]
    for number, chosen in enumerate(groups):
        units = {site: torch.zeros(neutral[site].shape[-1], device=device, requires_grad=True) for site in chosen}
        optimizer = torch.optim.Adam(units.values(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
        for step in range(steps):
            drawn = torch.from_numpy(generator(seed, "pairs", step).permutation(len(pairs))[:batch]).to(device)
            some = pairs.take(drawn)
            with evaluating(model):
                target = predictions(model, some.conditioned, pairs.shared)
            rows = some.neutral.repeat(len(chosen), 1)
            changes = [
                (site, _InRows(slice(place * len(some), (place + 1) * len(some)),
                               _placed(Add(scales[site] * units[site]), pairs.first, first_only)))
                for place, site in enumerate(chosen)
            ]  # fmt: skip
            with edited(model, changes):
                found = predictions(model, rows, pairs.shared)
            kl, _ = divergences(target.repeat(len(chosen), 1, 1), found)
            optimizer.zero_grad()
            (kl.sum() / (len(some) * pairs.shared)).backward()  # each vector's gradient is of its own rows' mean
            optimizer.step()
            schedule.step()
            on_step(number * steps // len(groups) + (step + 1) // len(groups))
        result |= {site: (scales[site] * unit).detach() for site, unit in units.items()}
    return result


@dataclass(frozen=True)
class _InRows:
    """`change` in some rows only."""

    rows: slice
    change: Change

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        here = positions[self.rows] if len(positions) > 1 else positions
        parts = (x[: self.rows.start], self.change(x[self.rows], here), x[self.rows.stop :])
        return torch.cat([part for part in parts if len(part)])


def _placed(change: Change, first: int, first_only: bool) -> Change:
    return At((first,), change) if first_only else From(first, change)


def scores(
    model: Model, pairs: Paired, vectors: Mapping[str, tuple[Site, Tensor]], *, seed: int, first_only: bool = False
) -> dict[str, float]:
    """Means over pairs and shared positions: `neutral/kl`, `neutral/tv`, and of each vector `<name>/kl`, `/tv`, `/norm`
    and `/control`, the KL with a random vector of its norm."""
    edits: dict[str, list[tuple[Site, Change]]] = {"neutral": []}
    for name, (site, vector) in vectors.items():
        random = torch.from_numpy(generator(seed, "random vector", name).standard_normal(len(vector))).to(vector)
        control = random * (vector.norm() / random.norm())
        for label, chosen in ((name, vector), (f"{name}/control", control)):
            edits[label] = [(site, _placed(Add(chosen), pairs.first, first_only))]
    sums = {label: np.zeros(2) for label in edits}
    for part in chunks(len(pairs), pairs.conditioned.shape[1]):
        chunk = pairs.take(part)
        with evaluating(model):
            target = predictions(model, chunk.conditioned, pairs.shared)
            for label, changes in edits.items():
                with edited(model, changes):
                    found = divergences(target, predictions(model, chunk.neutral, pairs.shared))
                sums[label] += [float(each.double().sum()) for each in found]
    means = {label: total / (len(pairs) * pairs.shared) for label, total in sums.items()}
    found = {"neutral/kl": float(means["neutral"][0]), "neutral/tv": float(means["neutral"][1])}
    for name, (_, vector) in vectors.items():
        kl, tv = means[name].tolist()
        control = float(means[f"{name}/control"][0])
        measured = {"kl": kl, "tv": tv, "norm": float(vector.norm()), "control": control}
        found |= {f"{name}/{measure}": value for measure, value in measured.items()}
    return found
