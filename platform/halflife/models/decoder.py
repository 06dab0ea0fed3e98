"""One decoder: pre-norm RMSNorm, rotary embeddings, SDPA, SwiGLU, muP initialisation.

The shape is Llama's, so weights export to that format (rotary pairs are neighbours here and half a head apart there:
the rows of query and key are put in another order). Query, key and value (and gate and up) are one matrix each
because one large product is faster than three small ones.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halflife.models import kernels
from halflife.models.kv_cache import KVCache, attend, extend_cache
from halflife.models.ladder import BASE_WIDTH, Rung

ROTARY_BASE = 10_000.0
NORM_EPSILON = 1e-6


class Linear(nn.Linear):
    """A matrix without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        return kernels.linear(input, self.weight)


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return kernels.rms_norm(x, self.weight, NORM_EPSILON)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm = RMSNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.mlp_norm = RMSNorm(width)
        self.gate_up = Linear(width, 2 * feedforward)
        self.down = Linear(feedforward, width)

    def forward(
        self,
        x: Tensor,
        rope_cache: Tensor,
        past: tuple[Tensor, Tensor, Tensor] | None = None,
        kept: list[tuple[Tensor, Tensor]] | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """`past`: keys, values and mask of texts that came before, as `attend` takes them. The own keys and values are
        added to `kept`. With `columns` (rows, n) the result is at those positions alone."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = kernels.rotate_qkv(qkv, rope_cache)
        if kept is not None:
            kept.append((k, v))
        if columns is not None:
            q, x = rows_at(q, columns[:, None].expand(-1, self.heads, -1)), rows_at(x, columns)
        if past is not None:
            attended = attend(q, k, v, *past, columns)
        elif columns is not None:
            earlier = torch.arange(k.shape[2], device=x.device) <= columns[:, None, :, None]
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=earlier)
        else:
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        attended = attended.transpose(1, 2).flatten(2)
        x = x + self._dropped(self.out(attended))
        gated = kernels.swiglu(self.gate_up(self.mlp_norm(x)))
        return x + self._dropped(self.down(gated))

    def _dropped(self, x: Tensor) -> Tensor:
        return kernels.dropout(x, self.dropout) if self.training and self.dropout else x


def rows_at(x: Tensor, columns: Tensor) -> Tensor:
    """x (..., length, width) at `columns` (..., n): (..., n, width).

    As a lookup, whose backward pass adds whole rows, where that of a gather adds number by number.
    """
    texts = x.shape[:-2].numel()
    first = x.shape[-2] * torch.arange(texts, device=x.device).view(*x.shape[:-2], 1)
    return F.embedding(columns + first, x.reshape(-1, x.shape[-1]))


class Decoder(nn.Module):
    """Tokens (batch, length) -> logits (batch, length, vocabulary)."""

    def __init__(self, rung: Rung, vocabulary: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.rung, self.vocabulary = rung, vocabulary
        self.embed = nn.Embedding(vocabulary, rung.width)
        self.blocks = nn.ModuleList(Block(rung.width, rung.heads, rung.feedforward, dropout) for _ in range(rung.depth))
        self.norm = RMSNorm(rung.width)
        self.head = Linear(rung.width, vocabulary)
        if rung.tied:
            self.head.weight = self.embed.weight

    @property
    def architecture(self) -> Rung:
        return self.rung

    @staticmethod
    def kind(name: str) -> Literal["embed", "hidden", "gain", "head"]:
        """What muP calls the parameter `name`. A tied head is the embedding."""
        if name in ("embed.weight", "head.weight"):
            return "embed" if name == "embed.weight" else "head"
        # LoRA's B has few inputs at every width, as an embedding has
        return "gain" if "norm" in name else "embed" if ".lora_B." in name else "hidden"

    def initialise(self, generator: torch.Generator) -> None:
        """muP (arXiv 2203.03466): hidden matrices N(0, 1/fan_in), outputs into the residual stream shrunk
        by sqrt(2 depth), embeddings N(0, 1), an untied head at zero. Tied embeddings are N(0, 1/BASE_WIDTH),
        so that logits of variance 1 come out at the base width."""
        residual = 1 / math.sqrt(2 * self.rung.depth)
        with torch.no_grad():
            self.embed.weight.normal_(std=BASE_WIDTH**-0.5 if self.rung.tied else 1.0, generator=generator)
            for block in self.blocks:
                for name in ("qkv", "out", "gate_up", "down"):
                    weight = getattr(block, name).weight
                    scale = residual if name in ("out", "down") else 1.0
                    weight.normal_(std=scale / math.sqrt(weight.shape[1]), generator=generator)
            if not self.rung.tied:
                self.head.weight.zero_()

    def hidden(self, x: Tensor, past: KVCache | None = None) -> Tensor:
        """Embeddings (batch, length, width) -> normed residual stream of the same shape.

        With `past` they go on from its texts: row r from text r % texts.
        """
        if past is not None:
            return self._go_on(x, past)
        rope_cache = kernels.rope_cache(x.shape[1], self.rung.heads, self.rung.head_width, ROTARY_BASE, x)
        for block in self.blocks:
            x = block(x, rope_cache)
        return self.norm(x)

    def residuals(self, x: Tensor) -> list[Tensor]:
        """Embeddings (batch, length, width) -> the residual stream before the first block and after each; after the
        last it is normed, as `hidden` has it."""
        rope_cache = kernels.rope_cache(x.shape[1], self.rung.heads, self.rung.head_width, ROTARY_BASE, x)
        found = [x]
        for block in self.blocks:
            found.append(block(found[-1], rope_cache))
        return [*found[:-1], self.norm(found[-1])]

    def hidden_at(self, x: Tensor, columns: Tensor, past: KVCache | None = None) -> Tensor:
        """As `hidden`, at the positions `columns` (rows, n) of each row alone, (rows, n, width): of the last block no
        more is computed than they need."""
        return self._go_on(x, past, columns=columns)

    def prefill(self, x: Tensor, lengths: Tensor, past: KVCache | None = None) -> tuple[Tensor, KVCache]:
        """As `hidden`, and what goes on from there needs. `lengths` (rows,): of each right-padded row; `past` has as
        many texts as there are rows."""
        kept: list[tuple[Tensor, Tensor]] = []
        hidden = self._go_on(x, past, kept)
        keys, values = zip(*kept, strict=True)
        return hidden, extend_cache(past, keys, values, lengths)

    def _go_on(
        self,
        x: Tensor,
        past: KVCache | None,
        kept: list[tuple[Tensor, Tensor]] | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        start = past.lengths.repeat(len(x) // past.texts) if past else None
        rope_cache = kernels.rope_cache(x.shape[1], self.rung.heads, self.rung.head_width, ROTARY_BASE, x, start)
        hide = past.hidden(x.dtype) if past else None
        for layer, block in enumerate(self.blocks):
            before = None if past is None else (past.keys[layer], past.values[layer], hide)
            x = block(x, rope_cache, before, kept, columns if layer + 1 == len(self.blocks) else None)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """Normed residual stream (..., width) -> logits (..., vocabulary)."""
        return self.head(hidden / self.rung.multiplier)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits(self.hidden(self.embed(tokens)))
