"""Inputs of stages other than their parents (corpora, tokenizers, models, tasks), if the results are in a bucket.

The driver uploads them; a process that runs a stage downloads those that the stage refers to. Each is a folder or file
named by its digest, and `inputs/<kind>/<name>.json`, uploaded last, is its manifest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from pathlib import Path

from halflife.store import files
from halflife.store.files import AnyPath, Manifest
from halflife.store.identity import fields_of
from halflife.store.stage import Stage
from halflife.store.store import Corrupt, Store

KINDS = ("corpora", "models", "tokenizers", "tasks")
_DIGEST = re.compile(r"[0-9a-f]{12,64}(\.json)?")


def upload(store: Store) -> None:
    """Upload the inputs of this machine's copy that the bucket lacks."""
    if not store.in_bucket:
        return
    for kind in KINDS:
        present = files.names(store.location / "inputs" / kind)
        for name in files.names(store.root / kind):
            if not _DIGEST.fullmatch(name) or f"{name}.json" in present:
                continue
            path = store.root / kind / name
            inner = {f"{name}/{part}": entry for part, entry in files.manifest(path).items()}
            manifest = inner or {name: files.entry(path)}
            store.upload(store.root / kind, manifest)
            files.write(store.location / "inputs" / kind / f"{name}.json", json.dumps(manifest).encode())


def fetch(stage: Stage, store: Store) -> None:
    """Download the inputs that the stage refers to by digest and that this machine's copy lacks.

    Raises Corrupt when an input does not match its manifest.
    """
    if not store.in_bucket:
        return
    text = json.dumps(fields_of(stage, every=True))
    for kind in KINDS:
        for note in files.names(store.location / "inputs" / kind):
            name = note.removesuffix(".json")
            if (
                _DIGEST.fullmatch(name)
                and name.removesuffix(".json") in text
                and not (store.root / kind / name).exists()
            ):
                manifest = files.read_json(store.location / "inputs" / kind / note) or {}
                _fetch(store.location / kind, store.root / kind, name, manifest)


def _fetch(source: AnyPath, folder: Path, name: str, manifest: Manifest) -> None:
    """Download under a temporary name, then rename. If another process was faster, use its copy."""
    temporary = folder / f".{name}-{uuid.uuid4().hex[:8]}"
    if not all(files.is_inside(entry) and entry.partition("/")[0] == name for entry in manifest):
        raise Corrupt(f"the manifest of {source / name} names files outside of it")
    try:
        if problem := files.fetch(source, temporary, manifest):
            raise Corrupt(f"{source / name}: {problem}")
        os.rename(temporary / name, folder / name)
    except OSError:
        if not (folder / name).exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
