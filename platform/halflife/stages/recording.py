"""Writing a subject's activations, one pass while the next is computed. The complete shards are the checkpoint."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from halflife.data import activations as files
from halflife.data.activations import CorruptActivations, Index, Layout, Stored
from halflife.errors import Diverged, UserError
from halflife.evaluation.scoring import evaluating
from halflife.models.hooks import tapped
from halflife.models.model import Model
from halflife.models.sites import Site
from halflife.store.stage import Context
from halflife.training.loop import link_tree
from halflife.training.torch_engine import keep_memory

DTYPES: dict[Stored, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
REPORT_SECONDS = 0.5
CHECKPOINTING = 0.1
"""Upper limit on the share of time that checkpoints take: for each, the store reads all shards so far."""


@dataclass(frozen=True)
class Pass:
    """What one forward pass leaves of texts `start` to `stop`, which are in one shard."""

    shard: int
    start: int
    stop: int
    arrays: dict[str, NDArray[Any]]
    """By site, and `data.activations.TOKENS`, as they are stored"""
    sums: dict[str, NDArray[np.float64]]
    squares: dict[str, float]


def record(model: Model, rows: NDArray[np.int64], sites: Sequence[Site], layout: Layout, context: Context) -> Index:
    """Write the activations of texts (count, length) to `final/` of the context's folder, and return their index.

    A resumed run ends with the same bits as an uninterrupted one: every forward pass reads the same texts. Raises
    UserError and Diverged as `passes` does.
    """
    if context.device == "cpu":
        keep_memory()
    recording = _Recording(context, layout)
    with ThreadPoolExecutor(1, thread_name_prefix="shards") as thread:
        writing: list[tuple[Pass, Future[None]]] = []
        for each in passes(model, torch.from_numpy(rows), layout, sites, recording.index.shards):
            recording.report(each.stop)
            recording.complete(writing)
            writing.append((each, thread.submit(recording.write, each)))
        recording.complete(writing)
    replace(recording.index, seconds=0.0).write(recording.folder)
    return recording.index


def passes(model: Model, tokens: Tensor, layout: Layout, sites: Sequence[Site], first: int = 0) -> Iterator[Pass]:
    """Forward passes over the texts (count, length) of the shards from number `first` on.

    Raises UserError when fp16 cannot hold a number, Diverged when activations are not finite.
    """
    device = next(model.parameters()).device
    with evaluating(model), tapped(model, sites) as taps:
        for shard in range(first, layout.shards):
            texts = layout.texts_of(shard)
            for start in range(texts.start, texts.stop, layout.pass_texts):
                stop = min(texts.stop, start + layout.pass_texts)
                model.hidden(model.embed(tokens[start:stop].to(device)))
                arrays = {files.TOKENS: tokens[start:stop].numpy().astype(np.uint32)}
                sums, squares = {}, {}
                for site in sites:
                    found = taps[site]
                    _check(found, site, layout.stored, start)
                    arrays[site.name] = _as_stored(found, layout.stored)
                    train = found[: max(0, layout.training_texts - start)].flatten(0, 1).float()
                    sums[site.name] = train.sum(0).double().cpu().numpy()
                    squares[site.name] = float(torch.linalg.vector_norm(train)) ** 2
                yield Pass(shard, start, stop, arrays, sums, squares)


def _check(found: Tensor, site: Site, stored: Stored, text: int) -> None:
    low, high = torch.aminmax(found)  # ten times as fast as a norm or isfinite
    largest = float(torch.maximum(-low, high))
    if not largest < float("inf"):
        raise Diverged(f"activations at {site.name} are not finite, in text {text} or soon after")
    if largest > torch.finfo(DTYPES[stored]).max:
        raise UserError(
            f"activations of {largest:.3g} at {site.name} given: fp16 holds numbers up to "
            f"{torch.finfo(torch.float16).max:,.0f}; use stored='bf16' or 'fp32'"
        )


def _as_stored(found: Tensor, stored: Stored) -> NDArray[Any]:
    values = found.to("cpu", DTYPES[stored]).contiguous()
    return (values.view(torch.uint16) if stored == "bf16" else values).numpy()


class _Recording:
    """The files so far: what is written, told to the live view, and taken up again."""

    def __init__(self, context: Context, layout: Layout) -> None:
        self.context, self.layout, self.folder = context, layout, context.folder / "final"
        self.index = _resumed(context, layout, self.folder) or Index.empty(layout)
        self.folder.mkdir(exist_ok=True)
        self.checksums: dict[str, int] = {}
        """Of the shard that is being written"""
        self.first = self.index.shards * layout.shard_texts
        """The first text that is computed here"""
        self.began = self.reported = self.checkpointed = time.monotonic()
        self.checkpoint_seconds = 0.0
        """That the latest checkpoint took"""
        self.resume_folder: Path | None = None

    def write(self, done: Pass) -> None:
        texts = len(self.layout.texts_of(done.shard))
        files.append(self.folder, done.shard, texts, done.arrays, self.checksums)

    def complete(self, writing: list[tuple[Pass, Future[None]]]) -> None:
        """Wait until these passes are written; write a checkpoint if a shard is complete and one is due."""
        for done, written in writing:
            written.result()
            for site in self.layout.sites:
                self.index.sums[site] += done.sums[site]
                self.index.squares[site] += done.squares[site]
            if done.stop == self.layout.texts_of(done.shard).stop:
                self.index.files |= self.checksums
                self.checksums = {}
                self._maybe_checkpoint()
        writing.clear()

    def report(self, texts: int) -> None:
        now, length = time.monotonic(), self.layout.length
        if now - self.reported < REPORT_SECONDS and texts < self.layout.texts:
            return
        rate = (texts - self.first) * length / (now - self.began)
        self.context.progress(texts * length, self.layout.texts * length, rate)
        self.context.computing(now - self.reported)
        self.index.seconds += now - self.reported
        self.reported = now

    def _maybe_checkpoint(self) -> None:
        """Write `resume-<shards>/`, if it is due: the index, and links to the shards in `final/`."""
        shards, began = self.index.shards, time.monotonic()
        pause = max(self.context.checkpoint_seconds, self.context.min_checkpoint_seconds)
        if began - self.checkpointed < max(pause, self.checkpoint_seconds * (1 / CHECKPOINTING - 1)):
            return
        if shards == self.layout.shards:
            return
        folder = self.context.folder / f"resume-{shards}"
        link_tree(self.folder, folder / "final")
        self.index.write(folder)
        self.context.checkpointed(shards * self.layout.shard_texts * self.layout.length, folder)
        if self.resume_folder is not None:
            shutil.rmtree(self.resume_folder)
        self.resume_folder = folder
        self.checkpointed = time.monotonic()
        self.checkpoint_seconds = self.checkpointed - began


def _resumed(context: Context, layout: Layout, folder: Path) -> Index | None:
    """What an earlier attempt has written, linked into `folder`; None if there is nothing to go on with."""
    if context.resume is None:
        return None
    try:
        index = Index.read(context.resume)
        if index.layout != layout:
            raise CorruptActivations(f"{context.resume} has another layout")
    except CorruptActivations as error:
        warnings.warn(f"activations are computed from the start: {error}", stacklevel=2)
        return None
    link_tree(context.resume / "final", folder)
    return index
