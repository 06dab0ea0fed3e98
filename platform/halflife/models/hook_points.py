"""The modules at which a site is hooked, and where transformers' blocks hold what they add to the residual stream.

Families name and order these modules in their own ways, so they are found by what they compute: the two children of a
block whose outputs add up to the change of the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

TOLERANCE = 1e-4
"""Of the change's norm: sums differ by rounding only."""


@dataclass(frozen=True)
class Flow:
    """Where the activations of the current forward pass stand in their texts."""

    length: int = 0
    start: Tensor | None = None
    """(rows,): number of cached tokens before each row; None without a cache."""
    columns: Tensor | None = None
    """(rows, n): the columns that the last block computes; None if it computes all."""

    def positions(self, device: torch.device, *, last: bool) -> Tensor:
        """(rows or 1, n) int64: the position in its text of each activation; `last`: of the last block."""
        columns = self.columns if last and self.columns is not None else torch.arange(self.length, device=device)[None]
        return columns if self.start is None else columns + self.start[:, None]


@dataclass(frozen=True)
class HookPoint:
    """The module whose output is the activation, or with `before` its first input."""

    module: nn.Module
    before: bool = False


def find_parts(blocks: list[nn.Module], run: Callable[[], Any]) -> list[dict[str, nn.Module]]:
    """For each block its modules by part, "attention" and "mlp"; empty where no two children add up to its change.

    `run` does a forward pass through the blocks, without gradients or dropout.
    """
    recorders = [_Recorder(block) for block in blocks]
    try:
        with torch.no_grad():
            run()
        return [recorder.parts() for recorder in recorders]
    finally:
        for recorder in recorders:
            recorder.remove()


class _Recorder:
    """The outputs of a block's children in a forward pass, and what enters and leaves the block.

    Children and input are recorded after the edits of others' hooks, the block's output before them: then they add up
    under any edit.
    """

    def __init__(self, block: nn.Module) -> None:
        self._block = block
        self._outputs: dict[str, Tensor] = {}
        self._before = self._after = torch.empty(0)
        self._handles = [
            block.register_forward_pre_hook(self._enter, with_kwargs=True),
            block.register_forward_hook(self._leave, prepend=True),
            *(child.register_forward_hook(self._keep(name)) for name, child in block.named_children()),
        ]

    def parts(self) -> dict[str, nn.Module]:
        change = self._after - self._before
        same = {name: found.reshape(change.shape) for name, found in self._outputs.items() if _alike(found, change)}
        for pair in combinations(same, 2):
            attention = [name for name in pair if "att" in name.lower()]
            exact = float((same[pair[0]] + same[pair[1]] - change).norm()) <= TOLERANCE * float(change.norm())
            if exact and len(attention) == 1:
                mlp = next(name for name in pair if name not in attention)
                return {"attention": getattr(self._block, attention[0]), "mlp": getattr(self._block, mlp)}
        return {}

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._before = args[0] if args else kwargs["hidden_states"]

    def _leave(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._after = _first(output)

    def _keep(self, name: str) -> Callable[..., None]:
        def keep(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(found := _first(output), Tensor):
                self._outputs[name] = found

        return keep


def _first(output: Any) -> Any:
    """The activation among what a module returns."""
    return output[0] if isinstance(output, tuple) else output


def _alike(found: Tensor, change: Tensor) -> bool:
    """Some families flatten rows and positions."""
    return found.numel() == change.numel() and found.shape[-1] == change.shape[-1]
