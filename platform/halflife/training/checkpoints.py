"""Checkpoints: a folder with safetensors files and `state.json`, which is written last and holds their digests.

Whole tensors are in two files. The pieces of several ranks are in one file per rank and are read back as whole tensors,
so any number of ranks can resume from them. A folder without a state, or whose files do not match it, is not a
checkpoint. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
SHARD = "shard-{rank:05}.safetensors"
FORMAT = 1


class CorruptCheckpoint(Exception):
    """The folder is incomplete, or its files do not match its state."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Consecutive elements, from `offset`, of a flattened tensor of `shape`."""

    values: Tensor
    offset: int
    shape: tuple[int, ...]


def write(
    folder: Path, *, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint; `state` is JSON data. The folder is a checkpoint only once this returns."""
    write_state(folder, state, write_whole(folder, weights=weights, optimizer=optimizer))


def write_whole(folder: Path, *, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> dict[str, str]:
    """Write whole tensors. Returns the files' digests, for `write_state`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE).unlink(missing_ok=True)
    digests = {}
    for name, tensors in ((WEIGHTS, weights), (OPTIMIZER, optimizer)):
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, folder / name)
        digests[name] = sha256(folder / name)
    return digests


def write_shard(
    folder: Path, rank: int, *, weights: Mapping[str, Piece], optimizer: Mapping[str, Piece]
) -> dict[str, str]:
    """Write one rank's pieces. Returns the file's digest. The pieces of all ranks together are the whole tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = ((WEIGHTS, weights), (OPTIMIZER, optimizer))
    pieces = {f"{file}/{name}": piece for file, of in kinds for name, piece in of.items()}
    tensors = {key: piece.values.detach().cpu().contiguous() for key, piece in pieces.items()}
    where = {key: [piece.offset, list(piece.shape)] for key, piece in pieces.items()}
    path = folder / SHARD.format(rank=rank)
    save_file(tensors, path, metadata={"pieces": json.dumps(where)})
    return {path.name: sha256(path)}


def write_state(folder: Path, state: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """Complete the checkpoint, after its `files` (digests by name) have been written."""
    text = json.dumps({"format": FORMAT, **state, "files": dict(files)}, indent=2, sort_keys=True)
    (folder / STATE).write_text(text, encoding="utf-8")


def read_state(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """The checkpoint's state. Raises CorruptCheckpoint when the folder is not a valid checkpoint."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        if state["format"] != FORMAT:
            raise CorruptCheckpoint(f"{folder} is of format {state['format']}, this code reads {FORMAT}")
        for name, digest in state["files"].items():
            if verify and sha256(folder / name) != digest:
                raise CorruptCheckpoint(f"{folder / name} does not match its digest in {STATE}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptCheckpoint(f"{folder} is not a complete checkpoint: {error}") from error
    return state


def read_weights(folder: Path) -> Mapping[str, Tensor]:
    return _read(folder, WEIGHTS)


def read_optimizer(folder: Path) -> Mapping[str, Tensor]:
    return _read(folder, OPTIMIZER)


def _read(folder: Path, file: str) -> Mapping[str, Tensor]:
    return load_file(folder / file) if (folder / file).exists() else Shards(folder, file)


class Shards(Mapping[str, Tensor]):
    """Whole tensors from every rank's pieces, each assembled when it is read."""

    def __init__(self, folder: Path, file: str) -> None:
        self._pieces: dict[str, list[tuple[Any, str, int, list[int]]]] = {}
        for path in sorted(folder.glob(SHARD.replace("{rank:05}", "*"))):
            shard = safe_open(path, framework="pt")
            for key, (offset, shape) in json.loads(shard.metadata()["pieces"]).items():
                if key.startswith(f"{file}/"):
                    self._pieces.setdefault(key.removeprefix(f"{file}/"), []).append((shard, key, offset, shape))

    def __getitem__(self, name: str) -> Tensor:
        """Raises CorruptCheckpoint when some of its elements are in no shard."""
        pieces = self._pieces[name]
        shape = pieces[0][3]
        whole, found = torch.empty(math.prod(shape)), 0
        for shard, key, offset, _ in pieces:
            values = shard.get_tensor(key).reshape(-1)
            whole[offset : offset + len(values)] = values
            found += len(values)
        if found != len(whole):
            raise CorruptCheckpoint(f"{name} has {len(whole)} elements, {found} of them are in the shards")
        return whole.view(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
