"""Soft prompts at work: the trained numbers of many at once, the vectors that they give, and their place in a text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halflife.prompts.describe import MLP, Direct, InputModel, Linear, Shared


def scale_of(embed: nn.Module) -> float:
    """Root mean square of a model's token embeddings: the unit in which prompts are trained."""
    weight = embed.weight
    assert isinstance(weight, Tensor)
    return math.sqrt(weight.detach().float().square().mean().item())


class PromptBatch:
    """The trained numbers of several prompts with one kind of input model, stacked and padded to the largest k.

    Whatever is padded gets no gradient, and what a prompt begins with is drawn for it alone: the prompts that it is
    stacked with change nothing of it.
    """

    def __init__(
        self, model: InputModel, starts: Sequence[Tensor], *, conditions: int, scale: float, seeds: Sequence[int]
    ) -> None:
        """`starts`: for each prompt its initial vectors (k, width), in units of `scale`; `seeds` draw the networks."""
        self.scale = scale
        self.tokens = torch.tensor([len(start) for start in starts], device=starts[0].device)
        made = [_begin(model, start, conditions, seed) for start, seed in zip(starts, seeds, strict=True)]
        self.parameters = {name: _stacked([each[name] for each in made]).requires_grad_() for name in made[0]}
        self.fixed = {"start": _stacked(starts)} if isinstance(model, Shared) else {}

    def vectors(self, conditions: Tensor | None = None, its: slice = slice(None)) -> Tensor:
        """(prompts, texts, longest, width) in the model's own units; of what does not look at conditions, for one text
        that stands for all. `conditions` (prompts or 1, texts, m); `its`: some of the prompts."""
        numbers = {name: value[its] for name, value in (*self.parameters.items(), *self.fixed.items())}
        return self.scale * vectors(numbers, conditions)

    def of(self, at: int) -> dict[str, Tensor]:
        """The numbers of one prompt, without padding."""
        k = int(self.tokens[at])
        numbers = {**self.parameters, **self.fixed}
        return {name: _cut(name, value[at].detach(), k).cpu().clone() for name, value in numbers.items()}

    def put(self, at: int, numbers: Mapping[str, Tensor]) -> None:
        """Set the trained numbers of one prompt to what `of` gave."""
        for name, value in self.parameters.items():
            value.data[(at, *(slice(size) for size in numbers[name].shape))] = numbers[name].to(value)


def vectors(numbers: Mapping[str, Tensor], conditions: Tensor | None = None) -> Tensor:
    """(prompts, texts or 1, k, width) in units of the embeddings, of stacked numbers; which input model they belong to
    is told by their names. `conditions` (prompts or 1, texts, m)."""
    if "slope" not in numbers and "code" not in numbers:  # Direct
        return numbers["vectors"][:, None]
    if conditions is None:
        conditions = next(iter(numbers.values())).new_zeros(1, 1, 0)
    if "in" not in numbers:  # Linear
        return numbers["vectors"][:, None] + torch.einsum(
            "ptm,pmkw->ptkw", _for_each(conditions, numbers), numbers["slope"]
        )
    of_text = _for_each(conditions, numbers) @ numbers["in"] + numbers["in_bias"][:, None]
    if "code" not in numbers:  # MLP
        return numbers["vectors"][:, None] + torch.einsum("pth,phkw->ptkw", F.gelu(of_text), numbers["slope"])
    of_token = numbers["code"] @ numbers["in_code"]
    moved = (
        F.gelu(of_token[:, None] + of_text[:, :, None]) @ numbers["out"][:, None] + numbers["out_bias"][:, None, None]
    )
    return numbers["start"][:, None] + moved


def _for_each(conditions: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
    return conditions.expand(len(next(iter(numbers.values()))), -1, -1)


def _begin(model: InputModel, start: Tensor, conditions: int, seed: int) -> dict[str, Tensor]:
    """The numbers of one prompt as they begin: it gives `start` whatever the conditions."""
    generator = torch.Generator().manual_seed(seed)
    k, width = start.shape

    def drawn(*shape: int, inputs: int) -> Tensor:
        return (torch.randn(*shape, generator=generator) / math.sqrt(max(1, inputs))).to(start)

    if isinstance(model, Direct):
        return {"vectors": start.clone()}
    if isinstance(model, Linear):
        return {"vectors": start.clone(), "slope": start.new_zeros(conditions, k, width)}
    if isinstance(model, MLP):
        return {
            "vectors": start.clone(),
            "in": drawn(conditions, model.hidden, inputs=conditions),
            "in_bias": start.new_zeros(model.hidden),
            "slope": start.new_zeros(model.hidden, k, width),
        }
    return {
        "code": drawn(k, model.code, inputs=1),
        "in_code": drawn(model.code, model.hidden, inputs=model.code + conditions),
        "in": drawn(conditions, model.hidden, inputs=model.code + conditions),
        "in_bias": start.new_zeros(model.hidden),
        "out": start.new_zeros(model.hidden, width),
        "out_bias": start.new_zeros(width),
    }


_TOKEN_AXIS = {"vectors": 0, "start": 0, "slope": 1, "code": 0}
"""Of one prompt's numbers: which axis is as long as k."""


def _cut(name: str, value: Tensor, k: int) -> Tensor:
    return value.narrow(_TOKEN_AXIS[name], 0, k) if name in _TOKEN_AXIS else value


def _stacked(values: Sequence[Tensor]) -> Tensor:
    """One more axis in front; each axis padded with zeros to the longest."""
    shape = [max(sizes) for sizes in zip(*(value.shape for value in values), strict=True)]
    result = values[0].new_zeros(len(values), *shape)
    for at, value in enumerate(values):
        result[(at, *(slice(size) for size in value.shape))] = value
    return result


def insert(prompts: Tensor, tokens: Tensor, text: Tensor) -> Tensor:
    """Each prompt before each text: rows (prompts * texts, longest + length, width), prompt by prompt.

    `prompts` (prompts, texts or 1, longest, width), of which each has `tokens` (prompts,); `text` (texts, length,
    width), right-padded. A prompt shorter than the longest stands close to its text, and the row is padded on the
    right, where nothing looks: positions and attention are those that it would have alone.
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
