"""A driver with --engine auto: python -m tests.sweep.auto_program RESULTS TEXT [dry].

Stages are placed as on two GPUs of which one is too small for them, and then run on this machine's cores.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

from halflife.stages.train import Train
from halflife.store.stage import Stage
from halflife.sweep import placement
from halflife.sweep.launch import run
from halflife.sweep.placement import DeviceBudget, ExecutionChoices, Placement, place
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study, Trial
from tests.sweep.helpers import CONTROLS, declaration
from tests.sweep.train_program import stages


def too_small_alone(of: list[Train]) -> DeviceBudget:
    """Two GPUs that together have enough memory for each stage, and alone do not."""
    budget = DeviceBudget(device="cuda", devices=2, max_concurrent=2, memory_bytes=placement.GPU_OVERHEAD_BYTES)
    alone = min(place(stage, ExecutionChoices(engine="torch"), budget).memory.total for stage in of)
    sharded = max(place(stage, ExecutionChoices(engine="deepspeed", workers=2), budget).memory.total for stage in of)
    assert sharded < alone
    usable = (alone + sharded) / 2
    return replace(budget, memory_bytes=usable * placement.GPU_HEADROOM + placement.GPU_OVERHEAD_BYTES)


def main() -> None:
    results, text = Path(sys.argv[1]), Path(sys.argv[2])
    given = stages(results, text)
    trunk = replace(given["trunk"], tokens=20 * 1024)
    branch = replace(given["branch"], start=replace(given["branch"].start, stage=trunk), tokens=10 * 1024)  # pyright: ignore[reportArgumentType, reportCallIssue]
    trial = Trial(name="one", parameters={"branch": 0}, stages={"trunk": trunk, "branch": branch})
    controls = tuple(replace(control, role="", task="other") for control in CONTROLS)
    study = Study(declaration=declaration(controls=controls), trials=(trial,))
    gpus = too_small_alone([trunk, branch])

    def place_on_gpus(stage: Stage, choices: ExecutionChoices, budget: DeviceBudget) -> Placement:
        found = place(stage, choices, gpus)
        return replace(found, request=placement._request(found.execution, found.memory, budget))

    with mock.patch.object(placement, "place", place_on_gpus):
        result = run(study, ExecutionSite(results=results, device="cpu", dry_run="dry" in sys.argv))
    print("REPORT " + json.dumps(asdict(result), default=str))
    sys.exit(result.exit_code)


if __name__ == "__main__":
    main()
