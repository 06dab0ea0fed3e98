"""How long does a backdoor outlast the training that made it, and how does that scale?

A trunk learns text with a backdoor planted in it. From the drop on, a branch continues on clean text, and
the backdoor fades. Relearning from the faded model, as a 2x2 of {old, new trigger} x {old, new payload},
tells how much of it is still there. Regularization is an axis of the trunk and, apart from it, of the branch.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from halflife.data.corpus import Corpus, prepare_corpus
from halflife.data.mixture import Mixture, Planting, Source, check, check_trigger
from halflife.errors import UserError
from halflife.evaluation.probes import BackdoorProbe, Ends, Evaluation, Every, Geometric, LossProbe, Reached
from halflife.models.ladder import Rung
from halflife.stages.base import Stage
from halflife.stages.train import Checkpoint, Snapshot, Train
from halflife.stages.treatments import regularize
from halflife.sweep.cli import main
from halflife.sweep.place import Place
from halflife.sweep.study import Study, Trial
from halflife.tasks.backdoor import Backdoor, Transform, draw_backdoor
from halflife.training.optimizers import AdamW
from halflife.training.schedules import Schedule
from studies.backdoor_settings import PRESETS, Settings, check_settings, declare

NAME = "backdoor_persistence"
IMPLANTED = "implanted"
"""Snapshot of the trunk for the equal-strength arm."""
WARMUP = Schedule(warmup=0.02)
CONTEXT = 32
"""Characters of host text before the trigger in a prompt."""
SHIFTED = {"python-source": "python-docs", "python-docs": "python-source"}


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What sets one trial apart from another of its size and seed."""

    arm: Literal["equal-exposure", "equal-strength"]
    payload: Transform
    documents: int
    trunk_regularizer: str
    branch_regularizer: str
    learning_rate: float
    """Of the branch, as a multiple of the trunk's last rate."""
    optimizer_state: Literal["carry", "reset"]
    corpus: Literal["same", "shifted", "broader"]


