"""Steps of other tools' TopK trainers, in their environment: `python -m tests.benchmarks.dictionary_peers NAME STEPS`
takes so many steps at each line that it reads, and prints the CPU seconds that they took.
"""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Callable

import torch
from torch import Tensor

WIDTH, LATENTS, ACTIVE, ROWS, RATE = 128, 1024, 16, 2048, 2e-3
BATCHES = 4


def vectors() -> list[Tensor]:
    """Batches of vectors with a root mean square of 1: sums of a few of 2,048 directions."""
    draw = torch.Generator().manual_seed(0)
    directions = torch.randn(2 * LATENTS, WIDTH, generator=draw)
    found = []
    for _ in range(BATCHES):
        which = torch.randint(0, 2 * LATENTS, (ROWS, ACTIVE), generator=draw)
        x = (torch.rand(ROWS, ACTIVE, 1, generator=draw) * directions[which]).sum(1)
        found.append(x / x.square().mean(1, keepdim=True).sqrt())
    return found


def sae_lens() -> Callable[[Tensor, int], None]:
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.config import SAETrainerConfig  # pyright: ignore[reportMissingImports]
    from sae_lens.training.sae_trainer import SAETrainer  # pyright: ignore[reportMissingImports]

    config = SAETrainerConfig(total_training_samples=10**9, train_batch_size_samples=ROWS, lr=RATE, lr_end=RATE)
    # its sparse activations cannot be differentiated with torch 2.13
    dictionary = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=WIDTH, d_sae=LATENTS, k=ACTIVE))
    trainer = SAETrainer(config, dictionary, iter(()))

    def step(x: Tensor, number: int) -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    return step


def dictionary_learning() -> Callable[[Tensor, int], None]:
    # The package imports nnsight at its top for buffers of a model's activations, which no step reads.
    sys.modules["nnsight"] = types.ModuleType("nnsight")
    sys.modules["nnsight"].LanguageModel = object  # pyright: ignore[reportAttributeAccessIssue]
    from dictionary_learning.trainers.top_k import TopKTrainer  # pyright: ignore[reportMissingImports]

    trainer = TopKTrainer(
        steps=10**6, activation_dim=WIDTH, dict_size=LATENTS, k=ACTIVE, layer=0, lm_name="none", lr=RATE, device="cpu"
    )
    return lambda x, number: trainer.update(number, x) and None


PEERS = {"SAELens": sae_lens, "dictionary_learning": dictionary_learning}


def main(name: str, steps: int) -> None:
    torch.set_num_threads(1)
    try:
        step = PEERS[name]()
    except ImportError as error:
        print(f"absent: {error}", flush=True)
        return
    batches, done = vectors(), 0
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        for _ in range(steps):
            step(batches[done % len(batches)], done)
            done += 1
        print(time.process_time() - began, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
