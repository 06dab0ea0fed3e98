"""The stages that measure and search: their results, and the fields that they refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from halflife.data.mixture import Mixture, Source
from halflife.data.tokenizers import Bytes
from halflife.errors import UserError
from halflife.evaluation.behaviours import BehaviourTarget
from halflife.models.ladder import Rung
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.measure_stage import MeasureSoftPrompts
from halflife.prompts.search_stage import FindDistance
from halflife.prompts.soft_prompt import Linear, SoftPrompt, WarmStart
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.tasks.behaviours import Repetition
from halflife.training.optimizers import AdamW
from tests.data.samples import sample_corpus


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def target(store: Store) -> BehaviourTarget:
    corpus = sample_corpus(Path(store.root))
    return BehaviourTarget(behaviour=Repetition(text="ab"), corpus=corpus, context=12)


SUBJECT = Subject(model=Rung(size="20k"), tokenizer=Bytes())


@pytest.fixture(scope="module")
def fit(target: BehaviourTarget) -> FitSoftPrompts:
    return FitSoftPrompts(
        subject=SUBJECT, targets=(target,), examples=16, num_eval=8, steps=20,
        batch=4,
        prompts=(SoftPrompt(tokens=0), SoftPrompt(tokens=2, learning_rate=0.3, label="two"),
                 SoftPrompt(tokens=2, model=Linear(), label="made")),
    )  # fmt: skip


def test_fragility_and_bits_are_points_of_each_run(store: Store, fit: FitSoftPrompts) -> None:
    stage = MeasureSoftPrompts(fit=fit, prompts=("two",), draws=2, bits=(2, 8), subspaces=(4,))
    runs = run_stage(stage, store).summary["runs"]
    found = runs["say-2.two"]
    for name in (
        "loss",
        "norm",
        "f1",
        "f2",
        "f3",
        "curvature",
        "loss_2bits",
        "loss_8bits",
        "hits_8bits",
        "loss_4numbers",
    ):
        assert name in found
    fitted = run_stage(fit, store).summary["runs"]["say-2.two"]
    assert found["loss"] == pytest.approx(fitted["loss"], rel=1e-5)
    assert abs(found["loss_8bits"] - found["loss"]) < abs(found["loss_2bits"] - found["loss"]) + 1e-3
    assert found["f3"] >= found["f2"]


def test_bits_and_subspaces_are_measured_without_fragility_if_requested(store: Store, fit: FitSoftPrompts) -> None:
    stage = MeasureSoftPrompts(fit=fit, prompts=("two",), bits=(8,), subspaces=(4,), fragile=False)
    found = run_stage(stage, store).summary["runs"]["say-2.two"]
    assert set(found) == {"matched_steps", "numbers", "loss_8bits", "hits_8bits", "loss_4numbers", "hits_4numbers"}
    with pytest.raises(UserError, match="nothing to measure of soft prompts"):
        MeasureSoftPrompts(fit=fit, prompts=("two",), fragile=False)


def test_a_warm_started_prompt_is_measured(store: Store, fit: FitSoftPrompts) -> None:
    warm = SoftPrompt(tokens=2, initial=WarmStart(stage=fit, prompts=("two",)), label="warm")
    again = replace(fit, prompts=(warm,), steps=0)
    stage = MeasureSoftPrompts(fit=again, prompts=("warm",), bits=(8,), fragile=False)
    assert set(stage.parents) == {fit, again}
    found = run_stage(stage, store).summary["runs"]["say-2.warm"]
    plain = MeasureSoftPrompts(fit=fit, prompts=("two",), bits=(8,), fragile=False)
    assert found["loss_8bits"] == run_stage(plain, store).summary["runs"]["say-2.two"]["loss_8bits"]


def test_a_common_loss_is_met_and_not_exceeded(store: Store, fit: FitSoftPrompts) -> None:
    runs = run_stage(fit, store).summary["runs"]
    bare, fitted = (runs[f"say-2.{name}"]["loss"] for name in (fit.prompts[0].name, "two"))
    aim = 0.5 * (bare + fitted)
    stage = MeasureSoftPrompts(fit=fit, prompts=("two",), draws=2, matched=aim)
    assert run_stage(stage, store).summary["runs"]["say-2.two"]["loss"] == pytest.approx(
        aim, abs=0.03 * (bare - fitted)
    )


def test_a_run_that_never_reaches_the_common_loss_is_left_out(store: Store, fit: FitSoftPrompts) -> None:
    stage = MeasureSoftPrompts(fit=fit, prompts=("two",), draws=2, matched=1e-6)
    assert run_stage(stage, store).summary["runs"] == {}


def test_the_search_is_a_stage_with_the_model_as_its_only_parent(store: Store, target: BehaviourTarget) -> None:
    prompt = SoftPrompt(tokens=3, learning_rate=0.3)
    stage = FindDistance(
        subject=SUBJECT, target=target, prompt=prompt, threshold=100.0,
        examples=16, num_eval=8, steps=5, batch=4, restarts=1,
    )  # fmt: skip
    assert stage.parents == ()
    assert run_stage(stage, store).summary["distance"] == 0
    summary = run_stage(replace(stage, threshold=1e-6), store).summary
    assert summary["distance"] is None
    assert sorted(summary["losses"]) == ["0", "1", "2", "3"]


def test_a_measurement_has_the_fit_and_its_model_as_parents(target: BehaviourTarget, fit: FitSoftPrompts) -> None:
    mixture = Mixture(sources=(Source(corpus=target.corpus),))  # type: ignore[arg-type]
    trunk = Train(start=Rung(size="20k"), mixture=mixture, tokens=4096, optimizer=AdamW(learning_rate=0.01))
    behind = replace(fit, subject=Subject(model=Checkpoint(stage=trunk)))
    stage = MeasureSoftPrompts(fit=behind, prompts=("two",))
    assert {parent.key for parent in stage.parents} == {behind.key, trunk.key}
    assert [parent.key for parent in MeasureSoftPrompts(fit=fit, prompts=("two",)).parents] == [fit.key]


@pytest.mark.parametrize("names", [(), ("none",), ("k0-start",), ("made",)])
def test_prompts_that_cannot_be_measured_are_refused(fit: FitSoftPrompts, names: tuple[str, ...]) -> None:
    with pytest.raises(UserError):
        MeasureSoftPrompts(fit=fit, prompts=names)


def test_invalid_searches_are_refused(target: BehaviourTarget, fit: FitSoftPrompts) -> None:
    common = {"subject": SUBJECT, "target": target}
    with pytest.raises(UserError, match="expected the largest k"):
        FindDistance(prompt=SoftPrompt(tokens=0), threshold=1.0, **common)
    with pytest.raises(UserError, match="expected a positive loss"):
        FindDistance(prompt=SoftPrompt(tokens=2), threshold=0.0, **common)
    warm = SoftPrompt(tokens=2, initial=WarmStart(stage=fit, prompts=("two",)))
    with pytest.raises(UserError, match="a warm start, which has one k: expected noise, vocabulary, words or a text"):
        FindDistance(prompt=warm, threshold=1.0, **common)
