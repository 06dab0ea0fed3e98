"""`python -m tests.benchmarks.gpu`: the training loop's speed on a GPU, over sizes, and of small trials that share it.

Every row is measured in a process of its own, so one that runs out of memory leaves the others standing.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tyro

from halflife.errors import UserError
from halflife.models.ladder import Rung
from halflife.sweep.machine import gpus

PEAK_FLOPS = {
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
}
"""bf16 FLOP/s of the tensor cores without sparsity, from NVIDIA's data sheets (those that state it with sparsity,
halved). The first whose words are all in the device's name."""
LARGE = 100_000_000
TRIAL_SIZE = "100k"
ROW_SECONDS = 150.0
"""A row that takes longer is stopped, so that the others have their turn."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Tokens a second and model FLOPs utilisation of the product's loop; prints Markdown."""

    sizes: tuple[str, ...] = ("100k", "10m", "100m", "1b")
    trials: tuple[int, ...] = (1, 4, 16)
    """Processes that train a 100k model each on one device at once."""
    seconds: float = 6.0
    """Each size is timed so long, after as long without."""
    minutes: float = 9.5
    """Rows that would begin later are left out."""
    batch_tokens: int = 65_536
    """Below 100m parameters, in sequences of 256; twice as many in sequences of 1024 from there."""
    trial_batch_tokens: int = 8192
    peak_tflops: float | None = None
    """The device's bf16 peak, where its name is not known here."""
    json: Path | None = None
    """Write the figures there."""
    device: str = "cuda"
    """cpu: only to try the script."""


@dataclass(frozen=True, kw_only=True)
class Row:
    size: str
    batch_tokens: int
    sequence: int
    seconds: float
    """Length of the half that is timed."""
    text: str
    """A text file to train on."""
    compile: bool = False
    precision: str = "bf16"
    device: str = "cuda"
    wait: bool = False


def main(settings: Settings) -> int:
    if settings.device == "cuda" and not gpus().count:
        print("no GPU that torch can use was found: nothing to measure", file=sys.stderr)
        return 2
    deadline = time.monotonic() + 60 * settings.minutes
    with tempfile.TemporaryDirectory() as folder:
        text = str(write_text(Path(folder)))
        sizes = [measured(row, deadline) for row in rows(settings, text)]
        trials = [shared(count, settings, text, deadline) for count in settings.trials]
    names = {row["device"] for row in [*sizes, *trials] if "device" in row}
    name = names.pop() if names else "unknown device"
    peak = settings.peak_tflops * 1e12 if settings.peak_tflops else peak_of(name)
    print(markdown(name, peak, sizes, trials))
    if settings.json:
        found = {"device": name, "peak_flops": peak, "sizes": sizes, "trials": trials}
        settings.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return int(not names and not any("tokens_per_second" in row for row in sizes))


def rows(settings: Settings, text: str) -> list[Row]:
    """As the product would choose first, the other of compiled and not after; large sizes have no other."""
    made = []
    for size in settings.sizes:
        large = Rung(size=size).target >= LARGE
        row = Row(
            size=size,
            batch_tokens=settings.batch_tokens * (2 if large else 1),
            sequence=1024 if large else 256,
            seconds=settings.seconds,
            text=text,
            compile=settings.device == "cuda" and Rung(size=size).target >= 10_000_000,
            device=settings.device,
        )
        made.append(row)
    others = [replace(row, compile=not row.compile) for row in made] if settings.device == "cuda" else []
    return made + others


def measured(row: Row, deadline: float) -> dict[str, Any]:
    """The row's figures, or an `error` in a few words."""
    about = {"size": row.size, "compile": row.compile, "batch_tokens": row.batch_tokens, "sequence": row.sequence}
    left = deadline - time.monotonic()
    if left < 30:
        return {**about, "error": "left out: no time"}
    process = start(row)
    try:
        out, err = process.communicate("\n", timeout=min(left, ROW_SECONDS))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {**about, "error": "stopped: no time"}
    found = {**about, **answer(out, err)}
    print(f"{row.size}{', compiled' * row.compile}: {found.get('error') or speed(found)}", file=sys.stderr, flush=True)
    return found


