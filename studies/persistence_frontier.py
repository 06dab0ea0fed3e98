"""Under which conditions does a capability that training no longer reinforces last longest?

An adaptive search over how a language was learned (its family and overlap, the trunk's length and regularizers) and how
training continues without it (learning rate, batch, regularizers), with neither replay nor the model at the drop.
Otherwise "stop training" would win, so the branch learns a new language, and settings are compared where it has been
learned. Two objectives: retention at equal progress, and the tokens that the progress took. The best settings are run
again on seeds that the search never saw: those numbers are the result, free of the winner's curse.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING

from halflife.evaluation.probes import Geometric, Threshold
from halflife.kits import languages, search
from halflife.kits.languages import CONTROLS, Cell, Treatment, check_room
from halflife.kits.questions import FACTOR
from halflife.kits.search import Margin
from halflife.kits.settings import check_positive
from halflife.results import study_report
from halflife.stages.train import Checkpoint
from halflife.store.stage import Stage
from halflife.sweep.adaptive import Budget, Finished, Search
from halflife.sweep.cli import Preset, main
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Trial, trial
from halflife.tasks.families import Family, Kind
from halflife.tasks.synthetic import SyntheticTask
from halflife.tracking.schema import Axis, Constraint, Declaration, Objective, Outcome

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

NAME = "persistence_frontier"
DECAYS = (0.5, 4.0, True)
"""Of weight decay: at the low end a 120k trunk memorised the table and learned no rule."""
STRENGTHS = {"dropout": (0.02, 0.2, False), "label-smoothing": (0.01, 0.2, False), "gradient-noise": (0.01, 1.0, True)}
"""Of the regularizers added to it: lowest and highest strength, and whether it is drawn log-uniformly."""
KINDS = ("none", *STRENGTHS)
FAMILIES: tuple[Kind, ...] = ("A", "B", "C")
RATES = (0.5, 4.0, True)
"""Learning rates of the branch, as multiples of the trunk's last one."""
BATCHES = (512, 1024, 2048)
"""Tokens per step in the branch."""
DOUBLINGS = (-1, 1)
"""The trunk is 2^n times as long as the reference's."""
PROGRESS = 0.9
"""Success on the new language's memorised items at which the branch stops."""


