"""A base for models that answer by a rule instead of by weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from halflife.models.hook_points import Flow, HookPoint
from halflife.models.kv_cache import KVCache
from halflife.models.model import Kind
from halflife.models.sites import Site


class FakeModel(nn.Module):
    """Embeddings are the token ids, and `hidden` gives logits. A test overrides what it needs."""

    architecture: Any = None
    vocabulary = 257
    depth = 0
    flow = Flow()

    def __init__(self) -> None:
        super().__init__()
        self.embed: Any = nn.Identity()

    def hidden(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def hidden_at(self, x: Tensor, columns: Tensor, past: KVCache | None = None) -> Tensor:
        raise NotImplementedError

    def prefill(self, x: Tensor, lengths: Tensor, past: KVCache | None = None) -> tuple[Tensor, KVCache]:
        raise NotImplementedError

    def residuals(self, x: Tensor) -> list[Tensor]:
        raise NotImplementedError

    def hook_point(self, site: Site) -> HookPoint:
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden

    def kind(self, name: str) -> Kind:
        raise NotImplementedError
