"""Do features mean the same in every block, and what does it cost to train a model so that they do?

A model is pretrained with a sparse autoencoder beside it, on the residual stream after each block: one dictionary
shared by all blocks, whose gradient flows into the model. Its loss, above the text's exact entropy, is compared with
that of a model without one. Then fresh dictionaries of several widths are fitted to every model, shared by all blocks
and one per block. How many features does each need to tell the text's known concepts equally well? Do features mean the
same in different blocks? Does a fresh dictionary explain more of the model?
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from halflife.errors import UserError
from halflife.kits import axes, dictionaries, dictionary_questions
from halflife.kits.axes import Varied, replicated
from halflife.kits.dictionaries import Arm, Cell, of
from halflife.kits.settings import check_positive
from halflife.results import study_report
from halflife.store.stage import Stage
from halflife.sweep.cli import Preset, main
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study, Trial, trial
from halflife.tracking.criteria import Levers
from halflife.tracking.schema import Control, Declaration

NAME = "shared_dictionaries"
AXES = {
    "arm": Varied(label="Beside the model", setting="arms", text="{}"),
    "strength": Varied(
        label="Strength of the dictionary's loss", setting="strengths", text="strength {:g}", scale="log"
    ),
    "length": Varied(label="Pretraining", setting="lengths", text="{:g} x tokens", scale="log", unit="x its tokens"),
}
"""The first value of each is the reference's; each further value varies alone."""
CONTROLS = {"absent": "no dictionary", "null": "no gradient", "positive": "turned", "untrained": "untrained"}
"""Names of the controls in trials, by role."""


@dataclass(frozen=True, kw_only=True)
class Settings(dictionaries.Settings):
    """The axes of the study: sizes x seeds; each further arm, strength and length varies alone."""

    arms: tuple[Arm, ...] = ("shared", "per-block")
    """What is beside the model: shared, per-block (a dictionary for each), random (shared, and never learns), dense (as
    many active latents as the stream is wide), low-rank (no dictionary: as many principal components as others have
    active latents), longer (nothing, for as many FLOPs as with a shared one)."""
    strengths: tuple[float, ...] = (0.1,)
    """Of the dictionary's loss in the model's, where it flows."""
    lengths: tuple[float, ...] = (1.0,)
    """Multiples of --tokens: 1 2 asks whether the cost lasts when training goes on."""


