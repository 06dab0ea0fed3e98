"""Keys and values of texts that a model has read: computed once, then shared by all that goes on from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KVCache:
    """What attention needs of texts that came before, right-padded to one length."""

    keys: tuple[Tensor, ...]
    """For each layer (texts, key heads, length, head width), rotated where the model rotates."""
    values: tuple[Tensor, ...]
    seen: Tensor
    """(texts, length) bool: False where a text is padded."""
    lengths: Tensor
    """(texts,): the position at which each goes on."""

    def take(self, texts: Tensor, length: int) -> KVCache:
        """Those texts, cut to `length`, which none of them exceeds."""
        keys, values = (tuple(layer[texts, :, :length] for layer in layers) for layers in (self.keys, self.values))
        return KVCache(keys, values, self.seen[texts, :length], self.lengths[texts])

    def repeated(self, copies: int) -> KVCache:
        """The texts over again, `copies` times."""
        if copies == 1:
            return self
        keys, values = (tuple(layer.repeat(copies, 1, 1, 1) for layer in layers) for layers in (self.keys, self.values))
        return KVCache(keys, values, self.seen.repeat(copies, 1), self.lengths.repeat(copies))

    def hidden(self, dtype: torch.dtype) -> Tensor:
        """What is added to attention scores, (texts, 1, 1, length): minus infinity where a text is padded."""
        hide = torch.zeros(self.seen.shape, dtype=dtype, device=self.seen.device)
        return hide.masked_fill_(~self.seen, -torch.inf)[:, None, None]

    @property
    def texts(self) -> int:
        return len(self.lengths)

    @property
    def length(self) -> int:
        return self.seen.shape[1]

    @property
    def bytes(self) -> int:
        return sum(layer.nbytes for layers in (self.keys, self.values) for layer in layers)


def extend_cache(
    past: KVCache | None, keys: tuple[Tensor, ...], values: tuple[Tensor, ...], lengths: Tensor
) -> KVCache:
    """`past` with further keys and values (rows, heads, new, head width), of which each row has `lengths`.

    `past` has as many texts as there are rows, or is None at the beginning.
    """
    new = torch.arange(keys[0].shape[2], device=lengths.device) < lengths[:, None]
    if past is None:
        return KVCache(keys, values, new, lengths)
    return KVCache(
        tuple(torch.cat(pair, dim=2) for pair in zip(past.keys, keys, strict=True)),
        tuple(torch.cat(pair, dim=2) for pair in zip(past.values, values, strict=True)),
        torch.cat([past.seen, new], dim=1),
        past.lengths + lengths,
    )


def attend(
    q: Tensor, k: Tensor, v: Tensor, far_k: Tensor, far_v: Tensor, hide: Tensor, columns: Tensor | None = None
) -> Tensor:
    """Causal attention of rows (rows, heads, length, head width) that go on from texts, row r from text r % texts.
    Queries stand at `columns` (rows, n) of their rows, or all along.

    Keys and values of the texts stay as they are, one copy for all rows, and get no gradient: the queries of all rows
    of a text are multiplied with them as one matrix.
    """
    rows, _, length, width = q.shape
    texts = len(far_k)
    copies = rows // texts

    def together(x: Tensor) -> Tensor:
        """(rows, heads, length, n) -> (texts, heads, copies * length, n)."""
        return x.unflatten(0, (copies, texts)).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def apart(x: Tensor) -> Tensor:
        return x.unflatten(2, (copies, length)).permute(2, 0, 1, 3, 4).flatten(0, 1)

    q = q * width**-0.5
    place = torch.arange(k.shape[2], device=q.device)
    later = place > (place[:, None] if columns is None else columns[:, None, :, None])
    far = apart(together(q) @ far_k.transpose(-1, -2) + hide)
    near = (q @ k.transpose(-1, -2)).masked_fill(later, -torch.inf)
    weights = torch.cat([far, near], dim=-1).softmax(-1)
    far, near = weights.split([far.shape[-1], k.shape[2]], dim=-1)
    return apart(together(far) @ far_v) + near @ v


def joined(parts: Sequence[KVCache]) -> KVCache:
    """The texts of several, all of one length, one after another."""
    return KVCache(
        tuple(torch.cat(layers) for layers in zip(*(part.keys for part in parts), strict=True)),
        tuple(torch.cat(layers) for layers in zip(*(part.values for part in parts), strict=True)),
        torch.cat([part.seen for part in parts]),
        torch.cat([part.lengths for part in parts]),
    )
