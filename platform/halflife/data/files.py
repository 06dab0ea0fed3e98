"""The user's own files as a corpus: .txt, .jsonl with a "text" field, .parquet with a "text" column."""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from halflife.data.deduplication import Seen
from halflife.data.embedded import Document
from halflife.digests import file_digest
from halflife.errors import UserError

READING_VERSION = 1
"""To be raised when the same files give other documents."""

SUFFIXES = (".txt", ".jsonl", ".parquet")
PIECE = 4_000
"""Longer .txt files are cut into documents of about this many characters, at blank lines if there are any."""
HELD_OUT = 0.05
"""Fraction of the characters in each of validation and test."""
SMALLEST = 1_000
"""Fewest characters of a split."""


@dataclass(frozen=True)
class File:
    path: Path
    size: int
    sha256: str


def find(spec: str) -> list[File]:
    """The files that `spec` (paths and globs, separated by commas) names, each once.

    Raises UserError when a part matches nothing, or a file of another format.
    """
    found: dict[Path, None] = {}
    for part in filter(None, map(str.strip, spec.split(","))):
        paths = sorted(glob.glob(os.path.expanduser(part), recursive=True))
        if not paths:
            raise UserError(
                f"corpus {part!r} given: no such file; expected python-source, python-docs, python, "
                f"or paths and globs of {', '.join(SUFFIXES)} files separated by commas"
            )
        for path in map(Path, paths):
            if path.is_dir():
                raise UserError(f"corpus {str(path)!r} given: it is a folder; name its files, as in {path}/*.txt")
            if path.suffix.lower() not in SUFFIXES:
                raise UserError(f"corpus {str(path)!r} given: expected a file ending in {', '.join(SUFFIXES)}")
            found.setdefault(path)
    if not found:
        raise UserError(f"corpus {spec!r} given: it names no file")
    return [File(path, path.stat().st_size, file_digest(path)) for path in found]


def digest(files: list[File]) -> str:
    """Hash of names and contents, regardless of order and folder."""
    record = sorted([file.path.name, file.size, file.sha256] for file in files)
    description = {"reading": READING_VERSION, "files": record}
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()[:20]


def label(files: list[File]) -> str:
    names = [file.path.name for file in files]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def read_documents(files: list[File]) -> list[Document]:
    """The files' documents, deduplicated and then split. Raises UserError for files that cannot be read or split."""
    seen = Seen()
    kept: list[tuple[str, str]] = []
    for file in sorted(files, key=lambda file: (file.path.name, file.sha256)):
        for number, text in enumerate(_texts(file.path)):
            text = text.replace("\r\n", "\n").encode(errors="replace").decode()  # JSON may have half a surrogate pair
            if text.strip() and not seen.repeats(text):
                kept.append((f"{file.path.name}#{number}", text))
    return _split(kept, label(files))


def _split(texts: list[tuple[str, str]], label: str) -> list[Document]:
    """Assigns splits by the hash of each text, so that a document's split hardly depends on the others."""
    total = sum(len(text) for _, text in texts)
    order = sorted(range(len(texts)), key=lambda index: hashlib.sha256(texts[index][1].encode()).digest())
    split_of: dict[int, str] = {}
    wanted = max(SMALLEST, math.ceil(HELD_OUT * total))
    lengths = {"validation": 0, "test": 0, "train": 0}
    for index in order:
        split = next((name for name in ("validation", "test") if lengths[name] < wanted), "train")
        split_of[index] = split
        lengths[split] += len(texts[index][1])
    if min(lengths.values()) < SMALLEST:
        raise UserError(
            f"corpus {label} given: {total:,} characters without copies are too few to split; expected at least "
            f"{SMALLEST:,} characters for each of training, validation and test, in separate documents"
        )
    return [Document(split_of[index], name, name, text) for index, (name, text) in enumerate(texts)]


def _texts(path: Path) -> Iterator[str]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _from_parquet(path)
    return pieces(_read(path)) if suffix == ".txt" else _from_jsonl(path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} given: expected UTF-8 text, byte {error.start} is not; convert the file") from None


def pieces(text: str) -> Iterator[str]:
    """A long text in pieces of whole paragraphs, or of whole lines if paragraphs are long."""
    piece = ""
    for paragraph in text.split("\n\n"):
        for part in [paragraph] if len(paragraph) <= PIECE else paragraph.splitlines(keepends=True):
            piece += part
            if len(piece) >= PIECE:
                yield piece.rstrip("\n") + "\n"
                piece = ""
        piece += "\n\n" if piece else ""
    if piece:
        yield piece.rstrip("\n") + "\n"


def _from_jsonl(path: Path) -> Iterator[str]:
    # not str.splitlines: JSON strings may contain other line ends
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: expected a JSON object, {error.msg.lower()}") from None
        text = value.get("text") if isinstance(value, dict) else None
        if not isinstance(text, str):
            raise UserError(f'{path}, line {number}: expected a JSON object with a string field "text"')
        yield text


def _from_parquet(path: Path) -> Iterator[str]:
    import polars as pl

    try:
        columns = pl.read_parquet_schema(path)
        if columns.get("text") != pl.String:
            given = ", ".join(f"{name} ({dtype})" for name, dtype in columns.items())
            raise UserError(f'{path} given with columns {given}: expected a string column "text"; rename the column')
        return iter(pl.read_parquet(path, columns=["text"])["text"].drop_nulls().to_list())
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path} given: it cannot be read as parquet ({str(error).splitlines()[0]})") from None
