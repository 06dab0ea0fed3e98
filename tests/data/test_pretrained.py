"""Tokenizers of released models: lossless, and without special tokens from text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from halflife.data import tokenizer_files
from halflife.data.codecs import load
from halflife.data.corpus import Corpus
from halflife.data.pretrained import prepare_tokenizer
from halflife.data.tokenizers import BPE, Bytes, Characters, Codec, Lexicon, Pretrained, Tokenizer, special_ids
from halflife.errors import UserError
from halflife.tasks.families import Family
from tests.data.samples import sample_corpus
from tests.models import tiny

SPECIAL = ["<unk>", "</s>"]


@pytest.fixture(scope="module")
def corpus(results: Path) -> Corpus:
    return sample_corpus(results)


def sentencepiece() -> tokenizers.Tokenizer:
    """Like Llama 2's tokenizer: a mark for spaces, also before every text, and byte fallback."""
    made = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*SPECIAL, *bytes_])
    made.train_from_iterator(tiny.TEXT * 20, trainer)
    spec = json.loads(made.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in SPECIAL]
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def metaspace() -> tokenizers.Tokenizer:
    """Unigram, like many multilingual models, with the mark for spaces before every text."""
    made = sentencepiece()
    made.normalizer = None
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    return made


def prefixed() -> tokenizers.Tokenizer:
    made = tiny.tokenizer()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return made


KINDS = {
    "byte-level": (tiny.tokenizer, tiny.ENDS),
    "byte-level with a space before": (prefixed, tiny.ENDS),
    "sentencepiece": (sentencepiece, "</s>"),
    "metaspace": (metaspace, "</s>"),
}


def folder(path: Path, made: tokenizers.Tokenizer, ends: str) -> Path:
    path.mkdir(exist_ok=True)
    made.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": ends}}))
    return path


