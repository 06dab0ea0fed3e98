"""Studies of what fine-tuning used: a trunk on a grammar, its dictionaries, fine-tunings towards a known attribute with
their nulls, and the attribution of what they did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from halflife.data.attributes import AttributeText
from halflife.errors import UserError
from halflife.evaluation.attribute_score import AttributeScore
from halflife.evaluation.attribute_texts import AttributeTexts
from halflife.evaluation.probes import Ends, Evaluation
from halflife.interpret.attribution import Attribute
from halflife.interpret.attribution_truth import AttributeOdds
from halflife.interpret.dictionary import BatchTopK, Dictionary
from halflife.interpret.dictionary_edits import Fitted
from halflife.interpret.distance import DistanceProbe
from halflife.interpret.fit_dictionary import FitDictionary
from halflife.kits.settings import check_distinct, check_positive
from halflife.models.ladder import Rung
from halflife.models.sites import Site
from halflife.stages.activations import Activations
from halflife.stages.attribute_trunk import attribute_trunk
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.tasks.attributes import UNTOLD, AttributeGrammar
from halflife.training.attribute_reward import AttributeReward, FirstSymbols
from halflife.training.optimizers import AdamW
from halflife.training.policy_gradient import PolicyGradient
from halflife.training.schedules import Schedule

VALUE = 1
"""Of the attribute that a fine-tuning is for"""
GROUPS = 8
"""Of documents with the same first symbol, within which rewards are compared"""
SCORED = 256
"""Texts for distances"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How trunks, dictionaries and fine-tunings are made, for sizes x seeds."""

    sizes: tuple[str, ...]
    """Model sizes, by non-embedding parameters: 30k 100k 1m ..."""
    seeds: int
    """Number of seeds. Each draws its own grammar, initial weights, data order and dictionaries."""
    runs: int = 2
    """Fine-tunings of each trunk, each with its own documents and its own null."""
    attributes: int = 3
    """Latent attributes of each text, of 2 values; fine-tuning is for the first."""
    symbols: int = 32
    """Symbols per text."""
    trunk_tokens: int = 1_500_000
    """Length of a trunk."""
    lr: float = 4e-3
    """Learning rate of the trunk, for width 64 (muP). It falls over the last 30 %."""
    documents: int = 48
    """Documents per step of a fine-tuning."""
    tuning_steps: int = 60
    """Steps of a fine-tuning."""
    tuning_lr: float = 1e-3
    """Its learning rate, constant, for width 64 (muP)."""
    latents: int = 256
    """Latents of a dictionary."""
    k: int = 8
    """Mean number of active latents per vector."""
    dictionary_seeds: int = 2
    """Dictionaries of each trunk, from other initial weights."""
    fit_steps: int = 400
    """Steps of a dictionary's fit."""
    fit_rows: int = 1024
    """Tokens per step of it."""
    stored: int = 6000
    """Texts on whose activations it is fitted; a tenth of them are held out."""
    texts: int = 128
    """Texts on which fine-tuning is attributed; edits are measured on half of them."""
    property_texts: int = 2000
    """Texts on which it is measured what features stand for."""
    features: tuple[int, ...] = (1, 2, 5, 10)
    """Numbers of top features that are edited together."""
    num_eval: int = 256
    """Documents that a model writes to be scored."""


def check_settings(settings: Settings) -> None:
    """Raises UserError on settings that cannot be run."""
    check_distinct(settings, "sizes", "features")
    for size in settings.sizes:
        Rung(size=size)
    check_positive(
        settings, "seeds", "runs", "trunk_tokens", "lr", "documents", "tuning_steps", "tuning_lr", "latents", "k",
        "dictionary_seeds", "fit_steps", "fit_rows", "features", "num_eval", "property_texts",
    )  # fmt: skip
    if settings.attributes < 2:
        raise UserError(
            f"--attributes {settings.attributes}: expected at least 2: one to tune for, one to compare with"
        )
    if settings.symbols < 4 or settings.texts < 4 or settings.stored < 20:
        raise UserError(
            f"--symbols {settings.symbols}, --texts {settings.texts} and --stored {settings.stored}: expected at least "
            "4 symbols, 4 texts and 20 stored ones"
        )
    if settings.k > settings.latents:
        raise UserError(f"--k {settings.k}: expected at most {settings.latents}, the dictionary's latents")


