"""Every tokenizer as the files that Hugging Face's libraries read: tokenizer.json and tokenizer_config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from halflife.data import pretrained
from halflife.data.codecs import load
from halflife.data.tokenizers import BPE, Bytes, Pretrained, Tokenizer, Words
from halflife.data.vocabularies import PIECES, BPECodec, WordCodec, byte_letters

SEPARATOR = "<|separator|>"
"""How our separator, which no text encodes to, is spelled there."""


def write(tokenizer: Tokenizer, results: Path, folder: Path, context: int | None) -> None:
    """Write the two files; text encodes to the same ids there as here."""
    spec, ends = _spec(tokenizer, results)
    (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": ends,
        "clean_up_tokenization_spaces": False,
    }
    if context is not None:
        config["model_max_length"] = context
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _spec(tokenizer: Tokenizer, results: Path) -> tuple[dict[str, Any], str]:
    """tokenizer.json as data, and the spelling of the token that ends a text."""
    if isinstance(tokenizer, Pretrained):
        kept = pretrained.read(tokenizer, results)
        spelled = {token["id"]: token["content"] for token in kept["tokenizer"]["added_tokens"]}
        return kept["tokenizer"], spelled[kept["separator"]]
    codec = load(tokenizer, results)
    letters = {value: letter for letter, value in byte_letters().items()}
    if isinstance(codec, BPECodec):
        made = tokenizers.Tokenizer.from_str(codec.to_str())
    else:
        vocabulary = {letters[value]: value for value in range(256)}
        steps: list[Any] = []
        if isinstance(codec, WordCodec):
            vocabulary |= {"".join(letters[byte] for byte in piece.encode()): i for piece, i in codec.pieces.items()}
            vocabulary[SEPARATOR] = codec.eos  # its id is not the last; cut into pieces, no text spells it
            steps = [pre_tokenizers.Split(tokenizers.Regex(PIECES), behavior="isolated")]
        # a whole piece that is a token stands for itself; what is left falls to bytes, as there are no merges
        made = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
        made.pre_tokenizer = pre_tokenizers.Sequence(steps)
        made.decoder = decoders.ByteLevel()
    spec = json.loads(made.to_str())
    spec["added_tokens"] = [
        {
            "id": codec.eos,
            "content": SEPARATOR,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ]
    return spec, SEPARATOR


def described(fields: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a stage's record describes."""
    from halflife.data.corpus import Corpus

    kind = fields["is"]
    if kind == "Bytes":
        return Bytes()
    if kind == "Pretrained":
        return Pretrained(digest=fields["digest"], vocabulary=fields["vocabulary"])
    corpus = Corpus(digest=fields["corpus"]["digest"], label=fields["corpus"]["label"])
    return {"Words": Words, "BPE": BPE}[kind](corpus=corpus, vocabulary=fields["vocabulary"])
