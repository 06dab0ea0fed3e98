"""Hugging Face datasets as corpora: their own splits or ours, the limit, and errors in one line."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from halflife.data import corpus as corpora
from halflife.data import hugging_face
from halflife.data.corpus import occurrences, prepare_corpus, read_documents, texts
from halflife.data.hugging_face import DEFAULT_BYTES, parse
from halflife.data.mixture import Mixture, Source
from halflife.data.notes import text_notes
from halflife.data.tokenizers import Bytes
from halflife.data.tokens import token_array
from halflife.errors import UserError
from tests.data.samples import manifest

datasets = pytest.importorskip("datasets", reason="needs the extra hf")

ROWS = [f"document {i}: " + " ".join(f"word{i * j % 401}" for j in range(30)) for i in range(400)]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Specs of folders by their content."""
    root = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()
    make = datasets.Dataset.from_dict
    make({"text": ROWS, "n": list(range(400))}).save_to_disk(root / "saved")
    make({"story": ROWS, "n": list(range(400))}).save_to_disk(root / "story")
    make({"question": ROWS, "answer": ROWS}).save_to_disk(root / "two")
    make({"n": list(range(400))}).save_to_disk(root / "numbers")
    parts = {"train": ROWS[:300], "validation": ROWS[300:350], "test": ROWS[350:]}
    datasets.DatasetDict({name: make({"text": part}) for name, part in parts.items()}).save_to_disk(root / "splits")
    make({"text": ROWS[:10]}).save_to_disk(root / "small")
    (root / "parquet").mkdir()
    make({"text": ROWS}).to_parquet(root / "parquet" / "train.parquet")
    (root / "lines").mkdir()
    (root / "lines" / "train.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in ROWS))
    (root / "empty").mkdir()
    return {path.name: f"hf:{path}" for path in root.iterdir()}


@pytest.mark.parametrize("kind", ["saved", "parquet", "lines", "story"])
def test_the_splits_do_not_depend_on_the_format(kind: str, saved: dict[str, str], tmp_path: Path) -> None:
    corpus = prepare_corpus(saved[kind], tmp_path)
    found = {split: set(texts(tmp_path, corpus, split)) for split in corpora.SPLITS}
    assert set.union(*found.values()) == set(ROWS)
    assert sum(map(len, found.values())) == len(ROWS)
    assert 10 <= len(found["validation"]) <= 40
    reference = prepare_corpus(saved["saved"], tmp_path)
    assert found["validation"] == set(texts(tmp_path, reference, "validation"))


def test_a_datasets_own_splits_are_kept(saved: dict[str, str], tmp_path: Path) -> None:
    corpus = prepare_corpus(saved["splits"], tmp_path)
    assert texts(tmp_path, corpus, "train") == ROWS[:300]
    assert texts(tmp_path, corpus, "test") == ROWS[350:]


def test_what_a_datasets_splits_share_is_left_out_of_train_and_counted(tmp_path: Path) -> None:
    """Copies but for spaces and case, a changed word, a longer text around a held-out one; test before validation."""
    words = ROWS[360].split()
    near = [" ".join([*words[:9], "else", *words[10:]]), f"{ROWS[0]} {ROWS[361]}"]
    copies = [*ROWS[350:355], ROWS[355].upper(), ROWS[356].replace(" ", "  \n")]
    parts = {"train": [*ROWS[:300], *near, *copies, ROWS[310]], "validation": ROWS[300:352], "test": ROWS[350:]}
    dataset = {name: datasets.Dataset.from_dict({"text": rows}) for name, rows in parts.items()}
    datasets.DatasetDict(dataset).save_to_disk(tmp_path / "leaky")
    corpus = prepare_corpus(f"hf:{tmp_path}/leaky", tmp_path)
    assert [texts(tmp_path, corpus, name) for name in corpora.SPLITS] == [ROWS[:300], ROWS[300:350], ROWS[350:]]
    left_out = manifest(tmp_path, corpus)["left_out"]
    assert left_out == {"train": {"copies": 8, "near copies": 2}, "validation": {"copies": 2, "near copies": 0}}
    assert text_notes([Mixture(sources=(Source(corpus=corpus),))], tmp_path) == [
        "leaky: 10 documents of train are left out, as copies (8) or near copies (2) of held-out ones",
        "leaky: 2 documents of validation are left out, as copies (2) or near copies (0) of held-out ones",
    ]


def test_a_dataset_whose_splits_share_nothing_keeps_its_identity_and_is_read_once(
    saved: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = prepare_corpus(saved["splits"], tmp_path)
    assert corpus.digest == hugging_face.digests_of(parse(saved["splits"]), tmp_path)[0]
    path = corpora.corpus_folder(tmp_path, corpus) / "manifest.json"
    path.write_text(
        json.dumps({name: value for name, value in manifest(tmp_path, corpus).items() if name != "left_out"})
    )
    assert prepare_corpus(saved["splits"], tmp_path) == corpus  # stored before splits were compared: read again
    assert manifest(tmp_path, corpus)["left_out"] == {}
    monkeypatch.setattr(hugging_face, "read_documents", None)
    assert prepare_corpus(saved["splits"], tmp_path) == corpus


def test_splits_that_are_too_small_without_what_they_share_are_refused(tmp_path: Path) -> None:
    dataset = {name: datasets.Dataset.from_dict({"text": ROWS[:20]}) for name in corpora.SPLITS}
    datasets.DatasetDict(dataset).save_to_disk(tmp_path / "same")
    with pytest.raises(UserError, match=r"train 0, .* bytes without the \d+ documents that they share"):
        prepare_corpus(f"hf:{tmp_path}/same", tmp_path)


def lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_columns_that_are_not_needed_may_differ_between_files_and_rows(tmp_path: Path) -> None:
    folder = tmp_path / "files [old], v@2"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(
        b"\xef\xbb\xbf" + lines([{"text": row, "n": i or "none"} for i, row in enumerate(ROWS[:150])])
    )
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines([{"text": row, "lang": [1]} for row in ROWS[150:300]])))
    (folder / "c.json").write_text(json.dumps([{"text": row} for row in ROWS[300:]] + [{"text": None}]))
    corpus = prepare_corpus(f"hf:{folder}::train?bytes=1m", tmp_path)
    assert set(read_documents(tmp_path, corpus)["text"]) == set(ROWS)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved"])
