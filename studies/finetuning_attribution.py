"""What did fine-tuning change inside a model, named by features: and do repeated runs use the same ones?

A trunk learns text with latent attributes, and dictionaries (sparse autoencoders) are fitted to its residual stream. It
is fine-tuned towards one attribute, which is known exactly. A loss between the two models' predictions is
backpropagated through the trunk into the features. Do those with the highest scores stand for that attribute? Does
moving them in the trunk reproduce what fine-tuning did, and moving them back in the tuned model undo it? Everything is
less what the same training without the attribute does.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from halflife.errors import UserError
from halflife.interpret.attribution import Attribute
from halflife.interpret.compare_attributions import CompareAttributions
from halflife.kits import axes, finetuning, finetuning_questions, finetuning_text
from halflife.kits.axes import Varied, replicated
from halflife.kits.finetuning import Cell, Slot
from halflife.kits.finetuning_algorithms import ALGORITHMS, Algorithm
from halflife.kits.finetuning_text import Maker
from halflife.results import study_report
from halflife.store.stage import Stage
from halflife.sweep.cli import Preset, main
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study, Trial, trial
from halflife.tracking.criteria import Levers
from halflife.tracking.schema import Axis, Control, Declaration

NAME = "finetuning_attribution"
AXES = {"algorithm": Varied(label="Fine-tuning", setting="algorithms", text="{}")}
"""The first value is the reference's; each further value varies alone."""
OTHER = 1
"""The attribute that the control of another intent is tuned for"""
PILOT = 0
PILOTED = (
    f"The measures were defined while looking at seed {PILOT} of 30k, before the questions were declared, and its "
    f"results are among the answers. --pilots {PILOT}, with a seed more (--seeds), leaves them out."
)

READING = (
    "A feature's score is the cosine between what moving it does to the logits and what fine-tuning did to them, less "
    "the null: as many steps on documents that were not chosen. It is moved in proportion to its own activation; "
    "elsewhere alike for all tokens, or as far as fine-tuning moved it. {stands}An edit of the top features is "
    "measured by the share of the change of the logits that it reproduces in the trunk, and undoes in the tuned model, "
    "beside other features that are as active and as effective. The positive control moves single features in the "
    "trunk itself: they must be ranked first. The measures: {aligned}explained and undone (.../10 edits ten features); "
    "attribution/change/outside, the share of the change that no feature at the site can make; planted, the positive "
    "control. In their names d0 is the first dictionary; active, everywhere and change are the three ways to move "
    "features; dot (product) and kl are losses between the two models."
)
STANDS = (
    "Alignment is the correlation, over the features that fire at all, of this score with what each feature stands "
    "for: how its activation correlates with the exact log-odds of the attribute. "
)
ALIGNED = "attribution/d0.dot.active/alignment; "


@dataclass(frozen=True, kw_only=True)
class Settings(finetuning.Settings):
    """Sizes x seeds x runs of each algorithm of fine-tuning."""

    algorithms: tuple[str, ...] = ("sft",)
    """sft: supervised, on documents that have the attribute. rl, rl-0.1, rl-0: by reward, at KL strength 1, 0.1, 0. dt:
    on documents behind return tokens. cond: not tuned, a trunk trained with tags. ppo: PPO on a reward learned from
    preferences; ppo-reward, ppo-sampling, ppo-order: its runs differ in that seed only."""


