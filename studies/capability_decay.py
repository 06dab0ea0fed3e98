"""When training stops reinforcing a capability, how long does it last, how deep is it erased, and why there?

A trunk learns the languages of a family: unrelated ones (A), forms of one skill (B), with translations between them
(C), or with translations of all pairs but one (D). At the drop one language leaves the mixture; a branch continues with
the others. How fast it decays, and how much of it is left, is compared with a model that never learned it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from halflife.data.codecs import load
from halflife.data.corpus import Corpus, prepare_corpus
from halflife.data.mixture import Mixture, Source
from halflife.data.tokenizers import Lexicon
from halflife.errors import UserError
from halflife.evaluation.probes import Cadence, Ends, Evaluation, Every, Geometric, LayerProbe, TaskProbe, Threshold
from halflife.evaluation.targets import TaskTarget
from halflife.evaluation.tasks import task_rows
from halflife.models.ladder import Rung
from halflife.stages.train import Checkpoint, Train
from halflife.stages.treatments import anneal, intervene, regularize, replay
from halflife.store.stage import Stage
from halflife.sweep.cli import main
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Scalar, Study, Trial
from halflife.tasks.arithmetic import Translation
from halflife.tasks.families import Family, Kind
from halflife.tasks.synthetic import SyntheticTask
from halflife.training.optimizers import AdamW
from halflife.training.recipe import Snapshot
from halflife.training.schedules import Schedule
from studies.capability_settings import ARMS, AXES, CONTROLS, PRESETS, Drop, Settings, check_settings, declare
from studies.checks import check_stages
from studies.reports import report
from studies.soft_prompt_axis import elicitation

NAME = "capability_decay"
LEARNED = "criterion"
"""The trunk's snapshot for the equal-strength arm."""
ANNEALED = 0.3
"""Fraction of the learning rate at the end of a trunk and in every branch: at the full one, held-out success swings by
a tenth or more from one evaluation to the next (120k, weight decay 2)."""
RELEARNED = 0.95
SELDOM = Geometric(dense=1, ratio=1.6)
RARELY = Geometric(dense=1, ratio=4.0)
"""For forced choice, which scores every item with every answer."""


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What distinguishes trials of the same size and seed: a value for every axis, by its name."""

    family: Kind
    arm: str
    drop: Drop
    fade: float
    translations: str
    replay: float
    rule_overlap: float
    token_overlap: float
    trunk_regularizer: str
    branch_regularizer: str
    intervention: str
    learning_rate: float
    length: float


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
            tokenizer=Lexicon(pieces=self.family.pieces),
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
        return (
            *found,
            self.evaluation("dropped-memorised", dropped, SELDOM, part="memorised"),
            self.evaluation("language", family.languages, SELDOM, each=True),
            self.evaluation("choice", dropped, RARELY, choice=True, trials=min(24, self.settings.num_eval)),
            self.evaluation("shots", dropped, SELDOM, shots=self.settings.shots),
            Evaluation(name="layer", probe=LayerProbe(tasks=dropped, trials=self.settings.num_eval), at=Ends()),
        )

    def train(
        self, start: Rung | Checkpoint, mixture: Mixture, tokens: int, *, lr_multiplier: float = 1.0, **fields
    ) -> Train:
        """A training stage of this study; `lr_multiplier` is of the trunk's learning rate."""
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
            Rung(size=self.size),
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
        """Training on the dropped languages alone, on a given number of items of each; then soft prompts."""
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
        return stages | self.prompted(branch)

    def prompted(self, branch: Train) -> dict[str, Stage]:
        """Soft prompts fitted to the dropped language and evaluated on items that no model was trained on."""
        language = self.dropped[0]
        part = "held-out" if language.examples("held-out") else "memorised"
        target = TaskTarget(task=language, evaluate_on=part, called=f"family-{self.family.kind}", seed=self.seed)
        return elicitation(branch, target, self.settings.soft_prompts, self.seed)


def treatments(settings: Settings) -> list[tuple[Treatment, tuple[str, ...]]]:
    """Every treatment with its sizes: the core, then each further value of each axis alone.

    The first is the reference. Trunk and branch regularizers are crossed; overlaps vary in B.
    """
    reference = Treatment(
        family=settings.families[0],
        arm=ARMS[0],
        **{
            name: getattr(settings, source)[0] for name, (source, _, _) in AXES.items() if name not in ("family", "arm")
        },
    )
    arms = [replace(reference, arm=arm) for arm in ARMS]
    core = [replace(each, family=family) for each in arms for family in settings.families]
    focus = replace(reference, family=settings.focus)
    star = [
        replace(focus, trunk_regularizer=trunk, branch_regularizer=branch)
        for trunk in settings.trunk_regularizers
        for branch in settings.branch_regularizers
    ]
    alone = [name for name in AXES if name not in ("family", "arm", "trunk_regularizer", "branch_regularizer")]
    for name in alone:
        for value in getattr(settings, AXES[name][0])[1:]:
            base = replace(reference, family="B") if name.endswith("_overlap") else focus
            star.append(replace(base, **{name: value}))
    return [
        *((treatment, settings.sizes) for treatment in core),
        *((treatment, settings.varied_at) for treatment in star if treatment not in core),
    ]


