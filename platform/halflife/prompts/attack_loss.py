"""Training against soft prompts: a loss behind prompts that were fitted to break what is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from halflife.errors import UserError
from halflife.evaluation.targets import Item
from halflife.prompts.results import read
from halflife.prompts.scoring import PromptedModel, answer, cut, remember
from halflife.rng import generator


class PromptLoss:
    """What a model is still to say behind frozen prompts, as a loss of the model and the step."""

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
        the items, and the prompt that stands before all of them."""
        self.prompts = [prompt.to(device) for prompt in prompts]
        self.texts = cut(items, position).to(device)
        self.strength, self.batch, self.key = strength, min(batch, len(items)), key

    def __call__(self, model: PromptedModel, step: int) -> Tensor:
        """strength x nats a token asked."""
        rng = generator(*self.key, step)
        prompt = self.prompts[rng.integers(len(self.prompts))]
        device = prompt.device
        texts = self.texts.take(torch.from_numpy(rng.permutation(len(self.texts))[: self.batch]).to(device))
        tokens = torch.tensor([len(prompt)], device=device)
        found = answer(model, prompt[None, None], tokens, texts, remember(model, texts))
        return self.strength * found.nats.mean()


def attacks(folders: Sequence[Path]) -> tuple[list[Tensor], Any]:
    """The prompts, with at least one token, that attempts of FitSoftPrompts ended with, and their position.

    Raises UserError where there is none, where they are made from conditions, or stand at different positions.
    """
    fitted = [run for folder in folders for run in read(folder / "final").values() if run.tokens and run.norm]
    positions = {run.position for run in fitted}
    if len(positions) != 1 or any(run.conditional for run in fitted):
        raise UserError(
            f"training against {len(fitted)} soft prompts at {len(positions)} positions: expected at least one, at one "
            "position, none made from conditions"
        )
    return [run.vectors() for run in fitted], fitted[0].position