PRESETS = {
    "smoke": Preset(
        summary="A minute and a half on 2 CPU cores: does everything work? Too short for a valid result.",
        settings=Settings(
            sizes=("30k",), seeds=1, tokens=60_000, arms=("shared",), widths=(8, 16, 32), beside_latents=64,
            followed=32, fit_steps=60, fit_rows=256, texts=400, num_eval=128,
        ),
    ),
    "demo": Preset(
        summary="Ten minutes on 2 CPU cores: one size x 2 seeds, shared and per block.",
        settings=Settings(sizes=("30k",), seeds=2),
    ),
    "laptop": Preset(
        summary="An hour on 2 CPU cores (not run whole yet): 2 sizes x 5 seeds, two strengths.",
        settings=Settings(sizes=("30k", "100k"), seeds=5, strengths=(0.1, 1.0)),
    ),
    "overnight": Preset(
        summary="A night on 2 CPU cores (not run yet): 3 sizes x 5 seeds, every control arm, four strengths, twice the "
        "tokens, and dictionaries of what MLPs write.",
        settings=Settings(
            sizes=("30k", "100k", "300k"), seeds=5, strengths=(0.1, 0.03, 0.3, 1.0), lengths=(1.0, 2.0), written=True,
            arms=("shared", "per-block", "random", "dense", "low-rank", "longer"),
            widths=(8, 16, 32, 64, 128, 256, 512), tokens=4_000_000, fit_steps=1000,
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Treatment:
    """What distinguishes trials of the same size and seed: a value for every axis, by its name."""

    arm: str
    strength: float
    length: float


def check_settings(settings: Settings) -> None:
    """Raises UserError on settings that cannot be run."""
    dictionaries.check_settings(settings)
    check_positive(settings, "strengths", "lengths")
    axes.check(AXES, settings)
    if settings.arms[0] != "shared":
        raise UserError(
            f"--arms {' '.join(settings.arms)}: expected shared as the first, which the questions are about"
        )


def planned(settings: Settings) -> Iterator[tuple[Treatment, str]]:
    """Each treatment of a size and seed with its role. A model without a dictionary is the control at every length."""
    reference = axes.reference(Treatment, AXES, settings)
    for treatment in (reference, *axes.alone(reference, tuple(AXES), AXES, settings)):
        yield treatment, "treatment"
    for treatment in (reference, *axes.alone(reference, ("length",), AXES, settings)):
        yield treatment, "absent"
    yield from ((reference, role) for role in ("null", "positive", "untrained"))


def trials(settings: Settings) -> Iterator[Trial]:
    reference = axes.reference(Treatment, AXES, settings)
    for size, seed in itertools.product(settings.sizes, range(settings.seeds)):
        cell = Cell(settings, size, seed)
        for treatment, role in planned(settings):
            words = axes.words(treatment, reference, AXES, role, CONTROLS)
            yield trial(cell, dataclasses.asdict(treatment), stages(cell, treatment, role), *words, role=role)


def stages(cell: Cell, treatment: Treatment, role: str) -> dict[str, Stage]:
    """A dictionary without a gradient leaves the model as it is without one: nothing else is measured of it."""
    if role == "untrained":
        return cell.measured(cell.untrained())
    arm, strength = treatment.arm, treatment.strength
    arm, strength = {"absent": ("none", 0.0), "null": (arm, 0.0)}.get(role, (arm, strength))
    trunk = cell.trunk(arm, strength, treatment.length)
    if role == "null":
        return {"trunk": trunk}
    return {"trunk": trunk, **cell.measured(of(trunk), turned=role == "positive")}


def declare(preset: str, settings: Settings) -> Declaration:
    cells = [Cell(settings, size, 0) for size in settings.sizes]
    varied = axes.declared(AXES, settings)
    own, shared = (cells[0].followed(shared=kind) for kind in (False, True))
    return Declaration(
        study=NAME,
        title="One dictionary for all blocks",
        question="Do features mean the same in every block, and what does it cost to train a model so?",
        reading=(
            "trunk/exact/kl is KL(exact || model) in nats per symbol: the loss above the text's entropy. Dictionaries "
            "are named by latents, rule and active latents, shared or one per block, and seed. dictionaries/<name>/fvu "
            "is the fraction of variance unexplained on held-out text; recovered, how much of what the mean in place "
            "of the stream costs in loss the reconstruction in its place does not. features/<name>/specificity is the "
            "mean over the text's known concepts of F1 of the best latent, above that of always saying yes: 1 is "
            "perfect. turned: where each block's stream is turned by a random rotation, so that nothing is shared."
        ),
        preset=preset,
        axes=(*replicated(tuple(cell.model.parameters for cell in cells), settings.seeds), *varied),
        outcomes=(),
        controls=(
            Control(kind="absent", label="no dictionary beside the model", role="absent"),
            Control(kind="null", label="a dictionary beside it without a gradient", role="null"),
            Control(kind="null", label="an untrained model", role="untrained"),
            Control(
                kind="positive", label="the streams of each block turned at random: nothing is shared", role="positive"
            ),
        ),
        figures=("specificity", "feature_blocks"),
        corpus="an attribute grammar of each seed's own",
        settings=dataclasses.asdict(settings),
        levers=Levers(dose=("strengths",), rate="beside_lr", trunk="tokens", prompts="num_eval", steps="fit_steps"),
        **dictionary_questions.asked(varied, own, shared, several=len(settings.sizes) > 1, written=settings.written),
    )


def build(preset: str, settings: Settings, site: ExecutionSite) -> Study:
    """The study of these settings. Raises UserError on settings that cannot be run, before any compute."""
    check_settings(settings)
    study = Study(declaration=declare(preset, settings), trials=tuple(trials(settings)))
    return study.check(site.results, size=settings.sizes[0], seed=0)


if __name__ == "__main__":
    main(build, PRESETS, report=study_report, description=__doc__)
