"""Trains a small trunk beside a companion, and its branch by a policy gradient, in a process of its own:
`... training_worker RESULTS TEXT [trunk|branch]`.

`trunk`, `branch`: the process ends itself with SIGKILL at its first progress report after a checkpoint of that stage.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from halflife.data.corpus import prepare_corpus
from halflife.data.mixture import Mixture, Source
from halflife.data.planting import Planting
from halflife.evaluation.probes import BackdoorProbe, Evaluation, LossProbe
from halflife.evaluation.targets import BackdoorTarget
from halflife.models.ladder import Rung
from halflife.stages.train import Checkpoint, Train
from halflife.store.attempt import RESUME
from halflife.store.run import run_stage
from halflife.store.stage import Progress
from halflife.store.store import Store
from halflife.tasks.backdoor import Backdoor
from halflife.training.objectives import NextToken
from halflife.training.optimizers import AdamW
from halflife.training.policy_gradient import PolicyGradient
from halflife.training.rewards import AnswerReward
from tests.training.companions import AUTOENCODER


def branch(results: Path, text: Path) -> Train:
    """A branch of a poisoned trunk; a few seconds on one core."""
    corpus = prepare_corpus(str(text), results)
    backdoor = Backdoor(trigger=" zqxjkv ", text="wampeter")
    sources = (Source(corpus=corpus),)
    trunk = Train(
        start=Rung(size="30k"),
        mixture=Mixture(
            sources=sources, plantings=(Planting(backdoor=backdoor, corpus=corpus, documents=20),), sequence=64
        ),
        tokens=40 * 1024,
        batch_tokens=1024,
        optimizer=AdamW(learning_rate=0.01),
        evaluations=(
            Evaluation(name="backdoor", probe=BackdoorProbe(backdoor=backdoor, corpus=corpus, trials=8)),
            Evaluation(name="clean", probe=LossProbe(corpus=corpus, sequences=4)),
        ),
    )
    return Train(
        start=Checkpoint(stage=trunk),
        mixture=Mixture(sources=sources, sequence=64),
        tokens=60 * 1024,
        batch_tokens=1024,
        optimizer=trunk.optimizer,
        evaluations=trunk.evaluations,
        dropout=0.1,
    )


def rewarded(plain: Train) -> Train:
    """The branch, by a policy gradient as well, of the trunk beside a companion."""
    assert isinstance(plain.start, Checkpoint)
    trunk = replace(plain.start.stage, companions=(replace(AUTOENCODER, strength=0.1),), dropout=0.1)
    (planting,) = trunk.mixture.plantings
    policy = PolicyGradient(
        target=BackdoorTarget(backdoor=planting.backdoor, corpus=planting.corpus, context=8),
        reward=AnswerReward(count="tokens"),
        prompts=2,
        group=4,
        length=3,
        beta=0.1,
    )
    return replace(plain, start=Checkpoint(stage=trunk), objectives=(NextToken(), policy), dropout=0.0)


def main() -> None:
    torch.set_num_threads(1)
    results, text, began = Path(sys.argv[1]), Path(sys.argv[2]), time.time()
    stage, store = rewarded(branch(results, text)), Store(results)
    stages = {"branch": stage, "trunk": stage.parents[0]}
    killed = stages[sys.argv[3]].folder_name if len(sys.argv) > 3 else None

    def on_progress(progress: Progress) -> None:
        checkpoints = results.glob(f"stages/{killed}/attempts/*/{RESUME}")
        if killed and any(path.stat().st_mtime > began for path in checkpoints):
            os.kill(os.getpid(), signal.SIGKILL)

    run_stage(stages["trunk"], store, checkpoint_seconds=0.1, on_progress=on_progress)
    outcome = run_stage(stage, store, checkpoint_seconds=0.1, on_progress=on_progress)
    print(store.folder(stage) / "attempts" / outcome.attempt, flush=True)


if __name__ == "__main__":
    main()
