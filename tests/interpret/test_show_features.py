"""Features that are shown: the highest scores, others that are as active, and where texts excite them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from halflife.data import codecs
from halflife.data.tokenizers import Characters
from halflife.errors import UserError
from halflife.interpret.show_features import heated, picked
from halflife.interpret.token_at import TokenAt
from tests.stages.test_golden_keys import SHOWN


def test_the_highest_scores_are_picked_and_others_that_are_as_active() -> None:
    random = torch.Generator().manual_seed(0)
    often = torch.linspace(0.02, 0.9, 60)
    codes = (torch.rand(200, 10, 60, generator=random) < often).float()
    scores, live = torch.zeros(60), torch.ones(60, dtype=torch.bool)
    scores[[4, 30, 55]] = torch.tensor([0.5, -0.9, 0.7])
    live[4] = False
    top, others = picked(scores, live, codes, 2, random)
    assert top.tolist() == [30, 55]
    assert not {4, 30, 55} & set(others.tolist())
    assert float((often[others] - often[top]).abs().max()) < 0.1


def test_heat_is_of_each_character_over_the_most(tmp_path: Any) -> None:
    codec = codecs.load(Characters(alphabet="abcd", special=("<t>",)), tmp_path)
    row = np.array([5, *codec.encode("abcd")])  # behind a special token, which has no character
    assert heated(codec, row, torch.tensor([0.0, 0.0, 2.0, 1.0, 0.0])) == "abcd\t0940"
    long = np.tile(codec.encode("abcd"), 20)
    text, _, heat = heated(codec, long, torch.eye(80)[60]).partition("\t")
    assert (len(text), len(heat), heat.count("9")) == (32, 32, 1)
    assert text[heat.index("9")] == "a"


def test_what_cannot_be_shown_is_refused() -> None:
    good = SHOWN
    for changes in ({"count": 0}, {"shown": 9}):
        with pytest.raises(UserError, match="expected at least 1 of each"):
            replace(good, **changes)
    with pytest.raises(UserError, match="another subject"):
        replace(good, subject=replace(good.subject, edits=(TokenAt(token=0),)))
