"""Matching another subject: what the distance is, that training reaches the teacher, and what the plan refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from halflife.data.loss_mask import read
from halflife.data.tokenizers import BPE, Bytes, Pretrained, vocabulary_of
from halflife.errors import UserError
from halflife.models.hooks import tapped
from halflife.models.ladder import Rung
from halflife.models.released import Released, Shape
from halflife.models.sites import Site
from halflife.stages.edits import PutBack
from halflife.stages.matching import Matching
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.execution import Execution
from halflife.store.plan import Plan
from halflife.store.stage import Outcome
from halflife.store.store import Store
from halflife.training import checkpoints
from halflife.training.loop import model_at
from halflife.training.objectives import NextToken
from halflife.training.optimizers import AdamW
from halflife.training.recipe import Snapshot, Threshold
from tests.training.fakes import (
    ANSWERS,
    CORPUS,
    Host,
    Interrupted,
    PartlyScored,
    Stream,
    Ticking,
    recipe,
    run,
    torch_engine,
)

VOCABULARY = vocabulary_of(Bytes())
TEACHER = recipe(tokens=60 * 64, evaluations=(), seed=5)
FINAL = Checkpoint(stage=TEACHER)
SUBJECT = Subject(model=FINAL)
SITES = (Site(layer=1), Site(layer=2, part="mlp"))
KL = Matching(teacher=SUBJECT)
MSE = Matching(teacher=SUBJECT, sites=SITES)


class ByteStream(Stream):
    vocabulary = VOCABULARY


class Marked(PartlyScored):
    vocabulary = VOCABULARY


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the teacher's stage."""
    folder = tmp_path_factory.mktemp("teacher")
    run(TEACHER, Host(folder), batches=ByteStream())
    return folder


class Child(Host):
    def __init__(self, folder: Path, teacher: Path, **arguments: Any) -> None:
        super().__init__(folder, **arguments)
        self.teacher = teacher

    def parent(self, stage: object) -> Path:
        assert stage == TEACHER
        return self.teacher


def student(objective: Matching, **changes: Any) -> Train:
    """That learns from its teacher alone."""
    return recipe(objectives=(objective,), optimizer=AdamW(learning_rate=0.01), seed=1, **changes)


def engine(objective: Matching, teacher: Path, at: Path | None = None, micro_rows: int | None = None, **changes: Any):
    """From the weights in `at`, or fresh ones."""
    torch.manual_seed(0)
    model, _ = model_at(teacher / "final", Rung(size="20k"), VOCABULARY)
    if at is None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return torch_engine(model, student(objective, **changes), micro_rows=micro_rows, parents={TEACHER: teacher})


# --- the distance ---


@pytest.mark.parametrize("objective", [KL, MSE], ids=["kl", "mse"])
def test_a_model_with_the_teachers_weights_has_distance_0_and_no_gradient(teacher, objective):
    of = engine(objective, teacher, at=teacher)
    metrics = of.gradients(ByteStream().batch(0), 0)
    assert abs(float(metrics[objective.measures[0]])) < 1e-6
    assert max(float(p.grad.abs().max()) for p in of.parameters if p.grad is not None) < 1e-6


def expected_kl(model: Any, teacher: Any, ids: Tensor, scored: Tensor) -> Tensor:
    now, wanted = (each(ids[:, :-1]).log_softmax(-1) for each in (model, teacher))
    return (wanted.exp() * (wanted - now)).sum(-1)[scored].mean()


def expected_mse(model: Any, teacher: Any, ids: Tensor, scored: Tensor) -> Tensor:
    found = []
    for each in (model, teacher):
        with tapped(each, SITES) as taps:
            each(ids[:, :-1])
        found.append(dict(taps))
    ours, theirs = found
    errors = [((ours[site] - theirs[site]) ** 2).sum(-1) / (theirs[site] ** 2).sum(-1) for site in SITES]
    return torch.stack(errors).mean()


