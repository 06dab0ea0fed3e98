"""One decoder: pre-norm RMSNorm, rotary embeddings, SDPA, SwiGLU, muP initialisation.

The shape is Llama's, so weights export to that format; query, key and value (and gate and up) are
one matrix each because one large product is faster than three small ones.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from halflife.models.ladder import BASE_WIDTH, Rung

ROTARY_BASE = 10_000.0


class Block(nn.Module):
    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm = nn.RMSNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp_norm = nn.RMSNorm(width, eps=1e-6)
        self.gate_up = nn.Linear(width, 2 * feedforward, bias=False)
        self.down = nn.Linear(feedforward, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        rate = self.dropout if self.training else 0.0
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        x = x + F.dropout(self.out(attended.transpose(1, 2).reshape(batch, length, width)), rate, self.training)
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + F.dropout(self.down(F.silu(gate) * up), rate, self.training)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in Llama's half-split layout; x: (batch, heads, length, head width)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class Decoder(nn.Module):
    """Tokens (batch, length) -> logits (batch, length, vocabulary)."""

    def __init__(self, rung: Rung, vocabulary: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.rung, self.vocabulary = rung, vocabulary
        self.embed = nn.Embedding(vocabulary, rung.width)
        self.blocks = nn.ModuleList(
            Block(rung.width, rung.heads, rung.feedforward, dropout) for _ in range(rung.depth)
        )
        self.norm = nn.RMSNorm(rung.width, eps=1e-6)
        self.head = nn.Linear(rung.width, vocabulary, bias=False)
        if rung.tied:
            self.head.weight = self.embed.weight

    @staticmethod
    def kind(name: str) -> Literal["embed", "hidden", "gain", "head"]:
        """What muP calls the parameter `name`. A tied head is the embedding."""
        if name in ("embed.weight", "head.weight"):
            return "embed" if name == "embed.weight" else "head"
        return "gain" if "norm" in name else "hidden"

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

    def hidden(self, x: Tensor) -> Tensor:
        """Embeddings (batch, length, width) -> normed residual stream of the same shape."""
        half = self.rung.head_width // 2
        frequency = ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
        angle = torch.arange(x.shape[1], device=x.device, dtype=torch.float32)[:, None] * frequency
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden) / self.rung.multiplier

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits(self.hidden(self.embed(tokens)))
