"""Stores activations in a process of its own: `... activations_worker RESULTS TEXT [killed]`.

`killed`: the process ends itself with SIGKILL at its first progress report after a checkpoint.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from halflife.data import activations
from halflife.data.corpus import prepare_corpus
from halflife.data.tokenizers import Bytes
from halflife.evaluation.texts import CorpusTexts
from halflife.models.ladder import Rung
from halflife.models.sites import Site
from halflife.stages import recording
from halflife.stages.activations import Activations
from halflife.stages.subject import Subject
from halflife.store.attempt import RESUME
from halflife.store.run import run_stage
from halflife.store.stage import Progress
from halflife.store.store import Store


def stage(results: Path, text: Path) -> Activations:
    corpus = prepare_corpus(str(text), results)
    return Activations(
        subject=Subject(model=Rung(size="20k"), tokenizer=Bytes()),
        texts=CorpusTexts(corpus=corpus, split="train", count=1200, length=32),
        sites=(Site(layer=1), Site(layer=2, part="mlp")),
    )


def main() -> None:
    torch.set_num_threads(1)
    activations.SHARD_BYTES = 2**18
    recording.REPORT_SECONDS = 0.0
    results, text, killed = Path(sys.argv[1]), Path(sys.argv[2]), "killed" in sys.argv[3:]
    stored, store = stage(results, text), Store(results)

    def on_progress(progress: Progress) -> None:
        if killed and any(store.folder(stored).glob(f"attempts/*/{RESUME}")):
            os.kill(os.getpid(), signal.SIGKILL)

    outcome = run_stage(stored, store, checkpoint_seconds=0.0, on_progress=on_progress)
    print(store.folder(stored) / "attempts" / outcome.attempt, flush=True)


if __name__ == "__main__":
    main()
