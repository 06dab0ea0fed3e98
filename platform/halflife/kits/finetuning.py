"""Studies of what fine-tuning used: a trunk on a grammar, its dictionaries, fine-tunings towards a known attribute with
their nulls, and the attribution of what they did."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from halflife.data.attributes import AttributeText
from halflife.data.tokenizers import special_ids
from halflife.data.transforms import UNKNOWN, Transform, added_tokens
from halflife.errors import UserError, check_choice
from halflife.evaluation.attribute_score import AttributeScore
from halflife.evaluation.attribute_texts import AttributeTexts
from halflife.evaluation.probes import Ends, Evaluation
from halflife.evaluation.texts import Texts
from halflife.interpret.attribution import Attribute
from halflife.interpret.attribution_truth import AttributeOdds
from halflife.interpret.dictionary import BatchTopK, Dictionary
from halflife.interpret.dictionary_edits import Fitted
from halflife.interpret.distance import DistanceProbe
from halflife.interpret.fit_dictionary import FitDictionary
from halflife.interpret.show_features import ShowFeatures
from halflife.interpret.token_at import TokenAt
from halflife.interpret.transfer_dictionary import TransferDictionary
from halflife.kits.settings import check_distinct, check_positive
from halflife.kits.starts import SMOLLM2
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.models.sites import Site
from halflife.stages.activations import Activations
from halflife.stages.attribute_trunk import attribute_trunk
from halflife.stages.measure import Measure
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.stage import Stage
from halflife.tasks.attributes import UNTOLD, AttributeGrammar
from halflife.training.optimizers import AdamW
from halflife.training.schedules import Schedule

ORGANISMS = ("grammar", "python")
VALUE = 1
"""Of the attribute that a fine-tuning is for"""
SCORED = 256
"""Texts for distances"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How trunks, dictionaries and fine-tunings are made, for sizes x seeds."""

    sizes: tuple[str, ...]
    """Model sizes, by non-embedding parameters: 30k 100k 1m ..."""
    seeds: int
    """Number of seeds. Each draws its own grammar, initial weights, data order and dictionaries."""
    organism: str = "grammar"
    """grammar: text with known attributes. python: Python text, fine-tuned for lower case; sizes may have smollm2."""
    text_length: int = 128
    """Tokens of each Python text."""
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
    preferences: int = 500
    """Pairs of documents from which ppo's reward is learned."""
    distance: float = 0.5
    """KL(trunk || tuned) at which ppo stops, in nats per document; so runs and nulls are compared at equal distance."""
    shown: int = 0
    """Features that each first fine-tuning used, shown blinded among as many others: python -m analysis features."""
    fresh: bool = False
    """Also fit a dictionary to every first fine-tuning: does the trunk's still fit as well?"""
    pilots: tuple[int, ...] = ()
    """Seeds to leave out of every answer. Measures were defined on seed 0 of 30k, before the questions were declared:
    --pilots 0, with a seed more, leaves it out."""


