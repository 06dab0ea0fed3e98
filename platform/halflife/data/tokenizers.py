"""Tokenizers: bytes (default), given characters or pieces, byte-level BPE trained on a corpus, a released model's.

Each may have special tokens: ids after all others, which no text encodes to and which decode to nothing.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from halflife.data.corpus import Corpus
from halflife.errors import UserError
from halflife.fields import recorded


@dataclass(frozen=True, kw_only=True)
class _Special:
    special: tuple[str, ...] = ()
    """Names of special tokens, in the order of their ids"""

    def __post_init__(self) -> None:
        if len(set(self.special)) < len(self.special) or "" in self.special:
            raise UserError(f"special tokens {self.special} given: expected different names, none of them empty")


@dataclass(frozen=True, kw_only=True)
class Bytes(_Special):
    """UTF-8 bytes and an end-of-document token: 257 tokens."""


@dataclass(frozen=True, kw_only=True)
class Characters(_Special):
    """The given characters, one token each, and an end-of-document token. Text with any other character is refused."""

    alphabet: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alphabet or len(set(self.alphabet)) < len(self.alphabet):
            raise UserError(f"alphabet {self.alphabet!r} given: expected different characters, at least one")


@dataclass(frozen=True, kw_only=True)
class Lexicon(_Special):
    """Each piece is one token wherever it occurs (the longest match wins); all other text falls back to bytes.

    For synthetic tasks with a known vocabulary: an item takes few tokens, and small models learn its rule rather than
    its spelling.
    """

    pieces: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class BPE(_Special):
    """Byte-level byte-pair encoding trained on a corpus's training split."""

    corpus: Corpus
    vocabulary: int = 4096


@dataclass(frozen=True, kw_only=True)
class Pretrained(_Special):
    """The tokenizer of a released model, from `data.pretrained.prepare_tokenizer`; the digest is of its content.

    Special tokens take rows of the model's embedding that the tokenizer does not use; what has too few is refused.
    """

    digest: str
    vocabulary: int = recorded()

    @property
    def name(self) -> str:
        """Of its codec."""
        return f"pretrained-{self.digest}"


Tokenizer = Bytes | Characters | Lexicon | BPE | Pretrained


def vocabulary_of(tokenizer: Tokenizer) -> int:
    """Number of tokens, end-of-document and special ones included, without loading anything."""
    return _text_size(tokenizer) + len(tokenizer.special)


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The id of each special token by its name, without loading anything."""
    first = _text_size(tokenizer)
    return {name: first + index for index, name in enumerate(tokenizer.special)}


def without_special(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer without special tokens: text has the same tokens with both."""
    return replace(tokenizer, special=())


def _text_size(tokenizer: Tokenizer) -> int:
    """Number of tokens without the special ones"""
    if isinstance(tokenizer, Lexicon):
        return ByteCodec.size + len(tokenizer.pieces)
    if isinstance(tokenizer, Characters):
        return len(tokenizer.alphabet) + 1
    return ByteCodec.size if isinstance(tokenizer, Bytes) else tokenizer.vocabulary


class Codec(Protocol):
    """Encodes and decodes."""

    name: str
    """Unique; part of the file names of encoded corpora."""
    size: int
    """Number of tokens, `eos` and special ones included."""
    special: int
    """Number of special tokens, the last ones"""
    eos: int
    """The token after every document; no text encodes to it."""
    lossless: bool
    """Whether decoding an encoded text gives exactly that text by construction; otherwise it is measured (see
    `data.round_trip`)."""

    def encode(self, text: str) -> np.ndarray:
        """Token ids, int64."""
        ...

    def encode_many(self, texts: list[str]) -> list[np.ndarray]: ...

    def decode(self, ids: np.ndarray, errors: str = "ignore") -> str:
        """The text, without `eos`. `errors`: what bytes become that are no UTF-8, as in `bytes.decode`."""
        ...


class ByteCodec:
    name, size, special, eos, lossless = "bytes", 257, 0, 256, True

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: np.ndarray, errors: str = "ignore") -> str:
        ids = np.asarray(ids)
        return ids[ids != self.eos].astype(np.uint8).tobytes().decode(errors=errors)


class CharacterCodec:
    """Ids are indices into the alphabet; `eos` comes after them."""

    special, lossless = 0, True

    def __init__(self, alphabet: str) -> None:
        self.name = f"characters-{hashlib.sha256(alphabet.encode()).hexdigest()[:16]}"
        self.alphabet, self.eos, self.size = alphabet, len(alphabet), len(alphabet) + 1
        self._ids = {character: index for index, character in enumerate(alphabet)}

    def encode(self, text: str) -> np.ndarray:
        """Raises UserError for a character that is not in the alphabet."""
        try:
            return np.array([self._ids[character] for character in text], dtype=np.int64)
        except KeyError as error:
            raise UserError(f"text with {error} given: expected only characters of {self.alphabet!r}") from None

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: np.ndarray, errors: str = "ignore") -> str:
        return "".join(self.alphabet[index] for index in np.asarray(ids).tolist() if index != self.eos)


class SpecialCodec:
    """The codec of a tokenizer with special tokens, from that of the same without them."""

    def __init__(self, codec: Codec, tokenizer: Tokenizer) -> None:
        """Raises UserError when a trained BPE has fewer tokens than it was asked for, so that ids would have gaps."""
        self.name, self.eos, self.lossless = codec.name, codec.eos, codec.lossless  # encoded corpora are the same
        self.special = len(tokenizer.special)
        self.size = codec.size + self.special
        self._codec = codec
        if self.size != vocabulary_of(tokenizer):
            raise UserError(
                f"special tokens of a vocabulary of {_text_size(tokenizer)} given: its text has {codec.size}; "
                "give that vocabulary"
            )

    def encode(self, text: str) -> np.ndarray:
        return self._codec.encode(text)

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        return self._codec.encode_many(texts)

    def decode(self, ids: np.ndarray, errors: str = "ignore") -> str:
        ids = np.asarray(ids)
        return self._codec.decode(ids[ids < self._codec.size], errors)
