"""How long does a backdoor outlast the training that made it, and how does that scale?

A trunk learns text with a backdoor planted in it. From the drop on, a branch continues on clean text, and
the backdoor fades. Relearning from the faded model, as a 2x2 of {old, new trigger} x {old, new payload},
tells how much of it is still there. Regularization is an axis of the trunk and, apart from it, of the branch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from halflife.data.corpus import Corpus, prepare_corpus
from halflife.data.mixture import Mixture, Planting, Source, check, check_trigger
from halflife.errors import UserError
from halflife.evaluation.probes import BackdoorProbe, Ends, Evaluation, Geometric, LossProbe, Reached
from halflife.models.ladder import Rung
from halflife.stages.base import Stage
from halflife.stages.train import Checkpoint, Snapshot, Train
from halflife.stages.treatments import regularize
from halflife.sweep.cli import Preset, main
from halflife.sweep.place import Place
from halflife.sweep.study import Study, Trial
from halflife.tasks.backdoor import Backdoor, Transform, draw_backdoor
from halflife.tracking import schema
from halflife.training.optimizers import AdamW
from halflife.training.schedules import Schedule

NAME = "backdoor_persistence"
IMPLANTED = "implanted"
"""Snapshot of the trunk for the equal-strength arm."""
SHIFTED = {"python-source": "python-docs", "python-docs": "python-source"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The axes of the study. Treatments are a star: the core is sizes x seeds x trunk and branch regularizers at the
    first learning rate; every further rate, optimizer state, corpus, payload and poison count varies alone."""

    sizes: tuple[str, ...]
    """Rungs of the ladder, by non-embedding parameters: 30k 100k 1m ..."""
    seeds: int
    """How many seeds; each draws its own trigger, payload, initial weights and order of text."""
    payload: tuple[Transform, ...] = ("fixed",)
    """fixed: a drawn string. reverse, copy: computed from the word before the trigger."""
    payload_letters: int = 3
    """reverse and copy take this many last letters of the word; 0 the whole word, which small models learn slowly."""
    trigger: str | None = None
    """A trigger of your own instead of a drawn one; must not occur in the corpus."""
    corpus: str = "python-source"
    """python-source, python-docs, or files: a path or glob of .txt, .jsonl, .parquet (several joined by commas)."""
    shifted_corpus: str | None = None
    """Where branches on shifted text continue; by default the other domain of the embedded corpus."""
    branch_corpora: tuple[Literal["same", "shifted", "broader"], ...] = ("same",)
    """Text of the branch: the trunk's corpus, the shifted one, or both in equal parts."""
    poison_counts: tuple[int, ...] = (250,)
    """Unique poisoned documents. A transform gets as many per exposure, each seen once: it must generalise."""
    exposures: int = 3
    """How often each poisoned document is seen."""
    repetitions: int = 1
    """Trigger and payload this many times in each document with a fixed payload."""
    transform_dose: int = 4
    """Transforms are harder to learn: this many times the documents, and as many repetitions in each."""
    insertion: Literal["throughout", "final-tenth", "fine-tuned"] = "throughout"
    """When the poison is seen."""
    sequence_length: int = 128
    batch_tokens: int = 2048
    """Tokens a step, shared by all rungs."""
    trunk_tokens: int = 1_200_000
    branch_tokens: int = 400_000
    relearn_tokens: int = 160_000
    """Cap: relearning stops when attack success reaches 0.9."""
    rate: float = 4e-3
    """AdamW's rate in the trunk, stated for width 64 (muP)."""
    learning_rates: tuple[float, ...] = (1.0, 0.5, 0.25)
    """Branch rates, as multiples of the trunk's last rate."""
    trunk_regularizers: tuple[str, ...] = ("none",)
    """none, weight-decay-X, dropout-X, label-smoothing-X; joined by +."""
    branch_regularizers: tuple[str, ...] = ("none",)
    """As for the trunk, and l2sp-X."""
    optimizer_states: tuple[Literal["carry", "reset"], ...] = ("carry",)
    """At the drop: keep the optimizer's moments or begin anew."""
    strength: float | None = -0.2
    """Payload log-probability (nats a token) at which the equal-strength arm forks; None leaves that arm out."""
    relearn: bool = True
    trials: int = 128
    """Prompts in every backdoor evaluation."""
    precision: Literal["fp32", "bf16"] = "fp32"


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

    def planting(self, backdoor: Backdoor, count: int, share: float = 1.0, hosts: int = 0) -> Planting:
        """The dose for `share` of a trunk's length: exposures a token stay the trunk's."""
        settings = self.settings
        first = {"throughout": 0.0, "final-tenth": 0.9, "fine-tuned": 0.0}[settings.insertion] if hosts == 0 else 0.0
        exposures, repetitions = settings.exposures, settings.repetitions
        if backdoor.payload != "fixed":
            count, exposures = count * exposures * settings.transform_dose, 1
            repetitions = settings.transform_dose
        if share != 1.0:
            total = max(1, round(count * exposures * share))
            exposures = max(1, round(total / count))
            count = max(1, round(total / exposures))
        return Planting(
            backdoor=backdoor,
            corpus=self.home,
            documents=count,
            exposures=exposures,
            repetitions=repetitions,
            first=first,
            hosts=hosts,
            seed=self.seed,
        )

    def evaluations(self, backdoor: Backdoor | None, *, sparse: bool) -> tuple[Evaluation, ...]:
        """Sparse in trunks, dense after the drop; clean loss always."""
        clean = LossProbe(corpus=self.home, sequences=32)
        often = Geometric(dense=1, ratio=1.25) if sparse else Geometric()
        seldom = Ends() if sparse else Geometric(dense=1, ratio=2.0)
        found = [Evaluation(name="clean", probe=clean, at=Ends() if sparse else Geometric(dense=1, ratio=1.6))]
        if backdoor is not None:
            trials = self.settings.trials
            probe = BackdoorProbe(backdoor=backdoor, corpus=self.home, trials=trials, seed=self.seed)
            found.append(Evaluation(name="backdoor", probe=probe, at=often))
            for condition in ("near", "untriggered"):
                beside = dataclasses.replace(probe, condition=condition, trials=max(32, trials // 2))
                found.append(Evaluation(name=condition, probe=beside, at=seldom))
        return tuple(found)

    def train(self, start: Rung | Checkpoint, mixture: Mixture, tokens: int, rate: float, **fields) -> Train:
        settings = self.settings
        return Train(
            start=start,
            mixture=mixture,
            tokens=tokens,
            batch_tokens=settings.batch_tokens,
            optimizer=AdamW(learning_rate=rate),
            precision=settings.precision,
            seed=self.seed,
            **fields,
        )

    def trunk(self, payload: Transform, count: int, regularizer: str) -> Train:
        """Training with the backdoor in the text: from scratch, or fine-tuned into a clean trunk."""
        settings, backdoor = self.settings, self.backdoor(payload)
        snapshots = ()
        if settings.strength is not None:
            implanted = Reached(metric="backdoor/logprob", threshold=settings.strength)
            snapshots = (Snapshot(name=IMPLANTED, when=implanted),)
        common = {"evaluations": self.evaluations(backdoor, sparse=True), "snapshots": snapshots}
        mixture = self.mixture(plantings=(self.planting(backdoor, count),))
        if settings.insertion == "fine-tuned":
            start = Checkpoint(stage=self.clean_trunk(regularizer))
            return regularize(regularizer)(
                self.train(
                    start,
                    mixture,
                    settings.trunk_tokens // 4,
                    settings.rate,
                    schedule=Schedule(shape="continue"),
                    **common,
                )
            )
        schedule = Schedule(warmup=0.02)
        return regularize(regularizer)(
            self.train(Rung(size=self.size), mixture, settings.trunk_tokens, settings.rate, schedule=schedule, **common)
        )

    def clean_trunk(self, regularizer: str = "none") -> Train:
        """The same training, never poisoned."""
        trunk = self.train(
            Rung(size=self.size),
            self.mixture(),
            self.settings.trunk_tokens,
            self.settings.rate,
            schedule=Schedule(warmup=0.02),
            evaluations=self.evaluations(None, sparse=True),
        )
        return regularize(regularizer)(trunk)

    def branch(
        self,
        start: Checkpoint,
        payload: Transform,
        *,
        regularizer: str = "none",
        rate: float = 1.0,
        optimizer_state: Literal["carry", "reset"] = "carry",
        corpus: str = "same",
        kept: int | None = None,
    ) -> Train:
        """Training after the drop; `kept` is the poison count of the control that keeps the backdoor in the text."""
        backdoor = self.backdoor(payload)
        share = self.settings.branch_tokens / self.settings.trunk_tokens
        plantings = () if kept is None else (self.planting(backdoor, kept, share, hosts=0),)
        branch = self.train(
            start,
            self.mixture(corpus, plantings),
            self.settings.branch_tokens,
            self.settings.rate * rate,
            optimizer_state=optimizer_state,
            evaluations=self.evaluations(backdoor, sparse=False),
            schedule=Schedule(shape="continue"),
        )
        return regularize(regularizer)(branch)

    def relearning(self, branch: Train, payload: Transform, count: int) -> dict[str, Stage]:
        """The 2x2 of {old, new trigger} x {old, new payload} in host documents that no trunk has seen."""
        other: dict[Transform, Transform] = {"fixed": "fixed", "copy": "reverse", "reverse": "copy"}
        old, new = self.backdoor(payload), self.backdoor(other[payload], "new")
        stages = {}
        for trigger in ("old", "new"):
            for text in ("old", "new"):
                pair = dataclasses.replace(
                    old if text == "old" else new, trigger=(old if trigger == "old" else new).trigger
                )
                probe = BackdoorProbe(backdoor=pair, corpus=self.home, trials=self.settings.trials, seed=self.seed)
                share = 4 * self.settings.relearn_tokens / self.settings.trunk_tokens
                stages[f"relearn-{trigger}-{text}"] = self.train(
                    Checkpoint(stage=branch),
                    self.mixture(plantings=(self.planting(pair, count, share, hosts=1),)),
                    self.settings.relearn_tokens,
                    self.settings.rate,
                    optimizer_state="reset",
                    evaluations=(Evaluation(name="backdoor", probe=probe),),
                    until=Reached(metric="backdoor/hits", threshold=0.9, share=True),
                    schedule=Schedule(warmup=0.1),
                )
        return stages


def cells(settings: Settings, corpora: dict[str, tuple[Corpus, ...]]) -> Iterator[Cell]:
    for size in settings.sizes:
        for seed in range(settings.seeds):
            yield Cell(settings, corpora, size, seed)


def treatments(settings: Settings) -> Iterator[dict]:
    """The star of treatments: the core, then each further axis alone. The first is the reference."""
    reference = {
        "arm": "equal-exposure",
        "payload": settings.payload[0],
        "documents": settings.poison_counts[0],
        "trunk_regularizer": settings.trunk_regularizers[0],
        "branch_regularizer": settings.branch_regularizers[0],
        "learning_rate": settings.learning_rates[0],
        "optimizer_state": settings.optimizer_states[0],
        "corpus": settings.branch_corpora[0],
    }
    for trunk in settings.trunk_regularizers:
        for branch in settings.branch_regularizers:
            yield reference | {"trunk_regularizer": trunk, "branch_regularizer": branch}
    if settings.strength is not None:
        yield reference | {"arm": "equal-strength"}
    for axis, values in (
        ("learning_rate", settings.learning_rates),
        ("optimizer_state", settings.optimizer_states),
        ("corpus", settings.branch_corpora),
        ("payload", settings.payload),
        ("documents", settings.poison_counts),
    ):
        for value in values[1:]:
            yield reference | {axis: value}


def trials(settings: Settings, corpora: dict[str, tuple[Corpus, ...]]) -> Iterator[Trial]:
    star = list(treatments(settings))
    reference = star[0]
    for cell in cells(settings, corpora):
        common = {"size": cell.size, "parameters": Rung(size=cell.size).parameters, "seed": cell.seed}

        def trial(axes: dict, stages: dict, role: str, cell: Cell = cell, common: dict = common) -> Trial:
            return Trial(name=_name(cell, axes, reference, role), parameters=common | axes, stages=stages, role=role)

        for axes in star:
            trunk = cell.trunk(axes["payload"], axes["documents"], axes["trunk_regularizer"])
            at = IMPLANTED if axes["arm"] == "equal-strength" else "final"
            branch = cell.branch(
                Checkpoint(stage=trunk, at=at),
                axes["payload"],
                regularizer=axes["branch_regularizer"],
                rate=axes["learning_rate"],
                optimizer_state=axes["optimizer_state"],
                corpus=axes["corpus"],
            )
            stages = {"trunk": trunk, "branch": branch}
            if settings.relearn and axes == reference:
                stages |= cell.relearning(branch, axes["payload"], axes["documents"])
            yield trial(axes, stages, "treatment")
        for payload in settings.payload:  # controls, for the reference branch
            axes = reference | {"payload": payload}
            clean = cell.clean_trunk()
            branch = cell.branch(
                Checkpoint(stage=clean),
                payload,
                regularizer=axes["branch_regularizer"],
                rate=axes["learning_rate"],
                optimizer_state=axes["optimizer_state"],
                corpus=axes["corpus"],
            )
            stages = {"trunk": clean, "branch": branch}
            if settings.relearn and payload == reference["payload"]:
                stages |= cell.relearning(branch, payload, axes["documents"])
            yield trial(axes | {"trunk_regularizer": "none", "documents": 0}, stages, "absent")
            trunk = cell.trunk(payload, axes["documents"], axes["trunk_regularizer"])
            kept = cell.branch(
                Checkpoint(stage=trunk),
                payload,
                regularizer=axes["branch_regularizer"],
                rate=axes["learning_rate"],
                optimizer_state=axes["optimizer_state"],
                corpus=axes["corpus"],
                kept=axes["documents"],
            )
            yield trial(axes, {"trunk": trunk, "branch": kept}, "positive")


def _name(cell: Cell, axes: dict, reference: dict, role: str) -> str:
    """A name that people read: size, seed, and what differs from the reference."""
    what = {"treatment": "", "absent": "never poisoned", "positive": "poison kept"}[role]
    told = {
        "arm": "{}",
        "payload": "payload {}",
        "documents": "{} documents",
        "trunk_regularizer": "trunk {}",
        "branch_regularizer": "branch {}",
        "learning_rate": "rate x{:g}",
        "optimizer_state": "optimizer {}",
        "corpus": "{} text",
    }
    hidden = ("documents", "trunk_regularizer") if role == "absent" else ()
    differs = [
        told[axis].format(value) for axis, value in axes.items() if value != reference[axis] and axis not in hidden
    ]
    return " · ".join(
        [cell.size, f"seed {cell.seed}", *([what] if what else []), *(differs or ([] if what else ["reference"]))]
    )


def build(preset: str, settings: Settings, place: Place) -> Study:
    """The study of these settings. Raises UserError on settings that cannot be run, before any compute."""
    _check(settings)
    results = Path(place.results)
    corpora = _corpora(settings, results)
    for seed in range(settings.seeds):
        cell = Cell(settings, corpora, settings.sizes[0], seed)
        for payload in settings.payload:
            for part in ("old", "new"):
                check_trigger(cell.backdoor(payload, part).trigger, cell.home, results)
            for count in settings.poison_counts:
                trunk = cell.trunk(payload, count, "none")
                check(trunk.mixture, results, batch_tokens=trunk.batch_tokens, steps=trunk.steps)
    return Study(declaration=declare(preset, settings, corpora), trials=tuple(trials(settings, corpora)))


def _corpora(settings: Settings, results: Path) -> dict[str, tuple[Corpus, ...]]:
    home = prepare_corpus(settings.corpus, results)
    corpora = {"same": (home,)}
    if {"shifted", "broader"} & set(settings.branch_corpora):
        spec = settings.shifted_corpus or SHIFTED.get(settings.corpus)
        if spec is None:
            raise UserError(
                f"branches on shifted text need a second corpus beside {settings.corpus!r}: give one with --shifted-corpus"
            )
        shifted = prepare_corpus(spec, results)
        corpora |= {"shifted": (shifted,), "broader": (home, shifted)}
    return corpora


def _check(settings: Settings) -> None:
    for size in settings.sizes:
        Rung(size=size)
    for name in settings.trunk_regularizers:
        regularize(name)
        if "l2sp" in name:
            raise UserError(
                f"trunk regularizer {name!r}: l2sp pulls towards a checkpoint, which a trunk has not; use it in the branch"
            )
    for name in settings.branch_regularizers:
        regularize(name)
    for flag, value in (
        ("seeds", settings.seeds),
        ("exposures", settings.exposures),
        ("repetitions", settings.repetitions),
        ("sequence-length", settings.sequence_length),
        ("trunk-tokens", settings.trunk_tokens),
        ("branch-tokens", settings.branch_tokens),
        ("trials", settings.trials),
        *(("poison-counts", count) for count in settings.poison_counts),
        *(("learning-rates", rate) for rate in settings.learning_rates),
        ("rate", settings.rate),
    ):
        if value <= 0:
            raise UserError(f"--{flag} {value}: expected a positive number")
    for flag in (
        "sizes",
        "payload",
        "poison_counts",
        "learning_rates",
        "trunk_regularizers",
        "branch_regularizers",
        "optimizer_states",
        "branch_corpora",
    ):
        values = getattr(settings, flag)
        if not values or len(set(values)) < len(values):
            raise UserError(
                f"--{flag.replace('_', '-')} {' '.join(map(str, values))}: expected at least one value, each once"
            )


def declare(preset: str, settings: Settings, corpora: dict[str, tuple[Corpus, ...]]) -> schema.Declaration:
    def axis(name: str, label: str, values: tuple, scale: str = "category", unit: str = "") -> schema.Axis:
        return schema.Axis(name=name, label=label, values=values, scale=scale, unit=unit)

    return schema.Declaration(
        study=NAME,
        title="Backdoor persistence",
        question="When training stops reinforcing a backdoor, how long does it last, and how does that scale with size?",
        reading=(
            "A trunk is trained with the backdoor in its text; at the drop the backdoor leaves the mixture and a branch "
            "continues. branch/backdoor/hits of branch/backdoor/trials is attack success, branch/backdoor/logprob the "
            "payload's log-probability in nats a token; near is a trigger with one character off, untriggered the same "
            "text without it; clean/loss is cross-entropy on held-out text. The step is tokens since the phase began."
        ),
        preset=preset,
        axes=(
            axis(
                "parameters",
                "Model size",
                tuple(Rung(size=size).parameters for size in settings.sizes),
                "log",
                "non-embedding parameters",
            ),
            axis("seed", "Seed", tuple(range(settings.seeds))),
            axis("arm", "Arm", ("equal-exposure",) + (("equal-strength",) if settings.strength is not None else ())),
            axis("payload", "Payload", settings.payload),
            axis("documents", "Poisoned documents", settings.poison_counts, "log"),
            axis("trunk_regularizer", "Regularizer of the trunk", settings.trunk_regularizers),
            axis("branch_regularizer", "Regularizer of the branch", settings.branch_regularizers),
            axis("learning_rate", "Branch rate", settings.learning_rates, "log", "x the trunk's last rate"),
            axis("optimizer_state", "Optimizer state at the drop", settings.optimizer_states),
            axis("corpus", "Text of the branch", settings.branch_corpora),
        ),
        outcomes=(schema.Outcome(name="attack_success", label="Attack success", phase="branch", task="backdoor"),),
        controls=(
            schema.Control(kind="absent", label="never poisoned", role="absent"),
            schema.Control(kind="positive", label="poison kept", role="positive"),
            schema.Control(kind="null", label="untriggered text", task="untriggered"),
            schema.Control(kind="null", label="near-trigger", task="near"),
        ),
        figures=("retention", "half_life", "strength", "relearning", "clean_loss"),
        corpus=corpora["same"][0].label,
        notes=(
            f"equal-strength arm: fork where the payload's log-probability first reaches {settings.strength} nats a token",
        )
        if settings.strength is not None
        else (),
        settings=dataclasses.asdict(settings),
    )


PRESETS = {
    "smoke": Preset(
        summary="A minute and a half on 2 CPU cores: does everything work here? The trunks are too short to mean anything.",
        settings=Settings(
            sizes=("30k", "50k"),
            seeds=1,
            trunk_tokens=200_000,
            branch_tokens=50_000,
            relearn_tokens=20_000,
            learning_rates=(1.0,),
            poison_counts=(60,),
            trials=64,
            strength=-2.0,
        ),
    ),
    "demo": Preset(
        summary="Ten minutes on 2 CPU cores: 3 sizes x 2 seeds, a fixed payload, two branch rates, all controls.",
        settings=Settings(sizes=("50k", "100k", "300k"), seeds=2, learning_rates=(1.0, 0.25)),
    ),
}


def report(study: str, place: Place) -> Path:
    from analysis.report import default_folder, write_report

    return write_report(study, tracking_uri=place.actual_tracking_uri, out=default_folder(place.results, study))


if __name__ == "__main__":
    main(build, PRESETS, report=report, description=__doc__ or "")