PRESETS = {
    "smoke": Preset(
        summary="A minute and a half on 2 CPU cores: does everything work? Too short for a valid result.",
        settings=Settings(
            sizes=("30k",), seeds=1, runs=2, trunk_tokens=60_000, tuning_steps=10, latents=64, fit_steps=60,
            fit_rows=256, stored=400, texts=32, features=(1, 4), num_eval=64, dictionary_seeds=1, property_texts=500,
        ),
    ),
    "demo": Preset(
        summary="Ten minutes on 2 CPU cores: one size x 2 seeds, two runs.",
        settings=Settings(sizes=("60k",), seeds=2),
    ),
    "laptop": Preset(
        summary="An hour on 2 CPU cores: 3 sizes x 5 seeds, three runs, supervised and by reward.",
        settings=Settings(sizes=("30k", "60k", "120k"), seeds=5, runs=3, algorithms=("sft", "rl")),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What distinguishes trials of the same size, seed and run: a value for every axis, by its name."""

    algorithm: str


def check_settings(settings: Settings) -> None:
    """Raises UserError on settings that cannot be run."""
    finetuning.check_settings(settings)
    axes.check(AXES, settings)
    for name in settings.algorithms:
        if name not in ALGORITHMS:
            raise UserError(f"unknown fine-tuning {name!r}: expected one of {', '.join(ALGORITHMS)}")
        if ALGORITHMS[name].needs_grammar and settings.organism != "grammar":
            raise UserError(
                f"--algorithms {name} with --organism {settings.organism}: it needs known attributes; use sft"
            )


def planned(settings: Settings) -> Iterator[tuple[Treatment, str, int]]:
    """Each treatment of a size and seed with its role and run."""
    for algorithm in settings.algorithms:
        for run in range(settings.runs if ALGORITHMS[algorithm].repeats else 1):
            yield from ((Treatment(algorithm=algorithm), role, run) for role in ("treatment", "null"))
        yield Treatment(algorithm=algorithm), "absent", 0


def trials(settings: Settings, make: Maker = Cell) -> Iterator[Trial]:
    reference = axes.reference(Treatment, AXES, settings)
    names = {"null": "null", "absent": "another attribute"}
    for size, seed in itertools.product(settings.sizes, range(settings.seeds)):
        for treatment, role, run in planned(settings):
            cell = make(settings, size, seed, ALGORITHMS[treatment.algorithm].slot)
            words = axes.words(treatment, reference, AXES, role, names)
            values = {**dataclasses.asdict(treatment), "run": run}
            yield trial(cell, values, stages(cell, treatment, role, run), *words, f"run {run}", role=role)


def stages(cell: Cell, treatment: Treatment, role: str, run: int) -> dict[str, Stage]:
    algorithm, runs = ALGORITHMS[treatment.algorithm], cell.settings.runs
    attribution = attributed(cell, algorithm, role, run)
    found: dict[str, Stage] = {
        "trunk": cell.measured(cell.base), "activations": cell.activations, "dictionaries": cell.dictionaries,
        **algorithm.also(attribution.tuned), "tuning": cell.measured(attribution.tuned), "attribution": attribution,
    }  # fmt: skip
    if run == 0 and cell.settings.fresh and role in ("treatment", "null"):
        found["transfer"] = cell.transfer(attribution.tuned)
    if run == 0 and cell.settings.shown and role == "treatment":
        found["shown"] = cell.features(attribution)
    if run == 0 and runs > 1 and algorithm.repeats and role in ("treatment", "null"):
        first = ALGORITHMS[cell.settings.algorithms[0]]  # type: ignore[attr-defined]
        alike = first is not algorithm and first.slot == algorithm.slot
        same, others = (
            tuple(attributed(cell, each, role, run) for run in range(count))
            for each, count in ((algorithm, runs), (first, runs if alike else 0))
        )
        found["runs"] = CompareAttributions(runs=same, others=others)
    return found


def attributed(cell: Cell, algorithm: Algorithm, role: str, run: int) -> Attribute:
    """A fine-tuning less its null; the null of another run less that; or a fine-tuning for another attribute."""
    null = algorithm.null(cell, run)
    if role == "null":
        return cell.attribution(algorithm.null(cell, run + cell.settings.runs), null)
    return cell.attribution(algorithm.tuned(cell, run, 0 if role == "treatment" else OTHER), null)


def declare(preset: str, settings: Settings, make: Maker = Cell) -> Declaration:
    parameters = tuple(make(settings, size, 0, Slot()).model.parameters for size in settings.sizes)
    known = settings.organism == "grammar"
    varied = axes.declared(AXES, settings)
    several = len(settings.sizes) > 1
    return Declaration(
        study=NAME,
        title="What fine-tuning used",
        question="Which features of a model does fine-tuning use, and do repeated runs use the same?",
        reading=READING.format(stands=STANDS if known else "", aligned=ALIGNED if known else ""),
        preset=preset,
        axes=(
            *replicated(parameters, settings.seeds),
            Axis(name="run", label="Run", values=tuple(range(settings.runs)), role="replicate"),
            *varied,
        ),
        outcomes=(),
        controls=(
            Control(kind="positive", label="one feature moved in the trunk itself", task="planted.active"),
            Control(kind="absent", label="fine-tuned for another attribute", role="absent"),
            Control(kind="null", label="fine-tuned on documents that were not chosen", role="null"),
        ),
        figures=("feature_scores", "feature_edits") if known else ("feature_edits",),
        corpus="an attribute grammar of each seed's own" if known else "Python source",
        notes=() if not known or PILOT in settings.pilots else (PILOTED,),
        pilot_seeds=settings.pilots,
        settings=dataclasses.asdict(settings),
        levers=Levers(
            dose=("tuning_steps",), rate="tuning_lr", trunk="trunk_tokens", prompts="texts", steps="fit_steps"
        ),
        **finetuning_questions.asked(
            varied, features=max(settings.features), runs=settings.runs, several=several, fresh=settings.fresh,
            alone=tuple(name for name, each in ALGORITHMS.items() if not each.repeats),
            known=known, stopped=tuple(name for name, each in ALGORITHMS.items() if each.equal_distance),
        ),
    )  # fmt: skip


def build(preset: str, settings: Settings, site: ExecutionSite) -> Study:
    """The study of these settings. Raises UserError on settings that cannot be run, before any compute."""
    check_settings(settings)
    make = Cell if settings.organism == "grammar" else finetuning_text.maker(settings, site.results)
    study = Study(declaration=declare(preset, settings, make), trials=tuple(trials(settings, make)))
    return study.check(site.results, size=settings.sizes[0], seed=0)


if __name__ == "__main__":
    main(build, PRESETS, report=study_report, description=__doc__)
