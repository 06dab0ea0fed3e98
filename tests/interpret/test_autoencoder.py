"""Sparse autoencoders: what is computed sparsely equals the dense formulas, and what must hold of them holds."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from halflife.interpret.autoencoder import Autoencoder, Autoencoders, Normal, ScaledFeatures
from halflife.interpret.dictionary import BatchTopK, JumpReLU, Sparsity, TopK

WIDTH, LATENTS = 12, 30


def made(
    sparsity: Sparsity, seeds: Sequence[int] = (1, 2), dead_after: int = 10**9, noise: float = 0.1
) -> Autoencoders:
    made = Autoencoders(WIDTH, LATENTS, sparsity, seeds, dead_after=dead_after)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in made.parameters():
            part += noise * torch.randn(part.shape, generator=draw)
    made.after_step()
    return made


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return Normal.of(torch.randn(*shape, WIDTH, generator=torch.Generator().manual_seed(seed))).values


def dense(of: Autoencoders, u: Tensor) -> Tensor:
    """The fraction of variance unexplained, from the formulas of `dictionary.Dictionary`."""
    flat = u.flatten(1, 2)
    pre = (flat - of.decoder_bias[:, None]) @ of.encoder.mT + of.encoder_bias[:, None]
    active = torch.zeros(pre.numel()).index_fill(0, of.sparsity.chosen(pre.detach()), 1.0).view_as(pre)
    error = u - (pre.relu() * active @ of.decoder + of.decoder_bias[:, None]).view_as(u)
    return error.square().sum((2, 3)) / (u - u.mean(2, keepdim=True)).square().sum((2, 3))


@pytest.mark.parametrize("sparsity", [TopK(k=4), BatchTopK(k=4)])
def test_losses_and_gradients_are_those_of_dense_products(sparsity: Sparsity) -> None:
    of, u = made(sparsity), vectors(2, 3, 25).requires_grad_()
    ours, theirs = of.losses(u)[0], dense(of, u)
    torch.testing.assert_close(ours, theirs)
    assert ours.shape == (2, 3)
    inputs = [u, *of.parameters()]
    for one, other in zip(*(torch.autograd.grad(each.sum(), inputs) for each in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_learned_thresholds_have_the_gradients_of_the_paper() -> None:
    """arXiv 2407.14435, equations 11 and 12, from dense products."""
    rule = JumpReLU(k=4, bandwidth=0.4, penalty=0.5)
    of, u = made(rule), vectors(2, 3, 25)
    assert of.log_threshold is not None
    fvu, _, penalty = of.losses(u)
    (fvu.sum() + penalty.sum()).backward()
    flat, threshold = u.flatten(1, 2), of.log_threshold.detach().exp()[:, None]
    pre = ((flat - of.decoder_bias[:, None]) @ of.encoder.mT + of.encoder_bias[:, None]).detach()
    active = (pre > threshold).float()
    codes = (pre * active).requires_grad_()
    error = u - (codes @ of.decoder.detach() + of.decoder_bias[:, None].detach()).view_as(u)
    unexplained = error.square().sum((2, 3)) / (u - u.mean(2, keepdim=True)).square().sum((2, 3))
    (to_codes,) = torch.autograd.grad(unexplained.sum(), codes)
    torch.testing.assert_close(fvu, unexplained)
    mean = active.sum((1, 2)) / flat.shape[1]
    torch.testing.assert_close(penalty, 0.5 * (mean / 4 - 1) ** 2)
    kernel = ((pre - threshold).abs() < 0.2).float() / 0.4
    to_active = (2 * 0.5 * (mean / 4 - 1) / 4 / flat.shape[1])[:, None, None]
    expected = threshold[:, 0] * (-kernel * (threshold * to_codes + to_active)).sum(1)  # by the threshold's logarithm
    torch.testing.assert_close(of.log_threshold.grad, expected, rtol=1e-4, atol=1e-6)


@given(k=st.integers(1, LATENTS - 1), seed=st.integers(0, 2**20))
def test_so_many_latents_are_chosen_and_they_are_the_largest(k: int, seed: int) -> None:
    pre = torch.randn(2, 7, LATENTS, generator=torch.Generator().manual_seed(seed))
    for sparsity, parts in ((TopK(k=k), pre.flatten(0, 1)), (BatchTopK(k=k), pre.flatten(1))):
        places = sparsity.chosen(pre)
        assert bool((places.div(LATENTS, rounding_mode="floor").diff() >= 0).all())
        chosen = torch.zeros(pre.numel(), dtype=torch.bool).index_fill(0, places, True).view_as(parts)
        assert chosen.sum(1).tolist() == [k * parts.shape[1] // LATENTS] * len(parts)
        assert bool(
            (parts.masked_fill(~chosen, torch.inf).amin(1) >= parts.masked_fill(chosen, -torch.inf).amax(1)).all()
        )


def test_autoencoders_side_by_side_are_as_each_alone() -> None:
    together, u = made(TopK(k=3), (1, 2), noise=0), vectors(2, 1, 40)
    loss = together.losses(u)[0]
    loss.sum().backward()
    for number, seed in enumerate((1, 2)):
        alone = made(TopK(k=3), (seed,), noise=0)
        one = alone.losses(u[number : number + 1])[0]
        one.sum().backward()
        torch.testing.assert_close(one[0], loss[number])
        for part, whole in zip(alone.parameters(), together.parameters(), strict=True):
            assert part.grad is not None
            assert whole.grad is not None
            torch.testing.assert_close(part.grad[0], whole.grad[number])


def test_the_encoder_starts_as_the_decoder_whose_rows_stay_of_unit_norm() -> None:
    of = Autoencoders(WIDTH, LATENTS, TopK(k=3), (1,), dead_after=100)
    assert torch.equal(of.encoder, of.decoder)
    optimizer = torch.optim.SGD(of.parameters(), lr=0.5)
    for step in range(3):
        of.losses(vectors(1, 1, 40, seed=step))[0].sum().backward()
        assert of.decoder.grad is not None
        assert (of.decoder.grad * of.decoder).sum(-1).abs().max() < 1e-6
        optimizer.step()
        optimizer.zero_grad()
        of.after_step()
        torch.testing.assert_close(of.decoder.norm(dim=-1), torch.ones(1, LATENTS))


@pytest.mark.parametrize("weight", [0.0, 1 / 32])
def test_the_auxiliary_loss_revives_dead_latents_and_nothing_else_does(weight: float) -> None:
    of = made(TopK(k=3), (1,), dead_after=200, noise=0)
    with torch.no_grad():
        of.encoder_bias[:, :10] = -10.0
    optimizer = torch.optim.Adam(of.parameters(), lr=0.02)
    for step in range(120):
        fvu, auxiliary, _ = of.losses(vectors(1, 1, 64, seed=step))
        optimizer.zero_grad()
        (fvu.sum() + weight * auxiliary.sum()).backward()
        optimizer.step()
        of.after_step()
    ever = int((of.since[0, :10] < 120 * 64).sum())
    assert ever == (10 if weight else 0)


def test_a_threshold_leaves_k_latents_a_vector() -> None:
    of, u = made(BatchTopK(k=4), (1,)), vectors(2000)
    one = of.inference(0, u)
    codes, _ = one.codes(u)
    assert float((codes > 0).sum(1).float().mean()) == pytest.approx(4, rel=0.01)
    everything = made(BatchTopK(k=LATENTS), (1,)).inference(0, u)
    assert torch.equal(everything.codes(u)[0] > 0, made(TopK(k=LATENTS), (1,)).inference(0, u).codes(u)[0] > 0)
    alone = torch.cat([one.codes(u[row : row + 1])[0] for row in range(5)])
    torch.testing.assert_close(alone, codes[:5], rtol=1e-4, atol=1e-5)


def test_in_use_a_dictionary_reconstructs_what_it_did_in_training_at_any_scale() -> None:
    of, u = made(TopK(k=4), (1,)), vectors(50)
    one = of.inference(0, u)
    left = (u - one(u)).square().sum() / (u - u.mean(0)).square().sum()
    torch.testing.assert_close(left, of.losses(u[None, None])[0][0, 0].detach())
    torch.testing.assert_close(one(7 * u), 7 * one(u))


def test_scaling_features_keeps_what_the_dictionary_does_not_explain() -> None:
    x = 3 * vectors(5, 8)
    one = made(TopK(k=4), (1,)).inference(0, x)
    positions, codes = torch.arange(8)[None], one.codes(x)[0]
    assert torch.equal(ScaledFeatures(one, (0, 5), 1.0)(x, positions), x)
    chosen = [int(codes[0, 0].argmax())]
    without = ScaledFeatures(one, chosen, 0.0)(x, positions)
    expected = x - 3 * (codes[..., chosen] @ one.decoder[chosen])
    torch.testing.assert_close(without, expected)
    unused = codes[..., chosen[0]] == 0
    assert torch.equal(without[unused], x[unused])
    everything = ScaledFeatures(one, range(LATENTS), 0.0)(x, positions)
    torch.testing.assert_close(everything, x - one(x) + 3 * one.decoder_bias)


@pytest.mark.parametrize("flows", [True, False])
def test_streams_that_may_move_collapse_to_one_constant_unless_the_variances_gradient_flows(flows: bool) -> None:
    """The pilot's failure: the model adds one huge vector, after which all normalised vectors are alike."""
    draw = torch.Generator().manual_seed(0)
    own, shift = torch.randn(256, WIDTH, generator=draw), torch.zeros(WIDTH, requires_grad=True)
    of = Autoencoders(WIDTH, LATENTS, TopK(k=2), (1,), dead_after=10**9, variance_gradient=flows)
    optimizer = torch.optim.Adam([{"params": [shift], "lr": 0.1}, {"params": of.parameters(), "lr": 0.01}])
    for _ in range(150):
        optimizer.zero_grad()
        of.losses(Normal.of(own + shift).values[None, None])[0].sum().backward()
        optimizer.step()
        of.after_step()
    u = Normal.of(own + shift.detach()).values
    alike = float((u.mean(0)).norm() / WIDTH**0.5)
    assert alike < 0.5 if flows else alike > 0.9


def test_an_autoencoder_moves_with_its_threshold() -> None:
    part = torch.zeros(3, 2)
    one = Autoencoder(part, torch.zeros(3), part, torch.zeros(2), threshold=torch.ones(1))
    moved = one.to("meta")
    assert {getattr(moved, name).device.type for name in ("encoder", "decoder_bias", "threshold")} == {"meta"}
    assert moved.scale == "rms"
