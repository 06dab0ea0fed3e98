"""A split as one flat token array, written once and memory-mapped by every reader."""

from __future__ import annotations

import functools
import json
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from halflife.data.codecs import load
from halflife.data.corpus import Corpus, corpus_folder, text_batches
from halflife.data.tokenizers import Codec, Pretrained, Tokenizer


@dataclass
class RoundTrip:
    """What decoding the tokens of a split gives back of its text."""

    characters: int = 0
    """Of the text."""
    lost: int = 0
    """Characters that are not given back, at least: a change of their order is not counted."""
    documents: list[int] = field(default_factory=list)
    """Indices of the documents that are not given back exactly."""
    example: tuple[str, str] = ("", "")
    """A part of the first of them, and what became of it."""

    @property
    def share(self) -> float:
        """Of the characters that are not given back."""
        return self.lost / max(1, self.characters)

    def add(self, index: int, text: str, back: str) -> None:
        """Compare document `index` with what was decoded."""
        self.characters += len(text)
        if text == back:
            return
        self.lost += sum((Counter(text) - Counter(back)).values())
        self.documents.append(index)
        if len(self.documents) == 1:
            at = next(
                (i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back))
            )
            self.example = (text[max(0, at - 10) : at + 10], back[max(0, at - 10) : at + 10])


def measure(results: Path, corpus: Corpus, split: str, tokenizer: Tokenizer) -> RoundTrip:
    """What the tokenizer gives back of a split; empty if it is lossless. Writes the token array if it is missing."""
    if not isinstance(tokenizer, Pretrained):
        return RoundTrip()
    token_array(results, corpus, split, tokenizer)
    found = measured(results, corpus, split, tokenizer)
    assert found is not None, "written with the array"
    return found


def measured(results: Path, corpus: Corpus, split: str, tokenizer: Pretrained) -> RoundTrip | None:
    """The same, or None if its token array is not written yet."""
    path = _path(results, corpus, split, tokenizer.name).with_suffix(".json")
    return RoundTrip(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def _path(results: Path, corpus: Corpus, split: str, codec: str) -> Path:
    return corpus_folder(results, corpus) / "tokens" / f"{codec}-{split}.npy"


def token_array(results: Path, corpus: Corpus, split: str, tokenizer: Tokenizer) -> np.ndarray:
    """The split's documents, each followed by `eos`: one memory-mapped little-endian array of token ids, uint16 if the
    vocabulary fits, else uint32."""
    return _token_array(Path(results), corpus, split, tokenizer)


def known_length(results: Path, corpus: Corpus, split: str, tokenizer: Tokenizer) -> int | None:
    """Tokens of a split, or None if its array is not written yet."""
    written = _path(Path(results), corpus, split, load(tokenizer, results).name).exists()
    return len(token_array(results, corpus, split, tokenizer)) if written else None


@functools.lru_cache(maxsize=64)
def _token_array(results: Path, corpus: Corpus, split: str, tokenizer: Tokenizer) -> np.ndarray:
    codec = load(tokenizer, results)
    path = _path(results, corpus, split, codec.name)
    if not path.exists() or not (codec.lossless or path.with_suffix(".json").exists()):
        _write(path, text_batches(results, corpus, split), codec)
    return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)  # slices of a memmap are slow


def _write(path: Path, batches: Iterable[list[str]], codec: Codec) -> None:
    """Writes batch by batch, as the split may be larger than memory, and the length into the header at the end."""
    dtype = np.dtype("<u2" if codec.size <= 2**16 else "<u4")
    eos = np.array([codec.eos], dtype=dtype)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    count, number, measured = 0, 0, RoundTrip()
    with open(temporary, "wb") as file:
        _write_header(file, dtype, count)
        for documents in batches:
            for text, ids in zip(documents, codec.encode_many(documents), strict=True):
                file.write(ids.astype(dtype).tobytes() + eos.tobytes())
                if not codec.lossless:
                    measured.add(number, text, codec.decode(ids))
                count, number = count + len(ids) + 1, number + 1
        file.seek(0)
        _write_header(file, dtype, count)
    if not codec.lossless:
        record = temporary.with_suffix(".json")
        record.write_text(json.dumps(asdict(measured)), encoding="utf-8")
        record.replace(path.with_suffix(".json"))
    temporary.replace(path)


def _write_header(file: BinaryIO, dtype: np.dtype, count: int) -> None:
    """numpy pads the header, so its length does not depend on `count`."""
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, described)


def document_bounds(tokens: np.ndarray, eos: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the first token and of the `eos` of each document."""
    ends = np.flatnonzero(np.asarray(tokens) == eos)
    return np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)], ends
