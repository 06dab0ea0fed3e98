from __future__ import annotations

import gzip
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


def test_compressed_files_arrays_marks_and_missing_or_categorical_texts_give_the_same_documents(tmp_path: Path) -> None:
    rows = [json.loads(line)["text"] for line in LINES.splitlines()]
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(LINES[:900]) + gzip.compress(LINES[900:]))
    (tmp_path / "array.json").write_text(json.dumps([{"text": row, "n": 1} for row in rows], indent=1))
    (tmp_path / "strings.json").write_text(json.dumps(rows), encoding="utf-8-sig")
    (tmp_path / "mark.jsonl").write_bytes(b"\xef\xbb\xbf" + LINES + b'{"text": null}\n')
    kind = pl.DataFrame({"text": [*rows, None]}).with_columns(pl.col("text").cast(pl.Categorical))
    kind.write_parquet(tmp_path / "categorical.parquet")
    pl.DataFrame({"text": [None, None]}).write_parquet(tmp_path / "nothing.parquet")
    (tmp_path / "lines.jsonl").write_bytes(LINES)
    expected = split_texts(tmp_path, prepare_corpus(str(tmp_path / "lines.jsonl"), tmp_path))
    for name in ("lines.jsonl.gz", "array.json", "strings.json", "mark.jsonl", "categorical.parquet"):
        spec = f"{tmp_path}/{name},{tmp_path}/nothing.parquet"
        assert split_texts(tmp_path, prepare_corpus(spec, tmp_path)) == expected, name


def test_a_byte_order_mark_of_a_text_file_is_no_text(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(sentences(ord(name[0]), 200), encoding="utf-8-sig")
    corpus = prepare_corpus(str(tmp_path / "*.txt"), tmp_path)
    assert not read_documents(tmp_path, corpus)["text"].str.contains("\ufeff").any()
    (tmp_path / "plain.txt").write_text(sentences(1, 200) + "é" * (files.PIECE // 2 + 1))
    (tmp_path / "wide.txt").write_text("é" * (files.PIECE + 1))
    versions = [file.version for file in files.find(str(tmp_path / "*.txt"))]
    marked, plain = files.TEXT_VERSION, files.READING_VERSION  # other texts keep their identity
    assert versions == [marked, marked, plain, marked]


def test_a_chat_is_read_as_lines_of_its_roles(tmp_path: Path) -> None:
    others = [[{"from": "human", "value": sentences(number, 40)}] for number in range(12)]
    rows = [{"messages": CHAT}, *({"conversations": turns} for turns in others)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_documents(tmp_path, prepare_corpus(str(tmp_path / "chats.jsonl"), tmp_path))["text"].to_list()
    assert found == ["user: Which river?\nassistant: One.", *(f"human: {turns[0]['value']}" for turns in others)]
    pl.DataFrame({"conversations": others}).write_parquet(tmp_path / "chats.parquet")
    stored = read_documents(tmp_path, prepare_corpus(str(tmp_path / "chats.parquet"), tmp_path))["text"].to_list()
    assert stored == found[1:]


@pytest.mark.parametrize("name", ["a[1].txt", "[old], new/a.txt", "run,2@home.txt", "what?.txt"])
def test_a_path_that_exists_is_taken_as_it_stands(name: str, tmp_path: Path) -> None:
    path, plain = tmp_path / name, tmp_path / "plain.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(sentences(1, 200))
    plain.write_text(sentences(2, 200))
    assert [file.path for file in files.find(str(path))] == [path]
    assert [file.path for file in files.find(f"{plain}, {path}")] == [plain, path]
    assert [file.path for file in files.find(f"{path.parent}/*.txt")] == sorted(path.parent.glob("*.txt"))


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


@pytest.mark.parametrize("space", [" ", ""])
def test_a_text_of_one_long_line_is_cut_at_spaces_or_else_anywhere(space: str, tmp_path: Path) -> None:
    text = space.join(f"w{number}" for number in range(5000))
    (tmp_path / "line.txt").write_text(text)
    found = read_documents(tmp_path, prepare_corpus(str(tmp_path / "line.txt"), tmp_path))["text"].to_list()
    assert "".join("".join(found).split()) == text.replace(" ", "")
    assert max(map(len, found)) <= files.PIECE + files.PART + 1
    if space:
        assert [word for piece in found for word in piece.split()] == text.split()


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


LINES = "".join(json.dumps({"text": sentences(number, 40)}) + "\n" for number in range(12)).encode()
CHAT = [
    {"role": "user", "content": "Which river?"},
    {"role": "assistant", "content": [{"type": "text", "text": "One."}]},
]


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
        ("a.csv", b"text", "expected a file ending in .txt, .jsonl, .json, .parquet"),
        ("a.txt", b"", "0 characters without copies are too few to split"),
        ("a.txt", b"a few words", "12 characters without copies are too few to split"),
        ("a.txt", b"latin \xe9", "expected UTF-8 text, byte 6 is not"),
        ("a.jsonl", b'{"text": "ok"}\n{"words": "no"}', 'line 2: expected a JSON object with a string field "text"'),
        ("a.jsonl", b'{"text": 3}', 'line 1: expected a JSON object with a string field "text"'),
        ("a.jsonl", b"[3]", "item 1: expected a JSON object"),
        ("a.jsonl", b'["text"]\n["more"]', "line 2: expected one JSON array, extra data"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": "latin \xe9"}', "line 2: expected UTF-8 text"),
        ("a.jsonl", b'{"text": "ok"}\n{"text": "half', "line 2: expected a JSON object, unterminated string"),
        (
            "a.jsonl.gz",
            gzip.compress(LINES)[:-20],
            "a.jsonl.gz given: it cannot be read as jsonl .Compressed file ended",
        ),
        ("a.txt.gz", b"no gzip", "a.txt.gz given: it cannot be read as txt"),
        ("a.jsonl", b"{text", "line 1: expected a JSON object, "),
        ("a.parquet", b"not parquet", "a.parquet given: it cannot be read as parquet"),
        ("a.parquet", pl.DataFrame({"words": ["x"]}), r'columns words \(string\): expected a string column "text"'),
        ("a.parquet", pl.DataFrame({"text": [1]}), r'columns text \(int64\): expected a string column "text"'),
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
