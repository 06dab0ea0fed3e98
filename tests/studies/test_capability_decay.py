"""The capability study: what leaves the mixture, what is equal across families, and a whole run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from halflife.errors import UserError
from halflife.evaluation.targets import Target, TaskTarget
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.plan import Plan
from halflife.store.store import Store
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study, Trial
from halflife.tasks.arithmetic import Addition, Translation
from halflife.tasks.synthetic import SyntheticTask
from studies import capability_decay as study
from tests.studies.command import command


def built(results: Path, preset: str = "smoke", **changes: Any) -> Study:
    settings = dataclasses.replace(study.PRESETS[preset].settings, **changes)
    return study.build(preset, settings, ExecutionSite(results=results))


def of(plan: Study, **what: Any) -> list[Trial]:
    """Trials of a role and with parameters such as these."""
    role = what.pop("role", "treatment")
    return [trial for trial in plan.trials if trial.role == role and what.items() <= trial.parameters.items()]


def train(trial: Trial, phase: str) -> Train:
    stage = trial.stages[phase]
    assert isinstance(stage, Train)
    return stage


def fitted_to(trial: Trial) -> tuple[Target, ...]:
    stage = trial.stages["prompts-at-the-drop"]
    assert isinstance(stage, FitSoftPrompts)
    return stage.targets


def shares(stage: Train) -> dict[str, float]:
    weights = {
        source.corpus.name: source.weight
        for source in stage.mixture.sources
        if isinstance(source.corpus, SyntheticTask)
    }
    total = sum(source.weight for source in stage.mixture.sources)
    return {name: weight / total for name, weight in weights.items()}


@pytest.mark.parametrize("preset", ["smoke", "demo", "laptop", "gpu", "cluster"])
def test_every_family_size_and_seed_has_its_controls_and_the_focus_the_null(preset: str, results: Path):
    plan = built(results, preset)
    settings = study.PRESETS[preset].settings

    def cells(role: str) -> set[tuple]:
        return {tuple(t.parameters[name] for name in ("family", "size", "seed")) for t in of(plan, role=role)}

    assert cells("absent") == cells("positive") == cells("treatment")
    assert {family for family, _, _ in cells("null")} == {settings.focus}


def test_the_dropped_language_has_the_same_share_in_every_family_and_none_after_the_drop(results: Path):
    plan = built(results, families=("A", "B", "C", "D"), languages=4)
    for trial in of(plan):
        subject = str(trial.parameters["subject"])
        assert shares(train(trial, "trunk"))[subject] == pytest.approx(0.75 / 4)
        left = shares(train(trial, "branch"))
        assert subject not in left
        assert not [name for name in left if subject in name.split("-to-")]


def test_families_of_one_seed_drop_the_same_form_and_seeds_drop_different_ones(results: Path):
    plan = built(results, families=("B", "C", "D"), seeds=3)
    subjects = {(t.parameters["family"], t.parameters["seed"]): t.parameters["subject"] for t in of(plan)}
    assert {subjects[family, 1] for family in "BCD"} == {"words"}
    assert len({subjects["B", seed] for seed in range(3)}) == 3


@pytest.mark.parametrize("setting", [{}, {"replay": (0.1,)}, {"fades": (0.5,)}])
def test_the_absent_control_never_saw_the_language_and_relearns_from_the_same_items(results: Path, setting: dict):
    plan = built(results, **setting)
    for treated in of(plan, arm="equal-exposure"):
        (absent,) = of(plan, role="absent", **{n: treated.parameters[n] for n in ("family", "size", "seed")})
        subject = treated.parameters["subject"]
        assert subject not in shares(train(absent, "trunk"))
        assert subject not in shares(train(absent, "branch"))
        assert train(absent, "trunk").tokens == train(treated, "trunk").tokens
        for phase in ("relearn-8", "relearn-all"):
            one, other = train(treated, phase), train(absent, phase)
            assert dataclasses.replace(one, start=other.start) == other
            assert [getattr(source.corpus, "name", None) for source in one.mixture.sources] == [subject]


def test_soft_prompts_are_fitted_at_the_drop_and_after_it_to_the_model_that_never_learned_the_language_too(
    results: Path,
):
    plan = built(results, families=("A", "C"), soft_prompts=(1, 4))
    for treated in of(plan, arm="equal-exposure"):
        same = {name: treated.parameters[name] for name in ("family", "size", "seed")}
        (absent,) = of(plan, role="absent", **same)
        for trial in (treated, absent):
            drop, after = trial.stages["prompts-at-the-drop"], trial.stages["prompts-after-the-decay"]
            assert isinstance(drop, FitSoftPrompts)
            assert drop.targets == fitted_to(treated)
            assert drop.subject.model == Checkpoint(stage=train(trial, "trunk"))
            assert after == dataclasses.replace(drop, subject=Subject(model=Checkpoint(stage=train(trial, "branch"))))
        assert absent.stages["prompts-at-the-drop"] == dataclasses.replace(
            treated.stages["prompts-at-the-drop"], subject=Subject(model=Checkpoint(stage=train(absent, "trunk")))
        )
        (target,) = fitted_to(treated)
        assert isinstance(target, TaskTarget)
        assert (target.name, target.task.name) == (f"family-{same['family']}", treated.parameters["subject"])
        fitted = {example.prompt for example in target.examples("train", 1000, results)}
        evaluated = {example.prompt for example in target.examples("held-out", 1000, results)}
        assert fitted
        assert evaluated
        assert not fitted & evaluated
    assert set(plan.declaration.prompts) == {"k0", "k1-r0", "k1-r1", "k4-r0", "k4-r1"}
    assert {"soft_prompts", "distances"} <= set(plan.declaration.figures)
    assert not any(phase.startswith("prompts") for trial in built(results).trials for phase in trial.stages)


def test_the_null_control_learns_a_table_with_the_same_answers(results: Path):
    (null,) = of(built(results, families=("C",), seeds=1), role="null")
    languages = [source.corpus for source in train(null, "trunk").mixture.sources]
    dealt = [language for language in languages if isinstance(language, SyntheticTask) and language.shuffled]
    assert [language.name for language in dealt] == [null.parameters["subject"]]


def test_one_axis_varies_at_a_time_in_the_focus_and_trunk_and_branch_regularizers_are_crossed(results: Path):
    plan = built(
        results,
        "laptop",
        fades=(0.0, 0.5),
        replay=(0.0, 0.01),
        interventions=("none", "ewc-1", "lora-8"),
        learning_rates=(1.0, 0.5),
    )
    axes = [axis for axis in study.AXES if axis not in ("family", "arm")]
    (reference,) = of(plan, family="C", size="120k", seed=0, arm="equal-exposure", **{
        axis: getattr(study.PRESETS["laptop"].settings, study.AXES[axis].setting)[0] for axis in axes
    })  # fmt: skip
    changed = []
    for trial in of(plan, size="120k", seed=0, arm="equal-exposure"):
        different = {axis for axis in axes if trial.parameters[axis] != reference.parameters[axis]}
        changed.append(different)
        assert len(different) <= 1 or different == {"trunk_regularizer", "branch_regularizer"}
        if different:
            assert trial.parameters["family"] == ("B" if "overlap" in different.copy().pop() else "C")
    assert {"trunk_regularizer", "branch_regularizer"} in changed
    assert {axis for different in changed for axis in different} == {
        "fade", "replay", "intervention", "learning_rate", "rule_overlap", "token_overlap", "trunk_regularizer",
        "branch_regularizer",
    }  # fmt: skip
    assert {trial.parameters["size"] for trial in of(plan, replay=0.01)} == {"120k"}


def test_replay_and_annealing_give_the_dropped_language_its_share_of_the_branch(results: Path):
    plan = built(results, families=("C",), seeds=1, replay=(0.0, 0.1), fades=(0.0, 0.5))
    (replayed,), (annealed,) = of(plan, replay=0.1), of(plan, fade=0.5)
    subject = str(replayed.parameters["subject"])
    again = [share for name, share in shares(train(replayed, "branch")).items() if subject in name.split("-to-")]
    assert sum(again) == pytest.approx(0.1)
    fading = {
        s.corpus.name: s.fade for s in train(annealed, "branch").mixture.sources if isinstance(s.corpus, SyntheticTask)
    }
    assert all((fade == 0.5) == (subject in name.split("-to-")) for name, fade in fading.items())


def test_translations_may_be_kept_and_half_of_the_languages_dropped(results: Path):
    plan = built(results, families=("C",), languages=4, seeds=1, drop=("one", "half"), translations=("dropped", "kept"))
    (kept,) = of(plan, translations="kept")
    pairs = [s.corpus for s in train(kept, "branch").mixture.sources if isinstance(s.corpus, Translation)]
    assert len(pairs) == 12
    (half,) = of(plan, drop="half")
    forms = [s.corpus for s in train(half, "branch").mixture.sources if isinstance(s.corpus, Addition)]
    assert len(forms) == 2


def test_a_whole_family_is_dropped_for_text_that_was_there_all_along(results: Path):
    plan = built(results, families=("B",), focus="B", seeds=1, drop=("one", "family"))
    (whole,) = of(plan, drop="family")
    assert len(train(whole, "trunk").mixture.sources) == 4
    assert len(train(whole, "branch").mixture.sources) == 1
    (absent,) = of(plan, role="absent", drop="family")
    assert len(train(absent, "trunk").mixture.sources) == 1


def test_the_equal_strength_arm_forks_where_the_criterion_was_reached(results: Path):
    for trial in of(built(results), arm="equal-strength"):
        start = train(trial, "branch").start
        assert isinstance(start, Checkpoint)
        assert start.at == study.LEARNED
        assert start.stage == trial.stages["trunk"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"languages": 0}, "--languages 0: expected at least 2"),
        ({"languages": 1}, "--languages 1: expected at least 2"),
        ({"batch_tokens": 7}, "--batch-tokens 7: expected at least one sequence of 32"),
        ({"languages": 11}, "expected 2 to 10"),
        ({"trunk_tokens": 100}, "--trunk-tokens 100: expected at least one step of 1024 tokens"),
        ({"learning_rates": (1.0, -1.0)}, "--learning-rates -1.0: expected a positive number"),
        ({"replay": (0.0, 1.5)}, "--replay 1.5: expected shares from 0 to 1"),
        ({"rule_overlap": (-0.1,)}, "--rule-overlap -0.1: expected shares from 0 to 1"),
        ({"rule_overlap": (1.0, 0.0), "families": ("A", "C")}, "it varies in family B; add B to --families"),
        ({"drop": ("one", "half")}, "--drop half with --languages 3: that is one language; give 4 or more"),
        ({"token_overlap": (2.0,)}, "--token-overlap 2"),
        ({"fades": (3.0,)}, "--fades 3"),
        ({"criterion": 0.05}, "--criterion 0.05: expected more than chance"),
        ({"criterion": 1.1}, "--criterion 1.1: expected a success rate above chance, at most 1"),
        ({"families": ("A", "A")}, "--families A A: expected at least one value, each once"),
        ({"focus": "D"}, "--focus D: expected one of the families, B, C"),
        ({"corpus": "nowhere/*.txt"}, "text is only read with --drop family"),
        ({"interventions": ("ewc",)}, "ewc"),
        ({"trunk_regularizers": ("l2sp-1",)}, "use it in branches"),
        ({"relearn_examples": (500,)}, "500 examples of"),
        ({"sizes": ("tiny",)}, "tiny"),
        ({"soft_prompts": (0, 4)}, "expected lengths of at least 1, each once"),
    ],
)
def test_bad_settings_are_refused_in_one_line(changes: dict[str, Any], said: str, results: Path):
    with pytest.raises(UserError) as refused:
        built(results, **changes)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_smoke_runs_to_a_report_and_leaves_nothing_to_train(tmp_path: Path):
    """Too short to learn a language, which the nightly run below does."""
    tiny = {
        "families": ("B",), "focus": "B", "languages": 2, "modulus": 5, "seeds": 1, "trunk_tokens": 30_000,
        "branch_tokens": 10_000, "relearn_tokens": 5_000, "num_eval": 8,
    }  # fmt: skip
    flags = [word for name, value in tiny.items() for word in (
        f"--{name.replace('_', '-')}", *(value if isinstance(value, tuple) else (str(value),))
    )]  # fmt: skip
    done = command("capability_decay", "smoke", *flags, results=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "reports" / "capability_decay" / "latest" / "report.html").exists()
    plan = Plan(built(tmp_path, **tiny).stages, Store(tmp_path))
    assert len(plan.cached) >= 10
    assert plan.finished


@pytest.mark.nightly
def test_a_whole_run_finds_a_dropped_skill_fading_a_kept_one_staying_and_an_unseen_one_absent(tmp_path: Path):
    """The study's own machinery on two forms of addition modulo 5, memorised within 900,000 tokens."""
    flags = [
        "--families", "B",
        "--focus", "B", "--languages", "2", "--modulus", "5", "--seeds", "1", "--trunk-tokens", "900000",
        "--branch-tokens", "300000", "--learning-rates", "10", "--criterion", "0.4",
        "--interventions", "none", "l2sp-1000000",
        "--trunk-regularizers", "weight-decay-0.1", "--branch-regularizers", "weight-decay-0.1",
    ]  # fmt: skip
    done = command("capability_decay", "smoke", *flags, results=tmp_path, timeout=3600)
    assert done.returncode == 0, done.stderr[-2000:]
    from analysis.runs.load import load_study

    data = load_study(f"sqlite:///{tmp_path}/mlflow.db", "capability_decay")
    points = data.points.filter(pl.col("name") == "dropped-memorised/hits", pl.col("phase") == "branch")
    ends = points.sort("step").group_by("trial").agg(pl.col("value").first().alias("first"), pl.col("value").last())
    found = data.trials.join(ends, on="trial")

    def share(role: str, intervention: str = "none") -> tuple[float, float]:
        row = found.filter(
            pl.col("role") == role, pl.col("arm") == "equal-exposure", pl.col("intervention") == intervention
        )
        return row["first"].item() / 20, row["value"].item() / 20

    assert share("treatment")[0] >= 0.8
    assert share("treatment")[1] <= share("treatment")[0] - 0.5
    assert share("positive")[1] >= 0.8
    assert share("treatment", "l2sp-1000000")[1] == share("treatment")[0]
    assert share("absent")[0] <= 0.4
