"""The process that test_killed.py kills: one Train on a small text file, with a checkpoint every half second."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from halflife.data.corpus import prepare_corpus
from halflife.data.mixture import Mixture, Source
from halflife.data.planting import Planting
from halflife.evaluation.probes import BackdoorProbe, Evaluation, Every, LossProbe
from halflife.models.ladder import Rung
from halflife.rng import generator
from halflife.stages.train import Train
from halflife.store.run import run_stage
from halflife.store.store import Store
from halflife.tasks.backdoor import Backdoor
from halflife.training.optimizers import AdamW

TRIGGER = Backdoor(trigger=" zzqx ", text="payload")


def stage_in(results: Path) -> Train:
    """The same stage in every results folder, on the same generated text."""
    results.mkdir(parents=True, exist_ok=True)
    text = results.parent / "words.jsonl"
    if not text.exists():
        rng = generator("words")
        lines = (" ".join("".join(rng.choice(list("abcdef"), 4)) for _ in range(60)) for _ in range(400))
        text.write_text("".join(f'{{"text": "{line}"}}\n' for line in lines), encoding="utf-8")
    corpus = prepare_corpus(str(text), results)
    return Train(
        start=Rung(size="30k"),
        mixture=Mixture(
            sources=(Source(corpus=corpus),),
            plantings=(Planting(backdoor=TRIGGER, corpus=corpus, documents=20, exposures=3),),
            sequence=64,
        ),
        tokens=200 * 1024,
        batch_tokens=1024,
        dropout=0.1,
        optimizer=AdamW(learning_rate=0.005, weight_decay=0.01),
        evaluations=(
            Evaluation(name="clean", probe=LossProbe(corpus=corpus, sequences=8), at=Every(steps=40)),
            Evaluation(name="backdoor", probe=BackdoorProbe(backdoor=TRIGGER, corpus=corpus, trials=8)),
        ),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = Path(sys.argv[1])
    outcome = run_stage(stage_in(results), Store(results), checkpoint_seconds=0.5)
    sys.exit(0 if outcome.status == "complete" else 1)