def test_a_chat_is_the_text_of_a_dataset_without_another(kind: str, tmp_path: Path) -> None:
    rows = [
        {"n": i, "messages": [{"role": "user", "content": row}, {"role": "assistant", "content": "Yes."}]}
        for i, row in enumerate(ROWS)
    ]
    folder = tmp_path / kind
    folder.mkdir()
    if kind == "jsonl":
        (folder / "a.jsonl").write_bytes(lines(rows))
    elif kind == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(folder / "a.parquet")
    else:
        datasets.Dataset.from_list(rows).save_to_disk(folder)
    corpus = prepare_corpus(f"hf:{folder}", tmp_path)
    assert set(read_documents(tmp_path, corpus)["text"]) == {f"user: {row}\nassistant: Yes." for row in ROWS}


def test_a_table_a_categorical_column_and_a_file_without_any_text_are_read(tmp_path: Path) -> None:
    for name in ("table", "parquet"):
        (tmp_path / name).mkdir()
    frame = pl.DataFrame({"text": [*ROWS, None], "n": range(401)})
    frame.write_csv(tmp_path / "table" / "a.csv")
    frame.with_columns(pl.col("text").cast(pl.Categorical)).write_parquet(tmp_path / "parquet" / "b.parquet")
    pl.DataFrame({"text": [None, None]}).write_parquet(tmp_path / "parquet" / "a.parquet")
    for name in ("table", "parquet"):
        assert set(read_documents(tmp_path, prepare_corpus(f"hf:{tmp_path}/{name}", tmp_path))["text"]) == set(ROWS)


def parquet(rows: list[str]) -> bytes:
    stream = io.BytesIO()
    pl.DataFrame({"text": rows}).write_parquet(stream, compression="uncompressed")
    return stream.getvalue()


WHOLE = lines([{"text": row} for row in ROWS])


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("b.jsonl", WHOLE + b'{"text": "ha', "b.jsonl, line 401: expected a JSON object"),
        ("b.jsonl", lines([{"text": "one"}, {"text": 3}]), "b.jsonl, line 2: expected a string or a chat"),
        ("b.jsonl.gz", gzip.compress(WHOLE)[:-30], "b.jsonl.gz given: .* file ended"),
        ("b.json", b'[{"text": "one"},', "b.json, line 1: expected one JSON array"),
        ("b.jsonl", b"\xff\xfe", "b.jsonl, line 1: expected UTF-8"),
    ],
)
def test_damaged_files_of_a_dataset_are_refused_by_name(name: str, content: bytes, line: str, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(WHOLE)
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=line) as refused:
        prepare_corpus(f"hf:{folder}", tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("damage", [lambda data: data[:-40], lambda data: data[:1000] + bytes(900) + data[1900:]])
def test_a_damaged_parquet_file_is_refused_by_name(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "a.parquet").write_bytes(parquet(ROWS))
    (folder / "b.parquet").write_bytes(damage(parquet(ROWS)))
    with pytest.raises(UserError, match=r"b\.parquet given: it cannot be read as parquet") as refused:
        prepare_corpus(f"hf:{folder}", tmp_path)
    assert "\n" not in str(refused.value)


def test_a_cut_file_of_a_saved_dataset_is_refused_in_one_line(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ROWS}).save_to_disk(tmp_path / "cut")
    path = next((tmp_path / "cut").glob("*.arrow"))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"/cut' given: .*cannot be read") as refused:
        prepare_corpus(f"hf:{tmp_path}/cut", tmp_path)
    assert "\n" not in str(refused.value)


