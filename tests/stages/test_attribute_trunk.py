"""Models trained on an attribute grammar come near its exact conditional."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from halflife.data.attributes import AttributeText
from halflife.evaluation.attribute_texts import AttributeTexts
from halflife.evaluation.cadence import Ends
from halflife.evaluation.probe import Evaluation
from halflife.interpret.distance import DistanceProbe
from halflife.models.ladder import Rung
from halflife.stages.attribute_trunk import HALF_TOLD, attribute_trunk
from halflife.stages.measure import Measure
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.tasks.attributes import AttributeGrammar
from tests.stages.test_measure import points

CASES = {"trained": HALF_TOLD, "told": replace(HALF_TOLD, told=1.0, silent=0.0), "untold": replace(HALF_TOLD, told=0.0)}


def distances(text: AttributeText, trunk: Train) -> tuple[Evaluation, ...]:
    """With tags as in training, all told, and none told."""
    found = []
    for name, tags in CASES.items():
        texts = AttributeTexts(text=text, transforms=(tags,), length=trunk.mixture.sequence)
        probe = DistanceProbe(texts=texts, first=len(text.choices) - 1)
        found.append(Evaluation(name=name, probe=probe, at=Ends()))
    return tuple(found)


def test_a_tiny_model_learns_one_attribute_told_or_read_from_the_text(store: Store) -> None:
    text = AttributeText(grammar=AttributeGrammar(symbols=4, attributes=1, values=2, strength=1.0))
    trunk = attribute_trunk(text, rung=Rung(size="20k"), symbols=16, tokens=60_000)
    measured = Measure(subject=Subject(model=Checkpoint(stage=trunk)), evaluations=distances(text, trunk))
    run_stage(trunk, store)
    found = {name: value for (_, name), value in points(store, measured).items()}
    assert all(found[f"{name}/kl"] < 0.06 for name in CASES)  # 0.8 before training, 0.02 after


@pytest.mark.nightly
@pytest.mark.parametrize("depth", [2, 4])
def test_a_60k_trunk_is_within_a_twentieth_of_a_nat_of_the_exact_conditional(depth: int, tmp_path: Path) -> None:
    text = AttributeText(grammar=AttributeGrammar())
    trunk = attribute_trunk(text, rung=Rung(size="60k", depth=depth))
    trunk = replace(trunk, evaluations=distances(text, trunk))
    found = run_stage(trunk, Store(tmp_path)).summary["final"]
    assert all(found[f"{name}/kl"] < 0.05 for name in CASES)
    assert found["told/kl"] < 0.025
