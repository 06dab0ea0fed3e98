from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.store.execution import Execution
from halflife.training.memory import held_bytes, of_training, trained_parameters
from halflife.training.optimizers import SGD, AdamW, Muon, Optimizer
from halflife.training.parameters import All, Frozen, LoRA
from tests.training.fakes import VOCABULARY, recipe
from tests.training.measured_memory import CLEAR

ADAMW = AdamW(learning_rate=0.01)
SPREAD = Execution(engine="deepspeed", workers=8, zero=1)


def measured(*sizes: str, optimizer: str = "adamw", rows: int = 16, **execution: Any) -> list[tuple[float, ...]]:
    """For each size, in a separate process: predicted and measured bytes of weights, gradients, optimizer state and
    initial weights; predicted and measured maximum bytes of a step, including activations."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.measured_memory"]
    arguments = [optimizer, json.dumps(execution), str(rows), *sizes]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return [tuple(map(float, line.split())) for line in done.stdout.splitlines()[-len(sizes) :]]


def assert_predicted(found: list[tuple[float, ...]]) -> None:
    for held, held_measured, most, most_measured in found:
        assert held == pytest.approx(held_measured, rel=0.2)
        # Activations are an estimate; the allocator's overhead differs by machine and run.
        assert 0.8 * most_measured < most < 1.4 * most_measured


needs_linux = pytest.mark.skipif(not CLEAR.exists(), reason="only Linux reports the maximum memory of a process")


@needs_linux
def test_predictions_match_the_memory_of_a_process():
    assert_predicted(measured("100k", "1m"))


@needs_linux
@pytest.mark.nightly
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_predictions_hold_for_every_optimizer_and_larger_sizes(optimizer):
    assert_predicted(measured("3m", "10m", optimizer=optimizer))


@needs_linux
@pytest.mark.nightly
def test_memory_between_the_passes_is_predicted_to_5_percent_at_30_million():
    ((held, held_measured, most, most_measured),) = measured("30m", rows=2)
    assert held == pytest.approx(held_measured, rel=0.05)
    assert most > most_measured  # the first gradients are allocated when most activations are freed


@needs_linux
@pytest.mark.nightly
def test_predictions_hold_where_activations_are_recomputed():
    assert_predicted(measured("100k", "1m", "3m", "10m", activation_checkpointing=True))


@needs_linux
@pytest.mark.nightly
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_predictions_hold_under_every_zero_stage(zero):
    assert_predicted(measured("100k", "1m", "3m", "10m", engine="deepspeed", zero=zero))


@needs_linux
@pytest.mark.slow
def test_predictions_hold_for_small_models_under_zero():
    assert_predicted(measured("100k", "1m", engine="deepspeed", zero=1))


def memory(execution: Execution = Execution(), size: str = "100m", optimizer: Optimizer = ADAMW, **changes):
    rung = Rung(size=size)
    fields = {
        "vocabulary": 257,
        "rows": 64,
        "sequence": 128,
        "trained": trained_parameters(All(), rung, 257),
        **changes,
    }
    return of_training(rung, optimizer, execution, **fields)


def test_each_zero_stage_shards_its_part_of_the_state():
    """arXiv 1910.02054, figure 1: the optimizer's state, then the gradients, then the weights."""
    alone = memory(size="7b")
    first, second, third = (memory(replace(SPREAD, zero=zero), "7b") for zero in (1, 2, 3))
    assert first.parameters == alone.parameters
    assert first.gradients == alone.gradients
    assert first.optimizer == pytest.approx(alone.optimizer / 8 * 1.5)  # with DeepSpeed's copy of the shard
    assert second.gradients == pytest.approx(alone.gradients / 8)
    assert third.parameters == pytest.approx(alone.parameters / 8)
    assert alone.fixed > first.fixed > second.fixed > third.fixed
    assert memory(replace(SPREAD, zero=0), "7b").fixed == alone.fixed


@pytest.mark.parametrize(
    ("optimizer", "moments"),
    [(ADAMW, 2.0), (SGD(learning_rate=0.1), 1.0), (SGD(learning_rate=0.1, momentum=0.0), 0.0)],
)
def test_optimizers_hold_their_moments(optimizer, moments):
    found = memory(optimizer=optimizer)
    assert found.optimizer == moments * found.parameters


def test_muon_holds_one_moment_of_the_hidden_matrices():
    found, rung = memory(optimizer=Muon(learning_rate=0.01)), Rung(size="100m")
    assert found.optimizer == 4 * (rung.parameters + 2 * rung.embedding_parameters(257))


def test_muon_under_zero_gathers_a_workers_share_of_the_updates_after_activations_are_freed():
    found = memory(replace(SPREAD, zero=1), "1.5b", Muon(learning_rate=0.01), rows=8, sequence=1)
    assert found.activations == 2 * 4 * Rung(size="1.5b").parameters / 8


@pytest.mark.parametrize("parameters", [LoRA(rank=8), Frozen(layers=2), Frozen(embeddings=True)])
def test_frozen_parameters_have_no_gradients_moments_or_initial_weights(parameters):
    rung = Rung(size="100m")
    some, every = memory(trained=trained_parameters(parameters, rung, 257)), memory()
    assert some.parameters == every.parameters
    assert some.gradients < every.gradients
    assert some.init_weights == some.gradients
    assert some.optimizer == 2 * some.gradients


def test_frozen_layers_are_counted_as_the_model_freezes_them():
    from halflife.training import adapters

    for parameters in (Frozen(layers=1), Frozen(embeddings=True)):
        model = Decoder(Rung(size="1m"), VOCABULARY)
        adapters.apply(parameters, model, seed=0)
        found = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert trained_parameters(parameters, Rung(size="1m"), VOCABULARY) == pytest.approx(found, rel=0.01)


@pytest.mark.parametrize("size", ["100k", "1m", "10m"])
def test_the_estimate_of_activations_is_too_high_by_at_most_a_factor_of_2_5(size):
    """The estimate includes the part of a layer that the backward pass holds at a time."""
    rows, sequence = 4, 128
    model = Decoder(Rung(size=size), VOCABULARY)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(torch.randint(0, VOCABULARY, (rows, sequence)))
    assert logits.requires_grad
    found = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    estimate = held_bytes(Rung(size=size), VOCABULARY, "fp32", checkpointing=False) * rows * sequence
    assert 0.4 * estimate < found < estimate


def test_bf16_holds_less_of_activations_and_a_cast_of_the_weights():
    full, half = memory(), memory(precision="bf16")
    assert half.fixed == full.fixed
    casts = full.parameters / 2
    assert half.activations == pytest.approx(0.75 * full.activations + casts)


def test_the_cost_of_a_stage_has_its_predicted_memory():
    stage = recipe()
    assert stage.cost.memory_bytes == stage.memory(Execution()).total
