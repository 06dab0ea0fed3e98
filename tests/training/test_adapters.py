"""LoRA and frozen parameters: what moves, what does not, and a stage's final weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from halflife.errors import UserError
from halflife.models.decoder import Decoder
from halflife.models.hugging_face import HuggingFaceModel, load
from halflife.models.ladder import Rung
from halflife.models.model import Model
from halflife.models.prepare import prepare_model
from halflife.training import adapters, checkpoints
from halflife.training.parameters import All, Frozen, LoRA, Parameters, parameters_named
from halflife.training.torch_optimizers import groups
from tests.models import tiny
from tests.training.fakes import VOCABULARY, Host, Interrupted, Ticking, recipe, run

TOKENS = torch.arange(24).reshape(2, 12) % VOCABULARY


def decoder() -> Decoder:
    model = Decoder(Rung(size="20k"), VOCABULARY)
    generator = torch.Generator().manual_seed(0)
    model.initialise(generator)
    torch.nn.init.normal_(model.head.weight, std=0.1, generator=generator)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for family in ("llama", "gpt2"):
        tiny.folder(root / family, family)
    return root


@pytest.fixture(params=["decoder", "llama", "gpt2"])
def model(request: pytest.FixtureRequest, folders: Path) -> Model:
    if request.param == "decoder":
        return decoder()
    return load(prepare_model(str(folders / request.param), folders / "results"))


def randomize_b(model: Model) -> None:
    """Set B away from 0, as training would."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.1)


def test_the_forward_pass_and_its_gradients_equal_pefts(model: Model) -> None:
    adapters.apply(LoRA(rank=2), model, seed=0)
    randomize_b(model)
    found = model(TOKENS)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(found.logsumexp(-1).sum(), trained)
    adapted = [module for module in model.modules() if hasattr(module, "lora_A")]
    for module in adapted:
        del module.forward  # reveals the class's own
    expected = model(TOKENS)
    assert adapted
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(gradients, torch.autograd.grad(expected.logsumexp(-1).sum(), trained), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_lora_starts_as_the_model_and_trains_only_its_own_matrices(model: Model) -> None:
    model.eval()
    with torch.no_grad():
        before = model(TOKENS)
        adapters.apply(LoRA(rank=2), model, seed=0)
        torch.testing.assert_close(model(TOKENS), before)
    assert all((".lora_" in name) == parameter.requires_grad for name, parameter in model.named_parameters())
    adapted = {name for name, _ in model.named_modules() if name.endswith(".base_layer")}
    per_layer = 4 if not isinstance(model, HuggingFaceModel) or model.architecture.shape.family == "gpt2" else 7
    assert len(adapted) == per_layer * model.architecture.layers


def test_merged_weights_give_the_adapted_model(model: Model, folders: Path) -> None:
    names = {name for name, _ in model.named_parameters()}
    adapters.apply(LoRA(rank=2, alpha=6.0), model, seed=0)
    randomize_b(model)
    model.eval()
    merged = adapters.merged({name: p.detach() for name, p in model.named_parameters()}, model)
    assert set(merged) == names
    fresh = load(model.architecture) if isinstance(model, HuggingFaceModel) else decoder()
    fresh.eval()
    start = {name: parameter.detach().clone() for name, parameter in fresh.named_parameters()}
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            parameter.copy_(merged[name])
        torch.testing.assert_close(fresh(TOKENS), model(TOKENS), rtol=1e-4, atol=1e-5)
    moved = torch.nn.utils.get_total_norm([merged[name] - start[name] for name in names])
    assert adapters.lora_norm(model) == pytest.approx(moved.item(), rel=1e-4)


def test_an_adapter_is_drawn_from_the_seed_alone() -> None:
    drawn = []
    for seed in (0, 0, 1):
        model = decoder()
        torch.rand(seed + 3)
        adapters.apply(LoRA(rank=2), model, seed=seed)
        drawn.append(torch.cat([p.flatten() for name, p in model.named_parameters() if ".lora_A." in name]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_targets_name_the_matrices() -> None:
    model = decoder()
    adapters.apply(LoRA(rank=1, targets=("qkv",)), model, seed=0)
    assert {name.rsplit(".lora_")[0].rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad} == {
        "qkv"
    }
    with pytest.raises(UserError, match="down, gate_up, out, qkv"):
        adapters.apply(LoRA(targets=("q_proj",)), decoder(), seed=0)


def test_mup_gives_a_the_hidden_learning_rate_and_b_the_full_one() -> None:
    model = Decoder(Rung(size="1m"), VOCABULARY)
    adapters.apply(LoRA(rank=2), model, seed=0)
    rates = {id(p): group["base_lr"] for group in groups(recipe().optimizer, model) for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = 1.0 if ".lora_B." in name else 1 / model.architecture.multiplier
            assert rates[id(parameter)] == pytest.approx(recipe().optimizer.learning_rate * scale)


@pytest.mark.parametrize(
    ("parameters", "still"),
    [
        (Frozen(embeddings=True), lambda name: name == "embed.weight"),
        (Frozen(layers=1), lambda name: name.startswith("blocks.0.")),
        (LoRA(rank=2, targets=("qkv",)), lambda name: not name.endswith("qkv.weight")),
    ],
    ids=["embeddings", "layers", "lora"],
)
def test_only_the_named_parameters_move_in_a_stage(parameters: Parameters, still, tmp_path: Path) -> None:
    run(recipe(optimizer_state="reset"), Host(tmp_path / "trunk"))
    start = tmp_path / "trunk" / "final"
    stage = recipe(parameters=parameters, optimizer_state="reset")
    summary = run(stage, host := Host(tmp_path / "branch"), start=start)
    before, after = (checkpoints.read_weights(folder) for folder in (start, host.folder / "final"))
    assert before.keys() == after.keys()
    for name in before:
        assert torch.equal(before[name], after[name]) == still(name), name
    moved = torch.nn.utils.get_total_norm([after[name] - before[name] for name in before])
    whole = torch.nn.utils.get_total_norm(list(before.values()))
    assert summary["final"]["clock/displacement"] == pytest.approx((moved / whole).item(), rel=1e-3)


def test_a_resumed_lora_ends_with_the_same_bits(tmp_path: Path) -> None:
    stage = recipe(parameters=LoRA(rank=2))
    run(stage, whole := Host(tmp_path / "whole"))
    broken = Host(tmp_path / "broken", interrupt_at=5)
    with pytest.raises(Interrupted):
        run(stage, broken, checkpoint_seconds=0.5, clock=Ticking())
    run(stage, resumed := Host(tmp_path / "resumed", resume=broken.checkpoints[-1]))
    one, two = (checkpoints.read_weights(host.folder / "final") for host in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("all", All()),
        ("lora-4", LoRA(rank=4, alpha=8.0)),
        ("frozen-embeddings", Frozen(embeddings=True)),
        ("frozen-2", Frozen(layers=2)),
    ],
)
def test_parameters_have_names(name: str, parameters: Parameters) -> None:
    assert parameters_named(name) == parameters


@pytest.mark.parametrize("name", ["lora", "lora-0", "frozen-0", "some", "lora-x"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(UserError):
        parameters_named(name)
