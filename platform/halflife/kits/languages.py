"""Studies of a language that training drops: a trunk learns a family of languages, a branch continues without one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from halflife.data.codecs import load
from halflife.data.corpus import Corpus
from halflife.data.mixture import Mixture, Source
from halflife.data.tokenizers import Lexicon
from halflife.errors import UserError
from halflife.evaluation.probes import Cadence, Ends, Evaluation, Every, Geometric, LayerProbe, TaskProbe, Threshold
from halflife.evaluation.targets import TaskTarget
from halflife.evaluation.tasks import task_rows
from halflife.kits.axes import replicated
from halflife.kits.settings import check_distinct, check_positive, check_stages, check_steps
from halflife.kits.starts import Start
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.stages.train import Checkpoint, Train
from halflife.stages.treatments import anneal, intervene, regularize, replay
from halflife.store.stage import Stage
from halflife.tasks.arithmetic import Translation
from halflife.tasks.families import Family, Kind
from halflife.tasks.synthetic import SyntheticTask
from halflife.tracking.criteria import Levers
from halflife.tracking.schema import Axis, Control, Declaration, Outcome
from halflife.training.optimizers import AdamW
from halflife.training.recipe import Snapshot
from halflife.training.schedules import Schedule

Drop = Literal["one", "half", "family"]
LEARNED = "criterion"
"""The trunk's snapshot for the equal-strength arm."""
ANNEALED = 0.3
"""Fraction of the learning rate at the end of a trunk and in every branch: at the full one, held-out success swings by
a tenth or more from one evaluation to the next (120k, weight decay 2)."""
RELEARNED = 0.95
SELDOM = Geometric(dense=1, ratio=1.6)
RARELY = Geometric(dense=1, ratio=4.0)
"""For forced choice, which scores every item with every answer."""
CONTROLS = {"absent": "never learned it", "positive": "never dropped it", "null": "learned shuffled answers"}
"""Names of the controls in trials and reports, by role."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How languages are learned, dropped and measured, for sizes x seeds."""

    sizes: tuple[str, ...]
    """Model sizes, by non-embedding parameters: 30k 100k 1m ..."""
    seeds: int
    """Number of seeds. Each drops another language, and draws its own items, initial weights and data order."""
    languages: int = 3
    """Languages per family, not counting translations; at most 10."""
    modulus: int = 19
    """Modulus of the additions of B, C and D. A small one has too few sums to tell the rule from a table."""
    translation_share: float = 0.25
    """Translations' share of the trunk's sequences in C and D. A language has the same share in every family."""
    sequence_length: int = 32
    """Predicted tokens per sequence. With fewer items per sequence the rule is found sooner: success on held-out items
    of B at 60k and 2 million tokens (learning rate 4e-3, weight decay 2) is 0.29 at length 64 (one seed), 0.43 and 0.72
    at 32 (two)."""
    batch_tokens: int = 1024
    """Tokens per step, the same at every size."""
    trunk_tokens: int = 2_000_000
    """Length of the trunk."""
    branch_tokens: int = 600_000
    """Length of the branch, over which the decay is measured."""
    relearn_tokens: int = 100_000
    """Maximum length of relearning, which stops when success reaches 0.95."""
    relearn_examples: tuple[int, ...] = (8, 24)
    """Numbers of items of the dropped language to relearn from; all of the trunk's are always tried too."""
    criterion: float = 0.7
    """Success on held-out items of the dropped language (memorised ones where there is no rule) at which the
    equal-strength arm forks."""
    lr: float = 3e-3
    """AdamW's learning rate in the trunk, for width 64 (muP)."""
    num_eval: int = 128
    """Maximum number of items per evaluation of a language."""
    shots: int = 1
    """Number of in-context examples, where there are any."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast, for GPUs."""


