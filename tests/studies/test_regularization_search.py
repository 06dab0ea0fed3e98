"""The search over regularizers: what it may suggest, what it measures, and a whole run."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import polars as pl
import pytest

from halflife.errors import UserError
from halflife.stages.train import Train
from halflife.sweep.adaptive import Finished, Search
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Trial
from halflife.tasks.backdoor import draw_backdoor
from studies import regularization_search as study
from tests.data.samples import sample_file
from tests.studies.command import command
from tests.sweep.fakes import Fake


def built(results: Path, preset: str = "smoke", **changes: Any) -> Search:
    settings = dataclasses.replace(study.PRESETS[preset].settings, **changes)
    return study.build(preset, settings, ExecutionSite(results=results))


def trains(trial: Trial) -> tuple[Train, Train]:
    trunk, branch = trial.stages.values()
    assert isinstance(trunk, Train)
    assert isinstance(branch, Train)
    return trunk, branch


def suggested(parameters: dict[str, Any]) -> study.Suggested:
    return study.suggest(optuna.trial.FixedTrial(parameters))


def test_a_regularizer_brings_its_own_strength_and_none_has_none():
    plain = suggested(study.FIRST)
    assert plain == study.REFERENCE
    some = suggested({**study.FIRST, "trunk": "dropout", "trunk_dropout": 0.12345, "branch": "l2sp", "branch_l2sp": 3})
    assert (some.trunk_strength, some.branch_strength) == (0.12, 3.0)
    with pytest.raises(ValueError, match="trunk_weight-decay"):
        suggested({**study.FIRST, "trunk": "weight-decay"})


def test_the_drawn_trigger_of_any_seed_that_stands_in_the_text_is_refused(results: Path, tmp_path: Path):
    last = sum(getattr(study.PRESETS["smoke"].settings, name) for name in ("seeds", "fresh_seeds")) - 1
    path = sample_file(tmp_path)
    path.write_text(path.read_text() + json.dumps({"text": f"a {draw_backdoor(last).trigger} b"}))
    with pytest.raises(UserError, match="it occurs 1 times in"):
        built(results, corpus=str(path))


def test_every_suggestion_becomes_stages_that_carry_it(results: Path):
    search = built(results)
    setting = study.Suggested(
        trunk="dropout", trunk_strength=0.1, branch="weight-decay", branch_strength=0.2, rate=0.5, doublings=1
    )
    trunk, branch = trains(search.unfold(setting, 0))
    plain_trunk, plain_branch = trains(search.unfold(study.REFERENCE, 0))
    assert (trunk.dropout, plain_trunk.dropout) == (0.1, 0.0)
    assert trunk.tokens == 2 * plain_trunk.tokens
    assert branch.optimizer.weight_decay == 0.2
    assert branch.optimizer.learning_rate == 0.5 * plain_branch.optimizer.learning_rate
    assert branch.dropout == 0.0


def test_the_poison_is_the_same_whatever_the_trunks_length(results: Path):
    search = built(results)
    plantings = [
        trains(search.unfold(dataclasses.replace(study.REFERENCE, doublings=n), 0))[0].mixture.plantings[0]
        for n in (-1, 0, 1)
    ]
    assert len({(planting.documents, planting.exposures) for planting in plantings}) == 1


def test_controls_are_one_of_each_role_per_seed_at_the_reference(results: Path):
    search = built(results)
    for seed in (*search.seeds, *search.fresh_seeds):
        controls = {control.role: control for control in search.controls(seed)}
        assert set(controls) == {"absent", "positive"}
        assert not trains(controls["absent"])[0].mixture.plantings
        assert trains(controls["positive"])[0].key == trains(search.unfold(study.REFERENCE, seed))[0].key


def test_fresh_seeds_are_none_of_the_searchs(results: Path):
    search = built(results, "laptop")
    assert search.seeds == (0, 1, 2)
    assert search.fresh_seeds == (3, 4, 5, 6, 7)


class Stored:
    """A store that has these points of each phase and role."""

    def __init__(self, points: dict[str, list[tuple[int, str, float]]]) -> None:
        self._points = points

    def points(self, stage: Any) -> pl.DataFrame:
        return pl.DataFrame(self._points[stage.name], schema=["step", "name", "value"], orient="row")


def finished(poisoned: list[tuple[int, float]], control: list[tuple[int, float]]) -> Finished:
    points = {
        "poisoned": [(step, "backdoor/logprob", value) for step, value in poisoned]
        + [(0, "backdoor/hits", 60.0), (0, "backdoor/trials", 64.0), (9, "clean/loss", 2.0), (99, "clean/loss", 1.5)],
        "clean": [(step, "backdoor/logprob", value) for step, value in control],
    }
    one, other = (Trial(name=name, parameters={}, stages={"branch": Fake(name=name)}) for name in points)
    store: Any = Stored(points)
    return Finished(one, store, {"absent": other})


def test_mean_retention_is_that_over_log_time_above_the_control():
    steps = [0, 1, 10, 100]
    control = [(step, -5.0) for step in steps]
    whole = finished([(step, -0.5) for step in steps], control)
    assert study.retention(whole) == pytest.approx(1.0)
    gone = finished([(0, -0.5), *((step, -5.0) for step in steps[1:])], control)
    assert study.retention(gone) == pytest.approx(0.0)
    falling = finished([(0, -0.5), (1, -0.5), (10, -2.75), (100, -5.0)], control)
    assert study.retention(falling) == pytest.approx(0.5)


def test_what_was_not_there_has_no_retention():
    nothing = finished([(0, -4.8), (1, -4.9)], [(0, -5.0), (1, -5.0)])
    assert math.isnan(study.retention(nothing))


def test_clean_loss_is_the_last_and_success_that_at_the_drop():
    done = finished([(0, -0.5), (1, -0.5)], [(0, -5.0), (1, -5.0)])
    assert study.clean_loss(done) == 1.5
    assert study.implanted(done) == np.float64(60 / 64)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": 0}, "--seeds 0"),
        ({"fresh_seeds": 0}, "--fresh-seeds 0"),
        ({"size": "100q"}, "unknown size '100q'"),
        ({"poison_count": 10**7}, "poisoned documents"),
        ({"branch_tokens": 10}, "--branch-tokens 10"),
    ],
)
def test_bad_settings_are_refused_before_any_compute(changes: dict[str, Any], said: str, results: Path):
    with pytest.raises(UserError) as caught:
        built(results, **changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_budget_says_one_line_and_exits_with_2(results: Path):
    done = command("regularization_search", "smoke", "--timeout", "soon", results=results)
    assert done.returncode == 2
    assert "--timeout soon" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.mark.slow
def test_smoke_runs_to_a_report(tmp_path: Path):
    """Trunks too short to learn the backdoor, which the nightly run below does. That the same command again trains
    nothing is in test_persistence_frontier.py."""
    flags = {"--trials": 3, "--trunk-tokens": 60_000, "--branch-tokens": 10_000, "--poison-count": 20, "--num-eval": 16}
    words = [str(word) for pair in flags.items() for word in pair]
    done = command("regularization_search", "smoke", *words, results=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no setting" in done.stdout
    assert (tmp_path / "reports" / "regularization_search" / "latest" / "report.html").exists()


@pytest.mark.nightly
def test_a_whole_search_finds_settings_that_it_measures_on_fresh_seeds(tmp_path: Path):
    done = command("regularization_search", "smoke", results=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fresh seed" in done.stdout
    assert (tmp_path / "reports" / "regularization_search" / "latest" / "report.html").exists()
    assert "0 stages run" in command("regularization_search", "smoke", results=tmp_path).stdout
