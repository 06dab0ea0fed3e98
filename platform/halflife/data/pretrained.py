"""The tokenizers of released models, made lossless as far as they can be.

Text is encoded as is: no special tokens are added (text that looks like one is encoded as text), and neither is the
space that SentencePiece puts before a text, because prompt and answer are tokenised separately.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from halflife import digests
from halflife.data.tokenizers import Pretrained
from halflife.data.vocabularies import ByteTable, byte_letters
from halflife.errors import UserError
from halflife.extras import require

Turn = tuple[str, str]
"""Role and content"""
Template = Callable[[list[Turn], str], tuple[str, str]]
"""(turns, answer) -> prompt and answer as a chat template writes them, its special tokens spelled"""
READING_VERSION = 1
"""To be raised when the same tokenizer.json encodes text differently."""

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def prepare_tokenizer(folder: Path, results: Path) -> Pretrained:
    """The tokenizer of a Hugging Face model folder, stored below `results`/tokenizers.

    Added tokens for which the model's embedding has no row (of padding, images, infilling: Gemma 3, Code Llama) are
    left out: text that spells one is text. Raises UserError when there is no tokenizer, it has no end-of-text token, or
    it is of a type that cannot be lossless.
    """
    spec = _spec(folder)
    eos = _eos(folder, spec)
    if rows := _rows(folder):
        spec = _within(spec, rows, eos)
    digest = digests.of_text(["pretrained", READING_VERSION, eos, spec])
    tokenizer = Pretrained(digest=digest, vocabulary=_size(spec))
    path = _path(results, tokenizer)
    if not path.exists():
        PretrainedCodec(tokenizer, {"separator": eos, "tokenizer": spec})
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
        temporary.write_text(json.dumps({"separator": eos, "tokenizer": spec}), encoding="utf-8")
        temporary.replace(path)
    return tokenizer


def chat_template(folder: Path) -> Template | None:
    """How the chat template of a Hugging Face model folder writes a chat; None if it has none.

    What it gives raises UserError for a template that writes an open prompt otherwise than a whole chat.
    """
    if not (_json(folder / "tokenizer_config.json").get("chat_template") or (folder / "chat_template.jinja").exists()):
        return None
    require("transformers", f"the chat template of {folder}")
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def write(turns: list[Turn], answer: str) -> tuple[str, str]:
        said = [{"role": role, "content": content} for role, content in turns]
        prompt = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        said.append({"role": "assistant", "content": answer})
        whole = tokenizer.apply_chat_template(said, tokenize=False)
        if not whole.startswith(prompt):
            raise UserError(
                f"the chat template of {folder} writes a chat otherwise than the prompt of its last answer, such as "
                f"{prompt[-40:]!r}; give prompts and answers as text, in columns of those names"
            )
        return prompt, whole[len(prompt) :].rstrip()

    return write


def load(tokenizer: Pretrained, results: Path) -> PretrainedCodec:
    """Raises UserError when it is not below `results`."""
    return PretrainedCodec(tokenizer, read(tokenizer, results))


def read(tokenizer: Pretrained, results: Path) -> dict[str, Any]:
    """`tokenizer`: tokenizer.json as data; `separator`: the id of the end-of-text token."""
    path = _path(results, tokenizer)
    if not path.exists():
        raise UserError(f"tokenizer {tokenizer.digest} is not below {results}: run the study's command there first")
    return json.loads(path.read_text(encoding="utf-8"))


def _path(results: Path, tokenizer: Pretrained) -> Path:
    return Path(results) / "tokenizers" / f"{tokenizer.digest}.json"


class PretrainedCodec(ByteTable):
    """Encodes with the `tokenizers` library. Decodes by looking up the bytes of each token, so that a window that cuts
    a character loses only that character. What it normalises or does not know is lost, so losses are measured."""

    lossless = False

    def __init__(self, tokenizer: Pretrained, stored: dict[str, Any]) -> None:
        spec = stored["tokenizer"]
        self._stored = tokenizer, stored
        self.name, self.eos, self.size = tokenizer.name, stored["separator"], _size(spec)
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(_unprefixed(spec)))
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._bytes = _bytes(spec, self._tokenizer.get_vocab(with_added_tokens=True), self.size)

    @cached_property
    def spelling(self) -> PretrainedCodec:
        """The same codec for texts that spell special tokens, `eos` among them, as a chat template does."""
        codec = PretrainedCodec(*self._stored)
        codec._tokenizer.encode_special_tokens = False
        for token in self._stored[1]["tokenizer"].get("added_tokens") or []:
            codec._bytes[token["id"]] = token["content"].encode()
        return codec

    def encode(self, text: str) -> np.ndarray:
        return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def encode_many(self, texts: list[str]) -> list[np.ndarray]:
        encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encoded]


def _spec(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer.json"
    if path.exists():
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is not JSON ({error}): fetch it again") from None
    require("transformers", f"the tokenizer of {folder}, which has no tokenizer.json,")
    from transformers import AutoTokenizer

    try:
        return json.loads(AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str())
    except (OSError, ValueError, AttributeError, ImportError) as error:
        line = str(error).strip().splitlines()[0][:160]
        raise UserError(f"model folder {folder} has no readable tokenizer: {line}") from None


def _size(spec: dict[str, Any]) -> int:
    vocabulary = spec["model"]["vocab"]
    count = len(vocabulary) if isinstance(vocabulary, list) else max(vocabulary.values(), default=-1) + 1
    return max([count, *(token["id"] + 1 for token in spec.get("added_tokens") or [])])


def _rows(folder: Path) -> int | None:
    """Rows of the model's embedding, as its config.json states them."""
    config = _json(folder / "config.json")
    return config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")