def check_settings(settings: Settings) -> None:
    """Raises UserError on settings that cannot be run."""
    check_distinct(settings, "sizes", "features")
    check_choice("--organism", settings.organism, ORGANISMS)
    for size in settings.sizes:
        if size != SMOLLM2 or settings.organism == "grammar":
            Rung(size=size)
    check_positive(
        settings, "seeds", "runs", "trunk_tokens", "lr", "documents", "tuning_steps", "tuning_lr", "latents", "k",
        "dictionary_seeds", "fit_steps", "fit_rows", "features", "num_eval", "property_texts",
        "preferences", "distance", "text_length",
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
    if settings.shown < 0:
        raise UserError(f"--shown {settings.shown}: expected 0 or more features")
    if left := set(settings.pilots) - set(range(settings.seeds)):
        raise UserError(f"--pilots {min(left)}: expected seeds below {settings.seeds} (--seeds)")
    if settings.k > settings.latents:
        raise UserError(f"--k {settings.k}: expected at most {settings.latents}, the dictionary's latents")


@dataclass(frozen=True, kw_only=True)
class Slot:
    """What stands before the texts of a trunk, so that a model can be conditioned. The default: nothing."""

    trained: tuple[Transform, ...] = ()
    """Of the trunk's texts"""
    unknown: tuple[Transform, ...] = ()
    """Of the texts on which models are compared: as many tokens, that say nothing"""
    special: tuple[str, ...] = ()
    """Special tokens that the trunk has, beside those that it is trained on"""
    inert: int = 0
    """Attributes that change nothing, after the others: their tags are the null."""


@dataclass(frozen=True)
class Cell:
    """The parts of all trials of one size, seed and slot."""

    settings: Settings
    size: str
    seed: int
    slot: Slot = Slot()

    @property
    def model(self) -> Rung | Released:
        return Rung(size=self.size)

    @property
    def site(self) -> Site:
        """Before the last block: what follows computes with features, and nothing of it is left out."""
        return Site(layer=self.model.layers - 1)

    @property
    def base(self) -> Subject:
        """What is tuned"""
        return of(self.trunk)

    @cached_property
    def text(self) -> AttributeText:
        inert = self.slot.inert
        grammar = AttributeGrammar(attributes=self.settings.attributes + inert, values=2, inert=inert, seed=self.seed)
        return AttributeText(grammar=grammar)

    @property
    def before(self) -> int:
        """Tokens before each text"""
        return added_tokens(self.slot.trained, self.text.choices)

    def shifted(self, attribute: int | None) -> AttributeText:
        """Documents that all have the attribute; None: as the trunk has them."""
        if attribute is None:
            return self.text
        return replace(self.text, fixed=self.told(attribute))

    def told(self, attribute: int) -> tuple[int, ...]:
        """The value of every attribute of such documents"""
        return tuple(VALUE if each == attribute else UNTOLD for each in range(len(self.text.choices)))

    def texts(self, count: int, number: int, text: AttributeText | None = None) -> Texts:
        """`number`: of a set of texts that meets no other."""
        length = self.trunk.mixture.sequence
        return AttributeTexts(
            text=text or self.text, transforms=self.slot.unknown, count=count, length=length,
            seed=1000 * (self.seed + 1) + number,
        )  # fmt: skip

    @cached_property
    def trunk(self) -> Train:
        settings = self.settings
        train = attribute_trunk(
            self.text, self.slot.trained, rung=Rung(size=self.size), symbols=settings.symbols,
            tokens=settings.trunk_tokens, seed=self.seed,
        )  # fmt: skip
        mixture, tokenizer = train.mixture, self.text.tokenizer(self.slot.trained)
        exact = AttributeTexts(
            text=self.text, transforms=self.slot.unknown, count=SCORED, length=mixture.sequence, seed=self.seed
        )
        return replace(
            train,
            mixture=replace(mixture, tokenizer=replace(tokenizer, special=(*tokenizer.special, *self.slot.special))),
            optimizer=AdamW(learning_rate=settings.lr),
            schedule=Schedule(shape="wsd", warmup=0.02, decay=0.3),
            evaluations=(Evaluation(name="exact", probe=DistanceProbe(texts=exact, first=self.before), at=Ends()),),
        )

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Of a model tuned for the first attribute: does it write it, and how far is it from the exact conditional?"""
        settings, told = self.settings, self.shifted(0)
        score = AttributeScore(
            text=self.text, told=self.told(0), count=settings.num_eval, length=settings.symbols - 1, seed=self.seed,
            before=(UNKNOWN,) * self.before,
        )  # fmt: skip
        conditional = DistanceProbe(texts=self.texts(SCORED, 3, told), first=self.before)
        return (
            Evaluation(name="attribute", probe=score, at=Ends()),
            Evaluation(name="conditional", probe=conditional, at=Ends()),
        )

    def branch(self, run: int) -> Train:
        """A fine-tuning of the trunk that nothing was changed in yet: its documents are the trunk's."""
        settings, length = self.settings, self.trunk.mixture.sequence
        return replace(
            self.trunk,
            start=Checkpoint(stage=self.trunk),
            tokens=settings.tuning_steps * settings.documents * length,
            batch_tokens=settings.documents * length,
            optimizer=AdamW(learning_rate=settings.tuning_lr),
            optimizer_state="reset",
            schedule=Schedule(),
            evaluations=self.evaluations,
            seed=1000 * (self.seed + 1) + run,
        )

    def behind(self, train: Train, token: str, position: int = 0) -> Subject:
        """The model as it reads texts behind this special token of its slot."""
        found = special_ids(train.mixture.tokenizer)[token]
        return replace(of(train), edits=(TokenAt(token=found, position=position),))

    def measured(self, tuned: Subject) -> Stage:
        """The stage with the evaluations of a model: its training; of one that is conditioned or released, its own."""
        if isinstance(tuned.model, Checkpoint) and not tuned.edits:
            return tuned.model.stage
        return Measure(subject=tuned, evaluations=self.evaluations, sequence=self.branch(0).mixture.sequence)

    @cached_property
    def activations(self) -> Activations:
        return self._activations(self.base)

    @cached_property
    def dictionaries(self) -> FitDictionary:
        return self._fitted(self.activations, self.settings.dictionary_seeds)

    def _activations(self, subject: Subject) -> Activations:
        texts = self.texts(self.settings.stored, 1)
        return Activations(subject=subject, texts=texts, sites=(self.site,), seed=self.seed)

    def _fitted(self, activations: Activations, seeds: int) -> FitDictionary:
        settings = self.settings
        described = tuple(
            Dictionary(latents=settings.latents, sparsity=BatchTopK(k=settings.k), seed=1000 * (self.seed + 1) + number)
            for number in range(seeds)
        )
        return FitDictionary(
            activations=activations, dictionaries=described, subject=activations.subject, steps=settings.fit_steps,
            rows=settings.fit_rows, seed=self.seed,
        )  # fmt: skip

    def transfer(self, tuned: Subject) -> TransferDictionary:
        """Of the first dictionary, against one of the tuned model that is fitted alike."""
        fits = (self.dictionaries, self._fitted(self._activations(tuned), 1))
        old, fresh = (Fitted(fit=fit, dictionary=fit.dictionaries[0]) for fit in fits)
        return TransferDictionary(
            subject=self.base, tuned=tuned, dictionary=old, fresh=fresh, site=self.site,
            texts=self.texts(self.settings.texts, 5),
        )  # fmt: skip

    def attribution(self, tuned: Subject, null: Subject) -> Attribute:
        """Of what a fine-tuning did, less its null, always against the first attribute."""
        settings, fit = self.settings, self.dictionaries
        return Attribute(
            subject=self.base, tuned=tuned, null=null, site=self.site, first=self.before,
            dictionaries=tuple(Fitted(fit=fit, dictionary=each) for each in fit.dictionaries),
            texts=self.texts(settings.texts, 2), counts=settings.features, seed=self.seed, **self.known,
        )  # fmt: skip

    @property
    def known(self) -> dict[str, Any]:
        """Of an attribution: what features may stand for, and the exact change"""
        wanted = tuple((attribute, VALUE) for attribute in range(self.settings.attributes))
        return {
            "properties": AttributeOdds(text=self.text, wanted=wanted),
            "property_texts": self.texts(self.settings.property_texts, 4),
            "intended": self.texts(self.settings.texts, 2, self.shifted(0)),
        }

    def features(self, attribution: Attribute) -> ShowFeatures:
        settings = self.settings
        return ShowFeatures(
            attribution=attribution, subject=attribution.subject, dictionary=attribution.dictionaries[0],
            texts=self.texts(settings.property_texts, 4), count=settings.shown,
            wanted=self.texts(settings.property_texts, 4, self.shifted(0)), seed=self.seed,
        )  # fmt: skip


def of(stage: Train) -> Subject:
    return Subject(model=Checkpoint(stage=stage))
