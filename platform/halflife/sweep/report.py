"""The result of a sweep: counts, efficiency, and the summary for the terminal."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from halflife.errors import UserError
from halflife.secrets import masked
from halflife.store.plan import Plan
from halflife.store.stage import Stage
from halflife.sweep.study import Study

_IMPORTED = time.time()


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    """The end of a sweep."""

    study: str
    sweep: str
    """Digest of the sweep: the tag `halflife.sweep` of its runs."""
    tracking_uri: str
    results: Path
    stages: int
    cached: int
    """Stages that were complete at the start."""
    run: int
    """Stages that this process has completed."""
    elsewhere: int = 0
    """Stages that other processes have completed in the meantime."""
    failed: dict[str, str] = field(default_factory=dict)
    """By title and folder name of the stage: why it failed."""
    blocked: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    stopped: str = ""
    """Why it was stopped before its end, without a signal."""
    dry_run: bool = False
    slots: int = 1
    wall_seconds: float = 0.0
    """From the start of the process."""
    core_flops: float | None = None
    """FLOP/s of a core in products of fp32 matrices; None when nothing was run, or not on cores."""
    compute_seconds: float = 0.0
    """Time in training and evaluation, summed over the stages that this process has run."""
    tokens_trained: int = 0
    tokens_unshared: int = 0
    """Tokens that would have been trained without trunk sharing."""
    search: dict[str, float] = field(default_factory=dict)
    """Metrics of an adaptive search."""
    findings: tuple[str, ...] = ()
    """Results of an adaptive search, as text."""
    unpublished: tuple[str, ...] = ()
    """What could not be written to the tracking store; running the same command again publishes it. Fails the sweep."""

    @property
    def exit_code(self) -> int:
        if self.interrupted and not self.stopped:
            return 130
        return 1 if self.failed or self.unpublished or self.stopped else 0

    @property
    def efficiency(self) -> float | None:
        """Compute time / (slots x wall time); None when nothing was run."""
        return self.compute_seconds / (self.slots * self.wall_seconds) if self.run else None

    def numbers(self) -> dict[str, float]:
        """The sweep's metrics, logged on the parent run as `sweep/<name>`."""
        numbers: dict[str, float] = {
            "wall_seconds": self.wall_seconds,
            "slots": self.slots,
            "compute_seconds": self.compute_seconds,
            "stages_run": self.run,
            "stages_cached": self.cached,
            "stages_failed": len(self.failed),
            "tokens_trained": self.tokens_trained,
            "tokens_unshared": self.tokens_unshared,
            **self.search,
        }
        if self.core_flops is not None:
            numbers["core_flops"] = self.core_flops
        return numbers if self.efficiency is None else {**numbers, "efficiency": self.efficiency}

    def lines(self) -> Iterator[str]:
        """The summary for the terminal."""
        counts = [f"{self.run} stage{'s' * (self.run != 1)} run", f"{self.cached} cached"]
        counts += [f"{self.elsewhere} run by other processes"] if self.elsewhere else []
        counts += [f"{len(self.failed)} failed"] if self.failed else []
        counts += [f"{len(self.blocked)} blocked"] if self.blocked else []
        yield f"{self.study}: {', '.join(counts)} of {self.stages}, in {duration(self.wall_seconds)}"
        if self.efficiency is not None:
            cores = f", cores of {self.core_flops / 1e9:.0f} GFLOP/s" if self.core_flops else ""
            yield (
                f"efficiency {self.efficiency:.2f}: {duration(self.compute_seconds)} of training and evaluation in "
                f"{self.slots} slots{cores}; {self.tokens_trained:.3g} tokens trained, "
                f"{self.tokens_unshared:.3g} without trunk sharing"
            )
        yield from self.findings
        yield from [self.stopped] if self.stopped else []
        yield from (f"failed: {stage}: {why}" for stage, why in self.failed.items())
        yield from blocked_lines(self.blocked.values())
        if self.unpublished:
            where, first, count = masked(self.tracking_uri), self.unpublished[0], len(self.unpublished)
            yield f"not published to {where}: {count} item{'s' * (count != 1)}, first {first}"
            yield "run the same command again: it publishes what is missing, and computes nothing again"
        if (self.interrupted and not self.stopped) or self.failed:
            yield "completed stages are kept: run the same command again to resume"


def blocked_lines(reasons: Iterable[str]) -> Iterator[str]:
    """Why stages can never run, a line for each reason."""
    for why, count in Counter(reasons).items():
        yield f"blocked: {count} stage{'s' * (count > 1)}: {why}"


def tokens(plan: Plan, study: Study) -> tuple[int, int]:
    """Tokens trained by the stages that have an outcome, and what would have been trained without trunk sharing."""
    trained = {key: int(outcome.summary.get("tokens") or 0) for key, outcome in plan.outcomes.items()}
    unshared = 0
    for trial in study.trials:
        chain: dict[str, Stage] = {}
        stack = list(trial.stages.values())
        while stack:
            stage = stack.pop()
            if stage.key not in chain:
                chain[stage.key] = stage
                stack.extend(stage.parents)
        unshared += sum(trained.get(key, 0) for key in chain)
    return sum(trained.values()), unshared


def compute_seconds(plan: Plan, keys: set[str]) -> float:
    """Seconds of training and evaluation that this sweep spent on these stages."""
    return sum(plan.outcomes[key].summary["seconds_computing"] for key in keys)


def seconds_since_start() -> float:
    """Age of this process, or of this module's import if the system does not report it."""
    import os

    try:
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        return float(Path("/proc/uptime").read_text().split()[0]) - started
    except (OSError, ValueError):
        return time.time() - _IMPORTED


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds_in(text: str, flag: str) -> float:
    """Of a time such as 90 (seconds), 30m or 2h. Raises UserError, which names the flag, for anything else."""
    parts = re.fullmatch(r"(\d+\.?\d*|\.\d+)([smhd]?)", text)
    if parts is None or float(parts[1]) == 0:
        raise UserError(f"{flag} {text}: expected a time such as 90 (seconds), 30m or 2h")
    return float(parts[1]) * _UNITS[parts[2]]


def duration(seconds: float) -> str:
    """Such as "42 s", "3 min 20 s" or "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
