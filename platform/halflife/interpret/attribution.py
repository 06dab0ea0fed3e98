"""Attribute: which features of a model fine-tuning used, and whether editing these moves what fine-tuning did."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from halflife.data.tokenizers import vocabulary_of
from halflife.errors import UserError
from halflife.interpret.attribution_recipe import EDITED, AttributionRecipe
from halflife.interpret.fit_dictionary import check_same
from halflife.store.stage import Context, Cost, Stage


@dataclass(frozen=True, kw_only=True)
class Attribute(Stage, AttributionRecipe):
    """Backpropagates a loss between a fine-tuned model and the one that it was tuned from, through the latter, into the
    latents of dictionaries at a site, as `attribution_scores` describes. All numbers are of fine-tuning less `null`.

    Points at step 0. Of what fine-tuning did, at `change`: `size` (mean squared change of the centred logits of a
    token), `kl` (KL(tuned || subject) in nats per token), `unconditional` (share of the change that is the same for all
    tokens), `outside` (share that is left when the tuned model's stream at the site is put in: no feature there is
    responsible), and `intended`, its cosine with the exact change. `mean-difference`: the edit that adds the mean
    difference of the two models' streams.

    At `d<number>`, in the order of the dictionaries: `live` latents; `fvu` on the subject's stream, `fvu_tuned` on the
    tuned one's, `fvu_mapped` after the linear map of that to the subject's; and the share of latents that `collapsed`,
    to less than a tenth of their variance.

    At `d<number>.<loss>.<way>`: `alignment`, the correlation over live latents of their cosine scores with the
    correlation of each latent's activation with the first of `properties`; `alignment_raw`, of raw scores;
    `alignment_single`, the mean over scores from one text each; `selectivity`, less the largest size of the alignment
    with another property; `reliability` between halves of the texts. At `d<number>.<loss>.<way>.<count>` for the first
    loss: `explained` and `undone`, how much of the change moving the top `count` latents reproduces in the subject and
    undoes in the tuned model, on texts of its own, and `toward`, the cosine of what it does with the exact change; and
    of other live latents that are as active and as effective: `explained_random`, `undone_random`, `toward_random`.

    At `planted.<way>`, the positive control: so many latents are moved alone, by `planted_size`; `first` is the share
    that is ranked first, `auc` the mean area under the ROC curve of the one against all others.

    `final/attribution.safetensors` has the scores of both halves of the texts. The summary's `latents` are the live
    ones of the first dictionary: score and truth.
    """

    kind: ClassVar[str] = "attribute"

    def __post_init__(self) -> None:
        """Raises UserError when the fields contradict one another."""
        for name, lowest in (("draws", 1), ("random_sets", 1), ("path", 0), ("planted", 0)):
            if getattr(self, name) < lowest:
                raise UserError(f"{name} = {getattr(self, name)} of an attribution given: expected at least {lowest}")
        if not self.dictionaries or not self.losses:
            raise UserError("an attribution without a dictionary or a loss given: expected at least one of each")
        if again := [name for name, count in Counter(loss.name for loss in self.losses).items() if count > 1]:
            raise UserError(f"loss {again[0]} given several times: expected each once")
        if min(self.counts, default=1) < 1 or len(set(self.counts)) < len(self.counts):
            raise UserError(f"counts {self.counts} of latents to edit given: expected different ones, from 1 on")
        if self.texts.count < 4 or not 0 <= self.first < self.texts.length:
            raise UserError(
                f"{self.texts.count} texts of {self.texts.length} tokens from position {self.first} on given: expected "
                "at least 4 texts, and a position in them"
            )
        self.site.check(self.subject.architecture)
        for dictionary in self.dictionaries:
            dictionary.check(self.subject.architecture, self.site)
        for other in (self.tuned, self.null):
            if other is not None:
                check_same(self.subject, other)
        longest = self.subject.context_length
        length = max(self.texts.length, self.property_texts.length if self.property_texts else 0)
        if longest is not None and length > longest:
            raise UserError(
                f"texts of {length} tokens given: {self.subject.size} reads at most {longest}; shorten them"
            )

    def check(self, results: Path) -> None:
        """Raises UserError when the exact change is asked for of texts that have no exact distribution."""
        if self.intended is None:
            return
        codec = self.subject.codec
        rows = self.texts.rows(codec, results)
        if any(each.conditional(rows, codec, results) is None for each in (self.texts, self.intended)):
            raise UserError("an intended change of texts without an exact distribution given: leave `intended` out")

    @cached_property
    def ways(self) -> tuple[str, ...]:
        return (*EDITED, "change")

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        names = [f"d{number}" for number in range(len(self.dictionaries))]
        scored = [f"{name}.{loss.name}.{way}" for name in names for loss in self.losses for way in self.ways]
        made = [f"{name}.{self.losses[0].name}.{way}" for name in names for way in EDITED]
        planted = [f"planted.{way}" for way in EDITED] if self.planted else []
        counted = [f"{name}.{count}" for name in made for count in self.counts]
        return ("change", "mean-difference", *names, *scored, *counted, *planted)

    @property
    def label(self) -> str:
        return f"attribution to {len(self.dictionaries)} dictionaries"

    @property
    def cost(self) -> Cost:
        """In forward passes: a backward pass from the site on is about as much."""
        tokens, models = self.texts.count * self.texts.length, 2 + (self.null is not None)
        scored = 3 * models + len(self.losses) * (1 + self.draws + 2 * self.path)
        sets = len(EDITED) * len(self.dictionaries) * len(self.counts) * (1 + self.random_sets)
        planted = len(EDITED) * self.planted * 6
        known = self.property_texts or self.texts
        of_truth = known.count * known.length * (self.properties is not None)
        reading = self.subject.reading(of_truth + (scored + 1.5 * (sets + 1) + planted) * tokens, self.texts.length)
        latents = sum(dictionary.latents for dictionary in self.dictionaries)
        width, vocabulary = self.subject.architecture.width, vocabulary_of(self.subject.codec)
        held = 4.0 * tokens * (6 * latents + 6 * width + 8 * min(vocabulary, tokens))
        held += 4.0 * of_truth * (width + 2 * max(dictionary.latents for dictionary in self.dictionaries))
        weights = 2 * models * self.subject.memory(0).total
        return replace(reading, memory_bytes=weights + held, disk_bytes=24.0 * latents * len(self.losses) * 3)

    def run(self, context: Context) -> dict[str, Any]:
        # torch is imported only where a stage runs
        from halflife.interpret.attribution_measurement import measured

        return measured(self, context)
