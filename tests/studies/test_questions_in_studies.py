"""Every study asks questions that its trials can answer, whatever its settings; bad ones are one line in the plan."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from halflife.errors import UserError
from halflife.sweep.adaptive import Search
from halflife.sweep.cli import _parse
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study
from halflife.tracking.questions import Crossing, Quantity, Trend
from studies import (
    backdoor_persistence,
    batch_size,
    capability_decay,
    jailbreak_resistance,
    persistence_frontier,
    regularization_search,
    soft_prompt_information,
)

CASES = [
    (backdoor_persistence, "smoke", ""),
    (backdoor_persistence, "laptop", ""),
    (backdoor_persistence, "smoke", "--sizes 30k --strength None --no-relearn --soft-prompts 1"),
    (backdoor_persistence, "smoke", "--poison-counts 60 30 --trunk-regularizers weight-decay-0.1 none "
     "--branch-corpora same broader --soft-prompts 1 4"),
    (batch_size, "quick", ""),
    (capability_decay, "smoke", ""),
    (capability_decay, "smoke", "--families A --focus A --soft-prompts 1 4"),
    (capability_decay, "smoke", "--families B D --focus D --sizes 30k 60k --fades 0 0.5 --rule-overlap 1 0 "
     "--interventions none ewc-1 --lengths 1 2"),
    (jailbreak_resistance, "demo", ""),
    (jailbreak_resistance, "smoke", "--protections guard --tokens 0 1"),
    (soft_prompt_information, "smoke", "--behaviours continuation --tokens 0 1 --examples 128 64"),
    (soft_prompt_information, "smoke", "--behaviours say-1 say-2 say-3 skip-1 --fragility --matched-loss 1 --bits 2"),
    (persistence_frontier, "smoke", ""),
    (regularization_search, "laptop", ""),
]  # fmt: skip


def planned(module, preset: str, flags: str, results: Path) -> Study:
    command = _parse(module.PRESETS, "", [preset, *flags.split(), "--results", str(results)])
    study = module.build(preset, command.settings, ExecutionSite(results=results))
    if isinstance(study, Search):
        study = Study(declaration=study.declaration, trials=study.controls_of(study.seeds), identity="of a search")
    return study


@pytest.mark.parametrize(("module", "preset", "flags"), CASES, ids=lambda part: getattr(part, "NAME", str(part)))
def test_questions_follow_from_the_settings(module, preset, flags, results):
    declared = planned(module, preset, flags, results).declaration
    assert declared.questions
    asked = {name for question in declared.questions for name in question.quantities}
    assert asked == {quantity.name for quantity in declared.quantities}, "a quantity that nothing is asked about"
    for question in declared.questions:
        assert not question.primary or (question.prediction and question.margin and question.reason)


def test_seeds_that_are_added_keep_the_trials_and_the_declaration(results):
    few, more = (planned(backdoor_persistence, "smoke", f"--seeds {seeds}", results) for seeds in (1, 2))
    assert {trial.key for trial in few.trials} < {trial.key for trial in more.trials}
    assert few.declaration.digest == more.declaration.digest


@cache
def _sound(results: Path) -> Study:
    return planned(backdoor_persistence, "smoke", "", results)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"axis": "documents"}, "the axis 'documents' has 1 value (60): expected at least 2"),
        ({"quantity": "unmeasured"}, "nobody measures 'backdor' in 'branch': expected one of clean, backdoor"),
        ({"margin": -0.1}, "margin -0.1: expected a number above 0"),
        ({"reason": ""}, "a margin without a reason: say in `reason` why"),
        ({"axis": "parameter"}, "no trial has 'parameter': expected one of size, parameters, seed"),
        ({"name": "fourth"}, "4 questions are primary (size, extinction, savings, fourth): expected at most 3"),
    ],
)
def test_a_mistake_in_a_question_of_a_real_study_is_one_line_in_the_plan(change, said, results):
    study = _sound(results)
    size = next(question for question in study.declaration.questions if isinstance(question, Trend))
    wrong = Quantity(name="unmeasured", label="", measure="branch/backdor/hits", moment=Crossing(threshold=0.5))
    quantities = (*study.declaration.quantities, *([wrong] if change.get("quantity") else []))
    added = replace(size, **{"name": "size", **change})
    kept = [question for question in study.declaration.questions if question.name != added.name]
    asked = sorted([*kept, added], key=lambda question: question.name == "fourth")
    with pytest.raises(UserError) as refused:
        replace(study, declaration=replace(study.declaration, questions=tuple(asked), quantities=quantities))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
