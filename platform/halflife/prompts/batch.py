"""The trained parameters of many soft prompts at once, the vectors that they give, and their insertion into texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from halflife.prompts.soft_prompt import InputModel, Linear


def scale_of(embed: nn.Module) -> float:
    """Root mean square of a model's token embeddings: the unit in which prompts are trained."""
    weight = embed.weight
    assert isinstance(weight, Tensor)
    return math.sqrt(weight.detach().float().square().mean().item())


class PromptBatch:
    """The parameters of several prompts with one kind of input model, stacked and padded to the largest k.

    Padding gets no gradient, so a prompt does not depend on the prompts that it is stacked with.
    """

    def __init__(self, model: InputModel, starts: Sequence[Tensor], *, conditions: int, scale: float) -> None:
        """`starts`: each prompt's initial vectors (k, width), in units of `scale`."""
        self.scale = scale
        self.tokens = torch.tensor([len(start) for start in starts], device=starts[0].device)
        self.parameters = {"vectors": _stacked(starts)}
        if isinstance(model, Linear):
            self.parameters["slope"] = _stacked([start.new_zeros(conditions, *start.shape) for start in starts])
        for value in self.parameters.values():
            value.requires_grad_()

    def vectors(self, conditions: Tensor | None = None, which: slice = slice(None)) -> Tensor:
        """(prompts, texts, longest, width) in the model's own units, with one text for prompts that ignore conditions.
        `conditions` (prompts or 1, texts, m); `which` selects prompts."""
        return self.scale * vectors({name: value[which] for name, value in self.parameters.items()}, conditions)

    def of(self, index: int) -> dict[str, Tensor]:
        """The parameters of one prompt, without padding."""
        k = int(self.tokens[index])
        return {name: value[index].detach()[..., :k, :].cpu().clone() for name, value in self.parameters.items()}


def vectors(parameters: Mapping[str, Tensor], conditions: Tensor | None = None) -> Tensor:
    """(prompts, texts or 1, k, width) in units of the embeddings, from stacked parameters, whose names tell their input
    model. `conditions` (prompts or 1, texts, m)."""
    constant = parameters["vectors"][:, None]
    if "slope" not in parameters:
        return constant
    if conditions is None:
        conditions = constant.new_zeros(1, 1, 0)
    slope = parameters["slope"]
    return constant + torch.einsum("ptm,pmkw->ptkw", conditions.expand(len(slope), -1, -1), slope)


def _stacked(values: Sequence[Tensor]) -> Tensor:
    """With a new first axis; each axis zero-padded to the longest."""
    shape = [max(sizes) for sizes in zip(*(value.shape for value in values), strict=True)]
    result = values[0].new_zeros(len(values), *shape)
    for index, value in enumerate(values):
        result[(index, *(slice(size) for size in value.shape))] = value
    return result


def insert(prompts: Tensor, tokens: Tensor, text: Tensor) -> Tensor:
    """Each prompt before each text: rows (prompts * texts, longest + length, width), prompt by prompt.

    `prompts` (prompts, texts or 1, longest, width), of which each has `tokens` (prompts,); `text` (texts, length,
    width), right-padded. A prompt shorter than the longest is adjacent to its text and the row is padded on the right,
    which causal attention ignores: positions and attention are those of the prompt alone.
    """
    count, longest = len(prompts), prompts.shape[2]
    texts, length, width = text.shape
    rows = torch.cat([prompts.expand(count, texts, longest, width), text.expand(count, texts, length, width)], dim=2)
    column = torch.arange(longest + length, device=tokens.device)
    # column c of a prompt with k tokens is its token c, then its text's token c - k, then padding
    place = torch.where(column < tokens[:, None], column, column + longest - tokens[:, None])
    place = place.clamp(max=longest + length - 1)
    if bool((tokens < longest).any()):
        rows = rows.gather(2, place[:, None, :, None].expand_as(rows))
    return rows.flatten(0, 1)
