"""Training against soft prompts: a loss behind prompts that were fitted to attack the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halflife.errors import UserError
from halflife.evaluation.targets import Item
from halflife.models.model import Model
from halflife.prompts.results import read
from halflife.prompts.scoring import cut, prefill, score_targets
from halflife.rng import generator


class PromptLoss:
    """Loss of the wanted answers behind frozen prompts, as a function of the model and the step."""

    def __init__(
        self,
        prompts: Sequence[Tensor],
        items: Sequence[Item],
        position: Any,
        *,
        strength: float,
        batch: int,
        key: tuple[int | str, ...],
        device: torch.device | str,
    ) -> None:
        """`prompts` (k, width) each, in the model's own units, all at one position; `key` draws each step's `batch` of
        the items, and the one prompt used for all of them."""
        self.prompts = [prompt.to(device) for prompt in prompts]
        self.texts = cut(items, position).to(device)
        self.strength, self.batch, self.key = strength, min(batch, len(items)), key

    def __call__(self, model: Model, step: int) -> Tensor:
        """strength x nats per target token."""
        rng = generator(*self.key, step)
        prompt = self.prompts[rng.integers(len(self.prompts))]
        device = prompt.device
        texts = self.texts.take(torch.from_numpy(rng.permutation(len(self.texts))[: self.batch]).to(device))
        tokens = torch.tensor([len(prompt)], device=device)
        found = score_targets(model, prompt[None, None], tokens, texts, prefill(model, texts))
        return self.strength * found.nats.mean()


def attacks(folders: Sequence[Path]) -> tuple[list[Tensor], Any]:
    """The prompts of at least one token that attempts of FitSoftPrompts ended with, and their position.

    Raises UserError if there is none, they depend on conditions, or their positions differ.
    """
    fitted = [run for folder in folders for run in read(folder / "final").values() if run.tokens and run.norm]
    positions = {run.position for run in fitted}
    if len(positions) != 1 or any(run.conditional for run in fitted):
        raise UserError(
            f"training against {len(fitted)} soft prompts at {len(positions)} positions: expected at least one, at one "
            "position, none of them conditional"
        )
    return [run.vectors() for run in fitted], fitted[0].position
