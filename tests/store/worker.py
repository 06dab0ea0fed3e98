"""Computes Walks in a process of its own: `python -m tests.store.worker RESULTS STEPS PAUSE NAME...`.

With RESOLVERS in the environment, by that many threads, each of which asks for every stage.
"""

from __future__ import annotations

import os
import sys
from threading import Thread

from halflife.store.leases import Pulse
from halflife.store.run import run_stage
from halflife.store.store import Store
from tests.store.fakes import Walk


def main() -> None:
    results, steps, pause, *names = sys.argv[1:]

    def resolve(turn: int) -> None:
        store = Store(results)
        for name in names[turn:] + names[:turn]:
            stage = Walk(name=name, steps=int(steps), pause=float(pause))
            attempt = run_stage(stage, store, pulse=Pulse(beat=0.2, patience=20)).attempt
            print(f"{attempt}\n", end="", flush=True)

    others = [Thread(target=resolve, args=(turn,)) for turn in range(1, int(os.environ.get("RESOLVERS", "1")))]
    for thread in others:
        thread.start()
    resolve(0)
    for thread in others:
        thread.join()


if __name__ == "__main__":
    main()
