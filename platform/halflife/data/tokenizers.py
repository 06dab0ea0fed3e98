"""Tokenizers: bytes (default), words, byte-level BPE trained on the corpus."""

from __future__ import annotations

from dataclasses import dataclass

from halflife.data.corpus import Corpus


@dataclass(frozen=True, kw_only=True)
class Bytes:
    """UTF-8 bytes and a document separator: 257 tokens."""


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


Tokenizer = Bytes | Words | BPE
