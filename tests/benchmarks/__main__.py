"""`python -m tests.benchmarks`: the training loop's speed beside a bare loop's and the Hugging Face Trainer's."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

TARGETS = {"bare PyTorch loop": 0.95, "Hugging Face Trainer": 1.05}
SECONDS_A_TURN = 1.2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Tokens a second on one thread, 4,096 tokens a step, fused AdamW, in interleaved rounds."""

    sizes: tuple[str, ...] = ("100k", "1m")
    rounds: int = 10
    """Rounds that count; one more, before them, does not."""
    json: Path | None = None
    """Write the figures there."""


def main(settings: Settings) -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported
    import torch

    from halflife.data.corpus import prepare_corpus
    from tests.benchmarks.contenders import BATCH_TOKENS, contenders
    from tests.benchmarks.interleaved import Ratio, ratio, rounds

    torch.set_num_threads(1)
    console = Console()
    found: dict[str, dict[str, dict[str, object]]] = {}
    table = Table("size", "against", "our tok/s", "theirs", "ratio", "95 % interval", "target")
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare_corpus("python-source", Path(folder))
        for size in settings.sizes:
            rate = contenders(size, 4, corpus, Path(folder))["halflife"]()
            steps = max(4, round(SECONDS_A_TURN * rate / BATCH_TOKENS))
            speeds: dict[str, list[float]] = {}
            turns = rounds(contenders(size, steps, corpus, Path(folder)), settings.rounds)
            for number, speed in enumerate(turns, start=1):
                for name, value in speed.items():
                    speeds.setdefault(name, []).append(value)
                shown = ", ".join(f"{name} {speeds[name][-1]:,.0f}" for name in ("halflife", *TARGETS))
                print(f"{size}, round {number} of {settings.rounds}: {shown} tokens/s", flush=True)
            found[size] = {}
            for name, target in TARGETS.items():
                result: Ratio = ratio(speeds["halflife"], speeds[name])
                ours, theirs = (statistics.median(speeds[who]) for who in ("halflife", name))
                reached = result.median >= target
                missed |= not reached
                found[size][name] = {**dataclasses.asdict(result), "target": target, "steps": steps, "speeds": speeds}
                table.add_row(
                    size, name, f"{ours:,.0f}", f"{theirs:,.0f}", f"{result.median:.2f}",
                    f"{result.low:.2f} to {result.high:.2f}", f"{target} {'reached' if reached else 'missed'}",
                )  # fmt: skip
    console.print(table)
    if settings.json:
        settings.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
