"""Refactors keep numbers: these losses change only with Train's version."""

from __future__ import annotations

import pytest

from halflife.models.ladder import Rung
from halflife.training.optimizers import SGD
from halflife.training.schedules import Schedule
from tests.training.fakes import BATCH_TOKENS, Host, recipe, run

GOLDEN = {
    "adamw": [3.103439, 2.407224, 1.680946, 1.077612, 1.01099],
    "sgd": [3.160461, 2.772404, 1.862229, 1.118541, 1.058212],
    "cosine": [3.10603, 2.441949, 1.761929, 1.313854, 1.265668],
}
"""Mean training loss of each four steps."""

RECIPES = {
    "adamw": recipe(start=Rung(size="30k"), tokens=20 * BATCH_TOKENS),
    "sgd": recipe(tokens=20 * BATCH_TOKENS, optimizer=SGD(learning_rate=0.3), schedule=Schedule(shape="wsd")),
    "cosine": recipe(start=Rung(size="30k"), tokens=20 * BATCH_TOKENS, schedule=Schedule(shape="cosine")),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_losses_of_twenty_steps_are_the_golden_ones(tmp_path, name):
    host = Host(tmp_path)
    run(RECIPES[name], host)
    losses = [values["train/loss"] for values in host.points.values() if "train/loss" in values]
    assert losses == pytest.approx(GOLDEN[name], rel=1e-4)
