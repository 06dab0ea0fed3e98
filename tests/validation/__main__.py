"""`python -m tests.validation`: simulates data with known truth, measures how often intervals and verdicts are right,
writes docs/validation.md and docs/validation_verdicts.md."""

from __future__ import annotations

import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from tests.validation.cells import Cell

ROOT = Path(__file__).parents[2]
PARTS = ("decay", "scaling", "seeds", "designs")
TITLES = {
    "one run": "Laws of one input, in one run: profile intervals",
    "scaling": "Laws of size and of a study's settings: profile intervals; jackknife and bootstrap over groups",
    "over seeds": "Laws over seeds: one fit per seed, Student-t",
    "gamma": "gamma, the slope of ln half-life over ln N",
    "designs": "Data that scatter otherwise than a law's errors, or are bounds",
}

DESIGNS = (
    "In the last table a cell fails where the 99.9 % interval of its rate lies below 95 %; *conservative*: where it "
    "lies above."
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every cell of intervals simulates `replicates` data sets with its truth, all solved as one batched problem."""

    replicates: int = 1000
    verdicts: int = 10_000
    """Replicates of the cells of verdicts."""
    only: Literal["intervals", "verdicts"] | None = None
    out: Path = ROOT / "docs" / "validation.md"


def main(settings: Settings) -> int:
    """1 when a cell misses."""
    missed = 0
    if settings.only != "verdicts":
        missed |= _intervals(settings)
    if settings.only != "intervals":
        missed |= _verdicts(settings)
    return missed


def _verdicts(settings: Settings) -> int:
    from tests.validation import verdicts

    started, used, out = time.perf_counter(), time.process_time(), settings.out.with_name("validation_verdicts.md")
    found = verdicts.rates(settings.verdicts)
    missed, seconds = [each for each in found if not each.holds], time.perf_counter() - started
    preamble = f"`make validate`, {_run(seconds, time.process_time() - used)}."
    out.write_text(verdicts.page(found, settings.verdicts, preamble), encoding="utf-8")
    print(f"{out} written: {len(found)} cells, {len(missed)} miss, {seconds:.0f} s")
    return int(bool(missed))


def _run(seconds: float, processor: float) -> str:
    """When, how long and on what."""
    return (
        f"{time.strftime('%Y-%m-%d')}, {seconds:.0f} s ({processor:.0f} s of processor time) on one thread of "
        f"{machine()}, Python {platform.python_version()}"
    )


def _intervals(settings: Settings) -> int:
    import importlib

    started = time.perf_counter()
    cells = []
    for part in PARTS:
        since = time.perf_counter()
        found = importlib.import_module(f"tests.validation.{part}").cells(settings.replicates)
        cells += found
        missed = sum(not cell.holds for cell in found)
        print(f"{part}: {len(found)} cells, {missed} miss, {time.perf_counter() - since:.0f} s", flush=True)
    seconds = time.perf_counter() - started
    settings.out.write_text(page(cells, settings.replicates, seconds, time.process_time()), encoding="utf-8")
    print(f"{settings.out} written: {len(cells)} cells in {seconds:.0f} s")
    return int(any(not cell.holds for cell in cells))


def page(cells: list[Cell], replicates: int, seconds: float, processor: float) -> str:
    from tests.validation.cells import FALSE_POSITIVES, NOMINAL, NULLS, OPEN

    missed = [cell for cell in cells if not cell.holds]
    identified = [cell for cell in cells if cell.identified]
    nulls = [cell for cell in cells if cell.null]
    low, high = NOMINAL
    mean = sum(cell.coverage for cell in identified) / len(identified)
    lines = [
        "# Validation: do the 95 % intervals cover the truth?",
        "",
        f"`make validate`, {_run(seconds, processor)}. {replicates:,} replicates per cell, {NULLS * replicates:,} "
        "where gamma is 0; seeds fixed. Verdicts: [validation_verdicts.md](validation_verdicts.md).",
        "",
        f"Promised: coverage of {low:.0%} to {high:.0%} for identified quantities, and gamma = 0 called a slope in at "
        f"most {FALSE_POSITIVES:.0%}. {len(cells) - len(missed)} of {len(cells)} cells hold what is promised of them; "
        f"false positives at gamma = 0 are {min(1 - c.coverage for c in nulls):.1%} to "
        f"{max(1 - c.coverage for c in nulls):.1%}. The "
        f"mean coverage of the {len(identified)} identified quantities is {mean:.2%}. The standard error of one "
        f"coverage is {(0.95 * 0.05 / replicates) ** 0.5:.1%}: among so many cells, a few lie outside by chance.",
        "",
        "*below*, *above*: intervals entirely below, or above, the truth. *open*: intervals with an end that the data "
        f"do not bound; above {OPEN:.0%} the design does not identify the quantity, and its interval is only required "
        "to cover. *given*: data sets that have an interval at all; gamma has none if more than a third of the "
        "half-lives are censored, or more than four fifths at one size.",
        "",
        DESIGNS,
        "",
        *_misses(missed),
    ]
    for part, title in TITLES.items():
        own = [cell for cell in cells if cell.part == part]
        lines += ["", f"## {title}", "", "| law | design | quantity | coverage | below | above | open | given | |"]
        lines += ["|---|---|---|---|---|---|---|---|---|", *(_row(cell) for cell in own)]
    return "\n".join(lines) + "\n"


def _misses(missed: list[Cell]) -> list[str]:
    if not missed:
        return ["No cell misses its promise."]
    return [
        "Cells that miss their promise:",
        "",
        *(f"- {c.law}, {c.design}, {c.quantity}: {c.coverage:.3f}. {_why(c)}" for c in missed),
    ]


def _why(cell: Cell) -> str:
    from tests.validation.cells import NOMINAL

    error = (cell.coverage * (1 - cell.coverage) / (cell.replicates * cell.given)) ** 0.5
    least, most = NOMINAL
    off = max(least - cell.coverage, cell.coverage - most, 0)
    within = "Within two standard errors of the promise." if off < 2 * error else "The reason is unknown."
    return cell.why or within


def _row(cell: Cell) -> str:
    mark = "conservative" if cell.conservative else "" if cell.identified else "not identified"
    return (
        f"| {cell.law} | {cell.design} | {cell.quantity} | {cell.coverage:.3f} | {cell.below:.3f} | {cell.above:.3f} | "
        f"{cell.open:.3f} | {cell.given:.2f} | {mark if cell.holds else 'misses'} |"
    )


def machine() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # read when numpy is first imported
    sys.exit(main(tyro.cli(Settings)))
