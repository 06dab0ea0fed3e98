"""Models trained on an attribute grammar come near its exact conditional."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halflife.data.attributes import AttributeText
from halflife.data.mixture import Batches
from halflife.data.transforms import Tags
from halflife.evaluation.attribute_texts import AttributeTexts
from halflife.evaluation.cadence import Ends
from halflife.evaluation.probe import Evaluation, Setting
from halflife.interpret.distance import DistanceProbe
from halflife.models.ladder import Rung
from halflife.stages.attribute_trunk import HALF_TOLD, attribute_trunk
from halflife.tasks.attributes import AttributeGrammar
from tests.training.fakes import Host, run


def trained(folder: Path, text: AttributeText, tags: Tags, **settings: Any) -> dict[str, dict[str, float]]:
    """Distances at the start and at the end, with tags as in training, all told, and none."""
    trunk = attribute_trunk(text, (tags,), **settings)
    sequence = trunk.mixture.sequence
    cases = {"trained": tags, "told": replace(tags, told=1.0, silent=0.0), "untold": replace(tags, told=0.0)}
    evaluations = []
    for name, told in cases.items():
        texts = AttributeTexts(text=text, transforms=(told,), length=sequence)
        first = len(tags.slots(text.choices)) - 1
        evaluations.append(Evaluation(name=name, probe=DistanceProbe(texts=texts, first=first), at=Ends()))
    trunk, host = replace(trunk, evaluations=tuple(evaluations)), Host(folder)
    setting = Setting(tokenizer=trunk.mixture.tokenizer, results=folder, sequence=sequence)
    batches = Batches(
        trunk.mixture, folder, batch_tokens=trunk.batch_tokens, steps=trunk.steps, key=(trunk.seed, "batch", 0)
    )
    run(trunk, host, batches=batches, measures={e.name: e.probe.prepare(setting) for e in evaluations})
    first, last = host.points[0], host.points[trunk.steps * trunk.batch_tokens]
    return {name: {"before": first[f"{name}/kl"], "after": last[f"{name}/kl"]} for name in cases}


def test_a_tiny_model_learns_one_attribute_told_or_read_from_the_text(tmp_path: Path) -> None:
    text = AttributeText(grammar=AttributeGrammar(symbols=4, attributes=1, values=2, strength=1.0))
    found = trained(tmp_path, text, HALF_TOLD, rung=Rung(size="20k"), symbols=16, tokens=60_000)
    assert all(kl["after"] < 0.06 < 0.3 < kl["before"] for kl in found.values())


@pytest.mark.nightly
@pytest.mark.parametrize("depth", [2, 4])
def test_a_60k_trunk_is_within_a_twentieth_of_a_nat_of_the_exact_conditional(depth: int, tmp_path: Path) -> None:
    found = trained(tmp_path, AttributeText(grammar=AttributeGrammar()), HALF_TOLD, rung=Rung(size="60k", depth=depth))
    assert all(kl["after"] < 0.05 for kl in found.values())
    assert found["told"]["after"] < 0.025
