"""The hand-written CPU kernels against torch's operations and autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halflife.models import kernels

CASES = {
    "linear to wider": (lambda x, w: kernels.linear(x, w), [(2, 5, 8), (24, 8)]),
    "linear to narrower": (lambda x, w: kernels.linear(x, w), [(2, 5, 24), (8, 24)]),
    "linear of a matrix": (lambda x, w: kernels.linear(x, w), [(7, 24), (8, 24)]),
    "rms norm": (lambda x, g: kernels.rms_norm(x, g, 1e-6), [(2, 5, 16), (16,)]),
    "swiglu": (kernels.swiglu, [(2, 5, 16)]),
    "rotation": (
        lambda qkv: torch.cat(kernels.rotate_qkv(qkv, kernels.rope_cache(5, 2, 8, 10_000.0, qkv)), dim=-1),
        [(3, 5, 3, 2, 8)],
    ),
}


def values_and_gradients(function, shapes, plain, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    with monkeypatch.context() as patch:
        if plain:
            patch.setattr(kernels, "plain", lambda x: True)
        output = function(*inputs)
        output.backward(torch.randn(output.shape, generator=generator))
    return [output.detach(), *(given.grad for given in inputs)]


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_plain_operations(name, monkeypatch):
    function, shapes = CASES[name]
    fast = values_and_gradients(function, shapes, False, monkeypatch)
    plain = values_and_gradients(function, shapes, True, monkeypatch)
    for ours, theirs in zip(fast, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_gradients_through_views_that_are_not_contiguous_are_right(name, monkeypatch):
    function, shapes = CASES[name]

    def through_a_view(*inputs):
        return function(*(given.mT.contiguous().mT if given.ndim > 1 else given for given in inputs))

    fast = values_and_gradients(through_a_view, shapes, False, monkeypatch)
    plain = values_and_gradients(function, shapes, True, monkeypatch)
    for ours, theirs in zip(fast, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_frozen_weight_gets_no_gradient_and_the_input_does():
    x, weight = torch.randn(3, 8, requires_grad=True), torch.randn(4, 8)
    kernels.linear(x, weight).sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(3, -1))


@settings(max_examples=20)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 20))
def test_scores_of_rotated_pairs_depend_on_their_distance_alone(first, second, shift):
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 16, generator=generator)
    rope_cache = kernels.rope_cache(64, 1, 16, 10_000.0, q)

    def score(i, j):
        row = torch.zeros(1, 64, 3, 1, 16)
        row[0, i, 0, 0], row[0, j, 1, 0] = q, k
        rotated_q, rotated_k, _ = kernels.rotate_qkv(row, rope_cache)
        return rotated_q[0, 0, i] @ rotated_k[0, 0, j]

    torch.testing.assert_close(score(first, second), score(first + shift, second + shift), rtol=1e-4, atol=1e-4)


def test_values_are_passed_on_unrotated():
    qkv = torch.randn(2, 5, 3, 2, 8)
    _, _, v = kernels.rotate_qkv(qkv, kernels.rope_cache(5, 2, 8, 10_000.0, qkv))
    assert torch.equal(v, qkv[:, :, 2].transpose(1, 2))


@given(probability=st.sampled_from((0.02, 0.1, 0.2, 0.5, 0.9)), seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_dropout_drops_the_requested_fraction_uniformly_and_keeps_the_mean(probability, seed):
    torch.manual_seed(seed)
    x = torch.ones(4001, 24, requires_grad=True)
    y = kernels.dropout(x, probability)
    error = (probability * (1 - probability)) ** 0.5
    shares = (y == 0).float().mean(0)  # neighbours share a drawn word: no column may differ
    assert (shares - probability).abs().max() < 5 * error / 4001**0.5
    assert torch.allclose(y[y > 0], torch.tensor(1 / (1 - probability)), rtol=1e-3)
    pairs = ((y[:, 1:] == 0) & (y[:, :-1] == 0)).float().mean()
    assert abs(float(pairs) - probability**2) < 5 * probability / (4001 * 23) ** 0.5
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, y.detach())


def test_dropout_of_the_same_seed_is_the_same():
    x, found = torch.randn(3, 7), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(kernels.dropout(x, 0.5))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
