"""Digests of large files, cached by size and modification time, so that weights are read only once."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Sequence
from pathlib import Path


def of_files(files: Sequence[Path], cache: Path, root: Path) -> dict[str, str]:
    """sha256 of each file by its name below `root`. `cache` is a JSON file of earlier results."""
    known = _read(cache)
    found, changed = {}, False
    for path in files:
        status = path.stat()
        name, stamp = str(path.resolve()), [status.st_size, status.st_mtime_ns]
        entry = known.get(name)
        if not (isinstance(entry, list) and entry[:2] == stamp):
            entry = [*stamp, downloaded_digest(path) or file_digest(path)]
            known[name], changed = entry, True
        found[path.relative_to(root).as_posix()] = entry[2]
    if changed:
        _write(cache, known)
    return found


def downloaded_digest(path: Path) -> str | None:
    """The sha256 that huggingface_hub noted when it downloaded the file, if the file has not changed since; it spares
    reading large weights."""
    note = path.parent / ".cache/huggingface/download" / f"{path.name}.metadata"
    try:
        _, digest, noted = note.read_text(encoding="utf-8").split()
        unchanged = path.stat().st_mtime - 1 <= float(noted)  # as huggingface_hub judges it
    except (OSError, ValueError):
        return None
    return digest if unchanged and re.fullmatch("[0-9a-f]{64}", digest) else None


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
