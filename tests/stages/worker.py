"""Computes Walks in a process of its own: `python -m tests.stages.worker RESULTS STEPS PAUSE NAME...`."""

from __future__ import annotations

import sys

from halflife.stages.leases import Pulse
from halflife.stages.run import run_stage
from halflife.stages.store import Store
from tests.stages.fakes import Walk


def main() -> None:
    results, steps, pause, *names = sys.argv[1:]
    store = Store(results)
    for name in names:
        stage = Walk(name=name, steps=int(steps), pause=float(pause))
        print(run_stage(stage, store, pulse=Pulse(beat=0.2, patience=20)).attempt, flush=True)


if __name__ == "__main__":
    main()
