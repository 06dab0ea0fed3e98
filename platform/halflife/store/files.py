"""The store's file operations, on a disk or in object storage.

Correctness needs only two operations that both have: write a whole file (`write`), and create a file exclusively
(`create`, the first writer wins). Nothing relies on renaming folders or on locks.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from halflife.store.remote import Remote

AnyPath = Path | Remote
Manifest = dict[str, dict[str, Any]]
"""`bytes` and `sha256` of files, by name relative to a folder."""
TEMPORARY = ".tmp"
"""Suffix of a file that is being written. Old ones may be removed."""
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def write(path: AnyPath, data: bytes) -> None:
    """Write a whole file atomically: a reader sees the old content or the new."""
    if isinstance(path, Remote):
        return path.write(data)
    temporary = _temporary(path, data)
    try:
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def create(path: AnyPath, data: bytes) -> bool:
    """Create a file with its whole content. Returns False, and leaves the file unchanged, if it exists."""
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
    """Also exclusive, but a reader may see an incomplete file: such files therefore contain a digest of themselves."""
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
    except OSError:  # leave no partial file on a full disk
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def read(path: AnyPath) -> bytes | None:
    """The file's content, or None if there is no such file."""
    if isinstance(path, Remote):
        return path.read()
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_json(path: AnyPath) -> dict[str, Any] | None:
    """The JSON object in the file, or None if there is no file or no complete JSON object in it."""
    return as_json(read(path))


def as_json(text: bytes | None) -> dict[str, Any] | None:
    """The text as a JSON object, or None."""
    try:
        value = json.loads(text or b"null")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def names(folder: AnyPath) -> list[str]:
    """Sorted names in a folder; empty if there is no such folder."""
    if isinstance(folder, Remote):
        return folder.names()
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def make_folder(folder: AnyPath) -> None:
    """Create a folder and its parents; does nothing in object storage, which has no folders."""
    if isinstance(folder, Path):
        folder.mkdir(parents=True, exist_ok=True)


def contents(folder: AnyPath) -> Sequence[AnyPath]:
    """Every complete file below a folder, sorted by name."""
    if isinstance(folder, Remote):
        return folder.contents()
    return _complete_files(folder)


def partial_files(folder: AnyPath) -> Sequence[AnyPath]:
    """Files below a folder that are being written, or were when their writer died; object storage shows none."""
    if isinstance(folder, Remote):
        return []
    return [path for path in _all_files(folder) if path.name.endswith(TEMPORARY)]


def size(path: AnyPath) -> int:
    """Bytes of a file, or of all files below a folder; 0 if it does not exist."""
    if isinstance(path, Remote):
        return path.size()
    if path.is_dir():
        return sum(size(inner) for inner in _all_files(path))
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def age(path: AnyPath) -> float:
    """Seconds since a file or folder was modified; 0 if it does not exist."""
    if isinstance(path, Remote):
        return path.age()
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return 0.0


def remove(path: AnyPath) -> None:
    """Remove a file, or a folder with everything below it. It is no error if another process removes it too."""
    if isinstance(path, Remote):
        path.remove()
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, onerror=_already_gone)
    else:
        path.unlink(missing_ok=True)


def upload(folder: Path, names: Iterable[str], target: AnyPath) -> None:
    """Copy these files of `folder` to `target` if that is in object storage. On a disk they are one folder."""
    if isinstance(target, Remote):
        target.upload(folder, names)


def fetch(source: AnyPath, folder: Path, expected: Manifest) -> str | None:
    """Verify the manifest's files in `folder`, and first download from object storage those that are missing or
    damaged. Returns what is wrong, or None."""
    if not isinstance(source, Remote):
        return mismatch(folder, expected, checksums=True)
    lacking = [name for name, seen in expected.items() if mismatch(folder, {name: seen}, checksums=True)]
    try:
        source.download(folder, lacking)
    except FileNotFoundError as error:
        return f"{error} is missing"
    return mismatch(folder, {name: expected[name] for name in lacking}, checksums=True)


def manifest(folder: Path) -> Manifest:
    """Of every complete file below a folder."""
    return {path.relative_to(folder).as_posix(): entry(path) for path in _complete_files(folder)}


def entry(path: Path) -> dict[str, Any]:
    """A file's entry in a manifest."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mismatch(folder: Path, expected: Manifest, *, checksums: bool) -> str | None:
    """The first difference between the files below `folder` and a manifest, as text; None if there is none."""
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


def is_inside(name: str) -> bool:
    """Whether a relative name that was read from a file stays inside its folder."""
    return bool(name) and not name.startswith("/") and ".." not in name.split("/")


def _complete_files(folder: Path) -> list[Path]:
    return [path for path in _all_files(folder) if not path.name.endswith(TEMPORARY)]


def _all_files(folder: Path) -> list[Path]:
    # os.walk skips folders that another process removes in the meantime
    return sorted(Path(parent, name) for parent, _, names in os.walk(folder) for name in names)


def _already_gone(_function: Any, _path: str, info: Any) -> None:
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]
