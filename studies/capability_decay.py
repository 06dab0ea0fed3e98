"""When training stops reinforcing a capability, how long does it last, how deep is it erased, and why there?

A trunk learns the languages of a family: unrelated ones (A), forms of one skill (B), with translations between them
(C), or with translations of all pairs but one (D). At the drop one language leaves the mixture; a branch continues with
the others. How fast it decays, and how much of it is left, is compared with a model that never learned it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from halflife.data.corpus import Corpus, prepare_corpus
from halflife.errors import UserError
from halflife.kits import axes, language_questions, languages, own_task
from halflife.kits.axes import Varied
from halflife.kits.elicitation import FIGURES, described, elicitation
from halflife.kits.languages import CONTROLS, LEARNED, Cell, Drop, Treatment, check_room
from halflife.kits.settings import check_positive, check_regularizers, flag
from halflife.kits.starts import Start, starts
from halflife.results import study_report
from halflife.stages.train import Checkpoint
from halflife.stages.treatments import intervene
from halflife.store.stage import Stage
from halflife.sweep.cli import Preset, main
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study, Trial, trial
from halflife.tasks.families import MEANING, Kind
from halflife.tracking.schema import Declaration

NAME = "capability_decay"
AXES = {
    "family": Varied(label="Family", setting="families", role="measured"),
    "arm": Varied(label="Arm", values=("equal-exposure", "equal-strength"), text="{}"),
    "drop": Varied(label="What is dropped", setting="drop"),
    "fade": Varied(label="Fading out", setting="fades", scale="linear", unit="of the branch"),
    "translations": Varied(label="Translations of the dropped language", setting="translations"),
    "replay": Varied(label="Replay", setting="replay", scale="linear", unit="of the branch's sequences"),
    "rule_overlap": Varied(label="Shared rule", setting="rule_overlap", scale="linear", unit="of the first operands"),
    "token_overlap": Varied(label="Shared tokens", setting="token_overlap", scale="linear", unit="of the numerals"),
    "trunk_regularizer": Varied(label="Regularizer of the trunk", setting="trunk_regularizers"),
    "branch_regularizer": Varied(label="Regularizer of the branch", setting="branch_regularizers"),
    "intervention": Varied(label="Intervention", setting="interventions"),
    "learning_rate": Varied(label="Branch rate", setting="learning_rates", scale="log", unit="x the trunk's last rate"),
    "length": Varied(label="Trunk length", setting="lengths", scale="log", unit="x the reference's"),
}
OVERLAPS = ("rule_overlap", "token_overlap")
SHARED = ("translations", *OVERLAPS)
"""What a task of the user's does not have in common with anything."""
ALONE = ("drop", "fade", "translations", "replay", *OVERLAPS, "intervention", "learning_rate", "length")
"""Axes of which each further value varies alone: overlaps in B, the others in the focus family."""


