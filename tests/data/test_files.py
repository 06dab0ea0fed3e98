from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halflife.data import files
from halflife.data.corpus import Corpus, occurrences, prepare_corpus, read_documents, texts
from halflife.errors import UserError
from tests.data.samples import manifest, sample_corpus, sentences


def split_texts(results: Path, corpus: Corpus) -> dict[str, list[str]]:
    return {split: texts(results, corpus, split) for split in ("train", "validation", "test")}


def test_splits_cover_every_document_exactly_once(tmp_path: Path) -> None:
    corpus = sample_corpus(tmp_path)
    by_split = split_texts(tmp_path, corpus)
    together = [text for split in by_split.values() for text in split]
    assert sorted(together) == sorted(sentences(number, 20) for number in range(60))
    assert len(by_split["train"]) > len(by_split["validation"]) > 0 < len(by_split["test"])
    assert manifest(tmp_path, corpus)["documents"] == {name: len(of_split) for name, of_split in by_split.items()}


def test_copies_are_dropped_before_the_split(tmp_path: Path) -> None:
    rows = [sentences(number, 20) for number in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows + rows))
    corpus = prepare_corpus(str(tmp_path / "a.jsonl"), tmp_path)
    assert read_documents(tmp_path, corpus).height == 30


def test_the_three_formats_give_the_same_documents(tmp_path: Path) -> None:
    rows = [sentences(number, 40) for number in range(12)]
    for number, row in enumerate(rows):
        (tmp_path / f"{number:02}.txt").write_text(row)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": row}) + "\n\n" for row in rows))
    pl.DataFrame({"text": [*rows, None]}).write_parquet(tmp_path / "rows.parquet")
    made = [
        split_texts(tmp_path, prepare_corpus(str(tmp_path / name), tmp_path))
        for name in ("*.txt", "rows.jsonl", "rows.parquet")
    ]
    assert made[0] == made[1] == made[2]


def test_identity_is_names_and_contents_regardless_of_folder_order_and_repetition(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for name in ("a.txt", "b.txt"):
            (tmp_path / folder / name).write_text(sentences(ord(name[0]), 200))
    a, b, both = (str(tmp_path / "one" / name) for name in ("a.txt", "b.txt", "*.txt"))
    corpus = prepare_corpus(f"{a},{b}", tmp_path)
    assert corpus.label == "a.txt, b.txt"
    assert prepare_corpus(f"{b}, {a}, {both}", tmp_path) == corpus
    assert prepare_corpus(str(tmp_path / "two" / "*.txt"), tmp_path) == corpus
    Path(a).write_text(sentences(1, 200))
    assert prepare_corpus(both, tmp_path) != corpus


def test_an_existing_corpus_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = sample_corpus(tmp_path)
    monkeypatch.setattr(files, "read_documents", None)
    assert sample_corpus(tmp_path) == corpus


def test_a_long_text_is_cut_into_pieces_without_losing_text(tmp_path: Path) -> None:
    text = "\n\n".join(sentences(number, 30).rstrip("\n") for number in range(40))
    (tmp_path / "book.txt").write_text(text)
    corpus = prepare_corpus(str(tmp_path / "book.txt"), tmp_path)
    frame = read_documents(tmp_path, corpus)
    assert "".join("".join(frame["text"]).split()) == "".join(text.split())
    assert frame["text"].str.len_chars().max() < 2 * files.PIECE  # pyright: ignore[reportOperatorIssue]
    assert frame["name"].to_list() == [f"book.txt#{number}" for number in range(frame.height)]


@given(st.text(st.sampled_from("ab \n"), max_size=400))
def test_cutting_loses_nothing_but_blank_lines(text: str) -> None:
    assert "".join("".join(files.pieces(text)).split()) == "".join(text.split())


def test_occurrences_counts_in_all_splits(tmp_path: Path) -> None:
    corpus = sample_corpus(tmp_path)
    everything = "".join(read_documents(tmp_path, corpus)["text"])
    assert occurrences(tmp_path, corpus, " sun ") == everything.count(" sun ") > 0
    assert occurrences(tmp_path, corpus, " never there ") == 0


def test_broken_unicode_in_json_does_not_reach_the_corpus(tmp_path: Path) -> None:
    rows = [sentences(number, 20) + "\ud83d" for number in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    corpus = prepare_corpus(str(tmp_path / "a.jsonl"), tmp_path)
    assert all(text.endswith("?") for text in texts(tmp_path, corpus, "train"))


def written(folder: Path, name: str, content: bytes | pl.DataFrame) -> str:
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.write_parquet(path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"text", "expected a file ending in .txt, .jsonl, .parquet"),
        ("a.txt", b"", "0 characters without copies are too few to split"),
        ("a.txt", b"a few words", "12 characters without copies are too few to split"),
        ("a.txt", b"latin \xe9", "expected UTF-8 text, byte 6 is not"),
        ("a.jsonl", b'{"text": "ok"}\n{"words": "no"}', 'line 2: expected a JSON object with a string field "text"'),
        ("a.jsonl", b'{"text": 3}', 'line 1: expected a JSON object with a string field "text"'),
        ("a.jsonl", b'["text"]', "line 1: expected a JSON object"),
        ("a.jsonl", b"{text", "line 1: expected a JSON object, "),
        ("a.parquet", b"not parquet", "cannot be read as parquet"),
        ("a.parquet", pl.DataFrame({"words": ["x"]}), r'columns words \(String\): expected a string column "text"'),
        ("a.parquet", pl.DataFrame({"text": [1]}), r'columns text \(Int64\): expected a string column "text"'),
    ],
)
def test_invalid_corpus_files_are_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes | pl.DataFrame, message: str
) -> None:
    with pytest.raises(UserError, match=message) as error:
        prepare_corpus(written(tmp_path, name, content), tmp_path / "results")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("spec", ["nothing/*.txt", "python-sources", "", " , "])
def test_a_name_that_matches_nothing_is_refused(spec: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file; expected python-source|names no file"):
        prepare_corpus(spec, tmp_path)


def test_a_folder_is_refused_and_the_error_suggests_a_glob(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it is a folder; name its files, as in .*/\*\.txt"):
        prepare_corpus(str(tmp_path), tmp_path)


def test_the_error_for_a_missing_corpus_names_it_and_its_expected_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"corpus poems is not below .*corpora"):
        texts(tmp_path, Corpus(digest="abc", label="poems"), "train")
