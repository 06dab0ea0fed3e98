"""A dictionary that trains beside a model in pretraining, and whose gradient may flow into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from halflife.errors import UserError
from halflife.interpret.dictionary import Dictionary
from halflife.training.companion import Companion


@dataclass(frozen=True, kw_only=True)
class DictionaryCompanion(Companion):
    """Loss: the mean over sites of the fraction of variance unexplained (FVU), and the auxiliary loss of dead latents,
    which never flows into the model. At strength 0 the model is that of training without it; the gradient of any other
    strength flows through the vectors, their scale and their variance.

    Logs `fvu` and `fvu-<site>`, `alive` (share of the latents that fired lately), `rms-<site>` of the activations, and
    with more than one site `adjacent_cosine`, the mean cosine between a token's vectors at neighbours. Where that
    exceeds 0.99 and fewer than 10 % are alive, the streams have collapsed, and a report's answers are not valid.
    """

    dictionary: Dictionary
    dead_after: int = 30_000
    """Tokens without firing after which a latent is dead"""
    auxiliary: float = 1 / 32
    variance_gradient: bool = True
    """Without it a model can lower the loss by making all streams one constant vector."""
    frozen: bool = False
    """The control of a dictionary that never learns: its random directions pull the model, and it does not follow."""

    def __post_init__(self) -> None:
        """Raises UserError when a frozen dictionary has no gradient to give."""
        super().__post_init__()
        if self.frozen and not self.strength:
            raise UserError(f"companion {self.name} frozen at strength 0 given: nothing would train; give a strength")

    def parameters(self, width: int) -> int:
        return self.dictionary.count(len(self.sites)) * self.dictionary.parameters(width)

    def flops_per_token(self, width: int) -> float:
        return len(self.sites) * self.dictionary.flops_per_vector(width)

    def activation_bytes(self, width: int) -> float:
        return 4.0 * len(self.sites) * (2 * self.dictionary.latents + 6 * width)

    def build(self, width: int, seed: int) -> Any:
        from halflife.interpret.beside import Beside  # imports torch

        return Beside(
            self.dictionary,
            self.sites,
            width,
            seed,
            dead_after=self.dead_after,
            auxiliary=self.auxiliary,
            variance_gradient=self.variance_gradient,
            frozen=self.frozen,
        )
