"""Checkpoints: a folder with two safetensors files and `state.json`, which is written last and holds their digests.

A folder without a state, or whose files do not match it, is no checkpoint. Nothing in it is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
FORMAT = 1


class CorruptCheckpoint(Exception):
    """The folder is incomplete, or its files are not those that its state names."""


def write(
    folder: Path, *, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint; `state` is JSON data. The folder counts only once this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATE).unlink(missing_ok=True)
    digests = {}
    for name, tensors in ((WEIGHTS, weights), (OPTIMIZER, optimizer)):
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, folder / name)
        digests[name] = sha256(folder / name)
    text = json.dumps({"format": FORMAT, **state, "files": digests}, indent=2, sort_keys=True)
    (folder / STATE).write_text(text, encoding="utf-8")


def read_state(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """The checkpoint's state. Raises CorruptCheckpoint when the folder is not one."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        files = state["files"]
        if state["format"] != FORMAT:
            raise CorruptCheckpoint(f"{folder} is of format {state['format']}, this code reads {FORMAT}")
        for name in (WEIGHTS, OPTIMIZER):
            if verify and sha256(folder / name) != files[name]:
                raise CorruptCheckpoint(f"{folder / name} is not the file that {STATE} names")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptCheckpoint(f"{folder} is no complete checkpoint: {error}") from error
    return state


def read_weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / WEIGHTS)


def read_optimizer(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / OPTIMIZER)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
