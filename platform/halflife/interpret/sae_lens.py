"""Dictionaries in SAELens' folders: `cfg.json` and `sae_weights.safetensors`, as it has them from 6.0 on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from halflife.errors import UserError
from halflife.interpret.autoencoder import Autoencoder, Scale

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
SCALES: dict[Scale, str] = {"rms": "constant_norm_rescale", "layer norm": "layer_norm", "none": "none"}
"""Its names. It sets a vector's norm to the square root of the width, which sets the root mean square to 1."""
NAMES = {"encoder": "W_enc", "encoder_bias": "b_enc", "decoder": "W_dec", "decoder_bias": "b_dec"}
READ = ("topk", "jumprelu", "standard")


def write(folder: Path, dictionary: Autoencoder, metadata: dict[str, Any] | None = None) -> None:
    """Write a folder that `SAE.load_from_disk` reads. `metadata`: JSON data about the model, such as `hook_name`."""
    folder.mkdir(parents=True, exist_ok=True)
    latents, width = dictionary.decoder.shape
    tensors = {theirs: getattr(dictionary, ours) for ours, theirs in NAMES.items()}
    config: dict[str, Any] = {
        "architecture": "topk",
        "d_in": width,
        "d_sae": latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.centred,
        "normalize_activations": SCALES[dictionary.scale],
        "reshape_activations": "none",
        "metadata": metadata or {},
    }
    if dictionary.threshold is None:
        config |= {"k": dictionary.k, "rescale_acts_by_decoder_norm": False}
    else:
        config["architecture"] = "jumprelu"
        tensors["threshold"] = dictionary.threshold.expand(latents)
    tensors["W_enc"] = tensors["W_enc"].T
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")


def read(folder: Path) -> Autoencoder:
    """The dictionary of a folder, in float32. Raises UserError, in one line, for what is missing or not supported."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        tensors = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"dictionary {folder} given: expected a folder of SAELens with {CONFIG} and {WEIGHTS} ({error})"
        ) from error
    architecture = _one_of(config, "architecture", READ, folder)
    scale = _one_of(config, "normalize_activations", tuple(SCALES.values()), folder)
    _one_of(config, "reshape_activations", ("none",), folder)
    wanted = [*NAMES.values(), *(["threshold"] if architecture == "jumprelu" else [])]
    if missing := [name for name in wanted if name not in tensors]:
        raise UserError(f"dictionary {folder} given: its weights lack {missing[0]}")
    found = {ours: tensors[theirs] for ours, theirs in NAMES.items()}
    found["encoder"] = found["encoder"].T.contiguous()
    if architecture == "topk" and config.get("rescale_acts_by_decoder_norm"):
        found = _folded(found)
    threshold = {"jumprelu": tensors.get("threshold"), "standard": torch.zeros(1)}.get(architecture)
    return Autoencoder(
        **found,
        k=config["k"] if architecture == "topk" else None,
        threshold=threshold,
        scale=next(ours for ours, theirs in SCALES.items() if theirs == scale),
        centred=bool(config.get("apply_b_dec_to_input", True)),
    )


def _one_of(config: dict[str, Any], field: str, choices: tuple[str, ...], folder: Path) -> str:
    """A field's value; its default is the last choice."""
    given = config.get(field, choices[-1])
    if given not in choices:
        raise UserError(f"dictionary {folder} of {field} {given!r} given: expected one of {', '.join(choices)}")
    return given


def _folded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same function with a decoder of unit rows."""
    norm = weights["decoder"].norm(dim=-1, keepdim=True).clamp(min=1e-8)
    return {
        **weights,
        "encoder": weights["encoder"] * norm,
        "encoder_bias": weights["encoder_bias"] * norm[:, 0],
        "decoder": weights["decoder"] / norm,
    }
