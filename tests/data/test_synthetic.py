"""Training on synthetic tasks: rows begin at items, and only memorised items are seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halflife.data.codecs import load
from halflife.data.corpus import Corpus
from halflife.data.loss_mask import read
from halflife.data.mixture import Batches, Mixture, Source
from halflife.data.synthetic import STREAM, task_stream
from halflife.data.tokenizers import Bytes
from halflife.errors import UserError
from halflife.tasks.families import Family
from tests.data.samples import sample_corpus

FAMILY = Family(kind="B", size=3)


def lines(tokens: np.ndarray) -> list[str]:
    return load(Bytes(), Path()).decode(tokens).splitlines()


def test_the_stream_has_every_memorised_item_equally_often_with_each_pass_in_its_own_order() -> None:
    task = FAMILY.languages[0]
    tokens, starts = task_stream(task, Bytes(), Path())
    items = [example.prompt + example.answer[:-1] for example in task.examples("memorised")]
    seen = lines(tokens)
    assert len(tokens) >= STREAM
    assert len(seen) == len(starts) == len(seen) // len(items) * len(items)
    passes = [seen[at : at + len(items)] for at in range(0, len(seen), len(items))]
    assert all(sorted(each) == sorted(items) for each in passes)
    assert len({tuple(each) for each in passes}) == len(passes)
    assert seen[7] == lines(tokens[starts[7] :])[0]


def test_rows_begin_at_an_item_and_contain_one_task_drawn_by_weight() -> None:
    weights = (1.0, 2.0, 1.0)
    sources = tuple(Source(corpus=task, weight=w) for task, w in zip(FAMILY.languages, weights, strict=True))
    stream = Batches(Mixture(sources=sources, sequence=96), Path(), batch_tokens=96 * 64, steps=20, key=(0, "batch", 0))
    items = [{e.prompt + e.answer[:-1] for e in task.examples("memorised")} for task in FAMILY.languages]
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
def test_n_examples_give_n_items_and_fewer_are_a_subset_of_more(fewer: int) -> None:
    task = FAMILY.languages[0]
    whole, few, more = (set(lines(task_stream(task, Bytes(), Path(), count)[0])) for count in (None, fewer, 2 * fewer))
    assert len(few) == fewer
    assert len(more) == 2 * fewer
    assert few < more < whole
    source = Source(corpus=task, examples=fewer)
    row = Batches(Mixture(sources=(source,), sequence=96), Path(), batch_tokens=96, steps=1, key=(0,)).batch(0)[0]
    assert set(lines(row)[:-1]) <= few


@pytest.mark.parametrize("examples", [0, -3, 98])
def test_zero_examples_or_more_than_available_are_refused(examples: int) -> None:
    with pytest.raises(UserError, match=f"{examples} examples of digits given: expected 1 to 97"):
        Source(corpus=FAMILY.languages[0], examples=examples)


def test_a_number_of_examples_of_a_corpus_is_refused() -> None:
    with pytest.raises(UserError, match="expected a synthetic task"):
        Source(corpus=Corpus(digest="0"), examples=8)


def test_with_loss_on_answers_prompts_are_masked_and_nothing_else_changes() -> None:
    task = FAMILY.languages[1]
    items = {e.prompt + e.answer: (len(e.prompt), len(e.answer)) for e in task.examples("memorised")}
    plain, marked = (
        Batches(
            Mixture(sources=(Source(corpus=task, loss=loss),), sequence=96),
            Path(),
            batch_tokens=960,
            steps=3,
            key=(0,),
        ).batch(2)
        for loss in ("all", "answers")
    )
    assert (read(marked) == plain).all()
    assert (plain >= 0).all()
    for row in marked:
        whole = [line + "\n" for line in lines(read(row))]
        expected = [
            scored
            for item in whole[:-1]
            for count, scored in zip(items[item], (False, True), strict=True)
            for _ in range(count)
        ]
        assert (row[: len(expected)] >= 0).tolist() == expected
        assert sum(expected) == sum(items[item][1] for item in whole[:-1]) > 0


def test_the_text_of_a_mixed_batch_is_not_masked(tmp_path: Path) -> None:
    sources = (Source(corpus=sample_corpus(tmp_path)), Source(corpus=FAMILY.languages[0], loss="answers"))
    batch = Batches(Mixture(sources=sources, sequence=64), tmp_path, batch_tokens=64 * 64, steps=1, key=(0,)).batch(0)
    known = {e.prompt + e.answer[:-1] for e in FAMILY.languages[0].examples("memorised")}
    text = np.array([not set(lines(read(row))[:-1]) & known for row in batch])
    assert 10 < text.sum() < 54
    assert ((batch >= 0).all(axis=1) == text).all()


def test_loss_on_answers_of_a_corpus_or_of_items_longer_than_a_row_is_refused() -> None:
    with pytest.raises(UserError, match="loss on the answers of a corpus given: expected a synthetic task"):
        Source(corpus=Corpus(digest="0"), loss="answers")
    short = Mixture(sources=(Source(corpus=FAMILY.languages[1], loss="answers"),), sequence=8)
    with pytest.raises(UserError, match=r"sequence of 8 tokens given: an item of words has .* expected at least"):
        Batches(short, Path(), batch_tokens=8, steps=1, key=(0,))
