"""The few ways in which the store touches files.

Truth needs only two verbs that both a disk and an object store have: put a whole file (`write`), and
create one that must not exist yet (`create`, first wins). Nothing relies on renaming folders or on locks.
A `Where` is a path on a disk of this machine (or one mounted), or in object storage.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halflife.store.remote import Remote

Where = Path | Remote
TEMPORARY = ".tmp"
"""Suffix of a file that is still being written; whoever finds an old one may remove it."""
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def write(path: Where, data: bytes) -> None:
    """Put a whole file: a reader sees the old content or the new, never a part."""
    if isinstance(path, Remote):
        return path.write(data)
    temporary = _temporary(path, data)
    try:
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def create(path: Where, data: bytes) -> bool:
    """Create a file with its whole content; False when it exists already, which then stays as it is."""
    if isinstance(path, Remote):
        return path.create(data)
    temporary = _temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _create_without_links(path, data)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _create_without_links(path: Path, data: bytes) -> bool:
    """Exclusive all the same, but a reader may catch it half written: every such file proves its own content."""
    try:
        with open(path, "xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    return True


def _temporary(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        temporary.write_bytes(data)
    except OSError:  # a full disk must not be made fuller by what could not be written
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def read(path: Where) -> bytes | None:
    """The file's content, or None when there is no such file."""
    if isinstance(path, Remote):
        return path.read()
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_json(path: Where) -> dict[str, Any] | None:
    """The JSON object in the file, or None when there is no file or no whole JSON object in it."""
    return as_json(read(path))


def as_json(text: bytes | None) -> dict[str, Any] | None:
    """The JSON object that the text is, or None."""
    try:
        value = json.loads(text or b"null")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def names(folder: Where) -> list[str]:
    """Names in a folder, sorted; none when there is no such folder."""
    if isinstance(folder, Remote):
        return folder.names()
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def make_folder(folder: Where) -> None:
    """Let there be the folder, and those above it; object storage has none."""
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)


def contents(folder: Where) -> Sequence[Where]:
    """Every whole file below a folder, in the order of names."""
    if isinstance(folder, Remote):
        return folder.contents()
    return _whole_files(folder)


def half_written(folder: Where) -> Sequence[Where]:
    """Files below a folder that a writer has begun and not yet put in place; object storage shows none."""
    if isinstance(folder, Remote):
        return []
    return [path for path in _all_files(folder) if path.name.endswith(TEMPORARY)]


def _whole_files(folder: Path) -> list[Path]:
    return [path for path in _all_files(folder) if not path.name.endswith(TEMPORARY)]


def stays_below(name: str) -> bool:
    """Whether a relative name, found in a file, leads nowhere but down."""
    return bool(name) and not name.startswith("/") and ".." not in name.split("/")


def _all_files(folder: Path) -> list[Path]:
    # os.walk passes over folders that another process removes meanwhile
    return sorted(Path(parent, name) for parent, _, names in os.walk(folder) for name in names)


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and checksum of every file below a folder, by its relative name."""
    return {path.relative_to(folder).as_posix(): entry(path) for path in _whole_files(folder)}


def entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def mismatch(folder: Path, expected: dict[str, dict[str, Any]], *, checksums: bool) -> str | None:
    """What differs first between the files below `folder` and a manifest, in words; None when nothing does."""
    for name, seen in expected.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except OSError:
            return f"{name} is missing"
        if size != seen["bytes"]:
            return f"{name} has {size} bytes, {seen['bytes']} expected"
        if checksums and sha256(path) != seen["sha256"]:
            return f"{name} fails its checksum"
    return None


def bring(source: Remote, folder: Path, expected: dict[str, dict[str, Any]]) -> str | None:
    """Let the manifest's files be below `folder` as they are in object storage: what is there already and whole is
    not fetched again. Returns what is wrong with them there, in words, or None."""
    lacking = [name for name, seen in expected.items() if mismatch(folder, {name: seen}, checksums=True)]
    try:
        source.download(folder, lacking)
    except FileNotFoundError as error:
        return f"{error} is missing"
    return mismatch(folder, {name: expected[name] for name in lacking}, checksums=True)


def size(path: Where) -> int:
    """Bytes of a file, or of all files below a folder; 0 for what is there no more."""
    if isinstance(path, Remote):
        return path.size()
    if path.is_dir():
        return sum(size(inner) for inner in _all_files(path))
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def silence(path: Where) -> float:
    """Seconds since a file or folder last changed; 0 for what is there no more."""
    if isinstance(path, Remote):
        return path.silence()
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return 0.0


def remove(path: Where) -> None:
    """Remove a file or a folder with all below it; another's removal of the same thing is no error."""
    if isinstance(path, Remote):
        path.remove()
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=_already_gone)
    else:
        path.unlink(missing_ok=True)


def _already_gone(_function: Any, _path: str, info: Any) -> None:
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]
