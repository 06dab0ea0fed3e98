"""Settings far below what presets learn with are said in the plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from halflife.kits.usual import far_below
from halflife.sweep.cli import Preset
from studies.backdoor_persistence import PRESETS as OWN
from studies.backdoor_persistence import Settings

FIRST = OWN["first"].settings  # 200,000 tokens with 2,000 triggers
LONG = replace(FIRST, sizes=("30k", "100k"), trunk_tokens=1_200_000, repetitions=2)
PRESETS = {"first": OWN["first"], "long": Preset(summary="", settings=LONG)}


def changed(**fields: Any) -> Settings:
    return replace(FIRST, **fields)


def test_few_tokens_or_few_triggers_are_far_below_the_presets_of_about_that_size():
    for few in ({"trunk_tokens": 90_000}, {"poison_counts": (30,)}, {"repetitions": 1}):
        (line,) = far_below(changed(**few), PRESETS)
        assert "at 30k" in line
        assert "the preset first 200,000 tokens with 2,000 triggers" in line


def test_one_preset_that_is_reached_is_enough_and_sizes_of_no_preset_are_not_judged():
    assert not list(far_below(changed(trunk_tokens=700_000, repetitions=1), PRESETS))  # as much as half of `long`
    assert not list(far_below(changed(sizes=("5m",), trunk_tokens=1), PRESETS))


def test_what_need_not_learn_is_neither_judged_nor_a_measure():
    assert not list(far_below(changed(stop_below=0.0, trunk_tokens=1), PRESETS))
    assert not list(far_below(changed(trunk_tokens=1), {"smoke": Preset(summary="", settings=changed(stop_below=0.0))}))