def trials(settings: Settings, text: Corpus | None) -> Iterator[Trial]:
    planned = treatments(settings)
    reference = planned[0][0]
    for size in settings.sizes:
        for seed in range(settings.seeds):
            for treatment in (treatment for treatment, sizes in planned if size in sizes):
                cell = Cell(settings, size, seed, treatment, text if treatment.drop == "family" else None)
                yield from _trials(cell, reference)


def _trials(cell: Cell, reference: Treatment) -> Iterator[Trial]:
    """The treatment and its controls. Treatments that change the trunk's data or the family have their own."""
    settings, treatment = cell.settings, cell.treatment
    trunk, plain = cell.trunk(), replace(reference, family=treatment.family)
    fork = LEARNED if treatment.arm == "equal-strength" else "final"
    branch = cell.branch(Checkpoint(stage=trunk, at=fork))
    stages: dict[str, Stage] = {"trunk": trunk, "branch": branch}
    if treatment == plain:
        stages |= cell.relearning(branch)
    yield _trial(cell, reference, stages, "treatment")
    if treatment == plain or treatment in (replace(plain, drop="half"), replace(plain, drop="family")):
        never = cell.trunk(learned=False)
        branch = cell.branch(Checkpoint(stage=never), "absent")
        relearned = cell.relearning(branch) if treatment == plain else {}
        yield _trial(cell, reference, {"trunk": never, "branch": branch, **relearned}, "absent")
        yield _trial(
            cell, reference, {"trunk": trunk, "branch": cell.branch(Checkpoint(stage=trunk), "positive")}, "positive"
        )
    if treatment == plain and treatment.family == settings.focus and cell.size in settings.varied_at:
        null = replace(cell, shuffled=True)
        trunk = null.trunk()
        yield _trial(null, reference, {"trunk": trunk, "branch": null.branch(Checkpoint(stage=trunk))}, "null")


def _trial(cell: Cell, reference: Treatment, stages: dict[str, Stage], role: str) -> Trial:
    axes: dict[str, Scalar] = dataclasses.asdict(cell.treatment)
    what = [CONTROLS[role]] if role in CONTROLS else []
    for axis, value in axes.items():
        if axis != "family" and value != getattr(reference, axis):
            what.append(str(value) if axis == "arm" else f"{AXES[axis][1].lower()} {value}")
    subject = "+".join(language.name for language in cell.dropped)
    model = Rung(size=cell.size)
    family = cell.treatment.family
    return Trial(
        name=" · ".join([f"family {family}", cell.size, f"seed {cell.seed}", *(what or ["reference"])]),
        parameters={"size": cell.size, "parameters": model.parameters, "seed": cell.seed, "subject": subject, **axes},
        stages=stages,
        role=role,
        facts={"rung": model.describe()},
    )


def build(preset: str, settings: Settings, site: ExecutionSite) -> Study:
    """The study of these settings. Raises UserError on settings that cannot be run, before any compute."""
    check_settings(settings)
    results = Path(site.results)
    text = prepare_corpus(settings.corpus, results) if "family" in settings.drop else None
    found = tuple(trials(settings, text))
    chances = [
        Cell(settings, settings.sizes[0], seed, treatment).dropped[0].chance
        for treatment, _ in treatments(settings)[: len(settings.families)]
        for seed in range(settings.seeds)
    ]
    if max(chances) >= settings.criterion:
        raise UserError(
            f"--criterion {settings.criterion:g}: expected more than chance, which is {max(chances):.2f} in one of the "
            "languages"
        )
    study = Study(declaration=declare(NAME, preset, settings, max(chances)), trials=found)
    first = [trial for trial in study.trials if trial.parameters["size"] == settings.sizes[0]]
    check_room([stage for trial in first for stage in trial.stages.values()], settings, results)
    return study


def check_room(stages: list[Stage], settings: Settings, results: Path) -> None:
    """Raises UserError when an item or a question is longer than a sequence. Seeds do not differ in that."""
    trains = [stage for stage in stages if isinstance(stage, Train)]
    check_stages((train for train in trains if train.seed == 0 and train.depth == 0), results)
    probes = {(train.mixture.tokenizer, evaluation.probe) for train in trains for evaluation in train.evaluations}
    for tokenizer, probe in probes:
        if isinstance(probe, TaskProbe) and not probe.choice:
            task_rows(probe, load(tokenizer, results), settings.sequence_length)


if __name__ == "__main__":
    main(build, PRESETS, report=report, description=__doc__)
