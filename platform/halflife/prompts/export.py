"""Export of a fitted soft prompt as a folder that peft reads, with equal logits."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from halflife.errors import UserError
from halflife.extras import require
from halflife.prompts import results as prompt_results
from halflife.store import files
from halflife.store.difference import find, record_of
from halflife.store.store import Store, valid_done


def export_prompt(store: Store, name: str, run: str, out: Path, base: Path | None = None) -> None:
    """Write `out`, a new folder: a PromptTuning adapter for the model at `base`, by default the released model of the
    stage. Raises UserError when there is no such stage or run, or peft cannot represent the prompt."""
    require("peft", "an export of a soft prompt")
    folder = find(store, name)
    done, record = valid_done(folder), record_of(folder)
    if done is None or done.outcome.status != "complete" or "prompts" not in record["fields"]:
        raise UserError(f"{folder.name} is not a completed stage of soft prompts: run its study first")
    source = folder / "attempts" / done.outcome.attempt
    attempt = store.local(source)
    if problem := files.fetch(source, attempt, done.files):
        raise UserError(f"{folder.name} is damaged ({problem}): run its study again")
    fitted = prompt_results.read(attempt / "final")
    if run not in fitted:
        raise UserError(f"run {run!r} of {folder.name} given: expected one of {', '.join(sorted(fitted))}")
    prompt = fitted[run]
    if prompt.position != "start" or not prompt.tokens or prompt.conditional:
        raise UserError(
            f"run {run!r} given: peft's PromptTuning supports only tokens at the start of the text that are the same "
            "for every text; expected such a prompt"
        )
    subject = record["fields"]["subject"]
    if subject["edits"]:
        raise UserError(f"{folder.name} has prompts of an edited model, which peft cannot represent")
    of_model = subject["model"].get("folder")
    if base is None and of_model is None:
        raise UserError(
            f"{folder.name} has a model trained here: write it with `export` first, and give that folder as --base"
        )
    if out.exists():
        raise UserError(f"{out} exists already: give a new folder")
    temporary = out.with_name(f".{out.name}-{uuid.uuid4().hex[:8]}")
    try:
        _write_adapter(temporary, prompt.vectors(), str(base.resolve() if base else of_model))
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_adapter(folder: Path, vectors: Tensor, base: str) -> None:
    """Write a new `folder`: the prompt (k, width) for the model named or stored at `base`."""
    from peft import PromptTuningConfig, PromptTuningInit, TaskType

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
    tensors = {"prompt_embeddings": vectors.detach().float().cpu().contiguous()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
