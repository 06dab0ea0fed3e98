"""From a tokenizer's description to its codec."""

from __future__ import annotations

import functools
from pathlib import Path

from halflife.data.tokenizers import (
    ByteCodec,
    Bytes,
    CharacterCodec,
    Characters,
    Codec,
    Pretrained,
    SpecialCodec,
    Tokenizer,
    without_special,
)


@functools.lru_cache(maxsize=32)
def load(tokenizer: Tokenizer, results: Path) -> Codec:
    """The codec of a tokenizer; BPE is trained on its corpus once and stored next to it."""
    if tokenizer.special:
        return SpecialCodec(load(without_special(tokenizer), results), tokenizer)
    if isinstance(tokenizer, Bytes):
        return ByteCodec()
    if isinstance(tokenizer, Characters):
        return CharacterCodec(tokenizer.alphabet)
    from halflife.data import pretrained, vocabularies

    if isinstance(tokenizer, Pretrained):
        return pretrained.load(tokenizer, results)
    return vocabularies.load(tokenizer, results)
