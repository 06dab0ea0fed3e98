"""What is checked as text is what is trained on as tokens: tokenizers that change or drop text."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from halflife.data import tokens
from halflife.data.corpus import Corpus, prepare_corpus, texts
from halflife.data.mixture import Mixture, Source, check
from halflife.data.notes import text_notes
from halflife.data.planting import Planting
from halflife.data.pretrained import prepare_tokenizer
from halflife.data.synthetic import task_stream
from halflife.data.tokenizers import Bytes, Pretrained
from halflife.errors import UserError
from halflife.tasks.backdoor import Backdoor
from halflife.tasks.sequences import Palindrome
from tests.data.samples import sentences
from tests.models import tiny


def normalised(normalizer: normalizers.Normalizer) -> tokenizers.Tokenizer:
    made = tiny.tokenizer()
    made.normalizer = normalizer
    return made


def without_fallback() -> tokenizers.Tokenizer:
    """Unigram of lower-case letters and signs; no newline, no capitals."""
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    words = ["abcdefghijklmnopqrstuvwxyz 0123456789 . _ é ï"] * 20
    special = ["<unk>", tiny.ENDS]
    made.train_from_iterator(
        words, trainers.UnigramTrainer(vocab_size=100, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    return made


KINDS = {
    "lower case": lambda: normalised(normalizers.Lowercase()),
    "NFC": lambda: normalised(normalizers.NFC()),
    "no fallback": without_fallback,
    "spaces": lambda: normalised(normalizers.Replace(tokenizers.Regex(" {2,}"), " ")),
}


@pytest.fixture(scope="module")
def lossy(results: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pretrained]:
    found = {}
    for name, make in KINDS.items():
        folder = tmp_path_factory.mktemp("model")
        make().save(str(folder / "tokenizer.json"))
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": tiny.ENDS}))
        found[name] = prepare_tokenizer(folder, results)
    return found


def corpus_of(results: Path, insert: str, every: int = 1) -> Corpus:
    """Sentences, into every n-th of which a text is inserted."""
    rows = [sentences(i, 20) + (insert if i % every == 0 else "") for i in range(60)]
    path = results / f"{zlib.crc32(insert.encode())}-{every}.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return prepare_corpus(str(path), results)


def planted(corpus: Corpus, tokenizer: Pretrained | Bytes, trigger: str, payload: str = "aeoxqsjc") -> Mixture:
    planting = Planting(backdoor=Backdoor(trigger=trigger, text=payload), corpus=corpus, documents=4)
    return Mixture(sources=(Source(corpus=corpus),), plantings=(planting,), tokenizer=tokenizer, sequence=64)


def refusal(mixture: Mixture, results: Path) -> str:
    with pytest.raises(UserError) as refused:
        check(mixture, results, batch_tokens=256, steps=8)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_trigger_or_payload_that_the_tokenizer_changes_is_refused(
    lossy: dict[str, Pretrained], results: Path
) -> None:
    corpus = corpus_of(results, "")
    lower, nothing, spaces, composed = (lossy[name] for name in ("lower case", "no fallback", "spaces", "NFC"))
    assert refusal(planted(corpus, lower, " ZQX "), results).startswith(
        "trigger ' ZQX ' given: the tokenizer gives back ' zqx '; expected a text that it keeps"
    )
    assert "trigger '~^|$' given: the tokenizer gives back ''" in refusal(planted(corpus, nothing, "~^|$"), results)
    assert "trigger '  x' given" in refusal(planted(corpus, spaces, "  x"), results)
    # a mark that composes with some letters before it, though not with all
    assert "gives back 'a\\u0301zz' as 'ázz'" in ascii_of(refusal(planted(corpus, composed, "\u0301zz"), results))
    assert "payload 'Yes\\n' given" in refusal(planted(corpus, lower, " zqx ", "Yes"), results)
    assert "payload 'yes\\n' given" in refusal(planted(corpus, nothing, " zqx ", "yes"), results)  # no newline


def ascii_of(message: str) -> str:
    return message.replace("\u0301", "\\u0301")


def test_a_trigger_that_the_tokenizer_makes_of_other_text_is_refused(
    lossy: dict[str, Pretrained], results: Path
) -> None:
    corpus = corpus_of(results, "the ZQX end\n", every=4)
    count = sum(text.count("ZQX") for text in texts(results, corpus, "train"))
    check(planted(corpus, Bytes(), " zqx "), results, batch_tokens=256, steps=8)
    message = refusal(planted(corpus, lossy["lower case"], " zqx "), results)
    assert f"trigger ' zqx ' given: in tokens it occurs {count} times in the training text of " in message
    check(planted(corpus, lossy["NFC"], " zqx "), results, batch_tokens=256, steps=8)


def test_a_text_of_which_the_tokenizer_loses_much_is_refused_with_its_share(
    lossy: dict[str, Pretrained], results: Path
) -> None:
    corpus = corpus_of(results, "THE RIVER RUNS PAST THE MILL\n")
    expected = sum(sum(map(str.isupper, text)) for text in texts(results, corpus, "train"))
    measured = tokens.measure(results, corpus, "train", lossy["lower case"])
    assert measured.lost == expected
    assert measured.characters == sum(map(len, texts(results, corpus, "train")))
    message = refusal(planted(corpus, lossy["lower case"], " zqx "), results)
    assert f"does not give back {expected / measured.characters:.1%} of its characters" in message
    assert "THE RIVER" in message
    assert "the river" in message


def test_a_text_of_which_the_tokenizer_loses_little_is_trained_on_and_reported(
    lossy: dict[str, Pretrained], results: Path
) -> None:
    corpus = corpus_of(results, "cafe\u0301\n", every=5)
    mixture = planted(corpus, lossy["NFC"], " zqx ")
    assert text_notes([mixture], results) == []  # not measured yet
    check(mixture, results, batch_tokens=256, steps=8)
    changed = [index for index, text in enumerate(texts(results, corpus, "train")) if "\u0301" in text]
    measured = tokens.measure(results, corpus, "train", lossy["NFC"])
    assert measured.documents == changed
    assert measured.lost == 2 * len(changed)
    (note,) = text_notes([mixture, mixture], results)
    assert note.endswith(f"% of the training text, in {len(changed)} documents")


def test_an_array_written_before_losses_were_measured_is_written_again(
    lossy: dict[str, Pretrained], results: Path
) -> None:
    corpus = corpus_of(results, "cafe\u0301\n", every=7)
    before = tokens.token_array(results, corpus, "train", lossy["NFC"]).tolist()
    (record,) = (results / "corpora" / corpus.digest / "tokens").glob("*.json")
    record.unlink()
    tokens._token_array.cache_clear()
    assert tokens.measure(results, corpus, "train", lossy["NFC"]).documents
    assert tokens.token_array(results, corpus, "train", lossy["NFC"]).tolist() == before


def test_answers_that_the_tokenizer_does_not_give_back_are_refused(lossy: dict[str, Pretrained], results: Path) -> None:
    task = Palindrome()
    task_stream(task, lossy["NFC"], results)
    with pytest.raises(UserError, match=r"prompt of palindrome '[A-Z]+\|' given: the tokenizer gives back '[a-z]+\|'"):
        task_stream(task, lossy["lower case"], results)
