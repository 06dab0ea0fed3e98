"""The codecs of Lexicon and BPE. BPE is trained once and stored next to its corpus."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from halflife.data.corpus import corpus_folder, texts
from halflife.data.tokenizers import BPE, ByteCodec, Codec, Lexicon
from halflife.errors import UserError

SMALLEST, LARGEST = 258, 2**20
"""Limits of a vocabulary: 256 bytes and `eos` leave room for at least one merge."""


def load(tokenizer: Lexicon | BPE, results: Path) -> Codec:
    """Raises UserError for a vocabulary that is too small or too large, and for duplicate or empty pieces."""
    if isinstance(tokenizer, Lexicon):
        return LexiconCodec(tokenizer.pieces)
    if not SMALLEST <= tokenizer.vocabulary <= LARGEST:
        raise UserError(f"vocabulary of {tokenizer.vocabulary} tokens given: expected {SMALLEST} to {LARGEST:,}")
    name = f"bpe-{tokenizer.vocabulary}-{tokenizer.corpus.digest}"
    path = corpus_folder(results, tokenizer.corpus) / "tokens" / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
        temporary.write_text(_train_bpe(texts(results, tokenizer.corpus, "train"), tokenizer.vocabulary), "utf-8")
        temporary.replace(path)
    return BPECodec(name, path)


class ByteTable:
    """Decodes by looking up the bytes of each token."""

    name: str
    eos: int
    size: int
    special: int = 0
    lossless: bool = True
    _bytes: list[bytes]

    def decode(self, ids: np.ndarray, errors: str = "ignore") -> str:
        return b"".join([self._bytes[index] for index in np.asarray(ids).tolist()]).decode(errors=errors)


class LexiconCodec(ByteTable):
    """Ids below 256 are bytes, 256 is `eos`, then the pieces in their order."""

    def __init__(self, pieces: tuple[str, ...]) -> None:
        if len(set(pieces)) < len(pieces) or "" in pieces:
            raise UserError(f"lexicon of {len(pieces)} pieces given: expected different pieces, none of them empty")
        self.name = f"lexicon-{hashlib.sha256(json.dumps(pieces).encode()).hexdigest()[:16]}"
        self.eos = ByteCodec.eos
        self.pieces = {piece: ByteCodec.size + index for index, piece in enumerate(pieces)}
        self._bytes = [bytes([value]) for value in range(256)] + [b""] + [piece.encode() for piece in pieces]
        self.size = len(self._bytes)
        self._pattern = re.compile("|".join([*self.alternatives, "."]), re.DOTALL)

    @property
    def alternatives(self) -> list[str]:
        """A regular expression for each piece, longest first."""
        return [re.escape(piece) for piece in sorted(self.pieces, key=len, reverse=True)]

    def encode(self, text: str) -> np.ndarray:
        ids: list[int] = []
        for part in self._pattern.findall(text):
            known = self.pieces.get(part)
            if known is None:
                ids.extend(part.encode())
            else:
                ids.append(known)
        return np.array(ids, dtype=np.int64)

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        return [self.encode(text) for text in texts]


def _train_bpe(documents: list[str], vocabulary: int) -> str:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,  # eos is not in tokenizer.json, so that no text can encode to it
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer.to_str()


class BPECodec(ByteTable):
    """Byte-level BPE; the last id is `eos`."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self.eos = self._tokenizer.get_vocab_size()
        self.size = self.eos + 1
        # Not the library's decoder: it replaces incomplete characters at the ends of a window instead of dropping them
        letters = byte_letters()
        vocabulary = self._tokenizer.get_vocab()
        self._bytes = [b""] * self.size
        for token, index in vocabulary.items():
            self._bytes[index] = bytes(letters[letter] for letter in token)

    def to_str(self) -> str:
        """tokenizer.json, without `eos`."""
        return self._tokenizer.to_str()

    def encode(self, text: str) -> np.ndarray:
        return np.array(self._tokenizer.encode(text).ids, dtype=np.int64)

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array(encoding.ids, dtype=np.int64) for encoding in self._tokenizer.encode_batch_fast(texts)]


def byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in byte-level BPE (GPT-2's table: printable characters for themselves)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    letters = {chr(value): value for value in printable}
    return letters | {chr(256 + index): value for index, value in enumerate(others)}