OBJECTIVES = (
    Objective(
        name="retained", label="Retained at equal progress", direction="maximize",
        formula="(m(T) - c) / (m(0) - c) where the new language is learned: m the log-probability of the "
        "dropped language's answers, c the never-learned control's",
    ),
    Objective(
        name="progress_tokens", label="Tokens to equal progress", direction="minimize", unit="tokens",
        formula=f"tokens of the branch until {PROGRESS:.0%} of the new language's memorised items are right",
    ),
)  # fmt: skip
MARGINS = (
    Margin(subject="what is retained at equal progress", value=0.05,
           reason="a twentieth of what was known at the drop decides between no two ways to train"),
    Margin(subject="the number of tokens to equal progress", value=FACTOR, log=True,
           reason="a quarter more or less training decides between no two ways to train"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings(search.Settings):
    """One model size and the budget of its search."""

    languages: int = 3
    """Languages in the trunk, not counting translations."""
    trunk_tokens: int = 2_000_000
    """Length of the reference's trunk; the search halves and doubles it."""
    branch_tokens: int = 600_000
    """Maximum length of the branch, which stops when the new language is learned."""
    criterion: float = 0.7
    """Success on the language at the drop that a setting must reach to count."""
    num_eval: int = 64
    """Maximum number of items per evaluation."""
    budget: Budget


PRESETS = {
    "smoke": Preset(
        summary="A minute on 2 CPU cores: does a search work? Six settings on one seed give no valid result.",
        settings=Settings(
            size="30k", seeds=1, fresh_seeds=1, languages=2, trunk_tokens=150_000, branch_tokens=60_000,
            criterion=0.15, budget=Budget(trials=6, startup=3, finalists=2),
        ),
    ),
    "laptop": Preset(
        summary="34 minutes on 2 fast CPU cores: 30 settings at 120k parameters on 2 seeds, the best on 5 fresh ones.",
        settings=Settings(size="120k", seeds=2, fresh_seeds=5, budget=Budget(trials=30, startup=12)),
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Suggested:
    """A setting of the search."""

    family: Kind = "C"
    rule_overlap: float = 1.0
    trunk_decay: float = 2.0
    trunk: str = "none"
    trunk_strength: float = 0.0
    branch_decay: float = 2.0
    branch: str = "none"
    branch_strength: float = 0.0
    rate: float = 1.0
    batch: int = 1024
    doublings: int = 0


REFERENCE = Suggested()
FIRST = search.first(REFERENCE)


def suggest(trial: BaseTrial) -> Suggested:
    family = trial.suggest_categorical("family", FAMILIES)
    overlap = 1.0 if family == "A" else round(trial.suggest_float("rule_overlap", 0.0, 1.0), 1)
    trunk, trunk_strength = search.regularizer(trial, "trunk", KINDS, STRENGTHS)
    branch, branch_strength = search.regularizer(trial, "branch", KINDS, STRENGTHS)
    return Suggested(
        family=family, rule_overlap=overlap, trunk=trunk, trunk_strength=trunk_strength, branch=branch,  # type: ignore[arg-type]
        branch_strength=branch_strength, trunk_decay=search.number(trial, "trunk_decay", DECAYS),
        branch_decay=search.number(trial, "branch_decay", DECAYS), rate=search.number(trial, "rate", RATES),
        batch=trial.suggest_categorical("batch", BATCHES), doublings=trial.suggest_int("doublings", *DOUBLINGS),
    )  # fmt: skip


@dataclass(frozen=True)
class Onward(Cell):
    """A cell whose branch learns one more language than its trunk did."""

    @cached_property
    def family(self) -> Family:
        return replace(super().family, size=self.settings.languages + 1)

    @property
    def new(self) -> SyntheticTask:
        return self.family.languages[-1]

    @property
    def before(self) -> tuple[SyntheticTask, ...]:
        return self.family.without((self.new.name,))

    @cached_property
    def kept(self) -> tuple[SyntheticTask, ...]:
        return tuple(language for language in super().kept if language != self.new)

    def forward(self, setting: Suggested, role: str) -> dict[str, Stage]:
        trunk = self.trunk(learned=role != "absent")
        branch = self.branch(Checkpoint(stage=trunk), role)
        if role == "positive":
            branch = replace(branch, mixture=self.mixture(self.family.trained))
        new = self.evaluation("new", (self.new,), Geometric(), part="memorised")
        branch = replace(
            branch,
            batch_tokens=setting.batch,
            evaluations=(*branch.evaluations, new),
            until=Threshold(metric="new/hits", threshold=PROGRESS, share=True),
        )
        return {"trunk": trunk, "branch": branch}


def retained(finished: Finished) -> float:
    """Retention of the dropped language's log-probability where the branch stopped. The control, at its own end, is the
    never-learned one of the same seed, family and form, at shared rule 1 whatever the setting's: it was never taught
    these answers either way."""
    from analysis.decay.formulas import final_retention

    _, levels = finished.curve("branch", "dropped/logprob")
    _, control = finished.control("absent").curve("branch", "dropped/logprob")
    return final_retention(levels, control)


def progress_tokens(finished: Finished) -> float:
    return float(finished.curve("branch", "new/hits")[0][-1])


def _success(finished: Finished, task: str, place: int) -> float:
    hits, trials = (finished.curve("branch", f"{task}/{name}")[1][place] for name in ("hits", "trials"))
    return float(hits / trials)


def learned(finished: Finished) -> float:
    return _success(finished, "dropped", 0)


def progress(finished: Finished) -> float:
    return _success(finished, "new", -1)


def build(preset: str, settings: Settings, site: ExecutionSite) -> Search:
    """The search of these settings. Raises UserError on settings that cannot be run, before any compute."""
    check_positive(settings, "seeds", "fresh_seeds")
    base = languages.Settings(
        languages=settings.languages, sizes=(settings.size,), seeds=settings.seeds + settings.fresh_seeds,
        trunk_tokens=settings.trunk_tokens, branch_tokens=settings.branch_tokens, criterion=settings.criterion,
        num_eval=settings.num_eval,
    )  # fmt: skip
    languages.check_settings(base)

    def unfold(setting: Suggested, seed: int) -> Trial:
        return _trial(base, setting, seed)

    @cache
    def controls(seed: int) -> tuple[Trial, ...]:
        """The absent control of each family never learned that family's language."""
        absent = (_trial(base, replace(REFERENCE, family=family), seed, "absent") for family in FAMILIES)
        return (*absent, *(_trial(base, REFERENCE, seed, role) for role in ("positive", "null")))

    first = (*(unfold(replace(REFERENCE, family=family), 0) for family in FAMILIES), *controls(0))
    check_room([stage for trial in first for stage in trial.stages.values()], base, site.results)
    return Search(
        declaration=declare(preset, settings, base), suggest=suggest, unfold=unfold, controls=controls,
        measures={
            "retained": retained, "progress_tokens": progress_tokens, "learned": learned, "progress": progress,
        },
        budget=settings.budget, seeds=tuple(range(settings.seeds)),
        fresh_seeds=tuple(range(settings.seeds, base.seeds)), first=(FIRST,),
    )  # fmt: skip


def _trial(base: languages.Settings, setting: Suggested, seed: int, role: str = "treatment") -> Trial:
    treatment = Treatment(
        family=setting.family, rule_overlap=setting.rule_overlap, learning_rate=setting.rate,
        trunk_regularizer=search.named(setting.trunk, setting.trunk_strength, setting.trunk_decay),
        branch_regularizer=search.named(setting.branch, setting.branch_strength, setting.branch_decay),
        length=2.0**setting.doublings,
    )  # fmt: skip
    cell = Onward(base, base.sizes[0], seed, treatment, shuffled=role == "null")
    words = (
        f"family {setting.family}", f"shared rule {setting.rule_overlap:g}", f"trunk {treatment.trunk_regularizer}",
        f"branch {treatment.branch_regularizer}", f"rate x{setting.rate:g}", f"batch {setting.batch}",
        f"trunk x{treatment.length:g}",
    )  # fmt: skip
    values = {"subject": cell.dropped[0].name, **dataclasses.asdict(setting), "length": treatment.length}
    del values["doublings"]
    named = (f"family {setting.family}", CONTROLS[role]) if role in CONTROLS else words
    return trial(cell, values, cell.forward(setting, role), *named, role=role)


def declare(preset: str, settings: Settings, base: languages.Settings) -> Declaration:
    chance = 1 / base.modulus
    lengths = tuple(2.0**n for n in (0, *DOUBLINGS))
    return languages.declare(
        base,
        chance,
        study=NAME,
        preset=preset,
        title="Frontier of persistence",
        question="Under which conditions does a dropped capability last longest while something new is learned?",
        axes=(
            Axis(name="family", label="Family", values=(REFERENCE.family, "A", "B"), role="measured"),
            Axis(name="rule_overlap", label="Shared rule", values=(1.0,), scale="linear", unit="of the first operands"),
            Axis(name="trunk_decay", label="Weight decay of the trunk", values=(REFERENCE.trunk_decay,), scale="log"),
            Axis(name="trunk", label="Added regularizer of the trunk", values=KINDS),
            Axis(name="trunk_strength", label="Its strength in the trunk", values=(0.0,), scale="linear"),
            Axis(name="branch_decay", label="Weight decay of the branch", values=(REFERENCE.branch_decay,),
                 scale="log"),
            Axis(name="branch", label="Added regularizer of the branch", values=KINDS),
            Axis(name="branch_strength", label="Its strength in the branch", values=(0.0,), scale="linear"),
            Axis(name="rate", label="Branch rate", values=(1.0,), scale="log", unit="x the trunk's last rate"),
            Axis(name="batch", label="Branch batch", values=(REFERENCE.batch, 512, 2048), scale="log", unit="tokens"),
            Axis(name="length", label="Trunk length", values=lengths, scale="log", unit="x the reference's"),
        ),
        outcomes=(
            Outcome(name="skill", label="Skill of the dropped language", phase="branch", task="dropped", chance=chance),
        ),
        objectives=OBJECTIVES,
        constraints=(
            Constraint(name="learned", label="Success at the drop", at_least=settings.criterion),
            Constraint(name="progress", label="Success on the new language", at_least=PROGRESS),
        ),
        figures=("pareto", "retention"),
        notes=(
            "controls have the reference setting and are shared by all settings of their seed; each family has its own "
            "never-learned control",
            "settings of different families drop different languages: conditions, not a controlled contrast",
            search.seeds_note(settings),
        ),
        settings=search.declared(settings),
        **search.asked(OBJECTIVES, MARGINS),
    )  # fmt: skip


if __name__ == "__main__":
    main(build, PRESETS, report=study_report, description=__doc__)
