"""ShowFeatures: the features that fine-tuning used, and others like them, with the texts that excite them, for a rater
who does not know which is which."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from halflife.data import codecs
from halflife.errors import UserError
from halflife.evaluation.texts import Texts
from halflife.interpret.attribution import Attribute
from halflife.interpret.attribution_recipe import FILE
from halflife.interpret.dictionary_edits import Learned
from halflife.rng import generator, seed_of
from halflife.stages.subject import Subject
from halflife.store.stage import Context, Cost, Stage

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

SNIPPET = 32
"""Characters of a text that are shown, around the token that excites a feature most"""
EXAMPLES = 4
HEAT = 9


@dataclass(frozen=True, kw_only=True)
class ShowFeatures(Stage):
    """The summary's `features` are, in random order, the `count` live latents of the first dictionary with the largest
    scores of an attribution (cosine, first loss, in proportion to their activation; `top` is true), and as many others
    that fire as often and as strongly: `latent`, `top`, `score`, and `texts`, those of `texts` in which it is most
    active, each `<text>\\t<heat>` with a digit from 0 to 9 for each character, its activation over the largest.
    `wanted` and `usual` are texts with and without what fine-tuning was for, where `wanted` is given.
    """

    kind: ClassVar[str] = "show-features"

    attribution: Attribute
    subject: Subject
    """That of the attribution, and `dictionary` its first: a stage reads the results of its own fields only."""
    dictionary: Learned
    texts: Texts
    wanted: Texts | None = None
    count: int = 10
    shown: int = 4
    """Texts for each feature"""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError for numbers out of range, and for another subject or dictionary than the attribution's."""
        if (self.subject, self.dictionary) != (self.attribution.subject, self.attribution.dictionaries[0]):
            raise UserError("features of another subject or dictionary given: expected the attribution's, its first")
        if self.count < 1 or not 1 <= self.shown <= self.texts.count:
            raise UserError(
                f"{self.count} features with {self.shown} texts of {self.texts.count} given: expected at least 1 of "
                "each, and not more than there are"
            )

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        return ()

    @property
    def label(self) -> str:
        return f"{self.count} features and others like them"

    @property
    def cost(self) -> Cost:
        tokens = self.texts.count * self.texts.length
        reading = self.subject.reading(tokens, self.texts.length)
        held = 4.0 * tokens * (self.subject.architecture.width + 2 * self.dictionary.latents)
        return Cost(tokens=tokens, flops=reading.flops, memory_bytes=reading.memory_bytes + held, disk_bytes=0.0)

    def run(self, context: Context) -> dict[str, Any]:
        import torch  # only where a stage runs
        from safetensors.torch import load_file

        from halflife.models.hooks import tapped

        started, of = time.perf_counter(), self.attribution
        stored = load_file(context.parent(of) / "final" / FILE)
        scores, live = stored[f"d0.{of.losses[0].name}.active"].sum(0), stored["d0.live"]
        rows = self.texts.rows(self.subject.codec, context.results)
        model = self.subject.load(context)
        with torch.no_grad(), tapped(model, [of.site]) as taps:
            model.hidden(model.embed(torch.from_numpy(rows).to(context.device)))
            codes = self.dictionary.load(context, of.site).to(context.device).codes(taps[of.site].float())[0].cpu()
        codec = codecs.load(self.subject.codec, context.results)
        random = torch.Generator().manual_seed(seed_of(self.seed, "others") % 2**63)
        top, others = picked(scores, live, codes, self.count, random)
        chosen = [(int(latent), True) for latent in top] + [(int(latent), False) for latent in others]
        order = generator(self.seed, "order of features").permutation(len(chosen))
        features = []
        for latent, is_top in (chosen[place] for place in order):
            most = codes[..., latent].amax(1).topk(self.shown).indices.tolist()
            texts = [heated(codec, rows[row], codes[row, :, latent]) for row in most]
            features.append({"latent": latent, "top": is_top, "score": round(float(scores[latent]), 4), "texts": texts})
        found: dict[str, Any] = {"features": features}
        if self.wanted is not None:
            wanted = self.wanted.rows(self.subject.codec, context.results)
            for name, some in (("wanted", wanted), ("usual", rows)):
                found[name] = [codec.decode(row) for row in some[:EXAMPLES]]
        seconds = time.perf_counter() - started
        context.computing(seconds)
        return {"tokens": rows.size, "seconds_training": seconds, **found}


def picked(scores: Tensor, live: Tensor, codes: Tensor, count: int, random: Any) -> tuple[Tensor, Tensor]:
    """The live latents with the largest scores (latents,), and others like them by codes (texts, length, latents)."""
    import torch

    from halflife.interpret.attribution_edits import matched

    count = min(count, int(live.sum()) // 2)
    top = scores.abs().masked_fill(~live, -1).topk(count).indices
    likeness = torch.stack(
        [each.clamp(min=1e-9).log() for each in ((codes > 0).float().mean((0, 1)), codes.mean((0, 1)))], 1
    )
    return top, matched(top, live, likeness, random)


def heated(codec: codecs.Codec, row: np.ndarray, activation: Tensor) -> str:
    """A part of a text around where it excites a feature most, and the heat of its characters."""
    pieces = [codec.decode(row[place : place + 1]) for place in range(len(row))]
    most = float(activation.max().clamp(min=1e-12))
    heat = "".join(
        str(min(HEAT, int((HEAT + 0.99) * float(own) / most))) * len(piece)
        for own, piece in zip(activation, pieces, strict=True)
    )
    text = "".join(pieces).replace("\t", " ").replace("\n", "⏎")
    end = min(len(text), max(SNIPPET, heat.find(str(HEAT)) + SNIPPET // 4))
    return f"{text[max(0, end - SNIPPET) : end]}\t{heat[max(0, end - SNIPPET) : end]}"
