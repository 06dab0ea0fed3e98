"""Rewards by the exact posterior of attributes: what they pay, and that a null pays nothing for anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from halflife.data import codecs
from halflife.data.attributes import AttributeText
from halflife.errors import UserError
from halflife.evaluation.rollouts import Rollouts
from halflife.evaluation.targets import items
from halflife.tasks.attributes import UNTOLD, AttributeGrammar
from halflife.training.attribute_reward import AttributeReward, FirstSymbols
from halflife.training.rewards import RewardSetting
from tests.training.fakes import Host

TEXT = AttributeText(grammar=AttributeGrammar(attributes=2, values=2, strength=1.5))
TARGET = FirstSymbols(text=TEXT, length=9)


def rollouts(documents: np.ndarray) -> Rollouts:
    rows, length = len(documents), documents.shape[1] - 1
    tokens = torch.from_numpy(documents)
    return Rollouts(
        inputs=tokens[:, :-1], columns=torch.arange(length).expand(rows, -1), tokens=tokens[:, 1:],
        valid=torch.ones(rows, length, dtype=torch.bool), items=torch.arange(rows), group=rows,
    )  # fmt: skip


def test_a_document_is_rewarded_at_its_end_by_the_exact_posterior_and_the_null_by_anothers(tmp_path: Path) -> None:
    codec = codecs.load(TEXT.tokenizer(), tmp_path)
    pool = items(TARGET, "train", 6, codec, tmp_path)
    setting = RewardSetting(items=pool, codec=codec, end=None, context=Host(tmp_path))
    documents = np.stack([np.append(item.tokens, item.targets[-1]) for item in pool])
    assert documents.shape == (6, 9)
    assert {item.answer for item in pool} == {1}
    expected = TEXT.classifier((1, UNTOLD), TEXT.tokenizer(), tmp_path)(documents)
    for permuted, wanted in ((False, expected), (True, np.roll(expected, 1))):
        reward = AttributeReward(text=TEXT, told=(1, UNTOLD), permuted=permuted)
        found = reward.prepare(setting)(rollouts(documents))
        np.testing.assert_allclose(found[:, -1], wanted, rtol=1e-5)
        assert not found[:, :-1].any()


def test_values_that_the_text_does_not_have_and_documents_that_end_early_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fixed values"):
        AttributeReward(text=TEXT, told=(2, 0))
    with pytest.raises(UserError, match="at least 2"):
        FirstSymbols(text=TEXT, length=1)
    pool = items(TARGET, "train", 2, codecs.load(TEXT.tokenizer(), tmp_path), tmp_path)
    with pytest.raises(UserError, match="stops=False"):
        AttributeReward(text=TEXT, told=(1, 0)).check(pool, length=8, end=3)


def test_rewards_of_others_are_worth_nothing_on_average(tmp_path: Path) -> None:
    """The null's reward, given to another document, is uncorrelated with what its own would be."""
    codec = codecs.load(TEXT.tokenizer(), tmp_path)
    pool = items(TARGET, "train", 4000, codec, tmp_path)
    setting = RewardSetting(items=pool, codec=codec, end=None, context=Host(tmp_path))
    documents = rollouts(np.stack([np.append(item.tokens, item.targets[-1]) for item in pool]))
    own, given = (
        AttributeReward(text=TEXT, told=(1, UNTOLD), permuted=permuted).prepare(setting)(documents)[:, -1].numpy()
        for permuted in (False, True)
    )
    assert np.sort(own).tolist() == np.sort(given).tolist()
    assert abs(np.corrcoef(own, given)[0, 1]) < 0.06
