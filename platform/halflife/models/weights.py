"""The files with a model's weights, checked and listed by their headers: their data is never read here."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from halflife.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000
"""Bytes; safetensors' own limit."""


@dataclass(frozen=True)
class Tensor:
    """One entry of a header."""

    name: str
    kind: str
    """safetensors' data type, such as BF16."""
    shape: tuple[int, ...]
    path: Path
    start: int
    """Byte of the file at which its data begins."""
    end: int

    @property
    def floating(self) -> bool:
        return "F" in self.kind

    def begins_like(self, other: Tensor) -> bool:
        """Whether the data agrees in the first 4 KiB."""
        return self._first() == other._first()

    def _first(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.start)
            return file.read(min(4096, self.end - self.start))


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights, as transformers chooses them: one of safetensors, else those in the index, else
    pickled ones (which are loaded as plain tensors for conversion).

    Raises UserError when there are none, or one is missing.
    """
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    if (folder / INDEX).exists():
        names = sorted(set(_index(folder).values()))
        if missing := [name for name in names if not (folder / name).exists()]:
            raise UserError(f"model folder {folder} lacks {missing[0]}, which its index names: fetch it again")
        return [folder / name for name in names]
    if shards := sorted(folder.glob("model-*.safetensors")):
        raise UserError(f"model folder {folder} has {shards[0].name} without {INDEX}: fetch the index too")
    found = sorted(folder.glob("pytorch_model*.bin"))
    if not found:
        raise UserError(f"model folder {folder} has no weights: expected {SINGLE}, or numbered shards with {INDEX}")
    return found


def stored_tensors(folder: Path) -> list[Tensor]:
    """Every tensor of a folder with safetensors.

    Raises UserError when a file is no safetensors file or not whole, or a shard lacks what the index says it has.
    """
    files = weight_files(folder)
    found = [tensor for path in files for tensor in _tensors_in(path)]
    if files != [folder / SINGLE]:
        held = {(tensor.name, tensor.path.name) for tensor in found}
        if missing := [pair for pair in _index(folder).items() if pair not in held]:
            raise UserError(
                f"model folder {folder}: {missing[0][1]} lacks {missing[0][0]}, which the index says it holds: the "
                "files are not of one model; fetch them again"
            )
    return found


def _index(folder: Path) -> dict[str, str]:
    """The file of each tensor."""
    try:
        return json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"model folder {folder}: {INDEX} is not an index of weights ({error}): fetch it again"
        ) from None


def _tensors_in(path: Path) -> Sequence[Tensor]:
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            if file.read(8) == b"version ":
                raise ValueError("it is a pointer of git-lfs: run git lfs pull")
            file.seek(0)
            (length,) = struct.unpack("<Q", file.read(8))
            if length > LONGEST_HEADER:
                raise ValueError("header too long")
            header = json.loads(file.read(length))
        begin = 8 + length
        found = [
            Tensor(name, entry["dtype"], tuple(entry["shape"]), path, *(begin + at for at in entry["data_offsets"]))
            for name, entry in header.items()
            if name != "__metadata__"
        ]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a safetensors file ({error}): fetch it again") from None
    whole = max((tensor.end for tensor in found), default=begin)
    if size != whole:
        raise UserError(f"{path} has {size:,} bytes, and by its header {whole:,}: fetch it again")
    return found
