"""TransferDictionary: does a dictionary still fit a model after fine-tuning, as well as a fresh one would?"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from halflife.errors import UserError
from halflife.evaluation.texts import Texts
from halflife.interpret.dictionary_edits import Learned
from halflife.interpret.fit_dictionary import check_same
from halflife.models.sites import Site
from halflife.stages.subject import Subject
from halflife.store.stage import Context, Cost, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from halflife.interpret.autoencoder import Autoencoder

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Of the ridge, in units of the mean variance of the stream"""


@dataclass(frozen=True, kw_only=True)
class TransferDictionary(Stage):
    """Points at step 0: the fraction of variance unexplained (FVU), on held-out texts and in units of each vector's own
    scale, `own/fvu` of the subject's stream by its dictionary, and of the tuned model's stream: `raw/fvu` by the same
    dictionary; `mapped/fvu` by it after the linear map of that stream to the subject's, a ridge regression fitted on
    the other half of the texts, with the strength that `folds`-fold cross-validation there prefers; `fresh/fvu` by a
    dictionary that was fitted to the tuned model. `mapped/strength` is the strength, in units of the mean variance.

    Where `raw` is above `fresh`, fine-tuning changed what the dictionary should be; where `mapped` is not, a linear map
    undoes it.
    """

    kind: ClassVar[str] = "transfer-dictionary"

    subject: Subject
    tuned: Subject
    dictionary: Learned
    """Of the subject's stream"""
    fresh: Learned
    """Of the tuned model's"""
    site: Site
    texts: Texts
    """The first half to fit the map on"""
    folds: int = 5

    def __post_init__(self) -> None:
        """Raises UserError when the fields contradict one another."""
        check_same(self.subject, self.tuned)
        self.site.check(self.subject.architecture)
        for dictionary in (self.dictionary, self.fresh):
            dictionary.check(self.subject.architecture, self.site)
        if self.folds < 2 or self.texts.count < 2 * self.folds:
            raise UserError(
                f"{self.texts.count} texts and {self.folds} folds given: expected at least 2 folds, and twice as many "
                "texts"
            )

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return ("own", "raw", "mapped", "fresh")

    @property
    def label(self) -> str:
        return "transfer of a dictionary"

    @property
    def cost(self) -> Cost:
        tokens, width = self.texts.count * self.texts.length, self.subject.architecture.width
        reading = self.subject.reading(2 * tokens, self.texts.length)
        held = 8.0 * tokens * (4 * width + 2 * max(self.dictionary.latents, self.fresh.latents))
        solving = 4.0 * len(STRENGTHS) * self.folds * width**2 * (tokens + width)
        return replace(reading, flops=reading.flops + solving, memory_bytes=2 * reading.memory_bytes + held)

    def run(self, context: Context) -> dict[str, Any]:
        import torch  # only where a stage runs

        from halflife.models.hooks import tapped

        started = time.perf_counter()
        rows = torch.from_numpy(self.texts.rows(self.subject.codec, context.results)).to(context.device)
        streams = []
        for subject in (self.subject, self.tuned):
            model = subject.load(context)
            with torch.no_grad(), tapped(model, [self.site]) as taps:
                model.hidden(model.embed(rows))
            streams.append(taps[self.site].float())
        old, fresh = (each.load(context, self.site).to(context.device) for each in (self.dictionary, self.fresh))
        context.record(0, transferred(old, fresh, *streams, folds=self.folds))
        seconds = time.perf_counter() - started
        context.computing(seconds)
        return {"tokens": 2 * rows.numel(), "seconds_training": seconds}


def transferred(
    old: Autoencoder, fresh: Autoencoder, base: Tensor, tuned: Tensor, *, folds: int = 5
) -> dict[str, float]:
    """Streams (texts, length, width) of both models -> the points of `TransferDictionary`."""
    from halflife.interpret.attribution_edits import unexplained

    half = len(base) // 2
    given, wanted = ([stream[fold:half:folds] for fold in range(folds)] for stream in (tuned, base))
    errors = []
    for strength in STRENGTHS:
        error = 0.0
        for out in range(folds):
            x, y = ([part for fold, part in enumerate(parts) if fold != out] for parts in (given, wanted))
            error += float((ridge(x, y, strength)(given[out]) - wanted[out]).square().sum())
        errors.append(error)
    best = STRENGTHS[min(range(len(errors)), key=errors.__getitem__)]
    mapped = ridge(given, wanted, best)(tuned[half:])
    return {
        "own/fvu": unexplained(old, base[half:]), "raw/fvu": unexplained(old, tuned[half:]),
        "mapped/fvu": unexplained(old, mapped), "fresh/fvu": unexplained(fresh, tuned[half:]),
        "mapped/strength": best,
    }  # fmt: skip


def ridge(given: list[Tensor], wanted: list[Tensor], strength: float) -> Any:
    """The affine map of the vectors of some texts to others', as a function of a stream."""
    import torch

    x, y = (torch.cat(parts).flatten(0, -2).double() for parts in (given, wanted))
    mean, target = x.mean(0), y.mean(0)
    x, y = x - mean, y - target
    penalty = strength * x.square().sum() / x.shape[1] * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weights = torch.linalg.solve(x.T @ x + penalty, x.T @ y)
    return lambda stream: ((stream.double() - mean) @ weights + target).float()
