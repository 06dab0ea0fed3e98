"""A tokenizer's description put to work."""

from __future__ import annotations

import functools
from pathlib import Path

from halflife.data.tokenizers import ByteCodec, Bytes, Codec, Pretrained, Tokenizer


@functools.lru_cache(maxsize=32)
def load(tokenizer: Tokenizer, results: Path) -> Codec:
    """The tokenizer at work; words and BPE are trained on their corpus once and kept beside it."""
    if isinstance(tokenizer, Bytes):
        return ByteCodec()
    from halflife.data import pretrained, vocabularies

    if isinstance(tokenizer, Pretrained):
        return pretrained.load(tokenizer, results)
    return vocabularies.load(tokenizer, results)
