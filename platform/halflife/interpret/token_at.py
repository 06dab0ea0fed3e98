"""Another token at a position of every text: what a model is conditioned on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from halflife.errors import UserError
from halflife.models.edit import Edit, Parents
from halflife.models.sites import Site

if TYPE_CHECKING:
    from halflife.models.model import Model


@dataclass(frozen=True, kw_only=True)
class TokenAt(Edit):
    """The model reads this token in the place of the text's own. So models that are conditioned otherwise can be
    compared on the same texts."""

    token: int
    """Its id"""
    position: int = 0

    def __post_init__(self) -> None:
        if self.token < 0 or self.position < 0:
            raise UserError(f"token {self.token} at position {self.position} given: expected 0 or more")

    def prepare(self, parents: Parents) -> Callable[[Model], Model]:
        import torch  # only where a stage runs

        from halflife.models.changes import At, Splice
        from halflife.models.hooks import install

        def edit(model: Model) -> Model:
            with torch.no_grad():
                vector = model.embed(torch.tensor([[self.token]], device=parents.device))[0, 0]
            install(model, [(Site(layer=0), At((self.position,), Splice(lambda x: vector.to(x).expand_as(x))))])
            return model

        return edit
