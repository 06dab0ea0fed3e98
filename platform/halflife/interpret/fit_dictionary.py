"""FitDictionary: sparse autoencoders of a subject's stored activations, many in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from halflife.data.tokenizers import vocabulary_of
from halflife.errors import UserError
from halflife.interpret.dictionary_recipe import PCA_ROWS, THRESHOLD_VALUES, DictionaryRecipe
from halflife.models.sites import Site
from halflife.rng import generator
from halflife.stages.activations import Activations
from halflife.stages.subject import Subject
from halflife.store.stage import Context, Cost, Stage


@dataclass(frozen=True, kw_only=True)
class FitDictionary(Stage, DictionaryRecipe):
    """Dictionaries of stored activations, all trained on the same batches, each to the mean over its sites of the
    fraction of variance unexplained (FVU), by Adam.

    Those of equal shape are trained as one tensor. Each is written as a folder of SAELens, `final/<dictionary>/`, one
    for each site below it unless it is shared.

    Points, on held-out vectors in units of their own scale, at `<dictionary>.<site>`: `fvu`, `l0` (active latents per
    vector), `alive` (share of latents that fire at all); at `<dictionary>`: the mean `fvu`, and `alive` at any site.
    At the end also `pca-<k>.<site>/fvu`: of the k principal components of the training vectors.

    With `subject`, at the end: the `loss` of held-out texts, in nats per token, of the subject itself (`model`), with
    the reconstruction in place of the activations at a site or at all sites, and with their mean in place (`mean`);
    and `recovered` = (mean - spliced) / (mean - model), where the mean costs anything.
    """

    kind: ClassVar[str] = "fit-dictionary"

    activations: Activations
    sites: tuple[Site, ...] = ()
    """Some of those stored; by default all"""
    subject: Subject | None = None
    """Into which dictionaries are spliced: that of the activations, or another of its shape"""
    turned: bool = False
    """The control in which nothing is shared: each site's vectors are turned by a random rotation of its own."""

    def __post_init__(self) -> None:
        """Raises UserError when the fields contradict one another."""
        super().__post_init__()
        stored = self.activations.sites
        if unknown := [site for site in self.sites if site not in stored]:
            known = ", ".join(site.name for site in stored)
            raise UserError(f"site {unknown[0].name} of a dictionary given: activations are stored at {known}")
        if not self.activations.held_out:
            raise UserError("activations without held-out texts given: a dictionary is measured on them")
        if self.subject is not None and self.turned:
            raise UserError("dictionaries of turned activations given with a subject: they fit no model; leave it out")
        if self.subject is not None:
            check_same(self.activations.subject, self.subject)
            if self.activations.texts.length < 2:
                raise UserError("texts of one token given: no loss can be measured on them; leave out the subject")

    @property
    def read_sites(self) -> tuple[Site, ...]:
        return self.sites or self.activations.sites

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        names = [each.name for each in self.dictionaries]
        ranks = [f"pca-{k}" for k in sorted({each.sparsity.k for each in self.dictionaries})]
        spliced = ["model", "mean"] if self.subject is not None else []
        return (
            *names,
            *(f"{name}.{site.name}" for name in (*names, *ranks, *spliced[1:]) for site in self.read_sites),
            *(spliced + ranks if spliced else []),
        )

    @property
    def label(self) -> str:
        return f"{len(self.dictionaries)} dictionaries at {len(self.read_sites)} sites"

    @property
    def cost(self) -> Cost:
        width, sites = self.activations.subject.architecture.width, len(self.read_sites)
        weights = sum(4.0 * each.count(sites) * each.parameters(width) for each in self.dictionaries)
        step = sum(each.flops_per_vector(width) for each in self.dictionaries) * sites
        # a step's pre-activations; a chunk of held-out vectors is no more
        latents = max(each.count(sites) * each.latents * (sites if each.shared else 1) for each in self.dictionaries)
        held = 4.0 * self.rows * (3 * latents + 4 * sites * width) + 4.0 * self.held_out_rows * sites * width
        held += 8.0 * THRESHOLD_VALUES * any(each.sparsity.needs_threshold for each in self.dictionaries)
        held += 4.0 * min(PCA_ROWS, self.activations.tokens) * width * (sites + 6)
        flops, memory = self.tokens * step, 4 * weights + held
        if self.subject is not None:
            length = self.activations.texts.length
            ranks = len({each.sparsity.k for each in self.dictionaries})
            passes = (1 + ranks + len(self.dictionaries)) * (1 + sites) * self.texts * length
            reading = self.subject.reading(passes, length)
            flops, memory = flops + reading.flops, memory + self.subject.memory(self.texts * length).total
            memory += self.texts * length * vocabulary_of(self.subject.codec) * 4.0
        shapes = len({(each.latents, each.sparsity, each.shared) for each in self.dictionaries})  # stepped one by one
        return Cost(
            tokens=self.tokens, flops=flops, memory_bytes=memory, disk_bytes=7 * weights, steps=self.steps * shapes
        )

    def turns(self) -> NDArray[np.float32]:
        """(sites, width, width): the rotations of `turned`."""
        width = self.activations.subject.architecture.width
        drawn = [generator(self.seed, "turned", site.name).standard_normal((width, width)) for site in self.read_sites]
        return np.linalg.qr(np.stack(drawn))[0].astype(np.float32)

    def run(self, context: Context) -> dict[str, Any]:
        """Raises Diverged when a loss is no longer finite, UserError when stored activations are not."""
        # torch is imported only where a stage runs
        from halflife.interpret.dictionary_fitting import fit

        stored = self.activations.open(context.parent(self.activations), *self.read_sites)
        turns = self.turns() if self.turned else None
        subject = self.subject
        load = None if subject is None else lambda: subject.load(context)
        metadata = {"model_name": self.activations.subject.size, "stage": self.folder_name}
        return fit(self, self.read_sites, stored, context, load, metadata, turns)


def check_same(one: Subject, other: Subject) -> None:
    """Raises UserError unless the two have the same shape and tokenizer."""
    if one.architecture.identity != other.architecture.identity or one.codec != other.codec:
        raise UserError(
            f"a dictionary of {one.size} with a subject {other.size} given: expected a model of the same shape, with "
            "the same tokenizer"
        )
