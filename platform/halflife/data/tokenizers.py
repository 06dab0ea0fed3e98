"""Tokenizers: bytes (default), a given lexicon, byte-level BPE trained on a corpus, those of released models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from halflife.data.corpus import Corpus
from halflife.fields import recorded


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """UTF-8 bytes and an end-of-document token: 257 tokens."""


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Each piece is one token wherever it occurs (the longest match wins); all other text falls back to bytes.

    For synthetic tasks with a known vocabulary: an item takes few tokens, and small models learn its rule rather than
    its spelling.
    """

    pieces: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class BPE:
    """Byte-level byte-pair encoding trained on a corpus's training split."""

    corpus: Corpus
    vocabulary: int = 4096


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """The tokenizer of a released model, from `data.pretrained.prepare_tokenizer`; the digest is of its content."""

    digest: str
    vocabulary: int = recorded()

    @property
    def name(self) -> str:
        """Of its codec."""
        return f"pretrained-{self.digest}"


Tokenizer = Bytes | Lexicon | BPE | Pretrained


def vocabulary_of(tokenizer: Tokenizer) -> int:
    """Number of tokens, end-of-document included, without loading anything."""
    if isinstance(tokenizer, Lexicon):
        return ByteCodec.size + len(tokenizer.pieces)
    return ByteCodec.size if isinstance(tokenizer, Bytes) else tokenizer.vocabulary


class Codec(Protocol):
    """Encodes and decodes."""

    name: str
    """Unique; part of the file names of encoded corpora."""
    size: int
    """Number of tokens, `eos` included."""
    eos: int
    """The token after every document; no text encodes to it."""
    lossless: bool
    """Whether decoding an encoded text gives exactly that text by construction; otherwise it is measured (see
    `data.round_trip`)."""

    def encode(self, text: str) -> np.ndarray:
        """Token ids, int64."""
        ...

    def encode_many(self, texts: list[str]) -> list[np.ndarray]: ...

    def decode(self, ids: np.ndarray) -> str:
        """The text, without `eos` and without incomplete UTF-8 characters."""
        ...


class ByteCodec:
    name, size, eos, lossless = "bytes", 257, 256, True

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: np.ndarray) -> str:
        ids = np.asarray(ids)
        return ids[ids != self.eos].astype(np.uint8).tobytes().decode(errors="ignore")