def _within(spec: dict[str, Any], rows: int, eos: int) -> dict[str, Any]:
    """tokenizer.json without the added tokens from id `rows` on. `eos` stays, and so do tokens that ordinary text
    encodes to: the unknown token, and those of the vocabulary that are not special."""
    vocabulary = spec["model"]["vocab"]
    known = {piece for piece, _ in vocabulary} if isinstance(vocabulary, list) else set(vocabulary)
    unknown = spec["model"].get("unk_token", spec["model"].get("unk_id"))
    beyond = {
        token["id"]
        for token in spec.get("added_tokens") or []
        if token["id"] >= rows and token["id"] != eos and unknown not in (token["id"], token["content"])
        if token["special"] or token["content"] not in known
    }
    if not beyond:
        return spec
    if isinstance(vocabulary, list):
        vocabulary = [piece for index, piece in enumerate(vocabulary) if index not in beyond]
    else:
        vocabulary = {token: index for token, index in vocabulary.items() if index not in beyond}
    added = [token for token in spec["added_tokens"] if token["id"] not in beyond]
    return spec | {"added_tokens": added, "model": spec["model"] | {"vocab": vocabulary}}


def _eos(folder: Path, spec: dict[str, Any]) -> int:
    """The id of the end-of-text token: eos_token of tokenizer_config.json, else eos_token_id of config.json."""
    named = _json(folder / "tokenizer_config.json").get("eos_token")
    content = named.get("content") if isinstance(named, dict) else named
    ids = {token["content"]: token["id"] for token in spec.get("added_tokens") or []}
    if content in ids:
        return ids[content]
    number = _json(folder / "config.json").get("eos_token_id")
    number = number[0] if isinstance(number, list) and number else number
    if isinstance(number, int) and number in ids.values():
        return number
    raise UserError(
        f"model folder {folder}: its tokenizer has no end-of-text token; expected eos_token in "
        "tokenizer_config.json or eos_token_id in config.json, among tokenizer.json's added tokens"
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): fetch it again") from None


def _unprefixed(part: Any) -> Any:
    """tokenizer.json without the prefix space, of SentencePiece or byte-level BPE."""
    if isinstance(part, list):
        return [_unprefixed(inner) for inner in part]
    if not isinstance(part, dict) or part.get("type") in ("BPE", "Unigram", "WordPiece", "WordLevel"):
        return part
    part = {name: _unprefixed(value) for name, value in part.items()}
    if isinstance(part.get("normalizers"), list):
        part["normalizers"] = [inner for inner in part["normalizers"] if inner["type"] != "Prepend"]
    if isinstance(part.get("normalizer"), dict) and part["normalizer"]["type"] == "Prepend":
        part["normalizer"] = None
    if part.get("type") == "Metaspace":
        part |= {"prepend_scheme": "never"}
        part.pop("add_prefix_space", None)
    if part.get("type") == "ByteLevel":
        part |= {"add_prefix_space": False}
    return part


def _bytes(spec: dict[str, Any], vocabulary: dict[str, int], size: int) -> list[bytes]:
    """The bytes of each token; none for special tokens."""
    steps = json.dumps([spec.get("decoder"), spec.get("pre_tokenizer")])
    known = spec["model"].get("type", "BPE") in ("BPE", "Unigram")
    if not known or not ('"ByteLevel"' in steps or "\\u2581" in steps or '"Metaspace"' in steps):
        raise UserError(
            f"the tokenizer is of type {spec['model'].get('type')}: expected byte-level BPE or SentencePiece, "
            "which are lossless"
        )
    letters = byte_letters() if '"ByteLevel"' in steps else None
    added = {token["id"]: b"" if token["special"] else token["content"].encode() for token in spec["added_tokens"]}
    found = [b""] * size
    for token, index in vocabulary.items():
        if index in added:
            found[index] = added[index]
        elif letters is not None:
            found[index] = bytes(letters[letter] for letter in token if letter in letters)
        elif match := _BYTE.fullmatch(token):
            found[index] = bytes([int(match[1], 16)])
        else:
            found[index] = token.replace("\u2581", " ").encode()
    return found
