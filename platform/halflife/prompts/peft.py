"""Soft prompts as peft's PromptTuning adapters: folders with adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from halflife import digests
from halflife.errors import UserError
from halflife.prompts.soft_prompt import Adapter

CONFIG, WEIGHTS, NAME = "adapter_config.json", "adapter_model.safetensors", "prompt_embeddings"


def prepare_adapter(folder: Path | str) -> Adapter:
    """An adapter to initialize a soft prompt from. Raises UserError if it is not a PromptTuning adapter."""
    folder = Path(folder).expanduser()
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"adapter {str(folder)!r} given: it has no {name}; expected a folder written by peft")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"adapter {str(folder)!r} given: {CONFIG} is not JSON ({error})") from None
    if config.get("peft_type") != "PROMPT_TUNING" or not isinstance(config.get("num_virtual_tokens"), int):
        raise UserError(f"adapter {str(folder)!r} given: its type is {config.get('peft_type')}; expected PROMPT_TUNING")
    digest = digests.of_text(["adapter", digests.file_digest(folder / WEIGHTS)])
    return Adapter(digest=digest, tokens=config["num_virtual_tokens"], folder=str(folder.resolve()))


def read_adapter(adapter: Adapter, width: int) -> Tensor:
    """Its vectors (k, width), float32. Raises UserError when the file does not hold them or has changed."""
    from safetensors.torch import load_file

    path = Path(adapter.folder) / WEIGHTS
    if digests.of_text(["adapter", digests.file_digest(path)]) != adapter.digest:
        raise UserError(f"adapter {adapter.folder!r} has changed since the command read it: run the same command again")
    found = load_file(path).get(NAME)
    if found is None or found.shape != (adapter.tokens, width):
        raise UserError(
            f"adapter {adapter.folder!r} holds {NAME} of shape {None if found is None else tuple(found.shape)}: "
            f"expected {(adapter.tokens, width)}, tokens and the model's width"
        )
    return found.float()


def write_adapter(folder: Path, vectors: Tensor, base: str) -> None:
    """Write a new `folder`: the prompt (k, width) for the model named or stored at `base`."""
    from peft import PromptTuningConfig, PromptTuningInit, TaskType
    from safetensors.torch import save_file

    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=len(vectors),
        token_dim=vectors.shape[1],
        prompt_tuning_init=PromptTuningInit.RANDOM,
        base_model_name_or_path=base,
        inference_mode=True,
    )
    folder.mkdir(parents=True)
    config.save_pretrained(str(folder))
    save_file({NAME: vectors.detach().float().cpu().contiguous()}, folder / WEIGHTS, metadata={"format": "pt"})
