"""The coordinate check (arXiv 2203.03466, figure 5): how far activations move in a few steps, over widths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from halflife.models.decoder import Decoder
from halflife.training.optimizers import SGD, AdamW, Muon, Optimizer
from tests.training.fakes import VOCABULARY, Stream, recipe, torch_engine
from tests.training.widths import Standard, Wide

WIDTHS = (64, 128, 256, 512)
WATCHED = ("embed", "blocks.0.qkv", "blocks.0", "blocks.1.qkv", "blocks.1", "norm", "head")


def movements(rung: Wide, optimizer: Optimizer) -> dict[str, float]:
    """Root mean square change of each watched module's output over four steps."""
    model = Decoder(rung, VOCABULARY)
    model.initialise(torch.Generator().manual_seed(0))
    tokens = torch.from_numpy(Stream("probe", rows=8).batch(0))[:, :-1]

    def outputs() -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for name in WATCHED:
            module = model.get_submodule(name)
            hook = module.register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
            with torch.no_grad():
                model(tokens)
            hook.remove()
        return found

    before = outputs()
    engine = torch_engine(model, recipe(optimizer=optimizer, max_grad_norm=1e9))
    for step in range(4):
        engine.gradients(Stream(rows=8).batch(step), 0)
        engine.step(1.0)
    after = outputs()
    return {name: (after[name] - before[name]).square().mean().sqrt().item() for name in WATCHED}


def slopes(kind: type[Wide], optimizer: Optimizer, widths: tuple[int, ...] = WIDTHS) -> dict[str, float]:
    """d ln(movement) / d ln(width)."""
    moved = [movements(kind(of=width), optimizer) for width in widths]
    return {name: float(np.polyfit(np.log(widths), [np.log(each[name]) for each in moved], 1)[0]) for name in WATCHED}


@pytest.mark.parametrize(
    ("optimizer", "widths"),
    [
        (AdamW(learning_rate=0.01), WIDTHS),
        (SGD(learning_rate=0.1), WIDTHS),
        (Muon(learning_rate=0.01), (32, 64, 128)),  # its steps, products in bf16, take minutes at width 512
        pytest.param(Muon(learning_rate=0.01), WIDTHS, marks=pytest.mark.nightly),
    ],
)
def test_activations_move_equally_at_every_width(optimizer, widths):
    assert all(abs(slope) < 0.25 for slope in slopes(Wide, optimizer, widths).values())


@pytest.mark.parametrize("optimizer", [AdamW(learning_rate=0.01), SGD(learning_rate=0.1)])
def test_without_mup_they_move_further_in_wider_models(optimizer):
    """The standard parametrization fails the check."""
    found = slopes(Standard, optimizer)
    assert found["blocks.1"] > 0.5
    assert found["head"] > 0.5
