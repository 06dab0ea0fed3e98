"""Keys and values of texts that a model has read: computed once, shared by everything that continues them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KVCache:
    """Keys and values of some texts, right-padded to one length."""

    keys: tuple[Tensor, ...]
    """One per layer: (texts, key heads, length, head width), after rotation where the model rotates."""
    values: tuple[Tensor, ...]
    valid: Tensor
    """(texts, length) bool: False at padding."""
    lengths: Tensor
    """(texts,): tokens of each text, so the position of the next one."""

    def take(self, texts: Tensor, length: int) -> KVCache:
        """The texts with these indices, cut to `length`, which none of them exceeds."""
        keys, values = (tuple(layer[texts, :, :length] for layer in layers) for layers in (self.keys, self.values))
        return KVCache(keys, values, self.valid[texts, :length], self.lengths[texts])

    def repeated(self, copies: int) -> KVCache:
        """All texts, `copies` times over."""
        if copies == 1:
            return self
        keys, values = (tuple(layer.repeat(copies, 1, 1, 1) for layer in layers) for layers in (self.keys, self.values))
        return KVCache(keys, values, self.valid.repeat(copies, 1), self.lengths.repeat(copies))

    def right_aligned(self) -> KVCache:
        """The same texts with their padding on the left, cut to the longest: a distance in columns is one in
        positions, as attention with windows or by distance needs."""
        if bool(self.valid.all()):
            return self
        first = self.length - int(self.lengths.max())
        order = self.valid.byte().argsort(dim=1, stable=True)[:, first:]
        keys, values = (
            tuple(layer.take_along_dim(order[:, None, :, None], 2) for layer in layers)
            for layers in (self.keys, self.values)
        )
        return KVCache(keys, values, self.valid.gather(1, order), self.lengths)

    def mask(self, dtype: torch.dtype) -> Tensor:
        """(texts, 1, 1, length), to be added to attention scores: minus infinity at padding, else 0."""
        mask = torch.zeros(self.valid.shape, dtype=dtype, device=self.valid.device)
        return mask.masked_fill_(~self.valid, -torch.inf)[:, None, None]

    @property
    def texts(self) -> int:
        return len(self.lengths)

    @property
    def length(self) -> int:
        return self.valid.shape[1]

    @property
    def bytes(self) -> int:
        return sum(layer.nbytes for layers in (self.keys, self.values) for layer in layers)


def extend_cache(
    past: KVCache | None, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], lengths: Tensor
) -> KVCache:
    """`past` followed by new keys and values (rows, heads, new length, head width), the first `lengths` of each row
    valid. `past` has one text per row; None makes a new cache."""
    valid = torch.arange(keys[0].shape[2], device=lengths.device) < lengths[:, None]
    if past is None:
        return KVCache(keys, values, valid, lengths)
    return KVCache(
        tuple(torch.cat(pair, dim=2) for pair in zip(past.keys, keys, strict=True)),
        tuple(torch.cat(pair, dim=2) for pair in zip(past.values, values, strict=True)),
        torch.cat([past.valid, valid], dim=1),
        past.lengths + lengths,
    )


def attend(
    q: Tensor, k: Tensor, v: Tensor, past_k: Tensor, past_v: Tensor, mask: Tensor, columns: Tensor | None = None
) -> Tensor:
    """Causal attention of q, k, v (rows, heads, length, head width), where row r continues cached text r % texts.

    `mask` is `KVCache.mask`. With `columns` (rows, n), q holds the queries of those positions only. The cached keys and
    values are not copied for each row and get no gradient: the queries of all rows that continue a text are multiplied
    with its keys as one matrix.
    """
    rows, _, length, width = q.shape
    texts = len(past_k)
    copies = rows // texts

    def by_text(x: Tensor) -> Tensor:
        """(rows, heads, length, n) -> (texts, heads, copies * length, n)."""
        return x.unflatten(0, (copies, texts)).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def by_row(x: Tensor) -> Tensor:
        """The inverse."""
        return x.unflatten(2, (copies, length)).permute(2, 0, 1, 3, 4).flatten(0, 1)

    q = q * width**-0.5
    position = torch.arange(k.shape[2], device=q.device)
    future = position > (position[:, None] if columns is None else columns[:, None, :, None])
    past_scores = by_row(by_text(q) @ past_k.transpose(-1, -2) + mask)
    scores = (q @ k.transpose(-1, -2)).masked_fill(future, -torch.inf)
    weights = torch.cat([past_scores, scores], dim=-1).softmax(-1)
    past_weights, weights = weights.split([past_scores.shape[-1], k.shape[2]], dim=-1)
    return by_row(by_text(past_weights) @ past_v) + weights @ v


def joined(parts: Sequence[KVCache]) -> KVCache:
    """The texts of several caches of one length, one after another."""
    return KVCache(
        tuple(torch.cat(layers) for layers in zip(*(part.keys for part in parts), strict=True)),
        tuple(torch.cat(layers) for layers in zip(*(part.values for part in parts), strict=True)),
        torch.cat([part.valid for part in parts]),
        torch.cat([part.lengths for part in parts]),
    )
