"""The decoder: pre-norm RMSNorm, rotary embeddings, SDPA, SwiGLU, muP initialisation.

The architecture is Llama's, so weights export to that format. Rotary pairs are adjacent elements here and half a head
apart there, so the export permutes the rows of query and key. Query, key and value (and gate and up) share one matrix
because one large product is faster than three small ones.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halflife.models import kernels
from halflife.models.hook_points import Flow, HookPoint
from halflife.models.hooks import residuals
from halflife.models.kv_cache import KVCache, attend, extend_cache
from halflife.models.ladder import Rung
from halflife.models.model import Kind
from halflife.models.sites import Site

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
        new: list[tuple[Tensor, Tensor]] | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """x (rows, length, width) -> the same shape, or (rows, n, width) at `columns` (rows, n).

        `past`: cached keys, values and mask of this layer, as `attend` takes them. This layer's own keys and values
        are appended to `new`.
        """
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = kernels.rotate_qkv(qkv, rope_cache)
        if new is not None:
            new.append((k, v))
        if columns is not None:
            q, x = rows_at(q, columns[:, None].expand(-1, self.heads, -1)), rows_at(x, columns)
        if past is not None:
            attended = attend(q, k, v, *past, columns)
        elif columns is not None:
            causal = torch.arange(k.shape[2], device=x.device) <= columns[:, None, :, None]
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=causal)
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

    An embedding lookup, because its backward pass adds whole rows; that of gather adds single numbers.
    """
    batch = x.shape[:-2].numel()
    offset = x.shape[-2] * torch.arange(batch, device=x.device).view(*x.shape[:-2], 1)
    return F.embedding(columns + offset, x.reshape(-1, x.shape[-1]))


class Decoder(nn.Module):
    """A rung of the ladder as a model; see `models.model.Model` for shapes."""

    def __init__(self, rung: Rung, vocabulary: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.architecture, self.vocabulary, self.depth = rung, vocabulary, rung.layers
        self.flow = Flow()
        self.embed = nn.Embedding(vocabulary, rung.width)
        self.blocks = nn.ModuleList(
            Block(rung.width, rung.heads, rung.feedforward, dropout) for _ in range(rung.layers)
        )
        self.norm = RMSNorm(rung.width)
        self.head = Linear(rung.width, vocabulary)

    def hook_point(self, site: Site) -> HookPoint:
        if site.layer == 0:
            return HookPoint(self.blocks[0], before=True)
        block = self.blocks[site.layer - 1]
        return HookPoint({"residual": block, "attention": block.out, "mlp": block.down}[site.part])

    @staticmethod
    def kind(name: str) -> Kind:
        if name in ("embed.weight", "head.weight"):
            return "embed" if name == "embed.weight" else "head"
        # LoRA's B has few inputs at every width, as an embedding has
        return "gain" if "norm" in name else "embed" if ".lora_B." in name else "hidden"

    def initialise(self, generator: torch.Generator) -> None:
        """muP (arXiv 2203.03466): hidden matrices N(0, 1/fan_in), those that write to the residual stream divided by
        sqrt(2 depth), embeddings N(0, 1), the head 0."""
        residual = 1 / math.sqrt(2 * self.architecture.layers)
        with torch.no_grad():
            self.embed.weight.normal_(std=1.0, generator=generator)
            for block in self.blocks:
                for name in ("qkv", "out", "gate_up", "down"):
                    weight = getattr(block, name).weight
                    scale = residual if name in ("out", "down") else 1.0
                    weight.normal_(std=scale / math.sqrt(weight.shape[1]), generator=generator)
            self.head.weight.zero_()

    def hidden(self, x: Tensor) -> Tensor:
        return self._run(x)

    def hidden_at(self, x: Tensor, columns: Tensor, past: KVCache | None = None) -> Tensor:
        """The last block computes only what these positions need."""
        return self._run(x, past, columns=columns)

    def prefill(self, x: Tensor, lengths: Tensor, past: KVCache | None = None) -> tuple[Tensor, KVCache]:
        new: list[tuple[Tensor, Tensor]] = []
        hidden = self._run(x, past, new)
        keys, values = zip(*new, strict=True)
        return hidden, extend_cache(past, keys, values, lengths)

    def residuals(self, x: Tensor) -> list[Tensor]:
        return residuals(self, x)

    def _run(
        self,
        x: Tensor,
        past: KVCache | None = None,
        new: list[tuple[Tensor, Tensor]] | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """The blocks and the final norm. `new` collects the keys and values of every layer."""
        start = past.lengths.repeat(len(x) // past.texts) if past else None
        self.flow = Flow(x.shape[1], start, columns)
        rope_cache = self._rope_cache(x, start)
        mask = past.mask(x.dtype) if past else None
        for layer, block in enumerate(self.blocks):
            cached = None if past is None else (past.keys[layer], past.values[layer], mask)
            x = block(x, rope_cache, cached, new, columns if layer + 1 == len(self.blocks) else None)
        return self.norm(x)

    def _rope_cache(self, x: Tensor, start: Tensor | None = None) -> Tensor:
        rung = self.architecture
        return kernels.rope_cache(x.shape[1], rung.heads, rung.head_width, ROTARY_BASE, x, start)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden / self.architecture.multiplier)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits(self.hidden(self.embed(tokens)))
