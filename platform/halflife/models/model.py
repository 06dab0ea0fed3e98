"""The protocol of every language model: what evaluation, training and soft prompts may ask of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol, Self, overload

import torch
from torch import Tensor, nn

from halflife.models.hook_points import Flow, HookPoint
from halflife.models.kv_cache import KVCache
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.models.sites import Site

Kind = Literal["embed", "hidden", "gain", "head"]


class Model(Protocol):
    """A causal language model in three parts: tokens -> embeddings -> residual stream -> logits.

    Attention is causal, so right-padded rows need no mask. Implemented by `Decoder` and `HuggingFaceModel`.
    """

    @property
    def architecture(self) -> Rung | Released: ...

    @property
    def depth(self) -> int:
        """Number of blocks."""
        ...

    @property
    def flow(self) -> Flow:
        """Of the current forward pass."""
        ...

    def hook_point(self, site: Site) -> HookPoint:
        """Raises UserError when the model has no such site."""
        ...

    @property
    def vocabulary(self) -> int:
        """Number of rows of the embedding; a tokenizer may use fewer."""
        ...

    @property
    def embed(self) -> nn.Embedding:
        """Tokens (batch, length) int64 -> embeddings (batch, length, width)."""
        ...

    def hidden(self, x: Tensor) -> Tensor:
        """Embeddings (batch, length, width) -> normed residual stream of the same shape."""
        ...

    def hidden_at(self, x: Tensor, columns: Tensor, past: KVCache | None = None) -> Tensor:
        """`hidden` at the positions `columns` (batch, n) of each row only: (batch, n, width).

        With `past`, row r continues text r % past.texts.
        """
        ...

    def prefill(self, x: Tensor, lengths: Tensor, past: KVCache | None = None) -> tuple[Tensor, KVCache]:
        """`hidden`, and the cache from which each row can be continued.

        `lengths` (batch,): tokens of each right-padded row. With `past`, which has one text per row, row r continues
        text r.
        """
        ...

    def residuals(self, x: Tensor) -> list[Tensor]:
        """Embeddings (batch, length, width) -> depth + 1 tensors of that shape: the residual stream before the first
        block and after each block. The last one is normed, equal to `hidden`."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Normed residual stream (..., width) -> logits (..., vocabulary)."""
        ...

    def __call__(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, length) int64 -> logits (batch, length, vocabulary)."""
        ...

    def kind(self, name: str) -> Kind:
        """The role of the parameter `name` in muP; gains include biases."""
        ...

    # As every torch module

    training: bool

    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...
    @overload
    def to(self, device: torch.device | str) -> Self: ...
    @overload
    def to(self, dtype: torch.dtype) -> Self: ...
    def requires_grad_(self, requires_grad: bool = True) -> Self: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...
    def get_submodule(self, target: str) -> nn.Module: ...
