"""Digests of large files, cached by size and modification time, so that weights are read only once."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_SHA256 = re.compile("[0-9a-f]{64}")


def of_files(files: Sequence[Path], cache: Path, root: Path) -> dict[str, str]:
    """sha256 of each file by its name below `root`. `cache` is a JSON file of earlier results."""
    known = _read(cache)
    stamps = {path: [path.stat().st_size, path.stat().st_mtime_ns] for path in files}
    changed = [path for path, stamp in stamps.items() if _entry(known, path)[:2] != stamp]
    if changed:
        with ThreadPoolExecutor() as pool:
            digests = pool.map(lambda path: downloaded_digest(path) or file_digest(path), changed)
        known |= {str(path.resolve()): [*stamps[path], digest] for path, digest in zip(changed, digests, strict=True)}
        _write(cache, known)
    return {path.relative_to(root).as_posix(): _entry(known, path)[2] for path in files}


def _entry(known: dict[str, list], path: Path) -> list:
    entry = known.get(str(path.resolve()))
    return entry if isinstance(entry, list) else []


def downloaded_digest(path: Path) -> str | None:
    """The sha256 that huggingface_hub noted when it downloaded a large file: the name of a file in its cache, or a note
    below a local folder, unless the file was changed later. It spares reading the weights."""
    stored = path.resolve()
    if stored.parent.name == "blobs" and _SHA256.fullmatch(stored.name):
        return stored.name
    note = path.parent / ".cache/huggingface/download" / f"{path.name}.metadata"
    try:
        _, digest, noted = note.read_text(encoding="utf-8").split()
        unchanged = path.stat().st_mtime - 1 <= float(noted)  # as huggingface_hub judges it
    except (OSError, ValueError):
        return None
    return digest if unchanged and _SHA256.fullmatch(digest) else None


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_text(description: object) -> str:
    """20 hex digits of the sha256 of JSON data."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:20]


def _read(path: Path) -> dict[str, list]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # a damaged cache only costs time
        return {}
    return known if isinstance(known, dict) else {}


def _write(path: Path, known: dict[str, list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    temporary.write_text(json.dumps(known, indent=0, sort_keys=True), encoding="utf-8")
    temporary.replace(path)