def shared(count: int, settings: Settings, text: str, deadline: float) -> dict[str, Any]:
    """`count` trials that begin together: all their tokens over the time that the slowest took."""
    row = Row(
        size=TRIAL_SIZE,
        batch_tokens=settings.trial_batch_tokens,
        sequence=128,
        seconds=settings.seconds / 2,
        text=text,
        device=settings.device,
        wait=True,
    )
    about = {"trials": count, "size": row.size, "batch_tokens": row.batch_tokens, "sequence": row.sequence}
    left = deadline - time.monotonic()
    if left < 30:
        return {**about, "error": "left out: no time"}
    processes = [start(row) for _ in range(count)]
    try:
        ready = [process.stdout.readline() for process in processes if process.stdout]
        if not all(line.startswith('{"ready"') for line in ready):
            return {**about, "error": answer("", processes[0].communicate()[1])["error"]}
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        ended = [process.communicate(timeout=max(1.0, deadline + 30 - time.monotonic())) for process in processes]
    except subprocess.TimeoutExpired:
        return {**about, "error": "stopped: no time"}
    finally:
        for process in processes:
            process.kill()
            process.wait()
    answers = [answer(out, err) for out, err in ended]
    if failed := [each["error"] for each in answers if "error" in each]:
        return {**about, "error": failed[0]}
    tokens, seconds = sum(each["tokens"] for each in answers), max(each["seconds"] for each in answers)
    found = {**about, "device": answers[0]["device"], "tokens_per_second": tokens / seconds, "seconds": seconds}
    print(f"{count} trials: {speed(found)}", file=sys.stderr, flush=True)
    return found


def start(row: Row) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.gpu_row", json.dumps(asdict(row))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)


def answer(out: str, err: str) -> dict[str, Any]:
    """The figures that a row's process printed, or why it did not."""
    for line in out.splitlines():
        if line.startswith('{"row"'):
            return json.loads(line)["row"]
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    if any("OutOfMemoryError" in line for line in lines):
        return {"error": "out of memory"}
    return {"error": lines[-1][:200] if lines else "ended without a word"}


def peak_of(device: str) -> float | None:
    words = device.replace("-", " ").split()
    return next((peak for name, peak in PEAK_FLOPS.items() if set(name.split()) <= set(words)), None)


def markdown(device: str, peak: float | None, sizes: list[dict[str, Any]], trials: list[dict[str, Any]]) -> str:
    bound = f"peak {peak / 1e12:.0f} TFLOP/s bf16" if peak else "peak unknown: give it with --peak-tflops"
    alone = next((row["tokens_per_second"] for row in trials if row["trials"] == 1 and "error" not in row), None)
    lines = [
        f"{device}, {bound}, bf16 autocast, fused AdamW",
        "",
        "| size | compiled | tokens a step | sequence | tokens/s | TFLOP/s | utilisation | memory |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sizes:
        head = f"| {row['size']} | {'yes' if row['compile'] else 'no'} | {row['batch_tokens']:,} | {row['sequence']} |"
        if "error" in row:
            lines.append(f"{head} {row['error']} | | | |")
            continue
        flops = row["tokens_per_second"] * row["flops_per_token"]
        share = f"{flops / peak:.1%}" if peak else "unknown"
        memory = f"{row['peak_memory_bytes'] / 1e9:.1f} GB" if row["peak_memory_bytes"] else "not measured"
        lines.append(f"{head} {row['tokens_per_second']:,.0f} | {flops / 1e12:.3g} | {share} | {memory} |")
    lines += [
        "",
        "| trials on one device | size | tokens a step | tokens/s together | over one trial |",
        "|---|---|---|---|---|",
    ]
    for row in trials:
        head = f"| {row['trials']} | {row['size']} | {row['batch_tokens']:,} |"
        if "error" in row:
            lines.append(f"{head} {row['error']} | |")
            continue
        over = f"{row['tokens_per_second'] / alone:.2f}" if alone else "unknown"
        lines.append(f"{head} {row['tokens_per_second']:,.0f} | {over} |")
    lines += ["", "utilisation: 6 FLOPs a parameter and token, the head's among them, and causal attention's products"]
    return "\n".join(lines)


def speed(found: dict[str, Any]) -> str:
    return f"{found['tokens_per_second']:,.0f} tokens/s"


def write_text(folder: Path) -> Path:
    """Four megabytes of words, the same everywhere: batches are drawn as they are in a study."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    path = folder / "words.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(700):
            file.write(json.dumps({"text": " ".join(rng.choices(words, k=1000))}) + "\n")
    return path


if __name__ == "__main__":
    try:
        sys.exit(main(tyro.cli(Settings)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
