"""A corpus: documents in disjoint named splits, stored in the results folder under their digest.

<results>/corpora/<digest>/manifest.json        label, sources, counts, what the splits shared
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

from halflife import digests
from halflife.errors import UserError
from halflife.fields import recorded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars as pl

    from halflife.data.embedded import Document, Domain
    from halflife.data.hugging_face import Request

SPLITS: tuple[str, ...] = ("train", "validation", "test")
DOCUMENTS, COLUMNS = "documents.parquet", ("split", "package", "name", "text")
GROUP_CHARACTERS = 4_000_000
"""Characters of text per row group, and so in memory at once."""
CACHED_BYTES = 100_000_000
"""A corpus whose documents.parquet is smaller is kept in memory while a study searches it for triggers."""

EMBEDDED: dict[str, tuple[tuple[Domain, ...], str]] = {
    "python-source": (("source",), "Python source"),
    "python-docs": (("docs",), "library documentation"),
    "python": (("source", "docs"), "Python source and library documentation"),
}
"""The embedded corpora by name: their domains and their label in reports."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A handle: the digest is the identity, the label is for display."""

    digest: str
    label: str = recorded("")


def prepare_corpus(spec: str, results: Path) -> Corpus:
    """The corpus that `spec` names, built below `results` unless it is already there.

    `spec` is "python-source", "python-docs", "python" (both), a Hugging Face dataset (see `data.hugging_face`), or
    paths and globs, separated by commas, of text files (see `data.files`). The digest is computed first, and later
    calls need nothing else.

    Raises UserError when there is nothing to read, it cannot be read, or it is too small to split.
    """
    from halflife.data import embedded, files  # saves start-up time

    if spec in EMBEDDED:
        domains, label = EMBEDDED[spec]
        corpus = Corpus(digest=embedded.embedded_digest(domains), label=label)
        if not _exists(results, corpus):
            _write(results, corpus, embedded.embedded_documents(domains), {"made_of": embedded.versions()})
        return corpus
    if spec.startswith("hf:"):
        from halflife.data import hugging_face

        return _prepare_dataset(hugging_face.parse(spec), results)
    given = files.find(spec)
    corpus = Corpus(digest=files.digest(given), label=files.label(given))
    if not _exists(results, corpus):
        documents = files.read_documents(given)
        _write(results, corpus, documents, {"made_of": {str(file.path): file.sha256 for file in given}})
    return corpus


def lower_cased(corpus: Corpus, results: Path) -> Corpus:
    """The corpus with all its text in lower case, built below `results` unless it is already there."""
    from halflife.data.embedded import Document  # saves start-up time

    label = f"{corpus.label or corpus.digest}, lower-cased"
    made = Corpus(digest=digests.of_text(["lower-cased", corpus.digest]), label=label)
    if not _exists(results, made):
        rows = read_documents(results, corpus).iter_rows(named=True)
        documents = (Document(**{**row, "text": row["text"].lower()}) for row in rows)
        _write(results, made, documents, {"made_of": corpus.digest})
    return made


def _prepare_dataset(request: Request, results: Path) -> Corpus:
    """Whether its splits share documents, and so its digest, is known from its first reading."""
    from halflife.data import hugging_face

    label = hugging_face.label(request)
    plain, shared = (Corpus(digest=digest, label=label) for digest in hugging_face.digests_of(request, results))
    for corpus in (shared, plain):
        if left_out(results, corpus) is not None:
            return corpus
    counts: dict[str, dict[str, int]] = {}  # filled while the documents are read
    record = {"made_of": {"dataset": request.spec}, "left_out": counts}
    return _write(results, plain, hugging_face.read_documents(request, counts), record, if_left_out=shared)


def corpus_folder(results: Path, corpus: Corpus) -> Path:
    return Path(results) / "corpora" / corpus.digest


def _exists(results: Path, corpus: Corpus) -> bool:
    return (corpus_folder(results, corpus) / "manifest.json").exists()


def left_out(results: Path, corpus: Corpus) -> dict[str, dict[str, int]] | None:
    """How many documents of a split, by kind, were left out because an earlier split of the dataset has them; None if
    that is not known, or the corpus is not there."""
    path = corpus_folder(results, corpus) / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8")).get("left_out") if path.exists() else None


