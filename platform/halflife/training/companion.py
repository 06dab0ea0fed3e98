"""Companions: modules that train beside a model, on its activations, such as a dictionary in pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from halflife.errors import UserError
from halflife.models.sites import Site
from halflife.training.objective import Trained, check_name, check_strength
from halflife.training.optimizers import AdamW

PREFIX = "companion."
"""Of companions' weights in checkpoints; no parameter of a model begins with it."""


@dataclass(frozen=True, kw_only=True)
class Companion:
    """Base of companions: frozen dataclasses in the `companions` of a Train.

    Its gradient is clipped and stepped apart from the model's, so that at strength 0 the model's weights are those of
    training without it, to the bit. A companion of your own is one such class, in a module that your study imports.
    """

    engines: ClassVar[tuple[str, ...]] = ("torch",)

    name: str
    """Of its weights in checkpoints, `companion.<name>.<parameter>`, and of what it logs, `<name>/<measure>`"""
    sites: tuple[Site, ...]
    """Whose activations it reads"""
    optimizer: AdamW
    """Its learning rate follows the stage's schedule, and not muP's rules of width."""
    strength: float = 0.0
    """Of its loss in the model's own: at 0 the model gets no gradient from it, at any other strength the gradient of
    strength times the loss. The companion's own training does not depend on it."""
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        check_strength(f"companion {self.name}", self.strength)
        check_name("companion", self.name)
        if not self.sites:
            raise UserError(f"companion {self.name} without a site: expected at least one, such as Site(layer=1)")

    def check(self, stage: Trained) -> None:
        """Raises UserError when the stage cannot have this companion."""
        for site in self.sites:
            site.check(stage.architecture)
        before = getattr(stage.start, "stage", None)  # of a checkpoint
        width = stage.architecture.width
        for other in before.companions if before is not None else ():
            if other.name == self.name and other.parameters(width) != self.parameters(width):
                raise UserError(
                    f"companion {self.name} of {self.parameters(width):,} parameters: it continues the start's of that "
                    f"name, which has {other.parameters(width):,}; give it another name"
                )

    def parameters(self, width: int) -> int:
        """Its number of parameters beside a model of this width."""
        raise NotImplementedError(f"{type(self).__name__} states no parameters")

    def flops_per_token(self, width: int) -> float:
        """Of a forward and a backward pass; by default six for each parameter and site."""
        return 6.0 * len(self.sites) * self.parameters(width)

    def activation_bytes(self, width: int) -> float:
        """Held per token between the forward and the backward pass."""
        raise NotImplementedError(f"{type(self).__name__} states no activation_bytes")

    def build(self, width: int, seed: int) -> Any:
        """A torch module that is called with (activations by site, each (rows, length, width) in fp32;
        `training.seen.Metrics`) and returns its loss, a mean over these rows. What it logs as `fvu` is recorded as
        `<name>/fvu`. Its parameters and buffers are in the checkpoints. It draws nothing at random after it is built.
        If it has a method `after_step`, that is called after each of its steps, for constraints on its weights."""
        raise NotImplementedError(f"{type(self).__name__} builds no module")
