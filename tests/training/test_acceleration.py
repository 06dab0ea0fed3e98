from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from halflife.models.decoder import Decoder
from halflife.models.hooks import layers
from halflife.models.ladder import Rung
from halflife.store.execution import Execution
from halflife.training.acceleration import accelerate, eagerly
from halflife.training.engine import make_engine
from tests.training.fakes import VOCABULARY, Stream, loss_of, recipe, terms_of

CHECKPOINTING = Execution(activation_checkpointing=True)
COMPILED = Execution(compile=True)


def decoder(execution: Execution, dropout: float = 0.0, size: str = "100k") -> Decoder:
    model = Decoder(Rung(size=size), VOCABULARY, dropout)
    model.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    accelerate(model, execution)
    return model


def loss_and_gradients(model: Decoder, precision: str = "fp32") -> dict[str, torch.Tensor]:
    tokens = torch.from_numpy(Stream().batch(0))
    torch.manual_seed(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        logits = model(tokens[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
    loss.backward()
    found = {"loss": loss.detach()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        found[name] = parameter.grad
    return found


def held_bytes(model: Decoder, rows: int = 8) -> int:
    """Bytes of distinct tensors, parameters left out, that a forward pass keeps for the backward pass."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}
    tokens = torch.from_numpy(Stream(rows=rows).batch(0))[:, :-1]
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.setdefault(tensor.untyped_storage().data_ptr(), tensor) is None or tensor, lambda t: t
    ):
        logits = model(tokens)
    assert logits.requires_grad
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in parameters)


def test_layers_are_the_decoders_blocks():
    model = decoder(Execution())
    assert layers(model) == list(model.blocks)


def test_a_model_without_layers_is_an_error():
    with pytest.raises(ValueError, match="no list of layers"):
        layers(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_changes_no_bit_of_loss_or_gradients(dropout, precision):
    plain = loss_and_gradients(decoder(Execution(), dropout), precision)
    again = loss_and_gradients(decoder(CHECKPOINTING, dropout), precision)
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_checkpointing_holds_far_less_between_the_passes():
    plain, less = held_bytes(decoder(Execution(), size="1m")), held_bytes(decoder(CHECKPOINTING, size="1m"))
    assert less < 0.25 * plain


def test_names_of_parameters_are_unchanged():
    plain, changed = decoder(Execution()), decoder(CHECKPOINTING)
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in changed.named_parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("execution", [COMPILED, Execution(compile=True, activation_checkpointing=True)])
def test_compiled_layers_compute_the_same_and_evaluations_run_eagerly(execution):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = loss_and_gradients(decoder(Execution()))
    model = decoder(execution)
    found = loss_and_gradients(model)
    for name in plain:
        torch.testing.assert_close(found[name], plain[name], rtol=1e-3, atol=1e-5)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs == 1, "all layers share one graph"
    with eagerly(execution), torch.no_grad():
        for length in (5, 9, 12):
            tokens = torch.randint(0, VOCABULARY, (2, length))
            assert torch.equal(model(tokens), decoder(Execution())(tokens))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 3])
def test_checkpointing_changes_no_loss_under_deepspeed(zero):
    """10m parameters: ZeRO 3 gathers smaller matrices once and keeps them."""

    def losses(execution: Execution) -> list[float]:
        stage = recipe(start=Rung(size="10m"))
        model = decoder(Execution(), size="10m")
        engine = make_engine(model, stage, execution, terms_of(stage, model))
        found = []
        for step in range(3):
            found.append(loss_of(engine, Stream().batch(step)))
            engine.step(1.0)
        return found

    plain = Execution(engine="deepspeed", zero=zero)
    assert losses(plain) == losses(replace(plain, activation_checkpointing=True))
