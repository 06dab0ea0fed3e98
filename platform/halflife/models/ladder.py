"""The ladder of sizes: a rung is named by its non-embedding parameters, the rest is derived."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache, cached_property

from halflife.errors import UserError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
SMALLEST, LARGEST = 20_000, 20_000_000_000
BASE_WIDTH = 64
"""Width at which muP multipliers are 1; a study states its learning rates for this width."""


@cache
def parse_size(name: str) -> int:
    """Non-embedding parameters named by `name` ("100k" -> 100000).

    Raises UserError when the name is not a size, or is outside the ladder.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmb]?)", name.strip().lower())
    count = round(float(match[1]) * _UNITS[match[2]]) if match else 0
    if not match or not SMALLEST <= count <= LARGEST:
        raise UserError(
            f"unknown size {name!r}: expected a count of non-embedding parameters from 20k to 20b, "
            "such as 100k, 1m or 1.4b; several are separated by spaces"
        )
    return count


def _head_width(parameters: int) -> int:
    for limit, width in ((2_000_000, 16), (20_000_000, 32), (600_000_000, 64)):
        if parameters < limit:
            return width
    return 128


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One size of the ladder. Derived values are cached, since a large plan reads them a million times.

    Depth grows as the fourth root of the parameters (2 at 100k, 11 at 100m, 20 at 1b), width takes the rest, and the
    feed-forward width is chosen so that the parameter count matches the name.
    """

    size: str
    depth: int | None = None
    """Number of layers in place of the ladder's; the width then takes what is left of the parameters."""

    def __post_init__(self) -> None:
        width = 2 * _head_width(parse_size(self.size))
        deepest = self.target // (4 * width**2 + 3 * width * 8)  # of layers with two heads and a feed-forward of 8
        if self.depth is not None and not 1 <= self.depth <= deepest:
            raise UserError(f"{self.depth} layers of {self.size} given: expected 1 to {deepest}")

    matrices = ("qkv", "out", "gate_up", "down")
    """The matrices of every layer, by the names that LoRA's targets use."""

    @property
    def identity(self) -> str:
        """Stored in checkpoints and compared when one is loaded."""
        return self.size if self.depth is None else f"{self.size}-d{self.depth}"

    @staticmethod
    def of_identity(text: str) -> Rung:
        """The rung with this `identity`."""
        size, _, depth = text.partition("-d")
        return Rung(size=size, depth=int(depth) if depth else None)

    @cached_property
    def target(self) -> int:
        return parse_size(self.size)

    @property
    def head_width(self) -> int:
        return _head_width(self.target)

    @cached_property
    def layers(self) -> int:
        return max(2, round(2 * (self.target / 1e5) ** 0.25)) if self.depth is None else self.depth

    @cached_property
    def width(self) -> int:
        per_block = self.target / self.layers
        return max(2, round(math.sqrt(per_block / 12) / self.head_width)) * self.head_width

    @property
    def heads(self) -> int:
        return self.width // self.head_width

    @cached_property
    def feedforward(self) -> int:
        spare = self.target / self.layers - 4 * self.width**2
        return max(8, round(spare / (3 * self.width) / 8) * 8)

    @property
    def multiplier(self) -> float:
        """muP width multiplier m = width / BASE_WIDTH."""
        return self.width / BASE_WIDTH

    @cached_property
    def parameters(self) -> int:
        """Actual non-embedding parameters: the matrices, without norm gains."""
        return self.layers * (4 * self.width**2 + 3 * self.width * self.feedforward)

    def embedding_parameters(self, vocabulary: int) -> int:
        """Parameters of the embedding and the head."""
        return 2 * vocabulary * self.width

    def flops_per_token(self, sequence: int, vocabulary: int = 0) -> float:
        """Training FLOPs per token: 6 per matrix parameter (including the head's if a vocabulary is given), plus the
        products of causal attention, forward and backward."""
        return 6 * (self.parameters + vocabulary * self.width) + 6 * self.layers * self.width * sequence

    def activation_bytes(self, vocabulary: int) -> float:
        """Estimated fp32 bytes per token: activations kept for the backward pass, logits and their gradient."""
        return 4.0 * (self.layers * (16 * self.width + 5 * self.feedforward) + 3 * vocabulary)

    def describe(self) -> str:
        return (
            f"{self.size}: {self.layers} layers x width {self.width}, {self.heads} heads of {self.head_width}, "
            f"feed-forward {self.feedforward}, {self.parameters:,} non-embedding parameters, "
            f"muP multiplier {self.multiplier:g}"
        )
