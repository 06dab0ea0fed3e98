"""Studies of dictionaries beside and after pretraining: trunks on a grammar, fresh dictionaries, and their features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from halflife.data.attributes import AttributeText
from halflife.errors import UserError
from halflife.evaluation.attribute_texts import AttributeTexts
from halflife.evaluation.probes import Evaluation, Every
from halflife.interpret.concepts import AttributeConcepts
from halflife.interpret.dictionary import BatchTopK, Dictionary, JumpReLU, Sparsity, TopK
from halflife.interpret.dictionary_companion import DictionaryCompanion
from halflife.interpret.distance import DistanceProbe
from halflife.interpret.fit_dictionary import FitDictionary
from halflife.interpret.low_rank import LowRank
from halflife.interpret.measure_features import MeasureFeatures
from halflife.kits.settings import check_distinct, check_positive
from halflife.models.ladder import Rung
from halflife.models.sites import Part, Site
from halflife.stages.activations import Activations
from halflife.stages.attribute_trunk import attribute_trunk
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.stage import Stage
from halflife.tasks.attributes import AttributeGrammar
from halflife.training.optimizers import AdamW
from halflife.training.schedules import Schedule

Arm = Literal["shared", "per-block", "random", "dense", "low-rank", "longer"]
BESIDE = "beside"
"""Name of the dictionary that trains beside a model."""
SPARSITIES: dict[str, type[Sparsity]] = {"topk": TopK, "batchtopk": BatchTopK, "jumprelu": JumpReLU}
READINGS = 16
"""Of the exact loss, evenly spaced over a trunk"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How models are pretrained beside a dictionary, and measured with fresh ones, for sizes x seeds."""

    sizes: tuple[str, ...]
    """Model sizes, by non-embedding parameters: 30k 100k 1m ..."""
    seeds: int
    """Number of seeds. Each draws its own grammar, initial weights, data order and dictionaries."""
    blocks: int = 4
    """Blocks of every model, at the end of each of which the stream is read."""
    attributes: int = 2
    """Latent attributes of each text, of 3 values. They shift the transitions between 8 symbols."""
    symbols: int = 32
    """Symbols per text."""
    tokens: int = 1_500_000
    """Length of pretraining."""
    lr: float = 4e-3
    """AdamW's learning rate, for width 64 (muP). It falls over the last 30 %."""
    beside_lr: float = 2e-3
    """Learning rate of the dictionary beside the model."""
    k: int = 4
    """Active latents per vector, of every dictionary. Streams of 30k on this text have a participation ratio of 5 to
    10: with 8, principal components would do."""
    sparsity: Literal["topk", "batchtopk", "jumprelu"] = "topk"
    """How fresh dictionaries choose active latents."""
    beside_latents: int = 256
    """Latents of the dictionary beside the model: 8 times the width of the smallest."""
    widths: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    """Latents of the fresh dictionaries that are fitted to every model afterwards, shared and per block."""
    followed: int = 256
    """Latents of the shared one whose features are followed over blocks; one of --widths."""
    fit_steps: int = 300
    """Steps of a fresh dictionary's fit."""
    fit_rows: int = 384
    """Tokens per step of it."""
    texts: int = 4000
    """Texts on whose activations it is fitted; a tenth of them are held out."""
    num_eval: int = 1024
    """Texts on which the distance from the exact distribution is measured."""
    written: bool = False
    """Also fit dictionaries to what MLPs write, where no skip connection makes blocks alike."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast, for GPUs."""


def check_settings(settings: Settings) -> None:
    """Raises UserError on settings that cannot be run."""
    check_distinct(settings, "sizes", "widths")
    for size in settings.sizes:
        Rung(size=size, depth=settings.blocks)
    check_positive(
        settings, "seeds", "tokens", "lr", "beside_lr", "k", "beside_latents", "widths", "fit_steps", "fit_rows",
        "num_eval", "attributes",
    )  # fmt: skip
    if settings.blocks < 2:
        raise UserError(f"--blocks {settings.blocks}: expected at least 2, between which features are compared")
    if len(settings.widths) < 2:
        raise UserError(
            f"--widths {' '.join(map(str, settings.widths))}: expected at least 2, to tell how many are needed"
        )
    if settings.followed not in settings.widths:
        raise UserError(
            f"--followed {settings.followed}: expected one of --widths {' '.join(map(str, settings.widths))}"
        )
    small = min(*settings.widths, settings.beside_latents)
    if settings.k > small:
        raise UserError(f"--k {settings.k}: expected at most {small}, the latents of the smallest dictionary")
    if settings.symbols < 2 or settings.texts < 20:
        raise UserError(
            f"--texts {settings.texts} of --symbols {settings.symbols}: expected at least 20 texts of 2 symbols"
        )


