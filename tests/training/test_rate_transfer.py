"""Under muP the best learning rate of a small model is the best one of a large model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from halflife.models.decoder import Decoder
from halflife.rng import generator
from halflife.training.optimizers import AdamW, Muon, Optimizer
from tests.training.fakes import recipe, torch_engine
from tests.training.widths import Wide

SYMBOLS, LENGTH, ROWS, STEPS, SEEDS = 64, 32, 16, 240, 2
RATES = [0.004 * 2 ** (k / 2) for k in range(2, 8)]
"""Of either optimizer: Muon takes AdamW's."""


def language(rows: int, key: str) -> np.ndarray:
    """Rows of LENGTH + 1 symbols, each drawn given the two before it; wider models learn more of the two tables."""
    tables = generator("language").normal(0, 1.6, (2, SYMBOLS, SYMBOLS))
    rng = generator(key)
    columns = list(rng.integers(0, SYMBOLS, (2, rows)))
    while len(columns) <= LENGTH:
        scores = tables[0][columns[-1]] + tables[1][columns[-2]] + rng.gumbel(size=(rows, SYMBOLS))
        columns.append(scores.argmax(1))
    return np.stack(columns, axis=1)


def final_loss(optimizer: Optimizer, rung: Wide, seed: int, rows: np.ndarray, held_out: torch.Tensor) -> float:
    steps = len(rows)
    model = Decoder(rung, SYMBOLS)
    model.initialise(torch.Generator().manual_seed(seed))
    engine = torch_engine(model, recipe(optimizer=optimizer))
    for step in range(steps):
        engine.gradients(rows[step], 0)
        engine.step(min(1.0, (step + 1) / 20) * (1 - step / steps))
    with engine.measuring():
        return F.cross_entropy(model(held_out[:, :-1]).flatten(0, 1), held_out[:, 1:].flatten()).item()


def best_rates(optimizer: type[Optimizer], rungs: tuple[Wide, ...], steps: int, seeds: int) -> dict[Wide, int]:
    """By rung, the place in RATES of the one with the lowest loss over seeds; each lies inside the grid."""
    rows = language(STEPS * ROWS, "train").reshape(STEPS, ROWS, -1)[:steps]
    held_out = torch.from_numpy(language(128, "test"))
    best = {}
    for rung in rungs:
        made = [optimizer(learning_rate=rate) for rate in RATES]  # pyright: ignore[reportCallIssue]
        losses = [np.mean([final_loss(each, rung, seed, rows, held_out) for seed in range(seeds)]) for each in made]
        best[rung] = int(np.argmin(losses))
        print(f"{rung.deep} layers x {rung.of}: best rate {RATES[best[rung]]:.4f}, losses {np.round(losses, 3)}")
        assert 0 < best[rung] < len(RATES) - 1, "the best rate is to lie inside the grid"
    return best


@pytest.mark.nightly
@pytest.mark.parametrize(("optimizer", "widths"), [(AdamW, (32, 64, 256)), (Muon, (32, 64, 128))])
def test_the_best_rate_moves_by_at_most_a_factor_of_root_two_over_widths(optimizer, widths):
    best = best_rates(optimizer, tuple(Wide(of=width) for width in widths), STEPS, SEEDS)
    assert max(best.values()) - min(best.values()) <= 1, best


@pytest.mark.nightly
def test_the_best_rate_moves_by_at_most_a_factor_of_root_two_from_two_layers_to_six():
    best = best_rates(AdamW, tuple(Wide(of=64, deep=deep) for deep in (2, 4, 6)), STEPS, SEEDS)
    assert max(best.values()) - min(best.values()) <= 1, best


@pytest.mark.slow
def test_the_best_rate_of_a_few_steps_moves_as_little_from_one_width_to_its_double():
    best = best_rates(AdamW, (Wide(of=32), Wide(of=64)), STEPS // 2, 1)
    assert max(best.values()) - min(best.values()) <= 1, best
