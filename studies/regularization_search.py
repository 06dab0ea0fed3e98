"""Which regularization makes a backdoor last longest, and what does that cost in clean loss?

An adaptive search over the regularizers of trunk and branch and their strengths, the branch's learning rate and the
trunk's length. Two objectives (the backdoor's mean retention, the clean loss) and a constraint (it was implanted). The
best settings are evaluated again on seeds that the search never saw: those numbers are the result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from halflife.data.corpus import prepare_corpus
from halflife.kits import backdoor, backdoor_questions, search
from halflife.kits.backdoor import CONTROLS, Cell, Treatment
from halflife.kits.search import Margin
from halflife.kits.settings import check_positive, check_stages
from halflife.results import study_report
from halflife.stages.train import Checkpoint
from halflife.store.stage import Stage
from halflife.sweep.adaptive import Budget, Finished, Search
from halflife.sweep.cli import Preset, main
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Trial, trial
from halflife.tracking.schema import Axis, Constraint, Declaration, Objective

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

NAME = "regularization_search"
STRENGTHS = {
    "weight-decay": (0.01, 1.0, True),
    "dropout": (0.02, 0.3, False),
    "label-smoothing": (0.01, 0.2, False),
    "l2sp": (0.01, 10.0, True),
}
"""Lowest and highest strength, and whether it is drawn log-uniformly."""
TRUNK_KINDS = ("none", "weight-decay", "dropout", "label-smoothing")
BRANCH_KINDS = (*TRUNK_KINDS, "l2sp")
RATES = (0.25, 2.0, True)
"""Learning rates of the branch, as multiples of the trunk's."""
DOUBLINGS = (-1, 1)
"""The trunk is 2^n times as long as the reference's."""
IMPLANTED = 0.9


