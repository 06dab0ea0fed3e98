"""The process that test_memory.py watches: an engine's predicted memory and the growth of the process, in bytes.

python -m tests.training.measured_memory OPTIMIZER EXECUTION ROWS SIZE... prints a line for each size: predicted and
measured between the passes, predicted and measured at most in a step.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch

from halflife.data.tokenizers import Bytes, vocabulary_of
from halflife.models.decoder import Decoder
from halflife.models.ladder import Rung
from halflife.rng import generator
from halflife.stages.train import Train
from halflife.store.execution import Execution
from halflife.training.engine import Engine, make_engine
from halflife.training.optimizers import SGD, AdamW, Muon
from tests.training.fakes import recipe, terms_of

OPTIMIZERS = {"adamw": AdamW, "sgd": SGD, "muon": Muon}
VOCABULARY = vocabulary_of(Bytes())
SEQUENCE = 128
CLEAR = Path("/proc/self/clear_refs")


def resident() -> int:
    """Resident bytes of this process, after freed memory is returned to the system; resets the maximum."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text("5")
    return psutil.Process().memory_info().rss


def most_resident() -> int:
    """Maximum resident bytes since the last call of `resident`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def trained(stage: Train, execution: Execution) -> Engine:
    """An engine with gradients and moments."""
    model = Decoder(stage.start, VOCABULARY)  # pyright: ignore[reportArgumentType]
    model.initialise(torch.Generator().manual_seed(0))
    engine = make_engine(model, stage, execution, terms_of(stage, model))
    for step in range(2):
        rows = stage.batch_tokens // SEQUENCE
        engine.gradients(np.asarray(generator(step).integers(0, VOCABULARY, (rows, SEQUENCE + 1))), 0)
        if step == 0:
            engine.step(1.0)
            engine.displacement()
    return engine


def main() -> None:
    torch.set_num_threads(1)
    optimizer, fields, rows, *sizes = sys.argv[1:]
    execution = Execution(**json.loads(fields))
    made = OPTIMIZERS[optimizer](learning_rate=0.01)
    for size in sizes:
        batch = int(rows) * SEQUENCE
        stage = recipe(start=Rung(size=size), optimizer=made, evaluations=(), batch_tokens=batch, tokens=batch)
        stage = replace(stage, mixture=replace(stage.mixture, sequence=SEQUENCE))
        # oneDNN keeps half a megabyte for every shape of a product, once a process
        trained(stage, execution).close()
        before = resident()
        alive = trained(stage, execution)
        most, predicted = most_resident(), stage.memory(execution)
        print(predicted.fixed, resident() - before, predicted.total, most - before)
        alive.close()
        del alive


if __name__ == "__main__":
    main()
