"""Components of a model: what its parameters belong to, the same names for the decoder and released models."""

from __future__ import annotations

import re

from torch import nn

from halflife.errors import UserError
from halflife.models.hooks import layers
from halflife.models.model import Model


def component_of(model: Model) -> dict[str, str]:
    """By parameter: "embed", "head", "norm" (the final one), "attention-<n>" or "mlp-<n>" of block n from 1 on, each
    with the norm before it. What lies in a block and belongs to neither is its mlp's."""
    assert isinstance(model, nn.Module)
    blocks = {module: number for number, module in enumerate(layers(model), 1)}
    places = {name: blocks[module] for name, module in model.named_modules() if module in blocks}
    found = {}
    for name, _ in model.named_parameters():
        block = next((place for place in places if name.startswith(f"{place}.")), None)
        if block is None:
            kind = model.kind(name)
            found[name] = kind if kind in ("embed", "head") else "norm"
        else:
            inside = name[len(block) + 1 :].lower()
            part = "attention" if re.match(r"qkv|out\.|.*att|input_layernorm|ln_1\b", inside) else "mlp"
            # Llama's families call the norm before the mlp after the attention that precedes it
            part = "mlp" if inside.startswith("post_attention_layernorm") else part
            found[name] = f"{part}-{places[block]}"
    return found


def parameters_of(model: Model, components: tuple[str, ...]) -> list[str]:
    """Names of the parameters of some components; "all" means every one, "block-<n>" both of a block.

    Raises UserError for a component that the model does not have.
    """
    known = component_of(model)
    names = sorted(set(known.values()))
    wanted: set[str] = set()
    for component in components:
        block = component.removeprefix("block-")
        chosen = {f"attention-{block}", f"mlp-{block}"} if block != component else {component}
        chosen = set(names) if component == "all" else chosen & set(names)
        if not chosen:
            raise UserError(f"component {component!r} given: expected all, block-<n>, or one of {', '.join(names)}")
        wanted |= chosen
    return [name for name, component in known.items() if component in wanted]
