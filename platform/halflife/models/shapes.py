"""The shape of a released model: config.json read as transformers reads it, and the headers of the weights.

Neither torch nor transformers is imported, and no weight is read, so that a model of any size is described, or refused,
at once.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halflife.errors import UserError
from halflife.models.families import Family, family
from halflife.models.released import Shape
from halflife.models.weights import Tensor, stored_tensors

CONFIG = "config.json"
_DROPOUT = ("hidden_dropout", "resid_pdrop")
"""The names of dropout on the residual stream, in GPT-NeoX and GPT-2. Llama has none."""
_FEEDFORWARD = ("intermediate_size", "n_inner", "ffn_dim")
_LAYER = re.compile(r"(.*?)\.(\d+)\.")
_BUFFER = re.compile(
    r"\.(masked_bias|inv_freq|causal_mask|act_fn\.(beta|eps)|e_score_correction_bias|expert_bias)$|(^|\.)mtp[._]"
)
"""Stored, but not trained: masks, rotary frequencies, constants and heads for several tokens, as earlier releases of
transformers and other trainers stored them. What today's release stores is in its source (`Family.buffers`)."""
_MASK = re.compile(r"\.(attn|attention)\.bias$")
"""A mask if it has four dimensions, as in the published weights of GPT-2 and Pythia; else a bias."""
_OWN_HEAD = re.compile(r"(cls|lm_head|head|generator_predictions)\..*(dense|transform|norm)", re.IGNORECASE)