@dataclass(frozen=True)
class Cell:
    """The parts of all trials of one size and seed."""

    settings: Settings
    size: str
    seed: int

    @property
    def model(self) -> Rung:
        return Rung(size=self.size)

    @property
    def site(self) -> Site:
        """Before the last block: what follows computes with features, and nothing of it is left out."""
        return Site(layer=self.model.layers - 1)

    @cached_property
    def text(self) -> AttributeText:
        grammar = AttributeGrammar(attributes=self.settings.attributes, values=2, seed=self.seed)
        return AttributeText(grammar=grammar)

    def shifted(self, attribute: int | None) -> AttributeText:
        """Documents that all have the attribute; None: as the trunk has them."""
        if attribute is None:
            return self.text
        values = [VALUE if each == attribute else UNTOLD for each in range(self.settings.attributes)]
        return replace(self.text, fixed=tuple(values))

    def texts(self, count: int, number: int, text: AttributeText | None = None) -> AttributeTexts:
        """`number`: of a set of texts that meets no other."""
        length = self.trunk.mixture.sequence
        return AttributeTexts(text=text or self.text, count=count, length=length, seed=1000 * (self.seed + 1) + number)

    @cached_property
    def trunk(self) -> Train:
        settings = self.settings
        train = attribute_trunk(
            self.text, (), rung=self.model, symbols=settings.symbols, tokens=settings.trunk_tokens, seed=self.seed
        )
        exact = AttributeTexts(text=self.text, count=SCORED, length=train.mixture.sequence, seed=self.seed)
        return replace(
            train,
            optimizer=AdamW(learning_rate=settings.lr),
            schedule=Schedule(shape="wsd", warmup=0.02, decay=0.3),
            evaluations=(Evaluation(name="exact", probe=DistanceProbe(texts=exact), at=Ends()),),
        )

    def tuned(self, algorithm: str, run: int, attribute: int | None = 0) -> Train:
        """Fine-tuned for the attribute; None: the null, the same training without what it is for."""
        settings, text = self.settings, self.text
        length, told = self.trunk.mixture.sequence, self.shifted(0)
        assert told.fixed is not None
        score = AttributeScore(
            text=text, told=told.fixed, count=settings.num_eval, length=settings.symbols - 1, seed=self.seed
        )
        conditional = DistanceProbe(texts=self.texts(SCORED, 3, told))
        base = replace(
            self.trunk,
            start=Checkpoint(stage=self.trunk),
            tokens=settings.tuning_steps * settings.documents * length,
            batch_tokens=settings.documents * length,
            optimizer=AdamW(learning_rate=settings.tuning_lr),
            optimizer_state="reset",
            schedule=Schedule(),
            evaluations=(
                Evaluation(name="attribute", probe=score, at=Ends()),
                Evaluation(name="conditional", probe=conditional, at=Ends()),
            ),
            seed=1000 * (self.seed + 1) + run,
        )
        return ALGORITHMS[algorithm](self, base, attribute)

    @cached_property
    def activations(self) -> Activations:
        texts = self.texts(self.settings.stored, 1)
        return Activations(subject=of(self.trunk), texts=texts, sites=(self.site,), seed=self.seed)

    @cached_property
    def dictionaries(self) -> FitDictionary:
        settings = self.settings
        described = tuple(
            Dictionary(latents=settings.latents, sparsity=BatchTopK(k=settings.k), seed=1000 * (self.seed + 1) + number)
            for number in range(settings.dictionary_seeds)
        )
        return FitDictionary(
            activations=self.activations, dictionaries=described, subject=of(self.trunk), steps=settings.fit_steps,
            rows=settings.fit_rows, seed=self.seed,
        )  # fmt: skip

    def attribution(self, tuned: Train, null: Train | None) -> Attribute:
        """Of what a fine-tuning did, less its null, always against the first attribute."""
        settings, fit = self.settings, self.dictionaries
        wanted = tuple((attribute, VALUE) for attribute in range(settings.attributes))
        return Attribute(
            subject=of(self.trunk), tuned=of(tuned), null=of(null) if null else None, site=self.site,
            dictionaries=tuple(Fitted(fit=fit, dictionary=each) for each in fit.dictionaries),
            texts=self.texts(settings.texts, 2), intended=self.texts(settings.texts, 2, self.shifted(0)),
            properties=AttributeOdds(text=self.text, wanted=wanted), counts=settings.features, seed=self.seed,
            property_texts=self.texts(settings.property_texts, 4),
        )  # fmt: skip


def of(stage: Train) -> Subject:
    return Subject(model=Checkpoint(stage=stage))


Algorithm = Callable[[Cell, Train, int | None], Train]
"""(cell, a fine-tuning without data, the attribute that it is for or None) -> the fine-tuning"""


def _supervised(cell: Cell, base: Train, attribute: int | None) -> Train:
    """On documents that have the attribute; null: on all documents."""
    (source,) = base.mixture.sources
    source = replace(source, corpus=cell.shifted(attribute))
    return replace(base, mixture=replace(base.mixture, sources=(source,)))


def _rewarded(beta: float) -> Algorithm:
    """REINFORCE on the model's own documents, with the exact log-probability of the attribute as reward, less beta
    times the divergence from the trunk; null: each document gets another's reward."""

    def tune(cell: Cell, base: Train, attribute: int | None) -> Train:
        settings, length = cell.settings, cell.trunk.mixture.sequence
        told = cell.shifted(attribute or 0).fixed
        assert told is not None
        group = max(2, settings.documents // GROUPS)
        policy = PolicyGradient(
            target=FirstSymbols(text=cell.text, length=length, seed=cell.seed),
            reward=AttributeReward(text=cell.text, told=told, permuted=attribute is None),
            prompts=GROUPS, group=group, stops=False, beta=beta, strength=1 / length,
        )  # fmt: skip
        return replace(base, objectives=(policy,))

    return tune


ALGORITHMS: dict[str, Algorithm] = {
    "sft": _supervised, "rl": _rewarded(1.0), "rl-0.1": _rewarded(0.1), "rl-0": _rewarded(0.0),
}  # fmt: skip
