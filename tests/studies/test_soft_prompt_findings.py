"""Soft prompts on a small trunk trained here: a few directions of effect that hold at every size tried."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from halflife.data.corpus import prepare_corpus
from halflife.kits.prompts import PHASE, fitted
from halflife.kits.starts import starts
from halflife.stages.subject import Subject
from halflife.store.run import run_stage
from halflife.sweep.site import ExecutionSite
from studies.soft_prompt_information import PRESETS, Models

pytestmark = pytest.mark.nightly
K = 16


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict, dict]]:
    """Runs of k = 0 and of the best k = 16 by behaviour, on a 30k trunk of half a million bytes."""
    results = Path(tmp_path_factory.mktemp("results"))
    settings = replace(PRESETS["smoke"].settings, tokens=(0, K), restarts=2, steps=200, warm_start=False)
    corpus = prepare_corpus(settings.corpus, results)
    models = Models(settings, (corpus, corpus), "30k", 0, starts(("30k",), (), results)["30k"], results)
    store, runs_by = ExecutionSite(results=results).store(), {}
    for name in ("continuation", "skip-1", "skip-4", "say-1", "say-8"):
        subject = Subject(model=models.trunk(poisoned=False).model)
        stage = fitted(settings, subject, models.target(name), 0)[PHASE]
        runs = run_stage(stage, store).summary["runs"].values()
        bare = next(run for run in runs if not run["tokens"])
        runs_by[name] = (bare, min((run for run in runs if run["tokens"]), key=lambda run: run["train_loss"]))
    return runs_by


def test_nothing_is_gained_on_text_as_trained_on(found) -> None:
    bare, prompted = found["continuation"]
    assert abs(bare["loss"] - prompted["loss"]) < 0.03


def test_skipping_is_gained_and_farther_is_harder_without_a_prompt(found) -> None:
    for name in ("skip-1", "skip-4"):
        assert found[name][1]["loss"] < found[name][0]["loss"] - 0.1
    assert found["skip-1"][0]["loss"] < found["skip-4"][0]["loss"]


def test_a_longer_string_is_said_less_often_by_as_many_tokens(found) -> None:
    for name in ("say-1", "say-8"):
        assert found[name][1]["loss"] < found[name][0]["loss"] - 1.0
    assert found["say-1"][1]["hits"] >= found["say-8"][1]["hits"]
