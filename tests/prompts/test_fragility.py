"""Fragility and bits against a model whose loss is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from halflife.evaluation.targets import Item
from halflife.models.decoder import Decoder
from halflife.models.kv_cache import KVCache
from halflife.models.ladder import Rung
from halflife.prompts import fragility
from halflife.prompts.fragility import PromptEvaluator
from halflife.prompts.scoring import cut
from tests.models.fakes import FakeModel

WIDTH, K = 4, 3


class Bowl(FakeModel):
    """For any text, the log-odds of token 1 against 0 are 6 minus a quadratic form of the prompt's numbers."""

    def __init__(self, curvature: Tensor) -> None:
        super().__init__()
        self.curvature = nn.Parameter(curvature, requires_grad=False)
        self.embed = nn.Embedding(3, WIDTH)

    def hidden(self, x: Tensor) -> Tensor:
        form = (x[:, :K].flatten(1).square() * self.curvature).sum(1)
        odds = torch.stack([torch.zeros_like(form), 6.0 - form, torch.full_like(form, -50.0)], dim=-1)
        return odds[:, None].expand(-1, x.shape[1], -1)

    def hidden_at(self, x: Tensor, columns: Tensor, past: KVCache | None = None) -> Tensor:
        return self.hidden(x)[:, : columns.shape[1]]


def evaluator(curvature: Tensor) -> PromptEvaluator:
    item = Item(tokens=torch.tensor([0, 2]).numpy(), after=torch.tensor([1, 2]).numpy(),
                targets=torch.tensor([1, 1]).numpy(), answer=1)  # fmt: skip
    return PromptEvaluator.of(Bowl(curvature).eval(), cut([item, item], "start"))


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def loss_at(form: float) -> float:
    return math.log1p(math.exp(form - 6))


FLAT = torch.ones(WIDTH * K)
ZERO = torch.zeros(K, WIDTH)


def test_noise_raises_the_loss_by_the_quadratic_form(generator) -> None:
    bowl = evaluator(FLAT)
    assert fragility.noise_rise(bowl, ZERO, 2.0, 5, generator) == pytest.approx(loss_at(4.0) - loss_at(0.0), rel=1e-4)


def test_the_worst_direction_is_the_steepest_one_and_worse_than_the_mean(generator) -> None:
    curvature = FLAT.clone()
    curvature[5] = 4.0
    bowl = evaluator(curvature)
    worst = fragility.worst_rise(bowl, ZERO, 1.0, 20, generator)
    assert worst == pytest.approx(loss_at(4.0) - loss_at(0.0), rel=0.05)
    assert worst > fragility.noise_rise(bowl, ZERO, 1.0, 20, generator)


def test_success_halves_where_the_quadratic_form_exceeds_the_odds(generator) -> None:
    found = fragility.half_radius(evaluator(FLAT), ZERO, 1.0, 4, generator)
    assert found is not None
    assert math.sqrt(6.0) <= found <= 1.1 * math.sqrt(6.0)
    assert fragility.half_radius(evaluator(100 * FLAT), torch.ones(K, WIDTH), 1.0, 4, generator) is None
    assert fragility.half_radius(evaluator(0 * FLAT), ZERO, 1.0, 4, generator) == math.inf


def test_the_gradient_is_scaled_by_the_prompts_own_norm(generator) -> None:
    at = torch.full((K, WIDTH), 0.5)
    form, size = 3.0, math.sqrt(3.0)
    slope = 2 * size / (1 + math.exp(6 - form))
    assert fragility.gradient_norm(evaluator(FLAT), at, 1e-6, 3, generator) == pytest.approx(slope * size, rel=1e-4)


def test_the_largest_curvature_is_the_hessians(generator) -> None:
    curvature = torch.linspace(0.5, 3.0, WIDTH * K)
    expected = 2 * 3.0 / (1 + math.exp(6))
    assert fragility.largest_curvature(evaluator(curvature), ZERO, 12, generator) == pytest.approx(expected, rel=1e-3)


def test_the_largest_curvature_of_a_decoder_is_that_of_its_full_hessian(generator) -> None:
    model = Decoder(Rung(size="20k"), 32)
    model.initialise(torch.Generator().manual_seed(1))
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(2))
    model.requires_grad_(False).eval()
    rng = torch.Generator().manual_seed(3)
    items = [
        Item(tokens=t[:-1].numpy(), after=torch.arange(4, 8).numpy(), targets=t[4:].numpy(), answer=4)
        for t in torch.randint(32, (3, 8), generator=rng)
    ]
    behind = PromptEvaluator.of(model, cut(items, "start"))
    prompt = 0.3 * torch.randn(1, model.architecture.width, generator=rng)
    exact = PromptEvaluator.of(Decoder(Rung(size="20k"), 32).double(), behind.texts)
    exact.model.load_state_dict(model.state_dict())  # type: ignore[attr-defined]
    with sdpa_kernel(SDPBackend.MATH):
        hessian = torch.autograd.functional.hessian(
            lambda e: exact.losses(e.view(1, 1, -1)).sum(), prompt.double().flatten()
        )
    expected = float(torch.linalg.eigvalsh(hessian)[-1])
    assert fragility.largest_curvature(behind, prompt, 20, generator) == pytest.approx(expected, rel=1e-3)


def test_the_noise_that_is_tolerated_keeps_the_loss_below_the_threshold(generator) -> None:
    bowl, at = evaluator(FLAT), torch.full((K, WIDTH), 0.1)
    found = fragility.noise_tolerated(bowl, at, loss_at(5.0), 64, generator)
    assert found is not None
    assert 4 <= found <= 9  # form 0.12 (1 + s^2) = 5 at s = 6.4
    assert fragility.noise_tolerated(bowl, 10 * at, loss_at(5.0), 64, generator) is None


@given(st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=30)
def test_quantized_numbers_are_near_and_few(bits: int, seed: int) -> None:
    prompt = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
    found = fragility.quantized(prompt, bits)
    assert len(found.unique()) <= 2**bits
    assert float((found - prompt).abs().max()) <= float(prompt.max() - prompt.min()) / (2**bits - 1) / 2 + 1e-6


def test_no_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        fragility.quantized(torch.randn(2, 2), 0)
