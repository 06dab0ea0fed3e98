"""Edits through a dictionary: its reconstruction in place of the activations, and its features scaled or removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from halflife import digests
from halflife.errors import UserError
from halflife.fields import recorded
from halflife.interpret.dictionary import Dictionary
from halflife.interpret.dictionary_companion import DictionaryCompanion
from halflife.interpret.fit_dictionary import FitDictionary
from halflife.models.edit import Edit, Parents
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.models.sites import Site
from halflife.stages.train import Checkpoint

if TYPE_CHECKING:
    from halflife.interpret.autoencoder import Autoencoder
    from halflife.models.hooks import Change
    from halflife.models.model import Model


class Learned:
    """Base of descriptions of a trained dictionary: frozen dataclasses. One of your own is a class in a module that
    your study imports."""

    width: int
    latents: int

    def check(self, architecture: Rung | Released, site: Site) -> None:
        """Raises UserError when it is not of such a model, or not for the site."""
        if self.width != architecture.width:
            raise UserError(
                f"a dictionary of vectors {self.width} wide in {architecture.size} given, which is "
                f"{architecture.width} wide: expected the same"
            )

    def load(self, parents: Parents, site: Site) -> Autoencoder:
        raise NotImplementedError(f"{type(self).__name__} loads no dictionary")


@dataclass(frozen=True, kw_only=True)
class Fitted(Learned):
    """Of a FitDictionary."""

    fit: FitDictionary
    dictionary: Dictionary

    def __post_init__(self) -> None:
        if self.dictionary not in self.fit.dictionaries:
            known = ", ".join(each.name for each in self.fit.dictionaries)
            raise UserError(f"dictionary {self.dictionary.name} given: the stage fits {known}")
        if self.fit.turned:
            raise UserError("a dictionary of turned activations given: it fits no model; expected turned=False")

    @property
    def width(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.fit.activations.subject.architecture.width

    @property
    def latents(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.dictionary.latents

    def check(self, architecture: Rung | Released, site: Site) -> None:
        fitted = self.fit.activations.subject.architecture
        if fitted.identity != architecture.identity:
            raise UserError(
                f"a dictionary of {fitted.size} in {architecture.size} given: expected a model of the same shape"
            )
        if site not in self.fit.read_sites:
            known = ", ".join(each.name for each in self.fit.read_sites)
            raise UserError(f"site {site.name} of a dictionary given: it is fitted at {known}")

    def load(self, parents: Parents, site: Site) -> Autoencoder:
        from halflife.interpret import sae_lens  # imports torch

        return sae_lens.read(self.fit.folder(parents.parent(self.fit), self.dictionary, site))


@dataclass(frozen=True, kw_only=True)
class Companioned(Learned):
    """Of a companion, as it was at a checkpoint of the training beside which it learned."""

    checkpoint: Checkpoint
    name: str
    """Of the companion"""

    def __post_init__(self) -> None:
        self.check(self.checkpoint.stage.architecture, self._companion.sites[0])
        if self._companion.dictionary.sparsity.needs_threshold:
            raise UserError(
                f"the dictionary of companion {self.name} given: it has no threshold, which is set after training; "
                "expected a TopK"
            )

    @property
    def _companion(self) -> DictionaryCompanion:
        for each in self.checkpoint.stage.companions:
            if each.name == self.name and isinstance(each, DictionaryCompanion):
                return each
        raise UserError(f"companion {self.name!r} given: the stage trains no dictionary of that name")

    @property
    def width(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.checkpoint.stage.architecture.width

    @property
    def latents(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._companion.dictionary.latents

    def check(self, architecture: Rung | Released, site: Site) -> None:
        trained, companion = self.checkpoint.stage.architecture, self._companion
        if trained.identity != architecture.identity:
            raise UserError(
                f"a dictionary of {trained.size} in {architecture.size} given: expected a model of the same shape"
            )
        if site not in companion.sites:
            known = ", ".join(each.name for each in companion.sites)
            raise UserError(f"site {site.name} of a dictionary given: companion {self.name} reads {known}")

    def load(self, parents: Parents, site: Site) -> Autoencoder:
        from halflife.interpret.autoencoder import Autoencoder  # imports torch
        from halflife.training import checkpoints
        from halflife.training.companion import PREFIX

        weights = checkpoints.read_weights(self.checkpoint.folder(parents.parent(self.checkpoint.stage)))
        companion = self._companion
        number = 0 if companion.dictionary.shared else companion.sites.index(site)
        names = ("encoder", "encoder_bias", "decoder", "decoder_bias")
        parts = [weights[f"{PREFIX}{self.name}.{name}"][number] for name in names]
        return Autoencoder(*parts, k=companion.dictionary.sparsity.k)


@dataclass(frozen=True, kw_only=True)
class Imported(Learned):
    """Of a folder of SAELens: see `imported`."""

    digest: str
    """Of its files"""
    width: int
    latents: int
    path: str = recorded()

    def load(self, parents: Parents, site: Site) -> Autoencoder:
        """Raises UserError when the folder is not what it was."""
        from halflife.interpret import sae_lens  # imports torch

        if imported(self.path) != self:
            raise UserError(f"dictionary {self.path} given: its files have changed since; describe it anew")
        return sae_lens.read(Path(self.path))


def imported(folder: str | Path) -> Imported:
    """A folder of SAELens as a description. Raises UserError, in one line, for what is missing or not supported."""
    from halflife.interpret import sae_lens  # imports torch

    path = Path(folder).expanduser().resolve()
    found = sae_lens.read(path)
    latents, width = found.decoder.shape
    parts = [digests.file_digest(path / name) for name in (sae_lens.CONFIG, sae_lens.WEIGHTS)]
    return Imported(digest=digests.of_text(parts), width=width, latents=latents, path=str(path))


@dataclass(frozen=True, kw_only=True)
class SpliceDictionary(Edit):
    """The dictionary's reconstruction in place of the activations at `site`."""

    dictionary: Learned
    site: Site

    def check(self, architecture: Rung | Released) -> None:
        self.site.check(architecture)
        self.dictionary.check(architecture, self.site)

    def memory_bytes(self, architecture: Rung | Released) -> float:
        return 8.0 * self.dictionary.latents * self.dictionary.width

    def prepare(self, parents: Parents) -> Callable[[Model], Model]:
        from halflife.models.changes import Splice  # imports torch

        return _installed(self.site, Splice(self.dictionary.load(parents, self.site).to(parents.device)))


