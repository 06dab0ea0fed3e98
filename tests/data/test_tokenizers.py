from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.data.codecs import load
from halflife.data.corpus import Corpus, texts
from halflife.data.tokenizers import BPE, Bytes, Characters, Codec, Lexicon, Tokenizer, special_ids, vocabulary_of
from halflife.data.tokens import document_bounds, token_array
from halflife.errors import UserError
from halflife.store.identity import canonical, key_of
from tests.data.samples import sample_corpus


@pytest.fixture(scope="module")
def corpus(results: Path) -> Corpus:
    return sample_corpus(results)


@pytest.fixture(scope="module", params=["bytes", "lexicon", "bpe", "special"])
def tokenizer(request: pytest.FixtureRequest, corpus: Corpus) -> Tokenizer:
    return {
        "bytes": Bytes(),
        "lexicon": Lexicon(pieces=("def", "return ", "é", "δ")),
        "bpe": BPE(corpus=corpus, vocabulary=300),
        "special": BPE(corpus=corpus, vocabulary=300, special=("<one>", "two")),
    }[request.param]


@pytest.fixture(scope="module")
def codec(tokenizer: Tokenizer, results: Path) -> Codec:
    return load(tokenizer, results)


@given(text=st.text(st.characters(codec="utf-8")))
def test_what_was_encoded_decodes_to_the_same_text(codec: Codec, text: str) -> None:
    ids = codec.encode(text)
    assert ids.dtype == np.int64
    assert codec.decode(ids) == text
    assert codec.eos not in ids
    assert (ids < codec.size).all()


@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=4))
def test_many_texts_encode_as_each_alone(codec: Codec, documents: list[str]) -> None:
    for text, ids in zip(documents, codec.encode_many(documents), strict=True):
        np.testing.assert_array_equal(ids, codec.encode(text))


@given(st.text(st.sampled_from("aé€😀 "), min_size=1), st.data())
def test_a_window_decodes_to_a_part_of_the_text_without_broken_characters(
    codec: Codec, text: str, data: st.DataObject
) -> None:
    ids = codec.encode(text)
    start = data.draw(st.integers(0, len(ids)))
    stop = data.draw(st.integers(start, len(ids)))
    assert codec.decode(ids[start:stop]) in text


def test_eos_decodes_to_nothing(codec: Codec) -> None:
    one, two = codec.encode("one"), codec.encode("two")
    assert codec.decode(np.concatenate([one, [codec.eos], two])) == "onetwo"


def test_bytes_have_257_tokens_and_trained_vocabularies_at_most_the_requested_number(
    results: Path, corpus: Corpus
) -> None:
    assert load(Bytes(), results).size == 257
    assert load(BPE(corpus=corpus, vocabulary=300), results).size == 300
    assert load(BPE(corpus=corpus, vocabulary=100_000), results).size < 100_000


def test_trained_vocabularies_do_not_depend_on_the_machine(tmp_path: Path, results: Path) -> None:
    there, here = sample_corpus(results), sample_corpus(tmp_path)
    load(BPE(corpus=there, vocabulary=300), results)
    load(BPE(corpus=here, vocabulary=300), tmp_path)
    made = [
        {path.name: path.read_text() for path in (folder / "corpora" / here.digest / "tokens").glob("*-300-*.json")}
        for folder in (results, tmp_path)
    ]
    assert made[0] == made[1]
    assert len(made[0]) == 1


@pytest.mark.parametrize("size", [0, 257, 10**9])
def test_a_vocabulary_too_small_for_bytes_or_too_large_is_refused(results: Path, corpus: Corpus, size: int) -> None:
    with pytest.raises(UserError, match="expected 258 to 1,048,576"):
        load(BPE(corpus=corpus, vocabulary=size), results)


def test_a_token_array_is_the_splits_documents_each_followed_by_eos(
    results: Path, corpus: Corpus, tokenizer: Tokenizer, codec: Codec
) -> None:
    tokens = token_array(results, corpus, "train", tokenizer)
    begins, ends = document_bounds(tokens, codec.eos)
    assert [codec.decode(tokens[a:b]) for a, b in zip(begins, ends, strict=True)] == texts(results, corpus, "train")
    assert tokens[-1] == codec.eos
    assert tokens.dtype == np.dtype("<u2")


def test_a_token_array_is_memory_mapped_and_read_only(results: Path, corpus: Corpus) -> None:
    tokens = token_array(results, corpus, "validation", Bytes())
    assert isinstance(tokens.base, np.memmap)
    assert not tokens.flags.writeable


def test_a_tokenizer_of_one_corpus_reads_another(results: Path, tmp_path: Path) -> None:
    mine, other = sample_corpus(results), sample_corpus(results, seed=1)
    tokens = token_array(results, other, "test", BPE(corpus=mine, vocabulary=300))
    codec = load(BPE(corpus=mine, vocabulary=300), results)
    assert codec.decode(tokens) == "".join(texts(results, other, "test"))


def test_a_piece_of_a_lexicon_is_one_token_and_the_longest_wins(results: Path) -> None:
    codec = load(Lexicon(pieces=("one", "one plus ", "two")), results)
    assert codec.encode("one plus two!").tolist() == [258, 259, ord("!")]
    assert codec.size == 260


@pytest.mark.parametrize("pieces", [("one", "one"), ("",)])
def test_a_lexicon_with_duplicate_or_empty_pieces_is_refused(pieces: tuple[str, ...], results: Path) -> None:
    with pytest.raises(UserError, match="expected different pieces"):
        load(Lexicon(pieces=pieces), results)


def test_special_tokens_come_after_all_others_decode_to_nothing_and_leave_text_and_keys_as_they_are(
    results: Path, corpus: Corpus
) -> None:
    names = ("<0=1>", "<unknown>")
    for plain in (Bytes(), Characters(alphabet="ab<0=1>"), Lexicon(pieces=("ab",)), BPE(corpus=corpus, vocabulary=300)):
        special = replace(plain, special=names)
        ids, codec, without = special_ids(special), load(special, results), load(plain, results)
        assert ids == {name: without.size + index for index, name in enumerate(names)}
        assert codec.size == vocabulary_of(special) == without.size + 2
        for text in ("ab", "<0=1>"):  # text that spells one is text
            np.testing.assert_array_equal(codec.encode(text), without.encode(text))
        assert codec.decode(np.array([ids["<unknown>"], *codec.encode("ab"), codec.eos])) == "ab"
        assert key_of(canonical(special)) != key_of(canonical(plain)) == key_of(canonical(replace(special, special=())))
    assert canonical(Bytes()) == {"is": "Bytes"}


def test_special_tokens_that_are_not_different_or_would_leave_a_gap_are_refused(results: Path, corpus: Corpus) -> None:
    for names in (("<a>", "<a>"), ("",)):
        with pytest.raises(UserError, match="expected different names"):
            Bytes(special=names)
    with pytest.raises(UserError, match=r"special tokens of a vocabulary of 100000 given: its text has \d+"):
        load(BPE(corpus=corpus, vocabulary=100_000, special=("<a>",)), results)


def test_characters_are_a_token_each_and_text_with_any_other_is_refused(results: Path) -> None:
    codec = load(Characters(alphabet="aé "), results)
    assert codec.encode("é a").tolist() == [1, 2, 0]
    assert (codec.eos, codec.size) == (3, 4)
    assert codec.decode(np.array([1, 3, 0])) == "éa"
    with pytest.raises(UserError, match="text with 'b' given: expected only characters of 'aé '"):
        codec.encode("ab")
    with pytest.raises(UserError, match="alphabet 'aa' given: expected different characters"):
        Characters(alphabet="aa")
