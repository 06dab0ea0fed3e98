"""Read or change activations at sites of the forward pass, on any model.

with tapped(model, [Site(layer=2)]) as taps:
    model.hidden(x)
taps[Site(layer=2)]  # (rows, positions, width)

with edited(model, {Site(layer=1): Add(vector)}):
    model(tokens)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from halflife.errors import UserError
from halflife.models.hook_points import HookPoint
from halflife.models.model import Model
from halflife.models.sites import Site

Change = Callable[[Tensor, Tensor], Tensor]
"""(activation (rows, n, width), positions (rows or 1, n)) -> the activation to go on with, of the same shape."""


class Taps(dict[Site, Tensor]):
    """The activations of the latest forward pass, by site: (rows, n, width), with their graph where there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.positions: dict[Site, Tensor] = {}
        """(rows or 1, n): the position in its text of each activation."""


@contextlib.contextmanager
def tapped(model: Model, sites: Iterable[Site]) -> Iterator[Taps]:
    """Record the activations at `sites`, after any edit that was made before. The forward pass stays as it is.

    Raises UserError when the model has no such site.
    """
    taps = Taps()

    def reader(site: Site) -> Change:
        def read(x: Tensor, positions: Tensor) -> Tensor:
            taps[site], taps.positions[site] = x, positions
            return x

        return read

    with edited(model, [(site, reader(site)) for site in sites]):
        yield taps


@contextlib.contextmanager
def edited(model: Model, changes: Mapping[Site, Change] | Sequence[tuple[Site, Change]]) -> Iterator[None]:
    """Change activations in every forward pass of the block, each in the order given.

    Keys and values that were cached before the block stay as they were cached. Raises UserError when the model has no
    such site.
    """
    pairs = list(changes.items()) if isinstance(changes, Mapping) else list(changes)
    with contextlib.ExitStack() as stack:
        for handle in install(model, pairs):
            stack.callback(handle.remove)
        yield


def install(model: Model, changes: Sequence[tuple[Site, Change]]) -> list[RemovableHandle]:
    """`edited` for as long as the model lives, or until the handles remove the changes."""
    points = [(site, change, _hook_point(model, site)) for site, change in changes]
    return [_hook(model, site, change, point) for site, change, point in points]


def _hook_point(model: Model, site: Site) -> HookPoint:
    if site.layer > model.depth:
        raise UserError(f"layer {site.layer} given: the model has {model.depth} blocks; expected at most that many")
    return model.hook_point(site)


def _hook(model: Model, site: Site, change: Change, point: HookPoint) -> RemovableHandle:
    last = site.layer == model.depth  # also its attention and its mlp, which follow the queries

    def changed(x: Tensor) -> Tensor:
        positions = model.flow.positions(x.device, last=last)
        if x.dim() == 2:  # OPT's rows and positions are one axis there
            return change(x.unflatten(0, (-1, positions.shape[1])), positions).flatten(0, 1)
        return change(x, positions)

    def on_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (changed(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": changed(kwargs["hidden_states"])}

    def on_output(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return (changed(output[0]), *output[1:]) if isinstance(output, tuple) else changed(output)

    if point.before:
        return point.module.register_forward_pre_hook(on_input, with_kwargs=True)
    return point.module.register_forward_hook(on_output)


def residuals(model: Model, x: Tensor) -> list[Tensor]:
    """Embeddings (batch, length, width) -> depth + 1 tensors of that shape: the residual stream before the first block
    and after each block. The last one is normed: what `hidden` returns."""
    sites = [Site(layer=layer) for layer in range(model.depth)]
    with tapped(model, sites) as taps:
        hidden = model.hidden(x)
    return [*(taps[site] for site in sites), hidden]


def layers(model: Model | nn.Module) -> list[nn.Module]:
    """The repeated blocks: the members of the largest list of modules. Raises ValueError if there are none."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise ValueError(f"{type(model).__name__} has no list of layers")
    return list(max(lists, key=lambda found: sum(parameter.numel() for parameter in found.parameters())))
