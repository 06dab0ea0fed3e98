"""A model that reads the same vectors before every text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from halflife.models.hook_points import Flow, HookPoint
from halflife.models.hooks import residuals
from halflife.models.kv_cache import KVCache
from halflife.models.model import Kind, Model
from halflife.models.sites import Site


class Prefixed(nn.Module):
    """`model` behind `vectors` (k, width), whose keys and values are computed once. Its texts are as without them: no
    result has their positions."""

    def __init__(self, model: Model, vectors: Tensor) -> None:
        super().__init__()
        self.model, self.architecture = model, model.architecture
        self.vocabulary, self.depth = model.vocabulary, model.depth
        weight = model.embed.weight
        lengths = torch.tensor([len(vectors)], device=weight.device)
        with torch.no_grad():
            _, self._prompt = model.prefill(vectors[None].to(weight), lengths)

    @property
    def embed(self) -> nn.Embedding:
        return self.model.embed

    @property
    def flow(self) -> Flow:
        return self.model.flow

    def hook_point(self, site: Site) -> HookPoint:
        return self.model.hook_point(site)

    def kind(self, name: str) -> Kind:
        return self.model.kind(name.removeprefix("model."))

    def hidden(self, x: Tensor) -> Tensor:
        return self.hidden_at(x, torch.arange(x.shape[1], device=x.device).expand(len(x), -1))

    def hidden_at(self, x: Tensor, columns: Tensor, past: KVCache | None = None) -> Tensor:
        return self.model.hidden_at(x, columns, self._prompt if past is None else past)

    def prefill(self, x: Tensor, lengths: Tensor, past: KVCache | None = None) -> tuple[Tensor, KVCache]:
        return self.model.prefill(x, lengths, self._prompt.repeated(len(x)) if past is None else past)

    def residuals(self, x: Tensor) -> list[Tensor]:
        return residuals(self, x)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.logits(hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits(self.hidden(self.embed(tokens)))
