"""Writing a subject's activations, one shard while the next is computed. The complete shards are the checkpoint."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
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
class Shard:
    number: int
    arrays: dict[str, NDArray[Any]]
    """By site, and `data.activations.TOKENS`, as they are stored"""
    sums: dict[str, NDArray[np.float64]]
    squares: dict[str, float]


def record(model: Model, rows: NDArray[np.int64], sites: Sequence[Site], layout: Layout, context: Context) -> Index:
    """Write the activations of texts (count, length) to `final/` of the context's folder, and return their index.

    A resumed run ends with the same bits as an uninterrupted one: every forward pass reads the same texts. Raises
    UserError and Diverged as `shards` does.
    """
    folder = context.folder / "final"
    index = _resumed(context, layout, folder) or Index.empty(layout)
    folder.mkdir(exist_ok=True)
    if context.device == "cpu":
        keep_memory()
    log = _Log(context, index, folder)
    with ThreadPoolExecutor(1, thread_name_prefix="shards") as writer:
        waiting: list[tuple[Shard, Future[dict[str, int]]]] = []
        for shard in shards(model, torch.from_numpy(rows), layout, sites, index.shards, log.computed):
            log.written(waiting)
            waiting.append((shard, writer.submit(files.write_shard, folder, shard.number, shard.arrays)))
        log.written(waiting)
    replace(index, seconds=0.0).write(folder)
    return index


def shards(
    model: Model,
    tokens: Tensor,
    layout: Layout,
    sites: Sequence[Site],
    first: int = 0,
    on_texts: Callable[[int], None] = lambda done: None,
) -> Iterator[Shard]:
    """The shards from number `first` on. The arrays of one are overwritten by the next but one.

    `on_texts` is called with the number of texts done. Raises UserError when fp16 cannot hold a number, Diverged when
    activations are not finite.
    """
    device, dtype = next(model.parameters()).device, DTYPES[layout.stored]
    size = (min(layout.texts, layout.shard_texts), layout.length, layout.width)
    pinned = device.type == "cuda"  # copies from the GPU are several times as fast
    buffers = [{site: torch.empty(size, dtype=dtype, pin_memory=pinned) for site in sites} for _ in range(2)]
    with evaluating(model), tapped(model, sites) as taps:
        for number in range(first, layout.shards):
            start = number * layout.shard_texts
            stop = min(layout.texts, start + layout.shard_texts)
            buffer = buffers[number % 2]
            sums = {site.name: np.zeros(layout.width) for site in sites}
            squares = dict.fromkeys(sums, 0.0)
            for at in range(start, stop, layout.pass_texts):
                end = min(stop, at + layout.pass_texts)
                model.hidden(model.embed(tokens[at:end].to(device)))
                training = max(0, min(end, layout.training_texts) - at)
                for site in sites:
                    found = taps[site]
                    _check(found, site, layout.stored, at)
                    buffer[site][at - start : end - start].copy_(found)
                    train = found[:training].flatten(0, 1).float()
                    sums[site.name] += train.sum(0).double().cpu().numpy()
                    squares[site.name] += float(torch.linalg.vector_norm(train)) ** 2
                on_texts(end)
            arrays = {site.name: _as_stored(buffer[site][: stop - start]) for site in sites}
            arrays[files.TOKENS] = tokens[start:stop].numpy().astype(np.uint32)
            yield Shard(number, arrays, sums, squares)


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


def _as_stored(values: Tensor) -> NDArray[Any]:
    return (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()


class _Log:
    """Tells the live view and the store how far shards are computed and written."""

    def __init__(self, context: Context, index: Index, folder: Path) -> None:
        self.context, self.index, self.folder = context, index, folder
        self.first = index.shards * index.layout.shard_texts
        """The first text that is computed here"""
        self.began = self.reported = self.checkpointed = time.monotonic()
        self.checkpoint_seconds = 0.0
        """That the latest checkpoint took"""
        self.resume_folder: Path | None = None

    def computed(self, texts: int) -> None:
        now, layout = time.monotonic(), self.index.layout
        if now - self.reported < REPORT_SECONDS and texts < layout.texts:
            return
        rate = (texts - self.first) * layout.length / (now - self.began)
        self.context.progress(texts * layout.length, layout.texts * layout.length, rate)
        self.context.computing(now - self.reported)
        self.index.seconds += now - self.reported
        self.reported = now

    def written(self, waiting: list[tuple[Shard, Future[dict[str, int]]]]) -> None:
        """Wait for these shards, and write a checkpoint if one is due."""
        for shard, checksums in waiting:
            self.index.add(checksums.result(), shard.sums, shard.squares)
        waiting.clear()
        pause = max(self.context.checkpoint_seconds, self.context.min_checkpoint_seconds)
        pause = max(pause, self.checkpoint_seconds * (1 / CHECKPOINTING - 1))
        began = time.monotonic()
        if began - self.checkpointed >= pause and 0 < self.index.shards < self.index.layout.shards:
            self._checkpoint()
            self.checkpointed = time.monotonic()
            self.checkpoint_seconds = self.checkpointed - began

    def _checkpoint(self) -> None:
        """Write `resume-<shards>/`: the index, and links to the shards in `final/`."""
        layout, folder = self.index.layout, self.context.folder / f"resume-{self.index.shards}"
        link_tree(self.folder, folder / "final")
        self.index.write(folder)
        self.context.checkpointed(self.index.shards * layout.shard_texts * layout.length, folder)
        if self.resume_folder is not None:
            shutil.rmtree(self.resume_folder)
        self.resume_folder = folder


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