def test_a_dataset_whose_hashes_leave_a_split_too_small_is_split_as_files_are(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ROWS[:40]}).save_to_disk(tmp_path / "few")
    corpus = prepare_corpus(f"hf:{tmp_path}/few", tmp_path)
    assert set(read_documents(tmp_path, corpus)["text"]) == set(ROWS[:40])
    assert min(manifest(tmp_path, corpus)["characters"].values()) >= 1000


def test_a_single_named_split_is_divided_into_three(saved: dict[str, str], tmp_path: Path) -> None:
    corpus = prepare_corpus(saved["splits"] + "::train", tmp_path)
    assert set(read_documents(tmp_path, corpus)["text"]) == set(ROWS[:300])
    assert min(manifest(tmp_path, corpus)["characters"].values()) >= 1000


def test_reading_stops_at_the_limit(saved: dict[str, str], tmp_path: Path) -> None:
    part = prepare_corpus(saved["saved"] + "?bytes=40k", tmp_path)
    whole = prepare_corpus(saved["saved"], tmp_path)
    assert part != whole
    assert 35_000 < sum(manifest(tmp_path, part)["characters"].values()) <= 40_000
    kept = set(texts(tmp_path, part, "validation"))
    assert kept <= set(texts(tmp_path, whole, "validation"))


def test_the_digest_is_of_the_contents_regardless_of_the_path(saved: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    source = Path(saved["parquet"].removeprefix("hf:")) / "train.parquet"
    (tmp_path / "moved" / "train.parquet").write_bytes(source.read_bytes())
    assert prepare_corpus(f"hf:{tmp_path}/moved", tmp_path) == prepare_corpus(saved["parquet"], tmp_path)


def test_repeated_documents_are_dropped(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": ROWS * 2}).save_to_disk(tmp_path / "twice")
    corpus = prepare_corpus(f"hf:{tmp_path}/twice", tmp_path)
    assert sum(manifest(tmp_path, corpus)["documents"].values()) == len(ROWS)


def test_a_corpus_in_many_row_groups_is_the_same_corpus(
    saved: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = prepare_corpus(saved["saved"], tmp_path / "one")
    monkeypatch.setattr(corpora, "GROUP_CHARACTERS", 5_000)
    monkeypatch.setattr(corpora, "CACHED_BYTES", 0)
    many = prepare_corpus(saved["saved"], tmp_path / "many")
    assert manifest(tmp_path / "many", many)["content"] == manifest(tmp_path / "one", one)["content"]
    for split in corpora.SPLITS:
        arrays = [token_array(tmp_path / name, one, split, Bytes()) for name in ("one", "many")]
        np.testing.assert_array_equal(arrays[0], arrays[1])
    count = sum(row.count("word3") for row in ROWS)
    assert occurrences(tmp_path / "many", many, "word3") == occurrences(tmp_path / "one", one, "word3") == count


@pytest.mark.parametrize(
    ("kind", "more", "line"),
    [
        ("two", "", r"question \(string\), answer \(string\).*#question"),
        ("numbers", "", r"its columns are n \(int64\)"),
        ("two", "#n", "no text column 'n'"),
        ("splits", ":x:nowhere", "train, validation, test"),
        ("small", "", "too few to split; expected at least 1,000"),
        ("empty", "", "no data in this folder"),
        ("saved", "?bytes=10", "at least 3,000 bytes"),
        ("saved", "?lines=10", r"expected hf:NAME"),
    ],
)
def test_unreadable_datasets_are_refused_in_one_line(
    kind: str, more: str, line: str, saved: dict[str, str], tmp_path: Path
):
    with pytest.raises(UserError, match=line) as refused:
        prepare_corpus(saved[kind] + more, tmp_path)
    assert "\n" not in str(refused.value)
    assert not [path for path in (tmp_path / "corpora").glob("*") if path.is_dir()]


def test_a_name_without_a_network_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route\nat all")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", unreachable)
    with pytest.raises(UserError, match="no route") as refused:
        prepare_corpus("hf:someone/stories", tmp_path)
    assert "\n" not in str(refused.value)


def test_every_part_of_a_spec_is_read() -> None:
    full = parse("hf:someone/stories@v2:en:train#story?bytes=1.5g")
    assert (full.source, full.revision, full.config, full.split, full.column, full.max_bytes) == (
        "someone/stories", "v2", "en", "train", "story", 1_500_000_000,
    )  # fmt: skip
    assert parse("hf:someone/stories").max_bytes == DEFAULT_BYTES
    assert (parse("hf:a/b::test").config, parse("hf:a/b::test").split) == (None, "test")


def test_without_the_extra_the_error_says_how_to_install_it(
    saved: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="datasets, which is not installed"):
        prepare_corpus(saved["saved"], tmp_path)
