"""MeasureFeatures: what the features of fitted dictionaries mean, by known concepts, and whether blocks share them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from halflife.interpret.feature_recipe import FeatureRecipe
from halflife.store.stage import Context, Cost, Stage


@dataclass(frozen=True, kw_only=True)
class MeasureFeatures(Stage, FeatureRecipe):
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