def check_settings(settings: Settings, *, own: bool = False, released: bool = False) -> None:
    """Raises UserError on settings that cannot be run. `own`: with a task of the user's, which may stand alone next to
    text. `released`: sizes are the names of released models."""
    if settings.languages < (1 if own else 2):
        raise UserError(f"--languages {settings.languages}: expected at least 2, one to drop and one to keep")
    check_distinct(settings, "sizes")
    for size in () if released else settings.sizes:
        Rung(size=size)
    check_positive(
        settings, "seeds", "sequence_length", "batch_tokens", "num_eval", "shots", "lr", "relearn_examples",
    )  # fmt: skip
    check_steps(settings, "trunk_tokens", "branch_tokens", "relearn_tokens")
    if not 0 < settings.translation_share < 1:
        raise UserError(f"--translation-share {settings.translation_share:g}: expected a share between 0 and 1")
    if not 0 < settings.criterion <= 1:
        raise UserError(f"--criterion {settings.criterion:g}: expected a success rate above chance, at most 1")


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What distinguishes trials of the same size and seed: a value for every axis, by its name."""

    family: Kind = "C"
    arm: str = "equal-exposure"
    drop: Drop = "one"
    fade: float = 0.0
    translations: str = "dropped"
    replay: float = 0.0
    rule_overlap: float = 1.0
    token_overlap: float = 1.0
    trunk_regularizer: str = "weight-decay-2"
    branch_regularizer: str = "weight-decay-2"
    intervention: str = "none"
    learning_rate: float = 1.0
    length: float = 1.0


@dataclass(frozen=True)
class Cell:
    """The parts of all trials of one size, seed and treatment."""

    settings: Settings
    size: str
    seed: int
    treatment: Treatment
    text: Corpus | None = None
    """Next to a family that is dropped whole."""
    shuffled: bool = False
    """The null control: the dropped language's answers are shuffled."""
    own: SyntheticTask | None = None
    """A task of the user's in the place of the dropped language."""
    start: Start | None = None
    """A released model in the place of a fresh one, and its tokenizer."""

    @property
    def model(self) -> Rung | Released:
        return self.start.model if self.start else Rung(size=self.size)

    @cached_property
    def family(self) -> Family:
        settings, treatment = self.settings, self.treatment
        return Family(
            kind=treatment.family,
            size=settings.languages,
            seed=self.seed,
            modulus=settings.modulus,
            subject=self.seed % settings.languages,
            rule_overlap=treatment.rule_overlap,
            token_overlap=treatment.token_overlap,
            shuffled=self.shuffled,
            own=self.own,
        )

    @cached_property
    def dropped(self) -> tuple[SyntheticTask, ...]:
        """The dropped languages; the seed's subject is the first."""
        languages = self.family.languages
        count = {"one": 1, "half": len(languages) // 2, "family": len(languages)}[self.treatment.drop]
        return tuple(languages[(self.family.subject + i) % len(languages)] for i in range(count))

    @cached_property
    def kept(self) -> tuple[SyntheticTask, ...]:
        return tuple(language for language in self.family.languages if language not in self.dropped)

    @property
    def before(self) -> tuple[SyntheticTask, ...]:
        """What the trunk is trained on, including translations."""
        return self.family.trained

    @property
    def after(self) -> tuple[SyntheticTask, ...]:
        """What the branch is trained on."""
        names = tuple(language.name for language in self.dropped)
        return self.family.without(names, keep_translations=self.treatment.translations == "kept")

    def mixture(self, languages: tuple[SyntheticTask, ...]) -> Mixture:
        """A dropped language has the same share in every family, and so have translations together; the languages that
        stay share the rest equally."""
        settings = self.settings
        own = (1 - settings.translation_share) / settings.languages
        pairs = [language for language in languages if isinstance(language, Translation)]
        shares = {pair: settings.translation_share / len(pairs) for pair in pairs}
        shares |= {language: own for language in languages if language not in shares}
        kept = [
            language for language in languages if not isinstance(language, Translation) and language not in self.dropped
        ]
        spare = (1 - sum(shares.values())) / max(1, len(kept))
        shares |= dict.fromkeys(kept, own + spare)
        sources = [Source(corpus=of, weight=share, loss="answers") for of, share in shares.items()]
        if self.text is not None:
            sources.append(Source(corpus=self.text, weight=1.0))
        return Mixture(
            sources=tuple(sources),
            tokenizer=self.start.tokenizer if self.start else Lexicon(pieces=self.family.pieces),
            sequence=settings.sequence_length,
        )

    def evaluation(self, name: str, languages: tuple[SyntheticTask, ...], at: Cadence, **fields) -> Evaluation:
        fields = {"part": "skill", "trials": self.settings.num_eval, "seed": self.seed, **fields}
        return Evaluation(name=name, probe=TaskProbe(tasks=languages, **fields), at=at)

    def evaluations(self, *, trunk_steps: int | None = None) -> tuple[Evaluation, ...]:
        """In a branch dense early on. In a trunk (of `trunk_steps`) evenly spaced, so that it can fork at the
        criterion."""
        family, dropped = self.family, self.dropped
        often = Every(steps=max(1, trunk_steps // 32)) if trunk_steps else Geometric()
        found = [self.evaluation("dropped", dropped, often)]
        if self.kept:
            found.append(self.evaluation("kept", self.kept, Ends() if trunk_steps else SELDOM))
        if family.untrained:
            at = Ends() if trunk_steps else SELDOM
            # never trained on, so all its items count
            found.append(self.evaluation("untrained", family.untrained, at, part="memorised"))
        if trunk_steps:
            return tuple(found)
        choice: dict[str, Any] = {"trials": min(24, self.settings.num_eval)}
        choice |= {"among": "asked"} if self.own else {}  # which may have as many answers as items
        return (
            *found,
            self.evaluation("dropped-memorised", dropped, SELDOM, part="memorised"),
            self.evaluation("language", family.languages, SELDOM, each=True),
            self.evaluation("choice", dropped, RARELY, choice=True, **choice),
            self.evaluation("shots", dropped, SELDOM, shots=self.settings.shots),
            Evaluation(name="layer", probe=LayerProbe(tasks=dropped, trials=self.settings.num_eval), at=Ends()),
        )

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
        rows = max(1, settings.batch_tokens // settings.sequence_length)
        return Train(
            start=start,
            mixture=mixture,
            tokens=tokens,
            batch_tokens=rows * settings.sequence_length,
            optimizer=AdamW(learning_rate=settings.lr * lr_multiplier),
            precision=settings.precision,
            seed=self.seed,
            **fields,
        )

    def trunk(self, *, learned: bool = True) -> Train:
        """Training before the drop; not `learned`, without the dropped languages."""
        treatment = self.treatment
        tokens = round(self.settings.trunk_tokens * treatment.length)
        criterion = Threshold(metric="dropped/hits", threshold=self.settings.criterion, share=True)
        before, after = self.before, self.after
        train = self.train(
            self.model,
            self.mixture(before if learned else tuple(each for each in before if each in after)),
            tokens,
            schedule=Schedule(shape="wsd", warmup=0.02, decay=0.3, final=ANNEALED),
            evaluations=self.evaluations(trunk_steps=tokens // self.settings.batch_tokens),
            snapshots=(Snapshot(name=LEARNED, when=criterion),) if learned else (),
        )
        return regularize(treatment.trunk_regularizer)(train)

    def branch(self, start: Checkpoint, role: str = "treatment") -> Train:
        """Training after the drop. The positive control drops nothing; the absent one replays nothing."""
        treatment, everything = self.treatment, self.mixture(self.before)
        train = self.train(
            start,
            everything if role == "positive" else self.mixture(self.after),
            self.settings.branch_tokens,
            lr_multiplier=ANNEALED * treatment.learning_rate,
            evaluations=self.evaluations(),
        )
        if role != "absent":  # which must never see the dropped languages
            train = replay(train, everything.sources, treatment.replay)
            train = anneal(train, everything.sources, treatment.fade)
        return intervene(treatment.intervention)(regularize(treatment.branch_regularizer)(train))

    def relearning(self, branch: Train) -> dict[str, Stage]:
        """Training on the dropped languages alone, on a given number of items of each."""
        counts: dict[str, int | None] = {f"relearn-{count}": count for count in self.settings.relearn_examples}
        stages: dict[str, Stage] = {}
        for phase, count in {**counts, "relearn-all": None}.items():
            sources = tuple(Source(corpus=language, examples=count, loss="answers") for language in self.dropped)
            stages[phase] = self.train(
                Checkpoint(stage=branch),
                replace(branch.mixture, sources=sources),
                self.settings.relearn_tokens,
                optimizer_state="reset",
                schedule=Schedule(warmup=0.1),
                evaluations=(self.evaluation("dropped", self.dropped, Geometric()),),
                until=Threshold(metric="dropped/hits", threshold=RELEARNED, share=True),
            )
        return stages

    @property
    def target(self) -> TaskTarget:
        """What soft prompts are fitted to elicit: the dropped language, on items that no model was trained on."""
        language = self.dropped[0]
        part = "held-out" if language.examples("held-out") else "memorised"
        return TaskTarget(task=language, evaluate_on=part, called=f"family-{self.family.kind}", seed=self.seed)


def declare(
    settings: Settings,
    chance: float = 0.0,
    /,
    *,
    axes: tuple[Axis, ...] = (),
    parameters: tuple[int, ...] = (),
    what: str = "the dropped language",
    noun: str = "language",
    **fields: Any,
) -> Declaration:
    """What these studies declare alike, for `axes` besides size and seed; `fields` are the study's own, or replace it.

    `chance`: the success rate of guessing the most common answer, where a trial logs none, as every `TaskProbe` does.
    `parameters`: of each size, where sizes are no rungs. `what`: leaves, in labels. `noun`: what is kept or
    lost, in reports.
    """

    def outcome(name: str, label: str, task: str) -> Outcome:
        return Outcome(name=name, label=label, phase="branch", task=task, chance=chance, skill=noun)

    sizes = parameters or tuple(Rung(size=size).parameters for size in settings.sizes)
    common: dict[str, Any] = {
        "reading": (
            f"A trunk learns {what} among others; at the drop it leaves the mixture, and a branch continues with the "
            f"others. branch/dropped/hits out of branch/dropped/trials are items of {what} answered correctly: "
            "held-out ones, never trained on in its form, or memorised ones where there is no rule. choice: forced "
            "choice among its answers; shots: with examples in context; layer-<i>: a linear probe of layer i. Steps "
            "are tokens since the phase began."
        ),
        "axes": (*replicated(sizes, settings.seeds), *axes),
        "outcomes": (
            outcome("skill", f"Skill of {what}", "dropped"),
            outcome("memorised", f"Memorised items of {what}", "dropped-memorised"),
            outcome("choice", "Forced choice among its answers", "choice"),
            outcome("shots", "With examples in context", "shots"),
        ),
        "controls": tuple(Control(kind=role, label=label, role=role) for role, label in CONTROLS.items()),
        "figures": ("retention", "half_life", "examples"),
        "settings": dataclasses.asdict(settings),
        "levers": Levers(trunk="trunk_tokens", branch="branch_tokens", rate="lr", prompts="num_eval"),
    }
    return Declaration(**{**common, **fields})


def check_room(stages: list[Stage], settings: Settings, results: Path) -> None:
    """Raises UserError when an item or a question is longer than a sequence. Seeds do not differ in that."""
    trains = [stage for stage in stages if isinstance(stage, Train)]
    check_stages((train for train in trains if train.seed == 0 and train.depth == 0), results)
    probes = {(train.mixture.tokenizer, evaluation.probe) for train in trains for evaluation in train.evaluations}
    for tokenizer, probe in probes:
        if isinstance(probe, TaskProbe) and not probe.choice:
            task_rows(probe, load(tokenizer, results), settings.sequence_length)
