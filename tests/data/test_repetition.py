"""Text that is read many times over is said."""

from __future__ import annotations

from pathlib import Path

from halflife.data.mixture import Mixture, Source
from halflife.data.notes import EPOCHS, repetition_notes
from halflife.data.tokens import token_array
from tests.data.samples import sample_corpus


def test_a_text_that_is_read_many_times_is_said_with_how_often(tmp_path: Path):
    corpus, other = sample_corpus(tmp_path), sample_corpus(tmp_path, documents=600, seed=1)
    mixture = Mixture(sources=(Source(corpus=corpus), Source(corpus=other)))
    assert repetition_notes([(mixture, 10**9)], tmp_path) == []  # not below the results yet
    length = len(token_array(tmp_path, corpus, "train", mixture.tokenizer))
    token_array(tmp_path, other, "train", mixture.tokenizer)
    few, many = round(1.9 * EPOCHS * length), round(2.5 * EPOCHS * length)  # half of each is this text
    assert repetition_notes([(mixture, few)], tmp_path) == []
    (line,) = repetition_notes([(mixture, few), (mixture, many)], tmp_path)
    assert f"its {length:,} tokens are read 5 times" in line
