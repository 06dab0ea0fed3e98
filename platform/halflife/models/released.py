"""Released models: any Hugging Face causal language model, described from its files, without torch.

A name on the Hub (`EleutherAI/pythia-70m@step3000`), a local folder or a GGUF file becomes a `Released`: a handle
with an identity and a shape. Its identity is the commit of a name, and of a folder or file the digest of its
configuration, weights and tokenizer; where it lies is never hashed.
"""

from __future__ import annotations

import importlib.util
import json
import math
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halflife.errors import UserError
from halflife.fields import recorded

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
"""One of these makes a tokenizer."""
_TOKENIZER_FILES = (*TOKENIZERS, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_FIELDS = {
    "width": ("hidden_size", "n_embd", "d_model"),
    "depth": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "vocabulary": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
}
_DROPOUT = ("hidden_dropout", "resid_pdrop")
"""What families call dropout on the way into the residual stream: GPT-NeoX and GPT-2. Llama's has none."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What config.json and the headers of the weights say."""

    family: str
    """Hugging Face's model_type: llama, gpt_neox, ..."""
    depth: int
    width: int
    heads: int
    feedforward: int
    vocabulary: int
    """Rows of the embedding; a tokenizer may use fewer."""
    context: int | None
    """Longest sequence; None where the configuration states none."""
    parameters: int
    """Counted in the weights, embedding and head left out."""
    embeddings: int
    """Of the embedding and an untied head."""
    matrices: tuple[str, ...]
    """Last names of the layers' matrices, such as q_proj: what LoRA may adapt."""
    dropout: str | None
    """The configuration's name for residual dropout, where the family has it."""


@dataclass(frozen=True, kw_only=True)
class Released:
    """A released model as a start: its rates are what they say (every muP multiplier is 1, at every size)."""

    digest: str
    name: str = recorded()
    """What reports call it."""
    source: str = recorded()
    """As given: a name, a folder, a file."""
    folder: str = recorded()
    """Where its configuration and weights lie on this machine."""
    shape: Shape = recorded()

    multiplier = 1.0
    """muP's. Nobody knows at which width the rates of a released model were found."""

    @property
    def size(self) -> str:
        return self.name

    @property
    def identity(self) -> str:
        """What a checkpoint of this model is known by."""
        return self.digest

    @property
    def parameters(self) -> int:
        """Non-embedding parameters, as counted in the weights."""
        return self.shape.parameters

    @property
    def depth(self) -> int:
        return self.shape.depth

    @property
    def matrices(self) -> tuple[str, ...]:
        return self.shape.matrices

    @property
    def width(self) -> int:
        return self.shape.width

    def embedding_parameters(self, vocabulary: int) -> int:
        """Of the embedding and, untied, of the head; `vocabulary` is the tokenizer's and does not matter here."""
        return self.shape.embeddings

    def flops_per_token(self, sequence: int, vocabulary: int = 0) -> float:
        """Training FLOPs a token: 6 per parameter, the head's among them when a vocabulary is given, and the causal
        attention's products."""
        shape = self.shape
        head = shape.vocabulary * shape.width if vocabulary else 0
        return 6 * (shape.parameters + head) + 6 * shape.depth * shape.width * sequence

    def activation_bytes(self, vocabulary: int) -> float:
        """Estimate of the fp32 bytes that a token's forward pass keeps for the backward pass, its logits and their
        gradient. Transformers' modules keep more between their operations than our decoder does."""
        shape = self.shape
        return 4.0 * (shape.depth * (24 * shape.width + 6 * shape.feedforward) + 3 * shape.vocabulary)

    def describe(self) -> str:
        shape = self.shape
        return (
            f"{self.name}: {shape.family}, {shape.depth} layers x width {shape.width}, {shape.heads} heads, "
            f"feed-forward {shape.feedforward}, vocabulary {shape.vocabulary:,}, {shape.parameters:,} non-embedding "
            "parameters, rates without muP"
        )


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights: those of the index, else all safetensors, else pickled ones (read as plain tensors
    when they are converted). Raises UserError when there are none, or one is missing."""
    if (folder / INDEX).exists():
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            raise UserError(f"model folder {folder} lacks {missing[0]}, which its index names: fetch it again")
        return [folder / name for name in names]
    found = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not found:
        raise UserError(f"model folder {folder} has no weights: expected model.safetensors, whole or in numbered parts")
    return found


def model_files(folder: Path) -> list[Path]:
    """Configuration, weights and tokenizer: what a model folder is identified by.

    Raises UserError when one of the three is missing.
    """
    if not (folder / CONFIG).exists():
        raise UserError(f"model folder {folder} has no {CONFIG}: expected a Hugging Face model folder, or a .gguf file")
    weights = weight_files(folder)
    if not any((folder / name).exists() for name in TOKENIZERS):
        raise UserError(f"model folder {folder} has no tokenizer: expected one of {', '.join(TOKENIZERS)} in it")
    others = [folder / name for name in _TOKENIZER_FILES if (folder / name).exists()]
    return [folder / CONFIG, *weights, *others]


def describe(name: str, source: str, folder: Path, digest: str) -> Released:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model folder {folder}: {CONFIG} is no JSON ({error})") from None
    shape = _shape(config, folder)
    return Released(digest=digest, name=name, source=source, folder=str(folder.resolve()), shape=shape)


def _shape(config: dict[str, Any], folder: Path) -> Shape:
    causal = [kind for kind in config.get("architectures") or [] if not kind.endswith(("ForCausalLM", "LMHeadModel"))]
    if causal:
        raise UserError(f"model folder {folder} holds a {causal[0]}: expected a causal language model (...ForCausalLM)")
    if config.get("quantization_config"):
        raise UserError(f"model folder {folder} holds quantised weights: expected plain ones, or a .gguf file")
    if not _known(str(config.get("model_type"))):
        raise UserError(
            f"model folder {folder}: its model_type is {config.get('model_type')!r}, which the installed transformers "
            "does not have; expected one that it has, such as gpt_neox, llama or qwen2"
        )
    found: dict[str, Any] = {
        field: next((config[name] for name in names if config.get(name) is not None), None)
        for field, names in _FIELDS.items()
    }
    missing = [names[0] for field, names in _FIELDS.items() if field != "context" and found[field] is None]
    if missing:
        raise UserError(f"model folder {folder}: {CONFIG} states no {missing[0]}, so its shape is unknown")
    tensors = dict(tensors_in(weight_files(folder)))
    embeddings = sum(math.prod(shape) for shape in tensors.values() if _is_embedding(shape, found["vocabulary"]))
    return Shape(
        family=config.get("model_type", "unknown"),
        feedforward=next(
            (config[name] for name in ("intermediate_size", "n_inner", "ffn_dim") if config.get(name)),
            4 * found["width"],
        ),
        parameters=sum(map(math.prod, tensors.values())) - embeddings,
        embeddings=embeddings,
        matrices=tuple(
            sorted(
                {
                    name.split(".")[-2]
                    for name, shape in tensors.items()
                    if len(shape) == 2 and name.endswith(".weight") and re.search(r"\.\d+\.", name)
                }
            )
        ),
        dropout=next((name for name in _DROPOUT if name in config), None),
        **found,
    )


def _known(family: str) -> bool:
    """Whether transformers has the family, told by its folders, as importing it takes seconds."""
    package = importlib.util.find_spec("transformers")
    folders = Path(package.origin).parent / "models" if package and package.origin else None
    return folders is not None and any(
        family.replace("-", "_").startswith(folder.name) for folder in folders.iterdir() if folder.name[0] != "_"
    )


def _is_embedding(shape: tuple[int, ...], vocabulary: int) -> bool:
    return len(shape) == 2 and shape[0] == vocabulary


def tensors_in(files: Iterable[Path]) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, from the headers of safetensors files alone.

    Raises UserError for a file that is none.
    """
    for path in files:
        try:
            with open(path, "rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > 100_000_000:  # safetensors' own limit
                    raise ValueError("its header is too long")
                header = json.loads(file.read(length))
        except (struct.error, ValueError) as error:
            raise UserError(f"{path} is no safetensors file ({error}): fetch it again") from None
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, tuple(entry["shape"])
