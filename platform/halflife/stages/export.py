"""Export of a trained stage as a Hugging Face model folder: configuration, weights and tokenizer, with equal logits."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path
from typing import Any

from halflife.data import tokenizer_files
from halflife.data.codecs import load as load_tokenizer
from halflife.errors import UserError
from halflife.extras import require
from halflife.models import hugging_face
from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.models.llama import llama
from halflife.models.shapes import context
from halflife.store import files
from halflife.store.difference import find, record_of
from halflife.store.store import Store, valid_done
from halflife.training import checkpoints
from halflife.training.torch_engine import load_weights


def export_stage(store: Store, name: str, out: Path, at: str = "final") -> None:
    """Write `out`, a new folder. Raises UserError when there is no such trained stage or snapshot."""
    require("transformers", "an export")
    folder = find(store, name)
    done, record = valid_done(folder), record_of(folder)
    if done is None or done.outcome.status != "complete":
        raise UserError(f"{folder.name} is not complete: run its study first")
    source = folder / "attempts" / done.outcome.attempt
    attempt = store.local(source)
    kept = ["final", *(done.outcome.summary.get("snapshots") or {})]
    if "mixture" not in record["fields"] or at not in kept:
        raise UserError(f"{folder.name} has no weights {at!r}: expected a trained stage, and one of {', '.join(kept)}")
    if out.exists():
        raise UserError(f"{out} exists already: give a new folder")
    if problem := files.fetch(source, attempt, done.files):
        raise UserError(f"{folder.name} is damaged ({problem}): run its study again")
    mixture, folder = record["fields"]["mixture"], attempt / ("final" if at == "final" else f"snapshots/{at}")
    tokenizer = tokenizer_files.described(mixture["tokenizer"])
    temporary = out.with_name(f".{out.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        model = load(folder, sequence=mixture["sequence"], eos=load_tokenizer(tokenizer, store.root).eos)
        model.save_pretrained(temporary)
        tokenizer_files.write(tokenizer, store.root, temporary, context(model.config.to_dict()))
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load(folder: Path, *, sequence: int, eos: int) -> Any:
    """The model in a checkpoint's folder as a transformers model. Raises UserError when the folder is damaged.

    For a decoder of the ladder, `sequence` is the longest sequence that it was trained on, and `eos` the token that
    ends a text.
    """
    try:
        state = checkpoints.read_state(folder)
    except checkpoints.CorruptCheckpoint as error:
        raise UserError(f"{error}: delete the stage's folder to compute it again") from error
    weights = checkpoints.read_weights(folder)
    if "configuration" in state:
        model = hugging_face.remade(state["configuration"])
        load_weights(model, {name.removeprefix("model."): weight for name, weight in weights.items()})
        return model
    decoder = Decoder(Rung.of_identity(state["size"]), state["vocabulary"])
    load_weights(decoder, weights)
    return llama(decoder, sequence, eos)
