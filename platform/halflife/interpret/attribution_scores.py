"""Which features of a model would carry its predictions towards another's: gradients of what the two differ in.

A model's stream at a site is h = sum_j c_j d_j + error, with d_j a dictionary's decoder rows and c_j its latents in the
stream's units. The error node keeps what the dictionary does not explain, so the output stays as it is, and gradients
pass through it (arXiv 2403.19647). A latent moved by w_j changes the predictions by B_j = J w_j d_j, with J the
derivative of the rest of the model. Its score is <u, B_j>, with u = -dL/dlogits of a loss L between the two models.

Raw scores favour latents with large effects of any kind. Over the length of B_j a score is a cosine: of all latents the
one that really moved is first, by Cauchy and Schwarz. The lengths of all effects together take a few backward passes
from random directions, whose mean square is the length (Hutchinson 1990).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from halflife.interpret.attribution_losses import ChangeLoss
from halflife.interpret.autoencoder import Autoencoder
from halflife.models.hooks import Change, edited
from halflife.models.model import Model
from halflife.models.sites import Site

WAYS = ("everywhere", "active", "change")
"""How far a latent is moved: alike for every token (then the score is the gradient); in proportion to its own
activation (gradient times activation); or as far as the other model moved it."""


@dataclass(frozen=True)
class Predictions:
    """A model's predictions of some tokens, which all compared models can make."""

    model: Model
    site: Site
    compared: Tensor
    """(tokens,) int64: the part of the vocabulary that is compared. Logits of what never occurs are anything."""
    first: int = 0
    """Predictions at earlier positions are left out."""
    changes: tuple[Change, ...] = ()
    """Of the stream at the site, beside the model's own edits"""

    def __call__(self, texts: Tensor, *changes: Change) -> Tensor:
        """Texts (rows, length) -> logits (rows, positions, compared), with further changes at the site."""
        with edited(self.model, [(self.site, change) for change in (*self.changes, *changes)]):
            logits = self.model.logits(self.model.hidden(self.model.embed(texts)))
        return logits[:, self.first :].index_select(-1, self.compared).float()

    def stream(self, texts: Tensor) -> Tensor:
        """(rows, length, width)"""
        found: list[Tensor] = []
        with torch.no_grad():
            self(texts, lambda x, positions: found.append(x) or x)
        return found[0].float()

    @contextmanager
    def opened(self, texts: Tensor, stream: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The stream, or another in its place, as a leaf, and the logits that depend on it."""
        found: list[Tensor] = []

        def leaf(x: Tensor, positions: Tensor) -> Tensor:
            found.append((x if stream is None else stream.to(x)).detach().requires_grad_())
            return found[0]

        with torch.enable_grad():
            logits = self(texts, leaf)
        yield found[0], logits


@dataclass
class Scores:
    """Of the latents of one dictionary by one loss and one way of moving them, over texts."""

    by_text: Tensor
    """(texts, latents): sums over positions of <u, B_j>"""
    squares: Tensor
    """(latents,): the squared lengths of B_j, summed over texts"""
    error: Tensor
    """(texts,): the same score of the error node; 0 where it is not moved"""
    size: float
    """The squared length of u in the same metric"""

    @property
    def total(self) -> Tensor:
        """(latents,)"""
        return self.by_text.sum(0)

    @property
    def cosine(self) -> Tensor:
        """(latents,), from -1 to 1 where the lengths are exact"""
        return self.total / (self.squares * self.size).sqrt().clamp(min=1e-30)

    @property
    def coefficients(self) -> Tensor:
        """(latents,): how far to move each latent alone to come nearest to the change, to first order"""
        return self.total / self.squares.clamp(min=1e-30)


@dataclass
class Attribution:
    """All scores of one dictionary, and the activity of its latents."""

    scores: dict[tuple[str, str], Scores]
    """By loss and way"""
    codes: Tensor
    """(texts, positions, latents), in units of the stream"""
    frequency: Tensor
    """(latents,): share of the tokens for which each is active"""


def attributed(
    base: Predictions,
    tuned: Predictions,
    null: Predictions | None,
    texts: Tensor,
    dictionaries: Sequence[Autoencoder],
    losses: Sequence[ChangeLoss],
    *,
    draws: int,
    chunk: int,
    random: torch.Generator,
    path: int = 0,
    on_text: Callable[[int], None] = lambda done: None,
) -> list[Attribution]:
    """Scores of every dictionary's latents, by every loss and way, from one backward pass for each loss.

    `null`: the model after training without what is asked about: what it does is taken off, as all u are linear in what
    the models predict. `draws`: backward passes from random directions for the lengths. `path`: points between the two
    streams at which the gradient of "change" is averaged (integrated gradients; arXiv 1703.01365); 0: at `base` only.
    """
    parts: list[list[Attribution]] = []
    for rows in texts.split(chunk):
        with torch.no_grad():
            theirs = [tuned(rows), null(rows) if null is not None else None]
        moved = tuned.stream(rows) - (null.stream(rows) if null is not None else base.stream(rows))
        latents = [_Latents.of(each, base.stream(rows), moved) for each in dictionaries]
        with base.opened(rows) as (stream, logits):
            pulls = {loss: _pulls(loss, stream, logits, theirs, draws, random) for loss in losses}
        found = [
            Attribution(
                {(loss.name, way): each.scores(way, *pulls[loss]) for loss in losses for way in WAYS},
                each.codes, (each.codes > 0).float().mean((0, 1)),
            )
            for each in latents
        ]  # fmt: skip
        for loss in losses if path else ():
            mean = _along(loss, base, rows, theirs, moved, path)
            for each, own in zip(latents, found, strict=True):
                own.scores[loss.name, "change"] = each.scores("change", mean, *pulls[loss][1:])
        parts.append(found)
        on_text(sum(len(one[0].codes) for one in parts))
    return [_joined(own) for own in zip(*parts, strict=True)]


def _pulls(
    loss: ChangeLoss,
    stream: Tensor,
    logits: Tensor,
    theirs: Sequence[Tensor | None],
    draws: int,
    random: torch.Generator,
) -> tuple[Tensor, list[Tensor], float]:
    """-dL/dh (rows, length, width); the same of random directions; and the squared length of -dL/dlogits."""
    direction = pulled(loss, logits.detach(), *theirs)
    noises = [loss.noise(logits.detach(), random) for _ in range(draws)]
    own, *others = (
        torch.autograd.grad(logits, stream, each, retain_graph=True)[0].float() for each in (direction, *noises)
    )
    return own, others, float(loss.size(logits.detach(), direction))


def pulled(loss: ChangeLoss, logits: Tensor, tuned: Tensor | None, null: Tensor | None = None) -> Tensor:
    """u = -dL/dlogits between a model and the tuned one, less that between it and the null one."""
    found = torch.zeros_like(logits)
    for other, sign in ((tuned, -1), (null, 1)):
        if other is not None:
            with torch.enable_grad():
                leaf = logits.detach().requires_grad_()
                found += sign * torch.autograd.grad(loss.value(leaf, other).sum(), leaf)[0]
    return found


def _along(
    loss: ChangeLoss, base: Predictions, rows: Tensor, theirs: Sequence[Tensor | None], moved: Tensor, path: int
) -> Tensor:
    start, total = base.stream(rows), torch.zeros_like(moved)
    for place in range(path):
        with base.opened(rows, start + (place + 0.5) / path * moved) as (stream, logits):
            total += torch.autograd.grad(logits, stream, pulled(loss, logits.detach(), *theirs))[0].float()
    return total / path


@dataclass(frozen=True)
class _Latents:
    """One dictionary on some texts."""

    decoder: Tensor
    codes: Tensor
    """(rows, positions, latents), in units of the stream"""
    moved: Tensor
    """The other model's less these"""
    rest: Tensor
    """(rows, length, width): the error node"""
    rest_moved: Tensor

    @classmethod
    def of(cls, dictionary: Autoencoder, stream: Tensor, moved: Tensor) -> _Latents:
        (own, rest), (other, other_rest) = (split(dictionary, x) for x in (stream, stream + moved))
        return cls(dictionary.decoder, own, other - own, rest, other_rest - rest)

    def scores(self, way: str, pull: Tensor, noises: Sequence[Tensor], size: float) -> Scores:
        squares = sum((self._moved(way, noise).square().sum(0) for noise in noises), torch.zeros(()))
        return Scores(self._moved(way, pull), squares / max(1, len(noises)), self._error(way, pull), size)

    def _moved(self, way: str, pull: Tensor) -> Tensor:
        """<pull, w_j d_j>, summed over positions: (rows, latents)."""
        gradient = pull @ self.decoder.T
        weight = {"everywhere": None, "active": self.codes, "change": self.moved}[way]
        return (gradient if weight is None else gradient * weight).sum(1)

    def _error(self, way: str, pull: Tensor) -> Tensor:
        rest = {"everywhere": None, "active": self.rest, "change": self.rest_moved}[way]
        return pull.new_zeros(len(pull)) if rest is None else (pull * rest).sum((1, 2))


def split(dictionary: Autoencoder, stream: Tensor) -> tuple[Tensor, Tensor]:
    """Latents in units of the stream, and what they leave of it: stream = codes @ decoder + rest."""
    codes, normal = dictionary.codes(stream)
    codes = codes * normal.scale
    return codes, stream - codes @ dictionary.decoder


def _joined(parts: Sequence[Attribution]) -> Attribution:
    counts = torch.tensor([float(len(part.codes)) for part in parts])
    share = counts / counts.sum()
    scores = {
        key: Scores(
            torch.cat([part.scores[key].by_text for part in parts]),
            sum((part.scores[key].squares for part in parts), torch.zeros(())),
            torch.cat([part.scores[key].error for part in parts]),
            sum(part.scores[key].size for part in parts),
        )
        for key in parts[0].scores
    }
    frequency = sum((own * part.frequency for own, part in zip(share, parts, strict=True)), torch.zeros(()))
    return Attribution(scores, torch.cat([part.codes for part in parts]), frequency)


@dataclass(frozen=True)
class MovedFeatures:
    """A change for `models.hooks.edited`: features moved by coefficients, in proportion to their own activations or by
    as much for every token; all else of the stream as it is."""

    dictionary: Autoencoder
    features: Tensor
    """(count,) int64"""
    coefficients: Tensor
    """(count,)"""
    way: str = "active"

    def __call__(self, x: Tensor, positions: Tensor) -> Tensor:
        rows = self.dictionary.decoder[self.features]
        if self.way == "everywhere":
            return x + (self.coefficients @ rows).to(x)
        codes, normal = self.dictionary.codes(x.float())
        return x + ((codes[..., self.features] * self.coefficients) @ rows * normal.scale).to(x)
