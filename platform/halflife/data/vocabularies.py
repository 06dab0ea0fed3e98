"""Tokenizers of pieces: given ones and a corpus's words, with bytes to fall back on, and byte-level BPE.

All give back exactly the text that they encoded. What is learned of a corpus is kept beside it, so it is made once.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from halflife.data.corpus import corpus_folder, texts
from halflife.data.tokenizers import BPE, ByteCodec, Codec, Lexicon, Words
from halflife.errors import UserError

SMALLEST, LARGEST = 258, 2**20
"""Sizes of a vocabulary: the bytes and the separator must be in it, and something learned."""

PIECES = r" ?[^\W\d_]+| ?\d+| ?[^\w\s]+|_+|\s+"
"""Words, numbers and marks, each with the space before it; the parts of any text, none left out."""
_PIECES = re.compile(PIECES)


def load(tokenizer: Lexicon | Words | BPE, results: Path) -> Codec:
    """Raises UserError for a vocabulary that is too small or too large, and for pieces that repeat or are empty."""
    if isinstance(tokenizer, Lexicon):
        return _lexicon(tokenizer)
    if not SMALLEST <= tokenizer.vocabulary <= LARGEST:
        raise UserError(f"vocabulary of {tokenizer.vocabulary} tokens given: expected {SMALLEST} to {LARGEST:,}")
    kind, train = ("words", _train_words) if isinstance(tokenizer, Words) else ("bpe", _train_bpe)
    name = f"{kind}-{tokenizer.vocabulary}-{tokenizer.corpus.digest}"
    path = corpus_folder(results, tokenizer.corpus) / "tokens" / f"{name}.json"
    if not path.exists():
        _write(path, train, texts(results, tokenizer.corpus, "train"), tokenizer.vocabulary)
    return WordCodec(name, json.loads(path.read_text(encoding="utf-8"))) if kind == "words" else BPECodec(name, path)


def _lexicon(lexicon: Lexicon) -> Codec:
    pieces = lexicon.pieces
    if len(set(pieces)) < len(pieces) or "" in pieces:
        raise UserError(f"lexicon of {len(pieces)} pieces given: expected different pieces, none of them empty")
    longest_first = sorted(pieces, key=len, reverse=True)
    pattern = re.compile("|".join([*map(re.escape, longest_first), "."]), re.DOTALL)
    digest = hashlib.sha256(json.dumps(pieces).encode()).hexdigest()[:16]
    return WordCodec(f"lexicon-{digest}", list(pieces), pattern)


def _write(path: Path, train: Callable[[list[str], int], str], documents: list[str], vocabulary: int) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    temporary.write_text(train(documents, vocabulary), encoding="utf-8")
    temporary.replace(path)


def _train_words(documents: list[str], vocabulary: int) -> str:
    counts: Counter[str] = Counter()
    for document in documents:
        counts.update(_PIECES.findall(document))
    # A piece of one byte is a token already; among equally common ones the alphabet decides.
    pieces = [piece for piece in counts if len(piece.encode()) > 1]
    pieces.sort(key=lambda piece: (-counts[piece], piece))
    return json.dumps(pieces[: vocabulary - 257], ensure_ascii=False)


class Table:
    """Decoding by looking up each token's bytes."""

    name: str
    eos: int
    size: int
    _bytes: list[bytes]

    def decode(self, ids: np.ndarray) -> str:
        return b"".join([self._bytes[index] for index in np.asarray(ids).tolist()]).decode(errors="ignore")


class WordCodec(Table):
    """Ids below 256 are bytes, 256 is the separator, the rest are pieces in their order."""

    def __init__(self, name: str, pieces: list[str], pattern: re.Pattern[str] = _PIECES) -> None:
        self.name, self.eos, self._pattern = name, ByteCodec.eos, pattern
        self.pieces = {piece: 257 + index for index, piece in enumerate(pieces)}
        self._bytes = [bytes([value]) for value in range(256)] + [b""] + [piece.encode() for piece in pieces]
        self.size = len(self._bytes)

    def encode(self, text: str) -> np.ndarray:
        ids: list[int] = []
        for piece in self._pattern.findall(text):
            known = self.pieces.get(piece)
            if known is None:
                ids.extend(piece.encode())
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
        vocab_size=vocabulary - 1,  # the separator is kept apart, so that no text can spell it
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer.to_str()


class BPECodec(Table):
    """Byte-level BPE; the last id is the separator."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self.eos = self._tokenizer.get_vocab_size()
        self.size = self.eos + 1
        # Not the library's decoder: it replaces characters of which a window holds only a part.
        letters = byte_letters()
        spelled = self._tokenizer.get_vocab()
        self._bytes = [b""] * self.size
        for token, index in spelled.items():
            self._bytes[index] = bytes(letters[letter] for letter in token)

    def to_str(self) -> str:
        """tokenizer.json, without the separator."""
        return self._tokenizer.to_str()

    def encode(self, text: str) -> np.ndarray:
        return np.array(self._tokenizer.encode(text).ids, dtype=np.int64)

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array(encoding.ids, dtype=np.int64) for encoding in self._tokenizer.encode_batch_fast(texts)]


def byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in byte-level BPE (GPT-2's table: printable ones for themselves)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    letters = {chr(value): value for value in printable}
    return letters | {chr(256 + index): value for index, value in enumerate(others)}
