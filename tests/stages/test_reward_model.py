"""A reward learned from preferences: it comes near the exact one, its null has labels for nothing, rollouts get it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halflife.data.attributes import AttributeText
from halflife.errors import UserError
from halflife.evaluation.targets import items
from halflife.models.ladder import Rung
from halflife.stages.reward_model import FitReward, LearnedReward
from halflife.stages.subject import Subject
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.tasks.attributes import UNTOLD, AttributeGrammar
from halflife.training.attribute_reward import FirstSymbols
from halflife.training.rewards import RewardSetting
from tests.interpret.test_dictionary_edits import Folders
from tests.training.test_attribute_reward import rollouts

TEXT = AttributeText(grammar=AttributeGrammar(symbols=4, attributes=2, values=2, strength=2.0, tables="unigram"))
SUBJECT = Subject(model=Rung(size="20k"), tokenizer=TEXT.tokenizer())
FIT = FitReward(
    subject=SUBJECT, text=TEXT, told=(1, UNTOLD), length=9, pairs=200, held_out=200, epochs=3, learning_rate=3e-3
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("results"))


def points(fit: FitReward, store: Store) -> dict[str, float]:
    assert run_stage(fit, store).status == "complete"
    return {row["name"]: row["value"] for row in store.points(fit).iter_rows(named=True)}


def test_it_comes_near_the_exact_reward(store: Store) -> None:
    found = points(FIT, store)
    assert found["reward/correlation"] > 0.7
    assert found["reward/accuracy"] > found["reward/exact"] - 0.1


def test_labels_are_drawn_by_the_exact_odds(tmp_path: Path) -> None:
    _, exact, preferred = FIT.examples(tmp_path, 4000, "train")
    ahead = exact[:, 0] - exact[:, 1]
    near = np.abs(ahead - 1) < 0.5
    assert preferred[near].mean() == pytest.approx((1 / (1 + np.exp(-ahead[near]))).mean(), abs=0.05)
    shuffled = replace(FIT, permuted=True).examples(tmp_path, 4000, "train")[2]
    assert shuffled.sum() == preferred.sum()
    assert np.corrcoef(shuffled, ahead)[0, 1] == pytest.approx(0, abs=0.06)


def test_a_document_is_rewarded_once_at_its_end(store: Store) -> None:
    assert run_stage(FIT, store).status == "complete"
    documents = FIT.examples(store.root, 40, "others")[0][:, 0]
    from halflife.data.codecs import load

    codec, context = load(SUBJECT.codec, store.root), Folders(store)
    setting: Any = RewardSetting(items=[], codec=codec, end=None, context=context)  # type: ignore[arg-type]
    found = LearnedReward(fit=FIT, subject=SUBJECT).prepare(setting)(rollouts(documents)).numpy()
    assert not found[:, :-1].any()
    exact = TEXT.classifier((1, UNTOLD), SUBJECT.codec, store.root)(documents)
    assert np.corrcoef(found[:, -1], exact)[0, 1] > 0.6


def test_what_cannot_be_fitted_or_rewarded_is_refused_in_one_line(tmp_path: Path) -> None:
    from halflife.data.codecs import load

    with pytest.raises(UserError, match="pairs = 0"):
        replace(FIT, pairs=0)
    with pytest.raises(UserError, match="1 symbols"):
        replace(FIT, length=1)
    pool = items(FirstSymbols(text=TEXT, length=9), "train", 4, load(SUBJECT.codec, tmp_path), tmp_path)
    LearnedReward(fit=FIT, subject=SUBJECT).check(pool, length=8, end=None)
    for length, end in ((7, None), (8, 3)):
        with pytest.raises(UserError, match="documents of 9 symbols"):
            LearnedReward(fit=FIT, subject=SUBJECT).check(pool, length=length, end=end)
