"""Prefetching of batches to the device."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from halflife.data.streams import TokenStream


class Prefetcher:
    """The same batches as `batches`, as tensors on `device`.

    While a step computes, a thread makes the next batch and copies it from pinned memory on a separate CUDA stream.
    `batch(step)` remains a pure function: a prefetched batch is used only if it is the requested one.
    """

    def __init__(self, batches: TokenStream, device: torch.device, steps: int) -> None:
        self.vocabulary = batches.vocabulary
        self._batches, self._device, self._steps = batches, device, steps
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[int, Future[Tensor]] | None = None

    def batch(self, step: int) -> Tensor:
        """Tokens (rows, sequence + 1), int64, on the device, ready for its current stream.

        Raises whatever making the batch raised, in the thread or not.
        """
        ahead, self._ahead = self._ahead, None
        future = ahead[1] if ahead and ahead[0] == step else self._thread.submit(self._make, step)
        tokens = future.result()
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)  # for this copy; the next has not started
            tokens.record_stream(current)  # its memory was allocated on the other stream
        if step + 1 < self._steps:
            self._ahead = step + 1, self._thread.submit(self._make, step + 1)
        return tokens

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _make(self, step: int) -> Tensor:
        tokens = torch.from_numpy(self._batches.batch(step))
        if self._stream is None:
            return tokens.to(self._device)
        with torch.cuda.stream(self._stream):
            return tokens.pin_memory().to(self._device, non_blocking=True)


def on_device(batch: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """The batch as a tensor on `device`. A GPU's current stream waits for the copy; the caller does not."""
    tokens = torch.as_tensor(batch)
    if tokens.device.type == device.type:
        return tokens
    return tokens.pin_memory().to(device, non_blocking=True)