@pytest.fixture(scope="module", params=KINDS)
def codec(request: pytest.FixtureRequest, results: Path, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    make, ends = KINDS[request.param]
    return load(prepare_tokenizer(folder(tmp_path_factory.mktemp("model"), make(), ends), results), results)


@given(text=st.text(st.characters(codec="utf-8")))
def test_what_was_encoded_decodes_to_the_same_text(codec: Codec, text: str) -> None:
    if "\u2581" in text:  # SentencePiece's own mark for the space
        return
    ids = codec.encode(text)
    assert ids.dtype == np.int64
    assert codec.decode(ids) == text
    assert codec.eos not in ids
    assert (ids < codec.size).all()


@pytest.mark.parametrize("text", [f"a{tiny.ENDS}b", "a</s>b", "<unk>", " cat", "cat"])
def test_text_that_spells_a_special_token_is_text(codec: Codec, text: str) -> None:
    assert codec.decode(codec.encode(text)) == text
    assert codec.eos not in codec.encode(text)


def test_an_answer_tokenised_separately_gets_no_prefix_space(codec: Codec) -> None:
    assert codec.decode(np.concatenate([codec.encode("the c"), codec.encode("at")])) == "the cat"


def test_many_texts_encode_as_each_alone(codec: Codec) -> None:
    for text, ids in zip(tiny.TEXT, codec.encode_many(tiny.TEXT), strict=True):
        np.testing.assert_array_equal(ids, codec.encode(text))


def test_identity_is_the_content_and_the_end_of_text_token(results: Path, tmp_path: Path) -> None:
    one = prepare_tokenizer(folder(tmp_path / "one", tiny.tokenizer(), tiny.ENDS), results)
    assert prepare_tokenizer(folder(tmp_path / "same", tiny.tokenizer(), tiny.ENDS), results) == one
    assert prepare_tokenizer(folder(tmp_path / "other", sentencepiece(), "</s>"), results) != one


@pytest.mark.parametrize("make", [tiny.tokenizer, metaspace])
def test_added_tokens_without_a_row_in_the_embedding_are_left_out_and_spelled_as_text(
    make: Callable[[], tokenizers.Tokenizer], results: Path, tmp_path: Path
) -> None:
    ends = tiny.ENDS if make is tiny.tokenizer else "</s>"
    rows = make().get_vocab_size()
    plain = prepare_tokenizer(folder(tmp_path / "plain", make(), ends), results)
    larger = make()
    larger.add_special_tokens(["[PAD]"])
    larger.add_tokens(["<infill>"])
    path = folder(tmp_path / "larger", larger, ends)
    assert prepare_tokenizer(path, results).vocabulary == rows + 2
    for config in ({"vocab_size": rows}, {"text_config": {"vocab_size": rows}}):
        (path / "config.json").write_text(json.dumps(config))
        tokenizer = prepare_tokenizer(path, results)
        assert tokenizer.vocabulary == load(tokenizer, results).size == rows
        for text in ["a[PAD]b", "<infill>", "the cat"]:
            ids = load(tokenizer, results).encode(text)
            assert load(tokenizer, results).decode(ids) == text
            assert ids.max() < rows
    assert tokenizer == plain
    (path / "config.json").write_text(json.dumps({"vocab_size": rows - 1}))  # a token of the vocabulary has no row
    assert prepare_tokenizer(path, results).vocabulary == rows


def test_a_lossy_tokenizer_is_refused(results: Path, tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(models.WordPiece(vocab={"[UNK]": 0, "a": 1}, unk_token="[UNK]"))  # pyright: ignore[reportCallIssue]
    made.add_special_tokens(["[UNK]"])
    with pytest.raises(UserError, match="WordPiece"):
        prepare_tokenizer(folder(tmp_path, made, "[UNK]"), results)


def test_a_tokenizer_without_an_end_of_text_token_is_refused(results: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no end-of-text token"):
        prepare_tokenizer(folder(tmp_path, tiny.tokenizer(), "<nothing>"), results)


def test_a_tokenizer_that_was_never_prepared_is_refused(results: Path) -> None:
    with pytest.raises(UserError, match="is not below"):
        load(Pretrained(digest="0" * 20, vocabulary=10), results)


EXPORTED = [
    "seven plus two equals nine\nthe ant meets the bear, enter the \u03b8 \u03b1 ~ (a@b)digits",
    *("def name(value):\n  return 2 + x_y  # café 😀\n", " the cat\tsat", *tiny.TEXT),
]


@pytest.mark.parametrize("special", [(), ("<0=1>", "<unknown>")])
@pytest.mark.parametrize("kind", ["bytes", "characters", "lexicon", "bpe", "pretrained"])
def test_exported_every_tokenizer_encodes_alike_in_hugging_faces_libraries(
    kind: str, special: tuple[str, ...], corpus: Corpus, results: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    model = folder(tmp_path / "model", tiny.tokenizer(), tiny.ENDS)
    given: dict[str, Tokenizer] = {
        "bytes": Bytes(),
        "characters": Characters(alphabet="".join(sorted(set("".join(EXPORTED))))),
        "lexicon": Lexicon(pieces=Family(kind="C").pieces),
        "bpe": BPE(corpus=corpus, vocabulary=300),
        "pretrained": prepare_tokenizer(model, results),
    }
    tokenizer, out = replace(given[kind], special=special), tmp_path / "out"
    ours = load(tokenizer, results)
    out.mkdir()
    tokenizer_files.write(tokenizer, results, out, 64)
    theirs = AutoTokenizer.from_pretrained(out)
    assert theirs.eos_token_id == ours.eos
    assert theirs.convert_tokens_to_ids(list(special)) == list(special_ids(tokenizer).values())
    for text in EXPORTED:
        assert theirs(text, add_special_tokens=False).input_ids == list(ours.encode(text))
        assert theirs.decode(ours.encode(text)) == text
    if kind == "characters":  # not a type that keeps any text
        return
    again = load(prepare_tokenizer(out, results), results)
    assert (again.size, again.eos) == (ours.size, ours.eos)
    assert all((again.encode(text) == ours.encode(text)).all() for text in EXPORTED)
