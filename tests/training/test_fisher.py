from __future__ import annotations

import numpy as np
import pytest
import torch

from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.training.fisher import diagonal
from tests.training.fakes import VOCABULARY, PartlyScored


class Same(PartlyScored):
    """The same batch at every step."""

    def batch(self, step: int) -> np.ndarray:
        return super().batch(0)


@pytest.fixture
def model() -> Decoder:
    made = Decoder(Rung(size="20k"), VOCABULARY)
    made.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.head.weight.normal_(generator=torch.Generator().manual_seed(0), std=0.1)
    return made


def exact(model: Decoder, batch: np.ndarray) -> torch.Tensor:
    """Mean over tokens of the sum over labels of probability times squared gradient."""
    tokens = torch.from_numpy(np.where(batch < 0, ~batch, batch))
    scored = torch.from_numpy(batch[:, 1:] >= 0)
    logprobs = model(tokens[:, :-1]).log_softmax(-1)[scored]
    total = torch.zeros(sum(p.numel() for p in model.parameters()))
    for own in logprobs:
        for label in range(VOCABULARY):
            gradients = torch.autograd.grad(own[label], list(model.parameters()), retain_graph=True)
            total += own[label].exp().item() * torch.cat([g.flatten() for g in gradients]).square()
    return total / len(logprobs)


def test_the_estimate_is_the_fisher_information_summed_over_all_labels(model):
    stream = Same(rows=1, sequence=6)
    expected = exact(model, stream.batch(0))
    found = torch.cat([tensor.flatten() for tensor in diagonal(model, stream, 250, seed=0).values()])
    assert found.sum().item() == pytest.approx(expected.sum().item(), rel=0.15)
    large = expected > expected.mean()
    assert torch.corrcoef(torch.stack([found[large], expected[large]]))[0, 1] > 0.95
    assert (found[large] / expected[large]).median().item() == pytest.approx(1.0, abs=0.1)


def test_weights_that_no_scored_token_uses_have_no_information(model):
    fisher = diagonal(model, Same(rows=2, sequence=6), 8, seed=0)
    batch = Same(rows=2, sequence=6).batch(0)
    seen = np.unique(np.where(batch < 0, ~batch, batch)[:, :-1])
    unseen = np.setdiff1d(np.arange(VOCABULARY), seen)
    assert (fisher["embed.weight"][unseen] == 0).all()
    assert (fisher["embed.weight"][seen] > 0).any()


def test_the_same_seed_draws_the_same_labels(model):
    one, same, other = (diagonal(model, PartlyScored(), 4, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
