"""Hugging Face datasets as corpora: their own splits or ours, the limit, and errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from halflife.data import corpus as corpora
from halflife.data.corpus import occurrences, prepare_corpus, read_documents, texts
from halflife.data.hugging_face import DEFAULT_BYTES, parse
from halflife.data.tokenizers import Bytes
from halflife.data.tokens import token_array
from halflife.errors import UserError
from tests.data.samples import manifest

datasets = pytest.importorskip("datasets", reason="needs the extra hf")

ROWS = [f"document {i}: " + " ".join(f"word{i * j % 97}" for j in range(30)) for i in range(400)]


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


def test_a_single_named_split_is_divided_into_three(saved: dict[str, str], tmp_path: Path) -> None:
    corpus = prepare_corpus(saved["splits"] + "::train", tmp_path)
    assert set(read_documents(tmp_path, corpus)["text"]) == set(ROWS[:300])
    assert min(manifest(tmp_path, corpus)["characters"].values()) >= 1000


def test_reading_stops_at_the_limit(saved: dict[str, str], tmp_path: Path) -> None:
    part = prepare_corpus(saved["saved"] + "?bytes=30k", tmp_path)
    whole = prepare_corpus(saved["saved"], tmp_path)
    assert part != whole
    assert 25_000 < sum(manifest(tmp_path, part)["characters"].values()) <= 30_000
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
        ("small", "", "bytes; expected at least 1,000"),
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
