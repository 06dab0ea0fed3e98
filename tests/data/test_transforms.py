"""Tags, fill-in-the-middle and retrodiction: what a row holds, what of it is predicted, and what draws it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.data.attributes import AttributeText
from halflife.data.codecs import load
from halflife.data.corpus import texts
from halflife.data.documents import Documents, Draw, Generated
from halflife.data.loss_mask import read
from halflife.data.mixture import Batches, Mixture
from halflife.data.sources import Source
from halflife.data.tokenizers import Bytes, Tokenizer, special_ids
from halflife.data.transforms import (
    DISTRACTORS,
    MIDDLE,
    PREFIX,
    RETRODICT,
    SUFFIX,
    UNKNOWN,
    Backwards,
    FillInTheMiddle,
    Labels,
    Retrodiction,
    Tags,
    Transform,
    special_tokens,
    tag,
)
from halflife.errors import UserError
from halflife.store.identity import canonical
from halflife.tasks.attributes import UNTOLD, AttributeGrammar
from tests.data.samples import sample_corpus

GRAMMAR = AttributeGrammar(symbols=4, values=3)
TEXT = AttributeText(grammar=GRAMMAR)
NONE = Path()
MARKERS = {PREFIX: 100, SUFFIX: 101, MIDDLE: 102}


def rows(
    *transforms: Transform, text: AttributeText = TEXT, sequence: int = 15, step: int = 0, count: int = 400
) -> Any:
    """A batch of grammar text and the ids of its special tokens."""
    tokenizer = text.tokenizer(transforms)
    mixture = Mixture(sources=(Source(corpus=text, transforms=transforms),), tokenizer=tokenizer, sequence=sequence)
    batches = Batches(mixture, NONE, batch_tokens=count * sequence, steps=2, key=(3, "batch", 0))
    return batches.batch(step), special_ids(tokenizer)


def documents(tokens: Any, prompt: int = 0) -> Documents:
    array = np.array(tokens)
    return Documents(tokens=array, values=np.empty((len(array), 0), dtype=np.int64), prompt=prompt)


def test_rows_are_a_pure_function_of_the_step_and_one_document_each() -> None:
    batch, _ = rows(Tags())
    assert (batch == rows(Tags())[0]).all()
    assert batch.shape == (400, 16)
    assert (batch != rows(Tags(), step=1)[0]).any(axis=1).all()
    assert len({row.tobytes() for row in batch}) == 400
    assert ((batch[:, 2:] >= 0) & (batch[:, 2:] < 4)).all()


def test_other_tags_leave_the_text_of_every_row_as_it_is() -> None:
    """So arms of a study differ in what is told, and in nothing else."""
    text = rows(Tags())[0][:, 2:]
    for tags in (Tags(told=0), Tags(wrong=GRAMMAR.uninformative), Tags(synonyms=3), Tags(any_order=True)):
        assert (rows(tags)[0][:, 2:] == text).all()


def test_tags_are_told_and_wrong_as_often_as_asked_and_are_not_predicted() -> None:
    whole, ids = rows(Tags(), count=4000)
    values = np.stack([np.searchsorted([ids[tag(a, v)] for v in range(3)], read(whole[:, a])) for a in (0, 1)], axis=1)
    assert (whole[:, :2] < 0).all()
    assert np.abs(np.bincount(values[:, 0]) / 4000 - 1 / 3).max() < 0.03
    batch, ids = rows(Tags(told=0.5, silent=0.3, wrong=0.2), count=4000)
    tags = read(batch[:, :2])
    unknown = tags == ids[UNKNOWN]
    right = tags == np.array([[ids[tag(a, v)] for v in range(3)] for a in (0, 1)])[[0, 1], values]
    assert abs(unknown.mean() - 0.65) < 0.02
    assert abs(unknown.all(axis=1).mean() - (0.3 + 0.7 * 0.25)) < 0.03
    assert abs(right[~unknown].mean() - 0.8) < 0.03
    assert (rows(Tags(predicted=True))[0] >= 0).all()


def test_tags_tell_what_the_text_is_made_with() -> None:
    batch, ids = rows(Tags(), sequence=401, count=60)
    posterior = GRAMMAR.marginals(GRAMMAR.posterior(batch[:, 2:]))[:, -1]
    told = read(batch[:, :2]) - np.array([ids[tag(0, 0)], ids[tag(1, 0)]])
    assert (posterior.argmax(-1) == told).mean() > 0.98


def test_fixed_tags_are_the_same_in_every_row_whatever_it_is() -> None:
    batch, ids = rows(Tags(fixed=(2, UNTOLD), wrong=0.5))
    assert set(map(tuple, read(batch[:, :2]))) == {(ids[tag(0, 2)], ids[UNKNOWN])}


def test_synonyms_and_distractors_are_tokens_of_their_own_and_come_in_any_order() -> None:
    tags = Tags(attributes=(1,), synonyms=2, distractors=1, any_order=True)
    batch, ids = rows(tags)
    seen = Counter(read(batch[:, :2]).ravel().tolist())
    names = [tag(1, value, synonym) for value in range(3) for synonym in range(2)]
    assert set(seen) == {ids[name] for name in (*names, *DISTRACTORS)}
    assert 120 < np.isin(read(batch[:, 0]), [ids[name] for name in names]).sum() < 280
    assert min(seen[ids[name]] for name in names) > 40
    assert special_tokens([tags], (3, 3)) == (UNKNOWN, *names, *DISTRACTORS)


@given(st.integers(0, 2**32), st.sampled_from([0.0, 1.0]), st.integers(0, 3), st.integers(1, 12))
def test_a_document_with_its_middle_at_the_end_gives_back_the_document(
    seed: int, suffix_first: float, prompt: int, length: int
) -> None:
    given = np.arange(prompt + length)[None]
    transform = FillInTheMiddle(rate=1, suffix_first=suffix_first)
    row = transform.apply(documents(given, prompt), np.random.default_rng(seed), MARKERS).tokens[0].tolist()
    assert row[:prompt] == list(range(prompt))
    at, parts = [row.index(marker) for marker in (100, 101, 102)], row
    if suffix_first:
        assert at[:2] == [prompt, prompt + 1]
        suffix, front, middle = parts[at[1] + 1 : at[2]], parts[at[2] + 1 :], []
    else:
        assert at[0] == prompt
        front, suffix, middle = parts[at[0] + 1 : at[1]], parts[at[1] + 1 : at[2]], parts[at[2] + 1 :]
    assert row[:prompt] + front + middle + suffix == given[0].tolist()


def test_documents_are_rearranged_as_often_as_asked_and_the_others_end_in_tokens_not_predicted() -> None:
    batch, ids = rows(Tags(), FillInTheMiddle(rate=0.6, suffix_first=0.25), count=2000)
    changed = (batch == ids[MIDDLE]).any(axis=1)  # predicted: elsewhere it only fills the row
    spm = changed & (batch[:, 3] == ids[SUFFIX]) & (batch[:, 4] != ids[MIDDLE])
    assert abs(changed.mean() - 0.6) < 0.04
    assert (
        0.25 - 0.04 < (spm | (changed & (batch[:, 3] == ids[SUFFIX]))).mean() / 0.6 < 0.25 + 0.1
    )  # empty prefixes too
    assert (batch[~changed][:, -3:] < 0).all()
    assert (batch[changed][:, 2:] >= 0).all()


def test_with_the_loss_on_the_middle_only_what_follows_its_beginning_is_predicted() -> None:
    batch, ids = rows(FillInTheMiddle(rate=1, suffix_first=0, loss="last"))
    for row in batch:
        begin = read(row).tolist().index(ids[MIDDLE])
        assert ((row >= 0) == (np.arange(16) > begin)).all()


@pytest.mark.parametrize(
    ("suffix_first", "row"), [(0.0, [100, 10, 101, 0, 1, 102, 11, 12]), (1.0, [100, 101, 0, 1, 102, 10, 11, 12])]
)
def test_the_prompt_may_be_the_middle_but_for_what_is_known_of_it(suffix_first: float, row: list[int]) -> None:
    transform = FillInTheMiddle(rate=1, suffix_first=suffix_first, of_prompt=True, known=1, loss="last")
    made = transform.apply(documents([[~10, ~11, ~12, 0, 1]], prompt=3), np.random.default_rng(0), MARKERS).tokens[0]
    assert read(made).tolist() == row
    assert (made >= 0).tolist() == [False] * 6 + [True] * 2


def test_retrodiction_asks_for_the_tags_behind_the_text_the_last_one_first() -> None:
    plain, _ = rows(Tags(told=0.7), sequence=15)
    batch, ids = rows(Tags(told=0.7), Retrodiction(), sequence=16)
    assert (read(batch[:, :14]) == plain[:, 2:]).all()
    assert (read(batch[:, 14]) == ids[RETRODICT]).all()
    assert (batch[:, 15:] == read(plain[:, :2])[:, ::-1]).all()
    assert (batch[:, :15] < 0).all()
    assert (rows(Tags(), Retrodiction(loss="all"), sequence=16)[0] >= 0).all()


def test_backwards_twice_is_the_document() -> None:
    batch, _ = rows(Tags(), Backwards(), Backwards())
    assert (batch == rows(Tags())[0]).all()
    assert (rows(Tags(), Backwards())[0] == batch[:, ::-1]).all()


def test_shorter_documents_end_in_eos_and_longer_ones_are_refused() -> None:
    batch, _ = rows(Tags(), text=replace(TEXT, length=10))
    assert (batch[:, 12:] == ~4).all()  # eos
    with pytest.raises(UserError, match="sequence of 15 tokens given: the documents of attribute grammar 0 take 16"):
        rows(Tags(), text=replace(TEXT, length=15))
    with pytest.raises(UserError, match="the transforms of attribute grammar 0 add 2"):
        rows(Tags(), sequence=1)


def test_a_corpus_is_tagged_by_what_it_is_and_its_windows_are_rearranged(results: Path) -> None:
    corpus = sample_corpus(results)
    chain = (Labels(values=(1,), of=(2,)), Tags(), FillInTheMiddle(rate=1))
    tokenizer = Bytes(special=special_tokens(chain))
    mixture = Mixture(sources=(Source(corpus=corpus, transforms=chain),), tokenizer=tokenizer, sequence=63)
    batch = Batches(mixture, results, batch_tokens=63 * 8, steps=1, key=(0,)).batch(0)
    ids, codec = special_ids(tokenizer), load(tokenizer, results)
    whole = "".join(texts(results, corpus, "train"))
    assert mixture.has_loss_mask
    assert batch.shape == (8, 64)
    for row in batch:
        assert row[0] == ~ids[tag(0, 1)]
        body = row[1:].tolist()
        prefix, suffix, middle = (body.index(ids[name]) for name in (PREFIX, SUFFIX, MIDDLE))
        front, after, last = body[prefix + 1 : suffix], body[suffix + 1 : middle], body[middle + 1 :]
        assert codec.decode(np.array(front + last + after)) in whole


def test_a_source_without_transforms_has_the_key_that_it_had(results: Path) -> None:
    corpus = sample_corpus(results)
    assert canonical(Source(corpus=corpus)) == {"is": "Source", "corpus": canonical(corpus)}


def test_tags_of_unknown_attributes_or_tokens_are_refused() -> None:
    with pytest.raises(UserError, match=r"tags of attributes \(2,\) given: the documents have 2"):
        rows(Tags(attributes=(2,)))
    with pytest.raises(UserError, match=r"fixed tags \(3, 0\) given: expected a value for each of attributes \(0, 1\)"):
        rows(Tags(fixed=(3, 0)))
    mixture = Mixture(sources=(Source(corpus=TEXT, transforms=(Tags(),)),), tokenizer=TEXT.tokenizer([]), sequence=15)
    with pytest.raises(UserError, match="special token '<unknown>' given: the tokenizer has none; add it to its"):
        Batches(mixture, NONE, batch_tokens=15, steps=1, key=(0,))
    scalar = Source(corpus=TEXT, transforms=(Tags(scalar=True),))
    with pytest.raises(UserError, match="special token '<0=0>' given: the tokenizer has none"):
        _ = replace(mixture, sources=(scalar,)).lines
    with pytest.raises(UserError, match="documents with a prompt of 0 tokens given: expected at least 1; put Tags"):
        rows(Retrodiction())
    for prompt, line in ((0, "prompt of 0 tokens given: expected at least 1"), (40, "the documents have 15; shorten")):
        with pytest.raises(UserError, match=line):
            rows(Retrodiction(prompt=prompt))
    with pytest.raises(UserError, match="2 known tokens given: expected 0 or more of a prompt"):
        FillInTheMiddle(known=2)
    with pytest.raises(UserError, match=r"told = 1\.5 given: expected a probability"):
        Tags(told=1.5)


@dataclass(frozen=True, kw_only=True)
class Counts(Generated):
    """Documents of one's own: one class."""

    @property
    def name(self) -> str:
        return "counts"

    def prepare(self, tokenizer: Tokenizer, results: Path) -> Draw:
        return lambda rng, count, room: documents(rng.integers(0, 9, (count, 1)) + np.arange(room))


def test_documents_of_ones_own_are_one_class_and_mix_with_others(results: Path) -> None:
    sources = (Source(corpus=Counts(), weight=0.5), Source(corpus=sample_corpus(results), weight=0.5))
    batch = Batches(Mixture(sources=sources, sequence=20), results, batch_tokens=800, steps=1, key=(0,)).batch(0)
    counted = (np.diff(batch, axis=1) == 1).all(axis=1)
    assert 8 < counted.sum() < 32


def test_scalar_tags_name_the_lines_that_their_embeddings_lie_on() -> None:
    tags = Tags(scalar=True, attributes=(1,))
    tokenizer = TEXT.tokenizer([tags])
    mixture = Mixture(sources=(Source(corpus=TEXT, transforms=(tags,)),), tokenizer=tokenizer, sequence=15)
    ids = special_ids(tokenizer)
    assert mixture.lines == (tuple(ids[tag(1, value)] for value in range(3)),)
    assert replace(mixture, sources=(Source(corpus=TEXT, transforms=(Tags(),)),)).lines == ()
