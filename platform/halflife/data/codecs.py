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
from halflife.errors import UserError
from halflife.tasks.synthetic import SyntheticTask


def of_task(task: SyntheticTask, codec: Codec) -> Codec:
    """The codec for a task's prompts and answers, given that of the tokenizer. Raises UserError as `spelling` does."""
    return spelling(codec) if task.special else codec


def spelling(codec: Codec) -> Codec:
    """For texts that spell special tokens. Raises UserError for a tokenizer that is not a released model's."""
    found = getattr(codec, "spelling", None)
    if found is None:
        raise UserError(
            f"chats with the special tokens of a chat template given: the tokenizer {codec.name} has none; use the "
            "released model whose template it is"
        )
    return found


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
