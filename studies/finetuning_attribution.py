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
from halflife.kits import axes, finetuning, finetuning_questions
from halflife.kits.axes import Varied, replicated
from halflife.kits.finetuning import ALGORITHMS, Cell
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


@dataclass(frozen=True, kw_only=True)
class Settings(finetuning.Settings):
    """Sizes x seeds x runs of each algorithm of fine-tuning."""

    algorithms: tuple[str, ...] = ("sft",)
    """sft: supervised, on documents that have the attribute. rl, rl-0.1, rl-0: by reward, at KL strength 1, 0.1, 0."""


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
        summary="An hour on 2 CPU cores (not run whole yet): 3 sizes x 5 seeds, three runs, supervised and by reward.",
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


def planned(settings: Settings) -> Iterator[tuple[Treatment, str, int]]:
    """Each treatment of a size and seed with its role and run."""
    for algorithm in settings.algorithms:
        for run in range(settings.runs):
            yield from ((Treatment(algorithm=algorithm), role, run) for role in ("treatment", "null"))
        yield Treatment(algorithm=algorithm), "absent", 0


def trials(settings: Settings) -> Iterator[Trial]:
    reference = axes.reference(Treatment, AXES, settings)
    names = {"null": "null", "absent": "another attribute"}
    for size, seed in itertools.product(settings.sizes, range(settings.seeds)):
        cell = Cell(settings, size, seed)
        for treatment, role, run in planned(settings):
            words = axes.words(treatment, reference, AXES, role, names)
            values = {**dataclasses.asdict(treatment), "run": run}
            yield trial(cell, values, stages(cell, treatment, role, run), *words, f"run {run}", role=role)


def stages(cell: Cell, treatment: Treatment, role: str, run: int) -> dict[str, Stage]:
    algorithm, runs = treatment.algorithm, cell.settings.runs
    attribution = attributed(cell, algorithm, role, run)
    tuning = attribution.tuned.model.stage  # type: ignore[union-attr]
    found: dict[str, Stage] = {
        "trunk": cell.trunk, "activations": cell.activations, "dictionaries": cell.dictionaries, "tuning": tuning,
        "attribution": attribution,
    }  # fmt: skip
    if run == 0 and runs > 1 and role in ("treatment", "null"):
        same = tuple(attributed(cell, algorithm, role, each) for each in range(runs))
        first = cell.settings.algorithms[0]  # type: ignore[attr-defined]
        others = tuple(attributed(cell, first, role, each) for each in range(runs)) if algorithm != first else ()
        found["runs"] = CompareAttributions(runs=same, others=others)
    return found


def attributed(cell: Cell, algorithm: str, role: str, run: int) -> Attribute:
    """A fine-tuning less its null; the null of another run less that; or a fine-tuning for another attribute."""
    null = cell.tuned(algorithm, run, None)
    if role == "null":
        return cell.attribution(cell.tuned(algorithm, run + cell.settings.runs, None), null)
    return cell.attribution(cell.tuned(algorithm, run, 0 if role == "treatment" else OTHER), null)


def declare(preset: str, settings: Settings) -> Declaration:
    parameters = tuple(Cell(settings, size, 0).model.parameters for size in settings.sizes)
    varied = axes.declared(AXES, settings)
    several = len(settings.sizes) > 1
    return Declaration(
        study=NAME,
        title="What fine-tuning used",
        question="Which features of a model does fine-tuning use, and do repeated runs use the same?",
        reading=(
            "attribution/d0.dot.active/alignment is the correlation over live features of the first dictionary between "
            "their scores (cosine of a feature's effect on the logits with what fine-tuning did, by gradient times "
            "activation) and how each feature's activation correlates with the log-odds of the attribute. everywhere: "
            "the gradient alone; change: by how far fine-tuning moved features; kl: by KL in place of the dot product. "
            "explained and undone are the shares of the change of the logits that an edit reproduces in the trunk and "
            "undoes in the tuned model; .../10 edits ten features. attribution/change/outside is the share that no "
            "feature at the site can make. All of it is of fine-tuning less a null: as many steps on documents that "
            "were not chosen. planted: single features that were moved in the trunk itself, which must be ranked first."
        ),
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
        figures=("feature_scores", "feature_edits"),
        corpus="an attribute grammar of each seed's own",
        settings=dataclasses.asdict(settings),
        levers=Levers(
            dose=("tuning_steps",), rate="tuning_lr", trunk="trunk_tokens", prompts="texts", steps="fit_steps"
        ),
        **finetuning_questions.asked(varied, features=max(settings.features), runs=settings.runs, several=several),
    )  # fmt: skip


def build(preset: str, settings: Settings, site: ExecutionSite) -> Study:
    """The study of these settings. Raises UserError on settings that cannot be run, before any compute."""
    check_settings(settings)
    study = Study(declaration=declare(preset, settings), trials=tuple(trials(settings)))
    return study.check(site.results, size=settings.sizes[0], seed=0)


if __name__ == "__main__":
    main(build, PRESETS, report=study_report, description=__doc__)
