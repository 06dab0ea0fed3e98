"""The study of what fine-tuning used: what it plans, asks and refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from halflife.data.attributes import AttributeText
from halflife.errors import UserError
from halflife.interpret.attribution import Attribute
from halflife.interpret.compare_attributions import CompareAttributions
from halflife.interpret.show_features import ShowFeatures
from halflife.interpret.token_at import TokenAt
from halflife.interpret.transfer_dictionary import TransferDictionary
from halflife.kits.finetuning_algorithms import ALGORITHMS
from halflife.stages.measure import Measure
from halflife.stages.train import Train
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study
from halflife.training.attribute_reward import AttributeReward
from halflife.training.policy_gradient import PolicyGradient
from studies import finetuning_attribution as study

SMOKE = study.PRESETS["smoke"].settings


def built(settings: study.Settings, results: Path) -> Study:
    return study.build("smoke", settings, ExecutionSite(results=results))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return built(replace(SMOKE, sizes=("30k", "60k"), runs=3), tmp_path_factory.mktemp("results"))


def attribution(plan: Study, role: str, run: int = 0) -> Attribute:
    wanted = {"size": "30k", "run": run}
    (found,) = (t for t in plan.trials if t.role == role and wanted.items() <= t.parameters.items())
    stage = found.stages["attribution"]
    assert isinstance(stage, Attribute)
    return stage


def trained(subject: Any) -> Train:
    return subject.model.stage


def fixed(subject: Any) -> Any:
    (source,) = trained(subject).mixture.sources
    assert isinstance(source.corpus, AttributeText)
    return source.corpus.fixed


def test_a_fine_tuning_and_its_null_differ_in_their_documents_only(plan: Study) -> None:
    runs = [attribution(plan, "treatment", run) for run in range(3)]
    for own in runs:
        tuned, null = trained(own.tuned), trained(own.null)
        assert replace(tuned, mixture=null.mixture) == null
        assert (fixed(own.tuned), fixed(own.null)) == ((1, -1, -1), None)
    assert len({trained(own.tuned).seed for own in runs}) == 3
    assert len({(own.subject, own.dictionaries, own.texts) for own in runs}) == 1


def test_controls_are_a_null_of_another_run_and_another_attribute(plan: Study) -> None:
    null, absent = attribution(plan, "null", 1), attribution(plan, "absent")
    assert (fixed(null.tuned), fixed(null.null)) == (None, None)
    assert null.null == attribution(plan, "treatment", 1).null
    assert trained(null.tuned).seed not in {trained(attribution(plan, "treatment", run).tuned).seed for run in range(3)}
    assert fixed(absent.tuned) == (-1, 1, -1)
    assert absent.properties == attribution(plan, "treatment").properties


def test_runs_are_compared_with_those_of_the_same_role(plan: Study) -> None:
    for trial in plan.trials:
        found = trial.stages.get("runs")
        if trial.parameters["run"] == 0 and trial.role != "absent" and trial.parameters["size"] == "30k":
            assert isinstance(found, CompareAttributions)
            assert found.runs == tuple(attribution(plan, trial.role, run) for run in range(3))
    assert sum("runs" in trial.stages for trial in plan.trials) == 4


def test_its_questions_follow_from_its_settings(plan: Study, tmp_path: Path) -> None:
    asked = {question.name: question for question in plan.declaration.questions}
    assert [name for name, question in asked.items() if question.primary] == ["aligned", "causal", "path"]
    assert all(question.margin and question.reason for question in asked.values() if question.primary)
    assert "alignment_by_size" in asked
    few = {question.name for question in built(replace(SMOKE, runs=1), tmp_path).declaration.questions}
    assert not {"path", "alignment_by_size"} & few


def test_fine_tuning_by_reward_has_permuted_rewards_as_its_null(tmp_path: Path) -> None:
    every = built(replace(SMOKE, algorithms=("sft", *(name for name in ALGORITHMS if name != "sft"))), tmp_path)
    assert "collapse" in {question.name for question in every.declaration.questions}
    for trial in every.trials:
        if trial.role == "treatment" and trial.parameters["algorithm"] == "rl-0":
            found = trial.stages["attribution"]
            assert isinstance(found, Attribute)
            (own,), (null,) = (trained(each).objectives for each in (found.tuned, found.null))
            assert isinstance(own, PolicyGradient)
            assert isinstance(null, PolicyGradient)
            assert replace(null, reward=replace(cast("AttributeReward", null.reward), permuted=False)) == own
            assert own.beta == 0
            others = trial.stages.get("runs")
            assert others is None or (isinstance(others, CompareAttributions) and len(others.others) == 2)


def test_with_and_without_a_penalty_the_primary_question_is_of_features_that_collapse(tmp_path: Path) -> None:
    asked = {q.name: q for q in built(replace(SMOKE, algorithms=("sft", "rl", "rl-0")), tmp_path).declaration.questions}
    assert [name for name, question in asked.items() if question.primary] == ["aligned", "causal", "collapse"]
    assert (asked["collapse"].margin, asked["path"].primary) == (0.05, False)


@pytest.mark.parametrize("varied", ["reward", "sampling", "order"])
def test_runs_of_ppo_differ_in_one_seed_where_others_are_apart(varied: str, tmp_path: Path) -> None:
    plan = built(replace(SMOKE, algorithms=("sft", "ppo", f"ppo-{varied}")), tmp_path)

    def seeds(name: str, role: str, run: int) -> dict[str, int]:
        parameters = {"algorithm": name, "run": run}
        (found,) = (t for t in plan.trials if t.role == role and parameters.items() <= t.parameters.items())
        attribution = found.stages["attribution"]
        assert isinstance(attribution, Attribute)
        train: Any = trained(attribution.tuned)
        (policy,) = train.objectives
        assert found.stages["reward"] == policy.reward.fit
        assert policy.reward.fit.permuted is (role == "null")
        assert train.until.threshold == pytest.approx(0.5 / 31)
        return {"reward": policy.reward.fit.seed, "sampling": train.seed, "order": policy.order}

    one, other = (seeds("ppo", "treatment", run) for run in (0, 1))
    assert all(one[name] != other[name] for name in one)
    for role in ("treatment", "null"):
        one, other = (seeds(f"ppo-{varied}", role, run) for run in (0, 1))
        assert [name for name in one if one[name] != other[name]] == [varied]
    asked = {question.name for question in plan.declaration.questions}
    assert {"distance_ppo", "path_ppo", f"path_ppo-{varied}"} <= asked


def test_conditioned_models_are_one_model_behind_other_tokens(tmp_path: Path) -> None:
    plan = built(replace(SMOKE, algorithms=("sft", "dt", "cond")), tmp_path)
    seen: dict[tuple[Any, ...], Attribute] = {}
    for trial in plan.trials:
        name, found = trial.parameters["algorithm"], trial.stages["attribution"]
        assert isinstance(found, Attribute)
        if name == "sft":
            continue
        assert isinstance(trial.stages["tuning"], Measure)
        assert found.null is not None
        assert found.tuned != found.null
        assert name == "dt" or found.tuned.edits != found.null.edits
        assert isinstance(found.tuned.edits[0], TokenAt)
        assert found.first == {"dt": 1, "cond": 4}[str(name)]
        seen[name, trial.role, trial.parameters["run"]] = found
        runs = trial.stages.get("runs")
        assert runs is None or (isinstance(runs, CompareAttributions) and not runs.others)
    assert {key for key in seen if key[0] == "cond"} == {("cond", r, 0) for r in ("treatment", "null", "absent")}
    assert all(trained(f.tuned) == trained(f.null) == trained(f.subject) for (n, *_), f in seen.items() if n == "cond")
    own = seen["dt", "treatment", 1]
    assert trained(own.tuned) == trained(own.null) != trained(seen["dt", "treatment", 0].tuned)


def test_fresh_dictionaries_are_fitted_to_first_runs_as_the_trunks_was(tmp_path: Path) -> None:
    plan = built(replace(SMOKE, fresh=True), tmp_path)
    found = {(t.role, t.parameters["run"]): t.stages.get("transfer") for t in plan.trials}
    assert {key for key, stage in found.items() if stage} == {("treatment", 0), ("null", 0)}
    stage = found["treatment", 0]
    assert isinstance(stage, TransferDictionary)
    old, fresh = cast("Any", stage.dictionary), cast("Any", stage.fresh)
    assert old.dictionary == fresh.dictionary
    assert fresh.fit.subject == stage.tuned == fresh.fit.activations.subject
    assert {"transfer_raw_fresh", "transfer_mapped_fresh"} <= {question.name for question in plan.declaration.questions}


def test_features_are_shown_of_first_fine_tunings_only(tmp_path: Path) -> None:
    plan = built(replace(SMOKE, shown=5), tmp_path)
    found = {(t.role, t.parameters["run"]): t.stages.get("shown") for t in plan.trials}
    assert {key for key, stage in found.items() if stage} == {("treatment", 0)}
    stage = found["treatment", 0]
    assert isinstance(stage, ShowFeatures)
    assert stage.attribution == attribution_of(plan.trials)
    own = cast("Any", stage.attribution)
    assert {own, own.subject.model.stage, own.dictionaries[0].fit} <= set(stage.parents)


def attribution_of(trials: Any) -> Any:
    return next(t.stages["attribution"] for t in trials if t.role == "treatment" and t.parameters["run"] == 0)


def test_pilot_seeds_are_printed_or_left_out(tmp_path: Path) -> None:
    plan = built(SMOKE, tmp_path)
    assert "seed 0 of 30k" in plan.declaration.notes[0]
    assert not plan.declaration.pilot_seeds
    without = built(replace(SMOKE, seeds=2, pilots=(0,)), tmp_path).declaration
    assert (without.pilot_seeds, without.notes) == ((0,), ())


@pytest.mark.parametrize("preset", study.PRESETS)
def test_every_preset_can_be_planned(preset: str, tmp_path: Path) -> None:
    settings = study.PRESETS[preset].settings
    settings = replace(settings, seeds=1, sizes=settings.sizes[:1])
    assert built(settings, tmp_path).declaration.figures == ("feature_scores", "feature_edits")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"attributes": 1}, "--attributes 1: expected at least 2"),
        ({"k": 65}, "--k 65: expected at most 64"),
        ({"texts": 3}, "--symbols 32, --texts 3 and --stored 400: expected"),
        ({"runs": 0}, "--runs 0: expected a positive number"),
        ({"features": (1, 1)}, "--features 1 1: expected at least one value, each once"),
        ({"pilots": (4,)}, "--pilots 4: expected seeds below 1"),
        ({"algorithms": ("magic",)}, "unknown fine-tuning 'magic': expected one of sft"),
    ],
)
def test_settings_that_cannot_be_run_are_refused_in_one_line(
    changes: dict[str, Any], line: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=line) as error:
        built(replace(SMOKE, **changes), tmp_path)
    assert "\n" not in str(error.value)
