from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.training.acceleration import accelerate
from halflife.training.execution import Execution
from halflife.training.memory import held_bytes, of_training, trained_parameters
from halflife.training.optimizers import SGD, AdamW, Muon, Optimizer
from halflife.training.parameters import All, Frozen, LoRA
from tests.training.fakes import VOCABULARY, recipe

ADAMW = AdamW(learning_rate=0.01)
SPREAD = Execution(engine="deepspeed", workers=8, zero=1)


def measured(size: str, optimizer: str, engine: str = "torch", zero: int = 0) -> tuple[float, float]:
    """(predicted, measured) bytes of weights, gradients, optimizer state and starting weights, in a process alone."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.measured_memory"]
    arguments = [size, optimizer, engine, str(zero)]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    predicted, found = done.stdout.split()[-2:]
    return float(predicted), float(found)


def test_what_is_predicted_is_what_a_process_holds():
    predicted, found = measured("10m", "adamw")
    assert predicted == pytest.approx(found, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "optimizer"), [("30m", "adamw"), ("30m", "muon"), ("30m", "sgd"), ("100m", "adamw")])
def test_predictions_hold_for_every_optimizer_and_larger_sizes(size, optimizer):
    predicted, found = measured(size, optimizer)
    assert predicted == pytest.approx(found, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_predictions_hold_under_every_zero_stage(zero):
    predicted, found = measured("30m", "adamw", "deepspeed", zero)
    assert predicted == pytest.approx(found, rel=0.2)


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


def test_each_zero_stage_shares_out_what_it_names():
    """arXiv 1910.02054, figure 1: the optimizer's state, then the gradients, then the weights."""
    alone = memory()
    first, second, third = (memory(replace(SPREAD, zero=zero)) for zero in (1, 2, 3))
    assert first.parameters == alone.parameters
    assert first.gradients == alone.gradients
    assert first.optimizer == pytest.approx(alone.optimizer / 8 * 1.5)  # with DeepSpeed's copy of the shard
    assert second.gradients == pytest.approx(alone.gradients / 8)
    assert third.parameters == pytest.approx(alone.parameters / 8)
    assert alone.fixed > first.fixed > second.fixed > third.fixed
    assert memory(replace(SPREAD, zero=0)).fixed == alone.fixed


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


def test_muon_under_zero_makes_a_workers_share_of_the_updates_whole_when_activations_are_gone():
    found = memory(replace(SPREAD, zero=1), "1.5b", Muon(learning_rate=0.01), rows=8, sequence=1)
    assert found.activations == 2 * 4 * Rung(size="1.5b").parameters / 8


@pytest.mark.parametrize("parameters", [LoRA(rank=8), Frozen(layers=2), Frozen(embeddings=True)])
def test_what_is_frozen_has_no_gradients_moments_or_starting_weights(parameters):
    rung = Rung(size="100m")
    some, every = memory(trained=trained_parameters(parameters, rung, 257)), memory()
    assert some.parameters == every.parameters
    assert some.gradients < every.gradients
    assert some.origin == some.gradients
    assert some.optimizer == 2 * some.gradients


def test_frozen_layers_are_counted_as_the_model_freezes_them():
    from halflife.training import adapters

    for parameters in (Frozen(layers=1), Frozen(embeddings=True)):
        model = Decoder(Rung(size="1m"), VOCABULARY)
        adapters.apply(parameters, model, seed=0)
        found = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert trained_parameters(parameters, Rung(size="1m"), VOCABULARY) == pytest.approx(found, rel=0.01)


@pytest.mark.parametrize("size", ["100k", "1m", "10m"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_are_an_upper_estimate_of_the_right_size(size, checkpointing):
    """Beside what is held between the passes, the backward pass holds some of a layer at a time."""
    rows, sequence = 4, 128
    model = Decoder(Rung(size=size), VOCABULARY)
    accelerate(model, Execution(activation_checkpointing=checkpointing))
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(torch.randint(0, VOCABULARY, (rows, sequence)))
    assert logits.requires_grad
    found = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    estimate = held_bytes(Rung(size=size), VOCABULARY, "fp32", checkpointing) * rows * sequence
    assert (0.1 if checkpointing else 0.4) * estimate < found < estimate


def test_bf16_holds_less_of_activations_and_a_cast_of_the_weights():
    full, half = memory(), memory(precision="bf16")
    assert half.fixed == full.fixed
    casts = full.parameters / 2
    assert half.activations == pytest.approx(0.75 * full.activations + casts)


def test_the_cost_of_a_stage_is_what_it_holds():
    stage = recipe()
    assert stage.cost.memory_bytes == stage.memory(Execution()).total
