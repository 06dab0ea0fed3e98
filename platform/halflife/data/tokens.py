"""A split as one flat token array, written once and memory-mapped by every reader."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from halflife.data.codecs import load
from halflife.data.corpus import Corpus, corpus_folder, text_batches
from halflife.data.tokenizers import Codec, Tokenizer


def token_array(results: Path, corpus: Corpus, split: str, tokenizer: Tokenizer) -> np.ndarray:
    """The split's documents, each followed by `eos`: one memory-mapped little-endian array of token ids, uint16 if the
    vocabulary fits, else uint32."""
    return _token_array(Path(results), corpus, split, tokenizer)


@functools.lru_cache(maxsize=64)
def _token_array(results: Path, corpus: Corpus, split: str, tokenizer: Tokenizer) -> np.ndarray:
    codec = load(tokenizer, results)
    path = corpus_folder(results, corpus) / "tokens" / f"{codec.name}-{split}.npy"
    if not path.exists():
        _write(path, text_batches(results, corpus, split), codec)
    return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)  # slices of a memmap are slow


def _write(path: Path, batches: Iterable[list[str]], codec: Codec) -> None:
    """Writes batch by batch, as the split may be larger than memory, and the length into the header at the end."""
    dtype = np.dtype("<u2" if codec.size <= 2**16 else "<u4")
    eos = np.array([codec.eos], dtype=dtype)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    count = 0
    with open(temporary, "wb") as file:
        _write_header(file, dtype, count)
        for documents in batches:
            for ids in codec.encode_many(documents):
                file.write(ids.astype(dtype).tobytes() + eos.tobytes())
                count += len(ids) + 1
        file.seek(0)
        _write_header(file, dtype, count)
    temporary.replace(path)


def _write_header(file: BinaryIO, dtype: np.dtype, count: int) -> None:
    """numpy pads the header, so its length does not depend on `count`."""
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, described)


def document_bounds(tokens: np.ndarray, eos: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the first token and of the `eos` of each document."""
    ends = np.flatnonzero(np.asarray(tokens) == eos)
    return np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)], ends