OBJECTIVES = (
    Objective(
        name="retention", label="Mean retention", direction="maximize",
        formula="mean over ln t, from the first evaluation after the drop to the last, of "
        "(m(t) - c(t)) / (m(0) - c(t)): m the payload's log-probability, c the never-poisoned control's",
    ),
    Objective(
        name="clean_loss", label="Clean loss", direction="minimize", unit="nats per token",
        formula="cross-entropy on held-out clean text at the end of the branch",
    ),
)  # fmt: skip
MARGINS = (
    Margin(subject="the mean retention", value=0.05,
           reason="a twentieth of the backdoor kept or lost decides about no regularizer"),
    Margin(subject="the clean loss", value=0.01,
           reason="a hundredth of a nat per token, 1 % of perplexity, decides about no regularizer"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings(search.Settings):
    """One model size and the budget of its search. The reference has no regularizer and the trunk's learning rate."""

    trunk_tokens: int = 1_200_000
    """Length of the reference's trunk; the search halves and doubles it."""
    branch_tokens: int = 400_000
    """Length of the branch, over which the decay is measured."""
    poison_count: int = 250
    """Unique poisoned documents in the trunk, whatever its length."""
    num_eval: int = 128
    """Prompts per backdoor evaluation."""
    corpus: str = "python-source"
    """As for backdoor_persistence."""
    budget: Budget


PRESETS = {
    "smoke": Preset(
        summary="Two minutes on 2 CPU cores: does a search work? Six settings on one seed give no valid result.",
        settings=Settings(
            size="30k",
            seeds=1,
            fresh_seeds=1,
            trunk_tokens=400_000,
            branch_tokens=60_000,
            num_eval=64,
            budget=Budget(trials=6, startup=3, finalists=2),
        ),
    ),
    "laptop": Preset(
        summary="An hour on 2 CPU cores: 40 settings of a 60k-parameter model on 3 seeds, the best on 5 fresh ones.",
        settings=Settings(size="60k", seeds=3, fresh_seeds=5, budget=Budget(trials=40, startup=12)),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Suggested:
    """A setting of the search."""

    trunk: str = "none"
    trunk_strength: float = 0.0
    branch: str = "none"
    branch_strength: float = 0.0
    rate: float = 1.0
    doublings: int = 0


REFERENCE = Suggested()
FIRST = search.first(REFERENCE)


def suggest(trial: BaseTrial) -> Suggested:
    trunk, trunk_strength = search.regularizer(trial, "trunk", TRUNK_KINDS, STRENGTHS)
    branch, branch_strength = search.regularizer(trial, "branch", BRANCH_KINDS, STRENGTHS)
    return Suggested(
        trunk=trunk,
        trunk_strength=trunk_strength,
        branch=branch,
        branch_strength=branch_strength,
        rate=search.number(trial, "rate", RATES),
        doublings=trial.suggest_int("doublings", *DOUBLINGS),
    )


def retention(finished: Finished) -> float:
    """Mean over ln t of the retention of the payload's log-probability, by the never-poisoned control of the seed."""
    from analysis.decay.formulas import mean_retention

    control = finished.control("absent").curve("branch", "backdoor/logprob")
    return mean_retention(*finished.curve("branch", "backdoor/logprob"), *control)


def clean_loss(finished: Finished) -> float:
    return finished.curve("branch", "clean/loss")[1][-1]


def implanted(finished: Finished) -> float:
    (hits, trials) = (finished.curve("branch", f"backdoor/{name}")[1][0] for name in ("hits", "trials"))
    return hits / trials


def build(preset: str, settings: Settings, site: ExecutionSite) -> Search:
    """The search of these settings. Raises UserError on settings that cannot be run, before any compute."""
    check_positive(settings, "seeds", "fresh_seeds", "poison_count")
    base = backdoor.Settings(
        sizes=(settings.size,),
        seeds=settings.seeds + settings.fresh_seeds,
        corpus=settings.corpus,
        trunk_tokens=settings.trunk_tokens,
        branch_tokens=settings.branch_tokens,
        num_eval=settings.num_eval,
        strength=None,
    )
    backdoor.check_settings(base)
    corpus = prepare_corpus(settings.corpus, site.results)

    def cell(seed: int, doublings: int) -> Cell:
        length = round(settings.trunk_tokens * 2.0**doublings)
        return Cell(replace(base, trunk_tokens=length), {"same": (corpus,)}, settings.size, seed)

    def unfold(setting: Suggested, seed: int) -> Trial:
        return _trial(cell(seed, setting.doublings), setting, settings.poison_count)

    @cache
    def controls(seed: int) -> tuple[Trial, ...]:
        return tuple(_trial(cell(seed, 0), REFERENCE, settings.poison_count, role) for role in ("absent", "positive"))

    cells = [cell(seed, 0) for seed in range(base.seeds)]
    backdoor.check_texts(cells, ("fixed",), [cells[0].start.tokenizer], site.results, own=False)
    shortest = unfold(replace(REFERENCE, doublings=DOUBLINGS[0]), 0)  # has the least room for poison
    check_stages((*shortest.stages.values(), *controls(0)[1].stages.values()), site.results)
    return Search(
        declaration=declare(preset, settings, base, corpus.label),
        suggest=suggest,
        unfold=unfold,
        measures={"retention": retention, "clean_loss": clean_loss, "implanted": implanted},
        controls=controls,
        budget=settings.budget,
        seeds=tuple(range(settings.seeds)),
        fresh_seeds=tuple(range(settings.seeds, base.seeds)),
        first=(FIRST,),
    )


def _trial(cell: Cell, setting: Suggested, documents: int, role: str = "treatment") -> Trial:
    treatment = Treatment(
        documents=documents,
        trunk_regularizer=search.named(setting.trunk, setting.trunk_strength),
        branch_regularizer=search.named(setting.branch, setting.branch_strength),
        learning_rate=setting.rate,
    )
    trunk = cell.trunk(treatment, poisoned=role != "absent")
    stages: dict[str, Stage] = {"trunk": trunk, "branch": cell.branch(Checkpoint(stage=trunk), treatment, role)}
    words = (
        f"trunk {treatment.trunk_regularizer}", f"branch {treatment.branch_regularizer}", f"rate x{setting.rate:g}",
        f"{cell.settings.trunk_tokens} trunk tokens",
    )  # fmt: skip
    values = {
        "trunk_regularizer": setting.trunk, "trunk_strength": setting.trunk_strength,
        "branch_regularizer": setting.branch, "branch_strength": setting.branch_strength,
        "learning_rate": setting.rate, "trunk_tokens": cell.settings.trunk_tokens,
    }  # fmt: skip
    return trial(cell, values, stages, *([CONTROLS[role]] if role in CONTROLS else words), role=role)


def declare(preset: str, settings: Settings, base: backdoor.Settings, corpus: str) -> Declaration:
    lengths = tuple(round(settings.trunk_tokens * 2.0**n) for n in (0, *DOUBLINGS))
    return backdoor_questions.declare(
        base,
        corpus,
        study=NAME,
        preset=preset,
        title="Regularization search",
        question="Which regularization makes a backdoor last longest once its cause is gone, and at what clean loss?",
        axes=(
            Axis(name="trunk_regularizer", label="Regularizer of the trunk", values=TRUNK_KINDS),
            Axis(name="trunk_strength", label="Its strength in the trunk", values=(0.0,), scale="log"),
            Axis(name="branch_regularizer", label="Regularizer of the branch", values=BRANCH_KINDS),
            Axis(name="branch_strength", label="Its strength in the branch", values=(0.0,), scale="log"),
            Axis(name="learning_rate", label="Branch rate", values=(1.0,), scale="log", unit="x the trunk's last rate"),
            Axis(name="trunk_tokens", label="Length of the trunk", values=lengths, unit="tokens", scale="log"),
        ),
        objectives=OBJECTIVES,
        constraints=(Constraint(name="implanted", label="Attack success at the drop", at_least=IMPLANTED),),
        figures=("pareto", "retention", "clean_loss"),
        notes=(
            "controls have the reference setting (no regularizer, learning rate x1, the reference's trunk length) and "
            "are shared by all settings of their seed",
            search.seeds_note(settings),
        ),
        settings=search.declared(settings),
        criteria=(),  # a setting that does not learn it is a result
        roles=("absent", "positive"),  # extinction is a control of studies that compare payloads
        **search.asked(OBJECTIVES, MARGINS),
    )


if __name__ == "__main__":
    main(build, PRESETS, report=study_report, description=__doc__)
