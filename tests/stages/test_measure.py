"""Any probe on any subject: what a stage measures, and subjects with weights of two models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from halflife.data.mixture import Mixture, Source
from halflife.data.tokenizers import Bytes
from halflife.errors import UserError
from halflife.evaluation.probes import Ends, Evaluation, LossProbe, TaskProbe
from halflife.models.components import component_of
from halflife.models.ladder import Rung
from halflife.prompts.edit import PromptBefore
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.prompts.soft_prompt import SoftPrompt
from halflife.stages.edits import PutBack
from halflife.stages.measure import Measure
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.run import run_stage
from halflife.store.store import Store, read_points
from halflife.tasks.families import Family
from halflife.training.optimizers import AdamW
from tests.data.samples import sample_corpus
from tests.plugin.added import FirstDirection, Silenced

LANGUAGES = Family(kind="C", size=4, modulus=7).languages
PROBE = Evaluation(name="b", probe=TaskProbe(tasks=LANGUAGES[:1], trials=16), at=Ends())
TRUNK = Train(
    start=Rung(size="20k"),
    mixture=Mixture(sources=(Source(corpus=LANGUAGES[0], loss="answers"),), sequence=64),
    tokens=2048,
    batch_tokens=256,
    optimizer=AdamW(learning_rate=0.01),
    evaluations=(PROBE,),
)
BRANCH = Train(
    start=Checkpoint(stage=TRUNK),
    mixture=Mixture(sources=(Source(corpus=LANGUAGES[1], loss="answers"),), sequence=64),
    tokens=1024,
    batch_tokens=256,
    optimizer=AdamW(learning_rate=0.01),
    evaluations=(PROBE,),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("results"))


def points(store: Store, stage: Any) -> dict[tuple[int, str], float]:
    outcome = run_stage(stage, store)
    table = read_points(Path(store.root) / "stages" / stage.folder_name / "attempts" / outcome.attempt)
    return {(step, name): value for step, name, value in table.select("step", "name", "value").iter_rows()}


def measured(store: Store, subject: Subject, *evaluations: Evaluation) -> dict[str, float]:
    found = points(store, Measure(subject=subject, evaluations=evaluations or (PROBE,), sequence=64))
    return {name: value for (step, name), value in found.items() if step == 0}


def test_a_checkpoints_measures_are_those_of_the_stage_that_made_it(store: Store) -> None:
    logged = points(store, TRUNK)
    found = measured(store, Subject(model=Checkpoint(stage=TRUNK)))
    assert found == {name: value for (step, name), value in logged.items() if step == 2048 and name.startswith("b/")}
    assert "b/hits" in found


@pytest.fixture(scope="module")
def clean(store: Store) -> Evaluation:
    return Evaluation(name="clean", probe=LossProbe(corpus=sample_corpus(Path(store.root)), sequences=4))


def test_an_untrained_rung_is_a_subject_with_a_seed(store: Store, clean: Evaluation) -> None:
    first, second, again = (
        measured(store, Subject(model=Rung(size="20k"), tokenizer=Bytes(), seed=seed), clean) for seed in (1, 2, 1)
    )
    assert first == again
    # the head starts at 0, so every untrained model predicts all tokens alike
    assert first["clean/loss"] == second["clean/loss"] == pytest.approx(torch.tensor(257.0).log().item())


def test_a_model_with_everything_put_back_is_the_other_model_to_the_bit(store: Store) -> None:
    other = measured(store, Subject(model=Checkpoint(stage=TRUNK)))
    mixed = Subject(
        model=Checkpoint(stage=BRANCH), edits=(PutBack(source=Checkpoint(stage=TRUNK), components=("all",)),)
    )
    assert measured(store, mixed) == other
    assert measured(store, Subject(model=Checkpoint(stage=BRANCH))) != other


def test_components_put_back_one_after_another_make_the_other_model(store: Store) -> None:
    def put(*components: str) -> Subject:
        edits = tuple(PutBack(source=Checkpoint(stage=TRUNK), components=(each,)) for each in components)
        return Subject(model=Checkpoint(stage=BRANCH), edits=edits)

    each = ("embed", "attention-1", "mlp-1", "block-2", "norm", "head")
    assert measured(store, put(*each)) == measured(store, Subject(model=Checkpoint(stage=TRUNK)))
    assert measured(store, put("mlp-1")) != measured(store, put("attention-1"))


def test_every_parameter_of_the_decoder_is_in_one_component(store: Store) -> None:
    from halflife.models.decoder import Decoder

    found = component_of(Decoder(Rung(size="20k"), 257))
    assert set(found.values()) == {"embed", "head", "norm", "attention-1", "mlp-1", "attention-2", "mlp-2"}
    assert found["blocks.0.attention_norm.weight"] == found["blocks.0.qkv.weight"] == "attention-1"
    assert found["blocks.1.mlp_norm.weight"] == found["blocks.1.down.weight"] == "mlp-2"


def test_a_fitted_prompt_before_every_text_scores_as_the_stage_that_fitted_it(store: Store) -> None:
    from halflife.evaluation.targets import TaskTarget

    subject = Subject(model=Checkpoint(stage=TRUNK))
    fit = FitSoftPrompts(
        subject=subject, targets=(TaskTarget(task=LANGUAGES[2]),),
        prompts=(SoftPrompt(tokens=0), SoftPrompt(tokens=3, learning_rate=0.3, label="three")),
        examples=8, num_eval=4, steps=30, batch=4,
    )  # fmt: skip
    runs = run_stage(fit, store).summary["runs"]
    name = fit.run_name(fit.targets[0], fit.prompts[1])
    probe = Evaluation(name="c", probe=TaskProbe(tasks=LANGUAGES[2:3], trials=1000))
    prompted = replace(subject, edits=(PromptBefore(fit=fit, run=name),))
    assert prompted.context_length == 64 - 3
    plain, behind = (
        points(store, Measure(subject=each, evaluations=(probe,), sequence=32))[0, "c/logprob"]
        for each in (subject, prompted)
    )
    assert runs[name]["logprob"] > runs[fit.run_name(fit.targets[0], fit.prompts[0])]["logprob"] + 0.5
    assert behind > plain + 0.5


def test_a_probe_and_an_edit_from_outside_the_package_are_one_class_each(store: Store) -> None:
    probe = Evaluation(name="n", probe=FirstDirection(letters="abc"))
    subject = Subject(model=Checkpoint(stage=TRUNK))
    plain = points(store, Measure(subject=subject, evaluations=(probe,)))[0, "n/norm"]
    edited = points(store, Measure(subject=replace(subject, edits=(Silenced(directions=4),)), evaluations=(probe,)))
    assert plain > 0.1
    assert edited[0, "n/norm"] < 1e-5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Measure(subject=Subject(model=Checkpoint(stage=TRUNK)), evaluations=()), "at least one evaluation"),
        (
            lambda: Measure(subject=Subject(model=Checkpoint(stage=TRUNK)), evaluations=(PROBE, PROBE)),
            "several evaluations named 'b'",
        ),
        (
            lambda: Measure(subject=Subject(model=Checkpoint(stage=TRUNK)), evaluations=(PROBE,), sequence=65),
            "reads at most 64",
        ),
        (lambda: Subject(model=Rung(size="20k")), "without a tokenizer"),
        (lambda: Subject(model=Checkpoint(stage=TRUNK), seed=1), "leave it out"),
        (lambda: PutBack(source=Checkpoint(stage=TRUNK), components=()), "at least one, such as 'block-1'"),
        (
            lambda: Subject(
                model=Rung(size="30k"),
                tokenizer=Bytes(),
                edits=(PutBack(source=Checkpoint(stage=TRUNK), components=("all",)),),
            ),
            "weights of a 20k put into a 30k",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_compute(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("component", ["block-9", "mlp-0", "heads", "all-1"])
def test_a_component_that_a_model_does_not_have_is_refused_by_name(component: str) -> None:
    edits = (PutBack(source=Checkpoint(stage=TRUNK), components=(component,)),)
    with pytest.raises(UserError, match=f"component '{component}' of 20k given: expected all, embed, head, norm"):
        Subject(model=Checkpoint(stage=BRANCH), edits=edits)


def test_the_memory_of_measuring_is_that_of_the_same_evaluation_in_training() -> None:
    from halflife.store.execution import Execution

    probe = TaskProbe(tasks=LANGUAGES[:1], trials=999)
    big = replace(TRUNK, start=Rung(size="3m"), evaluations=(replace(PROBE, probe=probe),))
    trained = big.memory(Execution())
    found = Measure(subject=Subject(model=Checkpoint(stage=big)), evaluations=big.evaluations)
    held = found.memory(Execution())
    assert (held.parameters, held.evaluation) == (trained.parameters, trained.evaluation)
    assert held.evaluation > 1e6
    assert found.cost.memory_bytes == held.total == held.parameters + held.evaluation
