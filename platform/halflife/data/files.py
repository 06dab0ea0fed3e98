"""The user's own files as a corpus: .txt, and .jsonl, .json, .parquet with a column "text" or a chat; or compressed."""

from __future__ import annotations

import codecs
import glob
import hashlib
import json
import math
import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from halflife.data.deduplication import Seen
from halflife.data.embedded import Document
from halflife.data.readers import COMPRESSED, SUFFIXES, cleaned, suffix_of, values, whole
from halflife.digests import file_digest
from halflife.errors import UserError

READING_VERSION = 1
"""To be raised when the same files give other documents."""
TEXT_VERSION = 2
"""The same for .txt files with a byte-order mark or with lines longer than a piece, which once stayed whole."""

PIECE = 4_000
"""Longer .txt files are cut into documents of about this many characters: at blank lines, else at line ends, else at
spaces, else anywhere."""
PART = PIECE // 8
"""Characters of a part of a line that is longer than a piece."""
HELD_OUT = 0.05
"""Fraction of the characters in each of validation and test."""
SMALLEST = 1_000
"""Fewest characters of a split."""


@dataclass(frozen=True)
class File:
    path: Path
    size: int
    sha256: str
    version: int
    """Of reading it."""


def find(spec: str) -> list[File]:
    """The files that `spec` (paths and globs, separated by commas) names, each once. A path that exists is taken as it
    stands, even with a comma or a bracket in it.

    Raises UserError when a part matches nothing, or a file of another format.
    """
    found: dict[Path, None] = {}
    for path in map(Path, _paths(spec)):
        if path.is_dir():
            raise UserError(f"corpus {str(path)!r} given: it is a folder; name its files, as in {path}/*.txt")
        if suffix_of(path) not in SUFFIXES:
            raise UserError(
                f"corpus {str(path)!r} given: expected a file ending in {', '.join(SUFFIXES)}, or one of these "
                f"compressed ({', '.join(COMPRESSED)})"
            )
        found.setdefault(path)
    if not found:
        raise UserError(f"corpus {spec!r} given: it names no file")
    return [File(path, path.stat().st_size, file_digest(path), _version(path)) for path in found]


def _version(path: Path) -> int:
    """From the bytes of a text, most of which are skipped: to the last line end within a piece's length."""
    if path.suffix.lower() != ".txt" or not path.stat().st_size:
        return READING_VERSION
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:3] == codecs.BOM_UTF8:
            return TEXT_VERSION
        start = 0
        while len(data) - start > PIECE:
            end = data.rfind(b"\n", start, start + PIECE + 1)
            if end < 0:  # many bytes, but perhaps fewer characters
                end = data.find(b"\n", start)
                end = len(data) if end < 0 else end
                if any(len(line) > PIECE for line in data[start:end].decode(errors="replace").splitlines()):
                    return TEXT_VERSION
            start = end + 1
    return READING_VERSION


def _paths(spec: str) -> Iterator[str]:
    """Each part between commas; one that names nothing is joined with those after it until it does."""
    if found := _matches(spec):
        yield from found
        return
    parts = spec.split(",")
    first = 0
    while first < len(parts):
        if not parts[first].strip():
            first += 1
            continue
        for last in range(first + 1, len(parts) + 1):
            if found := _matches(",".join(parts[first:last])):
                break
        else:
            raise UserError(
                f"corpus {parts[first].strip()!r} given: no such file; expected python-source, python-docs, python, "
                f"or paths and globs of {', '.join(SUFFIXES)} files separated by commas"
            )
        yield from found
        first = last


def _matches(name: str) -> list[str]:
    """The path itself if it exists, else what it matches as a glob, in order. Folders that exist are no pattern."""
    path = os.path.expanduser(name.strip())
    if not path or os.path.exists(path):
        return [path] if path else []
    folder = path
    while folder and not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return sorted(glob.glob(glob.escape(folder) + path[len(folder) :], recursive=True))


def digest(files: list[File]) -> str:
    """Hash of names and contents, regardless of order and folder."""
    record = sorted([file.path.name, file.size, file.sha256] for file in files)
    description = {"reading": max(file.version for file in files), "files": record}
    return hashlib.sha256(json.dumps(description).encode()).hexdigest()[:20]


def label(files: list[File]) -> str:
    names = [file.path.name for file in files]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def read_documents(files: list[File]) -> list[Document]:
    """The files' documents, deduplicated and then split. Raises UserError for files that cannot be read or split."""
    seen = Seen()
    kept: list[tuple[str, str]] = []
    for file in sorted(files, key=lambda file: (file.path.name, file.sha256)):
        texts = pieces(whole(file.path)) if suffix_of(file.path) == ".txt" else values(file.path)
        for number, text in enumerate(cleaned(text) for text in texts if text is not None):
            if text.strip() and not seen.repeats(text):
                kept.append((f"{file.path.name}#{number}", text))
    return split(kept, label(files))


def split(texts: list[tuple[str, str]], label: str) -> list[Document]:
    """Documents of (name, text). Splits go by the hash of each text, so that a document's hardly depends on the others.

    Raises UserError when there is too little text.
    """
    total = sum(len(text) for _, text in texts)
    order = sorted(range(len(texts)), key=lambda index: hashlib.sha256(texts[index][1].encode()).digest())
    split_of: dict[int, str] = {}
    wanted = max(SMALLEST, math.ceil(HELD_OUT * total))
    lengths = {"validation": 0, "test": 0, "train": 0}
    for index in order:
        found = next((name for name in ("validation", "test") if lengths[name] < wanted), "train")
        split_of[index] = found
        lengths[found] += len(texts[index][1])
    if min(lengths.values()) < SMALLEST:
        raise UserError(
            f"corpus {label} given: {total:,} characters without copies are too few to split; expected at least "
            f"{SMALLEST:,} characters for each of training, validation and test, in separate documents"
        )
    return [Document(split_of[index], name, name, text) for index, (name, text) in enumerate(texts)]


def pieces(text: str) -> Iterator[str]:
    """A long text in pieces of whole paragraphs, of whole lines if paragraphs are long, of parts of long lines."""
    piece = ""
    for paragraph in text.split("\n\n"):
        for part in [paragraph] if len(paragraph) <= PIECE else _parts(paragraph):
            piece += part
            if len(piece) >= PIECE:
                yield piece.rstrip("\n") + "\n"
                piece = ""
        piece += "\n\n" if piece else ""
    if piece:
        yield piece.rstrip("\n") + "\n"


def _parts(paragraph: str) -> Iterator[str]:
    """Its lines; long ones in parts that end at a space if there is one, short so that pieces hardly exceed PIECE."""
    for line in paragraph.splitlines(keepends=True):
        start = 0
        while len(line) > PIECE and len(line) - start > PART:
            end = line.rfind(" ", start, start + PART) + 1 or start + PART
            yield line[start:end]
            start = end
        yield line[start:]