@dataclass(frozen=True, kw_only=True)
class ScaleFeatures(Edit):
    """Some features of the dictionary times `factor`, by default removed. What the dictionary does not explain stays:
    x + (factor - 1) * the features' part of the reconstruction, so that factor 1 changes nothing (the error node of
    arXiv 2403.19647)."""

    dictionary: Learned
    site: Site
    features: tuple[int, ...]
    factor: float = 0.0

    def __post_init__(self) -> None:
        outside = [feature for feature in self.features if not 0 <= feature < self.dictionary.latents]
        if outside or not self.features:
            raise UserError(
                f"features {self.features} of a dictionary given: expected some from 0 to {self.dictionary.latents - 1}"
            )

    def check(self, architecture: Rung | Released) -> None:
        self.site.check(architecture)
        self.dictionary.check(architecture, self.site)

    def memory_bytes(self, architecture: Rung | Released) -> float:
        return 8.0 * self.dictionary.latents * self.dictionary.width

    def prepare(self, parents: Parents) -> Callable[[Model], Model]:
        from halflife.interpret.autoencoder import ScaledFeatures  # imports torch

        autoencoder = self.dictionary.load(parents, self.site).to(parents.device)
        return _installed(self.site, ScaledFeatures(autoencoder, self.features, self.factor))


def _installed(site: Site, change: Change) -> Callable[[Model], Model]:
    from halflife.models.hooks import install  # imports torch

    def edit(model: Model) -> Model:
        install(model, [(site, change)])
        return model

    return edit
