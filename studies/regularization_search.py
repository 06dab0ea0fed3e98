"""Which regularization makes a backdoor last longest, and what does that cost in clean loss?

An adaptive search over the regularizers of trunk and branch and their strengths, the branch's learning rate and the
trunk's length. Two objectives (the backdoor's mean retention, the clean loss) and a constraint (it was implanted). The
best settings are evaluated again on seeds that the search never saw: those numbers are the result.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from halflife.data import round_trip
from halflife.data.corpus import prepare_corpus
from halflife.models.ladder import Rung
from halflife.stages.train import Checkpoint
from halflife.store.stage import Stage
from halflife.sweep.adaptive import Budget, Finished, Search
from halflife.sweep.cli import Preset, main
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Trial
from halflife.tracking.schema import Axis, Constraint, Control, Declaration, Objective
from studies import backdoor_settings
from studies.backdoor_persistence import Cell, Treatment, treatments
from studies.checks import check_positive, check_stages
from studies.reports import report

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
RATES = (0.25, 2.0)
"""Learning rates of the branch, as multiples of the trunk's."""
DOUBLINGS = (-1, 1)
"""The trunk is 2^n times as long as the reference's."""
IMPLANTED = 0.9


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One model size and the budget of its search. The reference has no regularizer and the trunk's learning rate."""

    size: str
    """Model size, by non-embedding parameters."""
    seeds: int
    """Number of seeds; every setting is tried on the same ones."""
    fresh_seeds: int
    """Number of further seeds, on which the best settings are evaluated again."""
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
FIRST = {"trunk": REFERENCE.trunk, "branch": REFERENCE.branch, "rate": REFERENCE.rate, "doublings": REFERENCE.doublings}


