"""Export of a fitted soft prompt as a folder that peft reads, with equal logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from halflife.errors import UserError
from halflife.extras import require
from halflife.models.released import Released
from halflife.prompts import results as prompt_results
from halflife.prompts.edit import PromptBefore
from halflife.prompts.fit_stage import FitSoftPrompts
from halflife.stages.export import check_edits, completed_parents, new_folder
from halflife.stages.subject import Subject
from halflife.store.difference import find
from halflife.store.recorded import stage_of
from halflife.store.store import Store


def export_prompt(store: Store, name: str, run: str, out: Path, base: Path | None = None) -> None:
    """Write `out`, a new folder: a PromptTuning adapter for the model at `base`, by default the released model of the
    stage. Raises UserError when there is no such stage or run, or peft cannot represent the prompt."""
    require("peft", "an export of a soft prompt")
    subject = prompted(store, name, run)
    prompt, subject = subject.edits[-1], replace(subject, edits=subject.edits[:-1])
    assert isinstance(prompt, PromptBefore)
    fit = prompt.fit
    check_edits(subject)
    if base is not None:
        of_model = str(base.resolve())
    elif isinstance(subject.model, Released) and not subject.edits:
        of_model = subject.model.folder
    else:
        raise UserError(
            f"{fit.folder_name} has a model made here: write it with `export` first, and give that folder as --base"
        )
    vectors = prompt_results.read(completed_parents(prompt, store).parent(fit) / "final")[run].vectors()
    with new_folder(out) as folder:
        _write_adapter(folder, vectors, of_model)


def prompted(store: Store, name: str, run: str) -> Subject:
    """The subject of a stage that fitted soft prompts, with one of them before every text. Raises UserError when there
    is no such stage or run, or the prompt is no fixed one at the start."""
    fit = stage_of(store, find(store, name))
    if not isinstance(fit, FitSoftPrompts):
        raise UserError(f"{fit.folder_name} given: expected a stage that fitted soft prompts")
    return replace(fit.subject, edits=(*fit.subject.edits, PromptBefore(fit=fit, run=run)))


def _write_adapter(folder: Path, vectors: Tensor, base: str) -> None:
    """Write the prompt (k, width) for the model named or stored at `base`."""
    from peft import PromptTuningConfig, PromptTuningInit, TaskType

    config = PromptTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=len(vectors),
        token_dim=vectors.shape[1],
        prompt_tuning_init=PromptTuningInit.RANDOM,
        base_model_name_or_path=base,
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    tensors = {"prompt_embeddings": vectors.detach().float().cpu().contiguous()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
