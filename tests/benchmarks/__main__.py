"""`python -m tests.benchmarks`: the training loop beside a bare one and the Hugging Face Trainer; loading runs; fitting
laws; what treatments, edits, latent attacks, policy gradients and stored activations cost; compiled programs; steps of
dictionaries."""

from __future__ import annotations

import dataclasses
import importlib
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

from tests.benchmarks.figure import Figure

TARGETS = {"bare PyTorch loop": 0.95, "Hugging Face Trainer": 1.05}
SECONDS_A_TURN = 1.2
PARTS = {
    "loading": 8,
    "fitting": 6,
    "treatments": 10,
    "prompts": 10,
    "edits": 10,
    "activations": 8,
    "programs": 6,
    "attacks": 10,
    "policy": 10,
    "dictionaries": 10,
}
"""Modules here with `figures(rounds)`, and how many rounds each takes."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All on one thread, in interleaved rounds. training: tokens a second, 4,096 tokens a step, fused AdamW."""

    sizes: tuple[str, ...] = ("100k", "1m")
    rounds: int = 10
    """Rounds that count; one more, before them, does not."""
    parts: tuple[str, ...] = ("training", *PARTS)
    """training: the loop; the others by the names of their modules here."""
    json: Path | None = None
    """Write the figures there."""


def main(settings: Settings) -> int:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS"):
        os.environ.setdefault(name, "1")  # read when torch, numpy and polars are first imported
    if unknown := set(settings.parts) - {"training", *PARTS}:
        print(f"error: no part {sorted(unknown)[0]!r}: expected some of training, {', '.join(PARTS)}", file=sys.stderr)
        return 2
    console = Console()
    found: dict[str, object] = {}
    missed = training(settings, console, found) if "training" in settings.parts else False
    for part in settings.parts:
        if part in PARTS:
            missed |= others(part, console, found)
    if settings.json:
        settings.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return int(missed)


def others(part: str, console: Console, found: dict[str, object]) -> bool:
    """Whether a target was missed."""
    figures: list[Figure] = importlib.import_module(f"tests.benchmarks.{part}").figures(PARTS[part])
    table = Table(part, "median", "95 % interval", "target")
    for figure in figures:
        interval = "" if figure.low is None else f"{figure.low:.3g} to {figure.high:.3g}"
        told = f"{figure.target} {'reached' if figure.reached else 'missed'}"
        table.add_row(figure.name, f"{figure.value:.3g} {figure.unit}", interval, told)
    console.print(table)
    found[part] = [dataclasses.asdict(figure) for figure in figures]
    return not all(figure.reached for figure in figures)


def training(settings: Settings, console: Console, all_found: dict[str, object]) -> bool:
    """Whether a target was missed."""
    import torch

    from halflife.data.corpus import prepare_corpus
    from tests.benchmarks.contenders import BATCH_TOKENS, contenders
    from tests.benchmarks.interleaved import Ratio, ratio, rounds

    torch.set_num_threads(1)
    found: dict[str, dict[str, dict[str, object]]] = {}
    all_found["training"] = found
    table = Table("size", "against", "our tok/s", "theirs", "ratio", "95 % interval", "target")
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        corpus = prepare_corpus("python-source", Path(folder))
        for size in settings.sizes:
            rate = contenders(size, 4, corpus, Path(folder))["halflife"]()
            steps = max(4, round(SECONDS_A_TURN * rate / BATCH_TOKENS))
            speeds: dict[str, list[float]] = {}
            rope_cache = rounds(contenders(size, steps, corpus, Path(folder)), settings.rounds)
            for number, speed in enumerate(rope_cache, start=1):
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
    return missed


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
