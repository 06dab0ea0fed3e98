"""Sites of the forward pass: where an activation is read or changed, the same on every model (see `models.hooks`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from halflife.errors import UserError, check_choice
from halflife.models.ladder import Rung
from halflife.models.released import Released

Part = Literal["residual", "attention", "mlp"]


@dataclass(frozen=True, kw_only=True, order=True)
class Site:
    """An activation of (rows, positions, width).

    `residual` at layer n is the residual stream after n blocks, so layer 0 is what enters the first block, and the last
    layer is what enters the final norm. `attention` and `mlp` at layer n >= 1 are what block n adds to the stream:
    residual(n) = residual(n - 1) + attention(n) + mlp(n).
    """

    layer: int
    part: Part = "residual"

    def __post_init__(self) -> None:
        check_choice("part", self.part, get_args(Part))
        lowest = 0 if self.part == "residual" else 1
        if self.layer < lowest:
            raise UserError(f"layer {self.layer} given: expected {lowest} or more for the part {self.part!r}")

    @property
    def name(self) -> str:
        """In points and files, such as `residual-2`."""
        return f"{self.part}-{self.layer}"

    def check(self, architecture: Rung | Released) -> None:
        """Raises UserError when such a model has no such site."""
        if self.layer > architecture.layers:
            raise UserError(
                f"layer {self.layer} of {architecture.size} given: it has {architecture.layers} blocks; expected at "
                "most that many"
            )
