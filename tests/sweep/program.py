"""A driver for tests that need a process of their own: python -m tests.sweep.program RESULTS [flags]."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tyro

from halflife.sweep.launch import run
from halflife.sweep.site import ExecutionSite
from tests.sweep.helpers import study


@dataclass(frozen=True, kw_only=True)
class Settings:
    results: tyro.conf.Positional[Path]
    trunks: int = 2
    branches: int = 2
    seconds: float = 0.05
    points: int = 5
    deeds: dict[str, str] = field(default_factory=dict)
    tracking_uri: str | None = None


def main() -> None:
    settings = tyro.cli(Settings)
    made = study(
        settings.trunks, settings.branches, deeds=settings.deeds, seconds=settings.seconds, points=settings.points
    )
    site = ExecutionSite(results=settings.results, device="cpu", max_concurrent=2, tracking_uri=settings.tracking_uri)
    result = run(made, site)
    imported = [name for name in ("ray", "torch") if name in sys.modules]
    print("REPORT " + json.dumps({**asdict(result), "imported": imported}, default=str))
    sys.exit(result.exit_code)


if __name__ == "__main__":
    main()
