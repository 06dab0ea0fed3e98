"""Export of a subject as a Hugging Face model folder: configuration, weights and tokenizer, with equal logits."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halflife.data import tokenizer_files
from halflife.data.codecs import load as load_tokenizer
from halflife.errors import UserError
from halflife.extras import require
from halflife.models.decoder import Decoder
from halflife.models.llama import llama
from halflife.models.shapes import context
from halflife.stages.subject import Subject
from halflife.stages.train import Checkpoint, Train
from halflife.store.difference import find
from halflife.store.recorded import stage_of
from halflife.store.stage import ParentResult, Stage, parts_of
from halflife.store.store import Store

UNTRAINED = 256
"""The longest text of a model that was trained on none, in tokens"""


def export_stage(store: Store, name: str, out: Path, at: str = "final") -> None:
    """Export the model that a training stage made, or the subject that another one looks at.

    Raises UserError as `export` and `subject_of` do.
    """
    export(subject_of(store, name, at), store, out)


def subject_of(store: Store, name: str, at: str = "final") -> Subject:
    """The model that a training stage made, at its end or a snapshot, or the subject that another stage looks at.

    Raises UserError when there is no such stage or snapshot.
    """
    stage = stage_of(store, find(store, name))
    if isinstance(stage, Train):
        return Subject(model=Checkpoint(stage=stage, at=at))
    subject = getattr(stage, "subject", None)
    if not isinstance(subject, Subject) or at != "final":
        raise UserError(f"{stage.folder_name} has no weights {at!r}: expected a trained stage, or one with a subject")
    return subject


def export(subject: Subject, store: Store, out: Path) -> None:
    """Write `out`, a new folder. Raises UserError when an edit changes more than weights, when a stage that the subject
    needs is not complete, and when `out` exists."""
    require("transformers", "an export")
    check_edits(subject)
    with new_folder(out) as folder:
        model: Any = subject.load(completed_parents(subject, store))
        if isinstance(model, Decoder):
            eos = load_tokenizer(subject.codec, store.root).eos
            model = llama(model, subject.context_length or UNTRAINED, eos)
        else:
            model = model.model  # transformers' own
        model.save_pretrained(folder)
        tokenizer_files.write(subject.codec, store.root, folder, context(model.config.to_dict()))


def check_edits(subject: Subject) -> None:
    """Raises UserError when an edit changes more than weights."""
    for edit in subject.edits:
        if not edit.in_weights:
            raise UserError(
                f"{type(edit).__name__} changes what flows through {subject.size}, which no folder of weights holds: "
                "expected a subject with edits of weights only, such as PutBack"
            )


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block succeeds. Raises UserError when `out` exists."""
    if out.exists():
        raise UserError(f"{out} exists already: give a new folder")
    temporary = out.with_name(f".{out.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@dataclass(frozen=True)
class CompletedParents:
    """Implements models.edit.Parents outside of a running stage."""

    folders: dict[str, Path]
    results: Path
    device: str = "cpu"

    def parent(self, stage: Stage) -> Path:
        return self.folders[stage.key]


def completed_parents(description: Any, store: Store) -> CompletedParents:
    """Where the results are that a subject or an edit needs. Raises UserError when one is missing."""
    parts = list(parts_of(description))
    outcomes, folders = {}, {}
    for stage in (part for part in parts if isinstance(part, Stage)):
        outcome, folder = store.outcome(stage), store.verified(stage)
        if outcome is None or folder is None or outcome.status != "complete":
            raise UserError(f"{stage.folder_name} is not complete: run its study first")
        outcomes[stage.key], folders[stage.key] = outcome, folder
    for part in parts:
        if isinstance(part, ParentResult) and (reason := part.unreached(outcomes)):
            raise UserError(f"nothing to export: {reason}")
    return CompletedParents(folders, store.root)
