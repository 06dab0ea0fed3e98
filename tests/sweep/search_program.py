"""A driver of a search for tests that need a process of their own: python -m tests.sweep.search_program RESULTS."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from halflife.sweep.launch import run
from halflife.sweep.site import ExecutionSite
from tests.sweep.searches import Setting, plane, search


@dataclass(frozen=True, kw_only=True)
class Settings:
    results: tyro.conf.Positional[Path]
    trials: int = 6
    at_once: int | None = None
    timeout: str | None = None
    seeds: int = 1
    fresh_seeds: int = 1
    deed: str = ""
    tracking_uri: str | None = None


def main() -> None:
    settings = tyro.cli(Settings)

    def suggest(trial: Any) -> Setting:
        found = plane(trial)
        return Setting(found.x, found.y, deed=settings.deed)

    made = search(
        suggest=suggest,
        seeds=tuple(range(settings.seeds)),
        fresh_seeds=tuple(range(settings.seeds, settings.seeds + settings.fresh_seeds)),
        budget={"trials": settings.trials, "at_once": settings.at_once, "timeout": settings.timeout, "finalists": 2},
    )
    site = ExecutionSite(results=settings.results, device="cpu", max_concurrent=2, tracking_uri=settings.tracking_uri)
    result = run(made, site)
    imported = [name for name in ("ray", "torch") if name in sys.modules]
    print("REPORT " + json.dumps({**asdict(result), "imported": imported}, default=str))
    sys.exit(result.exit_code)


if __name__ == "__main__":
    main()
