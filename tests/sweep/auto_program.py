"""A driver whose engine is left open: python -m tests.sweep.auto_program RESULTS TEXT [dry].

One device is planted to be too small for the stages and two to be enough, as GPUs would be that the sweep then finds
on this machine's cores.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

from halflife.stages.train import Train
from halflife.sweep import resources
from halflife.sweep.launch import run
from halflife.sweep.placement import DeviceBudget, ExecutionChoices, fitting
from halflife.sweep.site import ExecutionSite
from halflife.sweep.study import Study, Trial
from tests.sweep.helpers import CONTROLS, declaration
from tests.sweep.train_program import stages


def too_small_alone(of: list[Train]) -> DeviceBudget:
    """Two devices of a size that one of them does not do."""
    room = DeviceBudget(device="cuda", devices=2, slots=2, memory_bytes=resources.GPU_OVERHEAD_BYTES)
    alone = min(fitting(stage, ExecutionChoices(engine="torch"), room).memory.total for stage in of)
    shared = max(fitting(stage, ExecutionChoices(engine="deepspeed", workers=2), room).memory.total for stage in of)
    assert shared < alone
    usable = (alone + shared) / 2
    return replace(room, memory_bytes=usable * resources.GPU_HEADROOM + resources.GPU_OVERHEAD_BYTES)


def main() -> None:
    results, text = Path(sys.argv[1]), Path(sys.argv[2])
    given = stages(results, text)
    trunk = replace(given["trunk"], tokens=20 * 1024)
    branch = replace(given["branch"], start=replace(given["branch"].start, stage=trunk), tokens=10 * 1024)  # pyright: ignore[reportArgumentType, reportCallIssue]
    trial = Trial(name="one", parameters={"branch": 0}, stages={"trunk": trunk, "branch": branch})
    controls = tuple(replace(control, role="", task="other") for control in CONTROLS)
    study = Study(declaration=declaration(controls=controls), trials=(trial,))
    with mock.patch.object(ExecutionSite, "room", too_small_alone([trunk, branch])):
        result = run(study, ExecutionSite(results=results, device="cpu", dry_run="dry" in sys.argv))
    print("REPORT " + json.dumps(asdict(result), default=str))
    sys.exit(result.exit_code)


if __name__ == "__main__":
    main()