@dataclass(frozen=True, kw_only=True)
class Settings(languages.Settings, own_task.Started):
    """The axes of the study. The core is families x sizes x seeds at the first value of every other axis; each further
    value varies alone, in the focus family and at its sizes."""

    families: tuple[Kind, ...] = ("A", "B", "C", "D")
    """A: unrelated sequences. B: one skill in different forms. C: B with translations. D: C without the translations of
    one pair."""
    focus: Kind = "C"
    """The family in which the axes below vary, each alone."""
    focus_sizes: tuple[str, ...] = ()
    """The sizes at which they vary; by default the middle one."""
    drop: tuple[Drop, ...] = ("one",)
    """What leaves the mixture: one language, half of them, or the whole family. With family, trunks also train on text,
    in equal parts, and branches on text alone."""
    fades: tuple[float, ...] = (0.0,)
    """0: the drop is abrupt. Otherwise the dropped languages' share falls to zero over this fraction of the branch."""
    translations: tuple[Literal["dropped", "kept"], ...] = ("dropped",)
    """Whether translations of a dropped language leave with it. Kept, they are training data close to it."""
    replay: tuple[float, ...] = (0.0,)
    """Share of the branch's sequences that replay the dropped languages."""
    rule_overlap: tuple[float, ...] = (1.0,)
    """Share of the dropped language's first operands whose sums obey the shared rule. Varies in B."""
    token_overlap: tuple[float, ...] = (1.0,)
    """Share of its numbers that are written in its own form's numerals, as translations write them. Varies in B."""
    trunk_regularizers: tuple[str, ...] = ("weight-decay-2",)
    """none, or weight-decay-X, weight-decay-coupled-X, dropout-X, label-smoothing-X, gradient-noise-X, batch-tokens-N,
    adamw-LR, sgd-LR, muon-LR; joined by +."""
    branch_regularizers: tuple[str, ...] = ("weight-decay-2",)
    """As for the trunk, and l2sp-X."""
    interventions: tuple[str, ...] = ("none",)
    """Interventions against forgetting, in the branch: l2sp-X, ewc-X, kl-X, lora-RANK, frozen-embeddings,
    frozen-LAYERS."""
    learning_rates: tuple[float, ...] = (1.0,)
    """Learning rates of the branch, as multiples of the trunk's last one."""
    lengths: tuple[float, ...] = (1.0,)
    """Trunk lengths, as multiples of trunk_tokens: tokens per parameter."""
    soft_prompts: tuple[int, ...] = ()
    """Lengths of soft prompts, such as 1 4 16, fitted to elicit the dropped language: at the drop, after the branch,
    and in the model that never learned it."""
    corpus: str = "python-source"
    """The text next to a family that is dropped whole, or to --task with --languages 1; as for backdoor_persistence."""

    @property
    def varied_at(self) -> tuple[str, ...]:
        return self.focus_sizes or (self.sizes[len(self.sizes) // 2],)


REGULARIZERS = ("weight-decay-1", "none", "weight-decay-0.1", "dropout-0.1", "label-smoothing-0.1")
LARGE = Settings(
    languages=10, sizes=("300k", "1m", "3m", "10m", "30m"), seeds=5, drop=("one", "half", "family"), fades=(0.0, 0.5),
    translations=("dropped", "kept"), replay=(0.0, 0.001, 0.01, 0.1), rule_overlap=(1.0, 0.75, 0.5, 0.25, 0.0),
    token_overlap=(1.0, 0.5, 0.0), trunk_regularizers=REGULARIZERS, branch_regularizers=REGULARIZERS,
    interventions=("none", "l2sp-1", "ewc-1", "kl-1", "lora-8", "frozen-embeddings", "frozen-1"),
    learning_rates=(1.0, 0.5, 0.25), lengths=(1.0, 2.0), sequence_length=128, batch_tokens=16_384, shots=3,
    trunk_tokens=50_000_000, branch_tokens=20_000_000, relearn_tokens=2_000_000, precision="bf16",
)  # fmt: skip
PRESETS = {
    "smoke": Preset(
        summary="A minute and a half on 2 CPU cores: does everything work? Trunks are too short for a valid result.",
        settings=Settings(
            families=("B", "C"), modulus=11, sizes=("30k",), seeds=2, trunk_tokens=100_000, branch_tokens=40_000,
            relearn_tokens=20_000, relearn_examples=(8,), num_eval=32,
        ),
    ),
    "demo": Preset(
        summary="22 minutes on 2 CPU cores: families A and C, 2 sizes x 2 seeds, all controls.",
        settings=Settings(families=("A", "C"), sizes=("60k", "120k"), seeds=2, relearn_examples=(8,)),
    ),
    "laptop": Preset(
        summary="230 minutes on 2 CPU cores: families A to D, 3 sizes x 5 seeds; weight decay of "
        "trunk x branch in one family, and the dropped language's overlap with the others in one.",
        settings=Settings(
            sizes=("60k", "120k", "240k"), seeds=5, trunk_regularizers=("weight-decay-2", "weight-decay-1"),
            branch_regularizers=("weight-decay-2", "none"), rule_overlap=(1.0, 0.0), token_overlap=(1.0, 0.0),
            relearn_examples=(8,),
        ),
    ),
    "gpu": Preset(
        summary="Hours on one GPU: ten languages, 5 sizes from 300k to 30m parameters x 5 seeds, every axis.",
        settings=LARGE,
    ),
    "cluster": Preset(
        summary="A cluster: ten languages, 6 sizes from 1m to 300m parameters x 8 seeds, every axis.",
        settings=replace(
            LARGE, sizes=("1m", "3m", "10m", "30m", "100m", "300m"), seeds=8, focus_sizes=("3m", "30m"),
            lengths=(1.0, 2.0, 4.0), batch_tokens=65_536, trunk_tokens=400_000_000, branch_tokens=100_000_000,
            relearn_tokens=10_000_000,
        ),
    ),
}  # fmt: skip


def check_settings(settings: Settings) -> None:
    """Raises UserError on settings that cannot be run."""
    languages.check_settings(settings, own=bool(settings.task), released=bool(settings.start))
    axes.check(AXES, settings)
    check_regularizers(settings)
    for name in settings.interventions:
        intervene(name)
    check_positive(settings, "learning_rates", "lengths")
    for name in ("fades", "replay", "rule_overlap", "token_overlap"):
        for value in getattr(settings, name):
            if not 0 <= value <= 1:
                raise UserError(f"{flag(name)} {value:g}: expected shares from 0 to 1")
    if settings.corpus != Settings.corpus and "family" not in settings.drop and settings.languages > 1:
        raise UserError(
            f"--corpus {settings.corpus}: text is only read with --drop family, or --task and --languages 1; add that "
            "or leave this out"
        )
    if "half" in settings.drop and settings.languages < 4:
        raise UserError(f"--drop half with --languages {settings.languages}: that is one language; give 4 or more")
    for name in OVERLAPS:
        if len(getattr(settings, name)) > 1 and "B" not in settings.families:
            raise UserError(f"{flag(name)} with several values: it varies in family B; add B to --families")
    if settings.focus not in settings.families:
        raise UserError(f"--focus {settings.focus}: expected one of the families, {', '.join(settings.families)}")
    unknown = [size for size in settings.focus_sizes if size not in settings.sizes]
    if unknown:
        raise UserError(f"--focus-sizes {unknown[0]}: expected only sizes from --sizes, {', '.join(settings.sizes)}")


def treatments(settings: Settings, size: str) -> list[Treatment]:
    """The core and, at the sizes where others vary, each further value of each axis alone. The first is the reference.
    Trunk and branch regularizers are crossed."""
    reference = axes.reference(Treatment, AXES, settings)
    core = axes.crossed(reference, "arm", "family", AXES, settings)
    if size not in settings.varied_at:
        return core
    focus = replace(reference, family=settings.focus)
    star = axes.crossed(focus, "trunk_regularizer", "branch_regularizer", AXES, settings)
    for name in ALONE:
        base = replace(reference, family="B") if name in OVERLAPS else focus
        star += axes.alone(base, (name,), AXES, settings)
    return core + [treatment for treatment in star if treatment not in core]


def roles(treatment: Treatment, plain: Treatment, settings: Settings, size: str) -> Iterator[str]:
    """The treatment's, and its controls': what changes the trunk's data or the family has its own."""
    yield "treatment"
    if treatment in (plain, replace(plain, drop="half"), replace(plain, drop="family")):
        yield from ("absent", "positive")
    if treatment == plain and treatment.family == settings.focus and size in settings.varied_at:
        yield "null"


def trials(settings: Settings, text: Corpus | None, begin: dict[str, Start], tasks: own_task.Tasks) -> Iterator[Trial]:
    reference = axes.reference(Treatment, AXES, settings)
    for size, seed in itertools.product(settings.sizes, range(settings.seeds)):
        given: dict[str, Any] = {"own": tasks[size][seed]} if tasks else {}
        given |= {"start": begin[size]} if settings.start else {}
        for treatment in treatments(settings, size):
            plain = replace(reference, family=treatment.family)
            for role in roles(treatment, plain, settings, size):
                read = text if treatment.drop == "family" or settings.languages == 1 else None
                cell = Cell(settings, size, seed, treatment, read, shuffled=role == "null", **given)
                values = {"subject": "+".join(each.name for each in cell.dropped), **dataclasses.asdict(treatment)}
                words, before = axes.words(treatment, plain, AXES, role, CONTROLS), [f"family {treatment.family}"]
                yield trial(cell, values, stages(cell, role, plain, settings), *words, role=role, before=before)


def stages(cell: Cell, role: str, plain: Treatment, settings: Settings) -> dict[str, Stage]:
    """Plain treatments, and the models that never learned, are also relearned from, with soft prompts as requested."""
    trunk = cell.trunk(learned=role != "absent")
    fork = LEARNED if cell.treatment.arm == "equal-strength" else "final"
    branch = cell.branch(Checkpoint(stage=trunk, at=fork), role)
    found: dict[str, Stage] = {"trunk": trunk, "branch": branch}
    if cell.treatment == plain and role in ("treatment", "absent"):
        found |= cell.relearning(branch)
        found |= elicitation(branch, cell.target, settings.soft_prompts, cell.seed)
    return found


def declare(
    preset: str, settings: Settings, chance: float, begin: dict[str, Start], tasks: own_task.Tasks
) -> Declaration:
    shared = [name for name in SHARED if tasks and len(AXES[name].listed(settings)) == 1]
    varied = axes.declared({name: axis for name, axis in AXES.items() if name not in shared}, settings)
    parameters = {size: start.model.parameters for size, start in begin.items()}
    return languages.declare(
        settings,
        chance,
        parameters=tuple(parameters.values()),
        **({"what": "the task", "noun": "task skill"} if tasks else {}),
        study=NAME,
        title="Capability decay",
        question="When training stops reinforcing a capability, how long does it last, and what does that depend on?",
        preset=preset,
        axes=varied,
        figures=(
            *(("languages",) if settings.languages > 1 else ()),
            *(("half_life",) if tasks else ("family", "half_life")),
            *("erasure", "examples"),
            *(FIGURES if settings.soft_prompts else ()),
            *(("effects",) if tasks else ("effects", "overlap", "generalisation")),
        ),
        prompts=described(settings.soft_prompts),
        notes=(own_task.note(settings, tasks),) if tasks else tuple(_notes(settings)),
        **language_questions.asked(
            varied, settings.focus, parameters[settings.varied_at[-1]], several=len(settings.sizes) > 1,
            soft_prompts=settings.soft_prompts, task=bool(tasks),
        ),
    )  # fmt: skip


def _notes(settings: Settings) -> Iterator[str]:
    yield from (f"family {kind}: {MEANING[kind]}" for kind in get_args(Kind) if kind in settings.families)
    yield f"equal strength: branches fork where success on the dropped language first reaches {settings.criterion:g}"
    yield "each seed drops the next language; B, C and D of one seed drop the same form"


def build(preset: str, settings: Settings, site: ExecutionSite) -> Study:
    """The study of these settings. Raises UserError on settings that cannot be run, before any compute."""
    results = Path(site.results)
    begin = starts(settings.sizes, settings.start, results)
    settings = own_task.in_family(settings, begin)
    check_settings(settings)
    tasks = own_task.prepared(settings, begin, results)
    read = "family" in settings.drop or settings.languages == 1
    found = tuple(trials(settings, prepare_corpus(settings.corpus, results) if read else None, begin, tasks))
    chances = [task.chance for each in tasks.values() for task in each] or [
        Cell(settings, settings.sizes[0], seed, Treatment(family=family)).dropped[0].chance
        for family in settings.families
        for seed in range(settings.seeds)
    ]
    if max(chances) >= settings.criterion:
        raise UserError(
            f"--criterion {settings.criterion:g}: expected more than chance, which is {max(chances):.2f} in "
            f"{'the task' if tasks else 'one of the languages'}"
        )
    study = Study(declaration=declare(preset, settings, max(chances), begin, tasks), trials=found)
    first = [trial for trial in study.trials if trial.parameters["size"] == settings.sizes[0]]
    check_room([stage for trial in first for stage in trial.stages.values()], settings, results)
    return study


if __name__ == "__main__":
    main(build, PRESETS, report=study_report, description=__doc__)