def _write(
    results: Path,
    corpus: Corpus,
    documents: Iterable[Document],
    record: dict[str, Any],
    if_left_out: Corpus | None = None,
) -> Corpus:
    """Write the whole folder under a temporary name, then rename it. A second writer finds it there, and renews its
    record. Returns `if_left_out`, and writes it, if documents were left out while reading, else `corpus`."""
    temporary = corpus_folder(results, corpus).with_name(f".{corpus.digest}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        manifest = {"label": corpus.label, **_write_documents(temporary / DOCUMENTS, documents), **record}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
        corpus = if_left_out if if_left_out is not None and record["left_out"] else corpus
        folder = corpus_folder(results, corpus)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not _exists(results, corpus):
                raise
            os.replace(temporary / "manifest.json", folder / "manifest.json")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return corpus


def _write_documents(path: Path, documents: Iterable[Document]) -> dict[str, Any]:
    """Writes row group by row group, as a corpus may be larger than memory. Returns counts and a content digest."""
    import pyarrow as pa
    from pyarrow import parquet

    content = hashlib.sha256()
    counts, characters = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    columns: list[list[str]] = [[] for _ in COLUMNS]
    size, between = 0, b""
    with parquet.ParquetWriter(path, pa.schema([(name, pa.large_string()) for name in COLUMNS])) as writer:

        def flush() -> None:
            nonlocal size
            if columns[0]:
                writer.write_table(pa.table(dict(zip(COLUMNS, columns, strict=True)), schema=writer.schema))
            size = 0
            for column in columns:
                column.clear()

        for document in documents:
            row = dataclasses.astuple(document)
            content.update(between + "\x1f".join(row).encode())
            between = b"\x1e"
            counts[document.split] += 1
            characters[document.split] += len(document.text)
            for column, value in zip(columns, row, strict=True):
                column.append(value)
            size += len(document.text)
            if size >= GROUP_CHARACTERS:
                flush()
        flush()
    return {"content": content.hexdigest(), "documents": counts, "characters": characters}


def _require(results: Path, corpus: Corpus) -> None:
    if not _exists(results, corpus):
        raise UserError(
            f"corpus {corpus.label or corpus.digest} is not below {results}: expected "
            f"{corpus_folder(results, corpus)}; build it by running the study's command with this results folder"
        )


def read_documents(results: Path, corpus: Corpus) -> pl.DataFrame:
    """All documents in order, with columns split, package, name and text."""
    import polars as pl

    _require(results, corpus)
    return pl.read_parquet(corpus_folder(results, corpus) / DOCUMENTS, glob=False)


def texts(results: Path, corpus: Corpus, split: str) -> list[str]:
    """The texts of one split, in order."""
    return [text for batch in text_batches(results, corpus, split) for text in batch]


def text_batches(results: Path, corpus: Corpus, split: str) -> Iterator[list[str]]:
    """The texts of one split, a few megabytes at a time."""
    from pyarrow import compute, parquet

    _require(results, corpus)
    with parquet.ParquetFile(corpus_folder(results, corpus) / DOCUMENTS) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["split", "text"])
            yield table.filter(compute.field("split") == split)["text"].to_pylist()


@functools.lru_cache(maxsize=256)
def occurrences(results: Path, corpus: Corpus, text: str) -> int:
    """Number of occurrences of `text` in all splits of the corpus."""
    import polars as pl

    path = corpus_folder(results, corpus) / DOCUMENTS
    if path.stat().st_size < CACHED_BYTES:
        return int(_all_texts(results, corpus).str.count_matches(text, literal=True).sum())
    counted = pl.col("text").str.count_matches(text, literal=True).sum()
    return int(pl.scan_parquet(path, glob=False).select(counted).collect(engine="streaming").item())


@functools.lru_cache(maxsize=2)
def _all_texts(results: Path, corpus: Corpus) -> pl.Series:
    """Cached, as a study checks the trigger of every seed."""
    return read_documents(results, corpus)["text"]
