from __future__ import annotations

import multiprocessing
from pathlib import Path

from halflife.data.corpus import Corpus, prepare_corpus, read_documents
from tests.data.samples import manifest, sample_corpus, sample_file


def build(path: Path) -> str:
    return prepare_corpus(str(path), path.parent).digest


def test_processes_that_build_the_same_corpus_at_once_leave_one_whole_folder(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        digests = pool.map(build, [sample_file(tmp_path)] * 4)
    assert len(set(digests)) == 1
    assert [folder.name for folder in (tmp_path / "corpora").iterdir()] == digests[:1]
    assert read_documents(tmp_path, Corpus(digest=digests[0])).height == 60


def test_the_label_is_not_part_of_a_corpus_identity() -> None:
    assert Corpus(digest="abc", label="one") == Corpus(digest="abc", label="two")


def test_the_manifest_records_the_sources_of_the_corpus(tmp_path: Path) -> None:
    record = manifest(tmp_path, sample_corpus(tmp_path))
    assert record["label"] == "sample-0.jsonl"
    assert sum(record["documents"].values()) == 60
    assert list(record["made_of"]) == [str(tmp_path / "sample-0.jsonl")]


def test_a_corpus_is_read_from_a_results_folder_of_any_name(tmp_path: Path) -> None:
    results = tmp_path / "a[b]?%2F"
    corpus = prepare_corpus(str(sample_file(tmp_path)), results)
    assert read_documents(results, corpus).height == 60
