"""MeasureFeatures: what the features of fitted dictionaries mean, by known concepts, and whether blocks share them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from halflife.errors import UserError
from halflife.interpret.concepts import Concepts
from halflife.interpret.dictionary import Dictionary
from halflife.interpret.fit_dictionary import FitDictionary, check_same
from halflife.stages.activations import Activations
from halflife.stages.subject import Subject
from halflife.store.stage import Context, Cost, Stage

MEANINGS = ("concept", "trigger", "effect")
"""How much it takes for a feature to mean the same at two sites: the same best concept; a correlated F1 over concepts;
a correlated effect on the logits."""


@dataclass(frozen=True, kw_only=True)
class MeasureFeatures(Stage):
    """Dictionaries measured against known concepts, on stored activations, in points at step 0.

    Of every dictionary, at `<dictionary>` and `<dictionary>.<site>`: `specificity`, the mean over the concepts that are
    present of F1 of the latent and threshold that are a concept's best sign (`feature_measures.f1`). A concept is
    present at a site where a linear probe has an F1 of at least 0.5. Signs and probes are chosen on training text and
    scored on held-out text. At `concepts.<site>`: `present`, their share, and `probe`, the mean F1 of probes; at
    `streams`: `adjacent_cosine`, the mean cosine of a token's centred vectors at neighbouring sites; at
    `streams.<site>`: `participation` (ratio).

    Of each shared dictionary in `followed`: `persistence` at the next site, with its nulls `persistence_permuted` (of
    tokens) and `persistence_random` (of a dictionary of random directions on the same streams); `site_entropy` (1:
    fires alike at all sites), `single_site` (mass of features of one site) and `within_token` (variance of the site);
    and `same_concept`, `same_trigger`, and with `subject` `same_effect`, each with its null `..._permuted` (of features
    between sites).

    The summary's `features` are those of the first of them with the largest firing mass: the share of firings by site,
    the best concept, and texts that excite it most, with the token marked as [x].
    """

    kind: ClassVar[str] = "measure-features"

    fit: FitDictionary
    activations: Activations
    """The fit's own, or those of another model of the same shape, at the same sites"""
    concepts: Concepts
    followed: tuple[Dictionary, ...] = ()
    subject: Subject | None = None
    """In which the effects of features are measured"""
    rows: int = 8192
    """Tokens for choosing signs, and held-out tokens for scoring them, at most"""
    least: int = 50
    """Tokens for which a feature fires at each of two sites, if they are compared; for effects a tenth of it"""
    effects: int = 32
    """Features whose effects are measured: those that fire most"""
    texts: int = 16
    """Held-out texts on which they are measured"""
    shown: int = 24
    """Features in the summary"""
    seed: int = 0
    """Of the choice of tokens"""

    def __post_init__(self) -> None:
        """Raises UserError when the fields contradict one another."""
        for each in self.followed:
            if each not in self.fit.dictionaries:
                known = ", ".join(own.name for own in self.fit.dictionaries)
                raise UserError(f"dictionary {each.name} to be followed given: the stage fits {known}")
            if not each.shared:
                raise UserError(f"dictionary {each.name} to be followed over sites given: expected a shared one")
        for name in ("rows", "least", "effects", "texts"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)} of features to measure given: expected at least 1")
        if lacking := [site for site in self.fit.read_sites if site not in self.activations.sites]:
            known = ", ".join(site.name for site in self.activations.sites)
            raise UserError(f"a dictionary of {lacking[0].name} given: activations are stored at {known}")
        if not self.activations.held_out:
            raise UserError("activations without held-out texts given: features are measured on them")
        for other in (self.activations.subject, self.subject):
            if other is not None:
                check_same(self.fit.activations.subject, other)
        if self.subject is not None and self.fit.turned:
            raise UserError("effects of dictionaries of turned activations given: they fit no model; leave out subject")

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        sites = self.fit.read_sites
        names = ("concepts", "streams", *(each.name for each in self.fit.dictionaries))
        return (*names, *(f"{name}.{site.name}" for name in names for site in sites))

    @property
    def label(self) -> str:
        return f"features of {len(self.fit.dictionaries)} dictionaries"

    @property
    def cost(self) -> Cost:
        width, sites = self.activations.subject.architecture.width, len(self.fit.read_sites)
        latents = [each.latents for each in self.fit.dictionaries]
        labels = len(self.concepts.names)
        each = sum(2.0 * count * (2 * width + 6 * labels) for count in latents)
        held = 4.0 * self.rows * sites * (4 * max(latents) + 4 * width) + 8.0 * self.rows * labels
        cost = Cost(tokens=self.rows, flops=2 * self.rows * sites * each, memory_bytes=held, disk_bytes=0.0)
        if self.subject is None or not self.followed:
            return cost
        tokens = self.texts * self.activations.texts.length
        reading = self.subject.reading(tokens * (1 + self.effects * sites) * len(self.followed), tokens)
        return replace(cost, flops=cost.flops + reading.flops, memory_bytes=held + self.subject.memory(tokens).total)

    def run(self, context: Context) -> dict[str, Any]:
        # torch is imported only where a stage runs
        from halflife.interpret.feature_measurement import measured

        return measured(self, context)
