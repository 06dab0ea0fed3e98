"""Tokenizers: bytes (default), given pieces, words, byte-level BPE trained on the corpus, those of released models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from halflife.data.corpus import Corpus
from halflife.fields import recorded


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """UTF-8 bytes and a document separator: 257 tokens."""


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Given pieces, each one token wherever it stands (the longest wins); the rest falls back to bytes.

    For languages whose words are known: an item is a few tokens, and small models learn its rule, not its spelling.
    """

    pieces: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Words:
    """The commonest words and marks of a corpus's training split; what is rarer falls back to bytes."""

    corpus: Corpus
    vocabulary: int = 4096


@dataclass(frozen=True, kw_only=True)
class BPE:
    """Byte-level byte-pair encoding trained on a corpus's training split."""

    corpus: Corpus
    vocabulary: int = 4096


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """The tokenizer of a released model, made by `data.pretrained.prepare_tokenizer`; the digest is its content's."""

    digest: str
    vocabulary: int = recorded()


Tokenizer = Bytes | Lexicon | Words | BPE | Pretrained


def vocabulary_of(tokenizer: Tokenizer) -> int:
    """Tokens, the separator among them, known without loading anything; of words, the most that there can be."""
    if isinstance(tokenizer, Lexicon):
        return ByteCodec.size + len(tokenizer.pieces)
    return ByteCodec.size if isinstance(tokenizer, Bytes) else tokenizer.vocabulary


class Codec(Protocol):
    """A tokenizer at work. Encoding and decoding again gives the text back."""

    name: str
    """A file name for what was made with it."""
    size: int
    """Tokens in the vocabulary, the separator among them."""
    eos: int
    """Stands after every document; no text encodes to it."""

    def encode(self, text: str) -> np.ndarray:
        """Token ids, int64."""
        ...

    def encode_many(self, texts: list[str]) -> list[np.ndarray]: ...

    def decode(self, ids: np.ndarray) -> str:
        """The text; separators, and characters of which only a part is there, are left out."""
        ...


class ByteCodec:
    name, size, eos = "bytes", 257, 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: np.ndarray) -> str:
        ids = np.asarray(ids)
        return ids[ids != self.eos].astype(np.uint8).tobytes().decode(errors="ignore")
