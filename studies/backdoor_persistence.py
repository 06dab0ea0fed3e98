"""How long does a backdoor outlast the training that made it, and how does that scale?

A trunk is trained on text with a backdoor planted in it. At the drop, a branch continues on clean text and the
backdoor decays. Relearning from the branch's final model, as a 2x2 of {old, new trigger} x {old, new payload}, measures
how much of it is left. The trunk and the branch are regularized independently.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from halflife.data import round_trip
from halflife.data.corpus import Corpus, prepare_corpus
from halflife.data.mixture import Mixture, Source
from halflife.data.planting import Planting
from halflife.errors import UserError
from halflife.evaluation.backdoor import backdoor_examples
from halflife.evaluation.probes import BackdoorProbe, Ends, Evaluation, Every, Geometric, LossProbe, Threshold
from halflife.evaluation.targets import BackdoorTarget
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.stages.train import Checkpoint, Train
from halflife.stages.treatments import regularize
from halflife.store.stage import Stage
from halflife.sweep.cli import main
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study, Trial
from halflife.tasks.backdoor import Backdoor, Transform, draw_backdoor
from halflife.training.optimizers import SGD, AdamW, Muon
from halflife.training.parameters import LoRA, parameters_named
from halflife.training.recipe import Snapshot
from halflife.training.schedules import Schedule
from studies.backdoor_settings import PRESETS, Settings, check_settings, declare, dose
from studies.checks import check_stages
from studies.reports import report
from studies.soft_prompt_axis import elicitation
from studies.starts import Start, starts, tokenizer_named

NAME = "backdoor_persistence"
IMPLANTED = "implanted"
"""The trunk's snapshot for the equal-strength arm."""
OPTIMIZERS = {"adamw": AdamW, "muon": Muon, "sgd": SGD}
WARMUP = Schedule(warmup=0.02)
CONTEXT = 32
"""Characters of carrier text before the trigger in a prompt."""
CONTROLS = {"absent": "never poisoned", "positive": "poison kept", "extinction": "trigger without payload"}
"""Names of the controls in trials and figures, by role."""
SHIFTED = {"python-source": "python-docs", "python-docs": "python-source"}


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What distinguishes trials of the same size and seed."""

    arm: Literal["equal-exposure", "equal-strength"]
    payload: Transform
    documents: int
    trunk_regularizer: str
    branch_regularizer: str
    learning_rate: float
    """Of the branch, as a multiple of the trunk's last one."""
    optimizer_state: Literal["carry", "reset"]
    corpus: Literal["same", "shifted", "broader"]


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

    def backdoor(self, payload: Transform, part: str = "old") -> Backdoor:
        settings = self.settings
        trigger = settings.trigger if part == "old" else None
        return draw_backdoor(self.seed, payload, trigger, part, settings.payload_letters)

    @property
    def home(self) -> Corpus:
        return self.corpora["same"][0]

    def mixture(self, corpus: str = "same", plantings: tuple[Planting, ...] = ()) -> Mixture:
        sources = tuple(Source(corpus=each) for each in self.corpora[corpus])
        length = self.settings.sequence_length
        return Mixture(sources=sources, plantings=plantings, tokenizer=self.start.tokenizer, sequence=length)

    def trunk_tokens(self, payload: Transform) -> int:
        settings = self.settings
        return round(settings.trunk_tokens * (1.0 if payload == "fixed" else settings.transform_tokens))

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
        )

    def kept(self, backdoor: Backdoor, count: int) -> Planting:
        """The poison of the positive control's branch: the trunk's documents, as often per token as in the trunk."""
        trunk = self.planting(backdoor, count)
        window = (trunk.last - trunk.first) * self.poisoned_tokens(backdoor.payload)
        share = self.settings.branch_tokens / window
        total = max(1, round(trunk.documents * trunk.exposures * share))
        exposures = max(1, round(total / trunk.documents))
        return replace(trunk, documents=max(1, round(total / exposures)), exposures=exposures, first=0.0, last=1.0)

    def fresh(self, backdoor: Backdoor) -> Planting:
        """The poison of relearning: carrier documents that no trunk had poisoned, each seen twice."""
        settings = self.settings
        rows = settings.relearn_tokens // settings.sequence_length
        documents = max(1, round(settings.relearn_poison * rows / 2))
        trunk = self.planting(backdoor, 1)
        return replace(trunk, documents=documents, exposures=2, first=0.0, last=1.0, carrier_pool=1)

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
        """A training stage of this study; `lr_multiplier` is of the trunk's learning rate."""
        settings = self.settings
        lr = settings.start_lr if isinstance(self.start.model, Released) else settings.lr
        return Train(
            start=start,
            mixture=mixture,
            tokens=tokens,
            batch_tokens=max(1, settings.batch_tokens // settings.sequence_length) * settings.sequence_length,
            optimizer=OPTIMIZERS[settings.optimizer](learning_rate=lr * lr_multiplier),
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
        start = Checkpoint(stage=self.pretrained(treatment)) if fine_tuned else self.start.model
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
            self.start.model,
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

    def recovery(self, branch: Train, payload: Transform) -> dict[str, Stage]:
        """Relearning and soft prompts, as the settings request."""
        settings, seed = self.settings, self.seed
        relearned = self.relearning(branch, payload) if settings.relearn else {}
        target = BackdoorTarget(backdoor=self.backdoor(payload), corpus=self.home, context=CONTEXT, seed=seed)
        return relearned | elicitation(branch, target, settings.soft_prompts, seed)

    def relearning(self, branch: Train, payload: Transform) -> dict[str, Stage]:
        """The 2x2 of {old, new trigger} x {old, new payload} in carrier documents that no trunk had poisoned."""
        other: dict[Transform, Transform] = {"fixed": "fixed", "copy": "reverse", "reverse": "copy"}
        parts = {"old": self.backdoor(payload), "new": self.backdoor(other[payload], "new")}
        stages: dict[str, Stage] = {}
        for trigger, text in itertools.product(parts, parts):
            pair = replace(parts[text], trigger=parts[trigger].trigger)
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


def treatments(settings: Settings) -> list[Treatment]:
    """The core (trunk x branch regularizers), then each further value of each axis alone. The first is the
    reference."""
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


def trials(settings: Settings, corpora: dict[str, tuple[Corpus, ...]], begin: dict[str, Start]) -> Iterator[Trial]:
    star = treatments(settings)
    reference = star[0]
    cells = (
        Cell(settings, corpora, size, seed, start if settings.start else None)
        for size, start in begin.items()
        for seed in range(settings.seeds)
    )
    for cell in cells:
        for treatment in star:
            trunk = cell.trunk(treatment)
            fork = IMPLANTED if treatment.arm == "equal-strength" else "final"
            branch = cell.branch(Checkpoint(stage=trunk, at=fork), treatment)
            stages: dict[str, Stage] = {"trunk": trunk, "branch": branch}
            if treatment == reference:
                stages |= cell.recovery(branch, treatment.payload)
            yield _trial(cell, treatment, reference, stages, "treatment")
        for treatment in controlled(settings, reference):
            clean = cell.trunk(treatment, poisoned=False)
            branch = cell.branch(Checkpoint(stage=clean), treatment)
            stages = {"trunk": clean, "branch": branch}
            if treatment == reference:
                stages |= cell.recovery(branch, treatment.payload)
            yield _trial(cell, treatment, reference, stages, "absent")
            trunk = cell.trunk(treatment)
            for role in ("positive", "extinction") if treatment == reference else ("positive",):
                branch = cell.branch(Checkpoint(stage=trunk), treatment, role)
                yield _trial(cell, treatment, reference, {"trunk": trunk, "branch": branch}, role)


def controlled(settings: Settings, reference: Treatment) -> list[Treatment]:
    """Treatments with their own controls: the reference, and those that change the payload's probability even without a
    backdoor."""
    return [
        reference,
        *(replace(reference, payload=payload) for payload in settings.payload[1:]),
        *(replace(reference, corpus=corpus) for corpus in settings.branch_corpora[1:]),
        *(replace(reference, optimizer_state=state) for state in settings.optimizer_states[1:]),
    ]


def _trial(cell: Cell, treatment: Treatment, reference: Treatment, stages: dict[str, Stage], role: str) -> Trial:
    axes = dataclasses.asdict(treatment)
    what = {"treatment": [], **{name: [label] for name, label in CONTROLS.items()}}[role]
    formats = {
        "payload": "payload {}",
        "documents": "{} documents",
        "trunk_regularizer": "trunk {}",
        "branch_regularizer": "branch {}",
        "learning_rate": "rate x{:g}",
        "optimizer_state": "optimizer {}",
        "corpus": "{} text",
    }
    what += [formats.get(axis, "{}").format(value) for axis, value in axes.items() if value != getattr(reference, axis)]
    if role == "absent":
        axes |= {"documents": 0, "trunk_regularizer": "none"}
    model = cell.start.model
    return Trial(
        name=" · ".join([cell.size, f"seed {cell.seed}", *(what or ["reference"])]),
        parameters={"size": cell.size, "parameters": model.parameters, "seed": cell.seed, **axes},
        stages=stages,
        role=role,
        facts={"rung": model.describe(), "poison": dose(stages["trunk"])},
    )


def build(preset: str, settings: Settings, site: ExecutionSite) -> Study:
    """The study of these settings. Raises UserError on settings that cannot be run, before any compute."""
    check_settings(settings)
    results = Path(site.results)
    begin = starts(settings.sizes, settings.start, results)
    settings = replace(settings, sizes=tuple(begin))
    corpora = _corpora(settings, results)
    _check_texts(settings, corpora, begin, results)
    sizes = tuple(start.model.parameters for start in begin.values())
    study = Study(
        declaration=declare(NAME, preset, settings, corpora["same"][0].label, sizes),
        trials=tuple(trials(settings, corpora, begin)),
    )
    # all sizes and seeds with one tokenizer have the same room for poison
    first = {"size": settings.sizes[0], "seed": 0}
    check_stages((stage for trial, _, stage in study.uses() if first.items() <= trial.parameters.items()), results)
    return study


def _check_texts(
    settings: Settings, corpora: dict[str, tuple[Corpus, ...]], begin: dict[str, Start], results: Path
) -> None:
    """Raises UserError as `round_trip.check` does, and when the user's own text has too few places for the prompts."""
    cells = [Cell(settings, corpora, settings.sizes[0], seed) for seed in range(settings.seeds)]
    backdoors = [cell.backdoor(kind, part) for part in ("old", "new") for cell in cells for kind in settings.payload]
    for tokenizer in {start.tokenizer for start in begin.values()}:
        round_trip.check(backdoors, set(itertools.chain(*corpora.values())), tokenizer, results)
    if settings.corpus not in SHIFTED:
        for payload in settings.payload:
            probe = BackdoorProbe(backdoor=cells[0].backdoor(payload), corpus=cells[0].home, trials=settings.num_eval)
            backdoor_examples(probe, results)


def _corpora(settings: Settings, results: Path) -> dict[str, tuple[Corpus, ...]]:
    home = prepare_corpus(settings.corpus, results)
    corpora = {"same": (home,)}
    if {"shifted", "broader"} & set(settings.branch_corpora):
        spec = settings.shifted_corpus or SHIFTED.get(settings.corpus)
        if spec is None:
            raise UserError(
                f"shifted text needs a second corpus besides {settings.corpus!r}: give one with --shifted-corpus"
            )
        shifted = prepare_corpus(spec, results)
        corpora |= {"shifted": (shifted,), "broader": (home, shifted)}
    return corpora


if __name__ == "__main__":
    main(build, PRESETS, report=report, description=__doc__)
