"""The frontier's search: what it may suggest, what its stages train on, what it measures, and a whole run."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from halflife.errors import UserError
from halflife.stages.train import Train
from halflife.store.store import Store
from halflife.sweep.adaptive import Finished, Search
from halflife.sweep.site import ExecutionSite
from halflife.tasks.synthetic import SyntheticTask
from studies import persistence_frontier as study
from tests.studies.command import command


@pytest.fixture(scope="module")
def search(results: Path) -> Search:
    return study.build("smoke", study.PRESETS["smoke"].settings, ExecutionSite(results=results))


def forms(stage: Any) -> set[str]:
    """Its languages, translations left out."""
    return {name for name in names(stage) if "-to-" not in name}


def names(stage: Any) -> set[str]:
    assert isinstance(stage, Train)
    return {source.corpus.name for source in stage.mixture.sources if isinstance(source.corpus, SyntheticTask)}


def test_the_first_suggestion_is_the_reference() -> None:
    assert study.suggest(optuna.trial.FixedTrial(study.FIRST)) == study.REFERENCE


def test_unrelated_languages_have_no_overlap_to_suggest() -> None:
    first = {name: value for name, value in study.FIRST.items() if name != "rule_overlap"}
    assert study.suggest(optuna.trial.FixedTrial({**first, "family": "A"})).rule_overlap == 1.0


@pytest.mark.parametrize("family", study.FAMILIES)
def test_the_branch_learns_a_language_that_the_trunk_lacked_and_not_the_dropped_one(
    family: str, search: Search
) -> None:
    trial = search.unfold(dataclasses.replace(study.REFERENCE, family=family), 0)
    before, after = names(trial.stages["trunk"]), names(trial.stages["branch"])
    (dropped,) = forms(trial.stages["trunk"]) - after
    (new,) = forms(trial.stages["branch"]) - before
    assert not [name for name in before if new in name.split("-to-")]
    assert not [name for name in after if dropped in name.split("-to-")]
    assert not {source.fade for source in trial.stages["branch"].mixture.sources} - {0.0}  # type: ignore[attr-defined]


def test_controls_differ_from_the_reference_in_what_they_control(search: Search) -> None:
    reference = search.unfold(study.REFERENCE, 0)
    by_role = {trial.role: trial for trial in search.controls(0) if trial.parameters["family"] == "C"}
    absent, positive, null = (by_role[role].stages for role in ("absent", "positive", "null"))
    (dropped,) = forms(reference.stages["trunk"]) - forms(reference.stages["branch"])
    assert dropped not in names(absent["trunk"])
    assert names(absent["branch"]) == names(reference.stages["branch"])
    assert positive["trunk"] == reference.stages["trunk"]
    assert dropped in names(positive["branch"])
    assert names(null["trunk"]) == names(reference.stages["trunk"])
    assert null["trunk"] != reference.stages["trunk"]


@pytest.mark.parametrize("family", study.FAMILIES)
def test_retention_is_measured_against_a_model_that_never_learned_the_same_language(
    family: str, search: Search, tmp_path: Path
) -> None:
    trial = search.unfold(dataclasses.replace(study.REFERENCE, family=family, batch=512), 0)
    measured: list[Finished] = []

    def look(finished: Finished) -> float:
        measured.append(finished)
        return 0.0

    dataclasses.replace(search, measures=dict.fromkeys(search.measures, look)).measured(trial, 0, Store(str(tmp_path)))
    control = measured[0].control("absent").trial
    (dropped,) = forms(trial.stages["trunk"]) - forms(trial.stages["branch"])
    assert (control.parameters["family"], control.parameters["subject"]) == (family, dropped)
    assert forms(control.stages["trunk"]) == forms(trial.stages["trunk"]) - {dropped}


def test_the_new_language_is_not_among_the_kept(search: Search) -> None:
    branch = search.unfold(study.REFERENCE, 0).stages["branch"]
    (kept,) = [each.probe.tasks for each in branch.evaluations if each.name == "kept"]  # type: ignore[attr-defined]
    assert {language.name for language in kept} < forms(search.unfold(study.REFERENCE, 0).stages["trunk"])


class Curves:
    """A finished trial with curves of its own."""

    def __init__(self, curves: dict[str, list[float]], control: dict[str, list[float]]) -> None:
        self.curves, self._control = curves, control

    def curve(self, phase: str, name: str) -> tuple[np.ndarray, np.ndarray]:
        values = np.array(self.curves[name])
        return 2048 * np.arange(len(values)), values

    def control(self, role: str) -> Curves:
        return Curves(self._control, {})


def test_retention_is_1_at_the_drop_and_0_at_the_level_of_a_model_that_never_learned_it() -> None:
    finished: Any = Curves({"dropped/logprob": [-0.1, -2.0, -3.1]}, {"dropped/logprob": [-7.0, -6.1]})
    assert study.retained(finished) == pytest.approx(0.5)
    nothing: Any = Curves({"dropped/logprob": [-5.9, -6.0]}, {"dropped/logprob": [-7.0, -6.1]})
    assert math.isnan(study.retained(nothing))


def test_progress_is_measured_where_the_branch_stopped() -> None:
    curves = {
        "new/hits": [0.0, 9.0, 18.0],
        "new/trials": [20.0] * 3,
        "dropped/hits": [16.0, 1.0],
        "dropped/trials": [20.0] * 2,
    }
    finished: Any = Curves(curves, {})
    assert (study.progress(finished), study.progress_tokens(finished), study.learned(finished)) == (0.9, 4096.0, 0.8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"seeds": 0}, "--seeds 0"), ({"languages": 10}, "11 languages given"), ({"criterion": 1.5}, "--criterion 1.5")],
)
def test_bad_settings_are_refused_in_one_line(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(study.PRESETS["smoke"].settings, **changes)
    with pytest.raises(UserError, match=said) as refused:
        study.build("smoke", settings, ExecutionSite(results=tmp_path))
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_whole_search_measures_its_settings_and_controls_and_has_nothing_to_do_when_run_again(
    tmp_path: Path,
) -> None:
    """Three settings with trunks too short to learn: none meets the constraints, and the search says so."""
    flags = ["--trials", "3", "--trunk-tokens", "30000", "--branch-tokens", "12000"]
    runs = [command("persistence_frontier", "smoke", *flags, results=tmp_path) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr[-2000:]
    assert "no setting meets the constraints" in runs[0].stdout
    assert "0 stages run" in runs[1].stdout
    from analysis.runs.load import load_study

    trials = load_study(f"sqlite:///{tmp_path}/mlflow.db", study.NAME).trials
    assert dict(trials["role"].value_counts().iter_rows()) == {"treatment": 3, "absent": 3, "positive": 1, "null": 1}
