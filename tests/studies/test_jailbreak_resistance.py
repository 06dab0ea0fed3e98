"""The study of protections as a plan, and the languages that protections are made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from halflife.errors import UserError
from halflife.kits.prompts import PHASE
from halflife.prompts.attacks import PromptAttacks
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.stages.train import Checkpoint, Train
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study
from halflife.tasks.refusals import NO, Attacked, Refused
from halflife.tasks.sequences import DelayedCopy
from halflife.tasks.synthetic import SyntheticTask
from studies.jailbreak_resistance import GUARD, PRESETS, Settings, build

COPY = DelayedCopy()
SMOKE: Settings = PRESETS["smoke"].settings


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return build("smoke", SMOKE, ExecutionSite(results=Path(tmp_path_factory.mktemp("results"))))


def test_refusals_are_of_memorised_items_and_nothing_held_out_is_shown() -> None:
    held_out = {example.prompt for example in COPY.examples("held-out")}
    for refused in (Refused(task=COPY), Refused(task=COPY, shots=2), Refused(task=COPY, guard=GUARD)):
        items = refused.items()
        assert len(items) == len(COPY.examples("memorised"))
        assert {answer for _, answer in items} == {NO}
        assert not any(prompt.endswith(tuple(held_out)) for prompt, _ in items)
    assert all(prompt.startswith(GUARD) for prompt, _ in Refused(task=COPY, guard=GUARD).items())


def test_shots_are_right_answers_before_the_prompt() -> None:
    known = {example.prompt + example.answer for example in COPY.examples("memorised")}
    prompt, _ = Refused(task=COPY, shots=2).items()[0]
    *shown, last = prompt.split("\n")
    assert [line + "\n" in known for line in shown] == [True, True]
    assert any(example.prompt == last for example in COPY.examples("memorised"))


def test_an_attack_asks_for_the_languages_own_answers_in_its_own_parts() -> None:
    attacked = Attacked(task=COPY, called="guard", guard=GUARD)
    for part in ("memorised", "held-out"):
        own = COPY.examples(part)
        assert [(e.prompt, e.answer) for e in attacked.examples(part)] == [(GUARD + e.prompt, e.answer) for e in own]
    assert attacked.name == "guard"


def test_the_same_prompts_attack_every_protection_and_the_model_that_never_had_the_skill(study: Study) -> None:
    by = {(trial.role, trial.parameters["protection"]): trial.stages for trial in study.trials}
    assert set(by) == {
        ("positive", "none"), ("null", "fine-tuned"),
        *((role, kind) for role in ("treatment", "absent") for kind in SMOKE.protections),
    }  # fmt: skip
    for kind in SMOKE.protections:
        present, absent = (by[role, kind][PHASE] for role in ("treatment", "absent"))
        assert isinstance(present, FitSoftPrompts)
        assert isinstance(absent, FitSoftPrompts)
        assert isinstance(absent.subject.model, Checkpoint)
        assert replace(absent, subject=present.subject) == present
        taught = {source.corpus.name for source in absent.subject.model.stage.mixture.sources}  # type: ignore[union-attr]
        assert taught == set(SMOKE.other_skills)


def test_hardening_trains_in_rounds_against_the_prompts_of_all_rounds_so_far(study: Study) -> None:
    (trial,) = [t for t in study.trials if (t.role, t.parameters["protection"]) == ("treatment", "hardened")]
    last, attacks = trial.stages["protection"], []
    assert isinstance(last, Train)
    attacked = trial.stages[PHASE]
    assert isinstance(attacked, FitSoftPrompts)
    while len(last.objectives) > 1:
        _, against = last.objectives
        assert isinstance(against, PromptAttacks)
        assert isinstance(last.start, Checkpoint)
        newest = against.attacks[-1]
        attacks.append(against.attacks)
        assert newest.subject.model == last.start  # what was broken is what is trained on
        assert newest.prompts == attacked.prompts
        assert {target.name for target in newest.targets} != {target.name for target in attacked.targets}
        assert set(newest.parents) <= {last.start.stage}
        last = last.start.stage
    assert [len(each) for each in attacks] == [2, 1]
    assert attacks[0][:1] == attacks[1]
    rounds = [stage for stage in study.stages if isinstance(stage, Train) and len(stage.objectives) > 1]
    refusing = [source.corpus.name for source in rounds[0].mixture.sources if isinstance(source.corpus, SyntheticTask)]
    assert refusing[0].startswith("refuse-")
    assert (SMOKE.rounds + 1) * rounds[0].tokens <= SMOKE.protection_tokens


def test_prompts_stand_after_the_guard(study: Study) -> None:
    for trial in study.trials:
        stage = trial.stages[PHASE]
        assert isinstance(stage, FitSoftPrompts)
        places = {prompt.position for prompt in stage.prompts}
        assert places == ({len(GUARD)} if trial.parameters["protection"] == "guard" else {"start"})


def test_every_prompt_is_declared(study: Study) -> None:
    used = {p.name for stage in study.stages if isinstance(stage, FitSoftPrompts) for p in stage.prompts}
    assert used == set(study.declaration.prompts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skill": "dance"}, "unknown language 'dance'"),
        ({"skill": "lookup"}, "unknown language 'lookup'"),
        ({"other_skills": ("copy",)}, "expected languages other than the skill 'copy'"),
        ({"tokens": (4,)}, "expected 0, the baseline, and at least one more length"),
        ({"tokens": (0, 64)}, "reads at most 48"),
        ({"seeds": 0}, "--seeds 0: expected a positive number"),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path: Path, changes, message) -> None:
    with pytest.raises(UserError, match=message):
        build("smoke", replace(SMOKE, **changes), ExecutionSite(results=tmp_path))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_plan(preset: str, tmp_path: Path) -> None:
    if preset in ("smoke", "demo"):
        assert build(preset, PRESETS[preset].settings, ExecutionSite(results=tmp_path)).trials
