"""A corpus: documents in named splits that never meet, kept in the results folder and read by digest.

<results>/corpora/<digest>/manifest.json        what it is, made of what
                           documents.parquet    split, package, name, text
                           tokens/              one flat array per tokenizer and split (halflife.data.tokens)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halflife.errors import UserError
from halflife.fields import recorded

if TYPE_CHECKING:
    import polars as pl

    from halflife.data.embedded import Document, Domain

SPLITS = ("train", "validation", "test")

EMBEDDED: dict[str, tuple[tuple[Domain, ...], str]] = {
    "python-source": (("source",), "Python source"),
    "python-docs": (("docs",), "library documentation"),
    "python": (("source", "docs"), "Python source and library documentation"),
}
"""The embedded corpora by name: their domains, and what a report calls them."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A handle: the digest is the identity, the label is for people."""

    digest: str
    label: str = recorded("")


def prepare_corpus(spec: str, results: Path) -> Corpus:
    """The corpus that `spec` names, built below `results` unless it is already there.

    `spec` is "python-source", "python-docs", "python" (both), or paths and globs, separated by commas, of
    .txt, .jsonl and .parquet files. The digest is computed first and is all that a second call needs.

    Raises UserError when there is nothing to read, when it cannot be read, or when it is too small to split.
    """
    from halflife.data import embedded, files  # what builds a corpus is loaded when one is asked for

    if spec in EMBEDDED:
        domains, label = EMBEDDED[spec]
        corpus = Corpus(digest=embedded.embedded_digest(domains), label=label)
        if not _exists(results, corpus):
            _write(results, corpus, embedded.embedded_documents(domains), {"made_of": embedded.versions()})
        return corpus
    given = files.find(spec)
    corpus = Corpus(digest=files.digest(given), label=files.label(given))
    if not _exists(results, corpus):
        documents = files.read_documents(given)
        _write(results, corpus, documents, {"made_of": {str(file.path): file.sha256 for file in given}})
    return corpus


def corpus_folder(results: Path, corpus: Corpus) -> Path:
    return Path(results) / "corpora" / corpus.digest


def _exists(results: Path, corpus: Corpus) -> bool:
    return (corpus_folder(results, corpus) / "manifest.json").exists()


def _write(results: Path, corpus: Corpus, documents: list[Document], record: dict[str, Any]) -> None:
    """Make the folder whole under another name, then rename it: whoever is second finds it there."""
    import polars as pl

    folder = corpus_folder(results, corpus)
    temporary = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        rows = [dataclasses.astuple(document) for document in documents]
        pl.DataFrame(rows, schema=["split", "package", "name", "text"], orient="row").write_parquet(
            temporary / "documents.parquet"
        )
        content = hashlib.sha256("\x1e".join("\x1f".join(row) for row in rows).encode()).hexdigest()
        manifest = {
            "label": corpus.label,
            "content": content,
            "documents": {split: sum(row[0] == split for row in rows) for split in SPLITS},
            "characters": {split: sum(len(row[3]) for row in rows if row[0] == split) for split in SPLITS},
            **record,
        }
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
        try:
            os.rename(temporary, folder)
        except OSError:
            if not _exists(results, corpus):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def manifest(results: Path, corpus: Corpus) -> dict[str, Any]:
    """What the corpus is made of. Raises UserError when it is not below `results`."""
    _require(results, corpus)
    return json.loads((corpus_folder(results, corpus) / "manifest.json").read_text())


def _require(results: Path, corpus: Corpus) -> None:
    if not _exists(results, corpus):
        raise UserError(
            f"corpus {corpus.label or corpus.digest} is not below {results}: expected "
            f"{corpus_folder(results, corpus)}; prepare it there (run the study's command with this results folder)"
        )


def read_documents(results: Path, corpus: Corpus) -> pl.DataFrame:
    """Every document: split, package, name, text, in the order of the corpus."""
    import polars as pl

    _require(results, corpus)
    return pl.read_parquet(corpus_folder(results, corpus) / "documents.parquet")


def texts(results: Path, corpus: Corpus, split: str) -> list[str]:
    """The texts of one split, in the order of the corpus."""
    frame = read_documents(results, corpus)
    return frame.filter(frame["split"] == split)["text"].to_list()


@functools.lru_cache(maxsize=256)
def occurrences(results: Path, corpus: Corpus, text: str) -> int:
    """How often `text` occurs in the corpus, all splits together."""
    return int(_all_texts(results, corpus).str.count_matches(text, literal=True).sum())


@functools.lru_cache(maxsize=2)
def _all_texts(results: Path, corpus: Corpus) -> pl.Series:
    """Kept, as a study asks for every trigger that its seeds draw."""
    return read_documents(results, corpus)["text"]
