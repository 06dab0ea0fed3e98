"""A FitSoftPrompts at work: the frozen model, the texts, and what each prompt begins with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from halflife.data.codecs import load
from halflife.data.tokenizers import Codec
from halflife.errors import UserError
from halflife.evaluation.targets import TargetItems
from halflife.models.start import Model, bare, fresh
from halflife.prompts import results as prompt_results
from halflife.prompts.batch import scale_of
from halflife.prompts.describe import Adapter, Initial, Noise, SoftPrompt, Text, Vocabulary, WarmStart, Words
from halflife.prompts.description import PromptFit, read_items, words_of
from halflife.prompts.fitting import fit, freeze
from halflife.prompts.groups import FitConfig, Run
from halflife.rng import generator, seed_of
from halflife.stages.train import Checkpoint
from halflife.store.stage import Context
from halflife.training import checkpoints
from halflife.training.torch_engine import load_weights


def compute(stage: PromptFit, context: Context) -> dict[str, Any]:
    """Fit, write `final/`, and return the summary. Raises UserError for texts that cannot be asked, before any step."""
    codec = load(stage.codec, context.results)
    targets = {target.name: read_items(stage, target, codec, context.results) for target in stage.targets}
    folder = context.parent(stage.model.stage) if isinstance(stage.model, Checkpoint) else None
    model = frozen(stage, codec.size, folder, context.device)
    smaller = {
        prompt.initial.stage.key: prompt_results.read(context.parent(prompt.initial.stage) / "final")
        for prompt in stage.prompts
        if isinstance(prompt.initial, WarmStart)
    }
    runs = []
    for target in stage.targets:
        for prompt in stage.prompts:
            key = (stage.seed, "soft prompt", target.name, prompt.tokens, prompt.restart)
            start = Beginning(model, codec, targets[target.name], key, smaller).vectors(prompt)
            name = stage.run_name(target, prompt)
            runs.append(Run(name, targets[target.name], prompt, start, seed_of(*key, "network")))
    fitted, spent = fit(
        model,
        runs,
        FitConfig(
            steps=stage.steps,
            batch=stage.batch,
            weight_decay=stage.weight_decay,
            max_grad_norm=stage.max_grad_norm,
            seed=stage.seed,
        ),
        schedule=stage.schedule,
        at=stage.at,
        context=context,
        checkpoint_seconds=context.checkpoint_seconds,
        device=context.device,
    )
    prompt_results.write(context.folder / "final", fitted)
    return {
        **spent,
        "steps": stage.steps,
        "parameters": stage.architecture.parameters,
        "scale": scale_of(model.embed),
        "examples": {name: len(target.train) for name, target in targets.items()},
        "runs": {run.name: run.summary() for run in fitted},
    }


def frozen(stage: PromptFit, vocabulary: int, folder: Path | None, device: str) -> Model:
    """The model as it is asked. `folder`: the attempt of the stage that a checkpoint belongs to.

    Raises UserError when the checkpoint is corrupt.
    """
    if not isinstance(stage.model, Checkpoint):
        return freeze(fresh(stage.model, vocabulary, 0.0, seed_of(stage.seed, "model")), stage.precision).to(device)
    assert folder is not None
    at = folder / "final" if stage.model.at == "final" else folder / "snapshots" / stage.model.at
    try:
        state = checkpoints.read_state(at)
    except checkpoints.CorruptCheckpoint as error:
        raise UserError(f"cannot read {at}: {error}; delete the stage's folder to have it computed again") from error
    model = bare(stage.architecture, vocabulary, 0.0, state)
    load_weights(model, checkpoints.read_weights(at))
    return freeze(model, stage.precision).to(device)


class Beginning:
    """What prompts begin with, drawn for one target from a key."""

    def __init__(
        self,
        model: Model,
        codec: Codec,
        target: TargetItems,
        key: tuple[int | str, ...],
        smaller: dict[str, dict[str, prompt_results.Fitted]],
    ) -> None:
        self.embed, self.codec, self.target, self.key, self.smaller = model.embed, codec, target, key, smaller
        weight = model.embed.weight
        assert isinstance(weight, Tensor)
        self.weight, self.scale = weight.detach(), scale_of(model.embed)

    def vectors(self, prompt: SoftPrompt) -> Tensor:
        """(k, width) float32 in units of the embeddings' root mean square, on the model's device."""
        return self._vectors(prompt.initial, prompt.tokens).to(self.weight.device, torch.float32)

    def _vectors(self, initial: Initial, k: int) -> Tensor:
        width = self.weight.shape[1]
        rng = generator(*self.key, type(initial).__name__)
        if isinstance(initial, Noise) or not k:
            scale = initial.scale if isinstance(initial, Noise) else 0.0
            return torch.from_numpy(scale * rng.standard_normal((k, width))).float()
        if isinstance(initial, WarmStart):
            runs = self.smaller[initial.stage.key]
            earlier = [runs[f"{self.target.name}.{name}"] for name in initial.prompts]
            known = min(earlier, key=lambda run: run.chosen_by).vectors() / self.scale
            return torch.cat([known, self._vectors(initial.rest, k)[len(known) :].to(known)])
        if isinstance(initial, Adapter):
            from halflife.prompts.peft import read_adapter

            return read_adapter(initial, width).to(self.weight.device) / self.scale
        tokens = self._tokens(initial, k, rng)
        return self.weight[torch.from_numpy(tokens).to(self.weight.device)].float() / self.scale

    def _tokens(self, initial: Vocabulary | Words | Text, k: int, rng: np.random.Generator) -> np.ndarray:
        if isinstance(initial, Vocabulary):
            drawn = rng.integers(self.codec.size - 1, size=k)
            return drawn + (drawn >= self.codec.eos)
        if isinstance(initial, Text):
            found = self.codec.encode(initial.text)
            return np.resize(found, k)
        words = words_of(self.target, initial, self.codec)
        chosen = " ".join(words[at] for at in rng.integers(len(words), size=k))  # a word has a token or more
        return self.codec.encode(chosen)[:k]
