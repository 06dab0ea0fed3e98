"""Distances between distributions, against values known in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from halflife.data.tokenizers import Bytes, Tokenizer
from halflife.errors import UserError
from halflife.evaluation.probe import Setting
from halflife.evaluation.texts import CorpusTexts, Rows, Texts
from halflife.interpret.distance import DistanceProbe
from tests.data.samples import sample_corpus
from tests.models.fakes import FakeModel

SYMBOLS = 5
TABLE = np.random.default_rng(0).dirichlet(np.ones(SYMBOLS), SYMBOLS)
"""Of a Markov chain: the distribution of the next symbol, by symbol."""


@dataclass(frozen=True, kw_only=True)
class Chain(Texts):
    count: int = 300
    length: int = 20

    def rows(self, tokenizer: Tokenizer, results: Path) -> Rows:
        return np.random.default_rng(1).integers(0, SYMBOLS, (self.count, self.length))

    def conditional(self, rows: Rows, tokenizer: Tokenizer, results: Path) -> NDArray[np.float64]:
        return TABLE[rows]


class Bigram(FakeModel):
    """Predicts by a table of the symbols alone."""

    def __init__(self, table: NDArray[np.float64]) -> None:
        super().__init__()
        self.table = torch.full((SYMBOLS, self.vocabulary), -torch.inf)
        self.table[:, :SYMBOLS] = torch.from_numpy(table).log().float()

    def hidden(self, x: Tensor) -> Tensor:
        return self.table[x]


SETTING = Setting(tokenizer=Bytes(), results=Path(), sequence=64)


def test_a_model_that_knows_the_chain_is_at_distance_zero():
    found = DistanceProbe(texts=Chain()).prepare(SETTING)(Bigram(TABLE))
    assert found == {"kl": pytest.approx(0, abs=1e-6), "tv": pytest.approx(0, abs=1e-6), "tokens": 6000.0}


def test_distances_are_the_closed_forms_by_position_too():
    uniform = np.full((SYMBOLS, SYMBOLS), 1 / SYMBOLS)
    found = DistanceProbe(texts=Chain(), first=2, each=True).prepare(SETTING)(Bigram(uniform))
    rows = Chain().rows(Bytes(), Path())
    kl = (TABLE * np.log(TABLE * SYMBOLS)).sum(1)
    tv = np.abs(TABLE - 1 / SYMBOLS).sum(1) / 2
    assert found["kl"] == pytest.approx(kl[rows[:, 2:]].mean(), rel=1e-5)
    assert found["tv"] == pytest.approx(tv[rows[:, 2:]].mean(), rel=1e-5)
    assert found["at-7/kl"] == pytest.approx(kl[rows[:, 7]].mean(), rel=1e-5)
    assert "at-1/kl" not in found


def test_texts_without_an_exact_distribution_need_a_reference(results: Path):
    texts = CorpusTexts(corpus=sample_corpus(results), count=4, length=8)
    with pytest.raises(UserError, match="these texts have none; give a reference"):
        DistanceProbe(texts=texts).prepare(Setting(tokenizer=Bytes(), results=results, sequence=64))


def test_texts_that_are_too_long_or_too_few_are_refused(results: Path):
    with pytest.raises(UserError, match="the model reads 16; shorten them"):
        DistanceProbe(texts=Chain()).prepare(Setting(tokenizer=Bytes(), results=results, sequence=16))
    texts = CorpusTexts(corpus=sample_corpus(results), count=10**6, length=8)
    with pytest.raises(UserError, match="1000000 texts of 8 tokens given: the validation split"):
        texts.rows(Bytes(), results)
    with pytest.raises(UserError, match="distances from position 20 on given"):
        DistanceProbe(texts=Chain(), first=20)
