"""Writes any tokenizer in Hugging Face's format: tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from halflife.data import pretrained
from halflife.data.codecs import load
from halflife.data.tokenizers import CharacterCodec, Pretrained, Tokenizer, special_ids, without_special
from halflife.data.vocabularies import BPECodec, LexiconCodec, byte_letters

EOS = "<|separator|>"
"""How our `eos`, which no text encodes to, is written in tokenizer.json."""


def write(tokenizer: Tokenizer, results: Path, folder: Path, context: int | None) -> None:
    """Write the two files. Text encodes to the same ids with them as with our codec, unless it spells `eos` or a
    special token."""
    spec, eos = _spec(without_special(tokenizer), results)
    spec["added_tokens"] += [_added(name, index) for name, index in special_ids(tokenizer).items()]
    (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": eos,
        "clean_up_tokenization_spaces": False,
    }
    if context is not None:
        config["model_max_length"] = context
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _spec(tokenizer: Tokenizer, results: Path) -> tuple[dict[str, Any], str]:
    """tokenizer.json as data, and the end-of-text token."""
    if isinstance(tokenizer, Pretrained):
        stored = pretrained.read(tokenizer, results)
        tokens = {token["id"]: token["content"] for token in stored["tokenizer"]["added_tokens"]}
        return stored["tokenizer"], tokens[stored["separator"]]
    codec = load(tokenizer, results)
    letters = {value: letter for letter, value in byte_letters().items()}
    if isinstance(codec, BPECodec):
        made = tokenizers.Tokenizer.from_str(codec.to_str())
    elif isinstance(codec, CharacterCodec):
        vocabulary = {character: index for index, character in enumerate(codec.alphabet)}
        made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary | {EOS: codec.eos}, merges=[]))
        made.decoder = decoders.Fuse()
    else:
        vocabulary = {letters[value]: value for value in range(256)}
        steps: list[Any] = []
        if isinstance(codec, LexiconCodec):
            vocabulary |= {"".join(letters[byte] for byte in piece.encode()): i for piece, i in codec.pieces.items()}
            vocabulary[EOS] = codec.eos  # its id is not the last one
            if codec.pieces:
                steps = [pre_tokenizers.Split(tokenizers.Regex("|".join(codec.alternatives)), behavior="isolated")]
        # with ignore_merges a part that is a piece is one token; all other parts fall back to bytes, without merges
        made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        made.pre_tokenizer = pre_tokenizers.Sequence(steps)
        made.decoder = decoders.ByteLevel()
    spec = json.loads(made.to_str())
    spec["added_tokens"] = [_added(EOS, codec.eos)]
    return spec, EOS


def _added(content: str, index: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, **flags, "special": True}