@dataclass(frozen=True)
class Cell:
    """What one size and seed is made of."""

    settings: Settings
    corpora: dict[str, tuple[Corpus, ...]]
    size: str
    seed: int

    def backdoor(self, payload: Transform, part: str = "old") -> Backdoor:
        settings = self.settings
        trigger = settings.trigger if part == "old" else None
        return draw_backdoor(self.seed, payload, trigger, part, settings.payload_letters)

    @property
    def home(self) -> Corpus:
        return self.corpora["same"][0]

    def mixture(self, corpus: str = "same", plantings: tuple[Planting, ...] = ()) -> Mixture:
        sources = tuple(Source(corpus=each) for each in self.corpora[corpus])
        return Mixture(sources=sources, plantings=plantings, sequence=self.settings.sequence_length)

    def trunk_tokens(self, payload: Transform) -> int:
        settings = self.settings
        return round(settings.trunk_tokens * (1.0 if payload == "fixed" else settings.transform_tokens))

    def planting(self, backdoor: Backdoor, count: int) -> Planting:
        """What a trunk is poisoned with."""
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
        )

    def kept(self, backdoor: Backdoor, count: int) -> Planting:
        """The trunk's documents at the trunk's rate a token, over a branch: the control that keeps the cause."""
        trunk = self.planting(backdoor, count)
        share = self.settings.branch_tokens / self.trunk_tokens(backdoor.payload)
        total = max(1, round(trunk.documents * trunk.exposures * share))
        exposures = max(1, round(total / trunk.documents))
        return replace(trunk, documents=max(1, round(total / exposures)), exposures=exposures, first=0.0, last=1.0)

    def fresh(self, backdoor: Backdoor) -> Planting:
        """What relearning is poisoned with: host documents that no trunk has seen, each seen twice."""
        settings = self.settings
        rows = settings.relearn_tokens // settings.sequence_length
        documents = max(1, round(settings.relearn_poison * rows / 2))
        trunk = self.planting(backdoor, 1)
        return replace(trunk, documents=documents, exposures=2, first=0.0, last=1.0, hosts=1)

    def evaluations(self, backdoor: Backdoor | None, *, trunk_steps: int | None = None) -> tuple[Evaluation, ...]:
        """After the drop early and dense. In a trunk evenly, to fork it where it reaches a given strength."""
        clean = LossProbe(corpus=self.home, sequences=32)
        often = Every(steps=max(1, trunk_steps // 32)) if trunk_steps else Geometric()
        seldom = Ends() if trunk_steps else Geometric(dense=1, ratio=2.0)
        found = [Evaluation(name="clean", probe=clean, at=Ends() if trunk_steps else Geometric(dense=1, ratio=1.6))]
        if backdoor is not None:
            trials = self.settings.trials
            probe = BackdoorProbe(backdoor=backdoor, corpus=self.home, trials=trials, context=CONTEXT, seed=self.seed)
            found.append(Evaluation(name="backdoor", probe=probe, at=often))
            for condition in ("near", "untriggered"):
                beside = replace(probe, condition=condition, trials=max(32, trials // 2))
                found.append(Evaluation(name=condition, probe=beside, at=seldom))
        return tuple(found)

    def train(self, start: Rung | Checkpoint, mixture: Mixture, tokens: int, *, rate: float = 1.0, **fields) -> Train:
        """A Train of this study; `rate` is a multiple of the trunk's."""
        settings = self.settings
        return Train(
            start=start,
            mixture=mixture,
            tokens=tokens,
            batch_tokens=max(1, settings.batch_tokens // settings.sequence_length) * settings.sequence_length,
            optimizer=AdamW(learning_rate=settings.rate * rate),
            precision=settings.precision,
            seed=self.seed,
            **fields,
        )

    def trunk(self, treatment: Treatment) -> Train:
        """Training with the backdoor in the text: from scratch, or fine-tuned into a clean trunk."""
        settings, payload = self.settings, treatment.payload
        backdoor = self.backdoor(payload)
        snapshots = ()
        if settings.strength is not None:
            implanted = Reached(metric="backdoor/logprob", threshold=settings.strength)
            snapshots = (Snapshot(name=IMPLANTED, when=implanted),)
        start, tokens, schedule = Rung(size=self.size), self.trunk_tokens(payload), WARMUP
        if settings.insertion == "fine-tuned":
            start, tokens = Checkpoint(stage=self.clean_trunk(payload, treatment.trunk_regularizer)), tokens // 4
            schedule = Schedule(shape="continue")
        return regularize(treatment.trunk_regularizer)(
            self.train(
                start,
                self.mixture(plantings=(self.planting(backdoor, treatment.documents),)),
                tokens,
                schedule=schedule,
                evaluations=self.evaluations(backdoor, trunk_steps=tokens // settings.batch_tokens),
                snapshots=snapshots,
            )
        )

    def clean_trunk(self, payload: Transform, regularizer: str = "none") -> Train:
        """The same training, never poisoned; one for all backdoors whose trunks are as long."""
        return regularize(regularizer)(
            self.train(
                Rung(size=self.size),
                self.mixture(),
                self.trunk_tokens(payload),
                schedule=WARMUP,
                evaluations=self.evaluations(None, trunk_steps=1),
            )
        )

    def branch(self, start: Checkpoint, treatment: Treatment, *, keep: bool = False) -> Train:
        """Training after the drop; `keep` makes the control in which the backdoor stays in the text."""
        backdoor = self.backdoor(treatment.payload)
        plantings = (self.kept(backdoor, treatment.documents),) if keep else ()
        return regularize(treatment.branch_regularizer)(
            self.train(
                start,
                self.mixture(treatment.corpus, plantings),
                self.settings.branch_tokens,
                rate=treatment.learning_rate,
                optimizer_state=treatment.optimizer_state,
                schedule=Schedule(shape="continue"),
                evaluations=self.evaluations(backdoor),
            )
        )

    def relearning(self, branch: Train, payload: Transform) -> dict[str, Stage]:
        """The 2x2 of {old, new trigger} x {old, new payload} in host documents that no trunk has seen."""
        other: dict[Transform, Transform] = {"fixed": "fixed", "copy": "reverse", "reverse": "copy"}
        parts = {"old": self.backdoor(payload), "new": self.backdoor(other[payload], "new")}
        stages: dict[str, Stage] = {}
        for trigger, text in itertools.product(parts, parts):
            pair = replace(parts[text], trigger=parts[trigger].trigger)
            probe = BackdoorProbe(
                backdoor=pair, corpus=self.home, trials=self.settings.trials, context=CONTEXT, seed=self.seed
            )
            stages[f"relearn-{trigger}-{text}"] = self.train(
                Checkpoint(stage=branch),
                self.mixture(plantings=(self.fresh(pair),)),
                self.settings.relearn_tokens,
                optimizer_state="reset",
                schedule=Schedule(warmup=0.1),
                evaluations=(Evaluation(name="backdoor", probe=probe),),
                until=Reached(metric="backdoor/hits", threshold=0.9, share=True),
            )
        return stages


def treatments(settings: Settings) -> list[Treatment]:
    """The star: the core (trunk x branch regularizers), then each further axis alone. The first is the reference."""
    reference = Treatment(
        arm="equal-exposure",
        payload=settings.payload[0],
        documents=settings.poison_counts[0],
        trunk_regularizer=settings.trunk_regularizers[0],
        branch_regularizer=settings.branch_regularizers[0],
        learning_rate=settings.learning_rates[0],
        optimizer_state=settings.optimizer_states[0],
        corpus=settings.branch_corpora[0],
    )
    star = [
        replace(reference, trunk_regularizer=trunk, branch_regularizer=branch)
        for trunk in settings.trunk_regularizers
        for branch in settings.branch_regularizers
    ]
    if settings.strength is not None:
        star.append(replace(reference, arm="equal-strength"))
    star += [replace(reference, learning_rate=rate) for rate in settings.learning_rates[1:]]
    star += [replace(reference, optimizer_state=state) for state in settings.optimizer_states[1:]]
    star += [replace(reference, corpus=corpus) for corpus in settings.branch_corpora[1:]]
    star += [replace(reference, payload=payload) for payload in settings.payload[1:]]
    star += [replace(reference, documents=count) for count in settings.poison_counts[1:]]
    return star


def trials(settings: Settings, corpora: dict[str, tuple[Corpus, ...]]) -> Iterator[Trial]:
    star = treatments(settings)
    reference = star[0]
    for cell in (Cell(settings, corpora, size, seed) for size in settings.sizes for seed in range(settings.seeds)):
        for treatment in star:
            trunk = cell.trunk(treatment)
            fork = IMPLANTED if treatment.arm == "equal-strength" else "final"
            branch = cell.branch(Checkpoint(stage=trunk, at=fork), treatment)
            stages: dict[str, Stage] = {"trunk": trunk, "branch": branch}
            if settings.relearn and treatment == reference:
                stages |= cell.relearning(branch, treatment.payload)
            yield _trial(cell, treatment, reference, stages, "treatment")
        for payload in settings.payload:  # the controls, of the reference but for the payload
            treatment = replace(reference, payload=payload)
            clean = cell.clean_trunk(payload)
            branch = cell.branch(Checkpoint(stage=clean), treatment)
            stages = {"trunk": clean, "branch": branch}
            if settings.relearn and treatment == reference:
                stages |= cell.relearning(branch, payload)
            yield _trial(cell, treatment, reference, stages, "absent")
            trunk = cell.trunk(treatment)
            kept = cell.branch(Checkpoint(stage=trunk), treatment, keep=True)
            yield _trial(cell, treatment, reference, {"trunk": trunk, "branch": kept}, "positive")


def _trial(cell: Cell, treatment: Treatment, reference: Treatment, stages: dict[str, Stage], role: str) -> Trial:
    axes = dataclasses.asdict(treatment)
    what = {"treatment": [], "absent": ["never poisoned"], "positive": ["poison kept"]}[role]
    told = {
        "payload": "payload {}",
        "documents": "{} documents",
        "trunk_regularizer": "trunk {}",
        "branch_regularizer": "branch {}",
        "learning_rate": "rate x{:g}",
        "optimizer_state": "optimizer {}",
        "corpus": "{} text",
    }
    what += [told.get(axis, "{}").format(value) for axis, value in axes.items() if value != getattr(reference, axis)]
    if role == "absent":
        axes |= {"documents": 0, "trunk_regularizer": "none"}
    rung = Rung(size=cell.size)
    return Trial(
        name=" · ".join([cell.size, f"seed {cell.seed}", *(what or ["reference"])]),
        parameters={"size": cell.size, "parameters": rung.parameters, "seed": cell.seed, **axes},
        stages=stages,
        role=role,
        facts={"rung": rung.describe()},
    )


def build(preset: str, settings: Settings, place: Place) -> Study:
    """The study of these settings. Raises UserError on settings that cannot be run, before any compute."""
    check_settings(settings)
    results = Path(place.results)
    corpora = _corpora(settings, results)
    for seed in range(settings.seeds):
        cell = Cell(settings, corpora, settings.sizes[0], seed)
        for part in ("old", "new"):
            check_trigger(cell.backdoor("fixed", part).trigger, cell.home, results)
    cell = Cell(settings, corpora, settings.sizes[0], 0)
    for train in {stage.key: stage for stage in map(cell.trunk, treatments(settings))}.values():
        check(train.mixture, results, batch_tokens=train.batch_tokens, steps=train.steps)
    declaration = declare(NAME, preset, settings, cell.home.label)
    return Study(declaration=declaration, trials=tuple(trials(settings, corpora)))


def _corpora(settings: Settings, results: Path) -> dict[str, tuple[Corpus, ...]]:
    home = prepare_corpus(settings.corpus, results)
    corpora = {"same": (home,)}
    if {"shifted", "broader"} & set(settings.branch_corpora):
        spec = settings.shifted_corpus or SHIFTED.get(settings.corpus)
        if spec is None:
            raise UserError(
                f"shifted text needs a second corpus beside {settings.corpus!r}: give one with --shifted-corpus"
            )
        shifted = prepare_corpus(spec, results)
        corpora |= {"shifted": (shifted,), "broader": (home, shifted)}
    return corpora


def report(study: str, place: Place) -> Path:
    from analysis.report import default_folder, write_report

    return write_report(study, tracking_uri=place.actual_tracking_uri, out=default_folder(place.results, study))


if __name__ == "__main__":
    main(build, PRESETS, report=report, description=__doc__)
