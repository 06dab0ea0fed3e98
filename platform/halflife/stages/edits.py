"""Edits of a subject's weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from halflife.errors import UserError
from halflife.models.edit import Edit, Parents
from halflife.models.ladder import Rung
from halflife.models.released import Released
from halflife.stages.train import Checkpoint

if TYPE_CHECKING:
    from halflife.models.model import Model


@dataclass(frozen=True, kw_only=True)
class PutBack(Edit):
    """Weights of another checkpoint of the same shape, in some components. All of them make that model, to the bit."""

    in_weights: ClassVar[bool] = True

    source: Checkpoint
    components: tuple[str, ...]
    """As in `models.components`: "all", "embed", "head", "norm", "block-2", "attention-1", "mlp-3", ..."""

    def __post_init__(self) -> None:
        if not self.components:
            raise UserError("no component to put back given: expected at least one, such as 'block-1'")

    def check(self, architecture: Rung | Released) -> None:
        theirs = self.source.stage.architecture
        if theirs.identity != architecture.identity:
            raise UserError(f"weights of a {theirs.size} put into a {architecture.size}: expected the same shape")
        for component in self.components:
            named = re.fullmatch(r"all|embed|head|norm|(?:block|attention|mlp)-(\d+)", component)
            if not named or (named[1] and not 1 <= int(named[1]) <= architecture.layers):
                raise UserError(
                    f"component {component!r} of {architecture.size} given: expected all, embed, head, norm, or "
                    f"block-<n>, attention-<n> or mlp-<n> with n from 1 to {architecture.layers}"
                )

    def prepare(self, parents: Parents) -> Callable[[Model], Model]:
        import torch  # only where a stage runs

        from halflife.models.components import parameters_of
        from halflife.training import checkpoints

        weights = checkpoints.read_weights(self.source.folder(parents.parent(self.source.stage)))

        def edit(model: Model) -> Model:
            own = dict(model.named_parameters())
            with torch.no_grad():
                for name in parameters_of(model, self.components):
                    own[name].copy_(weights[name])
            return model

        return edit