@pytest.mark.parametrize("micro_rows", [None, 3])
@pytest.mark.parametrize(("objective", "expected"), [(KL, expected_kl), (MSE, expected_mse)], ids=["kl", "mse"])
def test_the_gradient_is_that_of_the_mean_over_the_whole_batch(teacher, objective, expected, micro_rows):
    """With marks and uneven microbatches; KL at the predicted tokens, activations at all."""
    of = engine(replace(objective, strength=3.0), teacher, micro_rows=micro_rows, mixture=ANSWERS)
    theirs, _ = model_at(teacher / "final", Rung(size="20k"), VOCABULARY)
    batch = torch.from_numpy(Marked(rows=8).batch(0))
    value = expected(of.model, theirs.requires_grad_(False), read(batch), batch[:, 1:] >= 0)
    wanted = torch.autograd.grad(3 * value, of.parameters, allow_unused=True)
    metrics = of.gradients(batch, 0)
    assert float(metrics[objective.measures[0]]) == pytest.approx(value.item(), rel=1e-4)
    assert value.item() > 1e-3
    for parameter, gradient in zip(of.parameters, wanted, strict=True):
        if gradient is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)


def test_the_teacher_is_frozen_and_a_subject_with_its_edits(teacher, tmp_path):
    """All of a checkpoint's weights put back make that checkpoint."""
    fresh = Subject(model=Rung(size="20k"), tokenizer=Bytes(), seed=7)
    edited = replace(fresh, edits=(PutBack(source=FINAL, components=("all",)),))
    of, plain, edit = (engine(Matching(teacher=subject), teacher, dropout=0.0) for subject in (SUBJECT, fresh, edited))
    batch = ByteStream().batch(0)
    value, other, same = (float(each.gradients(batch, 0)["matching/kl"]) for each in (of, plain, edit))
    assert same == value != other
    of.step(1.0)
    again = engine(KL, teacher)
    again.load(of.full_weights(), None)
    assert float(of.gradients(batch, 1)["matching/kl"]) == float(again.gradients(batch, 1)["matching/kl"])


# --- training ---


