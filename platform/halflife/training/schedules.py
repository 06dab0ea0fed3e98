"""The learning rate over a stage, as a multiple of the optimizer's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from halflife.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    shape: Literal["constant", "cosine", "wsd", "continue"] = "constant"
    """continue: constant at the multiplier that the starting checkpoint ended with."""
    warmup: float = 0.0
    """Fraction of the stage's steps over which the multiplier rises linearly, from 1 / (warmup steps)."""
    decay: float = 0.2
    """wsd: fraction of the steps, at the end, over which the multiplier falls linearly."""
    final: float = 0.1
    """cosine and wsd: the multiplier at the end."""

    def __post_init__(self) -> None:
        for name in ("warmup", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"schedule {name} {getattr(self, name)}: expected a fraction of the steps from 0 to 1")
        if self.shape == "wsd" and self.warmup + self.decay > 1:
            raise UserError(
                f"schedule warmup {self.warmup} and decay {self.decay} overlap: expected a sum of at most 1"
            )

    def lr_multiplier(self, step: int, steps: int, carried: float = 1.0) -> float:
        """Multiplier of the learning rate at `step` (0-based) of `steps`; `carried` is the checkpoint's last one.

        The last step of cosine and wsd has the multiplier `final`.
        """
        peak = carried if self.shape == "continue" else 1.0
        rising = math.ceil(self.warmup * steps)
        if step < rising:
            return peak * ((step + 1) / rising)
        if self.shape == "cosine":
            done = (step - rising) / max(1, steps - 1 - rising)
            return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2
        if self.shape == "wsd":
            falling = math.ceil(self.decay * steps)
            into = step - (steps - falling) + 1
            return 1 - (1 - self.final) * into / falling if into > 0 else 1.0
        return peak