@dataclass(frozen=True)
class Cell:
    """The parts of all trials of one size and seed."""

    settings: Settings
    size: str
    seed: int

    @property
    def model(self) -> Rung:
        return Rung(size=self.size, depth=self.settings.blocks)

    @property
    def text(self) -> AttributeText:
        return AttributeText(grammar=AttributeGrammar(attributes=self.settings.attributes, seed=self.seed))

    def sites(self, part: Part = "residual") -> tuple[Site, ...]:
        return tuple(Site(layer=block, part=part) for block in range(1, self.settings.blocks + 1))

    @cached_property
    def plain(self) -> Train:
        """Without a dictionary, at the settings' tokens."""
        settings = self.settings
        train = attribute_trunk(
            self.text, (), rung=self.model, symbols=settings.symbols, tokens=settings.tokens, seed=self.seed
        )
        return replace(
            train,
            optimizer=AdamW(learning_rate=settings.lr),
            schedule=Schedule(shape="wsd", warmup=0.02, decay=0.3),
            precision=settings.precision,
        )

    def trunk(self, arm: str, strength: float, length: float = 1.0) -> Train:
        """Beside a dictionary, as `arm` says; at strength 0 without its gradient. Arm "none" has no dictionary, and
        "longer" as many further steps as its FLOPs would pay for."""
        plain = replace(self.plain, tokens=round(length * self.settings.tokens))
        if arm == "longer":
            beside = replace(plain, companions=(self.beside("shared", strength),))
            plain = replace(plain, tokens=round(plain.tokens * beside.cost.flops / plain.cost.flops))
        elif arm == "low-rank":
            pressure = LowRank(sites=self.sites(), rank=self.settings.k, strength=strength)
            plain = replace(plain, objectives=(*plain.objectives, pressure))
        elif arm != "none":
            plain = replace(plain, companions=(self.beside(arm, strength),))
        texts = AttributeTexts(
            text=self.text, count=self.settings.num_eval, length=plain.mixture.sequence, seed=self.seed
        )
        exact = Evaluation(
            name="exact", probe=DistanceProbe(texts=texts), at=Every(steps=max(1, plain.steps // READINGS))
        )
        return replace(plain, evaluations=(exact,))

    def beside(self, arm: str, strength: float) -> DictionaryCompanion:
        settings = self.settings
        k = self.model.width if arm == "dense" else settings.k
        return DictionaryCompanion(
            name=BESIDE,
            sites=self.sites(),
            dictionary=Dictionary(
                latents=settings.beside_latents, sparsity=TopK(k=k), shared=arm != "per-block", seed=self.seed
            ),
            optimizer=AdamW(learning_rate=settings.beside_lr),
            strength=strength,
            frozen=arm == "random",
        )

    @property
    def dictionaries(self) -> tuple[Dictionary, ...]:
        """The fresh ones, with seeds of their own."""
        sparsity = SPARSITIES[self.settings.sparsity](k=self.settings.k)
        return tuple(
            Dictionary(latents=latents, sparsity=sparsity, shared=shared, seed=1000)
            for shared in (True, False)
            for latents in self.settings.widths
        )

    def followed(self, *, shared: bool) -> Dictionary:
        """Of the fresh ones, the width that is looked at closely."""
        return next(d for d in self.dictionaries if (d.latents, d.shared) == (self.settings.followed, shared))

    def untrained(self) -> Subject:
        return Subject(model=self.model, tokenizer=self.plain.mixture.tokenizer, seed=self.seed)

    def measured(self, subject: Subject, *, turned: bool = False) -> dict[str, Stage]:
        """Fresh dictionaries of a subject, by phase; or of its streams, `turned` at random in each block."""
        found = self._measured(subject, "residual", turned=turned)
        return found | (self._measured(subject, "mlp") if self.settings.written and not turned else {})

    def _measured(self, subject: Subject, part: Part, *, turned: bool = False) -> dict[str, Stage]:
        settings, before = self.settings, "written-" if part == "mlp" else ""
        length = self.plain.mixture.sequence
        texts = AttributeTexts(text=self.text, count=settings.texts, length=length, seed=self.seed + 1_000_000)
        stored = Activations(subject=subject, texts=texts, sites=self.sites(part), seed=self.seed)
        spliced = None if turned else subject
        fit = FitDictionary(
            activations=stored, dictionaries=self.dictionaries, steps=settings.fit_steps, rows=settings.fit_rows,
            subject=spliced, turned=turned, seed=self.seed,
        )  # fmt: skip
        features = MeasureFeatures(
            fit=fit, activations=stored, concepts=AttributeConcepts(text=self.text), subject=spliced,
            followed=(self.followed(shared=True),), seed=self.seed,
        )  # fmt: skip
        return {f"{before}activations": stored, f"{before}dictionaries": fit, f"{before}features": features}


def of(trunk: Train) -> Subject:
    return Subject(model=Checkpoint(stage=trunk))
