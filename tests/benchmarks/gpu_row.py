"""One row of `tests.benchmarks.gpu`, in a process of its own: python -m tests.benchmarks.gpu_row '{...}'.

Trains with the product's own loop, twice: first to compile, to warm up and to see how fast it is, then for the time
asked. The speed is that of the second half of a run, between two evaluations that measure nothing. Prints JSON lines:
`ready` (with `wait`, before the second run, which starts when a line comes in), then `row`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from halflife.data.corpus import prepare_corpus
from halflife.data.mixture import Batches, Mixture, Source
from halflife.evaluation.probes import Evaluation, Every, LossProbe
from halflife.models.ladder import Rung
from halflife.stages.train import Train
from halflife.store.execution import Execution
from halflife.training.loop import train
from halflife.training.optimizers import AdamW
from tests.benchmarks.gpu import Row
from tests.training.fakes import Host

PROBE_STEPS = 4
"""Half of the first run."""


def main(row: Row) -> None:
    if row.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        corpus = prepare_corpus(row.text, results)
        stage = Train(
            start=Rung(size=row.size),
            mixture=Mixture(sources=(Source(corpus=corpus),), sequence=row.sequence),
            tokens=row.batch_tokens,
            batch_tokens=row.batch_tokens,
            optimizer=AdamW(learning_rate=0.003, weight_decay=0.1),
            precision=row.precision,  # pyright: ignore[reportArgumentType]
            evaluations=(Evaluation(name="clean", probe=LossProbe(corpus=corpus), at=Every(steps=1)),),
        )
        rate, _ = run(stage, row, PROBE_STEPS, results)
        if row.wait:
            print(json.dumps({"ready": rate}), flush=True)
            sys.stdin.readline()
        steps = max(2, round(row.seconds * rate / row.batch_tokens))
        started = time.perf_counter()
        rate, vocabulary = run(stage, row, steps, results)
        ended = time.perf_counter()
    cuda = row.device == "cuda"
    found = {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "tokens_per_second": rate,
        "steps": steps,
        "seconds": ended - started,
        "tokens": 2 * steps * row.batch_tokens,
        "flops_per_token": stage.architecture.flops_per_token(row.sequence, vocabulary),
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "torch": torch.__version__,
    }
    print(json.dumps({"row": found}), flush=True)


def run(stage: Train, row: Row, steps: int, results: Path) -> tuple[float, int]:
    """Train for twice `steps`; tokens a second of the second half, and the vocabulary."""
    probe = replace(stage.evaluations[0], at=Every(steps=steps))
    stage = replace(stage, tokens=2 * steps * row.batch_tokens, evaluations=(probe,))
    batches = Batches(
        stage.mixture, results, batch_tokens=row.batch_tokens, steps=stage.steps, key=(stage.seed, "bench")
    )
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        host.device, host.execution = row.device, Execution(compile=row.compile)
        measures: dict[str, Any] = {"clean": lambda model: {}}
        train(stage, host, batches=batches, measures=measures, checkpoint_seconds=1e9)
    return host.points[max(host.points)]["train/tokens_per_second"], batches.vocabulary


if __name__ == "__main__":
    main(Row(**json.loads(sys.argv[1])))
