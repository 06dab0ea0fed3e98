"""Released models: any Hugging Face causal language model, described from its files, without torch.

A name on the Hub (`EleutherAI/pythia-70m@step3000`), a local folder or a GGUF file becomes a `Released`: a handle
with an identity and a shape. The identity of a name is its commit; that of a folder or file is the digest of its
configuration, weights and tokenizer. Its path is never hashed.
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
"""At least one of these is needed for a tokenizer."""
_TOKENIZER_FILES = (*TOKENIZERS, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_FIELDS = {
    "width": ("hidden_size", "n_embd", "d_model"),
    "depth": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "vocabulary": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"),
}
_DROPOUT = ("hidden_dropout", "resid_pdrop")
"""The names of dropout on the residual stream, in GPT-NeoX and GPT-2. Llama has none."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Read from config.json and the headers of the weights."""

    family: str
    """Hugging Face's model_type: llama, gpt_neox, ..."""
    depth: int
    width: int
    heads: int
    feedforward: int
    vocabulary: int
    """Number of rows of the embedding; a tokenizer may use fewer."""
    context: int | None
    """Longest sequence; None if the configuration does not say."""
    parameters: int
    """Non-embedding parameters, counted in the weights."""
    embeddings: int
    """Parameters of the embedding and an untied head."""
    matrices: tuple[str, ...]
    """Last parts of the names of the layers' matrices, such as q_proj: possible LoRA targets."""
    dropout: str | None
    """The configuration's name for residual dropout, if the family has it."""


@dataclass(frozen=True, kw_only=True)
class Released:
    """A released model as a starting point. Learning rates are not scaled: every muP multiplier is 1, at any size."""

    digest: str
    name: str = recorded()
    """Its name in reports."""
    source: str = recorded()
    """As given by the user: a name, a folder, a file."""
    folder: str = recorded()
    """Where its configuration and weights are on this machine."""
    shape: Shape = recorded()

    multiplier = 1.0
    """muP's. The width for which the rates of a released model were tuned is unknown."""

    @property
    def size(self) -> str:
        return self.name

    @property
    def identity(self) -> str:
        """Stored in checkpoints and compared when one is loaded."""
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
        """Parameters of the embedding and an untied head; `vocabulary`, the tokenizer's, is not used."""
        return self.shape.embeddings

    def flops_per_token(self, sequence: int, vocabulary: int = 0) -> float:
        """Training FLOPs per token: 6 per parameter (including the head's if a vocabulary is given), plus the products
        of causal attention."""
        shape = self.shape
        head = shape.vocabulary * shape.width if vocabulary else 0
        return 6 * (shape.parameters + head) + 6 * shape.depth * shape.width * sequence

    def activation_bytes(self, vocabulary: int) -> float:
        """Estimated fp32 bytes per token: activations kept for the backward pass, logits and their gradient.
        Transformers' modules keep more than our decoder."""
        shape = self.shape
        return 4.0 * (shape.depth * (24 * shape.width + 6 * shape.feedforward) + 3 * shape.vocabulary)

    def describe(self) -> str:
        shape = self.shape
        return (
            f"{self.name}: {shape.family}, {shape.depth} layers x width {shape.width}, {shape.heads} heads, "
            f"feed-forward {shape.feedforward}, vocabulary {shape.vocabulary:,}, {shape.parameters:,} non-embedding "
            "parameters, learning rates without muP"
        )


def weight_files(folder: Path) -> list[Path]:
    """The files with the weights: those in the index, else all safetensors, else pickled ones (which are loaded as
    plain tensors for conversion). Raises UserError when there are none, or one is missing."""
    if (folder / INDEX).exists():
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        missing = [name for name in names if not (folder / name).exists()]
        if missing:
            raise UserError(f"model folder {folder} lacks {missing[0]}, which its index names: fetch it again")
        return [folder / name for name in names]
    found = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not found:
        raise UserError(
            f"model folder {folder} has no weights: expected model.safetensors, whole or in numbered shards"
        )
    return found


def model_files(folder: Path) -> list[Path]:
    """Configuration, weights and tokenizer, which identify a model folder.

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
        raise UserError(f"model folder {folder}: {CONFIG} is not JSON ({error})") from None
    shape = _shape(config, folder)
    return Released(digest=digest, name=name, source=source, folder=str(folder.resolve()), shape=shape)


def _shape(config: dict[str, Any], folder: Path) -> Shape:
    causal = [kind for kind in config.get("architectures") or [] if not kind.endswith(("ForCausalLM", "LMHeadModel"))]
    if causal:
        raise UserError(f"model folder {folder} has a {causal[0]}: expected a causal language model (...ForCausalLM)")
    if config.get("quantization_config"):
        raise UserError(f"model folder {folder} has quantised weights: expected unquantised ones, or a .gguf file")
    if not _known(str(config.get("model_type"))):
        raise UserError(
            f"model folder {folder}: the installed transformers does not support its model_type "
            f"{config.get('model_type')!r}; expected one that it supports, such as gpt_neox, llama or qwen2"
        )
    found: dict[str, Any] = {
        field: next((config[name] for name in names if config.get(name) is not None), None)
        for field, names in _FIELDS.items()
    }
    missing = [names[0] for field, names in _FIELDS.items() if field != "context" and found[field] is None]
    if missing:
        raise UserError(f"model folder {folder}: {CONFIG} has no {missing[0]}, so the model's shape is unknown")
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
    """Whether transformers supports the family, judged by its folders, as importing it takes seconds."""
    package = importlib.util.find_spec("transformers")
    folders = Path(package.origin).parent / "models" if package and package.origin else None
    return folders is not None and any(
        family.replace("-", "_").startswith(folder.name) for folder in folders.iterdir() if folder.name[0] != "_"
    )


def _is_embedding(shape: tuple[int, ...], vocabulary: int) -> bool:
    return len(shape) == 2 and shape[0] == vocabulary


def tensors_in(files: Iterable[Path]) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, read from the headers of safetensors files.

    Raises UserError for a file of another format.
    """
    for path in files:
        try:
            with open(path, "rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > 100_000_000:  # safetensors' own limit
                    raise ValueError("header too long")
                header = json.loads(file.read(length))
        except (struct.error, ValueError) as error:
            raise UserError(f"{path} is not a safetensors file ({error}): fetch it again") from None
        for name, entry in header.items():
            if name != "__metadata__":
                yield name, tuple(entry["shape"])