@pytest.mark.parametrize(("objective", "factor"), [(KL, 20), (replace(MSE, strength=10.0), 3)], ids=["kl", "mse"])
def test_a_student_from_another_seed_reaches_its_teacher(teacher, tmp_path, objective, factor):
    host = Child(tmp_path, teacher)
    run(student(objective, tokens=100 * 64), host, batches=ByteStream("other"))
    (measure,) = objective.measures
    values = [point[measure] for point in host.points.values() if measure in point]
    assert values[-1] < values[0] / factor
    if objective is KL:  # and so its skill, on text that it never saw
        last = host.points[max(host.points)]
        assert last["clean/loss"] < 0.5 * host.points[0]["clean/loss"]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_student_has_the_same_bits(teacher, tmp_path, precision):
    stage = recipe(objectives=(NextToken(), KL, MSE), seed=1, precision=precision, dropout=0.1)
    whole, part = Child(tmp_path / "whole", teacher), Child(tmp_path / "part", teacher, interrupt_at=5)
    run(stage, whole, batches=ByteStream())
    with pytest.raises(Interrupted):
        run(stage, part, batches=ByteStream(), checkpoint_seconds=0.5, clock=Ticking())
    rest = Child(tmp_path / "rest", teacher, resume=part.checkpoints[-1])
    run(stage, rest, batches=ByteStream())
    weights = [checkpoints.read_weights(tmp_path / folder / "final") for folder in ("whole", "rest")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    last = max(whole.points)
    for name in ("matching/kl", "matching/mse", "train/loss"):
        assert rest.points[last][name] == whole.points[last][name] > 0


def test_activations_inside_compiled_layers_are_refused_before_training(teacher, tmp_path):
    host = Child(tmp_path, teacher)
    host.execution = Execution(compile=True)
    with pytest.raises(UserError, match="activations at mlp-2, inside a compiled layer, cannot be read"):
        run(student(MSE), host, batches=ByteStream())


# --- the plan ---


def test_the_teachers_stage_is_a_parent_and_its_weights_are_counted():
    stage = student(KL)
    assert stage.parents == (TEACHER,)
    assert student(Matching(teacher=Subject(model=Rung(size="20k"), tokenizer=Bytes()))).parents == ()
    large = Matching(teacher=Subject(model=Rung(size="100k"), tokenizer=Bytes()))
    assert KL.step_tokens(stage) == pytest.approx(stage.batch_tokens / 3)
    assert large.step_tokens(stage) > 2 * KL.step_tokens(stage)
    held = [student(objective).memory(Execution()).init_weights for objective in (KL, large)]
    assert held[1] - held[0] > 4 * (Rung(size="100k").parameters - Rung(size="20k").parameters)


def test_the_plan_counts_the_logits_of_both_models():
    stages = (recipe(), student(KL), student(MSE))
    plain, kl, mse = (stage.memory(Execution()).activations for stage in stages)
    tokens = student(KL).batch_tokens
    assert kl - plain == 24 * VOCABULARY * tokens
    assert mse - plain == 12 * len(MSE.sites) * Rung(size="20k").width * tokens


def test_a_student_waits_for_its_teacher_and_is_blocked_in_one_line_where_that_was_never_made(tmp_path):
    stage = student(KL)
    store = Store(tmp_path)
    plan = Plan([stage], store)
    assert plan.ready() == [TEACHER]
    plan.take()
    plan.completed(TEACHER.key, Outcome(status="diverged", attempt="a", summary={"message": "diverged"}))
    assert plan.blocked == {stage.key: f"parent {TEACHER.folder_name} ended as diverged"}
    snapshot = Snapshot(name="strong", when=Threshold(metric="train/loss", threshold=0.0, at_most=True))
    trunk = replace(TEACHER, snapshots=(snapshot,))
    stage = student(Matching(teacher=Subject(model=Checkpoint(stage=trunk, at="strong"))))
    plan = Plan([stage], store)
    plan.take()
    plan.completed(trunk.key, Outcome(status="complete", attempt="a", summary={"snapshots": {}}))
    assert plan.blocked == {stage.key: "the trunk never reached snapshot 'strong'"}


def released(vocabulary: int = VOCABULARY, context: int | None = 128) -> Released:
    shape = Shape(
        family="llama",
        depth=2,
        width=32,
        heads=4,
        feedforward=64,
        vocabulary=vocabulary,
        context=context,
        parameters=18592,
        embeddings=10240,
        matrices=(),
        dropout=None,
    )
    return Released(digest="fedcba9876543210", name="tiny", source="", folder="", shape=shape)


OWN = Pretrained(digest="76543210fedcba98", vocabulary=VOCABULARY)


def of_released(vocabulary: int = VOCABULARY, context: int | None = 128) -> Matching:
    return Matching(teacher=Subject(model=released(vocabulary, context), tokenizer=OWN))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: replace(KL, strength=-1.0), "matching of strength -1.0: expected 0 or a positive number"),
        (lambda: replace(KL, sites=SITES[:1] * 2), r"matching at \['residual-1', 'residual-1'\] given: expected each"),
        (
            lambda: student(KL, mixture=replace(TEACHER.mixture, tokenizer=BPE(corpus=CORPUS, vocabulary=300))),
            r"matching a teacher with the tokenizer Bytes\(.*\): expected the stage's, BPE",
        ),
        (lambda: student(KL, mixture=replace(TEACHER.mixture, sequence=32)), "on sequences of 32 tokens: the teacher"),
        (lambda: student(replace(MSE, sites=(Site(layer=9),))), "layer 9 of 20k given"),
        (lambda: student(MSE, start=Rung(size="100k")), "matching activations of 20k, .* wide, by 100k"),
        (
            lambda: student(of_released(VOCABULARY + 64), mixture=replace(TEACHER.mixture, tokenizer=OWN)),
            f"matching {VOCABULARY + 64} logits of tiny by {VOCABULARY} of 20k: expected as many",
        ),
        (
            lambda: student(of_released(context=8), mixture=replace(TEACHER.mixture, tokenizer=OWN)),
            "on sequences of 16 tokens: the teacher reads at most 8",
        ),
    ],
)
def test_what_cannot_be_matched_is_refused_in_one_line(make, line):
    with pytest.raises(UserError, match=line) as error:
        make()
    assert "\n" not in str(error.value)
