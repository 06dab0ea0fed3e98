"""What the features found by attribution do: how much of fine-tuning they reproduce in one model and undo in the other,
and how well their scores line up with what is known of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from halflife.interpret.attribution_losses import centred
from halflife.interpret.attribution_scores import Predictions, Scores
from halflife.interpret.autoencoder import Autoencoder
from halflife.models.hooks import Change

STEP = 0.1
"""Of a change, by which its effect is measured to first order"""
NEAREST = 5
"""Of the latents most like another, one at random is drawn in its place."""
RIDGE, COLLAPSED = 1e-3, 0.1
"""Of the linear map, in units of the mean variance; and the variance of a latent, over what it was, below which it has
collapsed."""
Scaled = Callable[[float], Change]
"""A factor -> a change of the stream times it"""


@dataclass(frozen=True)
class Effect:
    """Of a change of the stream, on held-out texts."""

    explained: float
    """1 - |b - b'|^2 / |b|^2: how much of fine-tuning's change b of the logits it reproduces as b' in the base model"""
    undone: float
    """How much nearer it brings the tuned model's logits back, likewise, with the opposite sign"""
    intended: float
    """The cosine of b' with the change that was intended; not a number where none is known"""


class Reproduction:
    """Measures edits against what fine-tuning did."""

    def __init__(
        self,
        base: Predictions,
        tuned: Predictions,
        null: Predictions | None,
        fit: Tensor,
        held_out: Tensor,
        intended: Tensor | None = None,
    ) -> None:
        """Texts (count, length) to fit an edit's factor on, and to measure it on. `intended`: (held-out, positions,
        compared), logits."""
        self.base, self.tuned, self.fit, self.held_out = base, tuned, fit, held_out
        self.intended = None if intended is None else centred(intended)
        with torch.no_grad():
            self._base, self._tuned, self._reference = (
                [predict(texts) for texts in (fit, held_out)] for predict in (base, tuned, null or base)
            )

    def change(self, number: int = 1) -> Tensor:
        """b on the held-out texts, or with 0 on those to fit on: tuned less null, or less the base model."""
        return centred(self._tuned[number] - self._reference[number])

    def effect(self, change: Scaled) -> Effect:
        """Of a change times the factor that fits best to first order."""
        with torch.no_grad():
            slope = centred(self.base(self.fit, change(STEP)) - self._base[0]) / STEP
            factor = float((self.change(0) * slope).sum() / slope.square().sum().clamp(min=1e-30))
            wanted = self.change()
            made = centred(self.base(self.held_out, change(factor)) - self._base[1])
            left = centred(self.tuned(self.held_out, change(-factor)) - self._reference[1])
        size = wanted.square().sum().clamp(min=1e-30)
        return Effect(
            float(1 - (wanted - made).square().sum() / size),
            float(1 - left.square().sum() / size),
            float("nan") if self.intended is None else cosine(made, self.intended),
        )


@dataclass(frozen=True)
class Transfer:
    """How far a dictionary of the base model's stream still fits the tuned model's, on held-out texts."""

    own: float
    """Fraction of the variance that it leaves unexplained of the base model's stream"""
    tuned: float
    """Of the tuned model's"""
    mapped: float
    """Of the tuned model's, after the linear map to the base model's that is best on other texts"""
    collapsed: float
    """Share of the live latents whose activation varies in the tuned model by less than a tenth of what it did"""

    @classmethod
    def of(
        cls, dictionary: Autoencoder, base: tuple[Tensor, Tensor], tuned: tuple[Tensor, Tensor], live: Tensor
    ) -> Transfer:
        """Streams (texts, length, width) of both models, on texts to fit the map on and on held-out ones."""
        fit, target = (each[0].flatten(0, 1).double() for each in (tuned, base))
        x, y = fit - fit.mean(0), target - target.mean(0)
        ridge = RIDGE * x.square().sum() / x.shape[1] * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        weights = torch.linalg.solve(x.T @ x + ridge, x.T @ y)
        mapped = ((tuned[1].double() - fit.mean(0)) @ weights + target.mean(0)).float()
        before, after = (dictionary.codes(each[1])[0].flatten(0, 1)[:, live].var(0) for each in (base, tuned))
        collapsed = (after < COLLAPSED * before).float().mean()
        own, other, after_map = (unexplained(dictionary, each) for each in (base[1], tuned[1], mapped))
        return cls(own, other, after_map, float(collapsed))


def unexplained(dictionary: Autoencoder, stream: Tensor) -> float:
    """The fraction of the variance of vectors in units of their own scale that the reconstruction leaves."""
    codes, normal = dictionary.codes(stream)
    u = normal.values
    left = u - codes @ dictionary.decoder - dictionary.decoder_bias
    return float(left.square().sum() / (u - u.flatten(0, -2).mean(0)).square().sum().clamp(min=1e-12))


def cosine(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum() / (one.norm() * other.norm()).clamp(min=1e-30))


def correlations(codes: Tensor, values: Tensor) -> Tensor:
    """Latents (tokens, latents) and properties (tokens, properties) -> (latents, properties)."""
    x, y = (each.double() - each.double().mean(0) for each in (codes, values))
    lengths = x.norm(dim=0)[:, None] * y.norm(dim=0)
    return (x.T @ y / lengths.clamp(min=1e-30)).float()


def alignment(scores: Tensor, truth: Tensor) -> Tensor:
    """Correlation over latents of scores (..., latents) with each property's (latents, properties):
    (..., properties)."""
    x = scores - scores.mean(-1, keepdim=True)
    y = truth - truth.mean(0)
    return x @ y / (x.norm(dim=-1, keepdim=True) * y.norm(dim=0)).clamp(min=1e-30)


def reliability(scores: Scores, live: Tensor) -> float:
    """The cosine of the scores from one half of the texts with those from the other, stepped up to all texts."""
    halves = [part.sum(0)[live] / scores.squares[live].sqrt().clamp(min=1e-30) for part in
              (scores.by_text[0::2], scores.by_text[1::2])]  # fmt: skip
    return stepped_up(cosine(*halves))


def stepped_up(half: float) -> float:
    """The agreement of the whole with another like it, from that of its halves (Spearman and Brown)."""
    return 2 * half / (1 + half) if half > -1 else -1.0


def matched(chosen: Tensor, live: Tensor, likeness: Tensor, random: torch.Generator) -> Tensor:
    """As many other live latents: for each of `chosen`, one of the nearest by `likeness` (latents, measures), in units
    of their spread. `live`: (latents,) bool."""
    spread = likeness[live].std(0).clamp(min=1e-12)
    free = live.clone()
    free[chosen] = False
    found = []
    for one in chosen.tolist():
        distance = ((likeness - likeness[one]) / spread).norm(dim=1)
        distance[~free] = torch.inf
        nearest = distance.topk(min(NEAREST, int(free.sum())), largest=False).indices
        found.append(int(nearest[torch.randint(len(nearest), (1,), generator=random)]))
        free[found[-1]] = False
    return torch.tensor(found, device=chosen.device)
