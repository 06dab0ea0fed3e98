"""The process that test_memory.py watches: prints what an engine predicted to hold between the passes, and what the
process grew by, in bytes. python -m tests.training.measured_memory SIZE OPTIMIZER ENGINE ZERO"""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any

import psutil
import torch

from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.training.engine import make_engine
from halflife.training.execution import Execution
from halflife.training.optimizers import SGD, AdamW, Muon
from tests.training.fakes import VOCABULARY, Stream, recipe

OPTIMIZERS = {"adamw": AdamW, "sgd": SGD, "muon": Muon}


def resident() -> int:
    """Bytes of this process in memory, after what has been freed was given back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return psutil.Process().memory_info().rss


def trained(size: str, optimizer: str, execution: Execution) -> tuple[Any, Any]:
    """The stage, and an engine with gradients and moments."""
    stage = recipe(start=Rung(size=size), optimizer=OPTIMIZERS[optimizer](learning_rate=0.01))
    model = Decoder(Rung(size=size), VOCABULARY)
    model.initialise(torch.Generator().manual_seed(0))
    engine = make_engine(model, stage, execution)
    engine.gradients(Stream().batch(0))
    engine.step(1.0)
    engine.displacement()
    engine.gradients(Stream().batch(1))
    return stage, engine


if __name__ == "__main__":
    torch.set_num_threads(1)
    size, optimizer, engine, zero = sys.argv[1:]
    execution = Execution(engine=engine, zero=int(zero))  # pyright: ignore[reportArgumentType]
    _ = trained("20k", optimizer, execution)  # libraries are loaded, and caches filled
    before = resident()
    stage, alive = trained(size, optimizer, execution)
    print(stage.memory(execution).fixed, resident() - before)
