"""What stages read beside their parents (corpora, tokenizers, converted models), where results lie in a bucket.

The driver that prepares one puts it there; whoever runs a stage fetches those that the stage names. Each is a
folder or file named by its digest, and `inputs/<kind>/<name>.json`, put last, is its manifest.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

from halflife.store import files
from halflife.store.identity import fields_of
from halflife.store.remote import Remote
from halflife.store.stage import Stage
from halflife.store.store import Corrupt, Store

KINDS = ("corpora", "models", "tokenizers")
_DIGEST = re.compile(r"[0-9a-f]{12,64}(\.json)?")


def share(store: Store) -> None:
    """Put into the bucket what this machine's copy has and the bucket lacks."""
    if not isinstance(store.location, Remote):
        return
    for kind in KINDS:
        there = files.names(store.location / "inputs" / kind)
        for name in files.names(store.root / kind):
            if not _DIGEST.fullmatch(name) or f"{name}.json" in there:
                continue
            path = store.root / kind / name
            within = {f"{name}/{part}": entry for part, entry in files.manifest(path).items()}
            manifest = within or {name: files.entry(path)}
            store.send(store.root / kind, manifest)
            files.write(store.location / "inputs" / kind / f"{name}.json", json.dumps(manifest).encode())


def bring(stage: Stage, store: Store) -> None:
    """Fetch from the bucket what the stage names by its digest and this machine's copy lacks.

    Raises Corrupt when what is there is not what its manifest says.
    """
    if not isinstance(store.location, Remote):
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
                _bring(store.location / kind, store.root / kind, name, manifest)


def _bring(source: Remote, folder: Path, name: str, manifest: dict[str, dict[str, Any]]) -> None:
    """Whole under another name first, then renamed: whoever is second finds it there."""
    temporary = folder / f".{name}-{uuid.uuid4().hex[:8]}"
    if not all(files.stays_below(entry) and _of(entry) == name for entry in manifest):
        raise Corrupt(f"the manifest of {source / name} names files outside of it")
    try:
        if problem := files.bring(source, temporary, manifest):
            raise Corrupt(f"{source / name}: {problem}")
        os.rename(temporary / name, folder / name)
    except OSError:
        if not (folder / name).exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _of(entry: str) -> str:
    """Whose file it is."""
    return entry.partition("/")[0]