def read_config(folder: Path) -> tuple[dict[str, Any], Family]:
    """config.json, and what transformers knows about the family.

    Raises UserError unless it is a causal language model with attention that transformers knows, unquantised.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"model folder {folder}: {CONFIG} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"model folder {folder}: {CONFIG} is not a JSON object")
    causal = [kind for kind in config.get("architectures") or [] if not kind.endswith(("ForCausalLM", "LMHeadModel"))]
    if causal:
        raise UserError(f"model folder {folder} has a {causal[0]}: expected a causal language model (...ForCausalLM)")
    if config.get("quantization_config"):
        raise UserError(f"model folder {folder} has quantised weights: expected unquantised ones, or a .gguf file")
    found = family(str(config.get("model_type")))
    if found is None:
        raise UserError(
            f"model folder {folder}: the installed transformers does not support its model_type "
            f"{config.get('model_type')!r}; expected one that it supports, such as gpt_neox, llama or qwen2"
        )
    if not found.knows("num_attention_heads") and found.value(config, "num_attention_heads") is None:
        raise UserError(
            f"model folder {folder}: the family {config['model_type']} has no attention, whose keys and values soft "
            "prompts and generation need; expected a transformer, such as gpt_neox, llama or qwen2"
        )
    return config, found


def read_shape(folder: Path) -> Shape:
    """Of a folder with safetensors.

    Raises UserError as `read_config` does, and when weights are damaged, missing, or not those of the configuration.
    """
    config, known = read_config(folder)
    fields = {
        "width": config.get("n_embed") or known.value(config, "hidden_size"),  # n_embed: Bloom's and Falcon's old name
        "depth": known.value(config, "num_hidden_layers"),
        "heads": known.value(config, "num_attention_heads"),
        "vocabulary": known.value(config, "vocab_size"),
    }
    standard = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    for name, value in zip(standard, fields.values(), strict=True):
        if not isinstance(value, int) or value < 1:
            raise UserError(f"model folder {folder}: {CONFIG} has no {name}, so the model's shape is unknown")
    layers, others = _trained(stored_tensors(folder), known, fields["depth"], folder)
    tied = bool(known.value(config, "tie_word_embeddings"))
    vocabulary = _vocabulary(others, fields["vocabulary"], tied, folder)
    rest = [tensor for tensor in others if not _by_token(tensor, fields["vocabulary"])]
    matrices = [tensor.name for tensor in layers if len(tensor.shape) == 2 and tensor.name.endswith(".weight")]
    return Shape(
        family=config["model_type"],
        feedforward=next((config[name] for name in _FEEDFORWARD if config.get(name)), 4 * fields["width"]),
        context=context(config),
        parameters=_count([*layers, *rest]),
        embeddings=_count(vocabulary),
        matrices=tuple(sorted({name.split(".")[-2] for name in matrices})),
        dropout=next((name for name in _DROPOUT if name in config), None),
        **fields,
    )


def context(config: Mapping[str, Any]) -> int | None:
    """The longest sequence that a model with this config.json reads; None if it sets no limit."""
    known = family(str(config.get("model_type")))
    if known is None:
        return None
    found = (known.value(config, name) for name in ("max_position_embeddings", "max_seq_len"))
    return next((value for value in found if value is not None), None)


def _trained(tensors: Sequence[Tensor], known: Family, depth: int, folder: Path) -> tuple[list[Tensor], list[Tensor]]:
    """What the architecture trains: the tensors of its layers, and the others."""
    kept = [tensor for tensor in tensors if tensor.floating and not _is_buffer(tensor, known)]
    numbered = {tensor.name: found for tensor in kept if (found := _LAYER.match(tensor.name))}
    stacks = Counter(found[1] for found in numbered.values())
    stack = stacks.most_common(1)[0][0] if stacks else None
    layers: list[Tensor] = []
    others: list[Tensor] = []
    seen: set[int] = set()
    for tensor in kept:
        found = numbered.get(tensor.name)
        if found is None or found[1] != stack:
            others.append(tensor)
        elif int(found[2]) < depth:  # later ones predict further tokens, and transformers leaves them out
            seen.add(int(found[2]))
            layers.append(tensor)
    if len(stacks) == 1 and (missing := sorted(set(range(depth)) - seen)):
        raise UserError(
            f"model folder {folder}: the weights lack layer {missing[0]} of the {depth} that {CONFIG} sets: they are "
            "not of one model, or not whole; fetch them again"
        )
    return layers, others


def _is_buffer(tensor: Tensor, known: Family) -> bool:
    last = tensor.name.rpartition(".")[2]
    mask = len(tensor.shape) == 4 and _MASK.search(tensor.name)
    return last in known.buffers or bool(_BUFFER.search(tensor.name)) or bool(mask)


def _by_token(tensor: Tensor, vocabulary: int) -> bool:
    """Whether it is a matrix with one row per token: an embedding, or the head."""
    return len(tensor.shape) == 2 and tensor.shape[0] == vocabulary and not re.search("wpe|position", tensor.name)


def _vocabulary(others: Sequence[Tensor], vocabulary: int, tied: bool, folder: Path) -> list[Tensor]:
    """The embedding, and the head if it is not the same.

    Raises UserError when one of them is missing, a tied head differs, or the head is not one matrix.
    """
    if own := [tensor.name for tensor in others if _OWN_HEAD.match(tensor.name)]:
        raise UserError(
            f"model folder {folder}: its head has layers of its own ({own[0]}); expected a linear head on the last "
            "hidden state"
        )
    found = [tensor for tensor in others if _by_token(tensor, vocabulary)]
    if not found:
        raise UserError(
            f"model folder {folder}: the weights have no embedding of {vocabulary:,} tokens, as {CONFIG} sets: they "
            "are not of one model; fetch them again"
        )
    if not tied:
        if len(found) == 1 and not re.search("head|embed_out|output", found[0].name):
            raise UserError(
                f"model folder {folder}: the weights have no head, only {found[0].name}, and {CONFIG} does not tie the "
                "two (tie_word_embeddings); expected the weights of a language model with its head"
            )
        return found
    kept: dict[tuple[int, ...], Tensor] = {}
    for tensor in found:
        first = kept.setdefault(tensor.shape, tensor)
        if not tensor.begins_like(first):
            raise UserError(
                f"model folder {folder}: {CONFIG} ties the head to the embedding, but {tensor.name} differs from "
                f"{first.name}: set tie_word_embeddings to false there"
            )
    return list(kept.values())


def _count(tensors: Sequence[Tensor]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors)
