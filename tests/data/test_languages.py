"""Training on languages: rows begin at items, and only memorised items are seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halflife.data.corpus import Corpus
from halflife.data.languages import STREAM, language_stream
from halflife.data.mixture import Batches, Mixture, Source
from halflife.data.tokenizers import Bytes, load
from halflife.errors import UserError
from halflife.tasks.families import Family

FAMILY = Family(kind="B", size=3)


def lines(tokens: np.ndarray) -> list[str]:
    return load(Bytes(), Path()).decode(tokens).splitlines()


def test_the_stream_is_the_memorised_items_equally_often_each_pass_in_an_order_of_its_own() -> None:
    language = FAMILY.languages[0]
    tokens, starts = language_stream(language, Bytes(), Path())
    items = [example.prompt + example.answer[:-1] for example in language.examples("memorised")]
    seen = lines(tokens)
    assert len(tokens) >= STREAM
    assert len(seen) == len(starts) == len(seen) // len(items) * len(items)
    passes = [seen[at : at + len(items)] for at in range(0, len(seen), len(items))]
    assert all(sorted(each) == sorted(items) for each in passes)
    assert len({tuple(each) for each in passes}) == len(passes)
    assert seen[7] == lines(tokens[starts[7] :])[0]


def test_rows_begin_at_an_item_and_hold_one_language_by_weight() -> None:
    weights = (1.0, 2.0, 1.0)
    sources = tuple(Source(corpus=language, weight=w) for language, w in zip(FAMILY.languages, weights, strict=True))
    stream = Batches(Mixture(sources=sources, sequence=96), Path(), batch_tokens=96 * 64, steps=20, key=(0, "batch", 0))
    items = [{e.prompt + e.answer[:-1] for e in language.examples("memorised")} for language in FAMILY.languages]
    counts = np.zeros(3)
    for step in range(20):
        for row in stream.batch(step):
            whole = lines(row)[:-1]
            owners = [set(whole) <= known for known in items]
            assert sum(owners) == 1
            counts += owners
    assert np.allclose(counts / counts.sum(), np.array(weights) / 4, atol=0.05)


def test_a_sequence_longer_than_the_stream_is_refused() -> None:
    long = Mixture(sources=(Source(corpus=FAMILY.languages[0]),), sequence=10**6)
    with pytest.raises(UserError, match="training split of digits has"):
        Batches(long, Path(), batch_tokens=10**6, steps=1, key=(0,))


@pytest.mark.parametrize("fewer", [1, 8, 20])
def test_relearning_on_n_examples_sees_n_items_and_fewer_are_among_more(fewer: int) -> None:
    language = FAMILY.languages[0]
    whole, few, more = (
        set(lines(language_stream(language, Bytes(), Path(), count)[0])) for count in (None, fewer, 2 * fewer)
    )
    assert len(few) == fewer
    assert len(more) == 2 * fewer
    assert few < more < whole
    source = Source(corpus=language, examples=fewer)
    row = Batches(Mixture(sources=(source,), sequence=96), Path(), batch_tokens=96, steps=1, key=(0,)).batch(0)[0]
    assert set(lines(row)[:-1]) <= few


@pytest.mark.parametrize("examples", [0, -3, 98])
def test_no_examples_or_more_than_there_are_is_refused(examples: int) -> None:
    with pytest.raises(UserError, match=f"{examples} examples of digits given: expected 1 to 97"):
        Source(corpus=FAMILY.languages[0], examples=examples)


def test_examples_of_text_cannot_be_counted() -> None:
    with pytest.raises(UserError, match="expected a language"):
        Source(corpus=Corpus(digest="0"), examples=8)