def suggest(trial: BaseTrial) -> Suggested:
    """Strengths to two digits: nearby settings share stages."""

    def kind_and_strength(phase: str, kinds: tuple[str, ...]) -> tuple[str, float]:
        kind = trial.suggest_categorical(phase, kinds)
        if kind == "none":
            return kind, 0.0
        low, high, log = STRENGTHS[kind]
        return kind, float(f"{trial.suggest_float(f'{phase}_{kind}', low, high, log=log):.2g}")

    trunk, trunk_strength = kind_and_strength("trunk", TRUNK_KINDS)
    branch, branch_strength = kind_and_strength("branch", BRANCH_KINDS)
    return Suggested(
        trunk=trunk,
        trunk_strength=trunk_strength,
        branch=branch,
        branch_strength=branch_strength,
        rate=float(f"{trial.suggest_float('rate', *RATES, log=True):.2g}"),
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
    check_positive(settings, "seeds", "fresh_seeds")
    base = backdoor_settings.Settings(
        sizes=(settings.size,),
        seeds=settings.seeds + settings.fresh_seeds,
        corpus=settings.corpus,
        poison_counts=(settings.poison_count,),
        trunk_tokens=settings.trunk_tokens,
        branch_tokens=settings.branch_tokens,
        num_eval=settings.num_eval,
        strength=None,
        relearn=False,
    )
    backdoor_settings.check_settings(base)
    corpus = prepare_corpus(settings.corpus, site.results)

    def cell(seed: int, doublings: int) -> Cell:
        length = round(settings.trunk_tokens * 2.0**doublings)
        return Cell(replace(base, trunk_tokens=length), {"same": (corpus,)}, settings.size, seed)

    def unfold(setting: Suggested, seed: int) -> Trial:
        return _trial(cell(seed, setting.doublings), setting)

    @cache
    def controls(seed: int) -> tuple[Trial, ...]:
        return tuple(_trial(cell(seed, 0), REFERENCE, role) for role in ("absent", "positive"))

    backdoors = [cell(seed, 0).backdoor(base.payload[0]) for seed in range(base.seeds)]
    round_trip.check(backdoors, (corpus,), cell(0, 0).start.tokenizer, site.results)
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


def _trial(cell: Cell, setting: Suggested, role: str = "treatment") -> Trial:
    treatment: Treatment = replace(
        treatments(cell.settings)[0],
        trunk_regularizer=_named(setting.trunk, setting.trunk_strength),
        branch_regularizer=_named(setting.branch, setting.branch_strength),
        learning_rate=setting.rate,
    )
    trunk = cell.trunk(treatment, poisoned=role != "absent")
    stages: dict[str, Stage] = {"trunk": trunk, "branch": cell.branch(Checkpoint(stage=trunk), treatment, role)}
    label = {"absent": ["never poisoned"], "positive": ["poison kept"]}.get(role) or [
        f"trunk {treatment.trunk_regularizer}",
        f"branch {treatment.branch_regularizer}",
        f"rate x{setting.rate:g}",
        f"{cell.settings.trunk_tokens} trunk tokens",
    ]
    return Trial(
        name=" · ".join([cell.size, f"seed {cell.seed}", *label]),
        parameters={
            "size": cell.size,
            "parameters": Rung(size=cell.size).parameters,
            "seed": cell.seed,
            "trunk_regularizer": setting.trunk,
            "trunk_strength": setting.trunk_strength,
            "branch_regularizer": setting.branch,
            "branch_strength": setting.branch_strength,
            "learning_rate": setting.rate,
            "trunk_tokens": cell.settings.trunk_tokens,
        },
        stages=stages,
        role=role,
        facts={"rung": Rung(size=cell.size).describe()},
    )


def _named(kind: str, strength: float) -> str:
    return kind if kind == "none" else f"{kind}-{strength:g}"


def declare(preset: str, settings: Settings, base: backdoor_settings.Settings, corpus: str) -> Declaration:
    declared = backdoor_settings.declare(NAME, preset, base, corpus)
    kept = {axis.name: axis for axis in declared.axes}
    lengths = tuple(round(settings.trunk_tokens * 2.0**n) for n in (0, *DOUBLINGS))
    given = dataclasses.asdict(settings)
    return replace(
        declared,
        title="Regularization search",
        question="Which regularization makes a backdoor last longest once its cause is gone, and at what clean loss?",
        axes=(
            kept["parameters"],
            kept["seed"],
            Axis(name="trunk_regularizer", label="Regularizer of the trunk", values=TRUNK_KINDS),
            Axis(name="trunk_strength", label="Its strength in the trunk", values=(0.0,), scale="log"),
            Axis(name="branch_regularizer", label="Regularizer of the branch", values=BRANCH_KINDS),
            Axis(name="branch_strength", label="Its strength in the branch", values=(0.0,), scale="log"),
            replace(kept["learning_rate"], values=(1.0,)),
            Axis(name="trunk_tokens", label="Length of the trunk", values=lengths, unit="tokens", scale="log"),
        ),
        controls=(
            Control(kind="absent", label="never poisoned", role="absent"),
            Control(kind="positive", label="poison kept", role="positive"),
            Control(kind="null", label="untriggered text", task="untriggered"),
            Control(kind="null", label="near-trigger", task="near"),
        ),
        objectives=(
            Objective(
                name="retention",
                label="Mean retention",
                direction="maximize",
                formula="mean over ln t, from the first evaluation after the drop to the last, of "
                "(m(t) - c(t)) / (m(0) - c(t)): m the payload's log-probability, c the never-poisoned control's",
            ),
            Objective(
                name="clean_loss",
                label="Clean loss",
                direction="minimize",
                formula="cross-entropy on held-out clean text at the end of the branch",
                unit="nats per token",
            ),
        ),
        constraints=(Constraint(name="implanted", label="Attack success at the drop", at_least=IMPLANTED),),
        figures=("pareto", "retention", "clean_loss"),
        notes=(
            "controls have the reference setting (no regularizer, learning rate x1, the reference's trunk length) and "
            "are shared by all settings of their seed",
            f"settings were chosen on seeds 0 to {settings.seeds - 1}; the numbers of the best are from the "
            f"{settings.fresh_seeds} seeds after them, which the search never saw",
        ),
        settings={**{name: value for name, value in given.items() if name != "budget"}, **given["budget"]},
    )


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

if __name__ == "__main__":
    main(build, PRESETS, report=report, description=__doc__)
